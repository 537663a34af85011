"""Scores become probabilities, and predictions name the best classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

import build
from edgecl.errors import DecodeError, NothingLearnedError, ShapeError, SourceError
from edgecl.home import Home
from edgecl.runtime.predictor import Predictor, best, predictions
from edgecl.runtime.scoring import LinearScorer, best_of, nearest_simplex

SCORES = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, max_side=8),
    elements=st.floats(-100, 100, width=32),
)


def scorer(num_features: int = 4, k: int = 3, kind: str = "regression") -> LinearScorer:
    rng = np.random.default_rng(0)
    labels = tuple(f"class {i}" for i in range(k))
    return LinearScorer(rng.normal(0, 1, (num_features, k)), rng.normal(0, 1, k), labels, kind)


@given(SCORES)
def test_nearest_simplex_gives_probabilities_in_the_order_of_the_scores(
    scores: np.ndarray,
) -> None:
    shares = nearest_simplex(scores)
    assert shares.shape == scores.shape
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-9)
    ranks = np.argsort(scores, axis=1, kind="stable")
    assert (np.diff(np.take_along_axis(shares, ranks, axis=1), axis=1) >= 0).all()


@given(SCORES)
def test_nearest_simplex_equals_the_threshold_found_by_bisection(scores: np.ndarray) -> None:
    # The projection is max(s - t, 0) with the one t that makes the sum 1; found here by a root
    # finder instead of by sorting.
    for row, share in zip(scores, nearest_simplex(scores), strict=True):
        t = scipy.optimize.brentq(
            lambda t, row=row: np.maximum(row - t, 0).sum() - 1,
            row.max() - 1.5,
            row.max(),
            xtol=1e-12,
        )
        np.testing.assert_allclose(share, np.maximum(row - t, 0), atol=1e-9)


def test_nearest_simplex_is_nearer_than_any_point_of_a_fine_grid() -> None:
    n = 40
    grid = np.array([(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)]) / n
    scores = np.random.default_rng(1).normal(0.3, 0.7, (50, 3))
    ours = np.linalg.norm(scores - nearest_simplex(scores), axis=1)
    best = np.linalg.norm(scores[:, None] - grid, axis=2).min(axis=1)
    assert (ours <= best + 1e-12).all()
    assert (ours >= best - 1.5 / n).all()


@given(SCORES)
def test_nearest_simplex_leaves_probabilities_alone(scores: np.ndarray) -> None:
    shares = scipy.special.softmax(scores, axis=1)
    np.testing.assert_allclose(nearest_simplex(shares), shares, atol=1e-12)


@given(SCORES)
def test_logits_become_their_softmax(scores: np.ndarray) -> None:
    np.testing.assert_allclose(
        scorer(kind="logits").probabilities(scores),
        scipy.special.softmax(scores, axis=1),
        rtol=1e-9,
    )


def test_huge_logits_do_not_overflow() -> None:
    shares = scorer(kind="logits").probabilities(np.array([[1e4, 0.0, -1e4]]))
    assert shares.tolist() == [[1.0, 0.0, 0.0]]


def test_scores_are_the_linear_map() -> None:
    s = scorer()
    x = np.random.default_rng(2).normal(0, 1, (5, 4)).astype(np.float32)
    by_hand = np.zeros((5, 3))
    for i, j in np.ndindex(5, 3):
        by_hand[i, j] = sum(float(x[i, d]) * s.weights[d, j] for d in range(4)) + s.bias[j]
    np.testing.assert_allclose(s.scores(x), by_hand, rtol=1e-9)
    assert s.scores(x).dtype == np.float64


def _weights(kind: str, d: int, k: int) -> np.ndarray:
    """Return weights (D, K) whose scores float32 tells apart more or less easily."""
    rng = np.random.default_rng(4)
    weights = rng.standard_normal((d, k))
    if kind == "nearly alike":
        weights = weights[:, :1] + 1e-8 * weights
    elif kind == "alike":
        weights = np.repeat(weights[:, :1], k, axis=1)
    return weights * {"huge": 1e40, "zero": 0.0, "cancelling": 1e6}.get(kind, 1.0)


@pytest.mark.parametrize("k", [1, 2, 30])
@pytest.mark.parametrize("kind", ["apart", "nearly alike", "alike", "huge", "zero", "cancelling"])
def test_the_best_is_that_of_the_scores_in_float64(kind: str, k: int) -> None:
    rng, d = np.random.default_rng(5), 40
    x = np.maximum(rng.standard_normal((1500, d)), 0).astype(np.float16)
    weights = _weights(kind, d, k)
    bias = -weights.sum(axis=0) if kind == "cancelling" else rng.uniform(0, 1e-9, k)
    scorer = LinearScorer(weights, bias, tuple(map(str, range(k))), "regression")
    scores, best = scorer.scores(x.astype(np.float32)), best_of(scorer, x)
    # As far as float64 tells them apart: how it rounds may hang on how many rows are asked at once.
    rounding = 1e-13 * (np.abs(x) @ np.abs(weights) + np.abs(bias)).max()
    assert (scores[np.arange(len(x)), best] >= scores.max(axis=1) - rounding).all()


def test_only_what_is_near_is_asked_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    scores = LinearScorer.scores
    monkeypatch.setattr(
        LinearScorer, "scores", lambda self, x: asked.append(len(x)) or scores(self, x)
    )
    weights = np.array([[1.0, 0.0, 1e-9], [0.0, 1.0, 1.0]])
    scorer = LinearScorer(weights, np.zeros(3), ("a", "b", "c"), "regression")
    x = np.array([[1, 0], [2, 0], [1, 1], [0, 1]], dtype=np.float16)
    assert best_of(scorer, x).tolist() == [0, 0, 2, 1]
    assert asked == [2]


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 4, 1)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"expected \(N, 4\)"):
        scorer().scores(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("weights", "bias"), [((4, 2), (3,)), ((4, 3), (2,)), ((12,), (3,)), ((4, 3), (3, 1))]
)
def test_scorer_whose_parts_do_not_fit_is_refused(
    weights: tuple[int, ...], bias: tuple[int, ...]
) -> None:
    with pytest.raises(ShapeError, match="3 labels"):
        LinearScorer(np.zeros(weights), np.zeros(bias), ("a", "b", "c"), "logits")


# Predictions


@pytest.mark.parametrize(("top", "n"), [(1, 1), (2, 2), (3, 3), (50, 3), (0, 1)])
def test_top_names_the_best_classes_best_first(top: int, n: int) -> None:
    s = scorer()
    x = np.random.default_rng(3).normal(0, 1, (6, 4)).astype(np.float32)
    out = predictions(s, [str(i) for i in range(6)], x, top=top)
    assert [p.path for p in out] == [str(i) for i in range(6)]
    for p, row in zip(out, s.scores(x), strict=True):
        assert len(p.top) == n
        assert [label for label, _ in p.top] == [s.labels[i] for i in np.argsort(-row)[:n]]
        assert (p.label, p.score) == p.top[0]
        assert p.score == max(score for _, score in p.top)


def test_prediction_prints_the_keys_of_the_contract() -> None:
    (p,) = predictions(scorer(), ["a.png"], np.zeros((1, 4), np.float32), top=2)
    values = p.as_json()
    assert list(values) == ["path", "label", "score", "probability", "top"]
    best = {name: values[name] for name in ("label", "score", "probability")}
    assert values["top"][0] == best


def test_nothing_learned_is_an_error_that_says_what_to_run() -> None:
    empty = LinearScorer(np.zeros((4, 0)), np.zeros(0), (), "regression")
    x = np.zeros((1, 4), np.float32)
    with pytest.raises(NothingLearnedError, match="train-stream"):
        predictions(empty, ["a"], x)
    with pytest.raises(NothingLearnedError, match="train-stream"):
        empty.scores(x)


@pytest.fixture
def predictor(home: Home) -> Predictor:
    s = scorer(home.manifest.num_features, 5)
    return Predictor.of(home.engine(), home.manifest.preprocessing, s, max_pixels=10_000)


def test_array_and_file_give_the_same_prediction(predictor: Predictor, tmp_path: Path) -> None:
    image = build.part_picture("gasket", 1)
    image.save(tmp_path / "a.png")
    from_file = predictor.predict(tmp_path / "a.png", top=3)
    from_array = predictor.predict(np.asarray(image), top=3)
    assert from_file.path == str(tmp_path / "a.png")
    assert from_file.top == from_array.top
    assert predictor.predict(str(tmp_path / "a.png"), top=3) == from_file


def test_file_that_is_missing_or_no_picture_is_named(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gone\.png cannot be read \(No such file"):
        predictor.predict(tmp_path / "gone.png")
    (tmp_path / "bad.png").write_bytes(b"x")
    with pytest.raises(DecodeError, match=r"bad\.png: not a picture"):
        predictor.predict(tmp_path / "bad.png")
    Image.new("RGB", (101, 100)).save(tmp_path / "big.png")
    with pytest.raises(DecodeError, match=r"big\.png: 101 x 100 pixels"):
        predictor.predict(tmp_path / "big.png")


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
    ],
    ids=lambda x: f"{x.shape} {x.dtype}",
)
def test_array_that_is_no_rgb_picture_is_refused(predictor: Predictor, pixels: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"\(H, W, 3\) uint8"):
        predictor.predict(pixels)


@given(arrays(np.float64, st.integers(1, 30), elements=st.integers(-4, 4)), st.integers(1, 40))
def test_the_best_are_those_of_a_whole_sort_that_is_stable(scores: np.ndarray, n: int) -> None:
    assert best(scores, n).tolist() == np.argsort(-scores, kind="stable")[:n].tolist()
