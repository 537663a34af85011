"""The total that is kept is what the classes add up to, whatever happens to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import build
from edgecl import mending
from edgecl.heads import make_head
from edgecl.heads.memory import Whole, whole_of_rows, whole_without
from edgecl.heads.ridge import RidgeHead
from edgecl.heads.statistics import Gram
from edgecl.learner import Learner, Lesson
from edgecl.mending import relabel
from edgecl.session import Session, open_store
from edgecl.store import totals
from edgecl.store.erasure import drop_classes_of_nothing, drop_unused, erase
from edgecl.store.moves import move_all, move_samples, set_role
from edgecl.store.runs import Start
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.types import ForgetRequest, Kind
from edgecl.unlearning import request as unlearning
from edgecl.unlearning.request import writing

D, N = 12, 130


@pytest.fixture(autouse=True)
def _pays_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "_MOST_SINCE", 20)
    monkeypatch.setattr(totals, "_MOST_SINCE_PER_CLASS", 1)
    monkeypatch.setattr(totals, "_MOST_SINCE_AT_END", 5)


def taught(path: Path, *, n: int = N, sealed: bool = False) -> Learner:
    """Learn four classes from two sources, one sample a step; some rows are folded, some gone."""
    store = build.store(path, D, capacity_samples=40, sealed=sealed)
    x, y = build.features(n, D, 4)
    learner = Learner(store, make_head("ridge", D))
    for i in range(n):
        learner.learn_one(build.frame(f"part-{y[i] if i % 3 else 1}", i), x[i])
    return learner


def kept(store: Store) -> int | None:
    """Return how many samples the kept total is of; None if there is none."""
    row = store.connection.execute("SELECT n FROM totals").fetchone()
    return None if row is None else int(row[0])


def check(store: Store) -> None:
    """Check that the total that is read is that of the classes, added one after the other."""
    whole, parts = store.whole(), dict(store.all_moments())
    added = store.statistic.total(parts)
    assert list(whole.sums) == list(parts)
    for uid, (n, total) in whole.sums.items():
        assert n == parts[uid].n == store.n_seen()[uid]
        assert np.array_equal(total, parts[uid].total)
    assert whole.moments.n == added.n
    assert np.array_equal(whole.moments.total, added.total)
    assert np.array_equal(whole.moments.second, added.second)
    assert store.total_fault() == ""


def a_sample(store: Store, *, folded: bool) -> int:
    """Return the oldest kept sample that is folded, or is not."""
    (uid,) = store.connection.execute(
        "SELECT min(uid) FROM replay WHERE is_stored AND is_folded = ?", (folded,)
    ).fetchone()
    assert uid is not None
    return int(uid)


def moved(store: Store, uid: int) -> None:
    """Give a sample to the last class, as a relabelling does."""
    (of,) = store.connection.execute("SELECT class_uid FROM samples WHERE uid = ?", (uid,))
    to = next(c for c in reversed(store.names) if c != of[0])
    move_samples(store, [uid], to)
    drop_classes_of_nothing(store)
    drop_unused(store, is_moved=True)


def held_out(store: Store, uid: int) -> None:
    """Hold a learned sample out."""
    set_role(store, [uid], Role.HELD_OUT)
    drop_unused(store)


WAYS: dict[str, tuple[Callable[[Store], object], bool]] = {
    "relabel a folded sample": (lambda s: moved(s, a_sample(s, folded=True)), True),
    "relabel a sample": (lambda s: moved(s, a_sample(s, folded=False)), True),
    "hold out a sample": (lambda s: held_out(s, a_sample(s, folded=False)), False),
    "hold out a folded sample": (lambda s: held_out(s, a_sample(s, folded=True)), False),
    "merge": (lambda s: (move_all(s, 1, 2), drop_unused(s)), False),
    "forget a class": (lambda s: erase(s, Kind.CLASS, 2), False),
    "forget a sample": (lambda s: erase(s, Kind.SAMPLE, a_sample(s, folded=False)), False),
    "forget a folded sample": (lambda s: erase(s, Kind.SAMPLE, a_sample(s, folded=True)), False),
    "forget the source": (lambda s: erase(s, Kind.SOURCE, 1), False),
}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_happens_to_samples_the_total_is_theirs(tmp_path: Path, way: str) -> None:
    change, stays = WAYS[way]
    learner = taught(tmp_path / "s.db")
    with learner.store as store:
        check(store)
        with store.transaction():
            change(store)
            learner.head.rebuild(store)
            assert (kept(store) is not None) is stays
            check(store)
            learner.save_state()
        anew = make_head("ridge", D)
        anew.rebuild(store)
        names = store.names
        if names:
            assert np.array_equal(
                anew.scorer(names).scores(np.eye(D, dtype=np.float32)),
                learner.head.scorer(names).scores(np.eye(D, dtype=np.float32)),
            )
            x, y = build.features(60, D, 3, seed=1)
            for i in range(60):
                learner.learn_one(build.frame(f"part-{y[i]}", 500 + i), x[i])
            check(store)
    with Store(tmp_path / "s.db", capacity_samples=40) as store:
        check(store)


@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_history_of_all_of_it_keeps_the_total_right(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    learner = taught(tmp_path_factory.mktemp("s") / "s.db")
    x, y = build.features(400, D, 5, seed=2)
    at = 0
    with learner.store as store:
        for _ in range(data.draw(st.integers(1, 4))):
            uids = [uid for uid, _ in store.stored_samples()]
            with store.transaction():
                if data.draw(st.booleans()):
                    moved(store, data.draw(st.sampled_from(uids)))
                else:
                    erase(store, Kind.SAMPLE, data.draw(st.sampled_from(uids)))
                learner.head.rebuild(store)
                learner.save_state()
            for _ in range(data.draw(st.integers(0, 70))):
                learner.learn_one(build.frame(f"part-{y[at]}", 1000 + at), x[at])
                at += 1
            check(store)


def test_a_step_back_keeps_no_total_of_what_was_not_committed(tmp_path: Path) -> None:
    learner = taught(tmp_path / "s.db")
    with learner.store as store:
        x = np.ones((2, D), np.float32)
        before = learner.head.whole()
        assert before is not None
        with pytest.raises(sqlite3.IntegrityError), store.transaction():
            store.save_total(Whole(before.moments, before.sums | {99: (1, np.zeros(D))}))
        learner.reload()
        learner.learn_one(build.frame("part-1", 999), x[1])
        check(store)


def test_a_sealed_home_keeps_no_total(tmp_path: Path) -> None:
    with taught(tmp_path / "s.db", sealed=True).store as store:
        assert kept(store) is None
        check(store)


def test_a_total_that_was_changed_is_found(tmp_path: Path) -> None:
    with taught(tmp_path / "s.db").store as store:
        (second,) = store.connection.execute("SELECT second FROM totals").fetchone()
        changed = np.frombuffer(second, "<f8") + np.eye(1, len(second) // 8)[0]
        store.connection.execute("UPDATE totals SET second = ?", (changed.tobytes(),))
        assert "not that of the classes" in store.total_fault()


def test_relabelling_reads_the_total_and_no_other_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = build.tiny_home(tmp_path / "home", "ridge")
    with writing(home) as session:
        learner, d = session.learner, session.store.num_features
        x, y = build.features(60, d, 3)
        learner.learn_many([build.frame(f"part-{c}", i) for i, c in enumerate(y)], x)
        learner.settle()
        assert kept(session.store) == 60
        uid = session.store.stored_samples()[0][0]
        monkeypatch.setattr(Store, "_added_up", None)
        monkeypatch.setattr(Store, "moments", None)
        relabel(home, learner, [uid], "other")
        assert kept(session.store) == 60
        with_total = learner.head.scorer(session.store.names)
    monkeypatch.undo()
    with open_store(home, read_only=True) as store:
        check(store)
        anew = make_head("ridge", store.num_features)
        anew.rebuild(store)
        assert np.array_equal(anew.scorer(store.names).weights, with_total.weights)


def undone(session: Session, lessons: list[Lesson]) -> None:
    session.learner.undo(lessons[-5:])


def forgotten(kind: Kind, name: str) -> Callable[[Session, list[Lesson]], object]:
    def forget_it(session: Session, lessons: list[Lesson]) -> object:
        of = name or str(lessons[-1].uid)
        return unlearning.forget(session.home, session.learner, ForgetRequest(of, kind=kind))

    return forget_it


TAKEN_OFF: dict[str, Callable[[Session, list[Lesson]], object]] = {
    "undo of the last five": undone,
    "undo of the run": lambda session, _: mending.undo(session.home, session.learner),
    "forget a sample": forgotten(Kind.SAMPLE, ""),
    "forget the second source": forgotten(Kind.SOURCE, "second"),
    "forget the first source": forgotten(Kind.SOURCE, "first"),
}


@pytest.mark.parametrize("way", TAKEN_OFF)
def test_what_is_taken_off_is_subtracted_and_nothing_else_added_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    home = build.tiny_home(tmp_path / "home", "ridge", capacity_samples=60)
    x, y = build.features(400, 12, 3)
    frames = [build.frame(f"part-{c}", i) for i, c in enumerate(y)]
    frames = [replace(f, source="first" if i < 250 else "second") for i, f in enumerate(frames)]
    with writing(home) as session:
        learner = session.learner
        learner.learn_many(frames[:250], x[:250])
        learner.begin(Start())
        lessons = build.lessons_of(learner, [*frames[250:], build.frame("late", 999)], x[249:])
        # Of some samples only sums are there.
        assert session.store.connection.execute("SELECT sum(n) FROM class_stats").fetchone()[0]
        with monkeypatch.context() as patched:
            patched.setattr(Store, "_added_up", None)
            patched.setattr(Store, "moments", None)
            patched.setattr(RidgeHead, "rebuild", None)
            TAKEN_OFF[way](session, lessons)
        after = learner.head.whole()
    with open_store(home, read_only=True) as store:
        check(store)
        anew = make_head("ridge", store.num_features)
        anew.rebuild(store)
        whole = anew.whole()
        assert after is not None
        assert whole is not None
        assert after.moments.is_same(whole.moments)
        assert list(after.sums) == list(whole.sums)
        build.assert_same(Session(home, store).exact_scorer(), anew.scorer(store.names))


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_lessons_that_were_named_anew_are_taken_off_their_present_classes(
    tmp_path: Path, sealed: bool
) -> None:
    # Each got the name of the other, so by number nothing looked wrong.
    home = build.tiny_home(tmp_path / "home", "ridge", sealed=sealed)
    x, y = build.features(60, 12, 2)
    with writing(home) as session:
        learner, store = session.learner, session.store
        lessons = build.lessons_of(learner, [build.frame(f"{c}", i) for i, c in enumerate(y)], x)
        one, two = (next(o for o in lessons if o.class_uid == uid) for uid in store.names)
        relabel(home, learner, [one.uid], "2")
        relabel(home, learner, [two.uid], "1")
        learner.undo([one, two])
        anew = make_head("ridge", store.num_features)
        anew.rebuild(store)
        build.assert_learned_same(learner.head, anew)
        assert learner.head.n_samples == 58
        check(store)


def test_sums_that_do_not_fit_are_not_subtracted() -> None:
    statistic = Gram(3)
    x = np.arange(12, dtype=np.float16).reshape(4, 3)
    whole = whole_of_rows(list(x), [1, 1, 2, 2], statistic)
    one = whole_of_rows([x[0]], [1], statistic)
    assert whole_without(whole, one, {1: 2, 2: 2}) is None  # it says that nothing went
    assert whole_without(whole, one, {2: 2}) is None  # a sample of a class that is gone is left
    assert whole_without(whole, one, {2: 2, 1: 1}) is None  # another order
    assert whole_without(whole, whole_of_rows([x[0]], [3], statistic), {1: 2, 2: 2}) is None
    assert whole.moments.is_same(statistic.of(x))
    left = whole_without(whole, one, {1: 1, 2: 2})
    assert left is not None
    assert left.moments.is_same(statistic.of(x[1:]))
    assert {uid: n for uid, (n, _) in left.sums.items()} == {1: 1, 2: 2}
    assert np.array_equal(left.sums[1][1], x[1].astype(np.float64))
