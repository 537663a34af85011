"""Frigate, a video recorder that finds objects: its address, its snapshots, and its sub labels.

`frigate://[user:password@]HOST[:5000]?broker=HOST&camera=front&label=dog` (`frigates` for TLS). As
its documentation says (HTTP API; MQTT, `frigate/events`); a running Frigate was not tried.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote

from edgecl.errors import UsageError

from .address import basic_login, split_url
from .broker import Broker, parse_broker

SCHEMES = ("frigate://", "frigates://")
_PORT = 5000
_TIMEOUT_S = 5.0
_OPTIONS = ("broker", "camera", "label", "topic", "write")
_SYNTAX = "frigate://[user:password@]HOST[:5000]?broker=HOST&camera=NAME&label=NAME"


@dataclass(frozen=True, slots=True)
class Frigate:
    """One Frigate.

    Args:
        host: Its name or address.
        port: Of its HTTP API.
        is_encrypted: Whether that speaks TLS.
        headers: Sent with every request; never shown.
        broker: Where its events are told, with their topic.
        camera: The only camera that counts, or empty.
        label: The only kind of object that counts, or empty.
        writes: Whether answers are written back.
    """

    host: str
    port: int
    is_encrypted: bool
    headers: Mapping[str, str] = field(repr=False)
    broker: Broker
    camera: str = ""
    label: str = ""
    writes: bool = True

    @property
    def name(self) -> str:
        """Its address without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORT else f":{self.port}"
        chosen = [("camera", self.camera), ("label", self.label)]
        query = "&".join(f"{key}={quote(value)}" for key, value in chosen if value)
        return f"{SCHEMES[self.is_encrypted]}{host}{port}" + (f"?{query}" if query else "")

    def snapshot(self, event: str, max_bytes: int) -> tuple[int, bytes]:
        """Ask for the best picture of an event, cut to its object: status, and its bytes.

        One byte more than `max_bytes` is read at most.

        Raises:
            OSError: Not reached.
            http.client.HTTPException: It answered what is no HTTP.
        """
        path = f"/api/events/{quote(event, safe='')}/snapshot.jpg?crop=1"
        return self._ask("GET", path, None, max_bytes)

    def set_sub_label(self, event: str, label: str, score: float) -> int:
        """Write what an event shows; returns the status.

        Raises:
            OSError: Not reached.
            http.client.HTTPException: It answered what is no HTTP.
        """
        body = json.dumps({"subLabel": label, "subLabelScore": round(score, 4)})
        return self._ask("POST", f"/api/events/{quote(event, safe='')}/sub_label", body, 65_536)[0]

    def _ask(self, method: str, path: str, body: str | None, most: int) -> tuple[int, bytes]:
        make: Callable[..., http.client.HTTPConnection] = (
            http.client.HTTPSConnection if self.is_encrypted else http.client.HTTPConnection
        )
        connection = make(self.host, self.port, timeout=_TIMEOUT_S)
        headers = {"User-Agent": "edgecl", **self.headers}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(most + 1)
        finally:
            connection.close()


def parse_frigate(spec: str, headers: Mapping[str, str] | None = None) -> Frigate:
    """Read an address of Frigate.

    Args:
        spec: As above. `broker` may also be a whole mqtt:// or mqtts:// address with an account,
            percent-encoded; without one it is HOST. `topic` is Frigate's `mqtt.topic_prefix`, and
            `write=no` writes no answers back.
        headers: Of a header file.

    Raises:
        UsageError: It cannot be one; shows no password.
        SourceError: Its host cannot be one.
    """
    place, _, query = spec.partition("?")
    parts = split_url(re.sub(r"(?i)^frigate(s?)://", r"http\1://", place))
    options: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _OPTIONS or key in options or not value:
            raise UsageError(
                f"an address of Frigate has the options {', '.join(_OPTIONS)}, each once and with "
                f"a value; expected {_SYNTAX}"
            )
        options[key] = value
    if parts.path not in ("", "/") or options.get("write", "yes") not in ("yes", "no"):
        raise UsageError(f"this is no address of Frigate; expected {_SYNTAX}, and write=yes or no")
    host = parts.hostname or ""
    broker = options.get("broker", f"[{host}]" if ":" in host else host)
    if "://" not in broker:
        broker = f"mqtt://{broker}"
    return Frigate(
        host,
        parts.port or _PORT,
        parts.scheme == "https",
        dict(headers or {}) | basic_login(parts),
        parse_broker(f"{broker}/{options.get('topic', 'frigate')}/events", may_match=False),
        options.get("camera", ""),
        options.get("label", ""),
        options.get("write", "yes") == "yes",
    )


@dataclass(frozen=True, slots=True)
class Update:
    """What Frigate says of an object that it follows.

    Args:
        id: Of the event.
        time: When it was seen, seconds since the epoch; 0 if that is not said.
    """

    id: str
    time: float


def update_of(frigate: Frigate, payload: bytes) -> Update | None:
    """Read a message of `frigate/events`; None for what does not count or has no snapshot yet.

    Raises:
        UsageError: It is no such message.
    """
    try:
        value: Any = json.loads(payload)
        after = value["after"]
        name, camera, label = after["id"], after["camera"], after["label"]
        moment = after.get("frame_time") or 0
        is_there = bool(after.get("has_snapshot")) and not after.get("false_positive")
        moment = float(moment) if 0 <= float(moment) < 4e9 else 0.0
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError("the message is no event of Frigate") from error
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,100}", name, re.ASCII):
        raise UsageError("the id of an event of Frigate is none")
    if frigate.camera not in ("", camera) or frigate.label not in ("", label) or not is_there:
        return None
    return Update(name, moment)


def fault_of(error: Exception) -> str:
    """Say why Frigate was not reached, without what a server wrote."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate cannot be trusted ({error.verify_message})"
    return f"it is not reached ({type(error).__name__})"
