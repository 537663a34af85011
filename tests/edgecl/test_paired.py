"""Tests of what a change did, against closed forms, scipy and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgecl.paired import (
    Pairs,
    holm,
    mcnemar,
    normal_quantile,
    paired_errors,
    pooled,
    upper_drop,
    wilson,
)


@pytest.mark.parametrize(("lost", "won"), list(itertools.product(range(7), range(7))))
def test_mcnemar_is_what_counting_every_outcome_gives(lost: int, won: int) -> None:
    m = lost + won
    outcomes = list(itertools.product((0, 1), repeat=m)) if m <= 10 else []
    if outcomes and lost:
        share = sum(sum(o) >= lost for o in outcomes) / len(outcomes)
        assert mcnemar(Pairs(50, lost, won)) == pytest.approx(share, abs=1e-12)
    if lost:
        wanted = stats.binomtest(lost, m, 0.5, alternative="greater").pvalue
        assert mcnemar(Pairs(50, lost, won)) == pytest.approx(wanted, rel=1e-9)
    else:
        assert mcnemar(Pairs(50, lost, won)) == 1.0


def test_the_smallest_losses_that_are_proof() -> None:
    # docs of the governor: 5 at .05, 8 at .05/10, 11 at .05/100.
    for alpha, n in ((0.05, 5), (0.005, 8), (0.0005, 11)):
        assert mcnemar(Pairs(99, n, 0)) <= alpha < mcnemar(Pairs(99, n - 1, 0))
    assert mcnemar(Pairs(10**6, 9000, 1000)) < 1e-300 or mcnemar(Pairs(10**6, 9000, 1000)) == 0.0


def test_holm_by_hand_and_in_any_order() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(p[::-1]) == pytest.approx(holm(p)[::-1])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_wilson_as_published_and_as_scipy_has_it() -> None:
    assert wilson(18, 20) == pytest.approx((0.699, 0.972), abs=5e-4)
    assert wilson(0, 0) == (0.0, 1.0)
    for right, n in ((0, 7), (7, 7), (3, 11), (150, 200)):
        found = stats.binomtest(right, n).proportion_ci(method="wilson")
        assert wilson(right, n) == pytest.approx((found.low, found.high), abs=1e-9)


@given(p=st.floats(1e-6, 1 - 1e-6))
def test_quantiles_of_the_normal_distribution(p: float) -> None:
    assert normal_quantile(p) == pytest.approx(float(stats.norm.ppf(p)), abs=1e-8)


@pytest.mark.parametrize(
    ("n", "p_lost", "p_won"), [(20, 0.1, 0.02), (50, 0.05, 0.05), (200, 0.3, 0.01)]
)
def test_the_bound_of_a_drop_holds_nineteen_times_of_twenty(
    n: int, p_lost: float, p_won: float
) -> None:
    rng = np.random.default_rng(0)
    draws = rng.multinomial(n, [p_lost, p_won, 1 - p_lost - p_won], 2000)
    z = normal_quantile(0.95)
    held = [upper_drop(Pairs(n, int(a), int(b)), z) >= p_lost - p_won for a, b, _ in draws]
    assert 0.925 <= np.mean(held) <= 1.0


def test_few_pictures_prove_no_harmlessness() -> None:
    z = normal_quantile(0.95)
    assert upper_drop(Pairs(0, 0, 0), z) == 1.0
    bounds = [upper_drop(Pairs(n, 0, 0), z) for n in (5, 10, 20, 100)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[2] > 0.10 > bounds[3]
    assert bounds[2] == pytest.approx(z * z / (20 + z * z), abs=1e-6)  # its closed form
    worst = upper_drop(Pairs(10, 10, 0), z)
    assert 0.99 < worst <= 1.0


def test_errors_are_compared_by_their_paired_mean() -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(size=400)
    after = before + rng.normal(0.02, 0.1, 400)
    wanted = stats.ttest_rel(after, before, alternative="greater").pvalue
    assert paired_errors(before, after) == pytest.approx(float(wanted), abs=2e-3)
    assert paired_errors(before, before) == 1.0
    assert paired_errors(before, before + 0.5) == 0.0
    assert paired_errors(before, before - 0.5) == 1.0
    assert paired_errors(before, np.full(400, math.nan)) == 0.0
    assert paired_errors(np.zeros(0), np.zeros(0)) == 1.0


def test_classes_together_are_one_set_of_pictures() -> None:
    whole = pooled([Pairs(20, 3, 1), Pairs(30, 0, 2)])
    assert (whole, whole.drop) == (Pairs(50, 3, 3), 0.0)
    assert pooled([]) == Pairs(0, 0, 0)
    assert Pairs(0, 0, 0).drop == 0.0
