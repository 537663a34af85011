"""Frames that moved are told, those that did not are not."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import build
from edgecl.drift import WINDOW, Drift, Moved, open_drift
from edgecl.heads import make_head
from edgecl.learner import Learner
from edgecl.store.changes import changes_of
from edgecl.stream.events import Drifted, Event
from edgecl.stream.moved import Movement

D = 12
STAGES = (4, 4, 4)


@pytest.fixture(params=["full", "diagonal"])
def learner(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Learner]:
    with build.store(tmp_path / "s.db", D, second_moment=request.param) as store:
        name = "ridge" if request.param == "full" else "prototype"
        learner = Learner(store, make_head(name, D))
        x, y = build.features(600, D, 3)
        learner.learn_many([build.frame(f"part-{c}", i) for i, c in enumerate(y)], x)
        yield learner


def test_the_statistic_is_the_mean_square_of_the_mean_residual() -> None:
    rng = np.random.default_rng(0)
    mean, spread = rng.uniform(size=D), rng.uniform(0.5, 2, D)
    drift = Drift({7: mean}, spread, 2.0, STAGES)
    x = rng.normal(size=(WINDOW, D)).astype(np.float32)
    found = [drift.add(row, 7) for row in x]
    assert found[:-1] == [None] * (WINDOW - 1)
    wanted = (WINDOW * np.square(((x - mean) / spread).mean(axis=0))).mean() / 2.0
    assert isinstance(found[-1], Moved)
    assert found[-1].ratio == pytest.approx(wanted, rel=1e-6)
    assert drift.add(x[0], 8) is None  # of a class that came since


def test_frames_as_learned_stay_below_and_moved_ones_rise_above(learner: Learner) -> None:
    drift = open_drift(learner, STAGES)
    assert drift is not None
    x, y = build.features(400, D, 3)
    rng = np.random.default_rng(5)
    order = rng.permutation(len(x))
    usual = [drift.add(x[i], int(y[i])) for i in order]
    assert max(m.ratio for m in usual if m is not None) < 1
    shift = np.zeros(D, np.float32)
    shift[8:] = 0.4
    moved = [drift.add(x[i] + shift, int(y[i])) for i in order]
    first = next(i for i, m in enumerate(moved) if m is not None and m.ratio > 1)
    assert first < WINDOW
    last = moved[-1]
    assert last is not None
    assert (last.block, last.cause) == (2, "content, block 3 of 3")
    assert Moved(1.0, 0, 3).cause == "light and focus, block 1 of 3"
    assert Moved(1.0, 0, 1).cause == "the whole feature"


def test_few_rows_and_other_statistics_give_no_threshold(tmp_path: Path) -> None:
    for name, kind, n in (("ridge", "full", 60), ("key-value", build.KeyCounts.name, 400)):
        with build.store(tmp_path / f"{name}.db", D, second_moment=kind) as store:
            head = make_head(name, D) if n < 100 else make_head(name, D, codebook=store.codebook)
            learner = Learner(store, head)
            x, y = build.features(n, D, 3)
            learner.learn_many([build.frame(f"part-{c}", i) for i, c in enumerate(y)], x)
            assert open_drift(learner, STAGES) is None


def test_a_stream_tells_once_that_it_moved_and_once_that_it_is_over(learner: Learner) -> None:
    events: deque[Event] = deque()
    movement = Movement(learner, STAGES, events, is_recorded=True)
    x, _ = build.features(900, D, 3, seed=0)
    rows = x[np.random.default_rng(1).permutation(len(x))]
    for second, row in enumerate(rows):
        shift = np.float32(0.5 if 300 <= second < 500 else 0.0)
        for part in range(3):  # three frames a second, of which one is asked
            movement.look(row + shift, second + part / 3)
    assert [(type(e), e.is_over) for e in events if isinstance(e, Drifted)] == [
        (Drifted, False), (Drifted, True),
    ]  # fmt: skip
    assert "moved away" in events[0].text()
    found = [c for c in changes_of(learner.store) if c.kind == "drift"]
    assert [c.body["is_over"] for c in found] == [False, True]
    assert movement.ratio < 1
    movement.forget()
    movement.look(rows[0], 10_000.0)
    assert len(events) == 2
