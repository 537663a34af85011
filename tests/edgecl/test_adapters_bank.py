"""MOS's classifier: class statistics, alignment, self-refined retrieval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecl.adapters.bank import ClassGaussian, align, bank_scorer, class_gaussians
from edgecl.errors import ShapeError
from edgecl.runtime.bank import BankScorer
from edgecl.runtime.scoring import load_scorer, softmax


def half(rows: list[list[float]]) -> np.ndarray:
    return np.array(rows, dtype=np.float16)


def covariance(gaussian: ClassGaussian) -> np.ndarray:
    return sum((root.T @ root for root in gaussian.roots), np.eye(len(gaussian.mean)) * 1e-4)


def test_statistics_equal_the_official_numbers() -> None:
    """Rows (1,0), (3,0), (2,3): covariance with jitter 1.0001 and 3.0001, nothing beside."""
    found = class_gaussians({1: half([[1, 0], [3, 0], [2, 3]])}, few=0)[1]
    assert np.allclose(found.mean, [2, 1])
    assert np.allclose(covariance(found), [[1.0001, 0], [0, 3.0001]])
    assert np.allclose(found.variance, [1.0001, 3.0001])


def test_a_class_of_one_sample_has_the_pooled_covariance() -> None:
    rows = {1: half([[0, 0], [2, 4]]), 2: half([[5, 5]])}
    out = class_gaussians(rows, few=30)
    assert np.allclose(covariance(out[2]), [[2.0001, 4], [4, 8.0001]])
    assert np.allclose(class_gaussians({2: half([[5, 5]])})[2].variance, 1e-4)
    assert np.isfinite(out[2].draw(10, np.random.default_rng(0))).all()


def test_few_samples_lean_on_the_pooled_covariance_by_their_number() -> None:
    rng = np.random.default_rng(0)
    rows = {1: rng.normal(0, 1, (300, 3)).astype(np.float16),
            2: rng.normal(0, 5, (15, 3)).astype(np.float16)}  # fmt: skip
    out, own = class_gaussians(rows), class_gaussians(rows, few=0)
    pooled = (299 * covariance(own[1]) + 14 * covariance(own[2])) / 313
    assert np.allclose(covariance(out[2]), (covariance(own[2]) + pooled) / 2, rtol=1e-3, atol=1e-3)
    assert np.allclose(covariance(out[1]), covariance(own[1]))


def test_pseudo_features_have_the_moments_of_their_class() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(0, 1, (400, 2)) @ [[1, 0.8], [0, 0.6]] + [3, 1]).astype(np.float16)
    gaussian = class_gaussians({1: x})[1]
    drawn = gaussian.draw(20_000, rng)
    assert np.allclose(drawn.mean(axis=0), gaussian.mean, atol=0.05)
    assert np.allclose(np.cov(drawn.T), covariance(gaussian), atol=0.06)


def test_alignment_tells_classes_apart_that_it_knows_by_statistics_only() -> None:
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 3, (4, 8))
    rows = {c: (centres[c] + rng.normal(0, 0.4, (60, 8))).clip(0).astype(np.float16)
            for c in range(4)}  # fmt: skip
    gaussians = class_gaussians(rows)
    weights, bias = align([gaussians[c] for c in range(4)], is_positive=True, seed=0)
    again, _ = align([gaussians[c] for c in range(4)], is_positive=True, seed=0)
    assert np.array_equal(weights, again)
    for c in range(4):
        guesses = (rows[c].astype(np.float64) @ weights + bias).argmax(axis=1)
        assert (guesses == c).mean() > 0.9


def by_hand(scorer: BankScorer, x: np.ndarray) -> np.ndarray:
    """The loop of the paper for one picture, as its released code runs it."""
    maps = x.astype(np.float64).reshape(scorer.n_maps, -1)
    cosines = maps[0] / np.linalg.norm(maps[0]) @ scorer.prototypes
    i, n = scorer.task_of[cosines.argmax()], 0
    while True:
        n += 1
        logits = maps[i] @ scorer.weights + scorer.bias
        j = scorer.task_of[logits.argmax()]
        if n >= 4 or j == i:
            break
        i = j
    total: np.ndarray = softmax(logits[None])[0] + softmax(cosines[None] * scorer.n_maps)[0]
    return total


@settings(max_examples=60)
@given(st.integers(0, 100_000), st.integers(1, 5))
def test_retrieval_equals_the_loop_of_the_released_code(seed: int, n_maps: int) -> None:
    rng = np.random.default_rng(seed)
    k, d = 6, 4
    prototypes = rng.normal(0, 1, (d, k))
    scorer = BankScorer(
        weights=rng.normal(0, 1, (d, k)),
        bias=rng.normal(0, 1, k),
        prototypes=prototypes / np.linalg.norm(prototypes, axis=0),
        task_of=rng.integers(0, n_maps, k),
        n_maps=n_maps,
        labels=tuple("abcdef"),
    )
    x = rng.normal(0, 1, (7, n_maps * d)).astype(np.float32)
    before = {name: array.copy() for name, array in scorer.arrays().items()}
    scores = scorer.scores(x)
    assert np.allclose(scores, [by_hand(scorer, row) for row in x])
    assert np.allclose(scorer.probabilities(scores).sum(axis=1), 1)
    after = scorer.arrays()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    again = load_scorer(after, scorer.labels)
    assert np.array_equal(again.scores(x), scores)


def test_a_bank_that_does_not_fit_is_refused() -> None:
    rows = {1: half([[1, 0], [2, 0]]), 2: half([[0, 1], [0, 2]])}
    names = {1: "a", 2: "b"}
    scorer = bank_scorer(rows, rows, {1: 0, 2: 1}, names, n_maps=2)
    assert scorer.scores(np.array([[3, 0, 3, 0]], np.float32)).argmax() == 0
    with pytest.raises(ShapeError, match=r"expected \(N, 2 \* 2\)"):
        scorer.scores(np.zeros((1, 2), np.float32))
    with pytest.raises(ShapeError, match="tasks below"):
        bank_scorer(rows, rows, {1: 0, 2: 2}, names, n_maps=2)
