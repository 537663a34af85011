"""Both cores: what comes, in which order, and how far ahead items are taken."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from patience import PATIENCE_S, no_thread_is_left

from edgecl.runtime.cores import on_cores


def test_results_come_in_the_order_of_the_items_whoever_is_first() -> None:
    second, are_two = threading.Event(), len(os.sched_getaffinity(0)) > 1

    def square(x: int) -> int:
        if x == 0 and are_two:
            assert second.wait(PATIENCE_S)  # the second item is done before the first
        if x == 1:
            second.set()
        return x * x

    assert list(on_cores(square, range(20))) == [x * x for x in range(20)]
    assert list(on_cores(square, [])) == []


def test_items_are_taken_only_as_fast_as_they_are_worked_on() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(50):
            taken.append(i)
            yield i

    results = on_cores(str, items())
    for i in range(10):
        assert next(results) == str(i)
        assert len(taken) <= i + 4
    results.close()  # type: ignore[attr-defined]
    assert no_thread_is_left("core_0", "core_1")


def test_what_fails_is_raised_and_no_thread_stays() -> None:
    with pytest.raises(ZeroDivisionError):
        list(on_cores(lambda x: 1 / x, [1, 0, 1]))
    assert no_thread_is_left("core_0", "core_1")
