"""Frigate, as its documentation says: a real broker, and a stand-in for its HTTP API.

Needs Debian's package mosquitto.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mosquitto import SECRET, Mosquitto
from patience import until

import build
from edgecl.errors import EdgeclError
from edgecl.runtime.frigate import parse_frigate, update_of
from edgecl.runtime.redact import redacted
from edgecl.runtime.sinks import open_sinks
from edgecl.runtime.sources import open_source
from edgecl.runtime.sources.frigate import FrigateSource
from edgecl.types import Frame, Skipped

pytestmark = pytest.mark.live
pytest.importorskip("paho.mqtt.client")


class StandIn:
    """Frigate's HTTP API: snapshots of events, and their sub labels."""

    def __init__(self, token: str = "") -> None:
        self.snapshots: dict[str, bytes] = {}
        self.sub_labels: list[tuple[str, dict[str, Any]]] = []
        self.asked: list[str] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def _is_let_in(self) -> bool:
                if token and self.headers.get("Authorization") != token:
                    self._answer(401, b"")
                    return False
                return True

            def do_GET(self) -> None:
                stand_in.asked.append(self.path)
                event = self.path.removeprefix("/api/events/").partition("/")[0]
                is_right = self.path == f"/api/events/{event}/snapshot.jpg?crop=1"
                if self._is_let_in():
                    data = stand_in.snapshots.get(event) if is_right else None
                    self._answer(404 if data is None else 200, data or b"{}")

            def do_POST(self) -> None:
                event, _, what = self.path.removeprefix("/api/events/").partition("/")
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self._is_let_in():
                    assert what == "sub_label"
                    assert self.headers["Content-Type"] == "application/json"
                    stand_in.sub_labels.append((event, json.loads(body)))
                    self._answer(200, b'{"success": true}')

            def _answer(self, status: int, data: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def frigate() -> Iterator[StandIn]:
    with closing(StandIn()) as found:
        yield found


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    found = Mosquitto(tmp_path, "allow_anonymous true")
    yield found
    found.kill()


def event(name: str, **after: Any) -> dict[str, Any]:
    """Return a message of `frigate/events` as the documentation has it, shortened."""
    values = {
        "id": name, "camera": "front", "frame_time": 1764000000.5, "label": "dog",
        "sub_label": None, "top_score": 0.9, "false_positive": False, "has_snapshot": True,
        "has_clip": False, "start_time": 1764000000.0, "end_time": None,
    }  # fmt: skip
    return {"type": "update", "before": values, "after": values | after}


def picture(part: str, i: int) -> bytes:
    return build.encode(build.part_picture(part, i))


def address(frigate: StandIn, broker: Mosquitto, more: str = "", account: str = "") -> str:
    place = f"frigate://{account}127.0.0.1:{frigate.port}?broker=127.0.0.1:{broker.port}"
    return place + (f"&{more}" if more else "")


class Taker:
    """A source whose frames are taken in a thread."""

    def __init__(self, source: FrigateSource) -> None:
        self.items: list[Frame | Skipped] = []
        self.error: BaseException | None = None
        self.source, self._frames = source, source.frames()
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        try:
            for item in self._frames:
                self.items.append(item)
        except BaseException as error:
            self.error = error

    def close(self) -> None:
        self.source.close()
        self._thread.join(90)


def send_until(broker: Mosquitto, message: dict[str, Any], is_there: Callable[[], bool]) -> None:
    """Send until it arrives: a subscription has no moment that the outside can see."""

    def check() -> bool:
        broker.send("frigate/events", message)
        threading.Event().wait(0.2)
        return is_there()

    assert until(check)


def test_the_crop_of_each_event_that_counts_is_a_frame(broker: Mosquitto, frigate: StandIn) -> None:
    frigate.snapshots = {f"1764000000.{i}-abc": picture("washer", i) for i in range(3)}
    first, second, other = frigate.snapshots
    spec = address(frigate, broker, "camera=front&label=dog")
    with closing(Taker(FrigateSource(spec, first_wait_s=0.1))) as taker:
        send_until(broker, event(first), lambda: bool(taker.items))
        broker.send("frigate/events", event(first))  # no better picture since
        broker.send("frigate/events", event(other, camera="yard"), event(other, label="cat"))
        broker.send("frigate/events", event(other, has_snapshot=False))
        broker.send("frigate/events", event(other, false_positive=True), b"{", event("../x"))
        broker.send("frigate/events", event("gone-1"))  # 404
        assert until(lambda: taker.source.counts.not_pictures >= 3)
        broker.send("frigate/events", event(second, frame_time=1764000009.0))
        assert until(lambda: len(taker.items) == 2)
        frigate.snapshots[first] = picture("washer", 9)
        broker.send("frigate/events", event(first))
        assert until(lambda: len(taker.items) == 3)
    frames = [item for item in taker.items if isinstance(item, Frame)]
    assert [f.thing for f in frames] == [first, second, first]
    assert len({f.id for f in frames}) == 3
    assert [f.encoded for f in frames] == [picture("washer", i) for i in (0, 1, 9)]
    assert [f.time for f in frames] == [1764000000.5, 1764000009.0, 1764000000.5]
    assert all(f.label is None and f.source == taker.source.name for f in frames)
    assert not any("yard" in path or "x" in path.split("/")[3] for path in frigate.asked)


def test_a_frigate_that_asks_for_a_login_gets_it_and_nobody_else(
    broker: Mosquitto, tmp_path: Path
) -> None:
    headers = tmp_path / "headers"
    headers.write_text(f"Authorization: Bearer {SECRET}\n")
    with closing(StandIn(f"Bearer {SECRET}")) as frigate:
        frigate.snapshots = {"a-1": picture("washer", 0)}
        with closing(Taker(FrigateSource(address(frigate, broker)))) as taker:
            send_until(broker, event("a-1"), lambda: taker.error is not None)
            assert "401" in str(taker.error)
        spec = address(frigate, broker, account=f"me:{SECRET}@")
        source = open_source(
            address(frigate, broker), headers={"Authorization": f"Bearer {SECRET}"}
        )
        assert isinstance(source, FrigateSource)
        with closing(Taker(source)) as taker:
            send_until(broker, event("a-1"), lambda: bool(taker.items))
            sink = open_sinks(None, [source])
            assert sink is not None
            sink.emit({"label": "cup", "state": "known", "score": 0.9, "object": "a-1"})
            sink.close()
            assert frigate.sub_labels == [("a-1", {"subLabel": "cup", "subLabelScore": 0.9})]
        assert SECRET not in redacted(spec) + FrigateSource(spec).name + repr(parse_frigate(spec))


@pytest.mark.parametrize("write", ["", "write=no"])
def test_the_answer_is_written_back_for_each_event_by_itself(
    taught_home: Path, broker: Mosquitto, frigate: StandIn, write: str
) -> None:
    parts = ("washer", "washer", "gasket")
    frigate.snapshots = {f"e-{i}": picture(part, 80 + i) for i, part in enumerate(parts)}
    words = ["predict", address(frigate, broker, write), "--home", taught_home, "--min-score", 0.1]
    words += ["--events", broker.url("frigate/front/classification/parts")]
    words += ["--event-format", "frigate", "--json"]
    names: list[bytes] = []
    from edgecl.runtime.broker import Connection, parse_broker

    listener = Connection(
        parse_broker(broker.url("frigate/front/classification/parts")),
        lambda topic, payload, is_kept: names.append(payload),
    )
    run = subprocess.Popen(
        [sys.executable, "-c", build.COMMAND, *map(str, words)], stdout=subprocess.PIPE
    )
    try:
        for i in range(3):
            send_until(broker, event(f"e-{i}"), lambda i=i: len(names) >= (1, 1, 2)[i])  # type: ignore[misc]
            if not write:
                assert until(lambda i=i: len(frigate.sub_labels) > i)  # type: ignore[misc]
    finally:
        run.terminate()
        out, _ = run.communicate(timeout=300)
        listener.close()
    assert names == [b"washer", b"gasket"]  # the bare name, when it changes
    written = [(name, body["subLabel"]) for name, body in frigate.sub_labels]
    assert written == ([] if write else [(f"e-{i}", part) for i, part in enumerate(parts)])
    assert all(0 < body["subLabelScore"] <= 1 for _, body in frigate.sub_labels)
    assert b'"state":"known"' in out.replace(b" ", b"")


@pytest.mark.parametrize(
    "spec",
    [
        f"frigate://me:{SECRET}@h/path",
        f"frigate://me:{SECRET}@h?camra=front",
        f"frigate://h?broker=me:{SECRET}@/x",
        f"frigate://me:{SECRET}@h?camera=a&camera=b",
        f"frigate://me:{SECRET}@h?write=maybe",
        f"frigate://me:{SECRET}@?camera=a",
    ],
)
def test_an_address_that_is_none_is_refused_without_its_password(spec: str) -> None:
    with pytest.raises(EdgeclError) as caught:
        parse_frigate(spec)
    assert SECRET not in str(caught.value) + redacted(spec)


def test_addresses() -> None:
    plain = parse_frigate("frigate://host")
    assert (plain.port, plain.broker.name) == (5000, "mqtt://host/frigate/events")
    whole = parse_frigate(
        "frigates://a:b%2Fc@host:8971?broker=mqtts%3A%2F%2Fu%3Ap%40b%3A99&topic=nvr&camera=x%20y"
    )
    assert (whole.is_encrypted, whole.port, whole.camera) == (True, 8971, "x y")
    assert (whole.broker.name, whole.broker.user) == ("mqtts://b:99/nvr/events", "u")
    assert whole.headers == {"Authorization": "Basic YTpiL2M="}
    assert parse_frigate("frigate://[::1]").broker.name == "mqtt://[::1]/frigate/events"


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b'{"after": 1}', b'{"after": {"id": 3, "camera": "a", "label": "b"}}',
                json.dumps(event("x" * 200)).encode(),
                json.dumps(event("a", frame_time="x")).encode()]
)  # fmt: skip
def test_what_is_no_event_is_refused(payload: bytes) -> None:
    with pytest.raises(EdgeclError):
        update_of(parse_frigate("frigate://host"), payload)
