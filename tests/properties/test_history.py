"""Random histories of a home: learn, evict, predict, forget, relearn, snapshot, roll back, reopen,
relabel, merge, hold out and undo.

After every step: statistics are those of the samples that remain, bit for bit; the head is the one
that these statistics define; probes and frames to review are those that remain; no row is orphaned,
and no sample that was unlearned is there again; the chain of receipts is whole; nothing that was
unlearned is named. `EDGECL_HISTORIES` says how many histories are tried (60 if it is not set; the
10,000 that docs/benchmarks.md reports were run with it).
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import build
from edgecl import mending, snapshots
from edgecl.errors import RequestError
from edgecl.heads import make_head_of
from edgecl.heads.statistics import Gram
from edgecl.runtime.grid import quantise
from edgecl.session import Session, open_learner, open_store
from edgecl.store.probes import history, latency_of_classes
from edgecl.store.runs import Start, last_run
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


State = tuple[list[Sample], list[Sample], list[Sample]]


class History(RuleBasedStateMachine):
    """A home beside a plain list of what it should know."""

    probes = 3

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(dir=PLACE))
        self.home = build.tiny_home(
            self.place / "home",
            num_features=D,
            capacity_samples=CAPACITY,
            snapshots=2,
            probes=self.probes,
        )
        self.known: list[Sample] = []
        self.held: list[Sample] = []
        self.waiting: list[Sample] = []
        self.kept: dict[int, tuple[State, State | None, set[str], dict[int, Sample]]] = {}
        self.unlearned: set[int] = set()
        # How it was before the last run, less what was unlearned since; classes that went since;
        # and which frame to review a sample was.
        self.before: State | None = None
        self.lost: set[str] = set()
        # Names that a mending took, and no unlearning: files may still be called like them.
        self.mended: set[str] = set()
        self.was: dict[int, Sample] = {}
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
        self.mended.discard(name)
        self.run_begins()
        self.learner.begin(Start())
        reports = self.learner.learn_many(frames, x)
        for report, row in zip(reports, quantise(x), strict=True):
            sample = Sample(report.uid, name, source, row)
            (self.held if report.is_held_out else self.known).append(sample)

    def state(self) -> State:
        """Return copies of what is there."""
        return list(self.known), list(self.held), list(self.waiting)

    def run_begins(self) -> None:
        """Note how it is."""
        self.before, self.lost, self.was = self.state(), set(), {}

    def rename(self, moved: dict[int, str]) -> None:
        """Give samples other classes, learned and held out ones."""
        for rows in (self.known, self.held, self.waiting):
            rows[:] = [replace(s, label=moved.get(s.uid, s.label)) for s in rows]

    @precondition(lambda self: self.known)
    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def relabel(self, data: st.DataObject, name: str) -> None:
        """Give samples of any role another class, those that still have a row."""
        everything = self.known + self.held + self.waiting
        chosen = data.draw(st.lists(st.sampled_from(everything), min_size=1, max_size=6))
        query = "SELECT uid FROM samples"
        there = {uid for (uid,) in self.store.connection.execute(query)}
        uids = {s.uid for s in chosen}
        before = self.state()
        waiting = [s for s in self.waiting if s.uid in uids]
        try:
            done = mending.relabel(self.home, self.learner, [s.uid for s in chosen], name)
        except RequestError as error:
            is_of_nothing = name not in {s.label for s in self.known} and not (
                uids & {s.uid for s in self.known + self.waiting}
            )
            assert not uids <= there or "already" in str(error) or is_of_nothing  # noqa: PT017
            return
        assert uids <= there
        self.run_begins()
        self.before = before
        emptied = {s.label for s in self.known} - {name}
        moved = {s.uid: name for s in self.known + self.held if s.uid in uids}
        emptied -= {s.label for s in self.known if s.uid not in moved}
        moved |= {
            s.uid: name for s in self.held + self.waiting if s.label in emptied and s not in waiting
        }
        assert emptied == set(done.gone)
        self.mended |= emptied
        self.rename(moved)
        self.waiting = [s for s in self.waiting if s not in waiting]
        run = last_run(self.store)
        assert run is not None
        new = [uid for uid, *_ in run.body.get("reviewed", ())]
        for uid, s in zip(new, {s.uid: s for s in chosen if s in waiting}.values(), strict=True):
            self.known.append(replace(s, uid=uid, label=name))
            self.was[uid] = s

    @precondition(lambda self: len({s.label for s in self.known}) > 1)
    @rule(data=st.data())
    def merge(self, data: st.DataObject) -> None:
        """Make one class of two."""
        labels = sorted({s.label for s in self.known})
        of = data.draw(st.sampled_from(labels))
        to = data.draw(st.sampled_from([label for label in labels if label != of]))
        self.run_begins()
        self.mended.add(of)
        mending.merge_classes(self.home, self.learner, of, to)
        everything = self.known + self.held + self.waiting
        self.rename({s.uid: to for s in everything if s.label == of})
        # Its name is that of the other one now; here names are those of classes.
        with self.store.transaction(changes_head=False):
            self.store.connection.execute("DELETE FROM aliases")
            self.store.reload_classes()

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def hold_out(self, data: st.DataObject) -> None:
        """Hold learned samples out, those that are kept; some of each class stay learned."""
        chosen = data.draw(st.sets(st.sampled_from([s.uid for s in self.known]), min_size=1))
        before = self.state()
        try:
            mending.hold_out(self.home, self.learner, sorted(chosen))
        except RequestError as error:
            assert re.search("not in the store|not kept|nothing learned", str(error))  # noqa: PT017
            return
        self.run_begins()
        self.before = before
        self.held += [s for s in self.known if s.uid in chosen]
        self.known = [s for s in self.known if s.uid not in chosen]

    @rule()
    def undo(self) -> None:
        """Take back the last run."""
        try:
            mending.undo(self.home, self.learner)
        except RequestError as error:
            assert "nothing to undo" in str(error)  # noqa: PT017
            learned = {s.uid for s in self.known} - {s.uid for s in (self.before or [[]])[0]}
            assert self.before is None or not learned
            return
        assert self.before is not None
        self.mended |= {s.label for s in self.known}
        now = {s.uid: s.label for s in self.known + self.held + self.waiting}
        known, held, waiting = (
            [replace(s, label=now[s.uid]) if s.label in self.lost and s.uid in now else s
             for s in rows if s.label not in self.lost or s.uid in now]
            for rows in self.before
        )  # fmt: skip
        left = {s.label for s in known}
        self.known = known
        self.held = [s for s in held if s.label in left]
        pictured = self.store.rows(Role.REVIEW)
        there = {
            x.tobytes(): uid for uid, x in zip(pictured.uids.tolist(), pictured.x, strict=True)
        }
        wanted = [s for s in waiting if s.label in left]
        was = {s.uid for s in self.was.values()}
        # What was named comes back under another uid, if its picture was still there.
        assert all(s.x.tobytes() in there for s in wanted if s.uid not in was)
        self.waiting = [
            replace(s, uid=there[s.x.tobytes()]) for s in wanted if s.x.tobytes() in there
        ]
        self.before = None

    @precondition(lambda self: self.known)
    @rule(data=st.data(), source=st.sampled_from((*SOURCES, "east gate")))
    def wait(self, data: st.DataObject, source: str) -> None:
        """Put a frame that looks like a class into the review queue."""
        name = data.draw(st.sampled_from(sorted({s.label for s in self.known})))
        x = quantise(np.random.default_rng(self.n).uniform(0, 3, D).astype(np.float32))
        self.n += 1
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
        lost = [s for s in self.held + self.waiting if s.source == source]
        self.held, self.waiting = (
            [s for s in rows if s.source != source] for rows in (self.held, self.waiting)
        )
        self.forget("source", source, [s for s in self.known if s.source != source], lost)

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
            self.never({sample.uid})
            self.held, self.waiting = (
                [s for s in rows if s != sample] for rows in (self.held, self.waiting)
            )

    def never(self, removed: set[int]) -> None:
        """Take what was unlearned, and the frames to review that it was, off what an undo knows."""
        removed |= {self.was[uid].uid for uid in removed & self.was.keys()}
        if self.before is not None:
            known, held, waiting = (
                [s for s in rows if s.uid not in removed] for rows in self.before
            )
            self.before = known, held, waiting

    def forget(self, kind: str, name: str, rest: list[Sample], lost: Sequence[Sample] = ()) -> None:
        """Unlearn, and take the snapshots that go with it off the list."""
        request = ForgetRequest(name, kind=kind)
        done = forget(self.home, self.learner, request)
        # Of a source there may be nothing but probes and frames to review, and a sample may be one.
        assert done.mode == ("store_only" if len(rest) == len(self.known) else "exact_head")
        gone = {s.label for s in self.known} - {s.label for s in rest}
        touched = {s.label for s in self.known if s not in rest} | gone
        purged = done.receipt.body["snapshots_purged"]
        everything = self.known + self.held + self.waiting + list(lost)
        before = {s.uid for s in everything}
        self.lost |= gone
        # What was relabelled may come from a file of that name; only a class's unlearning asks.
        self.mended = self.mended - gone if kind == "class" else self.mended | gone
        self.known = rest
        left = {s.label for s in rest}
        self.held, self.waiting = (
            [s for s in rows if s.label in left] for rows in (self.held, self.waiting)
        )
        rest = self.known + self.held + self.waiting
        removed = {s.uid for s in everything} - {s.uid for s in rest}
        self.never(removed)
        for uid in list(self.kept):
            state = self.kept[uid][0]
            # A class that was taken back and learned again is another, of which it holds nothing.
            held = {s.label for s in state[0] if kind == "class" or s.uid in before}
            assert (uid in purged) or not (held & touched)
            # Also not under the name of a class that a sample was of.
            assert (uid in purged) or not removed & {s.uid for rows in state for s in rows}
            if uid in purged:
                del self.kept[uid]

    @precondition(lambda self: self.known)
    @rule()
    def snapshot(self) -> None:
        """Keep what is known now."""
        uid = snapshots.take(self.home, self.store).uid
        before = self.before and tuple(map(list, self.before))
        self.kept[uid] = self.state(), before, set(self.lost), dict(self.was)
        for old in sorted(self.kept)[:-2]:
            del self.kept[old]

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        """Bring back what was known."""
        uid = data.draw(st.sampled_from(sorted(self.kept)))
        snapshots.rollback(self.home, self.learner, uid)
        state, before, lost, was = self.kept[uid]
        self.known, self.held, self.waiting = map(list, state)
        self.before = before and tuple(map(list, before))
        self.lost, self.was = set(lost), dict(was)

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
        gone = set(NAMES) - set(names.values()) - self.mended
        for table in TABLES:
            for column in (*table.names, *table.texts):
                said = execute(f"SELECT {column} FROM {table.name} WHERE {column} IS NOT NULL")
                assert not [text for (text,) in said if any(name in text for name in gone)]


class WithoutProbes(History):
    """Kept samples are scored instead, as if they had not been learned."""

    probes = 0


HISTORIES = int(os.environ.get("EDGECL_HISTORIES", "60"))
History.TestCase.settings = WithoutProbes.TestCase.settings = settings(
    max_examples=HISTORIES,
    stateful_step_count=12,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


@pytest.mark.slow
class TestHistory(History.TestCase):  # type: ignore[name-defined,misc]
    """Run the histories."""


@pytest.mark.slow
class TestWithoutProbes(WithoutProbes.TestCase):  # type: ignore[name-defined,misc]
    """Run them where nothing is held out."""
