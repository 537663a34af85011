"""What the page and the socket have of a running stream; nothing here writes by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from edgecl.device import Device
from edgecl.serve.live import Live
from edgecl.serve.teacher import Teacher
from edgecl.stream.queue import CommandQueue

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Serving:
    """A home that is served.

    Args:
        device: The home. Its calls that read open their own connection, in any thread; those that
            write are made inside `do` only.
        queue: Commands for the thread that writes.
        live: What is seen now.
        teacher: Says what frames show.
        take_back: Takes back samples that this run learned, by uid; inside `do`. Returns how many.
        sources: Names of the sources.
        started: When it began, seconds since the epoch.
    """

    device: Device
    queue: CommandQueue
    live: Live
    teacher: Teacher
    take_back: Callable[[Sequence[int]], int]
    sources: tuple[str, ...] = ()
    started: float = field(default_factory=time.time)

    def do(self, name: str, work: Callable[[Device], T]) -> Future[T]:
        """Let something be done to the home between two commits; see `CommandQueue.submit`."""
        return self.queue.submit(name, lambda: work(self.device))
