"""Frames that Frigate cuts out of its cameras, where it follows something: `frigate://HOST?...`.

It tells events on its topic `frigate/events`; of each that counts the best picture so far is
fetched, cut to the object. What the frames of one event show is voted on by itself (`thing`), and
`answers` says where the answer is written back.
"""

from __future__ import annotations

import hashlib
import http.client
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping

from edgecl.errors import UsageError

from ..broker import Connection, check_paho
from ..broker import Refused as BrokerRefused
from ..frigate import Frigate, Update, fault_of, parse_frigate, update_of
from .live import Counters, LiveSource, Lost, Refused, Shot

_N_WAITING, _N_REMEMBERED = 64, 256
_POLL_S = 0.2
_MAX_MESSAGE_BYTES = 1_000_000


class FrigateSource(LiveSource):
    """A live source whose frames are crops of events.

    Args:
        spec: The source as the user named it; see `parse_frigate`.
        label: Class of all frames.
        max_bytes: Larger pictures are counted and skipped.
        headers: Sent with every request of HTTP, and never shown.
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
        headers: Mapping[str, str] | None = None,
        **waits: float,
    ) -> None:
        check_paho()
        frigate = parse_frigate(spec, headers)
        self.answers = (frigate,) if frigate.writes else ()
        super().__init__(
            spec,
            lambda counters: _Events(frigate, counters, max_bytes),
            label=label,
            stall_s=None,  # nothing may move for days
            **waits,
        )


def open_frigate(
    spec: str,
    /,
    *,
    label: str | None = None,
    max_bytes: int = 64_000_000,
    headers: Mapping[str, str] | None = None,
) -> FrigateSource:
    """Open a Frigate; it connects when its first frame is asked for.

    Raises:
        UsageError: An address that cannot be one.
        MissingPackageError: paho-mqtt is not installed.
    """
    return FrigateSource(spec, label=label, max_bytes=max_bytes, headers=headers)


class _Events:
    """One connection to the broker of a Frigate."""

    def __init__(self, frigate: Frigate, counters: Counters, max_bytes: int) -> None:
        self._frigate, self._counters, self._max_bytes = frigate, counters, max_bytes
        self._waiting: OrderedDict[str, Update] = OrderedDict()
        self._changed = threading.Condition()
        self._is_closed = False
        self._last: OrderedDict[str, bytes] = OrderedDict()

    def __iter__(self) -> Iterator[Shot | None]:
        try:
            connection = Connection(self._frigate.broker, self._on_message)
        except BrokerRefused as error:
            raise Refused(f"source {error}") from error
        except ConnectionError as error:
            raise Lost(str(error)) from error
        try:
            while not self._is_closed:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._is_closed, _POLL_S)
                    update = self._waiting.popitem(last=False)[1] if self._waiting else None
                if update is not None:
                    shot = self._fetch(update)
                    if shot is not None:
                        yield shot
                elif not connection.is_alive:
                    raise Lost(f"{self._frigate.broker.name} closed the connection")
        finally:
            connection.close()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _on_message(self, topic: str, payload: bytes, is_retained: bool) -> None:
        """Note one event, in the thread of the broker's connection."""
        if is_retained:  # it may be long over
            return self._counters.add("repeated")
        try:
            if len(payload) > _MAX_MESSAGE_BYTES:
                raise UsageError(f"a message is longer than {_MAX_MESSAGE_BYTES} bytes")
            update = update_of(self._frigate, payload)
        except UsageError as error:
            return self._counters.add("not_pictures", why=str(error))
        if update is None:
            return None
        with self._changed:
            # Of several updates of one event the newest has the best picture.
            self._waiting[update.id] = update
            if len(self._waiting) > _N_WAITING:
                self._waiting.popitem(last=False)
                self._counters.add("dropped")
            self._changed.notify_all()
        return None

    def _fetch(self, update: Update) -> Shot | None:
        try:
            status, data = self._frigate.snapshot(update.id, self._max_bytes)
        except (OSError, http.client.HTTPException) as error:
            raise Lost(f"{self._frigate.name}: {fault_of(error)}") from error
        if status in (401, 403):
            raise Refused(
                f"source {self._frigate.name} answered {status}; give USER:PASSWORD@ or a "
                "--header-file with its token"
            )
        if status >= 500:
            raise Lost(f"{self._frigate.name} answered {status}")
        if status != 200 or not data:
            self._counters.add("not_pictures", why=f"no snapshot of an event ({status})")
            return None
        if len(data) > self._max_bytes:
            self._counters.add("oversize", why=f"more than {self._max_bytes / 1e6:g} MB")
            return None
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if self._last.get(update.id) == digest:  # no better one since
            self._counters.add("repeated")
            return None
        self._last.pop(update.id, None)
        self._last[update.id] = digest
        if len(self._last) > _N_REMEMBERED:
            self._last.popitem(last=False)
        name = f"{update.id}/{digest[:4].hex()}"
        return Shot(encoded=data, id=name, time=update.time or None, thing=update.id)
