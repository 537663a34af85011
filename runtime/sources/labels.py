"""Where labels and commands come from: lines of standard input, a file, a topic.

What a message says is in `messages.py`.
"""

from __future__ import annotations

import os
import queue
import random
import select
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgecl.errors import SourceError, UsageError

from ..broker import SCHEMES, Broker, Connection, Refused, check_paho, parse_broker
from ..faults import in_words
from ..redact import redacted
from .base import Source
from .live import FIRST_WAIT_S, LONGEST_WAIT_S, REFUSED_WAIT_S
from .messages import Command, LabelFeed, LabelWindow, parse_message

_MAX_MESSAGE_BYTES = 65_536
_MAX_WAITING = 1_000
_MAX_NEWS = 20
_POLL_S = 0.2
_JOIN_S = 2.0


def open_labels(spec: str, *, source: str = "") -> LabelFeed:
    """Open what `--labels` names.

    Args:
        spec: `-` for standard input, an MQTT topic, or a file of JSON lines, read as it grows.
        source: The source of frames as the user named it, which may not be standard input too.

    Raises:
        UsageError: Standard input is taken by the source, or an address that cannot be one.
        SourceError: The file cannot be read.
        MissingPackageError: A topic, and paho-mqtt is not installed.
    """
    if spec.startswith(SCHEMES):
        check_paho()
        return TopicLabels(parse_broker(spec))
    if spec == "-":
        if source == "-":
            raise UsageError(
                "--labels - and the source - both read standard input; name a file or a topic"
            )
        if sys.stdin is None:  # as a service may be started
            raise SourceError("--labels - has no standard input; name a file or a topic")
        return LineLabels(sys.stdin.fileno(), "standard input")
    try:
        # Not waiting: a named pipe has no writer yet.
        fd = os.open(Path(spec), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        why = in_words(error) if isinstance(error, OSError) else f"({error})"
        raise SourceError(
            f"labels {redacted(spec)!r} cannot be read {why}; "
            "expected -, mqtt://host/topic or a file of JSON lines"
        ) from error
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise SourceError(f"labels {spec} is a folder; expected -, a topic or a file of JSON lines")
    return LineLabels(fd, spec, is_ours=True)


def open_feed(spec: str | None, source: Source, other: LabelFeed | None = None) -> LabelFeed | None:
    """Open all labels that a stream gets: what `--labels` names, and what its own topic carries.

    Args:
        spec: As for `open_labels`, or None.
        source: The source of frames; one with a feed (an MQTT topic) gives that too.
        other: One more, as a sink of events has one.

    Returns:
        One feed for all, or None where nobody labels.

    Raises:
        EdgeclError: As `open_labels`.
    """
    feeds = [feed for feed in (source.feed, other) if feed is not None]
    if spec is not None:
        feeds.append(open_labels(spec, source=source.name))
    return feeds[0] if len(feeds) == 1 else JoinedFeeds(feeds) if feeds else None


class JoinedFeeds:
    """Several feeds, read one after the other."""

    def __init__(self, feeds: Sequence[LabelFeed]) -> None:
        self._feeds = feeds

    def poll(self) -> list[LabelWindow | Command]:
        """Return what came since the last call, feed by feed."""
        return [message for feed in self._feeds for message in feed.poll()]

    def news(self) -> list[str]:
        """Return what could not be used since the last call."""
        return [line for feed in self._feeds for line in feed.news()]

    def close(self) -> None:
        """End all of them."""
        for feed in self._feeds:
            feed.close()


class MessageQueue:
    """Messages between the thread that receives them and the stream; bounded on both sides."""

    def __init__(self) -> None:
        self._messages: queue.Queue[LabelWindow | Command] = queue.Queue(_MAX_WAITING)
        self._news: queue.Queue[str] = queue.Queue(_MAX_NEWS)
        self._n_more = self._n_told = 0
        self.closed = threading.Event()

    def poll(self) -> list[LabelWindow | Command]:
        """Return what came since the last call, in order; never waits."""
        return _drain(self._messages)

    def news(self) -> list[str]:
        """Return one line for each message since the last call that could not be used."""
        lines = _drain(self._news)
        n, self._n_told = self._n_more - self._n_told, self._n_more
        return [*lines, f"{n} more label messages could not be used"] if n else lines

    def close(self) -> None:
        """Take nothing more."""
        self.closed.set()

    def hear(self, topic: str, payload: bytes, is_retained: bool) -> None:
        """Take a message of a topic in; one that cannot be used is told."""
        try:
            if len(payload) > _MAX_MESSAGE_BYTES:
                raise UsageError(f"it is longer than {_MAX_MESSAGE_BYTES} bytes")
            message = parse_message(payload)
            # A retained one comes again with every connection: a label still holds, but what was
            # undone once must not be undone again.
            if not (is_retained and isinstance(message, Command)):
                self.offer(message)
        except UsageError as error:
            self.tell(f"a label message on {topic}: {error}")

    def offer(self, message: LabelWindow | Command, *, wait: bool = False) -> None:
        """Hand a message on; where nobody takes them, wait or drop it and say so."""
        while not self.closed.is_set():
            try:
                return self._messages.put(message, timeout=_POLL_S if wait else None, block=wait)
            except queue.Full:
                if not wait:
                    return self.tell("a label message was dropped: too many wait")

    def tell(self, line: str) -> None:
        """Note what could not be used; of more than a few lines only the number is told."""
        try:
            self._news.put_nowait(line)
        except queue.Full:
            self._n_more += 1


def _drain(waiting: queue.Queue[Any]) -> list[Any]:
    found = []
    while True:
        try:
            found.append(waiting.get_nowait())
        except queue.Empty:
            return found


class LineLabels(MessageQueue):
    """Messages from the lines of a file or pipe.

    Args:
        fd: Descriptor to read from.
        name: What it is called in messages.
        is_ours: Whether it is closed with the feed. Such a file is read on as it grows; any other
            descriptor ends where its writer ends.
    """

    def __init__(self, fd: int, name: str, *, is_ours: bool = False) -> None:
        super().__init__()
        self._fd = fd
        self._name = name
        self._is_ours = is_ours
        self._thread = threading.Thread(target=self._read, name="labels", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        super().close()
        self._thread.join(_JOIN_S)

    def _read(self) -> None:
        try:
            for number, line in enumerate(split_lines(self._chunks(), _MAX_MESSAGE_BYTES), start=1):
                if line is not None and not line.strip():
                    continue
                try:
                    if line is None:
                        raise UsageError(f"it is longer than {_MAX_MESSAGE_BYTES} bytes")
                    self.offer(parse_message(line), wait=True)
                except UsageError as error:
                    self.tell(f"line {number} of {self._name}: {error}")
        except OSError as error:
            self.tell(f"{self._name} cannot be read any more ({error.strerror})")
        finally:
            if self._is_ours:
                os.close(self._fd)

    def _chunks(self) -> Iterator[bytes]:
        # Not sys.stdin: a thread that waits in its lock could not be ended, nor the process.
        while not self.closed.is_set():
            if not select.select([self._fd], [], [], _POLL_S)[0]:
                continue
            chunk = os.read(self._fd, _MAX_MESSAGE_BYTES)
            if chunk:
                yield chunk
            elif self._is_ours:
                self.closed.wait(_POLL_S)
            else:
                return


def split_lines(chunks: Iterator[bytes], max_bytes: int) -> Iterator[bytes | None]:
    """Yield the lines of a stream of bytes; None for one of more than `max_bytes`, unread."""
    kept = b""
    is_long = False
    for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            line, kept = kept + part, b""
            yield None if is_long or len(line) > max_bytes else line
            is_long = False
        kept += rest
        if len(kept) > max_bytes:
            kept, is_long = b"", True
    if kept or is_long:
        yield None if is_long else kept


class TopicLabels(MessageQueue):
    """Messages from an MQTT topic; a broker that goes is waited for, one that refuses is an error.

    Args:
        broker: Where.
        first_wait_s: Longest wait before the first try to reach it again; it doubles.
        longest_wait_s: What it doubles up to.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        first_wait_s: float = FIRST_WAIT_S,
        longest_wait_s: float = LONGEST_WAIT_S,
    ) -> None:
        super().__init__()
        self._broker = broker
        self._waits = (first_wait_s, longest_wait_s)
        self._error: SourceError | None = None
        self._thread = threading.Thread(target=self._run, name="labels", daemon=True)
        self._thread.start()

    def poll(self) -> list[LabelWindow | Command]:
        """Return what came since the last call, in order; never waits.

        Raises:
            SourceError: The broker refused from the beginning.
        """
        if self._error is not None:
            raise self._error
        return super().poll()

    def close(self) -> None:
        """Leave the broker and end the thread."""
        super().close()
        self._thread.join(_JOIN_S)

    def _run(self) -> None:
        first_wait, longest_wait = self._waits
        n_failed, was_there = 0, False
        while not self.closed.is_set():
            try:
                connection = Connection(self._broker, self.hear)
            except Refused as error:
                if not was_there:
                    self._error = SourceError(f"labels: {error}")
                    return
                self.tell(f"labels: {error}; trying again in {REFUSED_WAIT_S / 60:.0f} min")
                self.closed.wait(REFUSED_WAIT_S)
                continue
            except ConnectionError as error:
                if n_failed == 0:
                    self.tell(f"labels: {error}; trying again")
                n_failed = min(n_failed + 1, 30)
            else:
                n_failed, was_there = 0, True
                while connection.is_alive and not self.closed.is_set():
                    connection.wait(_POLL_S)
                connection.close()
            self.closed.wait(random.uniform(0, min(longest_wait, first_wait * 2**n_failed)))
