"""What a stream works on, and what its commands change."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from edgecl.governor.record import is_recorded
from edgecl.home import Home
from edgecl.learner import Learner, Lesson
from edgecl.runtime.pipeline import Embedded, most_ahead
from edgecl.runtime.sources.base import Source
from edgecl.store.progress import Position
from edgecl.stream.events import Event, FrameSkipped, Said
from edgecl.stream.moved import Movement
from edgecl.stream.pending import Pending
from edgecl.stream.progress import Progress, Tally
from edgecl.stream.recent import RecentFrames
from edgecl.stream.served import Served, StreamEngine
from edgecl.stream.shadow import Shadow
from edgecl.stream.standing import Standing
from edgecl.stream.usable import Usable
from edgecl.stream.view import Sight, View
from edgecl.types import Frame, Skipped

# Samples that can be taken back.
_MOST_LESSONS = 500
# Reasons for which frames of a live source were skipped, of which each is told once.
_MOST_REASONS = 100


class Stream:
    """State of one run of `learn_stream`.

    Args:
        home: The home.
        learner: Its learner.
        engine: What embeds the frames.
        source: Where they come from.
        key: Key of the source's position.
        start: Where the run begins.
        has_feed: Whether a label may come after its frame.
        status: Gives the line of keys to a person who sees that; None without one.
        emit: Gets an event whenever the vote over the last frames changes, or None.
        illustrate: Gets the frame of an event before it, or None.
        vote: How many frames vote.
        min_score: What is less sure is told as `unsure`.
        finds_unknown: Whether frames that look like nothing learned are told and kept for review.
        takes_alike: Whether a new class may have a name that looks like a known one's.
        meant: Names of new classes that may, and of unlearned ones that may be learned again.
        show: Shown every frame with what was said of it, or None.
    """

    def __init__(
        self,
        home: Home,
        learner: Learner,
        engine: StreamEngine,
        source: Source,
        *,
        key: str,
        start: Position,
        has_feed: bool,
        status: Callable[[str], str] | None,
        emit: Callable[[dict[str, Any]], None] | None,
        illustrate: Callable[[Frame], None] | None,
        vote: int,
        min_score: float,
        finds_unknown: bool,
        takes_alike: bool,
        meant: set[str],
        show: Callable[[Sight], None] | None = None,
    ) -> None:
        self.home, self.learner, self.source = home, learner, source
        self.is_stopped = False
        self.tally = Tally(start.n)
        self.events: deque[Event] = deque()
        source.on_news = lambda line: self.events.append(Said(line))
        self.lessons: deque[Lesson] = deque(maxlen=_MOST_LESSONS)
        self.usable = Usable(home, learner.store, source, takes_alike=takes_alike, meant=meant)
        self.pending = Pending(
            home, learner, source, key=key, start=start, usable=self.usable, events=self.events,
            tally=self.tally, is_reviewed=has_feed, answer=lambda x: self.view.served.answer(x),
        )  # fmt: skip
        finds_unknown = finds_unknown or home.config.head.pretrained
        is_looked_at = emit is not None or status is not None or show is not None
        self.view = View(
            learner,
            Served(
                learner,
                engine,
                n_ahead=most_ahead(home.config.engine.batch_size, is_live=source.is_live),
                is_wanted=is_looked_at and source.kind != "finite",
            ),
            emit,
            vote,
            finds_unknown=finds_unknown,
            min_score=min_score,
            is_shown=status is not None,
            show=show,
            recent=RecentFrames(int(home.config.live.ring_mb * 1e6)) if has_feed else None,
            pretrained=home.pretrained() if finds_unknown and is_looked_at else None,
            takes_guess=home.config.head.pretrained,
            illustrate=illustrate,
            parts=source.parts,
        )
        self._status = status
        self._reasons: set[str] = set()
        self.standing: Standing | None = None
        self.movement = Movement(
            learner, home.manifest.stages, self.events, is_recorded=is_recorded(home)
        )

        self.shadow = Shadow(home, learner, engine.open_adapted, self.events)

    def is_new(self, item: Embedded | Skipped) -> bool:
        """Whether a frame is the first of its class that can be learned."""
        name = label_of(item)
        if name is None or self.usable.reason(item):
            return False
        return not self.learner.store.has_class(name) and name not in map(
            label_of, self.pending.items
        )

    def take(self, item: Embedded | Skipped) -> None:
        """Take in one frame: it waits to be learned, is only predicted, or is skipped."""
        name = item.id if isinstance(item, Skipped) else item.frame.id
        if reason := self.usable.reason(item):
            # Of a camera every frame may be so, thirty a second: told once, and all are counted.
            if not (self.source.is_live and reason in self._reasons):
                self.events.append(FrameSkipped(name, reason))
                self._reasons = {*list(self._reasons)[-_MOST_REASONS:], reason}
            self.pending.take(name, None, skipped=1)
            return
        assert isinstance(item, Embedded)
        self.pending.freshness.came(item.frame)
        if self.source.kind == "finite":
            return self.pending.take(name, item)
        if self.source.is_live:
            plain = item.feature[: self.learner.head.num_features]
            self.movement.look(plain, item.frame.time or time.time())
            if self.shadow.look(item):
                self.view.served.adapters_changed()
        is_unlabelled = item.frame.label is None
        is_unknown = self.view.look(item)
        counts = {"unlabelled": int(is_unlabelled), "unknown": int(is_unknown)}
        self.pending.take(name, None if is_unlabelled else item, **counts)

    def commit(self, *, is_finished: bool = False) -> None:
        """Learn what waits, with the position."""
        self.lessons.extend(self.pending.commit(is_finished=is_finished))
        self.view.served.learned()

    def changed(self) -> None:
        """Take all of the store anew: a command changed it, by way of the stream's learner."""
        self.pending.begin()
        self.lessons.clear()
        if self.view.recent is not None:
            self.view.recent.clear()
        self.forget()

    def forget(self) -> None:
        """Read anew what was kept of the store: it lost some."""
        self.pending.duplicates.forget()
        self.pending.same.forget()
        self.view.forget()
        self.movement.forget()
        self.shadow.forget()

    @property
    def has_to_tell(self) -> bool:
        """Whether something is to be told without a commit; events would fill the memory."""
        return bool(self.source.kind != "finite" or self.events) and self.tally.is_due

    def tell(self, *, is_interrupted: bool = False) -> Progress:
        """Return where the run stands, with the events since the last time."""
        if self.standing is not None:
            self.standing.tell()
        freshness = self.pending.freshness
        counts = asdict(self.source.counts)
        del counts["received"]
        return self.tally.tell(
            **counts,
            n_classes=len(self.learner.head.classes),
            p50_ms=freshness.quantile_ms(0.5),
            p99_ms=freshness.quantile_ms(0.99),
            oldest=freshness.oldest,
            passed_over=sum(self.source.passed_over.values()),
            same_as=tuple((*pair, n) for pair, n in self.pending.same.found.items()),
            status="" if self._status is None else self._status(self.view.sight),
            # One by one: the source's thread may add some meanwhile.
            events=tuple(self.events.popleft() for _ in range(len(self.events))),
            is_interrupted=is_interrupted,
            drift=self.movement.ratio,
            by_source=self._by_source(),
        )

    def _by_source(self) -> dict[str, dict[str, int]]:
        """Return what became of the frames of each of several sources."""
        learned = self.pending.learned_by_source
        return {
            name: {"learned": learned[name], **counts}
            for name, counts in self.source.by_source.items()
        }


def labelled(item: Embedded, label: str | None) -> Embedded:
    """Return a frame under a label."""
    if label == item.frame.label:
        return item
    return replace(item, frame=replace(item.frame, label=label))


def label_of(item: Embedded | Skipped) -> str | None:
    """Return the label of a frame, if it has one."""
    return item.frame.label if isinstance(item, Embedded) else None
