"""What lies in a folder, by content: pictures, and how many other files of each kind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgecl.errors import SourceError

from ..faults import in_words
from ..formats import HEIC_HINT, is_readable, kind_of_file
from .layouts import (
    MOST_NAMED,
    NO_BOXES,
    SYSTEM,
    Parts,
    kind_of_folder,
    kind_of_other,
    may_be_picture,
    sides_of,
    to_do,
)  # fmt: skip

# Boxes and outlines of YOLO, Pascal VOC and labelme, a file a picture.
_BOX_SUFFIXES = (".txt", ".xml", ".json")
_MOST_KINDS = 12
_ARCHIVES = (".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_FILMS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mts", ".3gp", ".wmv")


@dataclass(slots=True)
class Found:
    """What lies in a folder.

    Args:
        pictures: Pictures by their parts, sorted; `Skipped` names what cannot be decoded later.
        passed_over: How many other files there are of each kind: a suffix, `hidden`, or a folder
            (`@eaDir/`) with all that lies in it.
        unreadable: Folders that cannot be looked into, and why; each is counted as one, too.
        beside: How many pictures have a file of their name beside them, by its suffix: a detection
            set's boxes, as a rule.
        folders: Its sub-folders that could be classes.
    """

    pictures: list[Parts] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, str] = field(default_factory=dict)
    beside: Counter[str] = field(default_factory=Counter)
    folders: set[str] = field(default_factory=set)

    def empty(self) -> list[str]:
        """Return a line on the sub-folders beside classes that hold no picture, if there are."""
        with_some = {parts[0] for parts in self.pictures if len(parts) > 1}
        none = sorted(name for name in self.folders - with_some if not kind_of_folder(name))
        names = ", ".join(f"{name}/" for name in none[:MOST_NAMED])
        more = f" and {len(none) - MOST_NAMED} more" if len(none) > MOST_NAMED else ""
        is_told = with_some and none
        return [f"no picture is in {names}{more}, so no class is made of it"] if is_told else []

    def leave_out(self, parts: Iterable[Parts], kind: str) -> None:
        """Count pictures as passed over."""
        gone = set(parts)
        self.pictures = [p for p in self.pictures if p not in gone]
        if gone:
            self.passed_over[kind] += len(gone)


def look(folder: Path, *, above: tuple[str, ...] = ()) -> Found:
    """Return what lies in a folder, by content; links are followed, but never back.

    Args:
        folder: The folder.
        above: Real paths of folders on the way to it.

    Raises:
        SourceError: The folder itself cannot be read.
    """
    found = Found()
    boxes: list[tuple[Parts, str, str]] = []
    waiting: list[tuple[Parts, str, Parts]] = [((), "", (*above, os.path.realpath(folder)))]
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
                    if not base and not kind:
                        found.folders.add(entry.name)
                    waiting.append((parts, kind, (*way, real)))
            elif over:
                found.passed_over[over] += 1
            elif _is_picture(entry):
                found.pictures.append(parts)
            else:
                kind = kind_of_other(entry.name)
                found.passed_over[kind] += 1
                if kind in _BOX_SUFFIXES:
                    boxes.append((base, os.path.splitext(entry.name)[0], kind))
    found.pictures.sort()
    own = {(p[:-1], os.path.splitext(p[-1])[0]) for p in found.pictures} if boxes else set()
    found.beside.update(kind for base, stem, kind in boxes if (base, stem) in own)
    sides = sides_of(found.pictures)
    for side in sorted(set(sides.values())):
        found.leave_out((parts for parts, kind in sides.items() if kind == side), side)
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
    if len(lines) > MOST_NAMED + 1:
        lines[MOST_NAMED + 1 :] = [f"{len(lines) - MOST_NAMED - 1} more folders cannot be read"]
    return lines


def other_files(where: Path, passed_over: Mapping[str, int]) -> str:
    """Return what to do with a folder of archives or films; empty where it holds none."""
    film = next((kind for kind in _FILMS if passed_over.get(kind)), "")
    if passed_over.get(".zip") or passed_over.get(".tm"):
        return f"`edgecl import FILE` reads the .zip and .tm files in {where} one by one"
    if film:
        return (
            f"`edgecl train-stream FILE --label NAME` learns the {film} files in {where} one by one"
        )
    return ""


def no_label(where: str, found: Found, *, is_import: bool = False) -> str:
    """Return why pictures that lie in no sub-folder have no label, and what to do.

    Args:
        where: The folder, as messages name it.
        found: What lies in it.
        is_import: Whether `import` says so, which looked for lists and takes no label.
    """
    if n := found.beside.total():
        kinds = ", ".join(sorted(found.beside))
        return f"{n} have a {kinds} file beside them, which is not read: {NO_BOXES}{to_do()}"
    if is_import:
        return (
            "they lie in no sub-folder, and no list that is known names them; put them into a "
            "folder a class, or use `edgecl train-stream` with a .csv of path,label or with --label"
        )
    if ".csv" in found.passed_over and any(len(parts) == 1 for parts in found.pictures):
        return (
            "it lies in no sub-folder; name the .csv if it has path,label; `edgecl import "
            f"{where}` reads Roboflow's _classes.csv; or name the one class with --label"
        )
    return "it has no label; put it into a sub-folder or name its class with --label"


def unknown(path: Path) -> str:
    """Return what helps with a dataset of no known format."""
    suffix = path.suffix.lower()
    if path.is_file():
        if suffix in (".zip", ".tm"):
            return f"it is no whole {suffix}; was it copied or downloaded to its end?"
        if suffix in _ARCHIVES:
            return "unpack it and name the folder"
        return "expected a folder, a .zip, a .tm or a .json file"
    there = look(path)
    if there.pictures:
        n = len(there.pictures)
        return f"of {n} pictures in it: {no_label(str(path), there, is_import=True)}"
    if others := other_files(path, there.passed_over):
        return others
    return "expected a sub-folder a class, or name one with --format"
