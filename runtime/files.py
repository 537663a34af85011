"""Files of ours: written whole, opened without following links, erased down to the disk."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from edgecl.errors import IntegrityError, RequestError, StoreError

from .faults import in_words, is_lost, telling

_CHUNK = 2**20
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def open_own(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a file of ours; returns its descriptor.

    Raises:
        IntegrityError: It is a link, or no plain file: what that leads to is not ours.
        OSError: As of `os.open`.
    """
    try:
        found = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _not_ours(path) from error
        raise
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise _not_ours(path)
    return found


def read_own(path: Path, most: int) -> bytes:
    """Read a file of ours.

    Raises:
        IntegrityError: It is a link or no plain file, or has more than `most` bytes.
        OSError: It is not there.
        RequestError: It is there and cannot be read: no right to, or a disk that fails.
    """
    try:
        with open(open_own(path, os.O_RDONLY), "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        if is_lost(error):
            raise
        raise RequestError(f"{path} cannot be read {in_words(error)}") from error
    if len(data) > most:
        raise IntegrityError(f"{path} has more than {most} bytes; it is none that edgecl wrote")
    return data


def loads(text: str | bytes) -> Any:
    """Read JSON of a file of ours.

    Raises:
        ValueError: It is none; nested too deep; or holds NaN or an infinite number.
    """
    try:
        return json.loads(text, parse_constant=_not_json, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deep") from None


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file in one step: it is the old one or the new one, whatever happens.

    Args:
        path: The file.
        data: Its new content.
        mode: Rights of a new file, before the mask of the process.

    Raises:
        StoreError: It cannot be written; it is as it was.
    """
    with telling(f"{path} cannot be written", StoreError), replacing(path, mode) as file:
        file.write(data)


@contextmanager
def replacing(path: Path, mode: int = 0o644, part: Path | None = None) -> Iterator[BinaryIO]:
    """Open what becomes a file's new content in one step once it is written, and never in part.

    Args:
        path: The file.
        mode: Rights of a new file, before the mask of the process.
        part: Where it is written before it is whole; a hidden file beside it if None.

    Raises:
        OSError: It cannot be written; it is as it was.
    """
    part = part or path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)  # of a process that was killed, or a link of somebody else's
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    flush(path.parent)


def private(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file that nobody else may read, whatever the process's mask: an opener of `open`."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk: a pulled plug keeps it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(part: Path, place: Path) -> None:
    """Put a folder in its place, in one step; what was there is under the part's name after it."""
    if not place.exists():
        part.replace(place)
    elif not exchange(part, place):
        # FAT and some network disks cannot: for a moment the old one is aside.
        aside = aside_of(part)
        place.replace(aside)
        part.replace(place)
        aside.replace(part)
    flush(place.parent)


def aside_of(part: Path) -> Path:
    """Return where `put_in_place` keeps the old one for a moment, where it cannot exchange."""
    return part.with_name(part.name + "-old")


def exchange(a: Path, b: Path) -> bool:
    """Exchange two files or folders, in one step; False where the system cannot (FAT, some NFS)."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = (os.fsencode(a), _AT_FDCWD, os.fsencode(b))
    return bool(renameat2(_AT_FDCWD, *names, ctypes.c_uint(_RENAME_EXCHANGE)) == 0)


def overwrite(file: BinaryIO) -> None:
    """Write zeros over an open file, down to the disk."""
    left = file.seek(0, os.SEEK_END)
    file.seek(0)
    while left > 0:
        left -= file.write(bytes(min(_CHUNK, left)))
    file.flush()
    os.fsync(file.fileno())


def wipe(path: Path) -> None:
    """Overwrite a file, or all files of a folder, with zeros and delete it; of a link, the link."""
    if path.is_symlink():  # what it leads to is not ours
        path.unlink()
    elif path.is_dir():
        for entry in path.iterdir():
            wipe(entry)
        path.rmdir()
    elif path.is_file():
        with open(open_own(path, os.O_RDWR), "r+b") as file:
            overwrite(file)
        path.unlink()
    else:
        path.unlink()


def _not_json(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if abs(value) < float("inf") else _not_json(text[:20])


def _not_ours(path: Path) -> IntegrityError:
    return IntegrityError(
        f"{path} is a link or no plain file; edgecl opens none of these in its own folders: put "
        "the file itself there"
    )
