"""Pictures that a page sends, as a live source: the browser's camera, or one that is uploaded."""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Iterator

from edgecl.errors import HomeLockedError
from edgecl.runtime.sources.connection import Counters, Shot
from edgecl.runtime.sources.live import LiveSource

NAME = "browser"
ADDRESS = "browser:"
_MOST_WAITING = 8


class BrowserSource(LiveSource):
    """Frames that `put` gives; none is dropped, since who sends one waits for its answer."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[Shot | None] = queue.Queue(_MOST_WAITING)
        super().__init__(NAME, lambda counters: _Sent(self._waiting, counters), stall_s=None)

    def put(self, encoded: bytes, label: str | None = None) -> str:
        """Let the stream see a picture file; returns the id of its frame.

        Raises:
            HomeLockedError: Too many wait already.
        """
        name = f"{NAME}-{secrets.token_hex(8)}"
        try:
            self._waiting.put_nowait(Shot(encoded=encoded, label=label, id=name))
        except queue.Full as error:
            raise HomeLockedError(
                f"{_MOST_WAITING} pictures wait for the stream already; send fewer a second"
            ) from error
        return name


class _Sent:
    """What was put, as one connection that never ends by itself."""

    def __init__(self, waiting: queue.Queue[Shot | None], counters: Counters) -> None:
        self._waiting = waiting
        self._is_closed = threading.Event()
        del counters  # nothing is left out

    def __iter__(self) -> Iterator[Shot | None]:
        while not self._is_closed.is_set():
            shot = self._waiting.get()
            if shot is not None:
                yield shot

    def close(self) -> None:
        """Wake who waits for a picture."""
        self._is_closed.set()
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            pass
