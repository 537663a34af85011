"""Several live sources as one: the newest frame of each waits, and they come in turn.

Each address is read by a thread of its own through the source that it would be alone, so what is
lost is connected again as ever, and one that cannot be opened or ends does not end the others. Two
parts of one camera are two sources over one connection and one decoder.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import cached_property

from edgecl.errors import EdgeclError, SourceError, UsageError
from edgecl.types import Frame, Skipped

from ..frigate import Frigate
from ..options import Part
from ..redact import redacted
from .base import Source
from .connection import Counters, Counts, Refused
from .labels import JoinedFeeds, open_labels
from .live import REFUSED_WAIT_S, LiveBase, LiveSource
from .messages import Command, LabelFeed, LabelWindow
from .viewed import View

FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 60.0
_JOIN_S = 1.0
_COUNTS = tuple(f.name for f in fields(Counts))


class Several(LiveBase):
    """Live sources that are read together.

    Args:
        parts: The sources, at least one.
        open_one: Opens a source by its address.
        notes: What a person should know beside what the sources say.

    Raises:
        UsageError: An address that cannot be meant, or one of a source that is not live.
        SourceError: None of them can be opened now.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        open_one: Callable[[str], Source],
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(", ".join(part.name for part in parts))
        self.parts: Mapping[str, Part] = {part.name: part for part in parts}
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._slots = [_Slot(part) for part in parts]
        self._turn, self._every_s, self._notes = 0, 0.0, notes
        by_url: dict[str, list[_Slot]] = {}
        for slot in self._slots:
            by_url.setdefault(slot.part.url, []).append(slot)
        self._peers = [_Peer(self, url, slots, open_one) for url, slots in by_url.items()]
        if all(peer.source is None for peer in self._peers):
            raise SourceError("; ".join(f"{peer.names}: {peer.error}" for peer in self._peers))

    @property
    def notes(self) -> list[str]:  # type: ignore[override]
        """What a person should know: sources that cannot be opened yet."""
        told = [f"{p.names}: {p.error}; it is tried again" for p in self._peers if p.error]
        for peer in self._peers:
            if peer.source is not None:
                told += [f"{peer.names}: {note}" for note in peer.source.notes]
        return [*self._notes, *told]

    @cached_property
    def feed(self) -> LabelFeed | None:  # type: ignore[override]
        """Labels of single sources; opened when somebody asks for it, and closed by them."""
        feeds = [
            _Sourced(peer.source.feed, [slot.part.name for slot in peer.slots])
            for peer in self._peers
            if peer.source is not None and peer.source.feed is not None
        ]
        for slot in self._slots:
            if slot.part.labels is not None:
                feeds.append(_Sourced(open_labels(slot.part.labels), [slot.part.name]))
        return JoinedFeeds(feeds) if feeds else None

    @property
    def counts(self) -> Counts:  # type: ignore[override]
        """What became of the frames of all, those of one camera with two parts counted once."""
        return _sum([*(p.counts() for p in self._peers), *(s.counters.read() for s in self._slots)])

    @property
    def by_source(self) -> dict[str, dict[str, int]]:  # type: ignore[override]
        """What became of the frames of each, and how many were taken (`seen`)."""
        return {
            slot.part.name: {
                "seen": slot.n_taken,
                **asdict(_sum([peer.counts(), slot.counters.read()])),
            }
            for peer in self._peers
            for slot in peer.slots
        }

    @property
    def lost(self) -> frozenset[str]:  # type: ignore[override]
        """Names of those whose peer is away, or was never there."""
        away = [p for p in self._peers if p.error or (p.source is not None and p.source.lost)]
        return frozenset(slot.part.name for peer in away for slot in peer.slots)

    @property
    def answers(self) -> list[Frigate]:  # type: ignore[override]
        """Where what is seen is written back, of all."""
        return [to for p in self._peers if p.source is not None for to in p.source.answers]

    def take_every(self, seconds: float) -> None:
        """Take a frame of each only every so many seconds; the others are dropped and counted."""
        self._every_s = seconds

    def frames(self, start: int = 0) -> Iterator[Frame | Skipped]:
        """Yield the frames that come from now on, of each source in turn.

        Args:
            start: Not used, a live source has no positions.
        """
        closed = self._closed = threading.Event()
        for peer in self._peers:
            peer.begin(closed)
        try:
            while (taken := self._take(closed)) is not None:
                slot, item = taken
                seen = slot.view.of(item, slot.counters)
                if seen is None:
                    continue
                slot.n_taken += 1
                slot.due = time.monotonic() + self._every_s
                if slot.part.label is not None and isinstance(seen, Frame):
                    seen = replace(seen, label=slot.part.label)
                yield seen
        finally:
            self._end(closed)

    def close(self) -> None:
        """End all of them; `frames` ends."""
        self._end(self._closed)

    def _end(self, closed: threading.Event) -> None:
        with self._changed:
            closed.set()
            for slot in self._slots:
                slot.newest = None
            self._changed.notify_all()
        for peer in self._peers:
            peer.close()

    def _take(self, closed: threading.Event) -> tuple[_Slot, Frame | Skipped] | None:
        """Wait for a frame of the source whose turn it is; None when all are over."""
        n = len(self._slots)
        with self._changed:
            while not closed.is_set():
                waiting = [s for s in self._slots if s.newest is not None]
                now = time.monotonic()
                for i in range(n):
                    slot = self._slots[(self._turn + i) % n]
                    if slot.newest is not None and slot.due <= now:
                        self._turn = (self._turn + i + 1) % n
                        item, slot.newest = slot.newest, None
                        self._changed.notify_all()  # a queue may go on
                        return slot, item
                if not waiting and all(peer.is_over for peer in self._peers):
                    return None
                self._changed.wait(min((s.due for s in waiting), default=now + 3600) - now)
        return None

    def _put(self, slots: Sequence[_Slot], item: Frame | Skipped, *, waits: bool) -> None:
        """Let a frame wait in its places; those of a queue until they are free."""
        with self._changed:
            for slot in slots:
                if waits:
                    self._changed.wait_for(lambda s=slot: self._closed.is_set() or not s.newest)  # type: ignore[misc]
                if self._closed.is_set():
                    return
                if slot.newest is not None:
                    slot.counters.add("dropped")
                slot.newest = item
            self._changed.notify_all()

    def _news(self, line: str) -> None:
        if self.on_news is not None:
            self.on_news(line)


class _Slot:
    """The place of the newest frame of one source."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.view = View(part.name, part.options)
        self.counters = Counters()
        self.newest: Frame | Skipped | None = None
        self.due = 0.0
        self.n_taken = 0


class _Peer:
    """One address, the source that reads it, and the thread that waits for its frames."""

    def __init__(
        self, owner: Several, url: str, slots: Sequence[_Slot], open_one: Callable[[str], Source]
    ) -> None:
        self.slots, self.is_over, self.error = slots, False, ""
        self.names = ", ".join(slot.part.name for slot in slots)
        self._owner, self._url, self._open_one = owner, url, open_one
        self._before = Counts()
        self._thread: threading.Thread | None = None
        self.source: Source | None = None
        try:
            self._open()
        except UsageError as error:
            raise UsageError(f"source {self.names}: {redacted(str(error))}") from error
        except EdgeclError as error:
            self.error = redacted(str(error))

    def counts(self) -> Counts:
        """Return what became of its frames, over all times that it was opened."""
        return self._before if self.source is None else _sum([self._before, self.source.counts])

    def begin(self, closed: threading.Event) -> None:
        """Read it from now on."""
        self.is_over = False
        self._thread = threading.Thread(target=self._run, args=(closed,), name="peer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End its thread."""
        if self.source is not None:
            self.source.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)

    def _open(self) -> None:
        source = self._open_one(self._url)
        if not isinstance(source, LiveBase):
            raise UsageError(
                f"{source.name} is not live; several sources are cameras, streams and topics: "
                "learn files by a `train-stream` of their own"
            )
        if self.source is not None:
            self._before = _sum([self._before, self.source.counts])
        source.on_news = lambda line: self._tell(line.removeprefix(f"{source.name}: "))
        self.source, self.error = source, ""

    def _tell(self, text: str) -> None:
        self._owner._news(f"{self.names}: {text}")

    def _run(self, closed: threading.Event) -> None:
        """Read it until it ends for good; what cannot be read is tried again."""
        wait = FIRST_WAIT_S
        try:
            while not closed.is_set():
                try:
                    if self.source is None or self.error:
                        self._open()
                    self._read(closed)
                    return
                except Exception as error:  # also what a driver raises: the others go on
                    text = redacted(str(error))
                    is_told = isinstance(error, EdgeclError)
                    self.error = text if is_told else f"{type(error).__name__}: {text}"
                    seconds = REFUSED_WAIT_S if isinstance(error, Refused) else wait
                    self._tell(f"{self.error}; trying again in {seconds:.0f} s")
                    wait = min(2 * wait, LONGEST_WAIT_S)
                    closed.wait(seconds)
        finally:
            with self._owner._changed:
                self.is_over = True
                self._owner._changed.notify_all()

    def _read(self, closed: threading.Event) -> None:
        source = self.source
        assert source is not None  # it was opened
        with self._owner._changed:
            if closed.is_set():
                return
            frames = source.frames()  # `close` ends it from here on
        for frame in frames:
            if closed.is_set():
                return
            self._owner._put(self.slots, frame, waits=not isinstance(source, LiveSource))


class _Sourced:
    """A feed whose labels hold for some sources only."""

    def __init__(self, feed: LabelFeed, names: Sequence[str]) -> None:
        self._feed, self._names = feed, names
        self.news, self.close = feed.news, feed.close

    def poll(self) -> list[LabelWindow | Command]:
        """Return what came since the last call, a window for each of the sources."""
        return [
            item
            for message in self._feed.poll()
            for item in (
                [message]
                if isinstance(message, Command)
                else [replace(message, source=name) for name in self._names]
            )
        ]


def _sum(all_counts: Sequence[Counts]) -> Counts:
    # Told with every commit, so not by `asdict`, which copies deeply.
    return Counts(**{name: sum(getattr(c, name) for c in all_counts) for name in _COUNTS})
