"""Scores that only benchmarks take: the numbers of the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import scores
from hypothesis import given
from hypothesis import strategies as st

from edgecl.errors import UsageError

NAN = float("nan")
SERIES = [0.9, 0.8, 0.4, 0.6, 0.85, 0.7]


def test_numbers_of_the_usual_extras() -> None:
    # Numeric check of the usual definitions: a_11 = .9, a_21 = .7, a_22 = .8.
    a = np.array([[0.9, NAN], [0.7, 0.8]])
    assert scores.average_accuracy(a).tolist() == pytest.approx([0.9, 0.75])
    assert scores.average_incremental(a) == pytest.approx(0.825)
    assert scores.anytime_average(a).tolist() == pytest.approx([0.9, 0.825])
    assert scores.backward_transfer(a) == pytest.approx(-0.2)
    assert scores.forward_transfer(a, [0.9, 0.75]) == pytest.approx(0.05)
    assert scores.intransigence(a, [0.95, 0.9]).tolist() == pytest.approx([0.05, 0.1])


@pytest.mark.parametrize(("window", "drop"), [(1, 0.0), (2, 0.4), (3, 0.5), (6, 0.5), (100, 0.5)])
def test_numbers_of_windowed_forgetting(window: int, drop: float) -> None:
    # Numeric check of the definition: WF^2 = .40, WF^3 = WF^6 = .50.
    assert scores.windowed_forgetting(SERIES, window) == pytest.approx(drop)


@pytest.mark.parametrize(("window", "rise"), [(1, 0.0), (2, 0.25), (3, 0.45)])
def test_numbers_of_windowed_plasticity(window: int, rise: float) -> None:
    # Numeric check of the definition: WP^2 = .25, WP^3 = .45.
    assert scores.windowed_plasticity(SERIES, window) == pytest.approx(rise)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 30))
def test_windowed_forgetting_is_the_largest_drop_of_any_pair(values: list[float], w: int) -> None:
    n = len(values)
    drops = [values[a] - values[b] for a in range(n) for b in range(a + 1, min(a + w, n))]
    assert scores.windowed_forgetting(values, w) == pytest.approx(max([0.0, *drops]))


def test_unseen_tasks_are_nan_and_never_zero() -> None:
    row = scores.accuracy_by_task([True, False, True, True], [0, 0, 1, 2], [True, False, True])
    assert row.tolist() == pytest.approx([0.5, NAN, 1.0], nan_ok=True)
    assert np.isnan(scores.accuracy_by_task([True], [0], [True, True])[1])
    assert np.isnan(scores.average_incremental(np.full((2, 2), NAN)))
    assert np.isnan(scores.forgetting_of_learned(np.zeros((2, 2))))


def test_forgetting_of_learned_leaves_out_what_was_never_known() -> None:
    a = np.array([[0.8, 0.0], [0.6, 0.0]])
    assert scores.forgetting_of_learned(a) == pytest.approx(0.2)


def test_learning_curve_area_is_the_mean_of_the_first_evaluations() -> None:
    a = np.array([[0.2, NAN], [0.6, NAN], [0.1, 0.5], [0.1, 0.9]])
    current = np.array([0, 0, 1, 1])
    assert scores.learning_curve_area(a, current, beta=2) == pytest.approx((0.4 + 0.7) / 2)
    assert scores.learning_curve_area(a, current) == pytest.approx((0.25 + 0.7) / 2)


def test_latency_counts_samples_from_the_first_of_the_class() -> None:
    accuracy, at = [NAN, 0.2, 0.5, 0.9], [10, 20, 30, 40]
    assert scores.samples_until(accuracy, at, 0.5, since=15) == 15
    assert np.isnan(scores.samples_until(accuracy, at, 0.95, since=15))
    assert scores.adaptation_samples([0.9, 0.1, 0.8], at[:3], before=0.8, since=15) == 15


def test_stale_predictions_and_retention() -> None:
    assert scores.stale_rate(["a", "b", "a"], "a") == pytest.approx(2 / 3)
    assert scores.stale_rate([1, 2], [1, 1]) == 0.5
    assert np.isnan(scores.stale_rate([], "a"))
    assert scores.retention([0.8, 0.4, NAN], [0.4, 0.5, 0.9]) == pytest.approx(0.75)
    assert np.isnan(scores.retention([NAN], [0.5]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scores.windowed_forgetting(SERIES, 0), "window is 0"),
        (lambda: scores.average_accuracy(np.zeros(3)), r"\(evaluations, tasks\)"),
        (lambda: scores.backward_transfer(np.zeros((3, 2))), r"\(T, T\)"),
        (lambda: scores.intransigence(np.eye(2), [1]), "joint has shape"),
        (lambda: scores.learning_curve_area(np.eye(2), [0, 1], beta=0), "beta is 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]


def test_an_unlearned_task_begins_anew_in_its_windows() -> None:
    a = np.array([[0.9, 0.8], [0.2, 0.8], [NAN, 0.8], [0.7, 0.8], [0.6, 0.8]])
    assert scores.windowed_forgetting(a, 10) == pytest.approx(0.05)
