"""COCO's list and its pictures in one zip, as CVAT, Roboflow and Label Studio give them out.

The list is found, chosen and read as in a folder (listed.py), and the pictures are looked for in
the same places; both stay packed (zips.py).
"""

from __future__ import annotations

import posixpath
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from edgecl.errors import SourceError

from .base import Item
from .layouts import SPLIT, kind_of_folder, some
from .listed import LISTS_IN, MAX_LIST_BYTES, below_of, choose_list, coco_items, coco_values
from .zips import PackedSource, content_of, name_of, open_zip, pictures_of

# More than these lie beside the pictures, one for each, and none is COCO's.
_MOST_LISTS = 100


class CocoZip(PackedSource):
    """The pictures of a zip that a COCO list in it names.

    Args:
        path: The zip.
        max_bytes: Larger pictures are skipped unread.
        encoding: Code page of names that are not marked as UTF-8; None tries UTF-8.

    Raises:
        SourceError: No zip, no COCO list, or several of which none is that to learn from.
    """

    def __init__(
        self, path: Path, *, max_bytes: int = 64_000_000, encoding: str | None = None
    ) -> None:
        others: Counter[str] = Counter()
        with open_zip(path) as archive:
            lists = _lists(path, archive, encoding)
            entries = pictures_of(path, archive, encoding, others)
        train = [name for name in lists if _split(name).startswith("train")]
        chosen = choose_list(train) or choose_list(list(lists))
        if chosen is None:
            names = some([str(name) for name in lists]) or "none"
            raise SourceError(
                f"{path} has {len(lists)} COCO lists ({names}); unpack it and name the one to read"
            )
        by_name = {"/".join(parts): members[-1] for parts, members in entries.items()}
        places = _Places(chosen, list(by_name))

        def item(id: str, place: PurePosixPath, label: str) -> Item:
            return id, partial(self.read, id, by_name[str(place)], label, max_bytes)

        found, missing = coco_items(f"{chosen} in {path}", lists[chosen], places.find, item)
        super().__init__(path, found.items, found.classes)
        self.notes = [f"left out: {name}, another list" for name in lists if name != chosen]
        self.notes += found.notes
        if missing:
            what = f"{len(missing)} of {len(found.items)} pictures"
            self.notes.append(f"not found in it: {what} ({some(missing)})")
        if rest := len(by_name) - len(places.used):
            self.notes.append(f"left out: {rest} pictures that the list does not name")
        others[".json"] -= len(lists)
        self.passed_over = +others


class _Places:
    """Where the pictures of a list lie in the zip; see `listed._Places`."""

    def __init__(self, chosen: PurePosixPath, names: list[str]) -> None:
        folder = chosen.parent
        above = folder.parent if folder.name.lower() in LISTS_IN else folder
        self._bases = [
            b / below for b in dict.fromkeys((folder, above)) for below in below_of(chosen)
        ]
        self._names = frozenset(names)
        self._alone: dict[str, list[str]] = {}
        self.used: set[str] = set()
        for name in names:
            self._alone.setdefault(name.rpartition("/")[2], []).append(name)

    def find(self, name: str) -> PurePosixPath | str:
        """Return where a picture lies, or why it is not read."""
        plain = name.replace("\\", "/")
        tried = (posixpath.normpath(base / plain) for base in self._bases)
        alone = self._alone.get(plain.rpartition("/")[2], [])
        place = next(filter(self._names.__contains__, tried), alone[0] if len(alone) == 1 else "")
        if place:
            self.used.add(place)
            return PurePosixPath(place)
        return f"{len(alone)} pictures are called so" if alone else "it is not in the zip"


def coco_lists_in(path: Path) -> list[str]:
    """Return the names of the COCO lists in a zip."""
    with open_zip(path) as archive:
        return [str(name) for name in _lists(path, archive, None, is_sure=False)]


def _lists(
    path: Path, archive: zipfile.ZipFile, encoding: str | None, *, is_sure: bool = True
) -> dict[PurePosixPath, dict[str, list[Any]]]:
    """Return the COCO lists in a zip by name, in the order of their names."""
    members = [m for m in archive.infolist() if m.filename.lower().endswith(".json")]
    found: dict[PurePosixPath, dict[str, list[Any]]] = {}
    if len(members) > _MOST_LISTS:
        return found
    for member in members:
        data = content_of(archive, member, MAX_LIST_BYTES)
        try:
            text = data.decode("utf-8-sig") if isinstance(data, bytes) else ""
        except UnicodeDecodeError:
            continue  # no text, and so no list
        name = PurePosixPath(name_of(path, member, encoding) if is_sure else member.filename)
        if (values := coco_values(text, f"{name} in {path}")) is not None:
            found[name] = values
    return dict(sorted(found.items()))


def _split(name: PurePosixPath) -> str:
    """Return the split in which a list lies, in small letters."""
    return next((p.lower() for p in name.parts[:-1] if kind_of_folder(p) == SPLIT), "")
