"""What the page and the socket have of a running stream; nothing here writes by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgecl.device import Device
from edgecl.errors import EdgeclError
from edgecl.serve.browser import BrowserSource, new_id
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
        browser: Pictures that the page sends.
        sources: Names of the sources.
        started: When it began, seconds since the epoch.
        meant: Names that somebody gave to new classes on the page; without those that were
            unlearned since.
    """

    device: Device
    queue: CommandQueue
    live: Live
    teacher: Teacher
    browser: BrowserSource = field(default_factory=BrowserSource)
    sources: tuple[str, ...] = ()
    started: float = field(default_factory=time.time)
    meant: set[str] = field(default_factory=set)

    def do(self, name: str, work: Callable[[Device], T]) -> Future[T]:
        """Let something be done to the home between two commits; see `CommandQueue.submit`."""
        return self.queue.submit(name, lambda: work(self.device))

    def take_back(self, uids: Sequence[int]) -> int:
        """Take samples back, by uid; inside `do`. Returns how many."""
        return self.device.unteach(uids)

    def see(self, encoded: bytes, label: str | None = None) -> Future[dict[str, Any]]:
        """Let the stream see a picture file, and learn it if it has a label.

        Returns:
            What is said of it (`Sight.as_json`). It never comes of what is no picture: check that
            before, and do not wait for long.

        Raises:
            HomeLockedError: Too many wait already.
        """
        frame_id = new_id()
        answer = self.live.answer_to(frame_id)  # before the stream can have seen it
        try:
            self.browser.put(
                encoded, label, frame_id=frame_id, is_wanted=lambda: not answer.cancelled()
            )
        except EdgeclError:
            answer.cancel()
            raise
        return answer
