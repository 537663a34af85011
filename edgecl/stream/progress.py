"""Where the run of a stream stands, and the counting of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgecl.stream.events import Event

_TELL_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands after one commit.

    Counts are of this run and never fall: what is taken back counts as `undone` and stays in
    `learned`. Of a source with positions a frame counts when none before it waits to be learned,
    so that `start + seen` is where a run that resumes goes on. Only states can fall: `n_classes`,
    the latencies, `status`, `drift`.

    Args:
        start: Position of the source at which the run began.
        seen: Frames taken from the source by this run.
        learned: Frames learned.
        n_correct: Learned frames that were predicted rightly before.
        seconds: Time since the run began.
        n_classes: Classes that the head knows.
        skipped: Frames that could not be used, in this run.
        events: What happened since the last time: frames skipped, classes learned again.
        is_interrupted: Whether the run was asked to stop before the end.
        held_out: Labelled frames that were kept to be tested on, and not learned.
        unlabelled: Frames that nobody had named when they came; they were predicted only.
        unknown: Unlabelled frames that look like nothing that was learned.
        duplicates: Labelled frames that were left out as near-duplicates.
        stale: Labelled frames that were left out as too old.
        undone: Samples that were taken back after they were learned.
        commits: Commits that learned something.
        dropped: Frames of a live source that a newer one replaced before they were taken.
        reconnects: How often its connection was made anew.
        stalls: How often nothing came for too long.
        repeated: Frames of a live source that were sent once more, and not used again.
        broken: Frames that came cut or damaged.
        oversize: Frames that came larger than the limit.
        not_pictures: Parts of a stream that were no pictures.
        still: Frames of a live source in which nothing had moved since the last one.
        p50_ms: Median time from the shutter to the commit of a learned live frame, milliseconds;
            None without any.
        p99_ms: The same time's 99th percentile.
        oldest: Age of the oldest live frame that was learned, in frame times.
        passed_over: Files of the source that are no pictures it can read, beside the frames.
        same_as: Classes, another class that has the same picture, and how many pictures are so.
        status: What the keys do and what is being learned, for a person; empty without keys.
        by_source: Of several sources, what became of the frames of each: `seen`, `learned` and what
            is counted of live ones, by name.
        drift: How far live frames have moved from what was learned, over the threshold; 0 until
            that is known.
    """

    start: int = 0
    seen: int = 0
    learned: int = 0
    n_correct: int = 0
    seconds: float = 0.0
    n_classes: int = 0
    skipped: int = 0
    events: tuple[Event, ...] = ()
    is_interrupted: bool = False
    held_out: int = 0
    unlabelled: int = 0
    unknown: int = 0
    duplicates: int = 0
    stale: int = 0
    undone: int = 0
    commits: int = 0
    dropped: int = 0
    reconnects: int = 0
    stalls: int = 0
    repeated: int = 0
    broken: int = 0
    oversize: int = 0
    not_pictures: int = 0
    still: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    oldest: float = 0.0
    passed_over: int = 0
    same_as: tuple[tuple[str, str, int], ...] = ()
    status: str = ""
    drift: float = 0.0
    by_source: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def prequential_accuracy(self) -> float:
        """Share of the learned frames that were predicted rightly before; 0 without any."""
        return self.n_correct / self.learned if self.learned else 0.0

    @property
    def samples_per_second(self) -> float:
        """Frames taken a second."""
        return self.seen / self.seconds if self.seconds else 0.0


class Tally:
    """Counts what happens in a run.

    Args:
        start: Position of the source at which it begins.
    """

    def __init__(self, start: int) -> None:
        self._begin = self._told_at = time.monotonic()
        self._now = Progress(start=start)
        self._ahead: Counter[str] = Counter()

    def add(self, *, is_settled: bool = True, **counts: int) -> None:
        """Count what happened, now or with the next `settle`."""
        if is_settled:
            self._count(counts)
        else:
            self._ahead.update(counts)

    def settle(self) -> None:
        """Count also what waited for a commit."""
        self._count(self._ahead)
        self._ahead.clear()

    def _count(self, counts: Mapping[str, int]) -> None:
        if any(counts.values()):
            values = {name: getattr(self._now, name) + n for name, n in counts.items()}
            self._now = replace(self._now, **values)

    @property
    def is_due(self) -> bool:
        """Whether nothing was told for a while."""
        return time.monotonic() - self._told_at > _TELL_EVERY_S

    def tell(self, **states: Any) -> Progress:
        """Return where the run stands.

        Args:
            states: Fields of `Progress` that are not counted here.
        """
        self._told_at = time.monotonic()
        return replace(self._now, seconds=self._told_at - self._begin, **states)
