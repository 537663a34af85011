"""Scores over time without held-out samples: kept ones, each as if it had not been learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import build
from edgecl import mending
from edgecl.evaluation.continual import summary
from edgecl.heads import HEADS, make_head
from edgecl.learner import Learner
from edgecl.session import open_learner
from edgecl.store import left_out, probes
from edgecl.store.store import Store
from edgecl.types import ForgetRequest, Frame, UpdateReport
from edgecl.unlearning.request import forget, writing

D = 12
EXACT = ("ridge", "prototype", "key-value")
LABELS = ("purple bracket", "brass washer", "steel gasket")


def learner_on(path: Path, name: str = "ridge", **options: Any) -> Learner:
    store = build.store(path, D, second_moment=HEADS[name].statistic.name, **options)
    return Learner(store, make_head(name, D), seed=1, probes=0)


def stream() -> tuple[list[Frame], np.ndarray]:
    x, y = build.features(300, D, 3)
    frames = [replace(build.frame(LABELS[c - 1], i), time=1e9 + i) for i, c in enumerate(y)]
    return frames, x


def teach(learner: Learner, stop: int = 300, start: int = 0, step: int = 10) -> list[UpdateReport]:
    frames, x = stream()
    reports = []
    for i in range(start, stop, step):
        part = slice(i, min(i + step, stop))
        reports += learner.learn_many(frames[part], x[part])
    return reports


def rows(store: Store, table: str) -> list[tuple[Any, ...]]:
    """Return a table without what the clock says."""
    columns = [c for _, c, *_ in store.connection.execute(f"PRAGMA table_info({table})")]
    if table == "evaluations":
        columns.remove("time")
    query = f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1, 2"
    return store.connection.execute(query).fetchall()


def everything(store: Store) -> list[list[tuple[Any, ...]]]:
    tables = ("evaluations", "class_scores", "class_latency", "samples", "meta")
    return [rows(store, table) for table in tables]


@pytest.mark.parametrize("name", EXACT[:2])
def test_what_is_said_between_solves_is_that_of_the_exact_head(name: str) -> None:
    head = make_head(name, 24)
    x, y = build.features(300, 24, 4)
    head.learn_many(x, y)
    part, own = x[::7].astype(np.float16), y[::7]
    between = head.left_out_now(part, own)
    exact = head.left_out(part, own)  # solves
    settled = head.left_out_now(part, own)
    assert between is not None
    assert settled is not None
    assert exact is not None
    # Centre and scale of the last solve, 256 samples before, beside those of all 300.
    assert np.abs(between - exact.scores).max() < 0.02
    assert np.abs(settled - exact.scores).max() < 1e-5


@pytest.mark.parametrize("name", EXACT)
def test_scores_come_without_held_out_samples(tmp_path: Path, name: str) -> None:
    learner = learner_on(tmp_path / "s.db", name)
    assert not any(report.is_held_out for report in teach(learner))
    past = probes.history(learner.store)
    assert len(past.steps) >= 5
    assert past.n_probes[-1].sum() <= 300
    assert (past.n_probes[-1] >= probes.FEW_PROBES).all()
    said = summary(learner.store)
    assert said["probes"] == 0
    assert probes.last_accuracy(learner.store) == said["accuracy"] > 0.8
    assert said["min_accuracy"] <= said["worst_case_accuracy"] <= 1
    assert all(0.5 < c["accuracy"] <= 1 for c in said["classes"].values())
    assert all(c["first_right"] for c in said["classes"].values())
    learner.store.close()


def test_those_of_a_sealed_store_are_the_same(tmp_path: Path) -> None:
    found = []
    for sealed in (False, True):
        learner = learner_on(tmp_path / f"{sealed}.db", sealed=sealed, capacity_samples=30)
        teach(learner, 60)
        found.append(rows(learner.store, "class_scores"))
        learner.store.close()
    assert found[0] == found[1] != []


def test_a_head_by_gradient_has_none(tmp_path: Path) -> None:
    learner = learner_on(tmp_path / "s.db", "uer")
    teach(learner, 40)
    assert rows(learner.store, "evaluations") == []
    assert learner.store.connection.execute("SELECT count(score) FROM samples").fetchone() == (0,)
    learner.store.close()


def test_a_turn_of_all_says_what_leaving_out_says(tmp_path: Path) -> None:
    learner = learner_on(tmp_path / "s.db")
    teach(learner)
    store, head = learner.store, learner.head
    store.connection.execute("BEGIN")
    store.connection.execute("UPDATE samples SET score = NULL")
    _, is_scored = left_out.score_left_out(store, head, 10, 0)
    assert not is_scored  # some are not known yet
    last, is_scored = left_out.score_left_out(store, head, 10_000, 0)
    assert is_scored
    uids, x, y = store.stored_samples(), *store.stored_rows()
    exact = head.left_out(x, y)
    assert exact is not None
    right = np.array(head.classes)[exact.scores.argmax(axis=1)] == y
    said = [v for (v,) in store.connection.execute("SELECT score FROM replay WHERE is_stored")]
    assert np.mean(np.array(said) == right) > 0.99
    assert {uid for uid, _ in uids} >= {last}
    store.connection.execute("ROLLBACK")
    store.close()


def test_it_costs_what_is_affordable() -> None:
    head = make_head("ridge", 1752)
    assert head.left_out_cost is not None
    first = next(n for n in range(1, 100) if left_out.affordable(head, n))
    assert first * left_out._BUDGET >= left_out._WORTH_IT > (first - 1) * left_out._BUDGET
    assert left_out.affordable(head, 10 * first) == 10 * first * left_out._BUDGET // (
        head.left_out_cost
    )
    assert left_out.affordable(make_head("uer", 12), 10_000) == 0


@pytest.mark.parametrize("name", EXACT)
def test_a_resumed_run_equals_one_that_was_not(tmp_path: Path, name: str) -> None:
    whole = learner_on(tmp_path / "a.db", name, capacity_samples=40)
    teach(whole, 120, step=8)
    learner_on(tmp_path / "b.db", name, capacity_samples=40).store.close()
    for start in (0, 40, 80):
        store = Store(tmp_path / "b.db", capacity_samples=40)
        part = Learner(store, make_head(name, 12), seed=1, probes=0)
        teach(part, start + 40, start, 8)
        if start == 80:
            assert everything(part.store) == everything(whole.store)
        store.close()
    whole.store.close()


@pytest.mark.parametrize("name", EXACT[::2])
def test_a_forget_leaves_nothing_of_it_and_others_are_asked_anew(tmp_path: Path, name: str) -> None:
    """A home that never saw the class has the same scores from the next whole turn on."""
    home = build.tiny_home(tmp_path / "home", name, num_features=12)
    frames, x = stream()
    kept = [i for i, frame in enumerate(frames) if frame.label != LABELS[1]]
    with writing(home) as session:
        learner = open_learner(home, session.store)
        for i in range(0, 300, 10):
            learner.learn_many(frames[i : i + 10], x[i : i + 10])
        assert len(probes.history(session.store).classes) == 3
        forget(home, learner, ForgetRequest(LABELS[1], kind="class"))
    never = learner_on(tmp_path / "never.db", name)
    never.learn_many([frames[i] for i in kept], x[kept])
    with writing(home) as session:
        store = session.store
        assert probes.history(store).classes.tolist() == sorted(store.names)
        assert len(store.names) == 2
        assert store.connection.execute("SELECT count(score) FROM samples").fetchone() == (0,)
        learner = open_learner(home, store)
        never.settle()
        answers = []
        for one in (learner, never):
            with one.store.transaction():
                one.store.connection.execute("UPDATE samples SET score = NULL")
                assert left_out.score_left_out(one.store, one.head, 10_000, 0)[1]
            past = probes.history(one.store)
            by_name = dict(
                zip(
                    (one.store.names[c] for c in past.classes.tolist()),
                    zip(past.accuracy[-1], past.n_probes[-1], strict=True),
                    strict=True,
                )
            )
            answers.append(by_name)
    assert answers[0] == answers[1]
    never.store.close()


def test_a_relabelled_sample_is_asked_first(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home", num_features=12)
    frames, x = stream()
    with writing(home) as session:
        learner = open_learner(home, session.store)
        reports = learner.learn_many(frames[:120], x[:120])
        to = next(name for name in LABELS if name != frames[5].label)
        mending.relabel(home, learner, [reports[5].uid], to)
        store = session.store
        n = len(rows(store, "evaluations"))
        for i in range(120, 220, 10):
            learner.learn_many(frames[i : i + 10], x[i : i + 10])
        assert len(rows(store, "evaluations")) > n
        query = "SELECT count(*) FROM replay WHERE is_stored AND score IS NULL"
        assert store.connection.execute(query).fetchone() == (0,)
