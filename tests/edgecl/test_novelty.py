from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import build
from edgecl.calibration import bursts_of
from edgecl.errors import RequestError, ShapeError
from edgecl.heads import make_head
from edgecl.learner import Learner
from edgecl.novelty import N_CENTRES, _centres, novelty_of, open_novelty
from edgecl.runtime.grid import quantise
from edgecl.runtime.novelty import Novelty, directions, surprise
from edgecl.store.store import Store
from edgecl.types import Prediction

NAMES = {uid: f"part-{uid}" for uid in range(1, 6)}


def of_rows(x: np.ndarray, y: np.ndarray, names: dict[int, str], share: float = 0.95) -> Novelty:
    return novelty_of(quantise(x), y, names, share=share)


def rows(n: int, n_classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x, y = build.features(n, n_classes=n_classes, seed=seed)
    return x, y.astype(np.int64)


def far_of(
    x: np.ndarray, member: np.ndarray, y: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return distances of each row to the centres without its group, one row after the other."""
    rows = directions(x).astype(np.float64)
    overall, own = np.full(len(x), np.inf), np.full(len(x), np.inf)
    for i in range(len(x)):
        for c in np.unique(member):
            rest = (member == c) & (groups != groups[i])
            if rest.any():
                apart = np.linalg.norm(rows[i] - rows[rest].mean(axis=0))
                overall[i] = min(overall[i], apart)
                if y[member == c][0] == y[i]:
                    own[i] = min(own[i], apart)
    return overall, own


@settings(max_examples=10)
@given(st.integers(8, 40), st.integers(0, 10**6))
def test_left_out_distances_are_those_without_the_row_and_its_burst(n: int, seed: int) -> None:
    x, y = rows(n, 2, seed)
    x[1:3] = x[0] + np.float32(0.01)  # frames of one thing, if they are of one class
    x = quantise(x)
    made = novelty_of(x, y, NAMES)
    member = np.zeros(n, np.int64)
    for uid in np.unique(y):
        member[y == uid] = 100 * uid + _centres(directions(x)[y == uid])
    groups = bursts_of(directions(x), y)
    _, own = far_of(x, member, y, groups)
    medians = np.array([np.median(own[y == c]) for c in np.unique(y)])
    expected = np.sqrt(medians * medians.mean())
    assert np.unique(made.units) == pytest.approx(np.unique(expected.astype(np.float32)), rel=1e-2)


def test_both_questions_count_and_the_threshold_is_that_of_the_rows_left_out() -> None:
    x, y = rows(80)
    best = np.linspace(0.2, 1.0, 80)
    made = novelty_of(quantise(x), y, NAMES, best, FixedScorer(0.1))
    alone = novelty_of(quantise(x), y, NAMES)
    low = made.scores(x[:1]) - alone.scores(x[:1])
    assert low[0] > np.log(81)  # lower than each of 80, and beyond
    usual = novelty_of(quantise(x), y, NAMES, best, FixedScorer(1.0))
    assert usual.scores(x) == pytest.approx(alone.scores(x))
    assert made.low.tolist() == best.tolist()


class FixedScorer:
    """A head that gives every picture one score."""

    labels = ("a",)
    n_maps = 1

    def __init__(self, score: float) -> None:
        self._score = score

    def scores(self, x: np.ndarray) -> np.ndarray:
        return np.full((len(x), 1), self._score)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        return np.ones_like(scores)

    def arrays(self) -> dict[str, np.ndarray]:
        return {}


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 80))
def test_a_surprise_rises_and_is_the_share_of_what_is_as_large(seed: int, n: int) -> None:
    usual = np.sort(np.random.default_rng(seed).normal(size=n))
    found = np.linspace(usual[0] - 1, usual[-1] + 5, 50)
    values = surprise(usual, found)
    assert (np.diff(values) >= 0).all()
    assert values[0] == pytest.approx(0)
    inside = found <= usual[-1]
    shares = [(usual >= v).sum() for v in found[inside]]
    assert values[inside] == pytest.approx(-np.log((np.array(shares) + 1) / (n + 1)))
    assert values[-1] > np.log(n + 1)


def test_no_centre_is_a_single_sample_where_a_class_has_three() -> None:
    x, _ = rows(200, 1)
    part = _centres(directions(x))
    assert part.max() + 1 <= N_CENTRES
    assert np.bincount(part).min() >= 3
    assert _centres(directions(x[:2])).tolist() == [0, 0]
    assert _centres(directions(x[:4])).tolist() == [0, 0, 0, 0]


def test_rows_without_order_are_no_bursts_and_frames_of_a_thing_are_one() -> None:
    x, y = rows(300)
    groups = bursts_of(directions(x), y)
    assert len(np.unique(groups)) > 0.9 * len(x)  # few features: some are near by chance
    rng = np.random.default_rng(0)
    frames = (np.repeat(x[:24], 10, axis=0) + rng.normal(0, 0.01, (240, 12))).astype(np.float32)
    found = bursts_of(directions(frames), np.repeat(y[:24], 10))
    assert all(len(np.unique(found[i : i + 10])) == 1 for i in range(0, 240, 10))
    moved = np.linspace(0, 1, 60)[:, None] * (x[1] - x[0]) + x[0]  # one thing that turns
    one = bursts_of(directions(moved.astype(np.float32)), np.ones(60, np.int64))
    assert len(np.unique(one)) == 2  # half a class at most


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_how_the_classes_take_turns_does_not_matter(seed: int) -> None:
    x, y = rows(40, seed=seed)
    by_class = np.argsort(y, kind="stable")
    q, _ = rows(6, seed=seed + 1)
    one, other = of_rows(x, y, NAMES), of_rows(x[by_class], y[by_class], NAMES)
    assert one.scores(q) == pytest.approx(other.scores(q), rel=1e-5)
    assert one.threshold == pytest.approx(other.threshold, rel=1e-5)
    assert one.nearest(q) == other.nearest(q)


def test_a_larger_share_is_a_larger_threshold_and_length_does_not_count() -> None:
    x, y = rows(60)
    thresholds = [of_rows(x, y, NAMES, share=share).threshold for share in (0.5, 0.9, 0.99)]
    assert thresholds == sorted(thresholds)
    made = of_rows(x, y, NAMES)
    assert made.scores(3 * x) == pytest.approx(made.scores(x), abs=1e-2)


def test_a_kept_row_is_near_and_another_cluster_is_unknown() -> None:
    x, y = rows(150, 4)
    known = y != 4
    made = of_rows(x[known][:80], y[known][:80], NAMES)
    assert made.scores(x[known][:1])[0] < made.threshold
    assert (made.scores(x[known][80:]) > made.threshold).mean() < 0.2
    assert (made.scores(x[~known]) > made.threshold).mean() > 0.9
    assert made.nearest(x[known][:80]) == [NAMES[c] for c in y[known][:80]]


def test_many_frames_of_one_thing_do_not_lower_the_threshold() -> None:
    """Each thing is seen 12 times; a new thing of a known class is not unknown for that."""
    things, y = rows(24, 2, seed=3)
    order = np.argsort(y, kind="stable")
    things, y = things[order], y[order]
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.002, (len(things), 12, 12))
    frames = (things[:, None] + noise).reshape(-1, 12).astype(np.float32)
    made = of_rows(frames, np.repeat(y, 12), NAMES)
    others, _ = rows(200, 2, seed=3)
    assert (made.scores(others[24:]) > made.threshold).mean() < 0.2


def test_chunks_do_not_matter_and_copies_of_one_row_are_no_division_by_zero() -> None:
    x, y = rows(600)
    assert np.isfinite(of_rows(x, y, NAMES).threshold)
    same = np.repeat(x[:2], 20, axis=0)
    made = of_rows(same, np.repeat(y[:2], 20), NAMES)
    assert np.isfinite(made.scores(x)).all()


@pytest.mark.parametrize("shape", [(12,), (2, 11), (1, 2, 12)])
def test_a_feature_of_another_width_is_refused(shape: tuple[int, ...]) -> None:
    x, y = rows(20)
    with pytest.raises(ShapeError, match=r"expected \(N, 12\)"):
        of_rows(x, y, NAMES).scores(np.zeros(shape, np.float32))


def taught(store: Store, n: int, n_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    x, y = rows(n, n_classes)
    learner = Learner(store, make_head("ridge", 12))
    learner.learn_many([build.frame(f"part-{c}", i) for i, c in enumerate(y)], x)
    return x, y


@pytest.mark.parametrize("sealed", [False, True])
def test_a_store_gives_its_kept_rows_and_names(sealed: bool, tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db", sealed=sealed) as store:
        x, y = taught(store, 40)
        kept, classes = store.stored_rows()
        found = open_novelty(store)
        by_hand = of_rows(kept, classes, store.names)
        assert found.threshold == by_hand.threshold
        assert found.scores(x).tolist() == by_hand.scores(x).tolist()
        assert found.nearest(x) == [f"part-{c}" for c in y]


@pytest.mark.parametrize(("n", "n_classes"), [(0, 1), (9, 3), (30, 1)])
def test_too_little_to_compare_with_is_told(n: int, n_classes: int, tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db") as store:
        if n:
            taught(store, n, n_classes)
        with pytest.raises(RequestError, match="at least 10 of 2 classes"):
            open_novelty(store)


def test_a_class_that_is_being_unlearned_is_not_compared_with(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db") as store:
        x, _ = taught(store, 60)
        uid = store.class_uid("part-2")
        with store.transaction(changes_head=False):
            store.connection.execute(
                "INSERT INTO requests(kind, target, phase, created, body) "
                "VALUES ('class', ?, 'PENDING', 0, '{}')",
                (uid,),
            )
        assert set(open_novelty(store).nearest(x)) == {"part-1", "part-3"}


def test_what_is_unknown_is_called_so_and_the_best_classes_stay() -> None:
    prediction = Prediction("a.jpg", "cup", 0.9, (("cup", 0.9), ("bolt", 0.1)))
    x, y = rows(60)
    made = replace(of_rows(x, y, NAMES), threshold=2.0)
    near, far = (prediction.as_json() | made.verdict(score) for score in (1.0, 3.0))
    assert near == prediction.as_json() | {"unknown": False, "novelty": 1.0}
    assert far == prediction.as_json() | {"label": "unknown", "unknown": True, "novelty": 3.0}
