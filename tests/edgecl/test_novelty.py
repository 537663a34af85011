from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import build
from edgecl.errors import RequestError, ShapeError
from edgecl.heads import make_head
from edgecl.learner import Learner
from edgecl.novelty import Novelty, as_json, open_novelty
from edgecl.store.store import Store
from edgecl.types import Prediction

NAMES = {uid: f"part-{uid}" for uid in range(1, 6)}


def rows(n: int, n_classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x, y = build.features(n, n_classes=n_classes, seed=seed)
    return x, y.astype(np.int64)


def brute(x: np.ndarray, y: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of q and the left-out scores of x, one row after the other."""

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        a, b = (np.sign(v) * np.sqrt(np.abs(v.astype(np.float64))) for v in (a, b))
        return float(np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b)))

    def companions(i: int) -> set[int]:
        own = [j for j in range(len(x)) if y[j] == y[i]]
        n, at = max(1, len(own) // 2), own.index(i)
        first = min(max(at - n // 2, 0), len(own) - n)
        return set(own[first : first + n])

    def left_out(unit: dict[int, float]) -> np.ndarray:
        return np.array(
            [
                min(apart(x[i], x[j]) / unit[y[j]] for j in range(len(x)) if j not in companions(i))
                for i in range(len(x))
            ]
        )

    plain = left_out(dict.fromkeys(y.tolist(), 1.0))
    medians = {c: float(np.median(plain[y == c])) for c in np.unique(y).tolist()}
    mean = float(np.mean(list(medians.values())))
    unit = {c: float(np.sqrt(m * mean)) for c, m in medians.items()}
    scores = [min(apart(v, x[j]) / unit[y[j]] for j in range(len(x))) for v in q]
    return np.array(scores), left_out(unit)


@settings(max_examples=15, deadline=None)
@given(st.integers(6, 24), st.integers(2, 4), st.integers(0, 10**6), st.floats(0.1, 0.99))
def test_scores_and_threshold_are_those_of_one_row_after_the_other(
    n: int, n_classes: int, seed: int, share: float
) -> None:
    x, y = rows(n, n_classes, seed)
    q, _ = rows(5, n_classes, seed + 1)
    made = Novelty(x, y, NAMES, share=share)
    scores, left_out = brute(x, y, q)
    assert made.scores(q) == pytest.approx(scores, rel=1e-3)
    assert made.threshold == pytest.approx(np.quantile(left_out, share), rel=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_how_the_classes_take_turns_does_not_matter(seed: int) -> None:
    x, y = rows(40, seed=seed)
    by_class = np.argsort(y, kind="stable")
    q, _ = rows(6, seed=seed + 1)
    one, other = Novelty(x, y, NAMES), Novelty(x[by_class], y[by_class], NAMES)
    assert one.scores(q) == pytest.approx(other.scores(q), rel=1e-5)
    assert one.threshold == pytest.approx(other.threshold, rel=1e-5)
    assert one.nearest(q) == other.nearest(q)


def test_a_larger_share_is_a_larger_threshold_and_length_does_not_count() -> None:
    x, y = rows(60)
    thresholds = [Novelty(x, y, NAMES, share=share).threshold for share in (0.5, 0.9, 0.99)]
    assert thresholds == sorted(thresholds)
    made = Novelty(x, y, NAMES)
    assert made.scores(3 * x) == pytest.approx(made.scores(x), abs=1e-2)


def test_a_kept_row_is_near_and_another_cluster_is_unknown() -> None:
    x, y = rows(150, 4)
    known = y != 4
    made = Novelty(x[known][:80], y[known][:80], NAMES)
    assert made.scores(x[known][:1])[0] < made.threshold
    assert (made.scores(x[known][80:]) > made.threshold).mean() < 0.2
    assert (made.scores(x[~known]) > made.threshold).mean() > 0.9
    assert [name for _, name in made.nearest(x[known][:80])] == [NAMES[c] for c in y[known][:80]]


def test_many_frames_of_one_thing_do_not_lower_the_threshold() -> None:
    """Each thing is seen 12 times; a new thing of a known class is not unknown for that."""
    things, y = rows(24, 2, seed=3)
    order = np.argsort(y, kind="stable")
    things, y = things[order], y[order]
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.002, (len(things), 12, 12))
    frames = (things[:, None] + noise).reshape(-1, 12).astype(np.float32)
    made = Novelty(frames, np.repeat(y, 12), NAMES)
    others, _ = rows(200, 2, seed=3)
    assert (made.scores(others[24:]) > made.threshold).mean() < 0.2


def test_chunks_do_not_matter_and_copies_of_one_row_are_no_division_by_zero() -> None:
    x, y = rows(600)
    assert np.isfinite(Novelty(x, y, NAMES).threshold)
    same = np.repeat(x[:2], 20, axis=0)
    made = Novelty(same, np.repeat(y[:2], 20), NAMES)
    assert np.isfinite(made.scores(x)).all()


@pytest.mark.parametrize("shape", [(12,), (2, 11), (1, 2, 12)])
def test_a_feature_of_another_width_is_refused(shape: tuple[int, ...]) -> None:
    x, y = rows(20)
    with pytest.raises(ShapeError, match=r"expected \(N, 12\)"):
        Novelty(x, y, NAMES).scores(np.zeros(shape, np.float32))


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
        by_hand = Novelty(kept, classes, store.names)
        assert found.threshold == by_hand.threshold
        assert found.scores(x).tolist() == by_hand.scores(x).tolist()
        assert [name for _, name in found.nearest(x)] == [f"part-{c}" for c in y]


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
        assert {name for _, name in open_novelty(store).nearest(x)} == {"part-1", "part-3"}


def test_what_is_unknown_is_called_so_and_the_best_classes_stay() -> None:
    prediction = Prediction("a.jpg", "cup", 0.9, (("cup", 0.9), ("bolt", 0.1)))
    near, far = as_json(prediction, 1.0, 2.0), as_json(prediction, 3.0, 2.0)
    assert near == prediction.as_json() | {"unknown": False, "novelty": 1.0}
    assert far == prediction.as_json() | {"label": "unknown", "unknown": True, "novelty": 3.0}
