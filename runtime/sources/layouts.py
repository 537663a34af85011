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
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from shlex import quote
from types import MappingProxyType

from ..formats import RAW_SUFFIXES
from .base import PICTURE_SUFFIXES

Parts = tuple[str, ...]
"""A file's path in a folder, as its parts."""

SPLIT, PART, CAMERA, UNNAMED, SYSTEM = "split", "part", "camera", "unnamed", "system"
_SPLITS = (
    "train training trainval val valid validation dev eval evaluation test testing testdev holdout "
    "unlabeled unlabelled"
)
_PARTS = (
    "image images img imgs imgs picture pictures photo photos jpegimages jpeg jpg png rgb frames "
    "data dataset datasets raw original originals default leftimg8bit objtraindata objvaliddata "
    "export exports output outputs results runs predict predictions crops "
    "obj vocdevkit vottcsvexport vottjsonexport"
)
# What systems call a folder that nobody has named, and where files lie until somebody sorts them.
_UNNAMED = (
    "newfolder newfolderwithitems untitledfolder unsorted downloads upload uploads "
    "neuerordner nouveaudossier nuevacarpeta nuovacartella novapasta nieuwemap nowyfolder "
    "новаяпапка 新建文件夹 新しいフォルダー 새폴더"
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
    "recycler recycled lost+found lost.dir __macosx __pycache__ node_modules site-packages venv "
    "~snapshot thumbs.db"
)
KINDS: dict[str, re.Pattern[str]] = {
    # `train`, `val2017`, `test_set`, `images-train`, `train_images`, and the folds of a cross-check
    SPLIT: re.compile(
        rf"(?:images?|imgs?)?(?:{'|'.join(_SPLITS.split())})(?:set|data|images?|imgs?)?(?:\d{{4}})?"
        r"|k?fold\d+|split\d+"
    ),
    PART: re.compile(
        rf"(?:{'|'.join((_PARTS + ' ' + _SIDES).split())})|(?:image|label|velodyne|calib)\d?"
    ),
    UNNAMED: re.compile(rf"(?:{'|'.join(_UNNAMED.split())})\d*"),
    CAMERA: re.compile(
        r"dcim|avchd|bdmv|mproot|m4root|private|cameraroll|camerauploads|screenshots|previews"
        r"|recordings|snapshots|whatsapp|whatsappimages|takeout|googlephotos|photosfrom\d{4}"
        r"|\d{3}(?:canon|apple|nikon|ncd\d\d|msdcf|olymp|pana|fuji|gopro|media|andro|ricoh|casio"
        r"|leica|sigma|pentx|samsu|sscam)"
    ),
}
# A day or a month, as recorders and FTP uploads write them.
_DATE = re.compile(
    r"(?:(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1[0-3]\d|(?:19|20)\d\d([-_.])1?\d\2[1-3]?\d"
    r"|[0-3]?\d([-_.])[0-3]?\d\3(?:19|20)\d\d)(?:[-_ t]\d\d(?:[-_.:h]?\d\d){1,2})?"
    r"|(?:19|20)\d\d[-_.][01]\d"
)
SIDE = re.compile("|".join(_SIDES.split()))
# A picture of the answer, or a small copy, by a word at the end of the picture's own name.
_SIDE_FILE = re.compile(
    r"(.+?)[-_ .](masks?|seg|segmentation|gt|ground[-_ ]?truth|depth|thumb|thumbnail)([-_ .]?\d+)*",
    re.IGNORECASE,
)
_SYSTEM_NAMES = frozenset(
    (*_SYSTEMS.split(), "system volume information", "network trash folder", "temporary items")
)
# A split with other words around it, which its neighbours have as well: `my_train` and `my_test`.
_SPLIT_WORD = re.compile(
    r"(?<![^\W\d_])(train(?:ing|val)?|val(?:id(?:ation)?)?|dev|eval(?:uation)?|test(?:ing)?|holdout)"
    r"(?:set|data)?(?![^\W\d_])"
)
_WHAT = {
    SPLIT: "splits of a dataset",
    PART: "parts of a dataset",
    CAMERA: "what a camera or recorder made",
    UNNAMED: "what nobody has named",
}
# Written under these names until they are whole, or copies that an editor left beside a picture.
HALF_WRITTEN = (".part", ".partial", ".filepart", ".crdownload", ".download", ".tmp", ".swp")
_COPIES = (".bak", ".old", ".orig", "_original", "~")
_NO_PICTURE = frozenset((*HALF_WRITTEN, *RAW_SUFFIXES))
# What Windows and browsers add to the name of a folder that is there already.
_COPY = re.compile(r"(( -)? (copy|kopie|copie|copia)( \d+)?)?( ?\(\d+\))?$", re.IGNORECASE)
NO_BOXES = "boxes and outlines are not learned, a picture has one class: "
MOST_NAMED = 5


def kind_of_folder(name: str) -> str:
    """Return `split`, `part`, `camera`, `unnamed` or `system` for a name that is no class's."""
    text = unicodedata.normalize("NFC", name).casefold()
    if text in _SYSTEM_NAMES or text.startswith(".") or re.fullmatch(r"found\.\d{3}", text):
        return SYSTEM
    if _DATE.fullmatch(text):
        return CAMERA
    text = plain(_COPY.sub("", text, count=1))
    return next((kind for kind, pattern in KINDS.items() if pattern.fullmatch(text)), "")


def kinds_of(names: Iterable[str]) -> dict[str, str]:
    """Return `kind_of_folder` of folders side by side; what a split is, its neighbours may tell.

    Those of which one is to train on and another is not, and whose names have the same letters
    around that word, are splits: `cups_train` and `cups_test`, `train80` and `test20`.
    """
    kinds = {name: kind_of_folder(name) for name in names}
    words: dict[str, dict[str, str]] = {}
    for name in kinds:
        text = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", unicodedata.normalize("NFC", name)).casefold()
        if (word := _SPLIT_WORD.search(text)) is not None:
            around = re.sub(r"[\W\d_]", "", text[: word.start()] + "_" + text[word.end() :])
            words.setdefault(around, {})[name] = word[1]
    for found in words.values():
        if len(set(found.values())) > 1 and any(map(is_to_train, found)):
            kinds |= {name: kinds[name] or SPLIT for name in found}
    return kinds


def is_to_train(name: str) -> bool:
    """Whether a split's name says that it is to train on."""
    return "train" in name.casefold()


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


def plain(name: str) -> str:
    """Return a folder's name without case, spaces and marks."""
    return re.sub(r"[-_ .]", "", name.casefold())


def classes_of(pictures: Iterable[Parts]) -> list[str]:
    """Return the names of the sub-folders that hold pictures, sorted."""
    return sorted({parts[0] for parts in pictures if len(parts) > 1})


def no_classes(
    where: str,
    pictures: Collection[Parts],
    others: Collection[str] = frozenset(),
    beside: Mapping[str, int] = MappingProxyType({}),
) -> str:
    """Return why the sub-folders of a folder are no classes, and what helps; empty if they are.

    Args:
        where: The folder, as messages name it.
        pictures: Its pictures.
        others: Suffixes of its other files, which may be lists of what the pictures show.
        beside: `Found.beside`.
    """
    names = classes_of(pictures)
    kinds = kinds_of(names)
    direct = {parts[0] for parts in pictures if len(parts) == 2}
    below: dict[str, set[str]] = {name: set() for name in names}
    for parts in pictures:
        if len(parts) > 2:
            below[parts[0]].add(parts[1])
    odd = [name for name in names if kinds[name]]
    if len(names) == 1 and names[0] not in direct:
        if why := _around(where, names[0], _real_classes(below[names[0]]), pictures):
            return why
    if len(names) > 1 and (name := _dataset_in(below, pictures)):
        return (
            f"{where} holds datasets, such as {name}/, and no classes; did you mean "
            f"{where}/{name}?" + _insist(where)
        )
    if not odd:
        n = sum(beside[kind] for kind in beside.keys() & {".txt", ".xml"})
        if len(names) == 1 and 2 * n > len(pictures):
            return f"{where} holds {names[0]}/ only, with boxes beside its pictures; " + to_do()
        return ""
    # A split with classes in it is none itself; one flat folder of that name may be.
    deep = {
        name: place
        for name in odd
        if name not in direct and not SIDE.fullmatch(plain(name))
        for place in _place_of_classes(name, pictures)
    }
    if len(odd) < len(names) and not any(kinds[name] == SPLIT for name in deep):
        return ""
    text = f"{where} holds {_all(odd)}, {_what([kinds[name] for name in odd])} and no class; "
    if deep:
        return text + _deeper(where, deep, kinds, is_alone=len(odd) == 1)
    boxes = beside or PART in map(kind_of_folder, (*_all_names(pictures), where.rpartition("/")[2]))
    return text + _lists(where, others, has_boxes=bool(boxes)) + _insist(where)


def _around(where: str, name: str, inner: Sequence[str], pictures: Collection[Parts]) -> str:
    """Return why the only folder is no class: it holds splits, parts or, as a project, classes."""
    if why := _no_class_in(where, name, pictures):
        return why
    if kind_of_folder(name) or not inner:
        return ""
    return (
        f"{where} holds one folder, {name}/, with {some(inner)} in it; did you mean "
        f"{where}/{name}? If {name} is the class, name it with --label"
    )


def _what(kinds: Sequence[str]) -> str:
    """Return what most of the folders are, in words."""
    what = _WHAT[Counter(kinds).most_common(1)[0][0]]
    if len(kinds) == 1:
        what = what.replace("splits", "a split").replace("parts", "a part")
    return what


def _place_of_classes(name: str, pictures: Collection[Parts]) -> list[str]:
    """Return the folder in a split or part that has classes in it, as a path; empty if none has.

    It may be the only one in others: `train/images`, `test_set/test_set`.
    """
    way: Parts = (name,)
    while True:
        n = len(way)
        inside = {parts[n] for parts in pictures if len(parts) > n + 1 and parts[:n] == way}
        around = {parts[n] for parts in pictures if len(parts) > n + 2 and parts[:n] == way}
        inner = [inside_ for inside_ in inside if not SIDE.fullmatch(plain(inside_))]
        if (
            len(inner) != 1
            or inner[0] not in around
            or not (kind_of_folder(inner[0]) or inner[0] == name)
        ):
            return ["/".join(way)] if _real_classes(inside) else []
        way = (*way, inner[0])


def _deeper(
    where: str, deep: Mapping[str, str], kinds: Mapping[str, str], *, is_alone: bool
) -> str:
    """Return which of the splits that hold classes is meant."""
    first = next(filter(is_to_train, deep), next(iter(deep)))
    text = f"did you mean {quote(f'{where}/{deep[first]}')}?"
    if not is_alone and kinds[first] == SPLIT and is_to_train(first):
        text += f" `edgecl import {quote(where)}` learns {first}/ and leaves out the others."
    return text + _insist(where)


def _lists(where: str, others: Collection[str], *, has_boxes: bool) -> str:
    """Return what may say what the pictures show, and what to do if nothing does."""
    text = ""
    if ".json" in others:
        text += f"`edgecl import {quote(where)}` reads its list if that is COCO's; else "
    elif has_boxes:
        text += NO_BOXES
    if ".csv" in others:
        text += f"`edgecl import {quote(where)}` reads Roboflow's _classes.csv; else "
    return text + to_do(", or write a .csv with path,label") + "."


def to_do(more: str = "") -> str:
    """Return what helps where no folder is a class."""
    return f"put the pictures into a folder a class, or name the one class with --label{more}"


def _insist(where: str) -> str:
    return f" If these are classes: `edgecl import {quote(where)} --format imagefolder`"


def _dataset_in(below: Mapping[str, set[str]], pictures: Collection[Parts]) -> str:
    """Return a sub-folder that is a dataset of its own: it has splits with classes, or tries."""
    suspects = {
        name: [parts[1:] for parts in pictures if parts[0] == name]
        for name, inside in below.items()
        if not kind_of_folder(name)
        and any(kind_of_folder(p) == SPLIT or plain(p) == "dataset" for p in inside)
    }
    for name, inner in suspects.items():
        splits = {
            parts[0]
            for parts in inner
            if len(parts) > 2 and kind_of_folder(parts[0]) and not kind_of_folder(parts[1])
        }
        if len(splits) > 1 or "dataset" in map(plain, splits) or unnamed_tries(inner):
            return name
    return ""


def _no_class_in(where: str, name: str, pictures: Collection[Parts]) -> str:
    """Return why a folder that holds all pictures is no class: it holds splits or parts."""
    inner = [parts[1:] for parts in pictures if len(parts) > 2 and parts[0] == name]
    kinds = {kind_of_folder(parts[0]) for parts in inner if len(parts) > 1}
    return no_classes(f"{where}/{name}", inner) if kinds <= {SPLIT, PART} else ""


def warnings_of(where: str, pictures: Collection[Parts]) -> list[str]:
    """Return what is learned from a folder and may not be meant."""
    names = classes_of(pictures)
    odd = [name for name, kind in kinds_of(names).items() if kind]
    lines = []
    if odd:
        verb = "is taken as a class" if len(odd) == 1 else "are taken as classes"
        lines.append(f"{_all(odd)} in {where} {verb} like the others; leave out what is none")
    if names and not any(len(parts) == 2 for parts in pictures):
        each = "each of " if len(names) > 1 else ""
        lines.append(f"all pictures of {where} lie deeper: {each}{some(names)} is one class")
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


def sides_of(pictures: Collection[Parts]) -> dict[Parts, str]:
    """Return what lies below classes and is no picture of them, and as what it is counted.

    That are folders of masks, labels and small copies where the class has pictures beside them, and
    files like `1_mask.png` beside `1.jpg`, unless the class itself is called so.
    """
    folders: dict[Parts, str] = {}
    stems = {(*parts[:-1], os.path.splitext(parts[-1])[0]) for parts in pictures}
    files: dict[Parts, str] = {}
    for parts in pictures:
        side = next((p for p in parts[1:-1] if SIDE.fullmatch(plain(p))), None)
        found = _SIDE_FILE.fullmatch(os.path.splitext(parts[-1])[0])
        if side is not None:
            folders[parts] = f"{side}/"
        elif found and len(parts) > 1 and (*parts[:-1], found[1]) in stems:
            if plain(found[2]).rstrip("s") not in plain("".join(parts[:-1])):
                files[parts] = "masks and the like"
    with_own = {parts[0] for parts in pictures if parts not in folders}
    return files | {parts: kind for parts, kind in folders.items() if parts[0] in with_own}


def some(names: Sequence[str]) -> str:
    """Return the first five names as a text."""
    return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")


def _real_classes(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not kind_of_folder(name))


def _all(names: Sequence[str]) -> str:
    """Return folders as a text: a/, b/ and c/."""
    shown = [f"{name}/" for name in names[: 2 * MOST_NAMED]]
    if len(names) > len(shown):
        shown.append(f"{len(names) - len(shown)} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _all_names(pictures: Iterable[Parts]) -> set[str]:
    return {part for parts in pictures for part in parts[:-1]}
