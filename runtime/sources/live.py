"""The base of all live sources: the newest frame waits, and a lost connection is made anew.

A thread reads the peer and puts every frame into one place; a frame that is still there when the
next one comes is dropped and counted. So what is taken is never older than one frame time, and
memory is bounded by two frames. The peer that ends, breaks or stalls is connected again after a
wait that doubles, with full jitter (M. Brooker 2015, "Exponential Backoff and Jitter", AWS
Architecture Blog), so that devices that lost one server do not come back in step.
"""

from __future__ import annotations

import atexit
import hashlib
import random
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgecl.errors import EdgeclError, SourceError, UsageError
from edgecl.types import Frame, Skipped

from ..redact import redacted
from .base import Source
from .connection import Connection, Counters, Counts, Lost, Refused, Shot

__all__ = [
    "Connection", "Counters", "Counts", "LiveBase", "LiveFrames", "LiveSource", "Lost", "Refused",
    "Shot",
]  # fmt: skip

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
# Cameras lock an account after some five wrong logins, often for half an hour.
REFUSED_WAIT_S = 120.0
LONGEST_REFUSED_WAIT_S = 1800.0
STALL_S = 10.0
# How far back a peer that comes again is looked at for frames that it sends twice.
_N_REMEMBERED = 64
# Of pixels every so many rows are compared: all would cost 3 ms a picture of 1280 x 720.
_ROW_STEP = 8
# How long `close` waits for the reader; it is woken before, and a daemon if it does not wake.
_JOIN_S = 1.0


class LiveBase(Source):
    """What sources whose frames come once have in common: counters and news, no positions.

    Args:
        name: The source as the user named it, without secrets.
    """

    kind = "live"

    def __init__(self, name: str) -> None:
        self.name = name
        self.counters = Counters(self._tell)

    def __len__(self) -> int:
        return 0

    def ids(self, stop: int) -> Iterator[str]:
        """Yield nothing: a live source has no positions."""
        return iter(())

    @property
    def counts(self) -> Counts:  # type: ignore[override]
        """What became of the frames so far, over all connections."""
        return self.counters.read()

    def _tell(self, text: str) -> None:
        if self.on_news is not None:
            self.on_news(f"{self.name}: {redacted(text)}")


class LiveSource(LiveBase):
    """Frames of a peer that makes them whether anybody takes them or not.

    Every call of `frames` has a connection and a thread of its own; `close`, or closing or
    dropping what `frames` returned, ends them.

    The times are read at every connection, so that they may be set on an open source.

    Args:
        name: The source as the user named it; secrets are taken out here.
        connect: Makes a connection that adds to the counters what it leaves out (`repeated`,
            `broken`, `oversize`).
        label: Class of all frames, instead of what the peer says.
        stall_s: Seconds without a whole frame after which the connection is made anew; None for a
            peer that may be silent for long.
        first_wait_s: Longest wait before the first try to connect again; it doubles.
        longest_wait_s: What it doubles up to; a connection that gave a frame begins anew.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[Counters], Connection],
        *,
        label: str | None = None,
        stall_s: float | None = STALL_S,
        first_wait_s: float = FIRST_WAIT_S,
        longest_wait_s: float = LONGEST_WAIT_S,
    ) -> None:
        super().__init__(redacted(name))
        self._connect = connect
        self._label = label
        self.stall_s = stall_s
        self.every_s = 0.0
        self.first_wait_s = first_wait_s
        self.longest_wait_s = longest_wait_s
        self.refused_wait_s = REFUSED_WAIT_S
        """Shortest wait after a second login in a row was refused; it doubles."""
        # Unique over runs, also on devices whose clock starts at the same time on every boot.
        self._run = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"
        self._n, self._has_given = 0, False
        self._lock = threading.RLock()
        self._open: set[_Link] = set()
        _sources.add(self)

    def take_every(self, seconds: float) -> None:
        """Take the newest frame only every so many seconds; the others are dropped and counted."""
        self.every_s = seconds

    def frames(self, start: int = 0) -> LiveFrames:
        """Return the frames that come from now on; the first `next` connects.

        Args:
            start: Not used, a live source has no positions.
        """
        link = _Link(self)
        with self._lock:
            self._open.add(link)
        return LiveFrames(link)

    def close(self) -> None:
        """End all connections at once; every `frames` that waits ends too.

        `frames` may be called again afterwards.
        """
        with self._lock:
            links = list(self._open)
        for link in links:
            link.close()

    def _forget(self, link: _Link) -> None:
        with self._lock:
            self._open.discard(link)

    def _frame(self, taken: _Taken) -> Frame | Skipped:
        shot = taken.shot
        with self._lock:
            self._n += 1
            name = shot.id or f"{self._run}-{self._n:06}"
        try:
            return Frame(
                id=name,
                encoded=shot.encoded,
                pixels=shot.pixels,
                label=shot.label if self._label is None else self._label,
                source=self.name,
                time=taken.time if shot.time is None else shot.time,
                monotonic=taken.monotonic, thing=shot.thing,
            )  # fmt: skip
        except UsageError as error:  # a label that cannot be one
            return Skipped(name, str(error))


_sources: weakref.WeakSet[LiveSource] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """End what nobody closed; a pipeline of another process would go on."""
    for source in list(_sources):
        source.close()


class LiveFrames(Iterator[Frame | Skipped]):
    """The frames of one call of `LiveSource.frames`.

    Unlike a generator it may be closed from another thread, also while `next` waits.
    """

    def __init__(self, link: _Link) -> None:
        self._link = link

    def __next__(self) -> Frame | Skipped:
        taken = self._link.take()
        if taken is None:
            raise StopIteration
        return self._link.source._frame(taken)

    def close(self) -> None:
        """End the connection at once; a `next` that waits ends the iteration."""
        self._link.close()

    def __del__(self) -> None:
        # The thread does not hold this object, so a loop that is left ends the connection.
        self._link.close()


@dataclass(frozen=True, slots=True, eq=False)
class _Taken:
    shot: Shot
    time: float
    monotonic: float


class _Link:
    """The place of the newest frame, and the thread that fills it."""

    def __init__(self, source: LiveSource) -> None:
        self.source = source
        self._changed = threading.Condition()
        self._newest: _Taken | None = None
        self._error: BaseException | None = None
        self._is_over = False
        self._connection: Connection | None = None
        self._thread: threading.Thread | None = None
        self._last_sign = 0.0
        self._due = 0.0
        self._mark = source.counters.mark()
        self._why = ""
        self._sent: deque[bytes] = deque(maxlen=_N_REMEMBERED)

    def take(self) -> _Taken | None:
        """Wait for the newest frame; None when the stream is over or was closed.

        Raises:
            EdgeclError: The source cannot be read at all.
        """
        with self._changed:
            if self._thread is None and not self._is_over:
                self._thread = threading.Thread(target=self._read, name="live", daemon=True)
                self._thread.start()
        while True:
            with self._changed:
                early = self._due - time.monotonic()
                if self._newest is not None and early <= 0:
                    taken, self._newest = self._newest, None
                    self._due = time.monotonic() + self.source.every_s
                    return taken
                if self._is_over:
                    error, self._error = self._error, None
                    if error is not None:
                        raise error
                    return None
                if self._newest is not None:
                    self._changed.wait(early)
                    continue
                self._changed.wait(self._until_stall())
                stalled = self._let_go_stalled()
            if stalled is not None:  # may take a moment, in which others must not wait
                stalled.close()

    def close(self) -> None:
        with self._changed:
            self._is_over = True
            self._newest = None
            connection, thread = self._connection, self._thread
            self._changed.notify_all()
        self.source._forget(self)
        if connection is not None:
            connection.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_JOIN_S)

    def _until_stall(self) -> float | None:
        if self._connection is None or self.source.stall_s is None:
            return None
        return max(0.0, self._last_sign + self.source.stall_s - time.monotonic())

    def _let_go_stalled(self) -> Connection | None:
        """Return a connection that gave nothing for too long; its reader then makes a new one."""
        if self._connection is None or self._newest is not None or self._until_stall() != 0:
            return None
        stalled, self._connection = self._connection, None
        assert self.source.stall_s is not None  # else nothing stalls
        self._why = self.source.counters.since(self._mark, self.source.stall_s)
        self.source.counters.add("stalls")
        return stalled

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            self._read_all()
        except EdgeclError as caught:  # told where the frames are taken
            error = type(caught)(redacted(str(caught)))
        except BaseException as caught:
            error = caught
        finally:
            with self._changed:
                if not self._is_over:  # what comes of closing is no error
                    self._error = error
                self._is_over = True
                self._connection = None
                self._changed.notify_all()
            self.source._forget(self)

    def _read_all(self) -> None:
        """Read one connection after the other, until one ends for good or this is closed."""
        n_failed = n_refused = 0
        while True:
            with self._changed:
                if self._is_over:
                    return
                connection = self._connection = self.source._connect(self.source.counters)
                self._last_sign = time.monotonic()
                self._mark = self.source.counters.mark()
                self._changed.notify_all()  # who waits now has a stall to look for
            n_before = self.source.counts.received
            reason, is_refused = "", False
            try:
                self._read_one(connection)
            except (Lost, OSError, SourceError) as caught:
                is_ours = self._connection is not connection or self._is_over
                if isinstance(caught, SourceError) and not self.source._has_given and not is_ours:
                    raise
                reason, is_refused = _line(caught), isinstance(caught, Refused)
            finally:
                connection.close()
            with self._changed:
                if self._connection is not connection:  # it was ended for that
                    reason, is_refused = self._why, False
                if self._is_over or not reason:
                    return
                self._connection = None
            if self.source.counts.received > n_before:
                n_failed = n_refused = 0
            n_refused = n_refused + 1 if is_refused else 0
            wait = self._wait(n_failed, n_refused)
            n_failed = min(n_failed + 1, 30)
            self.source._tell(f"{reason}; connecting again in {_in_words(wait)}")
            with self._changed:
                self.source.lost = frozenset({""})
                self._changed.wait_for(lambda: self._is_over, wait)

    def _wait(self, n_failed: int, n_refused: int) -> float:
        """Return the seconds until the next try, after so many of them in a row."""
        source = self.source
        if n_refused < 2:  # once may be a peer that is not yet up
            return random.uniform(0, min(source.longest_wait_s, source.first_wait_s * 2**n_failed))
        longest = min(LONGEST_REFUSED_WAIT_S, source.refused_wait_s * 2.0 ** (n_refused - 2))
        return random.uniform(longest * 0.8, longest)

    def _read_one(self, connection: Connection) -> None:
        """Put every frame of a connection into the place, except those that were sent before."""
        source = self.source
        known = set(self._sent)
        n = 0
        for shot in connection:
            if shot is not None:
                n += 1
                if n == 1:
                    self._greet()
                source.counters.add("received")
                digest = _digest(shot)
                if n <= _N_REMEMBERED and digest in known:
                    source.counters.add("repeated")
                    shot = None
                else:
                    self._sent.append(digest)
            with self._changed:
                if self._is_over:
                    return
                self._last_sign = time.monotonic()
                self._mark = source.counters.mark()
                if shot is not None:
                    if self._newest is not None:
                        source.counters.add("dropped")
                    self._newest = _Taken(shot, time.time(), self._last_sign)
                    self._changed.notify_all()

    def _greet(self) -> None:
        if self.source._has_given:
            self.source.counters.add("reconnects")
        self.source._has_given, self.source.lost = True, frozenset()
        self.source._tell("connected")


def _digest(shot: Shot) -> bytes:
    if shot.encoded is not None:
        return hashlib.blake2b(shot.encoded, digest_size=16).digest()
    assert shot.pixels is not None
    return hashlib.blake2b(shot.pixels[::_ROW_STEP].tobytes(), digest_size=16).digest()


def _line(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())


def _in_words(wait_s: float) -> str:
    if wait_s < 60:
        return f"{wait_s:.1f} s"
    return f"{wait_s / 60:.0f} min, since more refused logins may lock the account"
