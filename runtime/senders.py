"""How one event leaves: standard output, an MQTT topic, a webhook, a sub label of Frigate.

`sinks.py` calls them in a thread of its own, and again where that may help.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import sys
import threading
import time
from collections.abc import Mapping
from typing import Protocol

from edgecl.errors import SourceError, UsageError

from .address import ESCAPES, basic_login, split_url
from .broker import Broker, Connection, Refused
from .frigate import Frigate, fault_of

_REFUSED_WAIT_S = 120.0
_TIMEOUT_S = 3.0
# A pipe that is ready takes this much at once (PIPE_BUF on Linux, pipe(7)).
_PIPE_BYTES = 4_096
_MAX_ANSWER_BYTES = 65_536
SYNTAX = (
    "- for JSON lines on standard output, mqtt://host/topic, http://... for a webhook, or "
    "homeassistant://host/name"
)


class Lost(Exception):
    """An event that its receiver did not take; `is_final` if trying again cannot help."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


class Sender(Protocol):
    """Sends events, each as a text."""

    def send(self, text: str) -> None:
        """Send one; raises `Lost`."""
        ...

    def close(self) -> None:
        """End its connection."""
        ...


class StandardOutput:
    """Writes lines so that a reader who does not read cannot keep the process from ending."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def send(self, text: str) -> None:
        """Write a line."""
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
        """Nothing is open."""


class Topic:
    """Publishes with QoS 1, over a connection that is made anew when it broke."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._connection: Connection | None = None
        self._refused = ""
        self._refused_at = 0.0

    def send(self, text: str) -> None:
        """Publish it."""
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
        """Leave the broker."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Webhook:
    """Posts JSON, one connection an event."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
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
        self._headers |= {**basic_login(parts), **headers}

    def send(self, text: str) -> None:
        """Post it."""
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
        """Nothing is open."""


class SubLabels:
    """Writes what is known of an event; what is unsure or unknown is left as it is."""

    def __init__(self, frigate: Frigate) -> None:
        self._frigate = frigate

    def send(self, text: str) -> None:
        """Write the class of an event, if it is known."""
        event = json.loads(text)
        if event["state"] != "known" or not event.get("object"):
            return
        score = event.get("probability", event["score"])
        try:
            status = self._frigate.set_sub_label(event["object"], event["label"], score)
        except (OSError, http.client.HTTPException) as error:
            raise Lost(fault_of(error)) from error
        if not 200 <= status < 300:
            raise Lost(f"it answers {status}", is_final=status < 500)

    def close(self) -> None:
        """Nothing is open."""
