"""Datasets that are a list of files: COCO JSON, Roboflow's table of classes, and edgecl's index.

A list names pictures in its own dataset only: a path that leads out of it, also by a link, is
skipped and named. Labelling tools write paths of another machine (`/home/me/0.jpg`)
or of another folder (`val2017/` beside `annotations/`), so a picture is looked for where such tools
put it, and at last by its name alone, if only one in the dataset has it. Backslashes are slashes.

COCO: Lin et al. 2014, "Microsoft COCO", arXiv:1405.0312, and its data format page: `images` with
`id` and `file_name`, `categories` with `id` and `name`, `annotations` with `image_id` and
`category_id`. Boxes and outlines are not looked at: one category a picture, however often.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any, TypeVar

from edgecl.errors import SourceError
from edgecl.types import Frame, Skipped

from ..faults import in_words
from .base import Item, local, read_frame
from .layouts import some
from .look import look
from .table import cells_of

EDGECL_INDEX, ONE_HOT = "edgecl.jsonl", "_classes.csv"
# A list of 1,000,000 pictures; COCO's own files with outlines of objects are larger, and not meant.
MAX_LIST_BYTES = 100_000_000
_MOST_OBJECTS, _MOST_VALUES = 2_000_000, 10_000_000
LISTS_IN = ("annotations", "annotation")
_Place = TypeVar("_Place")
_List = TypeVar("_List", bound=PurePath)
_COCO_PARTS = ("images", "annotations", "categories")


def read_index(index: Path, max_bytes: int) -> tuple[list[Item], Counter[str]]:
    """Read the list that `edgecl export dataset` writes: an object with path and label a line.

    Returns:
        One item a line, and how many pictures each class has.

    Raises:
        SourceError: It cannot be read.
    """
    items: list[Item] = []
    classes: Counter[str] = Counter()
    for number, line in enumerate(read_text(index, MAX_LIST_BYTES).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, label = _name(row["path"]), row["label"]
            if not name or not isinstance(label, str):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            where = f"line {number}"
            items.append((where, partial(Skipped, where, 'expected {"path": ..., "label": ...}')))
            continue
        classes[label] += 1
        items.append((name, partial(_read_inside, index.parent, name, label, max_bytes)))
    return items, classes


def read_one_hot(table: Path, max_bytes: int) -> tuple[list[Item], Counter[str]]:
    """Read a table of Roboflow's multi-class export: `filename, bolt, cup`, a row a picture.

    Returns:
        One item a row, and how many pictures each class has; a picture of several classes, or of
        none, is skipped.

    Raises:
        SourceError: It cannot be read, or its first column is no file name.
    """
    rows = cells_of(read_text(table, MAX_LIST_BYTES), ",")
    _, head = next(rows, (0, ""))
    names = [name.strip() for name in head] if isinstance(head, list) else []
    if len(names) < 2 or names[0].lower() != "filename":
        raise SourceError(f"{table} is no table of classes; expected filename and a column a class")
    items: list[Item] = []
    classes: Counter[str] = Counter()
    for number, row in rows:
        values = [] if isinstance(row, str) else [cell.strip() for cell in row]
        id = values[0] if values and values[0] else f"row {number}"
        own = [name for name, mark in zip(names[1:], values[1:], strict=False) if mark == "1"]
        why = ""
        if len(values) != len(names) or not values[0] or not set(values[1:]) <= {"0", "1"}:
            why = f"row {number} is no file name with 0 or 1 for each of {len(names) - 1} classes"
        elif len(own) != 1:
            why = f"it has several classes ({some(own)})" if own else "it has no class"
        if why:
            items.append((id, partial(Skipped, id, why)))
            continue
        classes[own[0]] += 1
        items.append((id, partial(_read_inside, table.parent, id, own[0], max_bytes)))
    return items, classes


@dataclass(slots=True)
class CocoList:
    """What a COCO list says.

    Args:
        items: One item a picture.
        classes: How many pictures each class has.
        notes: What a person should know.
    """

    items: list[Item]
    classes: Counter[str]
    notes: list[str]


def read_coco(path: Path, max_bytes: int, *, pictures: Path | None = None) -> CocoList:
    """Read a COCO list; its pictures are looked for as `_Places` says.

    Args:
        path: The list.
        max_bytes: Larger pictures are skipped unread.
        pictures: Folder of the pictures, None for the list's own dataset.

    Raises:
        SourceError: It cannot be read, or is no COCO list.
    """
    values = coco_values(read_text(path, MAX_LIST_BYTES), str(path))
    if values is None:
        raise SourceError(
            f"{path} is no COCO file; expected one object with images, annotations and categories"
        )
    places = _Places(path, pictures)

    def read(id: str, place: Path, label: str) -> Item:
        source = str(path.parent)
        return id, partial(
            read_frame, place, id=id, label=label, source=source, max_bytes=max_bytes
        )

    found, missing = coco_items(str(path), values, places.find, read)
    if missing:
        found.notes.append(
            f"not found: {len(missing)} of {len(found.items)} pictures ({some(missing)}); looked "
            f"in {places.root}; --pictures DIR names another folder"
        )
    return found


def coco_items(
    name: str,
    values: dict[str, list[Any]],
    find: Callable[[str], _Place | str],
    read: Callable[[str, _Place, str], Item],
) -> tuple[CocoList, list[str]]:
    """Return the pictures of a COCO list and their classes.

    Args:
        name: The list, as messages name it.
        values: What `coco_values` returned.
        find: Where the picture of a file's name lies, or why it is not read.
        read: Makes an item of id, place and label.

    Returns:
        What was found, and the pictures that were not.

    Raises:
        SourceError: An entry is none of COCO.
    """
    names, images = _coco_entries(name, values)
    labels, n_unfit = _labels(values["annotations"], names)
    found = CocoList([], Counter(), [])
    if n_unfit:
        found.notes.append(f"left out: {n_unfit} annotations without a picture or known category")
    uses = Counter(key for key, _ in images)
    missing = []
    for key, file in images:
        own = sorted(labels.get(key, ()))
        id = file or f"picture {key}"
        place: _Place | str = ""
        if uses[key] > 1:
            place = f"its id {key} is that of several pictures"
        elif len(own) != 1:
            place = f"it has several categories ({some(own)})" if own else "it has no category"
        else:
            place = find(file)
            found.classes[own[0]] += 1
            if isinstance(place, str):
                missing.append(id)
        if isinstance(place, str):
            found.items.append((id, partial(Skipped, id, place)))
        else:
            found.items.append(read(id, place, own[0]))
    return found, missing


def _coco_entries(
    name: str, values: dict[str, Any]
) -> tuple[dict[int | str, str], list[tuple[int | str, str]]]:
    """Return the names of categories, and id and file of every picture."""
    try:
        names = {_id(c["id"]): str(c["name"]) for c in values["categories"]}
        return names, [(_id(i["id"]), _name(i["file_name"])) for i in values["images"]]
    except (KeyError, TypeError) as error:
        raise SourceError(
            f"{name} cannot be read as COCO: an entry lacks {error}, or is no object"
        ) from error


def _labels(
    annotations: list[Any], names: dict[int | str, str]
) -> tuple[dict[int | str, set[str]], int]:
    """Return the classes of each picture, and how many annotations say nothing of one."""
    labels: dict[int | str, set[str]] = {}
    n_unfit = 0
    for annotation in annotations:
        try:
            name = names[_id(annotation["category_id"])]
            labels.setdefault(_id(annotation["image_id"]), set()).add(name)
        except (KeyError, TypeError):
            n_unfit += 1
    return labels, n_unfit


def below_of(path: PurePath) -> tuple[str, ...]:
    """Return the folders in which tools put the pictures of a list."""
    split = path.stem.rpartition("_")[2]
    return ".", "images", "data", split, f"images/{split}", f"{split}/images"


class _Places:
    """Where the pictures of a list lie: tried in this order, and never outside of its dataset.

    As the list says it, from its folder or from the dataset's; in `images/` (CVAT, Label Studio) or
    `data/` (FiftyOne); in the folder of the list's split, `val2017/` for `instances_val2017.json`,
    also below `images/`; by its name alone.

    Args:
        path: The list.
        pictures: Folder of the pictures, None for the list's folder, or that above `annotations/`.
    """

    def __init__(self, path: Path, pictures: Path | None) -> None:
        folder = path.parent
        above = folder.parent if folder.name.lower() in LISTS_IN else folder
        self.root = pictures or above
        self._real = os.path.realpath(self.root)
        bases = [self.root] if pictures else [folder, above]
        self._bases = [base / below for base in dict.fromkeys(bases) for below in below_of(path)]
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, name: str) -> Path | str:
        """Return where a picture lies, or why it is not read."""
        plain = name.replace("\\", "/")
        try:
            for base in self._bases:
                for spelled in dict.fromkeys((name, plain)):
                    place = os.path.realpath(base / spelled)
                    if os.path.lexists(place) and self._holds(place):
                        return Path(place)
            alone = self._named(plain.rpartition("/")[2])
            if len(alone) == 1 and self._holds(os.path.realpath(alone[0])):
                return alone[0]
            if len(alone) > 1:
                return f"{len(alone)} pictures in {self.root} are called so"
            if not self._holds(os.path.realpath(self._bases[0] / plain)):
                return "its path leads out of the dataset"
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            return f"cannot be read ({error})"
        return "cannot be read (No such file or directory)"

    def _holds(self, place: str) -> bool:
        return place == self._real or place.startswith(self._real + os.sep)

    def _named(self, name: str) -> list[Path]:
        if self._by_name is None:
            self._by_name = {}
            for parts in look(self.root).pictures:
                self._by_name.setdefault(parts[-1], []).append(self.root.joinpath(*parts))
        return self._by_name.get(name, [])


def coco_lists(folder: Path) -> list[Path]:
    """Return the COCO lists of a folder, or else of `annotations/` in it."""
    found: list[Path] = []
    try:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".json")
    except OSError:
        return found
    for path in files:
        try:
            if path.name.startswith("."):
                continue
            if coco_values(read_text(path, MAX_LIST_BYTES), str(path)) is not None:
                found.append(path)
        except SourceError:
            continue  # no text, or too long: none that is read
    if not found and folder.name.lower() not in LISTS_IN:
        lists = (coco_lists(folder / name) for name in ("annotations", "Annotations"))
        return next(filter(None, lists), [])
    return found


def choose_list(lists: Sequence[_List]) -> _List | None:
    """Return the list to learn from: the only one, or the only one of boxes or of a train split."""
    for wanted in ("", "instances_", "train", "instances_train"):
        chosen = [path for path in lists if wanted in path.name.lower()]
        if len(chosen) == 1:
            return chosen[0]
    return None


def read_text(path: Path, limit: int) -> str:
    """Read a text file of at most `limit` bytes.

    Raises:
        SourceError: It cannot be read, is longer, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise SourceError(f"{path} is longer than the limit of {limit / 1e6:g} MB")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise SourceError(f"{path} cannot be read {in_words(error)}") from error
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path} cannot be read as UTF-8 text ({error}); save it as UTF-8"
        ) from error


def coco_values(text: str, name: str) -> dict[str, list[Any]] | None:
    """Return what a COCO file holds, None for other JSON.

    Raises:
        SourceError: More than is read.
    """
    # Parsed, a text of many small parts takes fifty times its size.
    if text.count("{") + text.count("[") > _MOST_OBJECTS or text.count(",") > _MOST_VALUES:
        raise SourceError(
            f"{name} has more than {_MOST_OBJECTS:,} entries or {_MOST_VALUES:,} values; split it"
        )
    if not all(f'"{part}"' in text for part in _COCO_PARTS):
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not all(
        isinstance(values.get(part), list) for part in _COCO_PARTS
    ):
        return None
    return values


def _id(value: object) -> int | str:
    """Return an id as one spelling: tools write 1, 1.0 and "1" for the same one.

    Raises:
        TypeError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError("an id")
    if isinstance(value, float):
        return int(value) if value.is_integer() else str(value)
    if isinstance(value, str) and re.fullmatch(r"0|-?[1-9]\d{0,17}", value, re.ASCII):
        return int(value)
    return value


def _name(value: object) -> str:
    """Return a file's name from JSON; half a character, which no file has, as its escape."""
    if not isinstance(value, str):
        raise TypeError("a file name")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value


def _read_inside(folder: Path, name: str, label: str, max_bytes: int) -> Frame | Skipped:
    """Read a picture that a list in a folder names."""
    try:
        root, place = (Path(os.path.realpath(p)) for p in (folder, local(folder, name)))
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        return Skipped(name, f"cannot be read ({error})")
    if not place.is_relative_to(root):
        return Skipped(name, "its path leads out of the dataset")
    return read_frame(place, id=name, label=label, source=str(folder), max_bytes=max_bytes)
