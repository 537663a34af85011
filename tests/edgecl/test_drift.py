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


def test_each_block_is_asked_with_the_doubt_of_the_means() -> None:
    rng = np.random.default_rng(0)
    means, spread = rng.uniform(size=(2, D)), rng.uniform(0.5, 2, D)
    thresholds = np.array([2.0, 3.0, 4.0])
    sums = {7: (10, 10 * means[0]), 9: (40, 40 * means[1])}
    widths = {7: np.array([1.0, 2.0, 0.5]), 9: np.array([1.0, 1.0, 3.0])}
    drift = Drift(sums, spread, thresholds, STAGES, widths)
    x = rng.normal(size=(WINDOW, D)).astype(np.float32)
    named = [7] * 8 + [9] * (WINDOW - 8)
    found = [drift.add(row, uid) for row, uid in zip(x, named, strict=True)]
    assert found[:-1] == [None] * (WINDOW - 1)
    taken = means[[0] * 8 + [1] * (WINDOW - 8)]
    z = np.square(((x - taken) / spread).mean(axis=0)).reshape(3, 4).mean(axis=1)
    # A mean of 32 residuals has 1 / 32, and more by what the means of 10 and 40 samples have; all
    # of it in each class's own variance.
    expected = widths[7] * (8 + 8**2 / 10) + widths[9] * (24 + 24**2 / 40)
    wanted = z / (expected / WINDOW**2) / thresholds
    last = found[-1]
    assert isinstance(last, Moved)
    assert (last.ratio, last.block) == (pytest.approx(wanted.max(), rel=1e-6), wanted.argmax())
    assert drift.add(x[0], 8) is None  # of a class that came since


def test_frames_of_a_class_that_went_are_not_taken_along() -> None:
    zero, one, widths = np.zeros(D), np.ones(D), {7: np.ones(3), 9: np.ones(3)}
    old = Drift({7: (10, zero), 9: (10, zero)}, one, np.ones(3), STAGES, widths)
    row = np.full(D, 3, np.float32)
    for uid in [7] * 20 + [9] * 20:
        old.add(row, uid)
    new = old.followed_by(Drift({9: (10, zero)}, one, np.ones(3), STAGES, widths))
    assert new is not None
    found = [new.add(row, 9) for _ in range(WINDOW - 20)]
    assert found[:-1] == [None] * (WINDOW - 21)
    assert isinstance(found[-1], Moved)


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


def test_a_run_of_one_class_is_no_drift_and_a_few_moved_features_are(learner: Learner) -> None:
    drift = open_drift(learner, (2, D - 2))
    assert drift is not None
    x, y = build.features(1200, D, 3)
    for part in (1, 2, 3):
        run = [drift.add(row, part) for row in x[y == part][:150]]
        assert max(m.ratio for m in run if m is not None) < 1, part
    x[:, 1] += 0.5  # as light does, of which the other block sees nothing
    moved = [drift.add(row, int(c)) for row, c in zip(x[:WINDOW], y[:WINDOW], strict=True)][-1]
    assert moved is not None
    assert moved.ratio > 1
    assert moved.block == 0


def test_a_wide_class_of_few_rows_alone_is_no_drift(tmp_path: Path) -> None:
    """Fewer rows than a window: its thresholds are of half the class against the other half."""

    def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        y = np.arange(n) % 6
        # Two directions make up the spread, so that a mean over features is no mean of many.
        spread = np.where(y == 0, 1.2, 0.2)[:, None] * rng.normal(size=(n, 2))
        x = 4 + 2 * np.eye(6)[y] @ np.eye(6, 24) + np.repeat(spread, 12, axis=1)
        return (x + rng.normal(0, 0.02, (n, 24))).astype(np.float32), y

    with build.store(tmp_path / "s.db", 24) as store:
        learner = Learner(store, make_head("ridge", 24))
        x, y = drawn(6 * 30, 0)
        learner.learn_many([build.frame(f"part-{c}", i) for i, c in enumerate(y)], x)
        drift = open_drift(learner, (24,))
    assert drift is not None
    x, y = drawn(6 * 300, 1)
    for part in range(6):
        run = [drift.add(row, part + 1) for row in x[y == part]]
        assert max(m.ratio for m in run if m is not None) < 1, part
    moved = [drift.add(row + 0.8, int(c) + 1) for row, c in zip(x[:64], y[:64], strict=True)]
    assert moved[-1] is not None
    assert moved[-1].ratio > 1


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
