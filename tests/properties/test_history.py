"""Random histories of a home: learn, evict, predict, forget, relearn, snapshot, roll back, reopen.

After every step: statistics are those of the samples that remain, bit for bit; the head is the one
that these statistics define; probes and frames to review are those that remain; no row is orphaned,
and no sample that was unlearned is there again; the chain of receipts is whole; nothing that was
unlearned is named. `EDGECL_HISTORIES` says how many histories are tried (60 if it is not set; the
10,000 that docs/benchmarks.md reports were run with it).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import build
from edgecl import snapshots
from edgecl.errors import RequestError
from edgecl.heads import make_head_of
from edgecl.heads.statistics import Gram
from edgecl.runtime.grid import quantise
from edgecl.session import Session, open_learner, open_store
from edgecl.store.probes import history, latency_of_classes
from edgecl.store.table import Role
from edgecl.store.tables import TABLES
from edgecl.types import ForgetRequest
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.request import forget, writing

D, CAPACITY = 6, 7
NAMES = ("bolt", "nut", "ring", "plate")
SOURCES = ("north gate", "south gate")
# A file system in memory: a history commits dozens of times.
PLACE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass(frozen=True)
class Sample:
    """What was learned once, held out, or waits for review (then the label is a guess)."""

    uid: int
    label: str
    source: str
    x: np.ndarray


class History(RuleBasedStateMachine):
    """A home beside a plain list of what it should know."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(dir=PLACE))
        self.home = build.tiny_home(
            self.place / "home", num_features=D, capacity_samples=CAPACITY, snapshots=2, probes=3
        )
        self.known: list[Sample] = []
        self.held: list[Sample] = []
        self.waiting: list[Sample] = []
        self.kept: dict[int, tuple[list[Sample], list[Sample], list[Sample]]] = {}
        self.unlearned: set[int] = set()
        self.n = 0
        self.open()

    def open(self) -> None:
        """Open the home as a command does."""
        self.writer = writing(self.home)
        self.store = self.writer.__enter__().store
        self.learner = open_learner(self.home, self.store)

    def teardown(self) -> None:
        """Close and remove the home."""
        self.writer.__exit__(None, None, None)
        shutil.rmtree(self.place)

    @rule(
        name=st.sampled_from(NAMES),
        source=st.sampled_from(SOURCES),
        n=st.sampled_from((1, 2, 5, 40)),
    )
    def learn(self, name: str, source: str, n: int) -> None:
        """Learn a few samples; of 40 at once some are folded and most are evicted."""
        rng = np.random.default_rng(self.n)
        x = rng.uniform(0, 3, (n, D)).astype(np.float32)
        frames = [replace(build.frame(name, self.n + i), source=source) for i in range(n)]
        self.n += n
        reports = self.learner.learn_many(frames, x)
        for report, row in zip(reports, quantise(x), strict=True):
            sample = Sample(report.uid, name, source, row)
            (self.held if report.is_held_out else self.known).append(sample)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), source=st.sampled_from((*SOURCES, "east gate")))
    def wait(self, data: st.DataObject, source: str) -> None:
        """Put a frame that looks like a class into the review queue."""
        name = data.draw(st.sampled_from(sorted({s.label for s in self.known})))
        x = quantise(np.random.default_rng(self.n).uniform(0, 3, D).astype(np.float32))
        with self.store.transaction(changes_head=False):
            uid = self.store.add_aside(
                Role.REVIEW,
                self.store.class_uid(name),
                x,
                b"picture",
                source=source,
                frame="a frame",
                time=0.0,
                score=1.0,
            )
        self.waiting.append(Sample(uid, name, source, x))

    @rule()
    def reopen(self) -> None:
        """End the process and start another."""
        self.writer.__exit__(None, None, None)
        self.open()

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def forget_class(self, data: st.DataObject) -> None:
        """Unlearn a class."""
        name = data.draw(st.sampled_from(sorted({s.label for s in self.known})))
        self.forget("class", name, [s for s in self.known if s.label != name])

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def forget_source(self, data: st.DataObject) -> None:
        """Unlearn a source."""
        everything = self.known + self.held + self.waiting
        source = data.draw(st.sampled_from(sorted({s.source for s in everything})))
        self.held, self.waiting = (
            [s for s in rows if s.source != source] for rows in (self.held, self.waiting)
        )
        self.forget("source", source, [s for s in self.known if s.source != source])

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def forget_sample(self, data: st.DataObject) -> None:
        """Unlearn a sample of any role, if it can still be told apart."""
        sample = data.draw(st.sampled_from(self.known + self.held + self.waiting))
        rest = [s for s in self.known if s != sample]
        try:
            self.forget("sample", str(sample.uid), rest)
        except RequestError as error:
            assert "forget its source or its class" in str(error)  # noqa: PT017
            assert sample in self.known
        else:
            self.unlearned.add(sample.uid)
            self.held, self.waiting = (
                [s for s in rows if s != sample] for rows in (self.held, self.waiting)
            )

    def forget(self, kind: str, name: str, rest: list[Sample]) -> None:
        """Unlearn, and take the snapshots that go with it off the list."""
        request = ForgetRequest(name, kind=kind)
        done = forget(self.home, self.learner, request)
        # Of a source there may be nothing but probes and frames to review, and a sample may be one.
        assert done.mode == ("store_only" if len(rest) == len(self.known) else "exact_head")
        gone = {s.label for s in self.known} - {s.label for s in rest}
        touched = {s.label for s in self.known if s not in rest} | gone
        purged = done.receipt.body["snapshots_purged"]
        self.known = rest
        left = {s.label for s in rest}
        self.held, self.waiting = (
            [s for s in rows if s.label in left] for rows in (self.held, self.waiting)
        )
        for uid in list(self.kept):
            held = {s.label for s in self.kept[uid][0]}
            assert (uid in purged) or not (held & touched)
            if uid in purged:
                del self.kept[uid]

    @precondition(lambda self: self.known)
    @rule()
    def snapshot(self) -> None:
        """Keep what is known now."""
        uid = snapshots.take(self.home, self.store).uid
        self.kept[uid] = list(self.known), list(self.held), list(self.waiting)
        for old in sorted(self.kept)[:-2]:
            del self.kept[old]

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        """Bring back what was known."""
        uid = data.draw(st.sampled_from(sorted(self.kept)))
        snapshots.rollback(self.home, self.learner, uid)
        self.known, self.held, self.waiting = map(list, self.kept[uid])

    @invariant()
    def statistics_are_those_of_what_is_known(self) -> None:
        """Sums and Gram matrices equal those made of the rows at once, bit for bit."""
        store = self.store
        seen = Counter(s.label for s in self.known)
        assert {store.names[uid]: n for uid, n in store.n_seen().items()} == dict(seen)
        for uid, name in store.names.items():
            wanted = Gram(D).of(np.array([s.x for s in self.known if s.label == name]))
            found = store.moments(uid)
            assert (found.n, *Gram(D).pack(found)) == (wanted.n, *Gram(D).pack(wanted))
        assert store.n_stored_samples <= CAPACITY

    @invariant()
    def the_head_is_the_one_that_they_define(self) -> None:
        """What predicts equals a head built anew, and names only what is known."""
        fresh = make_head_of(self.home.config.head, D)
        fresh.rebuild(self.store)
        fresh.settle(self.store)
        head, names = self.learner.head, self.store.names
        head.settle(self.store)
        build.assert_same(head.scorer(names), fresh.scorer(names))
        served = Session(self.home, self.store).exact_scorer()
        assert set(served.labels) == {s.label for s in self.known}
        if served.labels:
            scores = served.scores(np.ones((2, D), np.float32))
            assert np.isfinite(scores).all()

    @invariant()
    def nothing_is_orphaned_and_the_chain_is_whole(self) -> None:
        """Foreign keys, sizes and receipts fit."""
        execute = self.store.connection.execute
        assert execute("PRAGMA foreign_key_check").fetchall() == []
        used = []
        for table in TABLES:
            if table.part_of:
                assert execute(
                    f"SELECT count(*) FROM {table.name} "
                    f"WHERE uid NOT IN (SELECT uid FROM {table.part_of})"
                ).fetchone() == (0,)
            if table.source:
                used.append(f"SELECT {table.source} FROM {table.name}")
        unused = f"SELECT count(*) FROM sources WHERE uid NOT IN ({' UNION '.join(used)})"
        assert execute(unused).fetchone() == (0,)
        for uid in self.unlearned:
            assert execute("SELECT 1 FROM samples WHERE uid = ?", (uid,)).fetchone() is None
        assert not self.store.has_requests()
        assert Chain(self.home, self.store).lost == []
        with open_store(self.home, read_only=True) as reader:
            assert reader.n_seen() == self.store.n_seen()

    @invariant()
    def what_stands_beside_is_of_what_is_known(self) -> None:
        """Probes, frames to review, scores and latencies, and every text that may name a class."""
        execute, names = self.store.connection.execute, self.store.names
        for role, wanted in ((Role.HELD_OUT, self.held), (Role.REVIEW, self.waiting)):
            found = {(o.uid, names[o.class_uid], o.source) for o in self.store.origins(role)}
            assert found == {(s.uid, s.label, s.source) for s in wanted}
            rows, xs = self.store.rows(role), {s.uid: s.x for s in wanted}
            assert all(
                np.array_equal(x, xs[u]) for u, x in zip(rows.uids.tolist(), rows.x, strict=True)
            )
        past = history(self.store)
        assert set(past.classes.tolist()) <= set(names)
        assert set(latency_of_classes(self.store)) <= set(names)
        assert np.nan_to_num(past.accuracy).max(initial=0) <= 1
        (empty,) = execute(
            "SELECT count(*) FROM evaluations "
            "WHERE uid NOT IN (SELECT evaluation FROM class_scores)"
        ).fetchone()
        assert empty == 0
        gone = set(NAMES) - set(names.values())
        for table in TABLES:
            for column in (*table.names, *table.texts):
                said = execute(f"SELECT {column} FROM {table.name} WHERE {column} IS NOT NULL")
                assert not [text for (text,) in said if any(name in text for name in gone)]


HISTORIES = int(os.environ.get("EDGECL_HISTORIES", "60"))
History.TestCase.settings = settings(
    max_examples=HISTORIES,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


@pytest.mark.slow
class TestHistory(History.TestCase):  # type: ignore[name-defined,misc]
    """Run the histories."""
