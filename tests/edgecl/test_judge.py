"""Whether an adapter is taken, and how much it is heard."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecl.consolidation.judge import (
    SHARES,
    USUAL_SHARE,
    USUAL_TEMPERATURE,
    best_share,
    judged,
    squared_errors,
    temperature_of,
)
from edgecl.runtime.scoring import softmax


def test_squared_errors_by_hand() -> None:
    errors = squared_errors(np.array([[0.7, 0.3], [0.2, 0.8]]), np.array([0, 0]))
    assert np.allclose(errors, [0.18, 1.28])


@pytest.mark.parametrize("truth", [0.5, 1.0, 8.0])
def test_the_temperature_is_found_again(truth: float) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4000, 5))
    y = np.array([rng.choice(5, p=p) for p in softmax(truth * scores)])
    assert temperature_of(scores, y) == pytest.approx(truth, rel=0.15)


def test_a_few_pictures_that_are_all_right_make_no_certainty() -> None:
    scores = np.eye(3)[[0, 1, 2, 0]]
    shares = softmax(temperature_of(scores, np.array([0, 1, 2, 0])) * scores)
    assert 0.7 < shares.max() < 0.97
    assert temperature_of(np.zeros((0, 3)), np.zeros(0, np.int64)) == USUAL_TEMPERATURE


def shares_of(n: int, quality: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, n)
    return softmax(rng.normal(size=(n, 4)) + quality * np.eye(4)[y]), y


@given(seed=st.integers(0, 500))
def test_what_is_no_worse_is_taken(seed: int) -> None:
    shares, y = shares_of(30, 2.0, seed)
    assert judged(shares, shares, y).accepted
    better = shares + 0.2 * (np.eye(4)[y] - shares)
    verdict = judged(shares, better, y)
    assert verdict.accepted
    assert verdict.error[1] < verdict.error[0]


def test_what_is_clearly_worse_is_not_taken() -> None:
    good, y = shares_of(200, 4.0, 0)
    bad, _ = shares_of(200, 0.0, 1)
    verdict = judged(good, bad, y)
    assert not verdict.accepted
    assert verdict.n == 200
    assert verdict.accuracy[0] > verdict.accuracy[1]
    assert not judged(good, np.full_like(good, np.nan), y).accepted


def test_the_usual_share_is_left_only_for_a_clear_gain() -> None:
    good, y = shares_of(200, 4.0, 0)
    bad, _ = shares_of(200, 0.0, 1)
    even = dict.fromkeys(SHARES, good)
    assert best_share(even, y) == USUAL_SHARE
    assert best_share(dict.fromkeys(SHARES, bad) | {0.3: good}, y) == 0.3
