"""News of the stream for open pages: taken over from its thread, which never waits for them."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

from edgecl.serve.live import Live, Picture

# Of these only the newest counts, so it is told now and then.
_OFTEN = ("progress", "classes")
_EVERY_S = 0.3
HEARTBEAT_S = 15.0
PATIENCE_S = 10.0
MOST_WATCHERS = 128
MOST_A_SECOND = 10.0
# Pictures that are sent in a second to all who watch: what the learner can spare.
_BUDGET = 60.0
_MOST_KEPT = 256
_DONE = b'"state":"done"'
_LOOK_S = 1.0


class News:
    """What is told to pages; everything but `hear` runs in the event loop of the page.

    Args:
        live: What the stream shows.
    """

    def __init__(self, live: Live) -> None:
        self._live = live
        self._lock = threading.Lock()
        # Bounded: a loop that hangs must not fill the memory.
        self._inbox: deque[tuple[str, dict[str, Any]]] = deque(maxlen=_MOST_KEPT)
        self._is_woken = self._has_forgotten = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()
        self._seen = asyncio.Event()
        self._epoch = f"{time.time_ns() // 1_000_000:x}"
        self._n = 0
        self._kept: deque[tuple[int, str, bytes]] = deque(maxlen=_MOST_KEPT)
        self._encoded: dict[str, tuple[int, bytes]] = {}
        self._shown: dict[str | None, tuple[float, Picture | None]] = {}
        self.n_watchers = 0
        self.n_sent = 0
        self._newest: dict[str, dict[str, Any]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.n_forgotten = 0
        self.on_forgotten: Callable[[], None] = lambda: None
        self.on_changed: Callable[[], None] = lambda: None
        self.is_closed = False
        self._end: Callable[[], None] = lambda: None

    def begin(self) -> None:
        """Listen from now on; in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._end = self._live.listen(self.hear)

    def end(self) -> None:
        """Listen no more, and end all streams; in the event loop."""
        self._end()
        self.is_closed = True
        self._told.set()
        self._seen.set()

    def hear(self, kind: str, data: dict[str, Any]) -> None:
        """Take in one piece of news; any thread, never waits."""
        with self._lock:
            if kind != "frame":
                # Full: the oldest goes, but that something was forgotten is told in any case.
                if len(self._inbox) == _MOST_KEPT and self._inbox[0][0] == "forgotten":
                    self._has_forgotten = True
                self._inbox.append((kind, data))
            if self._is_woken or self._loop is None:
                return
            self._is_woken = True
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed: the page has gone, the stream goes on
            self._end()

    def _wake(self) -> None:
        with self._lock:
            came = list(self._inbox)
            if self._has_forgotten:
                came.insert(0, ("forgotten", {}))
            self._inbox.clear()
            self._is_woken = self._has_forgotten = False
        for kind, data in came:
            if kind == "classes":
                self.on_changed()
            if kind in _OFTEN:
                self._newest[kind] = data
                continue
            if kind == "forgotten":  # what was said before may name it
                ended = [e for e in self._kept if e[1] == "command" and _DONE in e[2]]
                self._kept = deque(ended, maxlen=_MOST_KEPT)  # these hold no name
                self._encoded.clear()
                self._shown.clear()
                self._newest.pop("progress", None)
                self.n_forgotten += 1
                self.on_forgotten()
            self._tell(kind, data)
        if self._newest and self._timer is None and self._loop is not None:
            self._timer = self._loop.call_later(_EVERY_S, self._tell_newest)
        self._seen.set()
        self._seen = asyncio.Event()

    def _tell_newest(self) -> None:
        self._timer = None
        newest, self._newest = self._newest, {}
        for kind, data in newest.items():
            self._tell(kind, data)

    def _tell(self, kind: str, data: dict[str, Any]) -> None:
        self._n += 1
        self._kept.append((self._n, kind, _data(data)))
        self._told.set()
        self._told = asyncio.Event()

    async def events(self, last: str = "") -> AsyncGenerator[bytes, None]:
        """Yield server-sent events, after the one that a page saw last if that is known."""
        epoch, _, number = last.partition("-")
        n = int(number) if epoch == self._epoch and re.fullmatch("[0-9]{1,15}", number) else -1
        if not 0 <= n <= self._n or (self._kept and n < self._kept[0][0] - 1):
            n = self._n
            for kind, data in self._live.state.items():
                if kind == "forgotten":  # an event, not a state
                    continue
                yield self._event(n, kind, _data(data))
        yield b": hello\n\n"
        while not self.is_closed:
            told = self._told
            for number_, kind, body in [event for event in self._kept if event[0] > n]:
                n = number_
                yield self._event(n, kind, body)
            if told.is_set():
                continue
            try:
                await asyncio.wait_for(told.wait(), HEARTBEAT_S)
            except asyncio.TimeoutError:
                yield b": still here\n\n"

    async def pictures(self, source: str | None) -> AsyncGenerator[Picture, None]:
        """Yield the newest picture of a source, or of all, as often as there is time for it."""
        self.n_watchers += 1
        n = 0
        try:
            while not self.is_closed:
                begin = time.monotonic()
                picture = await self._newer(source, n)
                if picture is None:
                    return
                n = picture.n
                if picture.jpeg:  # empty: a broken one
                    self.n_sent += 1
                    yield picture
                # Only what is left of it: sending took some.
                await asyncio.sleep(max(0.0, self._pause - (time.monotonic() - begin)))
        finally:
            self.n_watchers -= 1

    @property
    def _pause(self) -> float:
        return max(1 / MOST_A_SECOND, self.n_watchers / _BUDGET)

    def _shared(self, source: str | None) -> Picture | None:
        """Return the picture that all who watch get now, so that few are encoded."""
        since, picture = self._shown.get(source, (0.0, None))
        if time.monotonic() - since >= self._pause:
            newest = self._live.newest(source)
            if newest is not picture:
                self._shown[source] = time.monotonic(), newest
            return newest
        return picture

    async def _newer(self, source: str | None, n: int) -> Picture | None:
        """Return a newer picture than n, as soon as there is one; None at the end."""
        while not self.is_closed:
            self._live.look()
            seen = self._seen
            picture = self._shared(source)
            if picture is not None and picture.n > n:
                return picture
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(seen.wait(), _LOOK_S)
        return None

    async def one(self, source: str | None, patience_s: float = PATIENCE_S) -> Picture | None:
        """Return a picture that is taken from now on, or None if none comes in time."""
        newest = self._live.newest(source)
        n = newest.n if newest is not None else 0
        if newest is not None and self._live.is_looked_at:
            n -= 1
        try:
            return await asyncio.wait_for(self._newer(source, n), patience_s)
        except asyncio.TimeoutError:
            return None

    def record(self, picture: Picture) -> bytes:
        """Return a picture with its answer as /api/v1/live sends it; made once for all."""
        n, found = self._encoded.get(picture.source, (0, b""))
        if n != picture.n:
            head = _data(picture.answer | {"jpeg": len(picture.jpeg)})
            found = len(head).to_bytes(4, "big") + head + picture.jpeg
            self._encoded[picture.source] = picture.n, found
        return found

    def _event(self, n: int, kind: str, data: bytes) -> bytes:
        return f"id: {self._epoch}-{n}\nevent: {kind}\ndata: ".encode() + data + b"\n\n"


def _data(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
