"""Datasets that other tools wrote, as sources: what lies there decides, and says why.

    imagefolder        a sub-folder a class
    frigate            `clips/MODEL/` of Frigate: `dataset/CLASS/` is labelled, `train/` is not
    jetson             jetson-inference, torchvision, ultralytics: `train/CLASS/`, beside it `val/`,
                       `test/` (or as layouts.py knows them), `labels.txt`
    teachable-machine  a project file of Teachable Machine (zips.py)
    coco               COCO JSON with one category a picture (listed.py; in a zip coco_zip.py)
    one-hot            Roboflow's `_classes.csv`, a column a class (listed.py)
    fiftyone           FiftyOne's `labels.json` beside `data/` (fiftyone.py)
    edgecl             what `edgecl export dataset` wrote (listed.py)

Layouts are those of Frigate 0.17 (its web interface lists `.webp`, `.png`, `.jpg` and `.jpeg` in
`dataset/CLASS/` and in `train/`) and of jetson-inference's guide to collecting datasets.
"""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shlex import quote

from edgecl.errors import SourceError, UsageError
from edgecl.types import clean_label

from ..faults import in_words, telling
from ..redact import redacted
from .base import Item, ListSource, read_frame
from .coco_zip import CocoZip, coco_lists_in
from .fiftyone import LABELS, fiftyone_labels, read_fiftyone
from .layouts import SPLIT, is_to_train, kinds_of, no_classes, some, unnamed_tries, warnings_of
from .listed import (
    EDGECL_INDEX,
    ONE_HOT,
    choose_list,
    coco_lists,
    read_coco,
    read_index,
    read_one_hot,
    read_text,
)  # fmt: skip
from .look import look, told, unknown
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


@dataclass(frozen=True, slots=True)
class Reading:
    """How a dataset is read.

    Args:
        max_bytes: Larger pictures are skipped unread.
        pictures: Folder of a list's pictures, or None: where such tools put them.
        encoding: Code page of names in a zip that are not marked as UTF-8, or None.
        is_sure: Whether sub-folders are classes whatever they are called.
    """

    max_bytes: int = 64_000_000
    pictures: Path | None = None
    encoding: str | None = None
    is_sure: bool = False


def open_dataset(
    path: Path,
    *,
    format: str = "auto",
    max_bytes: int = 64_000_000,
    pictures: Path | None = None,
    encoding: str | None = None,
) -> Dataset:
    """Open a dataset of another tool.

    Args:
        path: A folder, a `.json`, or a zip.
        format: One of `FORMATS`, or `auto`.
        max_bytes: Larger pictures are skipped unread.
        pictures: Folder of the pictures of a COCO list, if they lie elsewhere.
        encoding: Code page of the names in a zip, if they are not UTF-8.

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
            f"dataset {path} is of no format that is known ({', '.join(FORMATS)}); {unknown(path)}"
        )
    if len(found) > 1:
        guesses = " and ".join(f"{name} ({why})" for name, why in found.items())
        raise SourceError(f"dataset {path} looks like {guesses}; name one with --format")
    ((name, why),) = found.items()
    reading = Reading(max_bytes, pictures, encoding, is_sure=format != "auto")
    dataset = replace(FORMATS[name](path, reading), why=why)
    if not dataset.classes:
        raise SourceError(f"dataset {path} holds no picture with a class, read as {name}")
    return dataset


def _guess(path: Path) -> dict[str, str]:
    """Return the formats that a path may be of, and why."""
    if path.is_file():
        with telling(f"dataset {path} cannot be read", SourceError), path.open("rb") as file:
            is_zip = zipfile.is_zipfile(file)
        if is_zip:
            if packed := coco_lists_in(path):
                return {"coco": f"{packed[0]} in it is such a list"}
            return {"teachable-machine": "it is a zip"}
        if path.suffix.lower() == ".json":
            return {"coco": "it is a .json file"}
        if path.name == ONE_HOT:
            return {"one-hot": f"it is a {ONE_HOT}"}
        return {}
    if (path / EDGECL_INDEX).is_file():
        return {"edgecl": f"it has {EDGECL_INDEX}"}
    found = {}
    beside = ["labels.txt"] if (path / "labels.txt").exists() else []
    train = _train(path)
    beside += [name for name in _splits(path) if name != train]
    if beside and _has_class_folders(path / train):
        found["jetson"] = f"{train}/ has a folder a class and {beside[0]} is beside it"
    if _has_class_folders(path / "dataset"):
        found["frigate"] = "dataset/ has a folder a class"
    if lists := coco_lists(path):
        found["coco"] = f"{lists[0].relative_to(path)} is such a list"
    elif lists := [found for name in _splits(path) for found in coco_lists(path / name)]:
        found["coco"] = f"{lists[0].relative_to(path)} is such a list of one split"
    elif fiftyone_labels(path) is not None:
        found["fiftyone"] = f"it has {LABELS} beside data/"
    if one_hot := _one_hot_folder(path):
        found["one-hot"] = f"{(one_hot / ONE_HOT).relative_to(path)} has a column a class"
    if not found and _has_class_folders(path):
        _check_folders(path)
        found["imagefolder"] = "it has a folder a class"
    return found


def _check_folders(path: Path) -> None:
    """Check that a folder's sub-folders are classes.

    Raises:
        SourceError: They are not, by their names or since all pictures lie deeper.
    """
    there = look(path)
    found = there.pictures
    others = there.passed_over.keys() - {".json", ".csv"}  # lists of classes are known by now
    if why := no_classes(str(path), found, others, there.beside):
        raise SourceError(f"dataset {why}")
    if not any(len(parts) == 2 for parts in found):
        below = some(sorted({parts[0] for parts in found if len(parts) > 1}))
        raise SourceError(
            f"dataset {path} has its pictures two folders deep and more, in {below}; name the "
            "one folder that has a folder a class, or say --format imagefolder"
        )


def _one_hot_folder(path: Path) -> Path | None:
    """Return the folder of a dataset's `_classes.csv`: it, or its first split that has one."""
    folders = [path, *(path / name for name in _splits(path))]
    return next((folder for folder in folders if (folder / ONE_HOT).is_file()), None)


def _splits(path: Path) -> list[str]:
    """Return the sub-folders of a dataset that are splits, `train` first."""
    try:
        names = [p.name for p in path.iterdir() if p.is_dir()]
    except OSError as error:
        raise SourceError(f"dataset {path} cannot be read {in_words(error)}") from error
    splits = [name for name, kind in kinds_of(names).items() if kind == SPLIT]
    return sorted(splits, key=lambda name: (not is_to_train(name), name))


def _train(path: Path) -> str:
    """Return the name of a dataset's training split."""
    return next(filter(is_to_train, _splits(path)), "train")


def _has_class_folders(folder: Path) -> bool:
    """Whether a folder has sub-folders with pictures that may be classes."""
    if not folder.is_dir():
        return False
    return any(len(parts) > 1 for parts in look(folder).pictures)


def _imagefolder(path: Path, how: Reading) -> Dataset:
    return _folders("imagefolder", path, path, how)


def _frigate(path: Path, how: Reading) -> Dataset:
    labelled = path / "dataset"
    notes = []
    if (labelled / _FRIGATE_UNNAMED).is_dir():
        what = f"pictures that nobody named{_count(labelled / _FRIGATE_UNNAMED)}"
        notes.append(f"left out: {_FRIGATE_UNNAMED}/, {what}")
    n_tries = len(look(path / "train").pictures) if (path / "train").is_dir() else 0
    if n_tries:
        notes.append(f"left out: train/, {n_tries} pictures without a label")
    if (labelled / "none").is_dir():
        notes.append("its class 'none' (nothing of the others) is a class like any other here")
    dataset = _folders("frigate", path, labelled, how, without=_FRIGATE_UNNAMED)
    return replace(dataset, notes=(*notes, *dataset.notes))


def _jetson(path: Path, how: Reading) -> Dataset:
    train = _train(path)
    dataset = _folders("jetson", path, path / train, how)
    notes = [
        f"left out: {name}/; score it with `edgecl evaluate {quote(str(path / name))}`"
        f"{_count(path / name)}"
        for name in _splits(path)
        if name != train
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
    format: str, path: Path, labelled: Path, how: Reading, *, without: str | None = None
) -> Dataset:
    """Return the pictures of a folder with a sub-folder a class, as `FolderSource` does."""
    if not labelled.is_dir():
        raise SourceError(f"dataset {path} has no folder {labelled}, which {format} has")
    items: list[Item] = []
    classes: Counter[str] = Counter()
    found = look(labelled, above=() if labelled == path else (os.path.realpath(path),))
    notes = []
    if not how.is_sure:
        if labelled != path and (why := no_classes(str(labelled), found.pictures)):
            raise SourceError(f"dataset {why}")
        if tries := unnamed_tries(found.pictures):
            found.leave_out(tries, "train/")
            notes.append(f"left out: train/, {len(tries)} pictures that nobody named (Frigate)")
        notes += warnings_of(str(labelled), found.pictures)
    loose = [parts for parts in found.pictures if len(parts) == 1]
    found.leave_out(loose, "pictures in no class's folder")
    notes += told(found.passed_over, found.unreadable) + found.empty()
    if without is not None:
        found.leave_out([p for p in found.pictures if p[0] == without], f"{without}/")
    for parts in found.pictures:
        place = labelled.joinpath(*parts)
        id = place.relative_to(path).as_posix()
        read = partial(
            read_frame, place, id=id, label=parts[0], source=str(path), max_bytes=how.max_bytes
        )
        classes[parts[0]] += 1
        items.append((id, read))
    if loose:
        notes.append(f"left out: {len(loose)} pictures that are in no class's folder")
    source = ListSource(str(path), items, labels=classes)
    source.passed_over = found.passed_over
    return Dataset(format, "", source, _sorted(classes), tuple(notes))


def _teachable_machine(path: Path, how: Reading) -> Dataset:
    source = ZipSource(path, max_bytes=how.max_bytes, encoding=how.encoding)
    n = source.others.total()
    kinds = ", ".join(f"{n} {kind}" for kind, n in source.others.most_common())
    notes = (f"left out: {n} entries that are no picture of a class ({kinds})",) if n else ()
    source.passed_over = source.others
    return Dataset("teachable-machine", "", source, _sorted(source.classes), notes)


def _coco(path: Path, how: Reading) -> Dataset:
    if path.is_file() and zipfile.is_zipfile(path):
        packed = CocoZip(path, max_bytes=how.max_bytes, encoding=how.encoding)
        return Dataset("coco", "", packed, _sorted(packed.classes), tuple(packed.notes))
    notes: list[str] = []
    splits: list[str] = []
    lists = coco_lists(path) if path.is_dir() else [path]
    if not lists and path.is_dir():
        splits = [name for name in _splits(path) if coco_lists(path / name)]
        lists = coco_lists(path / splits[0]) if splits else []
        notes = [f"left out: {name}/, another split{_count(path / name)}" for name in splits[1:]]
    chosen = choose_list(lists)
    if chosen is None:
        names = some([p.name for p in lists]) or "none"
        raise SourceError(
            f"dataset {path} has {len(lists)} COCO lists ({names}); name the one to read"
        )
    notes += [f"left out: {p.name}, another list" for p in lists if p != chosen]
    found = read_coco(chosen, how.max_bytes, pictures=how.pictures)
    source = ListSource(str(path), found.items, labels=found.classes)
    if path.is_dir():
        notes += _unnamed(chosen.parent if chosen.parent.name in splits else path, source)
    return Dataset("coco", "", source, _sorted(found.classes), (*notes, *found.notes))


def _one_hot(path: Path, how: Reading) -> Dataset:
    folder = path.parent if path.is_file() else _one_hot_folder(path)
    if folder is None:
        raise SourceError(f"dataset {path} has no {ONE_HOT}, which one-hot has")
    items, classes = read_one_hot(folder / ONE_HOT, how.max_bytes)
    notes: list[str] = []
    if folder.parent == path:
        others = [name for name in _splits(path) if name != folder.name]
        notes = [f"left out: {name}/, another split{_count(path / name)}" for name in others]
    source = ListSource(str(path), items, labels=classes)
    notes += _unnamed(folder, source)
    return Dataset("one-hot", "", source, _sorted(classes), tuple(notes))


def _fiftyone(path: Path, how: Reading) -> Dataset:
    items, classes, notes = read_fiftyone(path, how.max_bytes)
    source = ListSource(str(path), items, labels=classes)
    return Dataset("fiftyone", "", source, _sorted(classes), tuple(notes))


def _edgecl(path: Path, how: Reading) -> Dataset:
    items, classes = read_index(path / EDGECL_INDEX, how.max_bytes)
    source = ListSource(str(path), items, labels=classes)
    gone = [id for id, _ in items if not os.path.lexists(path / id)]
    notes = (f"not found: {len(gone)} of {len(items)} pictures ({some(gone)})",) if gone else ()
    return Dataset("edgecl", "", source, _sorted(classes), notes)


def _count(folder: Path) -> str:
    """Return how many pictures a folder holds that is left out, as a text."""
    try:
        return f" ({len(look(folder).pictures)} pictures)"
    except SourceError:
        return " (it cannot be read)"


def _unnamed(folder: Path, source: ListSource) -> list[str]:
    """Return how many pictures beside a list it does not name, if any."""
    named = {id.replace("\\", "/").rpartition("/")[2] for id in source.ids(len(source))}
    n = sum(parts[-1] not in named for parts in look(folder).pictures)
    return [f"left out: {n} pictures that the list does not name"] if n else []


def _sorted(classes: Mapping[str, int]) -> dict[str, int]:
    """Return the classes as they will be called, sorted, with their counts."""
    named: Counter[str] = Counter()
    for name, n in classes.items():
        with suppress(UsageError):  # none that can be one: its pictures are skipped and named
            name = clean_label(name)
        named[name] += n
    return dict(sorted(named.items()))


FORMATS: dict[str, Callable[[Path, Reading], Dataset]] = {
    "imagefolder": _imagefolder,
    "frigate": _frigate,
    "jetson": _jetson,
    "teachable-machine": _teachable_machine,
    "coco": _coco,
    "one-hot": _one_hot,
    "fiftyone": _fiftyone,
    "edgecl": _edgecl,
}
