"""Events for Home Assistant: `--events homeassistant://[user:password@]host[:port]/NAME`.

The broker keeps the newest state of every topic, so a state that a newer one replaces before it
was sent is not missed. What may say the name of a class is taken back by `withdraw`.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from collections.abc import Sequence
from typing import Any

from edgecl.errors import EdgeclError
from edgecl.types import Frame

from .broker import Broker, Connection, Refused
from .discovery import (
    BIRTH,
    NOBODY,
    SAYS_NAMES,
    SCHEMES,
    About,
    Facts,
    Place,
    discovery,
    parse_place,
    place_at,
    without,
)
from .sources.labels import MessageQueue
from .sources.messages import LabelFeed
from .thumbnail import small_jpeg

_log = logging.getLogger(__name__)

_FRAME_EVERY_S = 1.0
_FRAME_SIDE = 640
_FIRST_WAIT_S, _LONGEST_WAIT_S, _REFUSED_WAIT_S = 0.5, 30.0, 120.0
_CLOSE_S = 3.0
# How long what a broker keeps is waited for, and how long it may be quiet in between.
_KEPT_S, _QUIET_S = 5.0, 0.5
_MOST_BYTES = 2**20


class HomeAssistant:
    """A sink whose broker keeps the state of a device, and whose labels come back from there.

    Args:
        place: Where.
        about: What the device is.
    """

    def __init__(self, place: Place, about: About) -> None:
        self.name: str = place.address
        self.address: str | None = place.address
        self.n_sent = self.n_dropped = 0
        self._labels = MessageQueue() if about.can_teach else None
        self.feed: LabelFeed | None = self._labels
        self._place, self._about = place, about
        self._facts: Facts | None = None
        self._kept: dict[str, bytes] = {}  # what every topic shall hold
        self._waiting: dict[str, None] = {}  # topics that do not hold it yet, in order
        self._frames: dict[str, Frame] = {}
        self._shown: Frame | None = None
        self._frame_due = 0.0
        self._n_drops = 0
        self._is_sending = self._is_closing = self._is_told = False
        self._changed = threading.Condition()
        _open[self.name] = self
        self._thread = threading.Thread(target=self._run, name="home assistant", daemon=True)
        self._thread.start()

    def show(self, frame: Frame) -> None:
        """Hand over the picture that the next event comes with."""
        self._shown = frame

    def emit(self, event: dict[str, Any]) -> None:
        """Hand over one event; never waits."""
        source = event.get("source", "") if self._facts and self._facts.sources != ("",) else ""
        topic = self._place.topic("event", source)
        with self._changed:
            if self._is_closing:
                return
            self.n_dropped += topic in self._waiting
            self._put(topic, _dumped(event))
            if self._shown is not None:
                self._frames[self._place.topic("frame", source)] = self._shown
            self._changed.notify_all()

    def follow(self, facts: Facts) -> None:
        """Hand over how it stands; what is as before is not sent again."""
        topic, before = self._place.topic, self._facts
        if facts == before:
            return
        teaching = facts.teaching if facts.teaching in facts.classes else None
        with self._changed:
            self._facts = facts
            self._describe()
            if self._about.can_teach:
                self._put(topic("teaching"), (teaching or NOBODY).encode())
            self._put(topic("to_review"), str(facts.to_review).encode())
            self._put(topic("worse"), _on(facts.is_worse))
            for source in facts.sources:
                self._put(topic("lost", source), _on(source in facts.lost))
            self._changed.notify_all()

    def drop(self, classes: Sequence[str]) -> Broker:
        """Keep nothing that may say a name, know these classes only; returns its broker.

        What is on its way is waited for, a few seconds at most.
        """
        with self._changed:
            self._n_drops += 1
            for topic in [t for t in self._kept if t.rpartition("/")[2] in SAYS_NAMES]:
                self._put(topic, b"")
            self._frames.clear()
            self._shown = None
            if self._facts is not None:
                old = self._facts
                self._facts = Facts(
                    tuple(classes), None, old.to_review, old.is_worse, old.sources, old.lost
                )
                self._describe()
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._is_sending, _KEPT_S)
        return self._place.broker

    def close(self) -> None:
        """Send what waits, for some seconds at most, say `offline`, and end; safe to call twice."""
        if _open.get(self.name) is self:
            del _open[self.name]
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(2 * _CLOSE_S)
        if self.feed is not None:
            self.feed.close()
        with self._changed:
            self.n_dropped += sum(topic.endswith("/event") for topic in self._waiting)
            self._waiting.clear()

    def _put(self, topic: str, payload: bytes) -> None:
        if self._kept.get(topic) != payload:
            self._kept[topic] = payload
            self._waiting[topic] = None

    def _describe(self) -> None:
        assert self._facts is not None
        facts = self._facts
        message = discovery(self._place, self._about, facts.classes, facts.sources)
        self._put(self._place.config, _dumped(message))

    def _run(self) -> None:
        n_failed, connection = 0, None
        while connection is not None or not self._is_closing or (self._waiting and not n_failed):
            try:
                if connection is None:
                    connection = self._connected()
                    n_failed = 0
                if not self._send_next(connection):
                    break
                continue
            except ConnectionError as error:
                longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**n_failed)
                wait = random.uniform(longest / 2, longest)
                if isinstance(error, Refused):
                    wait = _REFUSED_WAIT_S
                reason = str(error)
            n_failed = min(n_failed + 1, 30)
            if connection is not None:
                connection.close()
                connection = None
            if not self._is_told:
                self._is_told = True
                _log.warning("%s gets nothing: %s; trying again", self.name, reason)
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing, wait)
        if connection is not None:
            self._say_goodbye(connection)

    def _connected(self) -> Connection:
        """Connect, and have everything sent anew: the broker may have lost it."""
        will = self._place.topic("available")
        topics = [BIRTH, *([self._place.topic("labels")] if self._about.can_teach else [])]
        connection = Connection(
            self._place.broker, self._hear, topics=topics, will=(will, b"offline")
        )
        try:
            connection.publish(b"online", will, retain=True)
        except ConnectionError:
            connection.close()
            raise
        with self._changed:
            self._waiting = dict.fromkeys([*self._kept, *self._waiting])
        return connection

    def _send_next(self, connection: Connection) -> bool:
        """Send one state, or wait for one; False when all is sent and this is closing."""
        with self._changed:
            due = self._frame_due - time.monotonic()
            if not self._waiting and (not self._frames or (due > 0 and not self._is_closing)):
                if self._is_closing:
                    return False
                self._changed.wait(min(due, 0.5) if self._frames else 0.5)
                if not connection.is_alive:
                    raise ConnectionError(f"{self.name} closed the connection")
                return True
            frame = None
            if self._waiting:
                topic = next(iter(self._waiting))
                payload = self._kept[topic]
                del self._waiting[topic]
            else:
                topic, frame = self._frames.popitem()
                self._frame_due = time.monotonic() + _FRAME_EVERY_S
            self._is_sending, n_drops = True, self._n_drops
        try:
            if frame is not None:
                payload = small_jpeg(frame, _FRAME_SIDE)
                with self._changed:
                    if self._n_drops != n_drops:  # it may show what was just unlearned
                        return True
                    self._kept[topic] = payload
            connection.publish(payload, topic, retain=True)
            self.n_sent += topic.endswith("/event") and bool(payload)
        except ConnectionError:
            with self._changed:
                self._waiting.setdefault(topic)
            raise
        finally:
            with self._changed:
                self._is_sending = False
                self._changed.notify_all()
        return True

    def _say_goodbye(self, connection: Connection) -> None:
        try:
            connection.publish(b"offline", self._place.topic("available"), retain=True)
        except ConnectionError:
            pass  # the last will says it
        connection.close()

    def _hear(self, topic: str, payload: bytes, is_retained: bool) -> None:
        """Take in what Home Assistant says, in the thread of the connection."""
        if topic != BIRTH:
            if self._labels is not None:
                self._labels.hear(topic, payload, is_retained)
        elif payload == b"online":
            with self._changed:
                if self._place.config in self._kept:
                    self._waiting[self._place.config] = None
                self._changed.notify_all()


_open: dict[str, HomeAssistant] = {}


def open_homeassistant(spec: str, about: About | None = None) -> HomeAssistant:
    """Open the sink; see `parse_place`."""
    return HomeAssistant(parse_place(spec), about or About())


def withdraw(address: str, classes: Sequence[str]) -> bool:
    """Take back from a broker what may say another name than these, and describe the device anew.

    What an open sink of this process waits to send is dropped. The account is the one of that
    sink, or of `EDGECL_EVENTS` if that is the same place.

    Args:
        address: `Place.address`.
        classes: All classes that there still are.

    Returns:
        False if the broker was not reached, or did not confirm.
    """
    try:
        place = place_at(address)
        sink = _open.get(address)
        broker = sink.drop(classes) if sink is not None else _with_account(place)
        _take_back(place, broker, classes)
    except (OSError, EdgeclError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def _with_account(place: Place) -> Broker:
    events = os.environ.get("EDGECL_EVENTS", "")
    if events.lower().startswith(SCHEMES):
        own = parse_place(events)
        if own.address == place.address:
            return own.broker
    return place.broker


def _take_back(place: Place, broker: Broker, classes: Sequence[str]) -> None:
    kept: dict[str, bytes] = {}
    came = threading.Event()

    def note(topic: str, payload: bytes, is_retained: bool) -> None:
        if is_retained:
            kept[topic] = payload
            came.set()

    connection = Connection(broker, note, topics=[f"{broker.topic}/#", place.config])
    try:
        deadline = time.monotonic() + _KEPT_S
        while came.wait(_QUIET_S) and time.monotonic() < deadline:
            came.clear()
        for topic in list(kept):  # one more may come meanwhile
            if topic.rpartition("/")[2] in SAYS_NAMES:
                connection.publish(b"", topic, retain=True)
        if len(found := kept.get(place.config, b"")) > _MOST_BYTES:
            found = b""  # none of ours
            connection.publish(found, place.config, retain=True)
        if found:
            message = without(json.loads(found), classes)
            connection.publish(_dumped(message), place.config, retain=True)
    finally:
        connection.close()


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()


def _on(value: bool) -> bytes:
    return b"ON" if value else b"OFF"
