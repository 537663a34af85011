"""A device in Home Assistant, over a real broker: what is kept there, and what comes back.

Needs Debian's package mosquitto.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mosquitto import SECRET, Mosquitto
from patience import until

import build
from edgecl.device import Device
from edgecl.runtime import homeassistant
from edgecl.runtime.broker import Connection, parse_broker
from edgecl.runtime.discovery import About, Facts
from edgecl.runtime.homeassistant import HomeAssistant, withdraw
from edgecl.runtime.sinks import open_sink
from edgecl.runtime.sources.messages import Command, LabelWindow
from edgecl.session import open_store
from edgecl.store.exports import exports_of
from edgecl.store.published import note_published
from edgecl.types import Frame

pytestmark = pytest.mark.live
pytest.importorskip("paho.mqtt.client")

CONFIG = "homeassistant/device/edgecl_gate/config"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    found = Mosquitto(tmp_path, "allow_anonymous true")
    yield found
    found.kill()


def kept(broker: Mosquitto) -> dict[str, bytes]:
    """Return what the broker keeps for whoever comes."""
    found: dict[str, bytes] = {}
    came: list[str] = []

    def note(topic: str, payload: bytes, is_kept: bool) -> None:
        found.update({topic: payload} if is_kept else {})
        came.append(topic)

    with closing(Connection(parse_broker(broker.url("last")), note, topics=["#"])) as listener:
        listener.publish(b"x")  # comes behind all that is kept
        assert until(lambda: "last" in came)
    return found


def sink_at(broker: Mosquitto, account: str = "") -> HomeAssistant:
    spec = broker.url("gate", account).replace("mqtt:", "homeassistant:")
    sink = open_sink(spec, About("lite0", "1", can_teach=True))
    assert isinstance(sink, HomeAssistant)
    return sink


def event(label: str, state: str = "known") -> dict[str, Any]:
    return {"event": "class", "label": label, "state": state, "score": 0.9}


def frame(i: int) -> Frame:
    return Frame(id=str(i), encoded=build.encode(build.part_picture("washer", i)))


def options(broker: Mosquitto) -> list[str]:
    found = kept(broker).get(CONFIG)
    return [] if found is None else json.loads(found)["components"]["teach"]["options"]


def test_the_state_is_kept_and_the_will_says_when_it_is_gone(broker: Mosquitto) -> None:
    with closing(sink_at(broker)) as sink:
        sink.follow(Facts(("cup", "bolt"), "cup", 3, lost=frozenset({""})))
        sink.show(frame(1))
        sink.emit(event("cup"))
        assert until(lambda: "edgecl/gate/frame" in kept(broker))
        found = kept(broker)
        assert json.loads(found.pop("edgecl/gate/event")) == event("cup")
        assert found.pop("edgecl/gate/frame").startswith(b"\xff\xd8\xff")
        assert json.loads(found.pop(CONFIG))["components"]["seen"]["options"][:2] == ["cup", "bolt"]
        assert found == {
            "edgecl/gate/available": b"online",
            "edgecl/gate/teaching": b"cup",
            "edgecl/gate/to_review": b"3",
            "edgecl/gate/worse": b"OFF",
            "edgecl/gate/lost": b"ON",
        }
        assert (sink.n_sent, sink.n_dropped) == (1, 0)
    assert kept(broker)["edgecl/gate/available"] == b"offline"


def test_what_is_said_there_comes_back_as_labels(broker: Mosquitto) -> None:
    with closing(sink_at(broker)) as sink:
        sink.follow(Facts(("cup",)))
        assert until(lambda: bool(options(broker)))
        broker.send("edgecl/gate/labels", {"label": "cup", "from": 1.0}, {"label": None, "from": 2})
        broker.send("edgecl/gate/labels", {"command": "undo", "n": 10}, b"{")
        feed, found = sink.feed, []
        assert feed is not None
        assert until(lambda: found.extend(feed.poll()) or len(found) == 3)
        assert found == [LabelWindow("cup", 1), LabelWindow(None, 2), Command("undo", 10)]
        assert until(lambda: any("edgecl/gate/labels" in line for line in feed.news()))


def test_a_new_class_and_the_birth_of_home_assistant_describe_it_anew(broker: Mosquitto) -> None:
    came: list[bytes] = []
    listener = Connection(
        parse_broker(broker.url(CONFIG)), lambda topic, payload, is_kept: came.append(payload)
    )
    with closing(listener), closing(sink_at(broker)) as sink:
        sink.follow(Facts(("cup",)))
        assert until(lambda: len(came) == 1)
        sink.follow(Facts(("cup",), to_review=1))  # nothing of it is in the description
        sink.follow(Facts(("cup", "bolt"), to_review=1))
        assert until(lambda: len(came) == 2)
        broker.send("homeassistant/status", b"offline", b"online")
        assert until(lambda: len(came) == 3)
        assert came[1] == came[2] != came[0]


def test_a_broker_that_lost_all_is_told_all_again(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homeassistant, "_FIRST_WAIT_S", 0.1)
    with closing(sink_at(broker)) as sink:
        sink.follow(Facts(("cup",)))
        sink.emit(event("cup"))
        assert until(lambda: "edgecl/gate/event" in kept(broker))
        broker.kill()
        sink.emit(event("cup", "unsure"))
        broker.start()
        assert until(lambda: b"unsure" in kept(broker).get("edgecl/gate/event", b""))
        assert options(broker) == ["-", "cup"]


def test_pictures_come_once_a_second_at_most(broker: Mosquitto) -> None:
    came: list[bytes] = []
    listener = Connection(
        parse_broker(broker.url("edgecl/gate/frame")),
        lambda topic, data, kept: came.append(data),
    )
    with closing(listener), closing(sink_at(broker)) as sink:
        begin = time.monotonic()
        for i in range(40):
            sink.show(frame(i))
            sink.emit(event("cup", f"s{i}"))
            time.sleep(0.03)
        assert len(came) <= time.monotonic() - begin + 1
        assert until(lambda: came)


@pytest.mark.parametrize("is_running", [True, False])
def test_what_names_a_class_that_is_gone_is_taken_back(broker: Mosquitto, is_running: bool) -> None:
    sink = sink_at(broker)
    sink.follow(Facts(("cup", "bolt"), "cup"))
    sink.show(frame(1))
    sink.emit(event("cup"))
    assert until(lambda: "edgecl/gate/frame" in kept(broker))
    # Of a source that is not there any more.
    broker.send("edgecl/gate/yard/event", event("cup"), retain=True)
    if not is_running:
        sink.close()
    assert withdraw(sink.name, ["bolt"])
    assert until(lambda: options(broker) == ["-", "bolt"])
    found = kept(broker)
    assert not [t for t in found if t.rpartition("/")[2] in ("event", "frame", "teaching")]
    assert b"cup" not in b"".join(found.values())
    sink.close()


def test_a_broker_out_of_reach_is_said_to_be(broker: Mosquitto) -> None:
    address = f"mqtt://127.0.0.1:{broker.port}/edgecl/gate"
    broker.kill()
    begin = time.monotonic()
    assert not withdraw(address, [])
    assert time.monotonic() - begin < 60


def test_the_account_of_the_environment_is_taken_and_no_password_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = tmp_path / "accounts"
    accounts.touch()
    subprocess.run(
        ["mosquitto_passwd", "-b", str(accounts), "me", SECRET], check=True, capture_output=True
    )
    broker = Mosquitto(tmp_path, "allow_anonymous false", f"password_file {accounts}")
    try:
        sink = sink_at(broker, f"me:{SECRET}@")
        sink.follow(Facts(("cup",)))
        assert until(lambda: not sink._waiting)
        sink.close()
        assert not withdraw(sink.name, [])
        spec = broker.url("gate", f"me:{SECRET}@").replace("mqtt:", "homeassistant:")
        monkeypatch.setenv("EDGECL_EVENTS", spec)
        assert withdraw(sink.name, [])
        home = build.tiny_home(tmp_path / "home")
        with open_store(home) as store:
            note_published(store, sink.name)
            note_published(store, sink.name)
            assert [e.kind for e in exports_of(store)] == ["homeassistant"]
        written = b"".join(p.read_bytes() for p in home.path.rglob("*") if p.is_file())
        assert SECRET.encode() not in written
        assert b"edgecl/gate" in written
    finally:
        broker.kill()


@pytest.mark.parametrize("is_reached", [True, False])
def test_a_forget_without_a_stream_takes_back_what_the_last_run_published(
    taught_home: Path, copy_of: Callable[[Path], Path], broker: Mosquitto, is_reached: bool
) -> None:
    home = copy_of(taught_home)
    address = broker.url("gate").replace("mqtt:", "homeassistant:")
    done = build.run_edgecl(
        "train-stream", "synthetic:labels=0,frames=12,fps=20", "--home", home, "--events", address,
        "--vote", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "washer" in options(broker)
    if not is_reached:
        broker.kill()
    done = build.run_edgecl("forget", "class", "washer", "--home", home, "--yes")
    assert done.returncode == 0, done.stderr
    device = Device.open(home)
    if is_reached:
        assert "mqtt discovery: republished; history of receivers out of reach" in done.stdout
        assert "washer" not in options(broker)
        assert b"washer" not in b"".join(kept(broker).values())
        said = build.run_edgecl("receipt", "r1", "--home", home).stdout
        assert "the history of receivers is out of reach" in " ".join(said.split())
    else:
        assert "the broker was not reached" in done.stdout
        broker.start()  # one that kept all: this one keeps nothing over a restart
        teach = {"platform": "select", "options": ["washer"]}
        broker.send(CONFIG, {"components": {"teach": teach}}, retain=True)
        with open_store(device.home) as store:
            assert [e.status for e in exports_of(store)] == ["stale"]
            note_published(store, f"mqtt://127.0.0.1:{broker.port}/edgecl/gate")
            assert [e.status for e in exports_of(store)] == ["fresh"]
        assert options(broker) == ["-"]


def test_a_forget_beside_a_running_stream_is_taken_back_by_that(
    taught_home: Path, copy_of: Callable[[Path], Path], broker: Mosquitto
) -> None:
    home = copy_of(taught_home)
    address = broker.url("gate", f"me:{SECRET}@").replace("mqtt:", "homeassistant:")
    words = ["train-stream", "synthetic:labels=0,fps=20", "--home", home, "--events", address]
    code = "from edgecl.cli import main; main()"
    run = subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stderr=subprocess.PIPE)
    try:
        assert until(lambda: "washer" in options(broker))
        broker.send("edgecl/gate/labels", {"label": "washer"})
        assert until(lambda: kept(broker).get("edgecl/gate/teaching") == b"washer")
        done = build.run_edgecl("forget", "class", "washer", "--home", home, "--yes")
        assert done.returncode in (0, 3), (
            done.stderr
        )  # 3: not within ten seconds, on a busy machine
        assert until(lambda: "washer" not in options(broker))
        time.sleep(1.5)  # nothing of it comes again
        assert b"washer" not in b"".join(kept(broker).values())
        assert kept(broker)["edgecl/gate/available"] == b"online"
    finally:
        run.kill()
        run.wait()
        assert run.stderr is not None
        run.stderr.close()
    assert until(lambda: kept(broker)["edgecl/gate/available"] == b"offline")
