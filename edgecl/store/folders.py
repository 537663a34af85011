"""Files and folders of exports: texts replaced in one step, what was learned overwritten."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from edgecl.runtime.bundle import holds_learned
from edgecl.runtime.files import flush, open_own, overwrite, write_whole
from edgecl.runtime.manifest import MANIFEST_NAME


def replace_text(path: Path, text: str) -> None:
    """Put a text in a file's place in one step, and zeros over the old one."""
    with path.open("r+b") as old:
        write_whole(path, text.encode(), mode=stat.S_IMODE(os.fstat(old.fileno()).st_mode))
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


def hash_at(path: Path) -> str:
    """Return the SHA-256 of a file, '' if it is none that can be read."""
    found = hashlib.sha256()
    try:
        with open(open_own(path, os.O_RDONLY), "rb") as file:
            while data := file.read(2**20):
                found.update(data)
    except OSError:
        return ""
    return found.hexdigest()
