"""Scores over time: the numbers of the definitions, and one evaluation at a time or all at once."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecl.errors import UsageError
from edgecl.evaluation import continual
from edgecl.evaluation.continual import Monitor

NAN = float("nan")
SERIES = [0.9, 0.8, 0.4, 0.6, 0.85, 0.7]

# Accuracies with gaps: unseen at first, unlearned later.
cell = st.one_of(st.floats(0, 1), st.just(NAN))


@st.composite
def runs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    n_tasks = draw(st.integers(1, 4))
    n = draw(st.integers(1, 12))
    table = draw(st.lists(cell, min_size=n * n_tasks, max_size=n * n_tasks))
    current = draw(st.lists(st.integers(0, n_tasks - 1), min_size=n, max_size=n))
    return np.array(table).reshape(n, n_tasks), np.array(current), draw(st.integers(1, 6))


def test_numbers_of_the_usual_extras() -> None:
    # Numeric check of the usual definitions: a_11 = .9, a_21 = .7, a_22 = .8.
    a = np.array([[0.9, NAN], [0.7, 0.8]])
    assert continual.average_accuracy(a).tolist() == pytest.approx([0.9, 0.75])
    assert continual.average_incremental(a) == pytest.approx(0.825)
    assert continual.anytime_average(a).tolist() == pytest.approx([0.9, 0.825])
    assert continual.forgetting(a) == pytest.approx(0.2)
    assert continual.backward_transfer(a) == pytest.approx(-0.2)
    assert continual.forward_transfer(a, [0.9, 0.75]) == pytest.approx(0.05)
    assert continual.intransigence(a, [0.95, 0.9]).tolist() == pytest.approx([0.05, 0.1])


@pytest.mark.parametrize(("window", "drop"), [(1, 0.0), (2, 0.4), (3, 0.5), (6, 0.5), (100, 0.5)])
def test_numbers_of_windowed_forgetting(window: int, drop: float) -> None:
    # Numeric check of the definition: WF^2 = .40, WF^3 = WF^6 = .50.
    assert continual.windowed_forgetting(SERIES, window) == pytest.approx(drop)
    monitor = Monitor(window)
    for value in SERIES:
        monitor.add({0: value}, current=0)
    assert monitor.windowed_forgetting == pytest.approx(drop)


@pytest.mark.parametrize(("window", "rise"), [(1, 0.0), (2, 0.25), (3, 0.45)])
def test_numbers_of_windowed_plasticity(window: int, rise: float) -> None:
    # Numeric check of the definition: WP^2 = .25, WP^3 = .45.
    assert continual.windowed_plasticity(SERIES, window) == pytest.approx(rise)
    monitor = Monitor(window)
    for value in SERIES:
        monitor.add({0: value}, current=0)
    assert monitor.windowed_plasticity == pytest.approx(rise)


def test_numbers_of_the_worst_case() -> None:
    # Numeric check of the definition: two tasks, A_1 at least .3, A_2 = .9 -> WC-ACC = .60.
    a = np.array([[0.1, NAN], [0.3, 0.2], [0.8, 0.9]])
    current = np.array([0, 1, 1])
    assert continual.worst_case_accuracy(a, current).tolist() == pytest.approx([0.1, 0.25, 0.6])
    least = continual.minimum_accuracy(a, current)
    assert np.isnan(least[0])
    assert least[1:].tolist() == pytest.approx([0.3, 0.3])


def test_a_task_that_is_trained_again_does_not_count_meanwhile() -> None:
    a = np.array([[0.9, NAN], [0.6, 0.9], [0.1, 0.8], [0.7, 0.7]])
    worst = continual.minimum_accuracy(a, np.array([0, 1, 0, 1]))
    assert worst[1:].tolist() == pytest.approx([0.6, 0.8, 0.6])


def test_an_unlearned_task_drops_out_and_begins_anew() -> None:
    a = np.array([[0.9, 0.8], [0.2, 0.8], [NAN, 0.8], [0.7, 0.8], [0.6, 0.8]])
    current = np.ones(5, np.int64)
    assert continual.worst_case_accuracy(a, current).tolist() == pytest.approx(
        [0.85, 0.5, 0.8, 0.75, 0.7]
    )
    assert continual.forgetting(a[:3]) == pytest.approx(0.0)
    assert continual.forgetting(a) == pytest.approx(0.05)
    assert continual.windowed_forgetting(a, 10) == pytest.approx(0.05)


def test_relearned_between_two_evaluations_a_task_begins_anew() -> None:
    monitor = Monitor(10)
    monitor.add({"cup": 0.2, "bolt": 0.5}, current="bolt")
    monitor.unlearn("cup")
    assert monitor.average_accuracy == 0.5
    monitor.add({"cup": 0.7, "bolt": 0.5}, current="bolt")
    assert monitor.minimum_accuracy == pytest.approx(0.7)
    assert monitor.windowed_plasticity == 0


@given(runs())
@settings(deadline=None)
def test_one_evaluation_at_a_time_gives_what_the_whole_series_gives(
    run: tuple[np.ndarray, np.ndarray, int],
) -> None:
    a, current, window = run
    monitor = Monitor(window)
    worst = continual.worst_case_accuracy(a, current)
    least = continual.minimum_accuracy(a, current)
    anytime = continual.anytime_average(a)
    average = continual.average_accuracy(a)
    for n in range(len(a)):
        monitor.add(dict(enumerate(a[n].tolist())), current=int(current[n]))
        until = a[: n + 1]
        for ours, theirs in (
            (monitor.worst_case_accuracy, worst[n]),
            (monitor.minimum_accuracy, least[n]),
            (monitor.anytime_average, anytime[n]),
            (monitor.average_accuracy, average[n]),
            (monitor.windowed_forgetting, continual.windowed_forgetting(until, window)),
            (monitor.windowed_plasticity, continual.windowed_plasticity(until, window)),
        ):
            assert ours == pytest.approx(theirs, nan_ok=True)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 30))
def test_windowed_forgetting_is_the_largest_drop_of_any_pair(values: list[float], w: int) -> None:
    n = len(values)
    drops = [values[a] - values[b] for a in range(n) for b in range(a + 1, min(a + w, n))]
    assert continual.windowed_forgetting(values, w) == pytest.approx(max([0.0, *drops]))


def test_the_monitor_keeps_up_with_long_windows() -> None:
    monitor = Monitor(window=5000)
    values = np.random.default_rng(0).random(20_000)
    begin = time.perf_counter()
    for value in values:
        monitor.add({0: value}, current=0)
    assert time.perf_counter() - begin < 5
    assert monitor.windowed_forgetting > 0.99


def test_unseen_tasks_are_nan_and_never_zero() -> None:
    row = continual.accuracy_by_task([True, False, True, True], [0, 0, 1, 2], [True, False, True])
    assert row.tolist() == pytest.approx([0.5, NAN, 1.0], nan_ok=True)
    assert np.isnan(continual.accuracy_by_task([True], [0], [True, True])[1])
    unseen = np.full((2, 2), NAN)
    assert np.isnan(continual.average_incremental(unseen))
    assert np.isnan(continual.forgetting(unseen))
    assert np.isnan(continual.worst_case_accuracy(unseen, np.array([0, 1]))).all()
    assert np.isnan(Monitor().average_accuracy)
    assert np.isnan(Monitor().anytime_average)


def test_forgetting_of_learned_leaves_out_what_was_never_known() -> None:
    a = np.array([[0.8, 0.0], [0.6, 0.0]])
    assert continual.forgetting(a) == pytest.approx(0.1)
    assert continual.forgetting_of_learned(a) == pytest.approx(0.2)


def test_learning_curve_area_is_the_mean_of_the_first_evaluations() -> None:
    a = np.array([[0.2, NAN], [0.6, NAN], [0.1, 0.5], [0.1, 0.9]])
    current = np.array([0, 0, 1, 1])
    assert continual.learning_curve_area(a, current, beta=2) == pytest.approx((0.4 + 0.7) / 2)
    assert continual.learning_curve_area(a, current) == pytest.approx((0.25 + 0.7) / 2)


def test_latency_counts_samples_from_the_first_of_the_class() -> None:
    accuracy, at = [NAN, 0.2, 0.5, 0.9], [10, 20, 30, 40]
    assert continual.samples_until(accuracy, at, 0.5, since=15) == 15
    assert np.isnan(continual.samples_until(accuracy, at, 0.95, since=15))
    assert continual.adaptation_samples([0.9, 0.1, 0.8], at[:3], before=0.8, since=15) == 15


def test_stale_predictions_and_retention() -> None:
    assert continual.stale_rate(["a", "b", "a"], "a") == pytest.approx(2 / 3)
    assert continual.stale_rate([1, 2], [1, 1]) == 0.5
    assert np.isnan(continual.stale_rate([], "a"))
    assert continual.retention([0.8, 0.4, NAN], [0.4, 0.5, 0.9]) == pytest.approx(0.75)
    assert np.isnan(continual.retention([NAN], [0.5]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Monitor(0), "window is 0"),
        (lambda: continual.windowed_forgetting(SERIES, 0), "window is 0"),
        (lambda: continual.average_accuracy(np.zeros(3)), r"\(evaluations, tasks\)"),
        (lambda: continual.backward_transfer(np.zeros((3, 2))), r"\(T, T\)"),
        (lambda: continual.intransigence(np.eye(2), [1]), "joint has shape"),
        (lambda: continual.worst_case_accuracy(np.eye(2), np.array([0])), "current has shape"),
        (lambda: continual.learning_curve_area(np.eye(2), [0, 1], beta=0), "beta is 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]
