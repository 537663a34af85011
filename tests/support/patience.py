"""Waiting for something in tests: for what is to come, never for a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

PATIENCE_S = 90.0
"""As long as a machine may take that does much else; where all is well nothing waits for it."""


def until(is_so: Callable[[], object], seconds: float = PATIENCE_S) -> bool:
    """Wait for something; returns whether it came."""
    end = time.monotonic() + seconds
    while not (found := bool(is_so())) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def no_thread_is_left(*names: str) -> bool:
    """Whether no thread of these names runs, or soon none does; another test's may be ending."""
    return until(lambda: not [t for t in threading.enumerate() if t.name in names])
