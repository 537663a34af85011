"""Who says what a live frame shows: a person at the keys, a feed of labels, or the source itself.

A key counts most, then the newest window of the feed that holds the frame's time, then the label
that the frame came with. Pausing keeps all of them and learns nothing of what comes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

from edgecl.errors import UsageError
from edgecl.runtime.sources.messages import Command as Message
from edgecl.runtime.sources.messages import LabelFeed, LabelWindow
from edgecl.stream.commands import Command, NameRecent, Stop, Undo
from edgecl.stream.events import Event, Said
from edgecl.types import MAX_LABEL_LENGTH, Frame, clean_label

UNDO_N = 10
"""Samples that one press of `u` takes back; the next press goes further back."""

# A frame is on its way for less; after this a window that ended cannot hold a new frame.
_LATE_S = 60.0
_MOST_WINDOWS = 1000
_ESCAPE, _DELETE = "\x1b", ("\x7f", "\b")


# Characters of a class name in the line of keys.
_LONGEST_SHOWN = 20


class Labeller:
    """Turns keys and messages into labels and commands.

    Args:
        classes: Gives the names of the classes in the order of the keys `1` to `9`.
        read_keys: Gives the keys pressed since its last call; None without a keyboard.
        feed: Where windows and commands come from; None without one.
        sources: Names of the sources that a window may be meant for.
    """

    def __init__(
        self,
        classes: Callable[[], Sequence[str]],
        *,
        read_keys: Callable[[], str] | None = None,
        feed: LabelFeed | None = None,
        sources: Collection[str] = (),
    ) -> None:
        self._sources = sources
        self.has_feed = feed is not None
        self.is_paused = False
        self._classes = classes
        self._read_keys = read_keys
        self._feed = feed
        self._label: str | None = None
        self._typed: str | None = None  # the name of a new class, as far as it is typed
        self._windows: list[LabelWindow] = []
        self._events: list[Event] = []

    def poll(self) -> list[Command]:
        """Take in what came since the last call; return what the stream has to do, in order.

        A window is returned too, since it may hold frames that came before it.
        """
        commands: list[Command] = []
        for key in self._read_keys() if self._read_keys is not None else "":
            commands += self._typing(key) if self._typed is not None else self._press(key)
        if self._feed is not None:
            for message in self._feed.poll():
                commands += self._hear(message)
            self._events += map(Said, self._feed.news())
        return commands

    def label_of(self, frame: Frame) -> str | None:
        """Return what a frame that came now shows, or None if nobody says."""
        return self._label_at(frame.time or time.time(), frame.label, frame.source)

    def teaching(self) -> str | None:
        """Return what is taught now, or None; what the frames say themselves is not known."""
        return self._label_at(time.time(), None)

    def _label_at(self, moment: float, own: str | None, source: str = "") -> str | None:
        if self.is_paused:
            return None
        if self._label is not None:
            return self._label
        for window in reversed(self._windows):
            if window.holds(moment) and (not source or window.source in (None, source)):
                return own if window.label is None else window.label
        return own

    def events(self) -> list[Event]:
        """Return what is to be told since the last call."""
        told, self._events = self._events, []
        return told

    @property
    def has_keyboard(self) -> bool:
        """Whether somebody sits in front of it."""
        return self._read_keys is not None

    def status(self, sight: str = "") -> str:
        """Return one line that shows the keys and what is learned now; empty without a keyboard.

        Args:
            sight: What the newest frame looks like.
        """
        if self._read_keys is None:
            return ""
        if self._typed is not None:
            return "   ".join(
                [
                    f"new class: {self._typed}_",
                    *([sight] if sight else []),
                    "(Enter takes it, Esc does not)",
                ]
            )
        names = [
            f"[{i} {_short(name)}]" if name == self._label else f"{i} {_short(name)}"
            for i, name in enumerate(self._classes()[:9], 1)
        ]
        if self._label is not None and self._label not in self._classes()[:9]:
            names.append(f"[{_short(self._label)}]")
        state = "PAUSED" if self.is_paused else "learning" if self._label else "watching"
        return "  ".join(
            [state, *([sight] if sight else []), *names, "n new  space pause  u undo  q quit"]
        )

    def _press(self, key: str) -> list[Command]:
        if key == "q":
            return [Stop()]
        if key == "u":
            return [Undo(UNDO_N)]
        if key == " ":
            self.is_paused = not self.is_paused
        elif key == "n":
            self._typed = ""
        elif key == "0":
            self._label = None
        elif key in set("123456789"):
            names = self._classes()
            if int(key) > len(names):
                self._events.append(
                    Said(f"key {key}: there are {len(names)} classes; n names a new one")
                )
                return []
            name = names[int(key) - 1]
            self._label = None if name == self._label else name
        return []

    def _typing(self, key: str) -> list[Command]:
        assert self._typed is not None
        if key in "\r\n":
            typed, self._typed = self._typed, None
            try:
                self._label = clean_label(typed)
            except UsageError as error:
                self._events.append(Said(f"not taken: {error}"))
        elif key == _ESCAPE:
            self._typed = None
        elif key in _DELETE:
            self._typed = self._typed[:-1]
        elif key.isprintable() and len(self._typed) < MAX_LABEL_LENGTH:
            self._typed += key
        return []

    def _hear(self, message: LabelWindow | Message) -> list[Command]:
        if isinstance(message, LabelWindow):
            if message.source not in (None, *self._sources):
                known = ", ".join(self._sources)
                self._events.append(
                    Said(f"a label is not used: no source is called {message.source!r}; {known}")
                )
                return []
            now = time.time()
            self._windows = [w for w in self._windows if w.end is None or now - w.end < _LATE_S]
            self._windows = [*self._windows[1 - _MOST_WINDOWS :], message]
            return [NameRecent(message)]
        if message.name == "undo":
            return [Undo(message.n)]
        self.is_paused = message.name == "pause"
        return []


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_SHOWN else f"{name[: _LONGEST_SHOWN - 1]}\u2026"
