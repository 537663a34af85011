"""Errors of the system about files, in words: what is wrong, and what to do about it.

Whatever is in the way, nobody is told to make a home or a bundle anew for a right, a full disk or a
disk that fails: that would throw away what was learned.
"""

from __future__ import annotations

import errno
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager

from edgecl.errors import EdgeclError, RequestError

_RIGHTS = frozenset({errno.EACCES, errno.EPERM})
_ADVICE = {
    errno.ENOSPC: "free some disk space there, then start the command again",
    errno.EDQUOT: "your share of that disk is used up: delete something there, or name another",
    errno.EROFS: "that disk is mounted read-only; mount it writable, or name another place",
    errno.EISDIR: "it is a folder, and a file is meant; name a file",
    errno.ENOTDIR: "a part of that path is a file, and a folder is meant; name another path",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.ELOOP: "its links lead in a circle; name the place itself",
    errno.EIO: "the disk fails: look into the system's log (dmesg), and copy what is on it "
    "to another one",
    errno.EMFILE: "let this process open more (`ulimit -n 4096`; LimitNOFILE= in a unit)",
    errno.ENFILE: "the machine has too many files open; end other programs",
    errno.ENOENT: "look at how it is written; its folder must be there",
    errno.EEXIST: "what is there is no folder; name another place",
    errno.ENOTEMPTY: "something is there already; name another place",
    errno.EBUSY: "another program or mount uses it; end that, or name another place",
    errno.ETXTBSY: "another program runs it; end that first",
    errno.EFBIG: "free some disk space, or let this process write larger files (`ulimit -f`)",
    errno.ENOMEM: "the machine's memory is used up; end other programs",
    errno.EXDEV: "a part of it is on another disk; name a place on one disk",
    errno.ESTALE: "the network disk lost it; mount that anew",
    errno.ENOTCONN: "the network disk lost it; mount that anew",
    errno.EHOSTDOWN: "the network disk does not answer; see to it, then start the command again",
    errno.ETIMEDOUT: "the network disk does not answer; see to it, then start the command again",
    errno.EINVAL: "that disk does not take such a name or file; name another place",
    errno.EILSEQ: "that disk does not take such a name; name another place",
    errno.ENXIO: "no device is behind it; name a plain file or folder",
    errno.ENODEV: "no device is behind it; name a plain file or folder",
    errno.EMLINK: "that disk takes no more entries in the folder; name another",
}


def in_words(error: OSError) -> str:
    """Return what the system says in brackets, and what to do: `(Is a directory); name a file`."""
    what = f"({error.strerror or error})"
    if error.errno in _RIGHTS:
        return f"{what}; {_whose(error)}"
    advice = _ADVICE.get(error.errno or 0)
    return f"{what}; {advice}" if advice else f"{what}; see to the disk, then start it again"


def is_known(error: OSError) -> bool:
    """Whether it is an error of files that there is advice for."""
    return error.errno in _RIGHTS or error.errno in _ADVICE


def is_lost(error: OSError) -> bool:
    """Whether a file is not there, or not as one: a copy of it would mend that."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


def is_of_machine(error: OSError) -> bool:
    """Whether every other file would fail too, so that this one is not to be passed over."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@contextmanager
def telling(what: str, kind: type[EdgeclError] = RequestError) -> Iterator[None]:
    """Turn the system's errors inside into one line.

    Args:
        what: Which file cannot be what: `the report a.html cannot be written`.
        kind: Error to raise.
    """
    try:
        yield
    except EdgeclError:  # some are errors of the system by their base
        raise
    except OSError as error:
        raise kind(f"{what} {in_words(error)}") from error


def _whose(error: OSError) -> str:
    """Return whose a path is that this process has no right to, and what gives it."""
    path = error.filename2 or error.filename
    if not isinstance(path, str | bytes | os.PathLike):
        return "give this user the right to it (chmod, chown)"
    place = os.path.abspath(os.fsdecode(path))
    while True:  # the nearest that can be looked at; of the root that is always so
        try:
            owner = os.stat(place).st_uid
            break
        except OSError:
            place = os.path.dirname(place)
    me = os.geteuid()
    if owner == me:
        return f"{place} is yours, and its rights or a rule of the system forbid it; see `ls -ld`"
    return (
        f"{place} belongs to {_name(owner)} and {_name(me)} asks; give that user the right "
        f"(`chown -R {_name(me)}` or chmod), or run the command as {_name(owner)}"
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
