"""What a stream is told to do between two groups of frames: by keys, messages, other processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from edgecl.consolidation.plan import is_due
from edgecl.errors import RequestError
from edgecl.lending import lending
from edgecl.runtime.sources.messages import LabelWindow
from edgecl.store.receipts import n_given, receipt_rows
from edgecl.stream.events import NotConsolidated, NotLearned, Undone, Unlearned
from edgecl.stream.state import Stream, labelled
from edgecl.unlearning.receipt import Forgotten
from edgecl.unlearning.request import finish_requests

if TYPE_CHECKING:
    from edgecl.consolidation.run import Consolidated
    from edgecl.session import Session
    from edgecl.stream.queue import Work


class Command:
    """Something to do with a stream."""

    commits_first: ClassVar[bool] = False
    """Whether what waits is learned before."""

    def run(self, stream: Stream) -> None:
        """Do it."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Stop(Command):
    """End the stream."""

    def run(self, stream: Stream) -> None:
        """Note it; the loop looks."""
        stream.is_stopped = True


@dataclass(frozen=True, slots=True)
class Undo(Command):
    """Take back the newest n samples of this run, as far as it remembers them."""

    n: int
    commits_first = True

    def run(self, stream: Stream) -> None:
        """Take them back."""
        lessons = [stream.lessons.pop() for _ in range(min(self.n, len(stream.lessons)))]
        names = dict(stream.learner.store.names)
        if lessons:
            stream.learner.undo(lessons)
            stream.forget()
            stream.tally.add(undone=len(lessons))
        labels = dict.fromkeys(names[lesson.class_uid] for lesson in lessons)
        stream.events.append(Undone(len(lessons), tuple(labels)))


@dataclass(frozen=True, slots=True)
class NameRecent(Command):
    """Learn the recent frames of a time, whose label came only now."""

    window: LabelWindow

    def run(self, stream: Stream) -> None:
        """Let them wait, and commit whole steps of them."""
        label, recent = self.window.label, stream.view.recent
        if recent is None or label is None:
            return
        for item in recent.take(self.window.holds, self.window.source):
            named = labelled(item, label)
            if reason := stream.usable.reason(named):  # an unlearning came first
                stream.events.append(NotLearned(item.frame.id, reason))
                continue
            stream.pending.add(named)
            if stream.pending.is_full:
                stream.commit()


@dataclass(frozen=True, slots=True)
class FinishRequests(Command):
    """Forget what other processes asked for; later frames of it are skipped."""

    def run(self, stream: Stream) -> None:
        """Carry them out."""
        with _barring(stream):
            finish_requests(stream.home, stream.learner.store, stream.learner)
        # What is kept in memory of frames may be of what was unlearned.
        stream.lessons.clear()
        if stream.view.recent is not None:
            stream.view.recent.clear()
        stream.forget()


@dataclass(frozen=True, slots=True)
class Asked(Command):
    """Something that another thread asked for, done on the session that is open.

    Args:
        work: What to do.
        session: The session, whose learner the stream works with, as all that is done here must.
        after: Called behind it; told what was done and whether it changed what is learned.
    """

    work: Work
    session: Session
    after: Callable[[Work, bool], None]
    commits_first = True

    def run(self, stream: Stream) -> None:
        """Do it; what it raises is its asker's."""
        store = stream.learner.store
        version, loads = store.version, store.loads
        with lending(self.session):
            self.work.do(_barring(stream))
        has_changed = (store.version, store.loads) != (version, loads)
        if has_changed:
            stream.changed()
        self.after(self.work, has_changed)


@contextmanager
def _barring(stream: Stream) -> Iterator[None]:
    """Skip from here on the frames of what is unlearned inside: they were on their way before."""
    store = stream.learner.store
    names = {uid: store.names_of(uid) for uid in store.names}
    sources, n_before = store.sources(), n_given(store)
    try:
        yield
    finally:  # it may have failed behind it
        for row in receipt_rows(store, after=n_before):
            body = json.loads(row.body)
            if body["kind"] != Forgotten.kind:
                continue
            stream.events.append(Unlearned(f"r{row.number}", body["what"] != "sample"))
            stream.usable.bar(
                names.get(body.get("class_uid", 0), ()), sources.get(body.get("source_uid", 0), "")
            )


@dataclass(frozen=True, slots=True)
class Consolidate(Command):
    """Train an adapter whenever so many new classes were learned.

    Args:
        every: So many.
        train: Trains one and judges it.
        label: The new class that comes next; None at the end of the source.
        accepted: Whether each one that was trained is served.
    """

    every: int
    train: Callable[[], Consolidated]
    label: str | None = None
    accepted: list[bool] = field(default_factory=list)
    commits_first = True

    def run(self, stream: Stream) -> None:
        """Train one if it is time."""
        store = stream.learner.store
        if not is_due(store, self.every, self.label):
            return
        try:
            self.accepted.append(self.train().accepted)
        except RequestError as error:  # the stream goes on; the next new class asks again
            stream.events.append(NotConsolidated(str(error)))
            with store.transaction(changes_head=False):
                store.note_attempt(max(store.names))
            return
        if self.accepted[-1] and self.label is not None:
            stream.shadow.forget()
            stream.view.served.adapters_changed()
