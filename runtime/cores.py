"""Work for both cores, where somebody waits for it and nothing else runs."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
# More than two would take a core from what else a device does.
_MOST = 2


def on_cores(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield what a function makes of each item, in their order, by a thread a core, two at most.

    Items are taken, in the thread of the caller, only as fast as they are worked on, so that never
    many of them are in memory. It helps where the function is of numpy and waits for no lock.
    """
    n = min(_MOST, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(n, thread_name_prefix="core") as pool:
        waiting: deque[Future[_Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > n:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
