"""Datasets that are a list of files: COCO JSON, and what `edgecl export dataset` writes.

A list names pictures in its own folder only: a path that leads out of it, also by a link, is
skipped and named.

COCO: Lin et al. 2014, "Microsoft COCO", arXiv:1405.0312, and its data format page: `images` with
`id` and `file_name`, `categories` with `id` and `name`, `annotations` with `image_id` and
`category_id`. Boxes and outlines are not looked at: one category a picture, however often.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from edgecl.errors import SourceError
from edgecl.types import Frame, Skipped

from .base import Item, read_frame

EDGECL_INDEX = "edgecl.jsonl"
# A list of 1,000,000 pictures; COCO's own files with outlines of objects are larger, and not meant.
_MAX_LIST_BYTES = 100_000_000


def read_index(index: Path, max_bytes: int) -> tuple[list[Item], Counter[str]]:
    """Read the list that `edgecl export dataset` writes: an object with path and label a line.

    Returns:
        One item a line, and how many pictures each class has.

    Raises:
        SourceError: It cannot be read.
    """
    items: list[Item] = []
    classes: Counter[str] = Counter()
    for number, line in enumerate(read_text(index, _MAX_LIST_BYTES).split("\n"), start=1):
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


def read_coco(path: Path, max_bytes: int) -> tuple[list[Item], Counter[str]]:
    """Read a COCO list; pictures lie beside it or in `images/` beside it.

    Returns:
        One item a picture, and how many pictures each class has.

    Raises:
        SourceError: It cannot be read, or is no COCO list.
    """
    values = _coco_values(path)
    if values is None:
        raise SourceError(
            f"{path} is no COCO file; expected one object with images, annotations and categories"
        )
    try:
        names = {_id(c["id"]): str(c["name"]) for c in values["categories"]}
        labels: dict[int | str, set[str]] = {}
        for annotation in values["annotations"]:
            name = names.get(_id(annotation["category_id"]))
            if name is not None:
                labels.setdefault(_id(annotation["image_id"]), set()).add(name)
        images = [(_id(i["id"]), _name(i["file_name"])) for i in values["images"]]
    except (KeyError, TypeError) as error:
        raise SourceError(
            f"{path} cannot be read as COCO: an entry lacks {error}, or is no object"
        ) from error
    items: list[Item] = []
    classes: Counter[str] = Counter()
    uses = Counter(key for key, _ in images)
    for key, file in images:
        own = sorted(labels.get(key, ()))
        id = file or f"picture {key}"
        reason = ""
        if uses[key] > 1:
            reason = f"its id {key} is that of several pictures"
        elif len(own) != 1:
            reason = f"it has several categories ({some(own)})" if own else "it has no category"
        if reason:
            items.append((id, partial(Skipped, id, reason)))
        else:
            classes[own[0]] += 1
            items.append((id, partial(_read_coco_picture, path.parent, id, own[0], max_bytes)))
    return items, classes


def coco_lists(folder: Path) -> list[Path]:
    """Return the COCO lists of a folder."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            if not path.name.startswith(".") and _coco_values(path) is not None:
                found.append(path)
        except SourceError:
            continue  # no text, or too long: none that is read
    return found


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
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read as UTF-8 text ({error})") from error


def some(names: list[str]) -> str:
    """Return the first five names as a text."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _coco_values(path: Path) -> dict[str, list[Any]] | None:
    """Return what a COCO file holds, None for other JSON."""
    try:
        values = json.loads(read_text(path, _MAX_LIST_BYTES))
    except (ValueError, RecursionError):
        return None
    parts = ("images", "annotations", "categories")
    if not isinstance(values, dict) or not all(isinstance(values.get(p), list) for p in parts):
        return None
    return values


def _id(value: object) -> int | str:
    if not isinstance(value, int | str):
        raise TypeError("an id")
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


def _read_coco_picture(folder: Path, file: str, label: str, max_bytes: int) -> Frame | Skipped:
    if not os.path.lexists(folder / file) and os.path.lexists(folder / "images" / file):
        return _read_inside(folder, file, label, max_bytes, below="images")
    return _read_inside(folder, file, label, max_bytes)


def _read_inside(
    folder: Path, name: str, label: str, max_bytes: int, *, below: str = "."
) -> Frame | Skipped:
    """Read a picture that a list in a folder names, there or in a sub-folder."""
    try:
        root, place = (Path(os.path.realpath(p)) for p in (folder, folder / below / name))
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        return Skipped(name, f"cannot be read ({error})")
    if not place.is_relative_to(root):
        return Skipped(name, "its path leads out of the dataset")
    return read_frame(place, id=name, label=label, source=str(folder), max_bytes=max_bytes)
