"""Where events go: JSON lines on standard output, an MQTT topic, a webhook, Home Assistant.

Each sink has one thread and a bounded queue. A receiver that is slow or gone never holds up the
stream: the oldest waiting events are dropped and counted.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from edgecl.errors import UsageError
from edgecl.types import Frame

from .broker import SCHEMES, check_paho, parse_broker
from .discovery import SCHEMES as HOME_ASSISTANT
from .discovery import About, Facts
from .frigate import Frigate
from .homeassistant import open_homeassistant
from .senders import SYNTAX, Lost, Sender, StandardOutput, SubLabels, Topic, Webhook
from .sources.base import Source
from .sources.messages import LabelFeed

_log = logging.getLogger(__name__)

MAX_WAITING = 256
_N_TRIES = 4
_FIRST_WAIT_S = 0.25
_CLOSE_S = 3.0


class Sink(Protocol):
    """Takes events while a stream runs."""

    name: str
    """What it is called in messages, without secrets."""
    n_sent: int
    n_dropped: int
    address: str | None
    """Where a receiver keeps what it was told, without secrets; None if none is known to."""
    feed: LabelFeed | None
    """Labels and commands that come back from there."""

    def show(self, frame: Frame) -> None:
        """Hand over the picture that the next event comes with."""
        ...

    def follow(self, facts: Facts) -> None:
        """Hand over how it stands with the device, a few times a second; never waits."""
        ...

    def emit(self, event: dict[str, Any]) -> None:
        """Hand over one event of JSON values; never waits, never raises for its receiver."""
        ...

    def close(self) -> None:
        """Send what waits, for a few seconds at most, and end; safe to call twice."""
        ...


FORMATS = ("json", "frigate")


def open_sink(
    spec: str,
    about: About | None = None,
    headers: Mapping[str, str] | None = None,
    format: str = "json",
) -> Sink:
    """Open a sink of events.

    Args:
        headers: Sent with every event to a webhook, as `read_headers` returns them.
        spec: `-`, `mqtt://[user:password@]host[:port]/topic` (or `mqtts`), `http://...` or
            `https://...`. A webhook gets each event as the JSON body of a POST; redirects are not
            followed. An account in the address is sent as basic authentication. Or
            `homeassistant://[user:password@]host[:port]/NAME` (`homeassistants` for TLS).
        about: What the device is, for who shows it.
        format: `json`, or `frigate`: of a topic, the bare name of a known class when it changes,
            as Frigate publishes `frigate/CAMERA/classification/MODEL`.

    Raises:
        UsageError: None of these, or headers for what takes none.
        MissingPackageError: A topic, and paho-mqtt is not installed.
    """
    is_hook = spec.startswith(("http://", "https://"))
    if headers and not is_hook:
        raise UsageError("headers of events belong to a webhook, http:// or https://")
    if format not in FORMATS or (format == "frigate" and not spec.startswith(SCHEMES)):
        raise UsageError(
            f"the format of events is one of {', '.join(FORMATS)}, and frigate is for mqtt://; "
            f"{format!r} was given"
        )
    if spec == "-":
        return QueueSink("standard output", StandardOutput)
    if spec.startswith(SCHEMES):
        check_paho()
        broker = parse_broker(spec, may_match=False)
        as_text = _as_json if format == "json" else _NameOnChange()
        return QueueSink(broker.name, lambda stop: Topic(broker), as_text)
    if spec.lower().startswith(HOME_ASSISTANT):
        check_paho()
        return open_homeassistant(spec, about)
    if is_hook:
        hook = Webhook(spec, headers or {})
        return QueueSink(hook.name, lambda stop: hook)
    # The text may hold a password in a form that is not known here, so it is not repeated.
    raise UsageError(f"this is no place for events; expected {SYNTAX}")


def open_sinks(
    spec: str | None,
    sources: Iterable[Source],
    about: About | None = None,
    headers: Mapping[str, str] | None = None,
    format: str = "json",
) -> Sink | None:
    """Open all that hear of a run: what `--events` names, and sources that are answered.

    Args:
        spec: As for `open_sink`, or None.
        sources: Of the frames; into a Frigate the class of each of its events is written.
        about: As for `open_sink`.
        headers: As for `open_sink`.
        format: As for `open_sink`.

    Returns:
        One sink for all, or None where nobody hears.
    """
    if spec is None and format != "json":
        raise UsageError("--event-format says how --events mqtt://host/topic is told; name one")
    sinks = [] if spec is None else [open_sink(spec, about, headers, format)]
    # Two cameras may be of one Frigate.
    found = {(f.host, f.port): f for source in sources for f in source.answers}
    sinks += [_answers(frigate) for frigate in found.values()]
    if len(sinks) < 2:
        return sinks[0] if sinks else None
    return _Joined(sinks)


def _answers(frigate: Frigate) -> Sink:
    return QueueSink(frigate.name, lambda stop: SubLabels(frigate))


class _Joined:
    """Several sinks, told one after the other."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks
        self.n_sent = self.n_dropped = 0  # until it is closed
        self.name = ", ".join(sink.name for sink in sinks)
        self.address = next((s.address for s in sinks if s.address is not None), None)
        self.feed = next((s.feed for s in sinks if s.feed is not None), None)

    def show(self, frame: Frame) -> None:
        for sink in self._sinks:
            sink.show(frame)

    def follow(self, facts: Facts) -> None:
        for sink in self._sinks:
            sink.follow(facts)

    def emit(self, event: dict[str, Any]) -> None:
        for sink in self._sinks:
            sink.emit(event)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()
        self.n_sent = sum(sink.n_sent for sink in self._sinks)
        self.n_dropped = sum(sink.n_dropped for sink in self._sinks)


def _as_json(event: dict[str, Any]) -> str | None:
    return json.dumps(event, ensure_ascii=True, separators=(",", ":"))


class _NameOnChange:
    """The name of a known class, if it is another than the last one."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, event: dict[str, Any]) -> str | None:
        name = event["label"]
        if event.get("state", "known") != "known" or name == self._last:
            return None
        self._last = name
        return str(name)


class QueueSink:
    """Sends events in a thread of its own, each a few times with growing waits between.

    Args:
        name: What it is called in messages.
        make: Makes what sends, in the thread; gets the event that is set when the sink must end.
            Its `send` raises `Lost`.
        as_text: Writes an event; None for one that is not told.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[threading.Event], Sender],
        as_text: Callable[[dict[str, Any]], str | None] = _as_json,
    ) -> None:
        self.name = name
        self.n_sent = 0
        self.n_dropped = 0
        self.address: str | None = None
        self.feed: LabelFeed | None = None
        self._waiting: deque[str] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._is_told = False
        self._stop = threading.Event()
        self._make, self._as_text = make, as_text
        self._thread = threading.Thread(target=self._run, name="sink", daemon=True)
        self._thread.start()

    def show(self, frame: Frame) -> None:
        """Take no picture."""

    def follow(self, facts: Facts) -> None:
        """Take nothing but events."""

    def emit(self, event: dict[str, Any]) -> None:
        """Queue one event; the oldest is dropped when 256 wait."""
        text = self._as_text(event)
        with self._changed:
            if self._is_closing or text is None:
                return
            if len(self._waiting) >= MAX_WAITING:
                self._waiting.popleft()
                self._dropped(f"more than {MAX_WAITING} wait")
            self._waiting.append(text)
            self._changed.notify()

    def close(self) -> None:
        """Send what waits, for three seconds at most, and end the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(_CLOSE_S)
        self._stop.set()
        self._thread.join(_CLOSE_S)
        with self._changed:
            self.n_dropped += len(self._waiting)
            self._waiting.clear()

    def _run(self) -> None:
        sender = self._make(self._stop)
        try:
            while (text := self._next()) is not None:
                self._deliver(sender, text)
        finally:
            sender.close()

    def _next(self) -> str | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            if not self._waiting or self._stop.is_set():
                return None
            return self._waiting.popleft()

    def _deliver(self, sender: Sender, text: str) -> None:
        reason = ""
        for i in range(_N_TRIES):
            try:
                sender.send(text)
            except Lost as error:
                reason = str(error)
                if error.is_final:
                    break
            except Exception as error:  # a fault of ours: this event is lost, not those behind it
                reason = f"it cannot be sent ({type(error).__name__})"
                break
            else:
                self.n_sent += 1
                return
            wait = _FIRST_WAIT_S * 2**i * random.uniform(0.5, 1)
            if i == _N_TRIES - 1 or self._stop.wait(wait):
                break
        with self._changed:
            self._dropped(reason)

    def _dropped(self, reason: str) -> None:
        self.n_dropped += 1
        if not self._is_told:
            self._is_told = True
            _log.warning("events for %s are dropped: %s", self.name, reason)
