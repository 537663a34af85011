"""Which kept pictures train: golden numbers of both rules, and what a recipe makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from edgecl.adapters.choices import binned, coverage, covered, dealt, distinct, errors_of, every
from edgecl.adapters.recipes import RECIPES


@pytest.mark.parametrize(
    ("counts", "n", "expected"),
    [
        ([2, 10, 30], 18, [2, 8, 8]),
        ([5, 1, 20, 9], 20, [5, 1, 7, 7]),
        ([3, 3, 3], 10, [3, 3, 3]),  # one left over is no error
        ([10, 10, 10], 10, [3, 3, 4]),
        ([0, 4], 3, [0, 3]),
        ([], 3, []),
        ([4], 0, [0]),
    ],
)
def test_small_bins_give_all_and_large_ones_alike(
    counts: list[int], n: int, expected: list[int]
) -> None:
    assert dealt(counts, n) == expected


def test_the_error_is_el2n() -> None:
    errors = errors_of(np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]), np.array([0, 1]))
    assert np.linalg.norm(errors, axis=1) == pytest.approx([0.3741657, 1.2083046], abs=1e-6)


def test_bins_are_equal_parts_of_what_is_between_the_quantiles() -> None:
    scores = np.array([0.05, 0.1, 0.2, 0.3, 0.5, 0.55, 0.6, 0.8, 0.9, 0.99])
    places, bins = binned(scores, n_bins=5)
    assert places.tolist() == list(range(1, 9))
    assert bins.tolist() == [0, 0, 1, 2, 2, 3, 4, 4]
    assert coverage(scores, 5, n_bins=5).tolist() == [1, 3, 4, 6, 7]
    assert len(coverage(scores, 50)) == 8


def test_rows_whose_gradient_repeats_an_earlier_one_go_first() -> None:
    x = np.array([[1, 0], [0.6, 0.8], [1, 0.01], [0, 1]], np.float32)
    errors = np.array([[0.5, -0.5], [0.2, -0.2], [0.5, -0.5], [-0.3, 0.3]])
    assert distinct(x, errors, 3).tolist() == [0, 1, 3]
    assert distinct(x, errors, 2).tolist() == [0, 3]
    assert distinct(np.ones((3, 2), np.float32), np.ones((3, 2)), 1).tolist() == [0]


@pytest.mark.parametrize("p", ["sure", "wrong", "drawn"])
def test_half_of_a_large_class_trains_and_all_of_a_small_one(p: str) -> None:
    rng = np.random.default_rng(0)
    y = np.array([0] * 100 + [1] * 19)
    x = rng.normal(size=(119, 6)).astype(np.float32)
    x[50:60] = x[40:50]
    given = {
        "sure": np.eye(2)[y],
        "wrong": np.eye(2)[1 - y],
        "drawn": rng.dirichlet([1, 1], 119),
    }[p]
    places = covered(x, given, y)
    assert 45 <= (y[places] == 0).sum() <= 50
    assert (y[places] == 1).sum() == 19
    assert np.array_equal(places, np.unique(places))
    assert every(x, given, y).tolist() == list(range(119))


def test_no_recipe_of_one_session_asks_a_head_that_knows_all_classes() -> None:
    alone = [recipe for recipe in RECIPES.values() if recipe.sees == "session"]
    assert alone
    assert all(recipe.choose is every for recipe in alone)
    assert RECIPES["covered"].choose is covered
