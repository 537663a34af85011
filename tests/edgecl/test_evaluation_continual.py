"""Scores over time: the numbers of the definitions."""

from __future__ import annotations

import numpy as np
import pytest

from edgecl.errors import UsageError
from edgecl.evaluation import continual

NAN = float("nan")


def test_forgetting_is_the_best_before_minus_the_last() -> None:
    assert continual.forgetting(np.array([[0.9, NAN], [0.7, 0.8]])) == pytest.approx(0.2)


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


def test_unseen_tasks_are_nan_and_never_zero() -> None:
    unseen = np.full((2, 2), NAN)
    assert np.isnan(continual.forgetting(unseen))
    assert np.isnan(continual.worst_case_accuracy(unseen, np.array([0, 1]))).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: continual.forgetting(np.zeros(3)), r"\(evaluations, tasks\)"),
        (lambda: continual.worst_case_accuracy(np.eye(2), np.array([0])), "current has shape"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]
