"""A folder as the carrier: a USB stick, NFS, rsync, a mounted bucket; no server is needed.

    fleet.json                                the fleet's public description, signed
    orders/000001-DIGEST.json                 the admin's orders
    contributions/DEVICE/gN-DIGEST.efc        what each device learned (0031)
    requests/DEVICE/rTIME-DIGEST.json         what it asks all to forget (requests.py)
    merged/vN-DIGEST.json, vN-DIGEST.efb      what all know, signed, and its head

DIGEST is the first 16 hex digits of the SHA-256 of the file's bytes. Every file is written beside
its place and renamed, so who reads finds it whole or not at all; one that a copy cut off has not
its digest and is left. Links are not followed: a stick must not have other files read or wiped.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from edgecl.errors import EdgeclError, IntegrityError, RequestError
from edgecl.runtime.faults import telling
from edgecl.runtime.files import flush, open_own, read_own, replacing, wipe, write_whole

FLEET, ORDERS, CONTRIBUTIONS, MERGED = "fleet.json", "orders", "contributions", "merged"
_NAME = re.compile(r"([a-z]?\d+)-([0-9a-f]{16})\.(json|efc|efb)")
_MOST_FILES = 100_000
MOST_BYTES = 16 * 2**20
MOST_HEAD_BYTES = 2**31


class Folder:
    """A carrier, or the part of a home or plant that has the form of one.

    Args:
        path: The folder.
        is_made: Whether it is made if it is not there; a stick that is not in must not be.
    """

    def __init__(self, path: Path, *, is_made: bool = False) -> None:
        self.path = path
        if is_made:
            with telling(f"{path} cannot be made"):
                path.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            raise RequestError(f"there is no folder {path}; put the carrier in, or make the folder")

    def fleet(self) -> bytes | None:
        """Return the content of fleet.json; None if there is none."""
        path = self.path / FLEET
        with telling(f"{path} cannot be read"):
            return read_own(path, MOST_BYTES) if os.path.lexists(path) else None

    def put_fleet(self, data: bytes) -> None:
        """Write fleet.json, unless it is there."""
        if self.fleet() != data:
            write_whole(self.path / FLEET, data)

    def files(self, *folders: str, suffix: str) -> Iterator[Path]:
        """Go through the files of a folder whose names are of this kind, in their order."""
        folder = self.path.joinpath(*folders)
        if not self._is_folder(folder):
            return
        with telling(f"{folder} cannot be read"):
            entries = sorted(folder.iterdir())
        if len(entries) > _MOST_FILES:
            raise RequestError(f"{folder} has {len(entries)} files, at most {_MOST_FILES} are read")
        for path in entries:
            found = _NAME.fullmatch(path.name)
            if found is not None and found[3] == suffix and not path.is_symlink():
                yield path

    def devices(self, of: str = CONTRIBUTIONS) -> list[str]:
        """Return the names of the folders of contributions, or of what else each device has one."""
        folder = self.path / of
        if not self._is_folder(folder):
            return []
        return sorted(path.name for path in folder.iterdir() if self._is_folder(path))

    def read(self, path: Path, most: int = MOST_BYTES) -> bytes:
        """Return the content of a small file of this folder.

        Raises:
            IntegrityError: It is not what its name says: cut off or changed.
        """
        with telling(f"{path} cannot be read"):
            data = read_own(path, most)
        _check(path, hashlib.sha256(data).hexdigest())
        return data

    def check(self, path: Path) -> None:
        """Check a file of any size against its name; see `read`."""
        with telling(f"{path} cannot be read"):
            _check(path, file_digest(path))

    def put(self, stem: str, content: bytes | Path, *folders: str, suffix: str) -> Path:
        """Write a file under its digest, unless it is there.

        Args:
            stem: What stands before the digest, as `g12`.
            content: Its bytes, or a file to copy.
            folders: Where; made if they are not there.
            suffix: What stands behind it, without the dot.
        """
        if isinstance(content, Path):
            digest = file_digest(content)
        else:
            digest = hashlib.sha256(content).hexdigest()
        path = self.place(stem, digest, *folders, suffix=suffix)
        with telling(f"{path} cannot be written"):
            if path.is_file() and not path.is_symlink() and file_digest(path) == digest:
                return path
            if isinstance(content, bytes):
                write_whole(path, content)
            else:
                _copy(content, path)
        return path

    def place(self, stem: str, digest: str, *folders: str, suffix: str) -> Path:
        """Return where a file of this digest belongs; its folder is made."""
        folder = self.path.joinpath(*folders)
        with telling(f"{folder} cannot be made"):
            folder.mkdir(parents=True, exist_ok=True)
        if not self._is_folder(folder):
            raise RequestError(f"{folder} is a link; edgecl writes into none")
        return folder / f"{stem}-{digest[:16]}.{suffix}"

    def wipe(self, path: Path) -> bool:
        """Overwrite a file of this folder and delete it; False where it cannot be written."""
        try:
            wipe(path)
            flush(path.parent)
        except FileNotFoundError:
            return True
        except (OSError, EdgeclError):
            return False
        return True

    def _is_folder(self, path: Path) -> bool:
        """Whether this is a folder and neither it nor one above it, in here, is a link."""
        inside = path.relative_to(self.path).parts
        steps = [self.path.joinpath(*inside[: i + 1]) for i in range(len(inside))]
        return path.is_dir() and not any(step.is_symlink() for step in steps)


def number_of(path: Path) -> int:
    """Return the number that a file's name begins with."""
    found = _NAME.fullmatch(path.name)
    assert found is not None  # as `Folder.files` gives them
    return int(found[1].lstrip("abcdefghijklmnopqrstuvwxyz"))


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, which is not a link, in hex."""
    found = hashlib.sha256()
    with open(open_own(path, os.O_RDONLY), "rb") as file:
        while chunk := file.read(2**20):
            found.update(chunk)
    return found.hexdigest()


def _check(path: Path, digest: str) -> None:
    found = _NAME.fullmatch(path.name)
    if found is None or found[2] != digest[:16]:
        raise IntegrityError(
            f"{path} is not what its name says: it was cut off or changed; copy it again, it is "
            "left where it is"
        )


def _copy(source: Path, path: Path) -> None:
    with open(open_own(source, os.O_RDONLY), "rb") as file, replacing(path) as target:
        shutil.copyfileobj(file, target, 2**20)
