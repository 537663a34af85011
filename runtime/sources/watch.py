"""`watch:DIR`: the picture files that come into a folder, in the order in which they come.

A queue, not a camera: no file is dropped, and nothing ends it but `close`. A file is read when its
size and time have stood still between two looks, so one that is being written is waited for; tools
that write to a hidden or `.part` name and rename it are passed over until they do. What is no
picture by its content is passed over and counted; folders of systems are (layouts.py), too.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from edgecl.errors import SourceError, UsageError
from edgecl.types import Frame, Skipped

from ..faults import in_words
from ..formats import is_readable, kind_of_file
from .base import read_frame
from .layouts import (
    SYSTEM,
    classes_of,
    kind_of_folder,
    kind_of_other,
    may_be_picture,
    no_classes,
)
from .live import LiveBase

PREFIX = "watch:"
_LOOK_S = 0.2
# A look at very many files takes long; no more than this share of the time goes into looking.
_LOOK_SHARE = 0.2

_Sign = tuple[int, int, int]
"""Inode, time of change in nanoseconds and size: what differs when a file is another."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look found: pictures by name, and what could not be looked at; `device` of DIR."""

    pictures: dict[str, _Sign]
    unseen: tuple[str, ...]
    device: int


@dataclass(slots=True)
class _Known:
    """A file that lies in the folder; `digest` is b"" as long as nobody read it."""

    sign: _Sign
    is_due: bool
    version: int = 1
    digest: bytes = b""


class WatchSource(LiveBase):
    """New pictures of a folder; a sub-folder is a class, as in a folder source.

    Where all sub-folders are splits, parts of a dataset or those of a camera (layouts.py), pictures
    come without a label.

    Pictures that were there when it was opened are not yielded. One that is replaced or changed
    later is a new one, under the name `NAME#2`, unless its bytes are the same. A file that is gone
    before its turn is skipped and named. What is remembered is bounded by what lies in the folder.

    Args:
        folder: Where to look, with all folders in it.
        label: Class of all frames, instead of the sub-folder.
        max_bytes: Larger files are skipped unread.
        look_s: Seconds between two looks.

    Raises:
        SourceError: Not a folder, or it cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        label: str | None = None,
        max_bytes: int = 64_000_000,
        look_s: float = _LOOK_S,
    ) -> None:
        super().__init__(f"{PREFIX}{folder}")
        self._folder = folder
        self._label = label
        self._max_bytes = max_bytes
        self._look_s = look_s
        self._closed = threading.Event()
        self._is_lost = False
        try:
            found = _look(folder)
        except OSError as error:
            raise SourceError(f"{PREFIX}{folder} cannot be watched {in_words(error)}") from error
        self._device = found.device
        self._known = {name: _Known(sign, is_due=False) for name, sign in found.pictures.items()}
        self._odd: set[str] = set()
        """Sub-folders that a person was told of: they may be no classes."""
        self.passed_over: Counter[str] = Counter()
        self.notes: list[str] = []
        if label is None:
            there = [tuple(name.split("/")) for name in found.pictures]
            if why := no_classes(str(folder), there):
                self.notes.append(f"{PREFIX}{why}")

    def frames(self, start: int = 0) -> WatchFrames:
        """Return the pictures that came since it was opened and those still to come.

        Args:
            start: Not used, it has no positions.
        """
        self._closed = threading.Event()
        return WatchFrames(self._frames(self._closed), self._closed)

    def close(self) -> None:
        """End `frames`, from any thread; what it has not yielded is left to its next call."""
        self._closed.set()

    def _frames(self, closed: threading.Event) -> Iterator[Frame | Skipped]:
        while not closed.is_set():
            begin = time.monotonic()
            for name in self._ready():
                if closed.is_set():
                    return
                item = self._read(name)
                if item is not None:
                    yield item
            took = time.monotonic() - begin
            closed.wait(max(self._look_s, took / _LOOK_SHARE))

    def _ready(self) -> list[str]:
        """Look once; return the files that are due and stood still, oldest first."""
        try:
            found = _look(self._folder)
            if found.device != self._device and not found.pictures:
                # Its file system was taken off: what was known is not gone, and no news later.
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        except OSError as error:
            if not self._is_lost:
                self._is_lost = True
                self._tell(f"it cannot be looked at ({error.strerror}); waiting for it")
            return []
        if self._is_lost:
            self._is_lost = False
            self._tell("it is there again")
        self._device = found.device
        ready = []
        for name, sign in found.pictures.items():
            known = self._known.get(name)
            if known is None:
                self._known[name] = _Known(sign, is_due=True)
            elif known.sign != sign:
                known.sign, known.is_due = sign, True
            elif known.is_due and sign[2] > 0:
                ready.append(name)
        for name in self._known.keys() - found.pictures.keys():
            if found.unseen and name.startswith(found.unseen):
                continue
            # One that was about to come is named; the rest need not be remembered any more.
            if self._known[name].is_due:
                ready.append(name)
            else:
                del self._known[name]
        return sorted(ready, key=lambda name: (self._known[name].sign[1], name))

    def _read(self, name: str) -> Frame | Skipped | None:
        """Read a file; None if it is the one that was read before."""
        known = self._known[name]
        parts = name.split("/")
        own = parts[0] if len(parts) > 1 else None
        known.is_due = False
        if may_be_picture(parts[-1]) is None and not is_readable(kind_of_file(self._folder / name)):
            self.passed_over[kind_of_other(parts[-1])] += 1
            return None
        if self._label is None and own is not None and kind_of_folder(own):
            own = self._class_of(own)
        try:
            item = read_frame(
                self._folder / name,
                id=name,
                label=own if self._label is None else self._label,
                source=self.name,
                max_bytes=self._max_bytes,
            )
        except UsageError as error:  # a folder whose name can be no class
            return Skipped(name, str(error))
        if isinstance(item, Skipped):
            return item
        self.counters.add("received")
        digest = hashlib.blake2b(item.encoded or b"", digest_size=16).digest()
        if digest == known.digest:
            self.counters.add("repeated")
            return None
        if known.digest:
            known.version += 1
            item = replace(item, id=f"{name}#{known.version}")
        known.digest = digest
        return item

    def _class_of(self, folder: str) -> str | None:
        """Return the class of a sub-folder that is one only among others; tell it once."""
        names = classes_of(tuple(known.split("/")) for known in self._known)
        is_class = not all(map(kind_of_folder, names))
        if folder not in self._odd:
            self._odd.add(folder)
            what = "is taken as a class like the others"
            if not is_class:
                what = "is no class's name: its pictures come without one; --label gives them one"
            self._tell(f"{folder}/ {what}")
        return folder if is_class else None


class WatchFrames(Iterator[Frame | Skipped]):
    """The pictures of one call of `WatchSource.frames`; may be closed from another thread."""

    def __init__(self, items: Iterator[Frame | Skipped], closed: threading.Event) -> None:
        self._items = items
        self._closed = closed

    def __next__(self) -> Frame | Skipped:
        return next(self._items)

    def close(self) -> None:
        """End the iteration, also a `next` that waits."""
        self._closed.set()


def open_watch(
    spec: str, /, *, label: str | None = None, max_bytes: int = 64_000_000
) -> WatchSource:
    """Open `watch:DIR`.

    Raises:
        UsageError: No folder is named.
        SourceError: Not a folder, or it cannot be read.
    """
    folder = spec[len(PREFIX) :]
    if not folder:
        raise UsageError(f"{PREFIX} names no folder; write {PREFIX}DIR")
    if not os.path.lexists(folder):
        folder = os.path.expanduser(folder)  # behind a : no shell does it
    return WatchSource(Path(folder), label=label, max_bytes=max_bytes)


def _look(folder: Path) -> _Seen:
    """Return the pictures in a folder by their names in it."""
    begun = os.stat(folder)
    found: dict[str, _Sign] = {}
    unseen: list[str] = []
    # Folders on the way to each, so that a link back is not followed for ever.
    waiting: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(folder),))]
    while waiting:
        base, way = waiting.pop()
        try:
            with os.scandir(folder / base) as entries:
                for entry in entries:
                    name = base + entry.name
                    if entry.name.startswith("."):
                        continue
                    try:
                        if entry.is_dir():
                            if kind_of_folder(entry.name) == SYSTEM:
                                continue
                            real = os.path.realpath(entry.path)
                            if real not in way:
                                waiting.append((f"{name}/", (*way, real)))
                        elif may_be_picture(entry.name) is not False and entry.is_file():
                            stat = entry.stat()
                            found[name] = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
                    except OSError:  # it went between being listed and being looked at
                        unseen.append(name)
        except OSError:
            if not base:
                raise
            unseen.append(base)
    ended = os.stat(folder)
    if (begun.st_dev, begun.st_ino) != (ended.st_dev, ended.st_ino):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return _Seen(found, tuple(unseen), begun.st_dev)
