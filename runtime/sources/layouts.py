"""What lies in a folder: the one place that knows which folders are classes, and which are not.

A folder's names are what a model learns, so they are looked at first. `KINDS` is the whole list of
names that are no classes; `train-stream`, `import`, `watch:` and zips go by it.

Names are those of torchvision, Keras, ultralytics, Roboflow, CVAT, Label Studio, Supervisely,
FiftyOne, Pascal VOC, COCO, KITTI, Cityscapes and MVTec (splits and parts); Synology, QNAP, Windows,
macOS, ext4, Android, NetApp, Syncthing, Jupyter and Python (systems); DCF, AVCHD (cameras).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgecl.errors import SourceError

from ..faults import in_words
from ..formats import HEIC_HINT, RAW_SUFFIXES, is_readable, kind_of_file
from .base import PICTURE_SUFFIXES

Parts = tuple[str, ...]
"""A file's path in a folder, as its parts."""

SPLIT, PART, CAMERA, SYSTEM = "split", "part", "camera", "system"
_SPLITS = (
    "train training trainval val valid validation dev eval evaluation test testing testdev holdout "
    "unlabeled unlabelled"
)
_PARTS = (
    "image images img imgs imgs picture pictures photo photos jpegimages jpeg jpg png rgb frames "
    "data dataset datasets raw original originals default leftimg8bit objtraindata objvaliddata "
    "export exports output outputs results runs predict predictions crops upload uploads unsorted "
    "newfolder untitledfolder downloads vottcsvexport vottjsonexport"
)
# Parts that hold pictures of the answer, or small copies: never pictures to learn from.
_SIDES = (
    "label labels labelstxt labelimages annotation annotations anno annos ann anns mask masks "
    "segmentation segmentations segmentationclass segmentationobject semantic instances imagesets "
    "groundtruth gt gtfine gtcoarse bbox bboxes boxes polygons xml xmls json jsons txt csv yolo "
    "voc coco depth heatmaps overlays visualization visualizations thumb thumbs thumbnail "
    "thumbnails metadata"
)
_SYSTEMS = (
    "@eadir @recycle @recently-snapshot @tmp @syncthing #recycle #snapshot #sharebin $recycle.bin "
    "recycler recycled lost+found lost.dir __macosx __pycache__ node_modules ~snapshot thumbs.db"
)
KINDS: dict[str, re.Pattern[str]] = {
    # `train`, `val2017`, `test_set`, `images-train`, `train_images`, and the folds of a cross-check
    SPLIT: re.compile(
        rf"(?:images?|imgs?)?(?:{'|'.join(_SPLITS.split())})(?:set|data|images?|imgs?)?(?:\d{{4}})?"
        r"|fold\d+"
    ),
    PART: re.compile(
        rf"(?:{'|'.join((_PARTS + ' ' + _SIDES).split())})|(?:image|label|velodyne|calib)\d?"
    ),
    CAMERA: re.compile(
        r"dcim|avchd|bdmv|mproot|m4root|private|cameraroll|camerauploads|screenshots"
        r"|whatsappimages|takeout|googlephotos|photosfrom\d{4}"
        r"|\d{3}(?:canon|apple|nikon|ncd\d\d|msdcf|olymp|pana|fuji|gopro|media|andro|ricoh|casio"
        r"|leica|sigma|pentx|samsu|sscam)"
    ),
}
# A day or a month, as recorders and FTP uploads write them.
_DATE = re.compile(r"(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1[0-3]\d|(?:19|20)\d\d[-_.][01]\d")
_SIDE = re.compile("|".join(_SIDES.split()))
_SYSTEM_NAMES = frozenset(
    (*_SYSTEMS.split(), "system volume information", "network trash folder", "temporary items")
)
_WHAT = {
    SPLIT: "splits of a dataset",
    PART: "parts of a dataset",
    CAMERA: "what a camera or recorder made",
}
# Written under these names until they are whole, or copies that an editor left beside a picture.
HALF_WRITTEN = (".part", ".partial", ".filepart", ".crdownload", ".download", ".tmp", ".swp")
_COPIES = (".bak", ".old", ".orig", "_original", "~")
_NO_PICTURE = frozenset((*HALF_WRITTEN, *RAW_SUFFIXES))
# What Windows and browsers add to the name of a folder that is there already.
_COPY = re.compile(r"( - copy)?( ?\(\d+\))?$", re.IGNORECASE)
_MOST_KINDS = 12
_MOST_NAMED = 5


def kind_of_folder(name: str) -> str:
    """Return `split`, `part`, `camera` or `system` for a folder's name that is no class's."""
    plain = name.casefold()
    if plain in _SYSTEM_NAMES or plain.startswith(".") or re.fullmatch(r"found\.\d{3}", plain):
        return SYSTEM
    if _DATE.fullmatch(plain):
        return CAMERA
    plain = _plain(plain)
    return next((kind for kind, pattern in KINDS.items() if pattern.fullmatch(plain)), "")


def kind_of_other(name: str) -> str:
    """Return what a file that is no picture is counted as: its suffix, `hidden` or `no suffix`."""
    if name.startswith("."):
        return "hidden"
    suffix = os.path.splitext(name)[1].lower()
    if not suffix or suffix == ".":
        return "no suffix"
    return suffix if re.fullmatch(r"\.[a-z0-9_~-]{1,12}", suffix) else "other"


def may_be_picture(name: str) -> bool | None:
    """Whether a file is a picture by its name; None if only its content can tell."""
    suffix = os.path.splitext(name)[1].lower()
    if name.startswith(".") or suffix in _NO_PICTURE or name.lower().endswith(_COPIES):
        return False
    return True if suffix in PICTURE_SUFFIXES else None


@dataclass(slots=True)
class Found:
    """What lies in a folder.

    Args:
        pictures: Pictures by their parts, sorted; `Skipped` names what cannot be decoded later.
        passed_over: How many other files there are of each kind: a suffix, `hidden`, or a folder
            (`@eaDir/`) with all that lies in it.
        unreadable: Folders that cannot be looked into, and why; each is counted as one, too.
    """

    pictures: list[Parts] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, str] = field(default_factory=dict)

    def leave_out(self, parts: Iterable[Parts], kind: str) -> None:
        """Count pictures as passed over."""
        gone = set(parts)
        self.pictures = [p for p in self.pictures if p not in gone]
        if gone:
            self.passed_over[kind] += len(gone)


def look(folder: Path) -> Found:
    """Return what lies in a folder, by content; links are followed, but never back.

    Raises:
        SourceError: The folder itself cannot be read.
    """
    found = Found()
    waiting: list[tuple[Parts, str, Parts]] = [((), "", (os.path.realpath(folder),))]
    while waiting:
        base, over, way = waiting.pop()
        try:
            entries = list(os.scandir(folder.joinpath(*base)))
        except OSError as error:
            where = "/".join(base)
            if not base:
                raise SourceError(f"folder {folder} cannot be read {in_words(error)}") from error
            found.unreadable[f"{where}/"] = error.strerror or str(error)
            found.passed_over["unreadable"] += 1
            continue
        for entry in entries:
            parts = (*base, entry.name)
            if _is_folder(entry, follow=not over):
                real = os.path.realpath(entry.path)
                if real not in way:
                    kind = over or _over(entry.name)
                    waiting.append((parts, kind, (*way, real)))
            elif over:
                found.passed_over[over] += 1
            elif _is_picture(entry):
                found.pictures.append(parts)
            else:
                found.passed_over[kind_of_other(entry.name)] += 1
    found.pictures.sort()
    _leave_sides(found)
    return found


def _over(name: str) -> str:
    """Return as what the files of a folder are counted that is passed over, or nothing."""
    if kind_of_folder(name) != SYSTEM:
        return ""
    return "hidden" if name.startswith(".") else f"{name}/"


def _is_folder(entry: os.DirEntry[str], *, follow: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError:
        return False


def _is_picture(entry: os.DirEntry[str]) -> bool:
    by_name = may_be_picture(entry.name)
    return is_readable(kind_of_file(entry.path)) if by_name is None else by_name


def _leave_sides(found: Found) -> None:
    """Pass over masks, labels and small copies below a class that has pictures beside them."""
    sides: dict[tuple[str, str], list[Parts]] = {}
    with_own = set()
    for parts in found.pictures:
        side = next((p for p in parts[1:-1] if _SIDE.fullmatch(_plain(p))), None)
        if side is None:
            with_own.add(parts[0])
        else:
            sides.setdefault((parts[0], side), []).append(parts)
    for (first, side), parts_of in sides.items():
        if first in with_own:
            found.leave_out(parts_of, f"{side}/")


def _plain(name: str) -> str:
    return re.sub(r"[-_ .]", "", name.casefold())


def told(passed_over: Mapping[str, int], unreadable: Mapping[str, str] | None = None) -> list[str]:
    """Return lines that say what was passed over; none where nothing was."""
    lines = []
    ranked = sorted(passed_over.items(), key=lambda pair: (-pair[1], pair[0]))
    parts = [f"{n} in {kind}" if kind.endswith("/") else f"{n} {kind}" for kind, n in ranked]
    if len(parts) > _MOST_KINDS:
        rest = sum(n for _, n in ranked[_MOST_KINDS:])
        parts = [*parts[:_MOST_KINDS], f"{rest} of other kinds"]
    if parts:
        heic = {".heic", ".heif", ".hif"} & passed_over.keys() and not is_readable("HEIC")
        lines.append(f"passed over: {', '.join(parts)}" + (f"; {HEIC_HINT}" if heic else ""))
    lines += [f"{where} cannot be read ({why})" for where, why in (unreadable or {}).items()]
    if len(lines) > _MOST_NAMED + 1:
        lines[_MOST_NAMED + 1 :] = [f"{len(lines) - _MOST_NAMED - 1} more folders cannot be read"]
    return lines


def classes_of(pictures: Iterable[Parts]) -> list[str]:
    """Return the names of the sub-folders that hold pictures, sorted."""
    return sorted({parts[0] for parts in pictures if len(parts) > 1})


def no_classes(
    where: str, pictures: Collection[Parts], others: Collection[str] = frozenset()
) -> str:
    """Return why the sub-folders of a folder are no classes, and what helps; empty if they are.

    Args:
        where: The folder, as messages name it.
        pictures: Its pictures.
        others: Suffixes of its other files, which may be lists of what the pictures show.
    """
    names = classes_of(pictures)
    kinds = {name: kind_of_folder(name) for name in names}
    direct = {parts[0] for parts in pictures if len(parts) == 2}
    below: dict[str, set[str]] = {name: set() for name in names}
    for parts in pictures:
        if len(parts) > 2:
            below[parts[0]].add(parts[1])
    odd = [name for name in names if kinds[name]]
    if not odd:
        if len(names) != 1 or names[0] in direct:
            return ""
        inner = _real_classes(below[names[0]])
        if not inner:  # one folder around a dataset, as that of a project
            return _no_class_in(where, names[0], pictures)
        return (
            f"{where} holds one folder, {names[0]}/, with {some(inner)} in it; did you mean "
            f"{where}/{names[0]}? If {names[0]} is the class, name it with --label"
        )
    # A split with classes in it is none itself; one flat folder of that name may be.
    deep = [name for name in odd if name not in direct and _real_classes(below[name])]
    if len(odd) < len(names) and not any(kinds[name] == SPLIT for name in deep):
        return ""
    what = _WHAT[Counter(kinds[name] for name in odd).most_common(1)[0][0]]
    text = f"{where} holds {_all(odd)}, {what} and no class; "
    if deep:
        first = next((name for name in deep if _plain(name).startswith("train")), deep[0])
        text += f"did you mean {where}/{first}? "
        if len(deep) > 1 or len(odd) > 1:
            text += f"`edgecl import {where}` learns {first}/ and leaves out the others"
    else:
        if ".json" in others:
            text += f"`edgecl import {where}` reads its list if that is COCO's; else "
        elif any(kind_of_folder(name) == PART for name in _all_names(pictures)):
            text += "boxes and outlines are not learned, a picture has one class: "
        text += "put the pictures into a folder a class, or name the one class with --label"
        if ".csv" in others:
            text += "; a .csv with path,label is learned, too"
    return f"{text}. If these are classes: `edgecl import {where} --format imagefolder`"


def _no_class_in(where: str, name: str, pictures: Collection[Parts]) -> str:
    """Return why a folder that holds all pictures is no class: it holds splits or parts."""
    inner = [parts[1:] for parts in pictures if len(parts) > 2 and parts[0] == name]
    kinds = {kind_of_folder(parts[0]) for parts in inner if len(parts) > 1}
    return no_classes(f"{where}/{name}", inner) if kinds <= {SPLIT, PART} else ""


def warnings_of(where: str, pictures: Collection[Parts]) -> list[str]:
    """Return what is learned from a folder and may not be meant."""
    names = classes_of(pictures)
    odd = [name for name in names if kind_of_folder(name)]
    lines = []
    if odd:
        verb = "is taken as a class" if len(odd) == 1 else "are taken as classes"
        lines.append(f"{_all(odd)} in {where} {verb} like the others; leave out what is none")
    if len(names) > 1 and not any(len(parts) == 2 for parts in pictures):
        lines.append(f"all pictures of {where} lie deeper: each of {some(names)} is one class")
    copies = [name for name in names if _COPY.sub("", name, count=1) in {*names} - {name}]
    if copies:
        lines.append(f"{_all(copies)} in {where} may be copies, and are taken as classes")
    splits = sorted({p for parts in pictures for p in parts[1:-1] if kind_of_folder(p) == SPLIT})
    if len(splits) > 1:
        lines.append(f"{_all(splits)} lie below the classes of {where}: all of them are taken")
    return lines


def unnamed_tries(pictures: Sequence[Parts]) -> list[Parts]:
    """Return the pictures of `train/` in Frigate's library of faces: nobody has named them.

    Beside folders of persons Frigate (0.16 and later) keeps attempts, as .webp, in `train/`; a
    class `train` among vehicles has other files.
    """
    others = {parts[0] for parts in pictures if len(parts) > 1} - {"train"}
    tries = [parts for parts in pictures if parts[0] == "train" and len(parts[1:]) == 1]
    is_frigate = others and all(parts[-1].lower().endswith(".webp") for parts in tries)
    return tries if is_frigate and not any(map(kind_of_folder, others)) else []


def some(names: Sequence[str]) -> str:
    """Return the first five names as a text."""
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")


def _real_classes(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not kind_of_folder(name))


def _all(names: Sequence[str]) -> str:
    """Return folders as a text: a/, b/ and c/."""
    shown = [f"{name}/" for name in names[: 2 * _MOST_NAMED]]
    if len(names) > len(shown):
        shown.append(f"{len(names) - len(shown)} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _all_names(pictures: Iterable[Parts]) -> set[str]:
    return {part for parts in pictures for part in parts[:-1]}
