"""How old frames are when they are learned, and how long it took from the shutter to the commit."""

from __future__ import annotations

import math
from collections import Counter

from edgecl.runtime.pace import Recent
from edgecl.types import Frame

STALE_AFTER = 2.0
"""Frame times after which a live frame is too old to be learned."""

_PER_OCTAVE = 16


class Freshness:
    """Running frame time, and a histogram of latencies; frames that are not live do not count.

    The frame time is the usual interval between the frames that were taken: that of the source
    while all are taken, that of the processing when it is slower. Of a source that is a little
    faster, most intervals are its own and some are two of them; the mean counts both, in the
    median the shorter would make nearly every frame too old. Each of several sources has its own.
    """

    def __init__(self) -> None:
        self._intervals: dict[str, Recent] = {}  # by source, as `_last`
        self._last: dict[str, float] = {}
        self._counts: Counter[int] = Counter()
        self.oldest = 0.0
        """Age of the oldest frame that was learned, in frame times."""

    def came(self, frame: Frame) -> None:
        """Note that a frame was taken."""
        last = self._last.get(frame.source, 0.0)
        if last and frame.monotonic > last:
            self._intervals.setdefault(frame.source, Recent()).add(frame.monotonic - last)
        self._last[frame.source] = frame.monotonic or last

    def age(self, frame: Frame, now: float) -> float:
        """Return a frame's age in frame times; 0 when it is not live or nothing is known."""
        intervals = self._intervals.get(frame.source)
        frame_time = intervals.mean() if intervals is not None else 0.0
        return (now - frame.monotonic) / frame_time if frame.monotonic and frame_time else 0.0

    def committed(self, frame: Frame, age: float, now: float) -> None:
        """Note that a frame of that age was learned and committed by now."""
        if frame.monotonic:
            self.oldest = max(self.oldest, age)
            ms = max(1e-3, (now - frame.monotonic) * 1e3)
            self._counts[math.floor(math.log2(ms) * _PER_OCTAVE)] += 1

    def quantile_ms(self, share: float) -> float | None:
        """Return the latency below which a share of the frames stayed, to 4 %; None without any."""
        left = share * self._counts.total()
        for bucket in sorted(self._counts):
            left -= self._counts[bucket]
            if left <= 0:
                return float(2 ** ((bucket + 0.5) / _PER_OCTAVE))
        return None
