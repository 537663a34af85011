"""Frames of a live stream that look like nothing learned: told, and offered for review."""

from __future__ import annotations

import time
from collections.abc import Callable

from edgecl.errors import RequestError
from edgecl.novelty import open_novelty
from edgecl.runtime.grid import quantise
from edgecl.runtime.novelty import Novelty
from edgecl.store.novel import offer
from edgecl.store.store import Store
from edgecl.types import Float32, Frame

# Reading all kept rows anew may take this share of the time, and is not done more often than that.
_MOST_SHARE = 0.02
_FEWEST_SECONDS = 5.0
# Frames of one scene are alike, and each that is offered is compared with the whole queue.
_OFFER_EVERY_S = 0.2


class Unknowns:
    """Scores frames against what the store holds, as of a few seconds ago.

    By the distance alone: to leave the kept samples out of the head would hold up the stream.

    Args:
        store: Open store.
        encoded: Gives a frame's picture as it is kept.
    """

    def __init__(self, store: Store, encoded: Callable[[Frame], bytes]) -> None:
        self._store = store
        self._encoded = encoded
        self.forget()

    def forget(self) -> None:
        """Read the store anew before the next frame."""
        self._novelty: Novelty | None = None
        self._version = -1
        self._again_at = 0.0
        self._offer_at = 0.0

    def look(self, frame: Frame, x: Float32) -> bool:
        """Whether a frame with its feature (D,) is unknown; one that is goes to the review queue.

        While too little is learned for a threshold, nothing is unknown.
        """
        self._refresh()
        if self._novelty is None:
            return False
        score = float(self._novelty.scores(x[None])[0])
        if score <= self._novelty.threshold:
            return False
        if time.monotonic() >= self._offer_at:
            self._offer_at = time.monotonic() + _OFFER_EVERY_S
            self._offer(frame, x, score)
        return True

    def _offer(self, frame: Frame, x: Float32, score: float) -> None:
        assert self._novelty is not None
        (label,) = self._novelty.nearest(x[None])
        with self._store.transaction(changes_head=False):
            offer(
                self._store,
                picture=self._encoded(frame),
                x=quantise(x[None])[0],
                guess=self._store.class_uid(label),
                score=score,
                source=frame.source,
                frame=frame.id,
                time=frame.time or time.time(),
            )

    def _refresh(self) -> None:
        begin = time.monotonic()
        if self._version == self._store.version or begin < self._again_at:
            return
        self._version = self._store.version
        try:
            self._novelty = open_novelty(self._store)
        except RequestError:
            self._novelty = None
        now = time.monotonic()
        self._again_at = now + max(_FEWEST_SECONDS, (now - begin) / _MOST_SHARE)
