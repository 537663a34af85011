"""Commands of other threads for the one that writes to a home: emptied between two commits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from edgecl.errors import HomeLockedError

MOST_WAITING = 64
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Work:
    """Something to do, and where its answer goes.

    Args:
        name: What it is called in logs.
        run: Does it, in the thread that writes.
        answer: Gets what it returns or raises.
    """

    name: str
    run: Callable[[], Any]
    answer: Future[Any]

    def do(self, within: AbstractContextManager[object] | None = None) -> None:
        """Do it, unless who asked has gone; nothing that it raises gets out of here.

        Args:
            within: Entered around it, and left before who asked hears of it.
        """
        if not self.answer.set_running_or_notify_cancel():
            return
        try:
            with within or nullcontext():
                found = self.run()
        except BaseException as error:  # also SystemExit: it ends the command, not the stream
            self.answer.set_exception(error)
        else:
            self.answer.set_result(found)


class CommandQueue:
    """Commands that wait for the thread that writes; any thread may put some in."""

    def __init__(self) -> None:
        self._waiting: deque[Work] = deque()
        self._lock = threading.Lock()
        self._is_closed = False

    def submit(self, name: str, run: Callable[[], T]) -> Future[T]:
        """Let something be done between two commits; never waits.

        Raises:
            HomeLockedError: Too many wait already, or the stream has ended.
        """
        answer: Future[T] = Future()
        with self._lock:
            if self._is_closed:
                raise HomeLockedError("the process that serves this home is ending; try again")
            if len(self._waiting) >= MOST_WAITING:
                raise HomeLockedError(
                    f"{MOST_WAITING} commands wait for this home already; try again later"
                )
            self._waiting.append(Work(name, run, answer))
        return answer

    def take(self) -> Work | None:
        """Return the command that came first, or None; called by the thread that writes."""
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def close(self) -> None:
        """Take no more; who still waits is told that the stream has ended."""
        with self._lock:
            self._is_closed = True
            left, self._waiting = list(self._waiting), deque()
        for work in left:
            if work.answer.set_running_or_notify_cancel():
                work.answer.set_exception(
                    HomeLockedError("the process that served this home has ended; try again")
                )
