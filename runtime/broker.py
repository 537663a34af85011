"""One connection to an MQTT broker, as the frame source, the label messages and the sink use it.

MQTT 3.1.1 with a clean session. paho's own reconnecting is off: the users of this module wait and
try again themselves, all in the same way.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from edgecl.errors import MissingPackageError, UsageError

from .address import ESCAPES

SCHEMES = ("mqtt://", "mqtts://")
_PORTS = {"mqtt": 1883, "mqtts": 8883}
_TIMEOUT_S = 5.0
_KEEPALIVE_S = 15  # a broker that went without a word is noticed after 1.5 times this
_QOS = 1
# Of CONNACK: protocol, client id, user or password, not authorised, banned (MQTT 5, 3.2.2.2); 3.1.1
# has fewer numbers for the same. Waiting mends none of them, and may lock the account.
_REFUSALS = frozenset({132, 133, 134, 135, 138})
_MAX_TOPIC_BYTES = 65_535  # MQTT 3.1.1, 1.5.3


class Refused(ConnectionError):
    """The broker refuses the login, the topic or the certificate, and will again."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a topic is.

    Args:
        host: Name or address of the broker.
        port: TCP port.
        topic: Topic or topic filter.
        is_encrypted: TLS, checked against the system's certificates (or `SSL_CERT_FILE`).
        user: User name, or None.
        password: Password, or None; never shown.
    """

    host: str
    port: int
    topic: str
    is_encrypted: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The URL without user and password."""
        scheme = "mqtts" if self.is_encrypted else "mqtt"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[scheme] else f":{self.port}"
        return f"{scheme}://{host}{port}/{self.topic.replace('@', '%40')}"


def parse_broker(url: str, *, may_match: bool = True) -> Broker:
    """Read `mqtt://[user:password@]host[:port]/topic` or the same with `mqtts`.

    Args:
        url: What the user gave. User and password may be percent-encoded; the topic is taken as it
            stands, so that `#` and `?` are part of it, but for an @, which is written %40.
        may_match: Whether the topic may hold the wildcards `+` and `#`.

    Raises:
        UsageError: No host, no topic, or a topic that cannot be one; does not show the password.
    """
    found = re.fullmatch(r"(?i:(mqtts?))://([^/]*)(?:/(.*))?", url, re.DOTALL)
    if found is None:
        raise UsageError("an MQTT address is written mqtt://[user:password@]host[:port]/topic")
    scheme, place, topic = found[1].lower(), found[2], found[3] or ""
    if "@" in topic:  # half of a password, with which nothing may be said
        raise UsageError(
            f"this {scheme}:// address has an @ behind the host; in a user or password {ESCAPES}"
        )
    try:
        # Behind the last @: a password may hold one. No part that urlsplit would show in an error.
        account, at, address = place.rpartition("@")
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port or _PORTS[scheme]
    except ValueError:
        host = None
    if not host or not host.isprintable() or re.search(r"[\s#?]", place.rpartition("@")[2]):
        raise UsageError(
            f"this {scheme}:// address names no host and port; expected "
            f"{scheme}://[user:password@]host[:port]/topic; in a user or password {ESCAPES}"
        )
    user, colon, password = account.partition(":")
    broker = Broker(
        host=host,
        port=port,
        topic=topic.replace("%40", "@"),
        is_encrypted=scheme == "mqtts",
        user=unquote(user) if at else None,
        password=unquote(password) if colon else None,
    )
    fault = _topic_fault(broker.topic, may_match)
    if fault:
        raise UsageError(f"{ascii(broker.name)[1:-1]}: {fault}")
    return broker


def _topic_fault(topic: str, may_match: bool) -> str:
    if not topic:
        return "the topic is missing; write it behind the host, as in mqtt://host/line1/camera"
    if not topic.isprintable() or len(topic.encode(errors="replace")) > _MAX_TOPIC_BYTES:
        return "the topic is too long or holds a character that cannot be printed"
    levels = topic.split("/")
    if not may_match and ("+" in topic or "#" in topic):
        return "nothing can be published to a topic with + or #; name one topic"
    if any(("+" in level or "#" in level) and len(level) > 1 for level in levels):
        return "+ and # stand for a whole level of a topic, as in line1/+/camera"
    if "#" in levels[:-1]:
        return "# can only be the last level of a topic"
    return ""


class Connection:
    """A connection that ends for good when it breaks; close it in any case.

    Args:
        broker: Where.
        on_message: Called with topic, payload and whether the broker kept it from before, for
            every message, in the thread of the connection; must neither raise nor wait. None
            subscribes to nothing.
        topics: What is subscribed to; None is `broker.topic`.
        will: Topic and payload that the broker publishes (retained) when this connection breaks.

    Raises:
        MissingPackageError: paho-mqtt is not installed.
        Refused: The broker refuses, and will again.
        ConnectionError: Not reached; one line without secrets.
    """

    def __init__(
        self,
        broker: Broker,
        on_message: Callable[[str, bytes, bool], None] | None = None,
        *,
        topics: Sequence[str] | None = None,
        will: tuple[str, bytes] | None = None,
    ) -> None:
        mqtt = _paho()
        self._broker = broker
        self._fault = ""
        self._is_refused = self._is_welcome = False
        self._changed = threading.Condition()
        self._is_ready = False
        self._ended = False
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, clean_session=True, reconnect_on_failure=False
        )
        self._client: Any = client
        if broker.user is not None:
            client.username_pw_set(broker.user, broker.password)
        client.connect_timeout = _TIMEOUT_S
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        if on_message is not None:
            client.on_message = lambda client, data, m: on_message(
                m.topic, m.payload, bool(m.retain)
            )
        self._topics = () if on_message is None else (broker.topic,) if topics is None else topics
        if will is not None:
            client.will_set(*will, qos=_QOS, retain=True)
        try:
            if broker.is_encrypted:
                client.tls_set()
            client.connect(broker.host, broker.port, keepalive=_KEEPALIVE_S)
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise Refused(
                f"{broker.name} has a certificate that cannot be trusted ({error.verify_message}); "
                "name the one that can with SSL_CERT_FILE"
            ) from error
        except (OSError, ValueError) as error:
            self.close()
            raise ConnectionError(f"{broker.name} is not reached ({error})") from error
        client.loop_start()
        self._wait_for_welcome()

    def _wait_for_welcome(self) -> None:
        """Wait until what is subscribed to is confirmed; closes and raises where it is not."""
        broker, deadline = self._broker, time.monotonic() + _TIMEOUT_S
        with self._changed:
            while not (self._is_ready or self._ended or self._fault):
                if not self._changed.wait(deadline - time.monotonic()):
                    self._fault = f"no answer within {_TIMEOUT_S:g} s"
        if not self._is_ready:
            self.close()
            if self._is_refused:
                raise Refused(f"{broker.name} refuses {self._refused(broker)} ({self._fault})")
            raise ConnectionError(f"{broker.name} is not reached ({self._fault or 'closed'})")

    @property
    def is_alive(self) -> bool:
        """Whether it still stands."""
        return not self._ended

    def wait(self, timeout: float) -> None:
        """Wait until the connection ends, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended, timeout)

    def publish(self, payload: bytes, topic: str | None = None, *, retain: bool = False) -> None:
        """Publish to a topic and wait until the broker has it (QoS 1).

        Args:
            payload: What; nothing empties a topic that the broker keeps.
            topic: Where; None is the broker's.
            retain: Whether the broker keeps it for who comes later.

        Raises:
            ConnectionError: The broker did not say that it has it.
        """
        topic = self._broker.topic if topic is None else topic
        sent = self._client.publish(topic, payload, qos=_QOS, retain=retain)
        deadline = time.monotonic() + _TIMEOUT_S
        try:
            while not sent.is_published() and self.is_alive and time.monotonic() < deadline:
                sent.wait_for_publish(0.1)
            is_there = sent.is_published()
        except (RuntimeError, ValueError):
            is_there = False
        if not is_there:
            raise ConnectionError(f"{self._broker.name} did not confirm a message")

    def close(self) -> None:
        """End the connection and its thread."""
        client = self._client
        client.disconnect()
        client.loop_stop()
        # Else the two hold each other, and with them two descriptors, until a cycle is looked for.
        client.on_connect = client.on_disconnect = client.on_subscribe = client.on_message = None

    def _refused(self, broker: Broker) -> str:
        if self._is_welcome:
            return "the subscription to this topic"
        if broker.user is None:
            return "clients that have no account; write USER:PASSWORD@ before its host"
        return "this user or password"

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        if reason.is_failure:
            self._is_refused = reason.value in _REFUSALS
            self._end(str(reason))
            return
        self._is_welcome = True
        if self._topics:
            client.subscribe([(topic, _QOS) for topic in self._topics])
        else:
            self._ready()

    def _on_subscribe(self, client: Any, data: Any, mid: Any, reasons: Any, more: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            self._is_refused = True
            self._end(str(reasons[0]))
        else:
            self._ready()

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, more: Any) -> None:
        self._end(self._fault or str(reason))

    def _ready(self) -> None:
        with self._changed:
            self._is_ready = True
            self._changed.notify_all()

    def _end(self, fault: str) -> None:
        with self._changed:
            self._fault = fault
            self._ended = True
            self._changed.notify_all()


def check_paho() -> None:
    """Raise `MissingPackageError` unless paho-mqtt is installed."""
    _paho()


def _paho() -> Any:
    try:
        import paho.mqtt.client as mqtt
    except ImportError as error:
        raise MissingPackageError(
            "paho-mqtt is not installed; run `pip install 'edgecl[mqtt]'`"
        ) from error
    if not hasattr(mqtt, "CallbackAPIVersion"):
        raise MissingPackageError(
            "paho-mqtt is older than 2; run `pip install --upgrade 'edgecl[mqtt]'`"
        )
    return mqtt
