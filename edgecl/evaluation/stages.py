"""Parts that are timed in turns.

In every round every stage gets its turn of some 20 ms, so that what else the machine does falls on
all of them alike and their ratios hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SLOT_S = 0.02
MIN_RUNS = 10


@dataclass
class Stage:
    """What is timed.

    Args:
        name: Its name.
        run: One run.
        pictures: Pictures that a run takes.
        options: What tells it from others of its kind, JSON values.
        prepare: Called before every run, not timed.
        most: Most runs that there can be; such a stage is not warmed up.
        times: Milliseconds of every run.
        busy: Milliseconds of processor time of every run, all threads.
    """

    name: str
    run: Callable[[], object]
    pictures: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[], object] | None = None
    most: int | None = None
    times: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    def turn(self) -> float:
        """Run it for its turn of a round; returns the seconds that passed."""
        begin = time.perf_counter()
        while True:
            if self.prepare is not None:
                self.prepare()
            start, start_busy = time.perf_counter(), time.process_time()
            self.run()
            end, end_busy = time.perf_counter(), time.process_time()
            self.times.append((end - start) * 1e3)
            self.busy.append((end_busy - start_busy) * 1e3)
            if end - begin > SLOT_S or len(self.times) == self.most:
                return end - begin

    def as_json(self) -> dict[str, Any]:
        """Return percentiles, the median of processor time, and pictures a second at p50."""
        p50, p90, p99 = (float(p) for p in np.percentile(self.times, (50, 90, 99)))
        return {
            **self.options,
            "runs": len(self.times),
            "p50_ms": p50,
            "p90_ms": p90,
            "p99_ms": p99,
            "cpu_ms": float(np.median(self.busy)),
            "per_second": self.pictures * 1e3 / p50,
        }


def measure(stages: Sequence[Stage], seconds: float) -> None:
    """Time stages in turns until so many seconds have passed and each ran often enough.

    None gets more than its share of the time, except for the runs that it must have.
    """
    spent = [0.0] * len(stages)
    begin = time.perf_counter()
    while True:
        elapsed = time.perf_counter() - begin
        is_short = [len(s.times) < (MIN_RUNS if s.most is None else 1) for s in stages]
        if elapsed >= seconds and not any(is_short):
            return
        for i, stage in enumerate(stages):
            has_time = elapsed < seconds and spent[i] <= elapsed / len(stages)
            if len(stage.times) != stage.most and (is_short[i] or has_time):
                spent[i] += stage.turn()


def warm_up(stages: Sequence[Stage]) -> None:
    """Run stages that can be run at will for two turns that are not counted."""
    for stage in stages:
        if stage.most is None:
            stage.turn()
            stage.turn()
            stage.times.clear()
            stage.busy.clear()
