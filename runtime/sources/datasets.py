"""Datasets that other tools wrote, as sources: what lies there decides, and says why.

    imagefolder        a sub-folder a class
    frigate            `clips/MODEL/` of Frigate: `dataset/CLASS/` is labelled, `train/` is not
    jetson             jetson-inference: `train/CLASS/`, `val/`, `test/`, and `labels.txt`
    teachable-machine  a project file of Teachable Machine (zips.py)
    coco               COCO JSON with one category a picture (listed.py)
    edgecl             what `edgecl export dataset` wrote (listed.py)

Layouts are those of Frigate 0.17 (its web interface lists `.webp`, `.png`, `.jpg` and `.jpeg` in
`dataset/CLASS/` and in `train/`) and of jetson-inference's guide to collecting datasets.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from edgecl.errors import SourceError, UsageError

from ..redact import redacted
from .base import Item, ListSource, read_frame
from .folder import pictures
from .listed import EDGECL_INDEX, coco_lists, read_coco, read_index, read_text, some
from .zips import ZipSource

_MAX_LABELS_BYTES = 1_000_000
# Older versions of Frigate put pictures there that nobody had named yet.
_FRIGATE_UNNAMED = "unknown"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset that was found.

    Args:
        format: One of `FORMATS`.
        why: What showed that, for a person.
        source: Its labelled pictures.
        classes: Pictures of each class, by name, as the dataset has them.
        notes: What was left out, and other things that a person should know.
    """

    format: str
    why: str
    source: ListSource
    classes: dict[str, int]
    notes: tuple[str, ...] = ()


def open_dataset(path: Path, *, format: str = "auto", max_bytes: int = 64_000_000) -> Dataset:
    """Open a dataset of another tool.

    Args:
        path: A folder, a `.json`, or a zip.
        format: One of `FORMATS`, or `auto`.
        max_bytes: Larger pictures are skipped unread.

    Raises:
        UsageError: No such format.
        SourceError: Nothing there, not of this format, of several, or larger than is read.
    """
    if format != "auto" and format not in FORMATS:
        raise UsageError(f"format {format!r} is unknown; expected auto, {', '.join(FORMATS)}")
    if not path.exists():
        raise SourceError(
            f"dataset {redacted(str(path))} does not exist; name a folder, a .json or a .tm file"
        )
    found = _guess(path) if format == "auto" else {format: "--format says so"}
    if not found:
        raise SourceError(
            f"dataset {path} is of no format that is known ({', '.join(FORMATS)}); "
            "expected a sub-folder a class, or name one with --format"
        )
    if len(found) > 1:
        guesses = " and ".join(f"{name} ({why})" for name, why in found.items())
        raise SourceError(f"dataset {path} looks like {guesses}; name one with --format")
    ((name, why),) = found.items()
    dataset = replace(FORMATS[name](path, max_bytes), why=why)
    if not dataset.classes:
        raise SourceError(f"dataset {path} holds no picture with a class, read as {name}")
    return dataset


def _guess(path: Path) -> dict[str, str]:
    """Return the formats that a path may be of, and why."""
    if path.is_file():
        if zipfile.is_zipfile(path):
            return {"teachable-machine": "it is a zip"}
        if path.suffix.lower() == ".json":
            return {"coco": "it is a .json file"}
        return {}
    if (path / EDGECL_INDEX).is_file():
        return {"edgecl": f"it has {EDGECL_INDEX}"}
    found = {}
    beside = [name for name in ("labels.txt", "val", "test") if (path / name).exists()]
    if beside and _has_class_folders(path / "train"):
        found["jetson"] = f"train/ has a folder a class and {beside[0]} is beside it"
    if _has_class_folders(path / "dataset"):
        found["frigate"] = "dataset/ has a folder a class"
    if lists := coco_lists(path):
        found["coco"] = f"{lists[0].name} is such a list"
    if not found and _has_class_folders(path):
        found_pictures = pictures(path)
        if not any(len(parts) == 2 for parts in found_pictures):
            below = some(sorted({parts[0] for parts in found_pictures if len(parts) > 1}))
            raise SourceError(
                f"dataset {path} has its pictures two folders deep and more, in {below}; name the "
                "one folder that has a folder a class, or say --format imagefolder"
            )
        found["imagefolder"] = "it has a folder a class"
    return found


def _has_class_folders(folder: Path) -> bool:
    return folder.is_dir() and any(len(parts) > 1 for parts in pictures(folder))


def _imagefolder(path: Path, max_bytes: int) -> Dataset:
    return _folders("imagefolder", path, path, max_bytes)


def _frigate(path: Path, max_bytes: int) -> Dataset:
    labelled = path / "dataset"
    notes = []
    if (labelled / _FRIGATE_UNNAMED).is_dir():
        notes.append(f"left out: {_FRIGATE_UNNAMED}/, pictures that nobody named")
    n_tries = len(pictures(path / "train")) if (path / "train").is_dir() else 0
    if n_tries:
        notes.append(f"left out: train/, {n_tries} pictures without a label")
    if (labelled / "none").is_dir():
        notes.append("its class 'none' (nothing of the others) is a class like any other here")
    dataset = _folders("frigate", path, labelled, max_bytes, without=_FRIGATE_UNNAMED)
    return replace(dataset, notes=(*notes, *dataset.notes))


def _jetson(path: Path, max_bytes: int) -> Dataset:
    dataset = _folders("jetson", path, path / "train", max_bytes)
    notes = [
        f"left out: {name}/; score it with `edgecl evaluate {path / name}`"
        for name in ("val", "test")
        if (path / name).is_dir()
    ]
    if (path / "labels.txt").is_file():
        lines = read_text(path / "labels.txt", _MAX_LABELS_BYTES).splitlines()
        labels = {line.strip() for line in lines} - {""}
        if missing := sorted(labels - dataset.classes.keys()):
            notes.append(f"in labels.txt and without a picture: {some(missing)}")
        if extra := sorted(dataset.classes.keys() - labels):
            notes.append(f"not in labels.txt, and taken all the same: {some(extra)}")
    return replace(dataset, notes=(*notes, *dataset.notes))


def _folders(
    format: str, path: Path, labelled: Path, max_bytes: int, *, without: str | None = None
) -> Dataset:
    """Return the pictures of a folder with a sub-folder a class, as `FolderSource` does."""
    if not labelled.is_dir():
        raise SourceError(f"dataset {path} has no folder {labelled}, which {format} has")
    items: list[Item] = []
    classes: Counter[str] = Counter()
    n_loose = 0
    for parts in pictures(labelled):
        if len(parts) == 1:
            n_loose += 1
        elif parts[0] != without:
            place = labelled.joinpath(*parts)
            id = place.relative_to(path).as_posix()
            read = partial(
                read_frame, place, id=id, label=parts[0], source=str(path), max_bytes=max_bytes
            )
            classes[parts[0]] += 1
            items.append((id, read))
    notes = (f"left out: {n_loose} pictures that are in no class's folder",) if n_loose else ()
    return Dataset(format, "", ListSource(str(path), items), _sorted(classes), notes)


def _teachable_machine(path: Path, max_bytes: int) -> Dataset:
    source = ZipSource(path, max_bytes=max_bytes)
    n = source.n_other
    notes = (f"left out: {n} entries that are no picture of a class",) if n else ()
    return Dataset("teachable-machine", "", source, _sorted(source.classes), notes)


def _coco(path: Path, max_bytes: int) -> Dataset:
    lists = coco_lists(path) if path.is_dir() else [path]
    if len(lists) != 1:
        names = some([p.name for p in lists]) or "none"
        raise SourceError(
            f"dataset {path} has {len(lists)} COCO lists ({names}); name the one to read"
        )
    items, classes = read_coco(lists[0], max_bytes)
    return Dataset("coco", "", ListSource(str(path), items), _sorted(classes))


def _edgecl(path: Path, max_bytes: int) -> Dataset:
    items, classes = read_index(path / EDGECL_INDEX, max_bytes)
    return Dataset("edgecl", "", ListSource(str(path), items), _sorted(classes))


def _sorted(classes: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(classes.items()))


FORMATS: dict[str, Callable[[Path, int], Dataset]] = {
    "imagefolder": _imagefolder,
    "frigate": _frigate,
    "jetson": _jetson,
    "teachable-machine": _teachable_machine,
    "coco": _coco,
    "edgecl": _edgecl,
}
