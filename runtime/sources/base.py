"""What every source of frames does, and the reading of files that they share."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from edgecl.errors import SourceError, UsageError
from edgecl.types import Frame, Skipped

from ..faults import in_words, is_lost, is_of_machine
from ..frigate import Frigate
from ..options import Part
from .connection import Counts
from .messages import LabelFeed

# By which a file is taken for a picture unread; any other is by its first bytes (formats.py).
PICTURE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .bmp .webp .tif .tiff .gif .ppm .pgm .pbm .pnm".split()
)

# The id of a position, and what makes its frame when its turn comes.
Item = tuple[str, Callable[[], Frame | Skipped]]


class Source(ABC):
    """A sequence of frames, and what it says of itself; whoever reads one asks for nothing else.

    A finite one can be read again from any position, and every position yields one item. A stream
    (standard input) can be, if the same comes again, and ends nobody knows where. A live one
    (camera, network) makes frames whether anybody takes them or not: the newest waits, older ones
    are dropped and counted. It has no positions: `frames` begins with what comes next, and `ids`
    is empty.
    """

    kind: Literal["finite", "stream", "live"] = "finite"
    name: str
    """As the user named it, without secrets."""
    is_film = False
    """Whether its frames follow each other in time, so that many show the same."""
    no_label = "it has no label; name its class with --label"
    """Why a frame without a label has none, and what to do."""
    class_names: Sequence[str] | None = None
    """Classes of its frames; None where only the frames say them."""
    passed_over: Mapping[str, int] = MappingProxyType({})
    """How many files it passed over, by kind; see layouts.py."""
    notes: Sequence[str] = ()
    """What a person should know before it is learned: what was passed over, what is odd."""
    feed: LabelFeed | None = None
    """Labels and commands that come with the frames."""
    counts = Counts()
    """What became of the frames so far, where some may be lost."""
    answers: Sequence[Frigate] = ()
    """Where what is seen is written back."""
    parts: Mapping[str, Part] = MappingProxyType({})
    """The sources that it is made of, by the names their frames carry; none where it is one."""
    by_source: Mapping[str, Mapping[str, int]] = MappingProxyType({})
    """What became of the frames of each of them."""
    lost: frozenset[str] = frozenset()
    """Those of its sources whose peer was there and is away; the only one has no name."""
    on_news: Callable[[str], None] | None = None
    """Told one line, without secrets, from any thread, when its peer comes or goes."""

    @property
    def is_live(self) -> bool:
        """Whether its frames come once, and when they like."""
        return self.kind == "live"

    def take_every(self, seconds: float) -> None:
        """Give a frame only every so many seconds; asked for before the first frame.

        Raises:
            UsageError: Its frames do not follow each other in time.
        """
        raise UsageError(
            f"--every {seconds:g}s is for films and cameras; every picture of {self.name} is taken"
        )

    @abstractmethod
    def __len__(self) -> int:
        """Frames in all, or 0 when that is not known."""

    @abstractmethod
    def frames(self, start: int = 0) -> Iterator[Frame | Skipped]:
        """Yield what stands at `start` and after it, in order; every position yields one item."""

    @abstractmethod
    def ids(self, stop: int) -> Iterator[str]:
        """Yield the ids of the first `stop` positions; a stream may have to be read for it."""

    def close(self) -> None:  # noqa: B027  (most have nothing to close)
        """End its threads, if it has some; `frames` ends."""


class ListSource(Source):
    """A source whose items are known beforehand.

    Args:
        name: The source as the user named it.
        items: One (id, read) a position; `read` makes the frame when its turn comes.
        shuffle_seed: Seed of the order, None keeps it.
        labels: The class of every item, None where it has none or cannot be one.
    """

    def __init__(
        self,
        name: str,
        items: Sequence[Item],
        *,
        shuffle_seed: int | None = None,
        labels: Iterable[str | None] = (),
    ) -> None:
        self.name = name
        self.class_names = tuple(dict.fromkeys(label for label in labels if label is not None))
        self.notes: list[str] = []
        self._items = items
        self._order = order(len(items), shuffle_seed)

    def __len__(self) -> int:
        return len(self._items)

    def ids(self, stop: int) -> Iterator[str]:
        """Yield the ids of the first `stop` positions."""
        for i in self._order[:stop]:
            yield self._items[i][0]

    def frames(self, start: int = 0) -> Iterator[Frame | Skipped]:
        """Yield the frames from position `start` on."""
        for i in self._order[start:]:
            name, read = self._items[i]
            try:
                yield read()
            except UsageError as error:  # a label that cannot be one
                yield Skipped(name, str(error))


def order(n: int, shuffle_seed: int | None) -> Sequence[int]:
    """Return the order in which n items are visited."""
    if shuffle_seed is None:
        return range(n)
    permuted: list[int] = np.random.default_rng(shuffle_seed).permutation(n).tolist()
    return permuted


def local(folder: Path, name: str) -> Path:
    """Return the place of a file in a list, also where Windows wrote the list with backslashes."""
    place = folder / name
    if "\\" in name and not os.path.lexists(place):
        return folder / name.replace("\\", "/")
    return place


def read_frame(
    path: Path, *, id: str, label: str | None, source: str, max_bytes: int
) -> Frame | Skipped:
    """Read one picture file; what cannot be read is skipped and named."""
    try:
        stat = path.stat()
        if not path.is_file():
            return Skipped(id, "not a regular file")
        if stat.st_size > max_bytes:
            return Skipped(
                id,
                f"{stat.st_size / 1e6:.1f} MB are more than the limit of {max_bytes / 1e6:g} MB; "
                "picture.max_megabytes in edgecl.toml sets it",
            )
        data = path.read_bytes()
    except ValueError as error:  # a zero byte or half a character in the name
        return Skipped(id, f"cannot be read ({error})")
    except OSError as error:
        if is_of_machine(error):
            raise SourceError(f"{path} cannot be read {in_words(error)}") from error
        why = f"({error.strerror or error})" if is_lost(error) else in_words(error)
        return Skipped(id, f"cannot be read {why}")
    return Frame(id=id, encoded=data, label=label, source=source, time=stat.st_mtime)
