"""When the next frame of a live source is taken: just in time, so that it does not age waiting.

Reading, engine and learning work in parallel. A frame that is taken as soon as there is room waits
for the engine nearly as long as the engine takes, and would be twice as old as need be when it is
learned. So it is taken when its decoding will end as the engine becomes free, by what these parts
lately took; if learning is the slowest part, when it will be free. At most two frames are on
their way at any time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from statistics import fmean, median

# Odd, and a few seconds of a slow camera: one slow step in it changes nothing.
N_MEASURED = 31
_MOST_ON_THE_WAY = 2
# Taken this share of the engine's time earlier, since a late frame leaves the engine idle.
_EARLY = 0.1
_POLL_S = 0.1


class Recent:
    """The last measurements, and what is usual among them."""

    def __init__(self, n: int = N_MEASURED) -> None:
        self._values: deque[float] = deque(maxlen=n)

    def add(self, value: float) -> None:
        """Take in one more."""
        self._values.append(value)

    def median(self) -> float:
        """Return the median of the last ones; 0 before the first."""
        return median(self._values) if self._values else 0.0

    def mean(self) -> float:
        """Running mean in which none counts for more than two medians; at least the median."""
        middle = self.median()
        return max(middle, fmean(min(v, 2 * middle) for v in self._values)) if middle else middle


class Pace:
    """Shared by the threads of a pipeline: each tells where it is; of a live one the first waits.

    Args:
        stop: Ends every wait.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._changed = threading.Condition()
        self._on_the_way = 0
        self._waiting_for_engine = 0
        self._engine_began = 0.0
        self._caller_began: float | None = None
        self._decode, self._engine, self._caller = Recent(), Recent(), Recent()

    def wait(self) -> None:
        """Return when the next frame should be taken, or when stopped."""
        while not self._stop.is_set():
            with self._changed:
                if self._waiting_for_engine or self._on_the_way >= _MOST_ON_THE_WAY:
                    self._changed.wait(_POLL_S)
                    continue
                left = self._target() - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(min(left, _POLL_S))

    def taken(self) -> None:
        """Tell that a frame was taken."""
        with self._changed:
            self._on_the_way += 1
            self._waiting_for_engine += 1

    def decoded(self, seconds: float) -> None:
        """Tell how long a frame took to decode."""
        with self._changed:
            self._decode.add(seconds)

    def engine_begins(self, n: int) -> None:
        """Tell that the engine begins with n frames."""
        with self._changed:
            self._waiting_for_engine -= n
            self._engine_began = time.monotonic()
            self._changed.notify_all()

    def engine_ends(self) -> None:
        """Tell that the engine is done with them."""
        with self._changed:
            self._engine.add(time.monotonic() - self._engine_began)
            self._changed.notify_all()

    def caller_begins(self, n: int) -> None:
        """Tell that n frames were handed on to the caller."""
        with self._changed:
            self._on_the_way -= n
            self._caller_began = time.monotonic()
            self._changed.notify_all()

    def caller_ends(self) -> None:
        """Tell that the caller wants more."""
        with self._changed:
            if self._caller_began is not None:
                self._caller.add(time.monotonic() - self._caller_began)
            self._caller_began = None
            self._changed.notify_all()

    def _target(self) -> float:
        """Return the time at which the next frame should be taken."""
        decode, engine, caller = (m.median() for m in (self._decode, self._engine, self._caller))
        if not self._on_the_way:  # nothing is before it but what the caller works on
            if self._caller_began is None:
                return 0.0
            return self._caller_began + caller - engine - decode
        engine_free = self._engine_began + engine
        caller_free = engine_free
        if self._caller_began is not None:
            caller_free = max(engine_free, self._caller_began + caller)
        caller_free += caller  # the frame that is in the engine now comes first
        return max(engine_free - decode, caller_free - engine - decode) - _EARLY * engine
