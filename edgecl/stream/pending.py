"""What waits to be committed, and how far the source is."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from edgecl.home import Home
from edgecl.learner import Learner, Lesson, chain
from edgecl.runtime.grid import quantise
from edgecl.runtime.pipeline import Embedded
from edgecl.runtime.sources.base import Source
from edgecl.store.live_answers import LiveAnswer
from edgecl.store.novel import entry_of_frame
from edgecl.store.progress import Position
from edgecl.store.runs import Start
from edgecl.store.text import plain_text
from edgecl.stream.duplicates import Duplicates
from edgecl.stream.events import Event, SamePicture
from edgecl.stream.freshness import STALE_AFTER, Freshness
from edgecl.stream.progress import Tally
from edgecl.stream.same import SamePictures
from edgecl.stream.usable import Usable
from edgecl.types import Float16, Float32, Skipped, UpdateReport

# A frame that waits longer is committed alone, so that a slow camera loses no more at a power cut.
_COMMIT_WITHIN_S = 2.0
_ANSWER_EVERY_S = 1.0


class Pending:
    """Labelled frames that wait, and the position with which they will be committed.

    A source that can be read again keeps whole batches and positions; a live one commits what is
    there and begins with what comes next.

    Args:
        home: The home.
        learner: What learns them.
        source: Where they come from.
        key: Key of the source's position.
        start: Where the run begins.
        usable: Says what is to be told of a class.
        events: Takes it.
        tally: Counts the frames.
        is_reviewed: Whether a frame may have come to the review queue before its label came.
        answer: Says what is served for what the engine gave of a frame, None for nothing.
    """

    def __init__(
        self,
        home: Home,
        learner: Learner,
        source: Source,
        *,
        key: str,
        start: Position,
        usable: Usable,
        events: deque[Event],
        tally: Tally,
        is_reviewed: bool,
        answer: Callable[[Float32], str | None],
    ) -> None:
        self.items: list[Embedded] = []
        self.freshness = Freshness()
        self.learned_by_source: Counter[str] = Counter()
        # Frames of a folder are what somebody chose; a camera and a film show one thing for long.
        is_filtered = source.is_live or source.is_film
        cosine = home.config.live.duplicate_cosine if is_filtered else 1.0
        self.same = SamePictures(learner.store)
        self.duplicates = Duplicates(cosine, learner.store.newest_rows)
        self._learner, self._source, self._tally = learner, source, tally
        self._usable, self._events = usable, events
        self._key, self._secret = key, home.key
        self._is_reviewed, self._answer = is_reviewed, answer
        self._answer_next: dict[str, float] = {}  # by class
        self._since = 0.0
        self._taken = self._settled = self._committed = start
        self.begin()
        # Whole batches of the head in every commit: a resumed stream then has the same batches.
        size = learner.head.batch_size
        self._n_step = -(-home.config.store.commit_every // size) * size

    def begin(self) -> None:
        """Let what is learned from here on be a run of its own."""
        is_placed = not self._source.is_live
        position = self._learner.store.position(self._key) if is_placed else None
        self._learner.begin(Start(key=self._key if is_placed else None, position=position))

    @property
    def n_taken(self) -> int:
        """Position of the source behind the last frame that was taken."""
        return self._taken.n

    @property
    def is_full(self) -> bool:
        """Whether a whole step waits."""
        return len(self.items) >= self._n_step

    def add(self, item: Embedded) -> None:
        """Let a labelled frame wait."""
        self._events.extend(self._usable.of_frame(item.frame))
        if not self.items:
            self._since = time.monotonic()
        self.items.append(item)

    def take(self, name: str, item: Embedded | None, **counts: int) -> None:
        """Go on by one frame of the source.

        Args:
            name: Its id.
            item: It itself, if it waits to be learned.
            counts: What of it is counted.
        """
        digest = chain(self._secret, self._taken.digest, name)
        self._taken = Position(self._taken.n + 1, digest, False)
        if item is not None:
            self.add(item)
        is_settled = not self.items or self._source.is_live
        if is_settled:
            self._settled = self._taken
        self._tally.add(is_settled=is_settled, seen=1, **counts)

    def is_due(self, group: Sequence[Embedded | Skipped]) -> bool:
        """Whether to commit after a group of frames, though less than a whole step waits."""
        if self._source.is_live:
            return bool(self.items)
        # A stream is not waited for; a source that can be read again keeps whole batches.
        if not group and self._source.kind == "stream":
            return self._taken.n > self._committed.n
        return (
            bool(self.items)
            and len(self.items) % self._learner.head.batch_size == 0
            and time.monotonic() - self._since > _COMMIT_WITHIN_S
        )

    def commit(self, *, is_finished: bool = False) -> list[Lesson]:
        """Learn what waits, with the position in one transaction; returns what was learned."""
        items, ages = self._fresh()
        width = self._learner.head.num_features
        x = np.array([item.feature[:width] for item in items], np.float32).reshape(-1, width)
        for label in dict.fromkeys(item.frame.label or "" for item in items):
            self._events.extend(self._usable.of_class(label))
        self._find_same(items, x)
        rows = quantise(x)
        self._taken = replace(self._taken, is_finished=is_finished)
        reports = []
        if items or not self._source.is_live:
            reports = self._learner.learn_many(
                [item.frame for item in items],
                rows,
                # A live source has no positions: the next run begins with what comes then.
                position=None if self._source.is_live else (self._key, self._taken),
                reviewed=self._reviewed(items),
                answers=self._answers(items),
            )
        now = time.monotonic()
        for item, age in zip(items, ages, strict=True):
            self.freshness.committed(item.frame, age, now)
        if self._source.parts:
            for item, report in zip(items, reports, strict=True):
                self.learned_by_source[item.frame.source] += not report.is_held_out
        learned = [report for report in reports if not report.is_held_out]
        self._tally.add(
            learned=len(learned),
            held_out=len(reports) - len(learned),
            n_correct=sum(report.is_correct for report in learned),
            commits=int(bool(learned)),
        )
        self._tally.settle()
        self.items.clear()
        self._settled = self._committed = self._taken
        return [self._lesson(*one) for one in zip(items, reports, rows, strict=True)]

    def _lesson(self, item: Embedded, report: UpdateReport, row: Float16) -> Lesson:
        uid = self._learner.store.class_uid(item.frame.label or "")
        return Lesson(report.uid, uid, plain_text(item.frame.source), row, report.is_held_out)

    def release(self) -> None:
        """Keep in memory no features that only learning needs, at the end of a run."""
        self.same.forget()

    def leave(self) -> None:
        """Commit how far nothing waits; what waits is left to the run that resumes.

        So a stopped stream ends in the head of one that was not.
        """
        if self._settled.n > self._committed.n and not self._source.is_live:
            x = np.empty((0, self._learner.head.num_features), np.float32)
            self._learner.learn_many([], x, position=(self._key, self._settled))

    def _answers(self, items: Sequence[Embedded]) -> list[LiveAnswer]:
        """Return what is served of frames of a live source, of each class about one a second.

        Frames that follow each other are of one thing, of which the first is learned.
        """
        if not self._source.is_live:
            return []
        found: list[LiveAnswer] = []
        for item in items:
            label, at = item.frame.label or "", item.frame.time or time.time()
            if at >= self._answer_next.get(label, 0.0):
                self._answer_next[label] = at + _ANSWER_EVERY_S
                found.append((label, self._answer(item.feature), at))
        return found

    def _find_same(self, items: Sequence[Embedded], x: Float32) -> None:
        """Note which pictures, with features (N, D), are learned that another class has."""
        labels = [self._learner.store.canonical(item.frame.label or "") for item in items]
        before = set(self.same.found)
        for item, label, other in zip(items, labels, self.same.note(labels, x), strict=True):
            if other is not None and (label, other) not in before:
                before.add((label, other))
                self._events.append(SamePicture(item.frame.id, label, other))

    def _reviewed(self, items: Sequence[Embedded]) -> list[int]:
        """Return for each frame its entry in the review queue: its label came after all."""
        if not self._is_reviewed:
            return []
        store, frames = self._learner.store, [item.frame for item in items]
        return [entry_of_frame(store, frame.source, frame.id, frame.time) for frame in frames]

    def _fresh(self) -> tuple[list[Embedded], list[float]]:
        """Return what waits and is neither too old nor a near-duplicate, and its ages."""
        if not self._source.is_live and not self._source.is_film:
            return list(self.items), [0.0] * len(self.items)
        items, ages = [], []
        now, width = time.monotonic(), self._learner.head.num_features
        for item in self.items:
            label = self._learner.store.canonical(item.frame.label or "")
            age = self.freshness.age(item.frame, now) if self._source.is_live else 0.0
            if age > STALE_AFTER:
                self._tally.add(stale=1)
            elif self.duplicates.is_near(label, item.feature[:width], item.frame.source):
                self._tally.add(duplicates=1)
            else:
                items.append(item)
                ages.append(age)
        return items, ages
