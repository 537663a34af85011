"""A real broker on loopback: frames, labels and events, also while it is killed and comes back.

Needs Debian's package mosquitto.
"""

from __future__ import annotations

import base64
import gc
import json
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mosquitto import SECRET, Mosquitto
from patience import until

import build
from edgecl.runtime import sinks
from edgecl.runtime.broker import Connection, parse_broker
from edgecl.runtime.sinks import open_sink
from edgecl.runtime.sources.labels import TopicLabels, open_labels
from edgecl.runtime.sources.messages import Command, LabelWindow
from edgecl.runtime.sources.mqtt import MqttSource
from edgecl.types import Frame, Skipped
from peers import certificate

pytestmark = pytest.mark.live
pytest.importorskip("paho.mqtt.publish")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    found = Mosquitto(tmp_path, "allow_anonymous true")
    yield found
    found.kill()


def picture(i: int) -> bytes:
    return build.encode(build.part_picture("gasket", i, 16))


def b64(i: int) -> str:
    return base64.b64encode(picture(i)).decode()


class Taker:
    """A source with a thread that takes every frame."""

    def __init__(self, spec: str, **options: Any) -> None:
        self.items: list[Frame | Skipped] = []
        self.news: list[str] = []
        self.error: BaseException | None = None
        self.source = MqttSource(spec, first_wait_s=0.1, longest_wait_s=0.3, **options)
        self.source.on_news = self.news.append
        self._frames = self.source.frames()
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        try:
            for item in self._frames:
                self.items.append(item)
        except BaseException as error:
            self.error = error

    def wait(self, n: int) -> list[Frame]:
        assert until(lambda: len(self.items) >= n)
        time.sleep(0.1)
        assert len(self.items) == n, self.items
        return [i for i in self.items if isinstance(i, Frame)]

    def close(self) -> None:
        self.source.close()
        self._thread.join(60)
        assert not self._thread.is_alive()


def send_until_taken(broker: Mosquitto, topic: str, taker: Taker, payload: Any) -> None:
    """Send until one arrives: a subscription has no moment that the outside can see."""
    n = len(taker.items)

    def arrived() -> bool:
        try:
            broker.send(topic, payload)
        except OSError:
            return False
        time.sleep(0.1)
        return len(taker.items) > n

    assert until(arrived)


@pytest.fixture
def taker(broker: Mosquitto) -> Iterator[Taker]:
    with closing(Taker(broker.url("cam/#"), max_bytes=100_000)) as found:
        send_until_taken(broker, "cam/a", found, picture(0))
        yield found


def test_pictures_come_as_bytes_and_as_json_with_label_id_and_time(
    broker: Mosquitto, taker: Taker
) -> None:
    broker.send("cam/a/b", picture(1))
    taker.wait(2)
    broker.send("cam/c", {"image": b64(2), "label": "cup", "id": "x1", "time": 12.5})
    taker.wait(3)
    broker.send("cam/c", {"image": "data:image/jpeg;base64," + b64(3)})
    frames = taker.wait(4)
    assert [f.encoded for f in frames] == [picture(i) for i in range(4)]
    assert [f.label for f in frames] == [None, None, "cup", None]
    assert (frames[2].id, frames[2].time) == ("x1", 12.5)
    assert all(f.monotonic > 0 and f.source == broker.url("cam/#") for f in frames)
    assert abs(frames[3].time - time.time()) < 60
    assert len({f.id for f in frames}) == 4


def test_a_message_that_comes_again_is_used_once(broker: Mosquitto, taker: Taker) -> None:
    broker.send("cam/a", {"image": b64(1), "id": "x"})
    taker.wait(2)
    broker.send("cam/a", {"image": b64(2), "id": "x"}, picture(3))
    taker.wait(3)
    broker.send("cam/a", picture(3), picture(3), {"image": b64(4), "id": "y"})
    assert [f.encoded for f in taker.wait(4)] == [picture(i) for i in (0, 1, 3, 4)]
    assert taker.source.counts.repeated >= 3


def test_what_cannot_be_used_is_counted_and_named_and_the_stream_goes_on(
    broker: Mosquitto, taker: Taker
) -> None:
    broker.send("cam/a", b"{", b'{"image": 3}', b'{"image": "!"}', {"x": 1}, bytes(100_001))
    broker.send("cam/a", {"image": b64(1), "label": "a\x07", "id": "bad"})
    assert until(lambda: len(taker.items) == 2)
    broker.send("cam/a", picture(2), bytes(300_000))
    assert until(lambda: len(taker.items) == 3)
    assert isinstance(taker.items[1], Skipped)
    assert taker.source.counts.broken == 4
    assert until(lambda: taker.source.counts.oversize == 2)
    news = taker.source.feed.news()
    assert len(news) == 4
    assert all("cam/a" in line for line in news)


def test_labels_on_the_topic_of_the_pictures_are_handed_on(broker: Mosquitto, taker: Taker) -> None:
    broker.send("cam/labels", {"label": "cup", "from": 1, "to": 2}, {"command": "undo", "n": 3})
    found: list[Any] = []
    assert until(lambda: found.extend(taker.source.feed.poll()) or len(found) == 2)
    assert found == [LabelWindow("cup", 1, 2), Command("undo", 3)]
    taker.wait(1)


def test_what_the_broker_kept_from_before_is_no_frame(broker: Mosquitto) -> None:
    broker.send("cam/a", picture(1), retain=True)
    with closing(Taker(broker.url("cam/a"))) as taker:
        send_until_taken(broker, "cam/a", taker, picture(2))
        assert [f.encoded for f in taker.wait(1)] == [picture(2)]


def test_a_broker_that_is_killed_and_comes_back_is_connected_again_and_nothing_comes_twice(
    broker: Mosquitto, taker: Taker
) -> None:
    for i in range(1, 4):
        broker.kill()
        assert until(lambda n=i: sum("connecting again" in line for line in taker.news) >= n)  # type: ignore[misc]
        broker.start()
        send_until_taken(broker, "cam/a", taker, picture(i))
    frames = taker.wait(4)
    assert [f.encoded for f in frames] == [picture(i) for i in range(4)]
    assert taker.source.counts.reconnects == 3
    assert taker.error is None


def test_a_broker_that_is_not_there_yet_is_waited_for(broker: Mosquitto) -> None:
    broker.kill()
    with closing(Taker(broker.url("cam"))) as taker:
        assert until(lambda: len(taker.news) >= 2)
        broker.start()
        send_until_taken(broker, "cam", taker, picture(0))


def test_a_source_whose_broker_froze_ends_when_it_is_closed(
    broker: Mosquitto, taker: Taker
) -> None:
    broker.freeze()
    begin = time.monotonic()
    taker.close()
    assert time.monotonic() - begin < 60


def test_the_newest_frame_wins_over_a_slow_taker(broker: Mosquitto) -> None:
    source = MqttSource(broker.url("cam"))

    def feed() -> None:
        for i in range(30):
            broker.send("cam", picture(i))
            time.sleep(0.01)

    with closing(source.frames()) as frames:
        feeder = threading.Thread(target=feed)
        feeder.start()
        next(frames)
        feeder.join()
        time.sleep(0.3)
        last = next(f for f in frames if isinstance(f, Frame) and f.encoded == picture(29))
    assert last.encoded == picture(29)
    assert source.counts.dropped > 0


def test_a_wrong_password_is_told_without_it_and_the_right_one_is_let_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    accounts = tmp_path / "accounts"
    accounts.touch()
    subprocess.run(
        ["mosquitto_passwd", "-b", str(accounts), "me", SECRET], check=True, capture_output=True
    )
    broker = Mosquitto(tmp_path, "allow_anonymous false", f"password_file {accounts}")
    try:
        with caplog.at_level(logging.DEBUG), pytest.raises(ConnectionError) as caught:
            Connection(parse_broker(broker.url("a", f"me:{SECRET}x@")))
        assert SECRET not in str(caught.value) + caplog.text
        with closing(Taker(broker.url("a", f"me:{SECRET}@"))) as taker:
            sender = Connection(parse_broker(broker.url("a", f"me:{SECRET}@")))
            assert until(lambda: sender.publish(picture(0)) is None and bool(taker.items))
            sender.close()
            frames = taker.wait(1)
            assert SECRET not in frames[0].source + "".join(taker.news) + taker.source.name
    finally:
        broker.kill()


# paho leaves the socket of a failed handshake to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_encrypted_connection_is_made_only_to_a_broker_whose_certificate_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert = certificate(tmp_path)
    broker = Mosquitto(tmp_path, "allow_anonymous true", f"certfile {cert}", f"keyfile {cert}")
    address = parse_broker(broker.url("events").replace("mqtt:", "mqtts:"))
    try:
        with pytest.raises(ConnectionError, match="certificate"):
            Connection(address)
        gc.collect()
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        got: list[bytes] = []
        with closing(Connection(address, lambda topic, payload, kept: got.append(payload))) as c:
            c.publish(b"hello")
            assert until(lambda: got == [b"hello"])
    finally:
        broker.kill()


def test_labels_of_a_topic_come_also_after_the_broker_was_gone(broker: Mosquitto) -> None:
    with closing(TopicLabels(parse_broker(broker.url("labels")), longest_wait_s=0.05)) as feed:

        def arrives(name: str) -> Callable[[], bool]:
            def check() -> bool:
                broker.send("labels", {"label": name, "from": 1})
                time.sleep(0.05)
                return LabelWindow(name, 1) in feed.poll()

            return check

        assert until(arrives("cup"))
        broker.kill()
        assert until(lambda: any("trying again" in line for line in feed.news()))
        broker.start()
        assert until(arrives("bolt"))
        broker.send("labels", b"\xff", b"x" * 100_000)
        told: list[str] = []
        assert until(lambda: told.extend(feed.news()) or len(told) == 2)


def test_a_kept_label_holds_and_a_kept_command_is_not_obeyed_again(broker: Mosquitto) -> None:
    broker.send("labels/a", {"command": "undo", "n": 5}, retain=True)
    broker.send("labels/b", {"label": "cup", "from": 1}, retain=True)
    with closing(open_labels(broker.url("labels/+"))) as feed:
        found: list[Any] = []
        assert until(lambda: found.extend(feed.poll()) or bool(found))
        time.sleep(0.2)
        assert found + feed.poll() == [LabelWindow("cup", 1)]


def test_events_are_published_and_a_broker_that_was_gone_gets_the_next_ones(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "_FIRST_WAIT_S", 0.5)
    got: list[Any] = []

    def note(topic: str, payload: bytes, is_retained: bool) -> None:
        got.append(json.loads(payload))

    with closing(open_sink(broker.url("events", f"me:{SECRET}@"))) as sink:
        assert SECRET not in sink.name
        for i in range(2):
            listener = Connection(parse_broker(broker.url("events")), note)
            sink.emit({"n": i})
            assert until(lambda n=i: {"n": n} in got)  # type: ignore[misc]
            listener.close()
            broker.kill()
            broker.start()
    assert (sink.n_sent, sink.n_dropped) == (2, 0)


def test_events_for_a_broker_that_is_gone_hold_up_nothing(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "_FIRST_WAIT_S", 0.01)
    broker.kill()
    sink = open_sink(broker.url("events"))
    begin = time.monotonic()
    for i in range(1000):
        sink.emit({"n": i})
    assert time.monotonic() - begin < 30
    sink.close()
    assert time.monotonic() - begin < 90
    assert sink.n_sent == 0
    assert sink.n_dropped == 1000
