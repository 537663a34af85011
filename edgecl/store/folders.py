"""Folders and files that leave the home: put in place in one step, overwritten and deleted."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import BinaryIO

from edgecl.runtime.bundle import holds_learned
from edgecl.runtime.manifest import MANIFEST_NAME, flush

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CHUNK = 1 << 20


def put_in_place(part: Path, place: Path) -> None:
    """Put a folder in its place, in one step; what was there is under the part's name after it."""
    if not place.exists():
        part.replace(place)
    elif not _exchange(part, place):
        # FAT and some network disks cannot: for a moment the old one is aside.
        aside = aside_of(part)
        place.replace(aside)
        part.replace(place)
        aside.replace(part)
    flush(place.parent)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two folders, in one step; False where the system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = (os.fsencode(a), _AT_FDCWD, os.fsencode(b))
    return bool(renameat2(_AT_FDCWD, *names, ctypes.c_uint(_RENAME_EXCHANGE)) == 0)


def aside_of(part: Path) -> Path:
    """Return where a folder is for a moment while `part` takes its place."""
    return part.with_name(part.name + "-old")


def replace_text(path: Path, text: str) -> None:
    """Put a text in a file's place in one step, and zeros over the old one."""
    with path.open("r+b") as old:
        part = path.with_name(f".{path.name}.part")
        part.write_text(text, encoding="utf-8")
        flush(part)
        part.replace(path)
        flush(path.parent)
        overwrite(old)


def erase_folder(folder: Path, *, is_learned: bool = False) -> None:
    """Overwrite and delete the files of a folder, then the folder; nothing if there is none.

    Args:
        folder: What goes.
        is_learned: Whether all files hold what was learned; otherwise their names say so.
    """
    if not folder.is_dir() or folder.is_symlink():
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            erase_folder(path, is_learned=is_learned)
        else:
            erase_file(path, is_learned=is_learned)
    folder.rmdir()
    flush(folder.parent)


def erase_file(path: Path, *, is_learned: bool = False) -> None:
    """Delete a file; what holds something that was learned is overwritten first."""
    # An engine holds nothing that was learned; a link's target is not ours.
    is_learned = is_learned or holds_learned(path.name) or path.name == MANIFEST_NAME
    if is_learned and not path.is_symlink():
        with path.open("r+b") as file:
            overwrite(file)
    path.unlink()


def overwrite(file: BinaryIO) -> None:
    """Write zeros over an open file, down to the disk."""
    left = file.seek(0, os.SEEK_END)
    file.seek(0)
    while left > 0:
        left -= file.write(bytes(min(_CHUNK, left)))
    file.flush()
    os.fsync(file.fileno())
