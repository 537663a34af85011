"""Events reach who asked for them; a receiver that is slow, gone or hostile holds up nothing."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from patience import until

from edgecl.errors import MissingPackageError, UsageError
from edgecl.runtime import senders, sinks
from edgecl.runtime.sinks import MAX_WAITING, open_sink, open_sinks
from edgecl.runtime.sources.headers import read_headers

SECRET = "hunter2"
TOKEN = "zq8w7e5r"


class Hook(ThreadingHTTPServer):
    """Takes what is posted; answers with the next status of a list, or 200."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.taken: list[tuple[str, dict[str, str], Any]] = []
        self.answers: list[int] = []
        self.hold = threading.Event()
        self.hold.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        self.server.hold.wait(90)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.answers.pop(0) if self.server.answers else 200
        self.server.taken.append((self.path, dict(self.headers), json.loads(body)))
        self.send_response(status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.hold.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(senders, "_TIMEOUT_S", 60)
    monkeypatch.setattr(sinks, "_CLOSE_S", 60)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What sinks have logged, and not what a thread of another test does."""
    return [r.getMessage() for r in caplog.records if r.name == sinks.__name__]


@pytest.mark.parametrize("spec", ["-", "http://h/x", "homeassistant://h/gate"])
def test_bare_names_are_for_topics(spec: str) -> None:
    with pytest.raises(UsageError, match="frigate is for mqtt"):
        open_sink(spec, format="frigate")
    with pytest.raises(UsageError, match="json, frigate"):
        open_sink("mqtt://h/x", format="xml")
    with pytest.raises(UsageError, match="--events"):
        open_sinks(None, [], format="frigate")


def test_standard_output_gets_one_line_an_event_in_order(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with closing(open_sink("-")) as sink:
        for i in range(20):
            sink.emit({"n": i, "label": "café\n"})
    lines = capfd.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [{"n": i, "label": "café\n"} for i in range(20)]
    assert (sink.n_sent, sink.n_dropped) == (20, 0)


def test_a_process_whose_output_nobody_reads_goes_on_and_ends() -> None:
    code = (
        "from edgecl.runtime.sinks import open_sink\n"
        "import sys\n"
        "sink = open_sink('-')\n"
        "for i in range(2000): sink.emit({'text': 'x' * 900})\n"
        "sink.close()\n"
        "print(sink.n_dropped > 1000, file=sys.stderr)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    assert child.stdout is not None
    with child, child.stderr, child.stdout:
        told = child.stderr.read()
        assert child.wait(120) == 0
    assert told.splitlines()[-1] == "True"
    assert told.count("are dropped") == 1


def test_a_closed_output_drops_and_tells_once() -> None:
    code = (
        "from edgecl.runtime.sinks import open_sink\n"
        "import os, sys\n"
        "sink = open_sink('-')\n"
        "for i in range(5): sink.emit({'n': i})\n"
        "sink.close()\n"
        "print(sink.n_sent, sink.n_dropped, file=sys.stderr)\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as out:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "0 5"
    assert done.stderr.count("are dropped") == 1


def test_a_webhook_gets_each_event_as_json_with_its_account(hook: Hook) -> None:
    url = hook.url.replace("//", f"//me:{SECRET}@") + "/hook?key=1"
    with closing(open_sink(url)) as sink:
        sink.emit({"label": "cup"})
        sink.emit({"label": "bolt"})
    assert [(path, event) for path, _, event in hook.taken] == [
        ("/hook?key=1", {"label": "cup"}),
        ("/hook?key=1", {"label": "bolt"}),
    ]
    headers = hook.taken[0][1]
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Basic bWU6aHVudGVyMg=="
    assert sink.n_sent == 2
    assert SECRET not in sink.name
    assert "key" not in sink.name


@pytest.mark.parametrize("account", ["", f"me:{SECRET}@"])
@pytest.mark.parametrize("status", [200, 401])
def test_a_webhook_gets_the_headers_of_a_file_which_nothing_shows(
    status: int, account: str, hook: Hook, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "headers").write_text(f"authorization: Bearer {TOKEN}\nX-From: line 3\n")
    hook.answers = [status]
    url = hook.url.replace("://", f"://{account}")
    with (
        caplog.at_level(logging.DEBUG),
        closing(open_sink(url, headers=read_headers(tmp_path / "headers"))) as sink,
    ):
        sink.emit({"n": 1})
    ((_, headers, event),) = hook.taken
    assert event["n"] == 1
    assert headers["Authorization"] == f"Bearer {TOKEN}"
    assert headers["X-From"] == "line 3"
    assert headers["Content-Type"] == "application/json"
    assert TOKEN not in caplog.text + sink.name + repr(sink)


@pytest.mark.parametrize("spec", ["-", "mqtt://127.0.0.1/events"])
def test_headers_are_for_a_webhook_only(spec: str) -> None:
    with pytest.raises(UsageError, match="belong to a webhook") as error:
        open_sink(spec, headers={"Authorization": f"Bearer {TOKEN}"})
    assert TOKEN not in str(error.value)


def test_a_webhook_that_is_busy_is_tried_again_and_no_event_comes_twice_after_success(
    hook: Hook,
) -> None:
    hook.answers = [503, 429, 200]
    with closing(open_sink(hook.url)) as sink:
        sink.emit({"n": 1})
        sink.emit({"n": 2})
    assert [event["n"] for _, _, event in hook.taken] == [1, 1, 1, 2]
    assert (sink.n_sent, sink.n_dropped) == (2, 0)


@pytest.mark.parametrize("status", [302, 400, 404])
def test_a_webhook_that_refuses_is_not_tried_again_and_no_redirect_is_followed(
    status: int, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    hook.answers = [status, status]
    with closing(open_sink(hook.url)) as sink:
        sink.emit({"n": 1})
        sink.emit({"n": 2})
    assert [(path, event["n"]) for path, _, event in hook.taken] == [("/", 1), ("/", 2)]
    assert (sink.n_sent, sink.n_dropped) == (0, 2)
    assert [f"it answers {status}" in line for line in told(caplog)] == [True]


def test_a_dead_webhook_holds_up_nobody_drops_and_shows_no_secret(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "_CLOSE_S", 0.5)
    with socket.socket() as place:  # bound, not listening
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
        with caplog.at_level(logging.DEBUG):
            sink = open_sink(f"http://me:{SECRET}@127.0.0.1:{port}/{SECRET}?k={SECRET}")
            begin = time.monotonic()
            for i in range(MAX_WAITING + 100):
                sink.emit({"n": i})
            assert time.monotonic() - begin < 30
            sink.close()
            assert time.monotonic() - begin < 60
            sink.close()
    assert sink.n_sent == 0
    assert sink.n_dropped == MAX_WAITING + 100
    assert len(told(caplog)) == 1
    assert SECRET not in caplog.text


def test_a_webhook_that_never_answers_drops_the_oldest(hook: Hook) -> None:
    hook.hold.clear()
    sink = open_sink(hook.url)
    for i in range(MAX_WAITING + 50):
        sink.emit({"n": i})
    assert sink.n_dropped >= 49
    hook.hold.set()
    assert until(lambda: bool(hook.taken) and hook.taken[-1][2]["n"] == MAX_WAITING + 49)
    sink.close()


def test_a_fault_of_ours_loses_one_event_and_not_those_behind_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Faulty:
        taken: ClassVar[list[str]] = []

        def send(self, text: str) -> None:
            if not self.taken:
                self.taken.append("")
                raise KeyError("state")
            self.taken.append(text)

        def close(self) -> None:
            pass

    sink = sinks.QueueSink("here", lambda stop: Faulty())
    for i in range(3):
        sink.emit({"n": i})
    sink.close()
    assert Faulty.taken == ["", '{"n":1}', '{"n":2}']
    assert (sink.n_sent, sink.n_dropped) == (2, 1)
    assert "KeyError" in caplog.text


def test_events_after_the_end_are_passed_over(hook: Hook) -> None:
    sink = open_sink(hook.url)
    sink.close()
    sink.emit({"n": 1})
    assert hook.taken == []


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "ftp://host/x",
        "file.jsonl",
        "http://",
        f"http://me:{SECRET}@",
        f"http://me:{SECRET}@host:port/",
        f"https://me:{SECRET}@ho st/",
        f"http://me:{SECRET}@[::1/",
        f"mqtt://me:{SECRET}@host",
        f"mqtt://me:{SECRET}@host:port/topic",
        f"mqtt://me:{SECRET}@host/a/#",
        f"mqtt://me:{SECRET}@host/a/+/b",
        f"mqtt://me:{SECRET}@/topic",
    ],
)
def test_what_is_no_sink_is_one_line_without_secrets(spec: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_sink(spec)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["mqtt://host/topic", "mqtts://host/topic"])
def test_a_topic_without_the_package_names_the_extra(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(MissingPackageError, match=r"edgecl\[mqtt\]"):
        open_sink(spec)
