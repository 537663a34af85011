"""The loop of a stream: frames are predicted, learned and committed; see `learn_stream`.

One flat loop serves files and live sources. What differs: a source that can be read again keeps
whole batches and positions, a live one commits what is there and begins with what comes next. The
module is longer than others, since the loop and its state are read together.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from edgecl.heads.keys import picture_hash
from edgecl.home import Home
from edgecl.learner import Learner, Lesson, chain
from edgecl.runtime.engines.base import Engine
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.grid import quantise
from edgecl.runtime.pipeline import Embedded, embed
from edgecl.runtime.sources.base import ListSource, Source, close_source, passed_over
from edgecl.runtime.sources.live import Counts, LiveBase
from edgecl.store.novel import entry_of_frame
from edgecl.store.progress import Position
from edgecl.store.text import plain_text
from edgecl.stream.ages import STALE_AFTER, Ages
from edgecl.stream.duplicates import Duplicates
from edgecl.stream.progress import Progress
from edgecl.stream.ring import Ring
from edgecl.stream.seen import Seen
from edgecl.stream.served import Served, StreamEngine
from edgecl.stream.teacher import Quit, Teacher, Undo
from edgecl.types import Frame, Skipped, alike
from edgecl.unlearning.receipt import find_tombstone
from edgecl.unlearning.request import finish_requests

# A frame that waits longer is committed alone, so that a slow camera loses no more at a power cut.
_COMMIT_WITHIN_S = 2.0
_TELL_EVERY_S = 0.25
# Samples that can be taken back.
_MOST_LESSONS = 500


@dataclass(frozen=True, slots=True)
class Live:
    """What a run does beside learning what the source names.

    Args:
        teacher: Names frames and tells what to do, or None: then the source alone does.
        emit: Gets an event whenever the vote over the last frames changes, or None.
        vote: How many frames vote.
        finds_unknown: Answer frames that look like nothing learned with `unknown`, and put the
            most novel into the review queue.
    """

    teacher: Teacher | None = None
    emit: Callable[[dict[str, Any]], None] | None = None
    vote: int = 5
    finds_unknown: bool = False


class Run:
    """State of one run of `learn_stream`, whose arguments it takes."""

    def __init__(
        self,
        home: Home,
        learner: Learner,
        engine: Engine,
        source: Source,
        *,
        key: str,
        start: Position,
        limit: int | None,
        should_stop: Callable[[], bool],
        renew: Callable[[str | None], bool] | None,
        open_adapted: Callable[[], OnnxEngine] | None,
        live: Live,
    ) -> None:
        self._home = home
        self._learner = learner
        self._engine = StreamEngine(
            engine, open_adapted or (lambda: home.engine(takes_adapters=True))
        )
        self._source = source
        self._key = key
        self._limit = limit
        self._should_stop = should_stop
        self._renew = renew
        self._teacher = live.teacher

        self._begin = time.monotonic()
        self._progress = Progress(start=start.n, n_classes=len(learner.head.classes))
        self._told_at = self._begin
        self._committed = self._progress
        self._position = start
        self._committed_position = start
        self._waiting: list[Embedded] = []
        self._waiting_since = 0.0
        self._news: deque[str] = deque()
        self._lessons: deque[Lesson] = deque(maxlen=_MOST_LESSONS)
        self._is_stopped = False
        # Of pictures that made the keys, which outlive an unlearning; and classes told about.
        self._key_pictures = frozenset(home.manifest.keys)
        self._told_of_keys: set[str] = set()
        self._unlearned: set[str] = set()
        self._closed: set[str] = set()
        self._can_be_unlabelled = source.is_live or len(source) == 0
        # Whole batches of the head in every commit: a resumed stream then has the same batches.
        size = learner.head.batch_size
        self._n_step = -(-home.config.store.commit_every // size) * size

        settings = home.config.live
        self._ages = Ages()
        cosine = settings.duplicate_cosine if source.is_live else 1.0
        self._duplicates = Duplicates(cosine, learner.store.newest_rows)
        has_feed = live.teacher is not None and live.teacher.has_feed
        self._ring = Ring(int(settings.ring_mb * 1e6)) if has_feed else None
        is_shown = live.teacher is not None and live.teacher.has_keyboard
        self._served = Served(
            learner,
            self._engine,
            is_live=source.is_live,
            is_wanted=self._can_be_unlabelled and (live.emit is not None or is_shown),
        )
        self._seen = Seen(
            learner,
            self._served,
            live.emit,
            live.vote,
            finds_unknown=live.finds_unknown,
            is_shown=is_shown,
        )
        if isinstance(source, LiveBase):
            source.on_news = self._news.append

    def steps(self) -> Generator[Progress]:
        """Learn the source; yields as `learn_stream` does."""
        preprocessing = self._home.manifest.preprocessing
        self._learner.embed_views = lambda pictures: self._engine.plain.run(
            np.stack([preprocessing.tensor(picture) for picture in pictures])
        )
        frames = islice(self._source.frames(self._position.n), self._limit)
        with closing(self._embedded(frames)) as groups:
            for group in groups:
                yield from self._group(group)
                if self._should_stop():
                    self._is_stopped = True
                if self._is_stopped:
                    break
        yield from self._listen()  # to a label for the last frames
        if not self._is_stopped:
            is_finished = self._limit is None or self._position.n == len(self._source)
            self._learn(is_finished=is_finished)
            # A limit ends the run, not the stream: what it cut is consolidated when it is whole.
            if self._renew is not None and is_finished:
                self._renew(None)
        elif not self._source.is_live:
            self._progress = self._committed  # the rest is left to the run that resumes
        self._learner.settle()
        yield replace(self._tell(), is_interrupted=self._is_stopped)

    def _embedded(self, frames: Iterator[Frame | Skipped]) -> Generator[list[Embedded | Skipped]]:
        return embed(
            frames,
            self._home.manifest.preprocessing,
            self._engine,
            batch_size=self._home.config.engine.batch_size,
            max_pixels=self._home.max_pixels,
            is_live=self._source.is_live,
            # The one frame that waits may be decoded; the many of a file are better packed.
            pixels_above=self._learner.shrink_to if self._source.is_live else None,
            wake=lambda: close_source(self._source),
        )

    def _group(self, group: Sequence[Embedded | Skipped]) -> Iterator[Progress]:
        """Handle what came together."""
        yield from self._listen()
        if self._is_stopped:
            return
        for item in map(self._named, group):
            if self._renew is not None and self._is_new(item):
                if self._waiting:
                    yield self._commit()
                if self._renew(_label(item)):
                    self._served.adapters_changed()
            self._take(item)
            if len(self._waiting) >= self._n_step:
                yield self._commit()
                self._obey()
        if self._is_due(group):
            yield self._commit()
            self._obey()
        # Where every frame is skipped nothing is committed, and requests still come.
        elif group and not self._waiting:
            self._obey()
        has_more = self._can_be_unlabelled or self._news  # news would fill the memory
        if has_more and time.monotonic() - self._told_at > _TELL_EVERY_S:
            yield self._tell()

    def _is_due(self, group: Sequence[Embedded | Skipped]) -> bool:
        """Whether to commit now, though less than a whole step waits."""
        if self._source.is_live:
            return bool(self._waiting)
        # A stream is not waited for; a source that can be read again keeps whole batches.
        if not group and len(self._source) == 0:
            return self._position.n > self._committed_position.n
        return (
            bool(self._waiting)
            and len(self._waiting) % self._learner.head.batch_size == 0
            and time.monotonic() - self._waiting_since > _COMMIT_WITHIN_S
        )

    def _listen(self) -> Iterator[Progress]:
        """Do what the teacher says."""
        if self._teacher is None:
            return
        for action in self._teacher.poll():
            if isinstance(action, Quit):
                self._is_stopped = True
            elif isinstance(action, Undo):
                if self._waiting:
                    yield self._commit()
                self._undo(action.n)
                yield self._tell()
            elif self._ring is not None and action.label is not None:
                for item in self._ring.take(action.holds):
                    named = _with_label(item, action.label)
                    reason = self._reason(named)
                    if reason:  # an unlearning came first
                        self._news.append(f"not learned {item.frame.id}: {reason}")
                        continue
                    self._wait(named)
                    if len(self._waiting) >= self._n_step:
                        yield self._commit()
        self._news += self._teacher.news()
        if self._waiting and self._source.is_live:
            yield self._commit()

    def _named(self, item: Embedded | Skipped) -> Embedded | Skipped:
        """Return a frame with the label that the teacher gives it."""
        if isinstance(item, Skipped) or self._teacher is None:
            return item
        return _with_label(item, self._teacher.label_of(item.frame))

    def _take(self, item: Embedded | Skipped) -> None:
        """Take in one frame: it waits to be learned, is only predicted, or is skipped."""
        name = item.id if isinstance(item, Skipped) else item.frame.id
        digest = chain(self._home.key, self._position.digest, name)
        self._position = Position(self._position.n + 1, digest, False)
        self._count(seen=1)
        reason = self._reason(item)
        if reason:
            self._news.append(f"skipped {name}: {reason}")
            self._count(skipped=1)
            return
        assert isinstance(item, Embedded)
        self._ages.came(item.frame)
        if self._can_be_unlabelled:
            self._look(item)
        if item.frame.label is not None:
            self._wait(item)

    def _warn_of_keys(self, frame: Frame) -> None:
        """Say once a class that a picture of it made the home's keys."""
        label = frame.label or ""
        if not self._key_pictures or label in self._told_of_keys:
            return
        if picture_hash(frame) in self._key_pictures:
            self._told_of_keys.add(label)
            self._news.append(
                f"warning: {frame.id}, learned as {label}, is one of the pictures of --keys: what "
                "the keys hold of it outlives an unlearning; make the home with other pictures if "
                f"{label} may have to be forgotten"
            )

    def _reason(self, item: Embedded | Skipped) -> str:
        """Return why a frame cannot be used, or nothing."""
        if isinstance(item, Skipped):
            return item.reason
        if item.frame.label is None and not self._can_be_unlabelled:
            return str(getattr(self._source, "no_label", ListSource.no_label))
        if not np.isfinite(item.feature).all():
            return "its feature is not finite"
        if item.frame.label in self._unlearned:
            return "its class was unlearned while this source was learned"
        if self._closed and plain_text(item.frame.source) in self._closed:
            return "its source was unlearned while it was learned"
        return ""

    def _is_new(self, item: Embedded | Skipped) -> bool:
        name = _label(item)
        if name is None or self._reason(item):
            return False
        return not self._learner.store.has_class(name) and name not in map(_label, self._waiting)

    def _wait(self, item: Embedded) -> None:
        self._warn_of_keys(item.frame)
        if not self._waiting:
            self._waiting_since = time.monotonic()
        self._waiting.append(item)

    def _look(self, item: Embedded) -> None:
        """Predict a frame if anybody wants to know; keep it, if its label may still come."""
        frame = item.frame
        is_unlabelled = frame.label is None
        is_unknown = self._seen.look(item)
        self._count(unlabelled=int(is_unlabelled), unknown=int(is_unknown))
        if self._ring is not None and is_unlabelled:
            # Pixels would fill the ring in seconds.
            small = frame if frame.pixels is None else self._learner.small(frame)
            # Its age when it is learned is the teacher's, so nothing measures it.
            small = replace(small, monotonic=0.0)
            self._ring.add(replace(item, frame=small), frame.time or time.time())

    def _commit(self) -> Progress:
        self._learn()
        return self._tell()

    def _learn(self, *, is_finished: bool = False) -> None:
        """Learn what waits, with the position in one transaction."""
        items, ages = self._fresh()
        for name in dict.fromkeys(item.frame.label or "" for item in items):
            self._news.extend(_news_of_class(self._home, self._learner, name))
        self._position = replace(self._position, is_finished=is_finished)
        width = self._learner.head.num_features
        x = np.array([item.feature[:width] for item in items], np.float32).reshape(-1, width)
        reports = []
        if items or not self._source.is_live:
            reports = self._learner.learn_many(
                [item.frame for item in items],
                x,
                # A live source has no positions: the next run begins with what comes then.
                position=None if self._source.is_live else (self._key, self._position),
                reviewed=self._reviewed(items),
            )
        now = time.monotonic()
        for item, age, report, row in zip(items, ages, reports, quantise(x), strict=True):
            self._ages.committed(item.frame, age, now)
            self._lessons.append(
                Lesson(
                    report.uid,
                    self._learner.store.class_uid(item.frame.label or ""),
                    plain_text(item.frame.source),
                    row,
                    report.is_held_out,
                )
            )
        learned = [report for report in reports if not report.is_held_out]
        self._count(
            learned=len(learned),
            held_out=len(reports) - len(learned),
            n_correct=sum(report.is_correct for report in learned),
        )
        self._waiting.clear()
        self._committed, self._committed_position = self._progress, self._position
        self._served.learned()

    def _reviewed(self, items: Sequence[Embedded]) -> list[int]:
        """Return for each frame its entry in the review queue: its label came after all."""
        if self._ring is None:
            return []
        store, frames = self._learner.store, [item.frame for item in items]
        return [entry_of_frame(store, frame.source, frame.id, frame.time) for frame in frames]

    def _fresh(self) -> tuple[list[Embedded], list[float]]:
        """Return what waits and is neither too old nor a near-duplicate, and its ages."""
        if not self._source.is_live:
            return list(self._waiting), [0.0] * len(self._waiting)
        items, ages = [], []
        now, width = time.monotonic(), self._learner.head.num_features
        for item in self._waiting:
            label = self._learner.store.canonical(item.frame.label or "")
            age = self._ages.age(item.frame, now)
            if age > STALE_AFTER:
                self._count(stale=1)
            elif self._duplicates.is_near(label, item.feature[:width]):
                self._count(duplicates=1)
            else:
                items.append(item)
                ages.append(age)
        return items, ages

    def _undo(self, n: int) -> None:
        """Take back the newest n samples of this run, as far as it remembers them."""
        lessons = [self._lessons.pop() for _ in range(min(n, len(self._lessons)))]
        if not lessons:
            self._news.append("nothing to take back")
            return
        names = dict(self._learner.store.names)
        self._learner.undo(lessons)
        self._duplicates.forget()
        self._seen.forget()
        self._served.adapters_changed()  # a class that is gone may have taken some along
        self._count(undone=len(lessons))
        told = dict.fromkeys(names[lesson.class_uid] for lesson in lessons)
        self._news.append(f"took back the last {len(lessons)} samples of {', '.join(told)}")

    def _obey(self) -> None:
        """Carry out what another process asked for."""
        store = self._learner.store
        if not store.has_requests():
            return
        names = {uid: store.names_of(uid) for uid in store.names}
        sources = store.sources()
        for done in finish_requests(self._home, store, self._learner):
            body = done.receipt.body
            self._news.append(
                f"unlearned as another process asked (receipt {done.receipt.receipt_id})"
                + ("" if body["what"] == "sample" else "; its frames are skipped from here on")
            )
            self._unlearned.update(names.get(body.get("class_uid", 0), ()))
            self._closed.add(sources.get(body.get("source_uid", 0), ""))
        self._closed.discard("")
        self._forget_recent()
        self._served.adapters_changed()

    def _forget_recent(self) -> None:
        """Drop what is kept in memory of frames: it may be of what was unlearned."""
        self._lessons.clear()
        self._duplicates.forget()
        self._seen.forget()
        if self._ring is not None:
            self._ring.clear()

    def _count(self, **more: int) -> None:
        values = {name: getattr(self._progress, name) + n for name, n in more.items() if n}
        if values:
            self._progress = replace(self._progress, **values)

    def _tell(self) -> Progress:
        """Return where the run stands, with the news since the last time."""
        counts = self._source.counts if isinstance(self._source, LiveBase) else Counts()
        self._told_at = time.monotonic()
        self._progress = replace(
            self._progress,
            n_classes=len(self._learner.head.classes),
            seconds=self._told_at - self._begin,
            dropped=counts.dropped,
            reconnects=counts.reconnects,
            stalls=counts.stalls,
            repeated=counts.repeated,
            broken=counts.broken,
            oversize=counts.oversize,
            not_pictures=counts.not_pictures,
            p50_ms=self._ages.quantile_ms(0.5),
            p99_ms=self._ages.quantile_ms(0.99),
            oldest=self._ages.oldest,
            passed_over=sum(passed_over(self._source).values()),
            status="" if self._teacher is None else self._teacher.status(self._seen.sight),
        )
        # One by one: the source's thread may add some meanwhile.
        news = tuple(self._news.popleft() for _ in range(len(self._news)))
        return replace(self._progress, news=news)


def _with_label(item: Embedded, label: str | None) -> Embedded:
    if label == item.frame.label:
        return item
    return replace(item, frame=replace(item.frame, label=label))


def _label(item: Embedded | Skipped) -> str | None:
    return item.frame.label if isinstance(item, Embedded) else None


def _news_of_class(home: Home, learner: Learner, name: str) -> list[str]:
    if learner.store.has_class(name):
        return []
    news = []
    if near := alike(name, learner.store.aliases()):
        news.append(f"class {name!r} is new and looks like {near!r}, another class")
    found = find_tombstone(home, learner.store, "class", name)
    if found is None:
        return news
    return [
        *news,
        f"class {name!r} was unlearned (receipt {found[1]}) and is now learned again, under a new "
        "uid",
    ]
