"""CUDA graphs: all kernels of an engine, recorded once and queued by one call from then on.

A graph holds the shapes and addresses with which it was recorded, and the context that was recorded
must not be changed while it is used. So there is one graph, of the state that is in use, and it is
dropped before the context is told another one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from edgecl.errors import ProviderError

from .base import Runs
from .cuda import Memory

FIRST = "first of its batch size and adapter"


class Graphs:
    """Replays what an execution context does again and again.

    The first run in a state is done as it is, which a library needs before it can be recorded; the
    second in a row is recorded. Two adapters that take turns are therefore never recorded.

    Args:
        memory: Records what is queued on its stream.
        runs: What became of every run is counted here.
        refused: Why nothing is to be recorded; empty if it may be.
    """

    def __init__(self, memory: Memory, runs: Runs, *, refused: str = "") -> None:
        self._memory, self._runs, self._refused = memory, runs, refused
        self._state: Hashable = None
        self._replay: Callable[[], None] | None = None

    def run(self, state: Hashable, set_up: Callable[[], None], work: Callable[[], bool]) -> bool:
        """Queue some work.

        Args:
            state: Shapes and addresses.
            set_up: Tells the context this state; called when it is another than before.
            work: Queues the kernels; False if it failed.

        Returns:
            Whether it is queued.
        """
        if state != self._state:
            self._state = self._replay = None
            set_up()
            is_done = work()
            self._state = state if is_done else None
            self._runs.plain[FIRST] += is_done
            return is_done
        if not self._refused:
            try:
                self._replayed(work)
                return True
            except ProviderError as error:  # never tried again: it would fail at every run
                self._refused, self._replay = str(error), None
        self._runs.plain[self._refused] += 1
        return work()

    def _replayed(self, work: Callable[[], bool]) -> None:
        if self._replay is None:
            self._replay = self._memory.record(work)
            self._runs.recorded += 1
        self._replay()
        self._runs.replayed += 1
