"""Labels that a page gives: held as long as a button is, and no longer than its page lives."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from edgecl.runtime.sources.messages import Command, LabelWindow
from edgecl.types import clean_label

# A hold that its page does not renew is over after this: the phone may have gone to sleep.
HOLD_S = 2.0
_SHORTEST_S = 1e-3


class Teacher:
    """A feed of labels (`LabelFeed`) whose messages come from a page."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: list[LabelWindow | Command] = []
        self._label: str | None = None
        self._source: str | None = None
        self._until = 0.0

    def hold(self, label: str, *, source: str | None = None) -> str:
        """Let frames show a class from now on, for two seconds or until `release`.

        To be said again every second while the button is held.

        Args:
            label: The class.
            source: The one of several sources whose frames are meant; None means all.

        Returns:
            The name as it is learned.

        Raises:
            UsageError: It cannot be a name.
        """
        name = clean_label(label)
        with self._lock:
            self._end_late()
            if (name, source) != (self._label, self._source):
                self._end()
                self._messages.append(LabelWindow(name, time.time(), source=source))
            self._label, self._source = name, source
            self._until = time.monotonic() + HOLD_S
        return name

    def release(self) -> None:
        """Let frames show nothing that is known."""
        with self._lock:
            self._end()

    def undo(self, n: int) -> None:
        """Take back the newest n samples of this run."""
        with self._lock:
            self._messages.append(Command("undo", n))

    @property
    def label(self) -> str | None:
        """What is held now."""
        with self._lock:
            self._end_late()
            return self._label

    def poll(self) -> list[LabelWindow | Command]:
        """Return what came since the last call, in order."""
        with self._lock:
            self._end_late()
            came, self._messages = self._messages, []
        return came

    def news(self) -> list[str]:
        """Return nothing: what cannot be used is refused at once."""
        return []

    def close(self) -> None:
        """Have nothing to end."""

    def _end_late(self) -> None:
        """End a hold that was not renewed, as of then: the stream may have been busy since."""
        late = time.monotonic() - self._until
        if late > 0:
            self._end(late)

    def _end(self, ago_s: float = 0.0) -> None:
        if self._label is not None:
            end, last = time.time() - ago_s, self._messages[-1:]
            if last and isinstance(last[0], LabelWindow) and last[0].label is not None:
                # Nobody heard of it yet: frames that came since are not named late.
                end = max(end, last[0].begin + _SHORTEST_S)
                self._messages[-1] = replace(last[0], end=end)
            self._messages.append(LabelWindow(None, end, source=self._source))
        self._label = self._source = None
