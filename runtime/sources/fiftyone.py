"""FiftyOne's own format of classified pictures: `labels.json` beside `data/`.

    {"classes": ["bolt", "cup"], "labels": {"000001": 0, "b/000002": {"label": 1, ...}}}

A key is a picture's path in `data/` without its suffix; what stands there is the place of its class
in `classes`, or without those its name, alone or as `label` beside other attributes. Format: the
page "Exporting datasets" of FiftyOne's documentation, `FiftyOneImageClassificationDataset`.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from edgecl.errors import SourceError
from edgecl.types import Skipped

from .base import Item, read_frame
from .layouts import some
from .listed import MAX_LIST_BYTES, read_text
from .look import look

LABELS = "labels.json"
_DATA = "data"


def fiftyone_labels(folder: Path) -> dict[str, Any] | None:
    """Return what a folder's `labels.json` holds, None if it is not FiftyOne's.

    Raises:
        SourceError: It is there and cannot be read.
    """
    if not (folder / LABELS).is_file() or not (folder / _DATA).is_dir():
        return None
    try:
        values = json.loads(read_text(folder / LABELS, MAX_LIST_BYTES))
    except (ValueError, RecursionError):
        return None
    is_ours = (
        isinstance(values, dict)
        and isinstance(values.get("labels"), dict)
        and isinstance(values.get("classes"), (list, type(None)))
    )
    return values if is_ours else None


def read_fiftyone(folder: Path, max_bytes: int) -> tuple[list[Item], Counter[str], list[str]]:
    """Read the pictures of such a folder.

    Returns:
        One item an entry, how many pictures each class has, and what a person should know.

    Raises:
        SourceError: It has no such list.
    """
    values = fiftyone_labels(folder)
    if values is None:
        raise SourceError(f"{folder} has no {LABELS} of FiftyOne beside a folder {_DATA}/")
    there = look(folder / _DATA)
    places: dict[str, list[tuple[str, ...]]] = {}
    for parts in there.pictures:
        path = Path(*parts)
        places.setdefault(path.with_suffix("").as_posix(), []).append(parts)
    items: list[Item] = []
    classes: Counter[str] = Counter()
    missing = []
    for key, target in values["labels"].items():
        found = places.pop(key.replace("\\", "/"), [])
        label, why = _label(target, values.get("classes"))
        if len(found) > 1:
            why = f"{len(found)} pictures in {_DATA}/ are called so"
        elif not found:
            missing.append(key)
            why = f"it is not in {_DATA}/"
        if why:
            items.append((key, partial(Skipped, key, why)))
            continue
        id = "/".join((_DATA, *found[0]))
        place = folder.joinpath(_DATA, *found[0])
        read = partial(
            read_frame, place, id=id, label=label, source=str(folder), max_bytes=max_bytes
        )
        classes[label] += 1
        items.append((id, read))
    notes = []
    if missing:
        notes.append(f"not found: {len(missing)} of {len(items)} pictures ({some(missing)})")
    if places:
        notes.append(f"left out: {len(places)} pictures that the list does not name")
    return items, classes, notes


def _label(target: Any, classes: list[Any] | None) -> tuple[str, str]:
    """Return the class that an entry names, or why there is none."""
    if isinstance(target, dict):
        target = target.get("label")
    if target is None or target == []:
        return "", "it has no class"
    if isinstance(target, list):
        return "", "it has several classes"
    if isinstance(target, int) and not isinstance(target, bool) and classes is not None:
        if not 0 <= target < len(classes):
            return "", f"its class {target} is none of the {len(classes)} of the list"
        target = classes[target]
    return (target, "") if isinstance(target, str) else ("", f"{target!r:.40} is no class")
