"""What a live source is made of: one connection to a peer, its frames, and what became of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from edgecl.errors import SourceError
from edgecl.types import Pixels


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """What one frame of a connection holds; `LiveSource` makes a `Frame` of it.

    Args:
        encoded: The bytes of a picture file, or None.
        pixels: RGB picture, shape (H, W, 3), uint8, or None. One of the two must be there.
        label: Class name, if the peer says one.
        id: Its name, if the peer gives one that no other frame has; None numbers it.
        time: Wall clock when it was taken, if the peer says it; None takes the moment it came.
        thing: What it shows is the same thing as in all frames that say this; empty if unknown.
    """

    encoded: bytes | None = None
    pixels: Pixels | None = None
    label: str | None = None
    id: str | None = None
    time: float | None = None
    thing: str = ""


class Lost(Exception):
    """A connection that broke or could not be made, in one line; it is made anew."""


class Refused(SourceError):
    """A login or certificate that the peer refuses: trying again may lock an account.

    An error at once; from a source that has given frames before it is tried again after minutes.
    """


class Connection(Protocol):
    """One connection to a peer, made by `connect` at no cost and opened by iterating it."""

    def __iter__(self) -> Iterator[Shot | None]:
        """Open the connection and yield its frames as they come; None says: alive, nothing new.

        It returns when the stream is over for good, and raises

        * `Lost` or `OSError`: gone, or not there yet; it is tried again.
        * `SourceError`: refused in a way that waiting does not mend (wrong name, no permission).
          The source fails with it, except when frames came before: then it is tried again too.
        * any other `EdgeclError`: the source fails with it.
        """
        ...

    def close(self) -> None:
        """End it at once, from any thread and more than once; wakes who iterates it."""
        ...


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the frames of a live source so far.

    Args:
        received: Whole frames that came.
        dropped: Frames that a newer one replaced before they were taken.
        repeated: Frames that were sent once more, and not used again.
        broken: Frames that were cut or damaged.
        oversize: Frames that were larger than the limit, and not kept in memory.
        not_pictures: Parts of a stream that are no pictures.
        reconnects: Connections after the first that gave frames.
        stalls: Connections that were ended because nothing came.
        still: Frames that showed what the last one showed, and were not looked at (motion.py).
    """

    received: int = 0
    dropped: int = 0
    repeated: int = 0
    broken: int = 0
    oversize: int = 0
    not_pictures: int = 0
    reconnects: int = 0
    stalls: int = 0
    still: int = 0


class Counters:
    """`Counts` that several threads add to, and why frames were left out.

    Args:
        tell: Told one line the first time that something is left out for a reason.
    """

    def __init__(self, tell: Callable[[str], None] = lambda text: None) -> None:
        self._lock = threading.Lock()
        self._counts = Counts()
        self._n_bytes = 0
        self._last = ("", "")
        self._told: set[str] = set()
        self._tell = tell

    def add(self, name: str, n: int = 1, *, why: str = "") -> None:
        """Add to the count of that name.

        Args:
            name: A field of `Counts`.
            n: How many.
            why: In a few words, what is wrong with a frame that was left out.
        """
        with self._lock:
            self._counts = replace(self._counts, **{name: getattr(self._counts, name) + n})
            if not why:
                return
            self._last = (name, why)
            is_first = name not in self._told
            self._told.add(name)
        if is_first:
            kind = {"not_pictures": "part"}.get(name, "picture")
            self._tell(f"a {kind} was left out ({why}); more of them are counted as `{name}`")

    def came(self, n_bytes: int) -> None:
        """Note bytes that came."""
        self._n_bytes += n_bytes

    def read(self) -> Counts:
        """Return all counts as they stand now."""
        return self._counts

    def mark(self) -> tuple[int, int]:
        """Return what to give to `since` later."""
        return self._n_left_out(), self._n_bytes

    def since(self, mark: tuple[int, int], seconds: float) -> str:
        """Say what came in a time in which no frame came, in one line."""
        n, n_bytes = self._n_left_out() - mark[0], self._n_bytes - mark[1]
        name, why = self._last
        if n:
            what = {"oversize": "none is small enough", "not_pictures": "none is a picture"}
            parts = "1 part" if n == 1 else f"{n} parts"
            return (
                f"{parts} came in {seconds:g} s, {what.get(name, 'none is a whole JPEG')} ({why})"
            )
        if n_bytes:
            return f"{n_bytes / 1000:.1f} kB came in {seconds:g} s and no picture in them"
        return f"nothing came for {seconds:g} s"

    def _n_left_out(self) -> int:
        return self._counts.broken + self._counts.oversize + self._counts.not_pictures
