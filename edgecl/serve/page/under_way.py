"""Commands that take long: answered at once with a number, told by news until they end."""

from __future__ import annotations

import time
from collections import OrderedDict
from itertools import count
from typing import Any

from edgecl.serve.live import Live

_MOST_KEPT = 32
_TELL_S = 0.2


class Job:
    """One command that takes long; its news hold no name, since they are kept.

    Args:
        number: Its number.
        what: What it is called.
        live: Who is told.
    """

    def __init__(self, number: int, what: str, live: Live) -> None:
        self._live, self._told = live, 0.0
        self.news: dict[str, Any] = {
            "request": number, "what": what, "state": "waiting", "phase": "", "done": 0, "of": 0,
            "receipt": None, "error": None,
        }  # fmt: skip

    def say(self, phase: str, done: int, of: int) -> None:
        """Tell how far it is; often enough to see it move, and no more."""
        is_new = phase != self.news["phase"]
        self.news |= {"state": "running", "phase": phase, "done": done, "of": of}
        if is_new or done == of or time.monotonic() - self._told > _TELL_S:
            self._told = time.monotonic()
            self._live.tell("command", dict(self.news))

    def end(self, **news: Any) -> None:
        """Tell how it ended."""
        self.news |= news
        self._live.tell("command", dict(self.news))


class Jobs:
    """The newest commands that take long."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._numbers = count(1)
        self._jobs: OrderedDict[int, Job] = OrderedDict()

    def add(self, what: str) -> Job:
        """Begin one."""
        job = Job(next(self._numbers), what, self._live)
        self._jobs[job.news["request"]] = job
        while len(self._jobs) > _MOST_KEPT:
            self._jobs.popitem(last=False)
        return job

    def find(self, number: int) -> Job | None:
        """Return one by its number, unless it is long past."""
        return self._jobs.get(number)
