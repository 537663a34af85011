"""Labelled pictures in a zip: a project file of Teachable Machine, or a folder a class.

What is no class is left out or refused as in a folder (layouts.py): of splits only `train/` is
taken. A name without the mark of UTF-8 is in the code page of who packed it, which nothing tells:
it is read as UTF-8 where that fits, or else `encoding` has to name it.

A `.tm` file is a zip with `manifest.json` and `CLASS-!-N.jpg` entries. That it is a zip was said by
its makers (googlecreativelab/teachablemachine-community, issue 38); how the entries are named is
known from programs that write such files, and no file from the site itself was at hand.

Entries are read one by one, in memory, never unpacked to the disk, and only after their announced
sizes were checked; zlib gives no more than what was announced.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from edgecl.errors import SourceError
from edgecl.types import Frame, Skipped

from ..faults import in_words
from ..formats import HEAD_BYTES, is_readable, kind_of
from .base import Item, ListSource
from .layouts import (
    SPLIT,
    SYSTEM,
    is_to_train,
    kind_of_folder,
    kind_of_other,
    kinds_of,
    may_be_picture,
    no_classes,
    sides_of,
)  # fmt: skip

# What stands in the directory of a zip (65,535 entries with long names), and all of its content.
_MAX_DIRECTORY_BYTES = 32_000_000
_MAX_UNPACKED_BYTES = 8_000_000_000
_MAX_MANIFEST_BYTES = 1_000_000
_END_OF_ZIP, _END_OF_ZIP64 = b"PK\x05\x06", b"PK\x06\x07"
_END_BYTES = 22
_MARK, _MANIFEST = "-!-", "manifest.json"
_IS_UTF8, _UNICODE_PATH = 0x800, 0x7075
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class PackedSource(ListSource):
    """Pictures of a zip, which is open while frames are taken."""

    def __init__(self, path: Path, items: list[Item], classes: Counter[str]) -> None:
        self.classes = classes
        """Pictures of each class."""
        self._path = path
        self._archive: zipfile.ZipFile | None = None
        super().__init__(str(path), items, labels=classes)

    def frames(self, start: int = 0) -> Iterator[Frame | Skipped]:
        """Yield the frames from position `start` on; the zip is open meanwhile."""
        with open_zip(self._path) as self._archive:
            yield from super().frames(start)

    def read(self, id: str, member: zipfile.ZipInfo, label: str, max_bytes: int) -> Frame | Skipped:
        """Read an entry; only while frames are taken."""
        assert self._archive is not None
        data = content_of(self._archive, member, max_bytes)
        if isinstance(data, str):
            return Skipped(id, data)
        return Frame(id=id, encoded=data, label=label, source=str(self._path))


class ZipSource(PackedSource):
    """The labelled pictures of a zip.

    Args:
        path: The zip.
        max_bytes: Larger pictures are skipped unread.
        encoding: Code page of names that are not marked as UTF-8; None tries UTF-8.

    Raises:
        SourceError: No zip, one that is too large, a project of sounds, no picture with a class,
            folders that are no classes, or names in an unknown code page.
    """

    def __init__(
        self, path: Path, *, max_bytes: int = 64_000_000, encoding: str | None = None
    ) -> None:
        self.others: Counter[str] = Counter()
        """Entries that are no picture of a class, by kind."""
        labelled: list[tuple[str, zipfile.ZipInfo, str]] = []
        with open_zip(path) as archive:
            _check_kind(path, archive)
            is_project = _MANIFEST in archive.namelist()
            entries = pictures_of(path, archive, encoding, self.others)
            marked = {parts: _marked(parts, is_project) for parts in entries}
            foldered = {p: p[:-1] for p in entries if not marked[p]}
            plain, left = _classes(str(path), foldered)
            for parts, members in entries.items():
                label = marked[parts] or plain.get(parts, "")
                kind = left.get(parts, "no class's folder")
                if not label:
                    self.others[kind] += len(members)
                labelled += [("/".join(parts), member, label) for member in members if label]
        if not labelled and self.others.keys() & {".json", ".csv"}:
            raise SourceError(
                f"{path} holds pictures and a list that is not COCO's, which is read from a folder "
                "only: unpack it, and `edgecl import FOLDER` finds Roboflow's _classes.csv"
            )
        if not labelled:
            raise SourceError(
                f"{path} holds no picture with a class; expected CLASS{_MARK}N.jpg or a folder a "
                "class; samples of one class do not name it: unpack those, and use "
                "`edgecl train-stream FOLDER --label NAME`"
            )
        items: list[Item] = [
            (id, partial(self.read, id, member, label, max_bytes)) for id, member, label in labelled
        ]
        super().__init__(path, items, Counter(label for _, _, label in labelled))


def pictures_of(
    path: Path, archive: zipfile.ZipFile, encoding: str | None, others: Counter[str]
) -> dict[tuple[str, ...], list[zipfile.ZipInfo]]:
    """Return a zip's pictures by the parts of their names; the other entries are counted."""
    found: dict[tuple[str, ...], list[zipfile.ZipInfo]] = {}
    for member in archive.infolist():
        name = name_of(path, member, encoding)
        if name.endswith("/") or name == _MANIFEST:
            continue
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts or parts[0].endswith(":"):
            others["names that lead elsewhere"] += 1
            continue
        system = next((p for p in parts[:-1] if kind_of_folder(p) == SYSTEM), None)
        by_name = may_be_picture(parts[-1])
        if system is not None:
            others[f"{system}/"] += 1
        elif is_readable(_kind(archive, member)) if by_name is None else by_name:
            found.setdefault(parts, []).append(member)
        else:
            others[kind_of_other(parts[-1])] += 1
    return found


def name_of(path: Path, member: zipfile.ZipInfo, encoding: str | None) -> str:
    """Return an entry's name with slashes, as who packed it wrote it.

    Raises:
        SourceError: It is in a code page that is not known.
    """
    name, own = member.orig_filename.split("\0")[0], _unicode_name(member.extra)
    if own:
        name = own
    elif not member.flag_bits & _IS_UTF8 and not name.isascii():
        raw = name.encode("cp437")  # as what `zipfile` reads it
        try:
            name = raw.decode(encoding or "utf-8")
        except (UnicodeDecodeError, LookupError) as error:
            known = f"{encoding} is not" if encoding else "nothing in it says which is"
            raise SourceError(
                f"{path} has names in a code page, such as {name!r}, and {known} the right one; "
                "name it with --encoding, as cp1252 (Windows in the west), cp437 (DOS), cp1251 "
                "(Cyrillic), cp932 (Japanese), gbk or big5 (Chinese), cp949 (Korean)"
            ) from error
    return name.replace("\\", "/")


def _unicode_name(extra: bytes) -> str:
    """Return the name in UTF-8 that WinZip and Info-ZIP add to one in a code page, or nothing."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        if kind == _UNICODE_PATH and extra[4:5] == b"\1":  # its version; then a check and the name
            return extra[9 : 4 + size].decode("utf-8", "ignore")
        extra = extra[4 + size :]
    return ""


def _marked(parts: tuple[str, ...], is_project: bool) -> str:
    """Return the class of `CLASS-!-N.jpg`; in a project it may hold slashes."""
    label, mark, _ = parts[-1].partition(_MARK)
    if not mark:
        return ""
    return "/".join((*parts[:-1], label)) if is_project else label


def _classes(
    where: str, folders: Mapping[tuple[str, ...], tuple[str, ...]]
) -> tuple[dict[tuple[str, ...], str], dict[tuple[str, ...], str]]:
    """Return the class of each picture that lies in a class's folder, and why others have none.

    Raises:
        SourceError: The folders are no classes.
    """
    taken = _without_folder_around({parts: parts for parts, above in folders.items() if above})
    left: dict[tuple[str, ...], str] = {}
    kinds = kinds_of({p[0] for p in taken.values()})
    if len(kinds) > 1 and set(kinds.values()) == {SPLIT}:
        first = min(kinds, key=lambda name: (not is_to_train(name), name))
        inside = {part for p in taken.values() if p[0] == first for part in p[1:-1]}
        if not all(map(kind_of_folder, inside)):
            left = {parts: f"{p[0]}/" for parts, p in taken.items() if p[0] != first}
            taken = {parts: p[1:] for parts, p in taken.items() if p[0] == first}
            taken = _without_folder_around(taken)
    if why := no_classes(where, list(taken.values())):
        raise SourceError(why.partition(". If these")[0] + "; unpack it and name the folder")
    classes = {}
    sides = sides_of(taken.values())
    for parts, p in taken.items():
        if p in sides:
            left[parts] = sides[p]
            continue
        inner = [name for name in p[:-1] if not kind_of_folder(name)]
        if len(p) > 1:
            classes[parts] = inner[-1] if inner else p[0]
    return classes, left


def _without_folder_around(
    taken: dict[tuple[str, ...], tuple[str, ...]],
) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return paths without a folder that was packed as a whole."""
    while len({p[0] for p in taken.values()}) == 1 and all(len(p) > 2 for p in taken.values()):
        taken = {parts: p[1:] for parts, p in taken.items()}
    return taken


def _kind(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    """Return the kind of picture that an entry holds; empty if it is none or cannot be read."""
    if member.flag_bits & 0x1 or member.compress_type not in _PACKED:
        return ""
    try:
        with archive.open(member) as file:
            return kind_of(file.read(HEAD_BYTES))
    except (OSError, EOFError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return ""


def _check_kind(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse a project of sounds or poses."""
    if _MANIFEST not in archive.namelist():
        return
    data = content_of(archive, archive.getinfo(_MANIFEST), _MAX_MANIFEST_BYTES)
    try:
        kind = json.loads(data).get("type", "image")
    except (ValueError, AttributeError, RecursionError):
        return
    if kind != "image":
        raise SourceError(f"{path} is a Teachable Machine project of type {kind!r}; expected image")


def open_zip(path: Path) -> zipfile.ZipFile:
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
    except OSError as error:
        raise SourceError(f"{path} cannot be read {in_words(error)}") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise SourceError(f"{path} cannot be read as a zip ({error})") from error
    total = sum(member.file_size for member in archive.infolist())
    if total > _MAX_UNPACKED_BYTES:
        archive.close()
        raise SourceError(
            f"{path} holds {total / 1e9:.1f} GB unpacked; more than the limit of "
            f"{_MAX_UNPACKED_BYTES / 1e9:g} GB"
        )
    return archive


def content_of(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes | str:
    """Return the content of an entry, or why it is not read."""
    if member.flag_bits & 0x1:
        return "it is encrypted"
    if member.compress_type not in _PACKED:
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
