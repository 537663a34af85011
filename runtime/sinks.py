"""Where events go: JSON lines on standard output, an MQTT topic, a webhook, Home Assistant.

Each sink has one thread and a bounded queue. A receiver that is slow or gone never holds up the
stream: the oldest waiting events are dropped and counted.
"""

from __future__ import annotations

import base64
import http.client
import json
import logging
import os
import random
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import unquote

from edgecl.errors import SourceError, UsageError
from edgecl.types import Frame

from .address import ESCAPES, split_url
from .broker import SCHEMES, Broker, Connection, Refused, check_paho, parse_broker
from .discovery import SCHEMES as HOME_ASSISTANT
from .discovery import About, Facts
from .homeassistant import open_homeassistant
from .sources.messages import LabelFeed

_log = logging.getLogger(__name__)

MAX_WAITING = 256
_N_TRIES = 4
_FIRST_WAIT_S = 0.25
_REFUSED_WAIT_S = 120.0
_TIMEOUT_S = 3.0
_CLOSE_S = 3.0
# A pipe that is ready takes this much at once (PIPE_BUF on Linux, pipe(7)).
_PIPE_BYTES = 4_096
_MAX_ANSWER_BYTES = 65_536
SYNTAX = (
    "- for JSON lines on standard output, mqtt://host/topic, http://... for a webhook, or "
    "homeassistant://host/name"
)


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


def open_sink(spec: str, about: About | None = None) -> Sink:
    """Open a sink of events.

    Args:
        spec: `-`, `mqtt://[user:password@]host[:port]/topic` (or `mqtts`), `http://...` or
            `https://...`. A webhook gets each event as the JSON body of a POST; redirects are not
            followed. An account in the address is sent as basic authentication. Or
            `homeassistant://[user:password@]host[:port]/NAME` (`homeassistants` for TLS).
        about: What the device is, for who shows it.

    Raises:
        UsageError: None of these.
        MissingPackageError: A topic, and paho-mqtt is not installed.
    """
    if spec == "-":
        return QueueSink("standard output", _StandardOutput)
    if spec.startswith(SCHEMES):
        check_paho()
        broker = parse_broker(spec, may_match=False)
        return QueueSink(broker.name, lambda stop: _Topic(broker))
    if spec.lower().startswith(HOME_ASSISTANT):
        check_paho()
        return open_homeassistant(spec, about)
    if spec.startswith(("http://", "https://")):
        hook = _Webhook(spec)
        return QueueSink(hook.name, lambda stop: hook)
    # The text may hold a password in a form that is not known here, so it is not repeated.
    raise UsageError(f"this is no place for events; expected {SYNTAX}")


class Lost(Exception):
    """An event that its receiver did not take; `is_final` if trying again cannot help."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


class _Sender(Protocol):
    def send(self, text: str) -> None: ...

    def close(self) -> None: ...


class QueueSink:
    """Sends events in a thread of its own, each a few times with growing waits between.

    Args:
        name: What it is called in messages.
        make: Makes what sends, in the thread; gets the event that is set when the sink must end.
            Its `send` raises `Lost`.
    """

    def __init__(self, name: str, make: Callable[[threading.Event], _Sender]) -> None:
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
        self._make = make
        self._thread = threading.Thread(target=self._run, name="sink", daemon=True)
        self._thread.start()

    def show(self, frame: Frame) -> None:
        """Take no picture."""

    def follow(self, facts: Facts) -> None:
        """Take nothing but events."""

    def emit(self, event: dict[str, Any]) -> None:
        """Queue one event; the oldest is dropped when 256 wait."""
        text = json.dumps(event, ensure_ascii=True, separators=(",", ":"))
        with self._changed:
            if self._is_closing:
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

    def _deliver(self, sender: _Sender, text: str) -> None:
        reason = ""
        for i in range(_N_TRIES):
            try:
                sender.send(text)
            except Lost as error:
                reason = str(error)
                if error.is_final:
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


class _StandardOutput:
    """Writes lines so that a reader who does not read cannot keep the process from ending."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def send(self, text: str) -> None:
        try:
            sys.stdout.flush()
            try:
                fd = sys.stdout.fileno()
            except (OSError, ValueError):  # not a file: a notebook, a test
                print(text, flush=True)
                return
            data = f"{text}\n".encode()
            while data:
                if select.select([], [fd], [], 0.2)[1]:
                    data = data[os.write(fd, data[:_PIPE_BYTES]) :]
                elif self._stop.is_set():
                    raise Lost("nobody reads it", is_final=True)
        except (OSError, ValueError) as error:
            raise Lost(f"it cannot be written ({error})", is_final=True) from error

    def close(self) -> None:
        pass


class _Topic:
    """Publishes with QoS 1, over a connection that is made anew when it broke."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._connection: Connection | None = None
        self._refused = ""
        self._refused_at = 0.0

    def send(self, text: str) -> None:
        # Every event that is refused is a wrong login, and too many lock an account.
        if self._refused and time.monotonic() - self._refused_at < _REFUSED_WAIT_S:
            raise Lost(self._refused, is_final=True)
        try:
            if self._connection is None:
                self._connection = Connection(self._broker)
            self._connection.publish(text.encode())
        except Refused as error:
            self.close()
            self._refused, self._refused_at = str(error), time.monotonic()
            raise Lost(self._refused, is_final=True) from error
        except ConnectionError as error:
            self.close()
            raise Lost(str(error)) from error
        self._refused = ""

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Webhook:
    """Posts JSON, one connection an event."""

    def __init__(self, url: str) -> None:
        scheme = url.partition("://")[0]
        try:
            parts = split_url(url)
        except SourceError:
            parts = None
        if parts is None or not url.isascii() or not url.isprintable():
            raise UsageError(
                f"this {scheme}:// address cannot be used; expected {SYNTAX}, and in a user or "
                f"password {ESCAPES}"
            )
        name = parts.hostname or ""
        host = f"[{name}]" if ":" in name else name
        # Path and query often hold the secret of a webhook.
        self.name = f"{scheme}://{host}" + (f":{parts.port}" if parts.port else "")
        self._is_encrypted = scheme == "https"
        self._host, self._port = name, parts.port
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Content-Type": "application/json", "User-Agent": "edgecl"}
        if parts.username is not None:
            account = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            token = base64.b64encode(account.encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"

    def send(self, text: str) -> None:
        kind = http.client.HTTPSConnection if self._is_encrypted else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            connection.request("POST", self._path, text.encode(), self._headers)
            answer = connection.getresponse()
            answer.read(_MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # Not the error's text: some repeat the address.
            raise Lost(f"it is not reached ({type(error).__name__})") from error
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            # What the receiver refuses it refuses again, save when it is busy (RFC 9110, 15.5.9).
            is_final = answer.status < 500 and answer.status not in (408, 425, 429)
            raise Lost(f"it answers {answer.status}", is_final=is_final)

    def close(self) -> None:
        pass
