"""What a stream sees now, for who looks: the newest picture of every source with its answer.

The stream's thread puts things in and never waits. A picture is encoded only while somebody looks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgecl.runtime.thumbnail import small_jpeg
from edgecl.stream.view import Sight

LONGEST_SIDE = 640
# A look that is not renewed is over after this; encoding then stops.
_LOOK_S = 3.0


@dataclass(frozen=True)
class Picture:
    """A frame that was seen, and what was said of it.

    Args:
        n: Serial number, over all sources.
        source: Name of its source.
        sight: The frame.
        answer: JSON values: see `Sight.as_json`.
    """

    n: int
    source: str
    sight: Sight
    answer: dict[str, Any]

    @cached_property
    def jpeg(self) -> bytes:
        """The picture, at most 640 pixels long, JPEG; empty if it cannot be decoded.

        Encoded when it is first asked for, in the thread of who shows it and not the stream's.
        """
        return small_jpeg(self.sight.frame, LONGEST_SIDE)


Listener = Callable[[str, dict[str, Any]], None]


class Live:
    """The newest picture of every source, and news of the stream."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dict[str, Picture] = {}
        self._listeners: list[Listener] = []
        self._asked: dict[str, Future[dict[str, Any]]] = {}
        self._n = 0
        self._looked_at = -_LOOK_S
        self._state: dict[str, dict[str, Any]] = {}

    @property
    def state(self) -> dict[str, dict[str, Any]]:
        """The last news of each kind, for who comes later."""
        with self._lock:
            return dict(self._state)

    def look(self) -> None:
        """Say that somebody looks; to be said again every second while that is so."""
        self._looked_at = time.monotonic()

    def answer_to(self, frame: str) -> Future[dict[str, Any]]:
        """Return what will be said of a frame that is on its way, by its id."""
        answer: Future[dict[str, Any]] = Future()
        # Also if who asked waits no longer: the frame may have been none that could be used.
        answer.add_done_callback(lambda _: self._taken(frame))
        with self._lock:
            self._asked[frame] = answer
        return answer

    def _taken(self, frame: str) -> Future[dict[str, Any]] | None:
        with self._lock:
            return self._asked.pop(frame, None)

    @property
    def is_looked_at(self) -> bool:
        """Whether pictures are worth encoding."""
        return time.monotonic() - self._looked_at < _LOOK_S

    def show(self, sight: Sight) -> None:
        """Take in what was seen; in the stream's thread."""
        asked = self._taken(sight.frame.id)
        if asked is not None and asked.set_running_or_notify_cancel():
            asked.set_result(sight.as_json())
        if not self.is_looked_at:
            return
        with self._lock:
            self._n += 1
            answer = sight.as_json() | {"n": self._n}
            self._newest[sight.source] = Picture(self._n, sight.source, sight, answer)
        self._notify("frame", {"n": self._n, "source": sight.source})

    def newest(self, source: str | None = None) -> Picture | None:
        """Return the newest picture of a source, or of all; None without any."""
        with self._lock:
            found = [p for p in self._newest.values() if source is None or p.source == source]
        return max(found, key=lambda picture: picture.n, default=None)

    def drop(self) -> None:
        """Drop all pictures and news: something was unlearned, and they may show or name it."""
        with self._lock:
            self._newest.clear()
            self._state.clear()

    def tell(self, kind: str, data: dict[str, Any]) -> None:
        """Tell who listens; any thread.

        Args:
            kind: `progress`, `classes`, `command`, `forgotten`, `event`, `seen` (the event that a
                sink gets) or `stopped`.
            data: JSON values.
        """
        with self._lock:
            self._state[kind] = data
        self._notify(kind, data)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call a function with all news; it must not wait, and what it raises is dropped.

        Returns:
            Ends it.
        """
        with self._lock:
            self._listeners.append(listener)

        def end() -> None:
            with self._lock, suppress(ValueError):
                self._listeners.remove(listener)

        return end

    def _notify(self, kind: str, data: dict[str, Any]) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            with suppress(Exception):  # a page that is gone never stops the stream
                listener(kind, data)
