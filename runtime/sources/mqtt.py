"""Frames from an MQTT topic: `mqtt://[user:password@]host[:port]/topic`, or `mqtts` with TLS.

A message is a picture file, its base64 or `data:` URL, or a JSON object that holds one of these
(`inline.py`). JSON without a picture is a label or a command (`messages.py`) and is handed on. The
topic may hold `+` and `#`.
"""

from __future__ import annotations

import hashlib
import queue
import string
from collections import deque
from collections.abc import Iterator
from typing import Any

from edgecl.errors import UsageError

from ..broker import Broker, check_paho, parse_broker
from ..broker import Connection as BrokerConnection
from ..broker import Refused as BrokerRefused
from .inline import InlinePicture, inline_picture, largest_message, loads
from .jpeg import is_picture
from .labels import MessageQueue
from .live import Counters, LiveSource, Lost, Refused, Shot
from .messages import Command, message_of

_N_REMEMBERED = 1_024
_N_WAITING = 4
_POLL_S = 0.2
# All that base64 in either alphabet is written with, in quotes or not (RFC 4648, 4 and 5).
_BASE64 = (string.ascii_letters + string.digits + string.whitespace + '+/-_="').encode()
_SPACE = b' \t\r\n"'
_STANDARD = str.maketrans("-_", "+/")


class MqttSource(LiveSource):
    """A live source whose topic may carry labels too.

    A message that comes twice is used once: told by its `id`, or by its bytes. What the broker
    kept from before is no frame, since it may be old.

    Args:
        spec: The source as the user named it.
        label: Class of all frames, instead of what the messages say.
        max_bytes: Larger pictures are skipped.
        waits: `first_wait_s` and `longest_wait_s` of `LiveSource`.

    Raises:
        UsageError: An address that cannot be one.
        MissingPackageError: paho-mqtt is not installed.
    """

    def __init__(
        self,
        spec: str,
        *,
        label: str | None = None,
        max_bytes: int = 64_000_000,
        **waits: float,
    ) -> None:
        check_paho()
        broker = parse_broker(spec)
        self.feed = feed = MessageQueue()
        seen = _Seen()
        super().__init__(
            spec,
            lambda counters: _Subscription(broker, counters, feed, seen, max_bytes),
            label=label,
            # A topic may be silent for days; whether the broker lives, MQTT's own pings tell.
            stall_s=None,
            **waits,
        )


def open_mqtt(spec: str, /, *, label: str | None = None, max_bytes: int = 64_000_000) -> MqttSource:
    """Open a topic; it connects when its first frame is asked for.

    Raises:
        UsageError: An address that cannot be one.
        MissingPackageError: paho-mqtt is not installed.
    """
    return MqttSource(spec, label=label, max_bytes=max_bytes)


class _Seen:
    """What came last, to know what comes again, also over connections."""

    def __init__(self) -> None:
        self._order: deque[bytes] = deque()
        self._keys: set[bytes] = set()

    def add(self, key: bytes) -> bool:
        """Note a key; False if it was noted before."""
        if key in self._keys:
            return False
        self._keys.add(key)
        self._order.append(key)
        if len(self._order) > _N_REMEMBERED:
            self._keys.discard(self._order.popleft())
        return True


class _Subscription:
    """One connection to the broker."""

    def __init__(
        self,
        broker: Broker,
        counters: Counters,
        feed: MessageQueue,
        seen: _Seen,
        max_bytes: int,
    ) -> None:
        self._broker = broker
        self._counters = counters
        self._feed = feed
        self._seen = seen
        self._max_bytes = max_bytes
        self._shots: queue.Queue[Shot] = queue.Queue(_N_WAITING)
        self._is_closed = False

    def __iter__(self) -> Iterator[Shot]:
        try:
            connection = BrokerConnection(self._broker, self._on_message)
        except BrokerRefused as error:
            raise Refused(f"source {error}") from error
        except ConnectionError as error:
            raise Lost(str(error)) from error
        try:
            while not self._is_closed:
                try:
                    yield self._shots.get(timeout=_POLL_S)
                except queue.Empty:
                    if not connection.is_alive:
                        raise Lost(f"{self._broker.name} closed the connection") from None
        finally:
            connection.close()

    def close(self) -> None:
        self._is_closed = True

    def _on_message(self, topic: str, payload: bytes, is_retained: bool) -> None:
        """Sort one message, in the thread of the connection."""
        if len(payload) > largest_message(self._max_bytes):
            return self._counters.add("oversize")
        is_json = payload.lstrip()[:1] == b"{"
        try:
            value: Any = loads(payload.decode()) if is_json else None
            if is_json and "image" not in (value or {}):
                return self._hand_on(value, is_retained)
            if is_retained:
                return self._counters.add("repeated")
            shot, key = self._shot(payload, value)
        except (UsageError, UnicodeError) as error:
            self._counters.add("broken")
            return self._feed.tell(f"a message on {topic}: {error}")
        if shot is None:
            return self._counters.add("oversize")
        if not self._seen.add(key):
            return self._counters.add("repeated")
        return self._offer(shot)

    def _shot(self, payload: bytes, value: Any) -> tuple[Shot | None, bytes]:
        picture = inline_picture(value, self._max_bytes) or self._from_text(payload)
        if picture is None:
            shot = Shot(encoded=payload) if len(payload) <= self._max_bytes else None
            return shot, hashlib.blake2b(payload, digest_size=16).digest()
        key = f"id {picture.id}".encode(errors="surrogatepass") if picture.id else picture.encoded
        shot = Shot(encoded=picture.encoded, label=picture.label, id=picture.id, time=picture.time)
        return shot, hashlib.blake2b(key, digest_size=16).digest()

    def _from_text(self, payload: bytes) -> InlinePicture | None:
        """Return the picture of a payload that is text and nothing else, None of all others."""
        is_url = payload[:16].lstrip(_SPACE).startswith(b"data:")
        if is_picture(payload) or not (is_url or not payload.translate(None, _BASE64)):
            return None
        text = payload.decode("ascii").strip(_SPACE.decode()).translate(_STANDARD)
        try:
            picture = inline_picture({"image": text}, self._max_bytes)
        except UsageError:
            if is_url:
                raise
            return None  # a word; the decoder says that it is no picture
        return picture if picture is not None and is_picture(picture.encoded) else None

    def _hand_on(self, value: Any, is_retained: bool) -> None:
        message = message_of(value)
        if message is None:
            raise UsageError("it is neither a picture, a label nor a command")
        # It comes again with every connection; what was undone once must not be undone again.
        if not (is_retained and isinstance(message, Command)):
            self._feed.offer(message)

    def _offer(self, shot: Shot) -> None:
        while True:
            try:
                return self._shots.put_nowait(shot)
            except queue.Full:  # the reader is behind: the oldest goes
                try:
                    self._shots.get_nowait()
                    self._counters.add("received")
                    self._counters.add("dropped")
                except queue.Empty:
                    pass
