"""A password from a file, so that it stands in no settings, list of processes or history."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

from edgecl.errors import SourceError, UsageError

from .faults import in_words
from .files import read_own
from .redact import redacted

_MOST_BYTES = 4096


def with_password(url: str, path: Path) -> str:
    """Return an address with the password of a file: its first line, without the line's end.

    Args:
        url: The address, with a user and no password: `rtsp://USER@HOST/PATH`.
        path: The file; a link is not followed.

    Raises:
        UsageError: The address has no user, or a password already.
        SourceError: The file cannot be read, or holds none.
        IntegrityError: It is a link or no plain file, or too long.
    """
    found = re.fullmatch(r"([a-zA-Z]+://)([^/?#:@]+)@(.*)", url, re.DOTALL)
    if found is None:
        raise UsageError(
            f"a password file is for an address with a user and no password, USER@HOST; "
            f"{redacted(url)} is none"
        )
    try:
        text = read_own(path, _MOST_BYTES).decode()
    except OSError as error:
        raise SourceError(f"password file {path} cannot be read {in_words(error)}") from error
    except UnicodeDecodeError as error:
        raise SourceError(f"password file {path} is no text") from error
    password = text.partition("\n")[0].rstrip("\r")
    if not password:
        raise SourceError(f"password file {path} has no password in its first line")
    return f"{found[1]}{found[2]}:{quote(password, safe='')}@{found[3]}"


def is_readable_by_all(path: Path) -> bool:
    """Whether every user of the machine can read a file."""
    return bool(path.stat().st_mode & 0o004)
