"""Recent frames that nobody has named yet, with their features; the oldest go first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from edgecl.runtime.pipeline import Embedded

MOST_FRAMES = 10_000


class RecentFrames:
    """Bounded memory of unlabelled frames.

    Args:
        max_bytes: Most bytes of pictures and features.
        max_frames: Most frames.
    """

    def __init__(self, max_bytes: int, max_frames: int = MOST_FRAMES) -> None:
        self._max_bytes = max_bytes
        self._max_frames = max_frames
        self._items: deque[tuple[Embedded, float]] = deque()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Embedded, moment: float) -> None:
        """Keep one frame that came at a wall-clock moment."""
        self._items.append((item, moment))
        self.size_bytes += _size(item)
        while self._items and (
            self.size_bytes > self._max_bytes or len(self._items) > self._max_frames
        ):
            self.size_bytes -= _size(self._items.popleft()[0])

    def take(self, holds: Callable[[float], bool], source: str | None = None) -> list[Embedded]:
        """Take out the frames whose moment is held, oldest first.

        Args:
            holds: Says so of a moment.
            source: The one of several sources whose frames are meant; None means all.
        """

        def is_meant(entry: tuple[Embedded, float]) -> bool:
            return holds(entry[1]) and source in (None, entry[0].frame.source)

        taken = [entry[0] for entry in self._items if is_meant(entry)]
        if taken:
            self._items = deque(entry for entry in self._items if not is_meant(entry))
            self.size_bytes -= sum(map(_size, taken))
        return taken

    def clear(self) -> None:
        """Drop all: their features are of another map, or of what was unlearned."""
        self._items.clear()
        self.size_bytes = 0


def _size(item: Embedded) -> int:
    frame = item.frame
    picture = len(frame.encoded or b"") + (0 if frame.pixels is None else frame.pixels.nbytes)
    return picture + item.feature.nbytes
