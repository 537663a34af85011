"""Labelled pictures in a zip: a project file of Teachable Machine, or a folder a class.

A `.tm` file is a zip with `manifest.json` and `CLASS-!-N.jpg` entries. That it is a zip was said by
its makers (googlecreativelab/teachablemachine-community, issue 38); how the entries are named is
known from programs that write such files, and no file from the site itself was at hand.

Entries are read one by one, in memory, never unpacked to the disk, and only after their announced
sizes were checked; zlib gives no more than what was announced.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from edgecl.errors import SourceError
from edgecl.types import Frame, Skipped

from .base import PICTURE_SUFFIXES, ListSource

# What stands in the directory of a zip (65,535 entries with long names), and all of its content.
_MAX_DIRECTORY_BYTES = 32_000_000
_MAX_UNPACKED_BYTES = 8_000_000_000
_MAX_MANIFEST_BYTES = 1_000_000
_END_OF_ZIP, _END_OF_ZIP64 = b"PK\x05\x06", b"PK\x06\x07"
_END_BYTES = 22
_MARK, _MANIFEST = "-!-", "manifest.json"


class ZipSource(ListSource):
    """The labelled pictures of a zip.

    Args:
        path: The zip.
        max_bytes: Larger pictures are skipped unread.

    Raises:
        SourceError: No zip, one that is too large, a project of sounds, or no picture with a class.
    """

    def __init__(self, path: Path, *, max_bytes: int = 64_000_000) -> None:
        labelled: dict[str, str] = {}
        self.n_other = 0
        """Entries that are no picture of a class."""
        with _open(path) as archive:
            _check_kind(path, archive)
            for member in archive.infolist():
                if member.is_dir() or member.filename == _MANIFEST:
                    continue
                label = _label(member.filename)
                if label:
                    labelled[member.filename] = label
                else:
                    self.n_other += 1
        if not labelled:
            raise SourceError(
                f"{path} holds no picture with a class; expected CLASS{_MARK}N.jpg or a folder a "
                "class; samples of one class do not name it: unpack those, and use "
                "`edgecl train-stream FOLDER --label NAME`"
            )
        self.classes = Counter(labelled.values())
        self._path = path
        self._max_bytes = max_bytes
        self._archive: zipfile.ZipFile | None = None
        items = [(name, partial(self._read, name, label)) for name, label in labelled.items()]
        super().__init__(str(path), items)

    def frames(self, start: int = 0) -> Iterator[Frame | Skipped]:
        """Yield the frames from position `start` on; the zip is open meanwhile."""
        with _open(self._path) as self._archive:
            yield from super().frames(start)

    def _read(self, name: str, label: str) -> Frame | Skipped:
        assert self._archive is not None  # only `frames` reads
        data = _content(self._archive, self._archive.getinfo(name), self._max_bytes)
        if isinstance(data, str):
            return Skipped(name, data)
        return Frame(id=name, encoded=data, label=label, source=str(self._path))


def _label(name: str) -> str:
    """Return the class of an entry, or nothing."""
    parts = PurePosixPath(name).parts
    if not parts or parts[0] in ("__MACOSX", "/") or ".." in parts or "\\" in name:
        return ""
    file = parts[-1]
    if file.startswith(".") or Path(file).suffix.lower() not in PICTURE_SUFFIXES:
        return ""
    label, mark, _ = file.partition(_MARK)
    if mark:
        return label
    return parts[-2] if len(parts) > 1 else ""


def _check_kind(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse a project of sounds or poses."""
    if _MANIFEST not in archive.namelist():
        return
    data = _content(archive, archive.getinfo(_MANIFEST), _MAX_MANIFEST_BYTES)
    try:
        kind = json.loads(data).get("type", "image")
    except (ValueError, AttributeError, RecursionError):
        return
    if kind != "image":
        raise SourceError(f"{path} is a Teachable Machine project of type {kind!r}; expected image")


def _open(path: Path) -> zipfile.ZipFile:
    """Open a zip after the size of its directory was checked."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _END_BYTES - 0xFFFF))
            tail = file.read()
        end = tail.rfind(_END_OF_ZIP)
        record = tail[end : end + _END_BYTES]
        is_large = int.from_bytes(record[12:16], "little") > _MAX_DIRECTORY_BYTES
        if end < 0 or len(record) < _END_BYTES or is_large or _END_OF_ZIP64 in tail:
            raise SourceError(
                f"{path} is no zip that is read here; expected at most 65,535 entries, no ZIP64"
            )
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise SourceError(f"{path} cannot be read as a zip ({error})") from error
    total = sum(member.file_size for member in archive.infolist())
    if total > _MAX_UNPACKED_BYTES:
        archive.close()
        raise SourceError(
            f"{path} holds {total / 1e9:.1f} GB unpacked; more than the limit of "
            f"{_MAX_UNPACKED_BYTES / 1e9:g} GB"
        )
    return archive


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes | str:
    """Return the content of an entry, or why it is not read."""
    if member.flag_bits & 0x1:
        return "it is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "it is packed in a way that is not read; expected stored or deflated"
    if member.file_size > limit:
        return f"{member.file_size / 1e6:.1f} MB are more than the limit of {limit / 1e6:g} MB"
    try:
        with archive.open(member) as file:
            return file.read(limit)
    except (OSError, EOFError, ValueError, NotImplementedError) as error:
        return f"cannot be read ({error})"
    except (zipfile.BadZipFile, zlib.error) as error:
        return f"cannot be read ({error})"
