"""Pictures that a page sends, as a live source: the browser's camera, or one that is uploaded."""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator

from edgecl.errors import HomeLockedError
from edgecl.runtime.sources.live import LiveBase
from edgecl.types import Frame, clean_label

NAME = "browser"
ADDRESS = "browser:"
_MOST_WAITING = 8


def new_id() -> str:
    """Return an id for one more picture."""
    return f"{NAME}-{secrets.token_hex(8)}"


class BrowserSource(LiveBase):
    """Frames that `put` gives; none is dropped, since who sends one waits for its answer."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self._waiting: queue.Queue[tuple[Frame, Callable[[], bool]] | None] = queue.Queue(
            _MOST_WAITING
        )
        self._closed = threading.Event()

    def put(
        self,
        encoded: bytes,
        label: str | None = None,
        *,
        frame_id: str,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Let the stream see a picture file.

        Args:
            encoded: The file.
            label: Its class, or None.
            frame_id: Id of its frame, as `new_id` gives it.
            is_wanted: Asked when its turn comes; who waits no more may send it again.

        Raises:
            HomeLockedError: Too many wait already.
            UsageError: The label cannot be one.
        """
        frame = Frame(
            id=frame_id,
            encoded=encoded,
            label=None if label is None else clean_label(label),
            source=NAME,
            time=time.time(),
            monotonic=time.monotonic(),
        )
        try:
            self._waiting.put_nowait((frame, is_wanted))
        except queue.Full as error:
            raise HomeLockedError(
                f"{_MOST_WAITING} pictures wait for the stream already; send fewer a second"
            ) from error

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """Return what is put, until it is closed; also before the first is asked for."""
        self._closed.clear()
        return self._until_closed()

    def _until_closed(self) -> Iterator[Frame]:
        while not self._closed.is_set():
            taken = self._waiting.get()
            if taken is not None:
                self.counters.add("received")
                if taken[1]():
                    yield taken[0]
                else:
                    self.counters.add("dropped")

    def close(self) -> None:
        """End it; wakes who waits for a picture."""
        self._closed.set()
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            pass
