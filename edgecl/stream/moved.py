"""Frames of a live stream that have moved away from what was learned: told once, and on record."""

from __future__ import annotations

import time
from collections import deque

from edgecl.drift import Drift, Moved, open_drift
from edgecl.learner import Learner
from edgecl.store.changes import add_change
from edgecl.stream.events import Drifted, Event
from edgecl.types import Float32

# Reading all kept rows anew may take this share of the time.
_MOST_SHARE = 0.02
_FEWEST_SECONDS = 30.0
_EVERY_S = 1.0


class Movement:
    """Asks one frame a second whether the stream has moved.

    Args:
        learner: Its head says what a frame is taken for, its store what is usual.
        stages: Widths of the blocks of the feature.
        events: Where it is told.
        is_recorded: Whether it becomes a change of the home.
    """

    def __init__(
        self,
        learner: Learner,
        stages: tuple[int, ...],
        events: deque[Event],
        *,
        is_recorded: bool,
    ) -> None:
        self._learner, self._stages, self._events = learner, stages, events
        self._is_recorded = is_recorded
        self.ratio = 0.0
        """T of the newest window over its threshold; 0 before the first."""
        self._is_moved = False
        self.forget()

    def forget(self) -> None:
        """Drop what was kept of the store: it lost some."""
        self._drift: Drift | None = None
        self._version = -1
        self._again_at = self._next_at = 0.0

    def look(self, x: Float32, at: float) -> None:
        """Take in a frame's plain feature (D,), which was taken at a time in seconds."""
        if at < self._next_at:
            return
        self._next_at = at + _EVERY_S
        self._refresh()
        head = self._learner.head
        if self._drift is None or not head.classes:
            return
        best = head.classes[int(head.predict_many(x[None]).argmax())]
        moved = self._drift.add(x, best)
        if moved is None:
            return
        self.ratio = moved.ratio
        if (moved.ratio > 1) != self._is_moved and (moved.ratio > 1 or moved.ratio < 1 / 1.5):
            self._is_moved = not self._is_moved
            self._tell(moved)

    def _tell(self, moved: Moved) -> None:
        self._events.append(Drifted(moved.ratio, moved.cause, is_over=not self._is_moved))
        if self._is_recorded:
            store = self._learner.store
            with store.transaction(changes_head=False):
                body = {"ratio": round(moved.ratio, 3), "block": moved.block + 1}
                add_change(store, "drift", body=body | {"is_over": not self._is_moved})

    def _refresh(self) -> None:
        begin, store = time.monotonic(), self._learner.store
        if self._version == store.version or begin < self._again_at:
            return
        self._version = store.version
        new = open_drift(self._learner, self._stages)
        self._drift = new if self._drift is None else self._drift.followed_by(new)
        now = time.monotonic()
        self._again_at = now + max(_FEWEST_SECONDS, (now - begin) / _MOST_SHARE)
