"""The page can never stop the stream: whatever is done to it costs itself only."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from patience import until

pytest.importorskip("uvicorn", reason="the extra web is not installed: uvicorn")
pytest.importorskip("starlette", reason="the extra web is not installed: starlette")

from asking import Site, opened, record
from served import ToyStream

import peers
from edgecl.device import Device
from edgecl.errors import HomeLockedError, MissingPackageError, RequestError, UsageError
from edgecl.serve.page import guard, server
from edgecl.serve.page.access import hashed
from edgecl.serve.page.server import Page, Wire

HASHES = {"own": hashed("long enough")}


def goes_on(stream: ToyStream, n: int = 3) -> bool:
    """Whether the stream takes frames, and does what it is asked."""
    seen = stream.serving.live.state.get("progress", {}).get("seen", 0)
    goes = until(lambda: stream.serving.live.state.get("progress", {}).get("seen", 0) >= seen + n)
    return goes and stream.serving.do("ask", lambda device: True).result(90)


def test_a_taken_port_is_one_line_before_anything_starts(site: Site):
    with pytest.raises(RequestError, match=rf"cannot listen on 127.0.0.1:{site.port} \(Address"):
        Page(site.stream.serving, Wire(f"127.0.0.1:{site.port}"))
    assert goes_on(site.stream)


@pytest.mark.parametrize(
    ("wire", "says"),
    [
        (Wire("localhost"), "no address; expected HOST:PORT"),
        (Wire("127.0.0.1:"), "no address"),
        (Wire("127.0.0.1:65536"), "no address"),
        (Wire("127.0.0.1:-1"), "no address"),
        (Wire("0.0.0.0:0"), "could read along; add --tls-cert and --tls-key, or --behind-proxy"),
        (Wire("[::]:0"), "could read along"),
        (Wire(f"{socket.gethostname()}:0"), "could read along"),
        (Wire("127.0.0.1:0", certificate=Path("x")), "belong together"),
        (Wire("127.0.0.1:0", key=Path("x")), "belong together"),
        (Wire("127.0.0.1:0", proxy="cam.example"), "expected https://HOST"),
        (Wire("127.0.0.1:0", proxy="http://cam.example"), "expected https://HOST"),
        (Wire("127.0.0.1:0", proxy="https://cam.example/path"), "expected https://HOST"),
        (Wire("127.0.0.1:0", proxy="https://"), "expected https://HOST"),
        (Wire("127.0.0.1:0", proxy="https://cam.example"), "set a password first"),
        (Wire("0.0.0.0:0", certificate=Path("x"), key=Path("x")), "set a password first"),
    ],
)
def test_an_address_that_may_not_be_used_like_this_is_refused(site: Site, wire: Wire, says: str):
    with pytest.raises(UsageError, match=says):
        Page(site.stream.serving, wire)


@pytest.mark.parametrize("content", ["", "no certificate", None])
def test_a_certificate_that_cannot_be_used_is_one_line(site: Site, tmp_path: Path, content):
    file = tmp_path / "cert.pem"
    if content is not None:
        file.write_text(content)
    wire = Wire("127.0.0.1:0", certificate=file, key=file)
    with pytest.raises(RequestError, match=r"cert\.pem .*cannot be used"):
        Page(site.stream.serving, wire)


def test_without_its_packages_the_page_names_the_extra(site: Site, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'edgecl\[web\]'"):
        Page(site.stream.serving, Wire("127.0.0.1:0"))


def test_from_elsewhere_it_speaks_tls_and_its_cookie_stays_there(toy: Path, tmp_path: Path):
    import ssl
    from http.client import HTTPSConnection

    cert = peers.certificate(tmp_path)
    wire = Wire("0.0.0.0:0", certificate=cert, key=cert)
    with opened(toy, tmp_path, wire, passwords=HASHES) as site:
        assert site.page.url.startswith(f"https://{socket.gethostname()}:{site.port}/login?token=")
        context = ssl.create_default_context(cafile=str(cert))
        peer = HTTPSConnection("127.0.0.1", site.port, context=context, timeout=90)
        link = site.page.url.partition(f":{site.port}")[2]
        peer.request("GET", link)
        answer = peer.getresponse()
        assert answer.status == 303
        assert "Secure" in answer.headers["set-cookie"]
        peer.close()
        with pytest.raises(OSError):  # noqa: PT011
            site.ask("GET", "/healthz").status  # noqa: B018


def test_a_proxy_is_named_and_nobody_else_is_it(toy: Path, tmp_path: Path):
    wire = Wire("127.0.0.1:0", proxy="https://cam.example")
    with opened(toy, tmp_path, wire, passwords=HASHES) as site:
        assert site.page.url.startswith("https://cam.example/login?token=")
        sent = {"Host": "cam.example", "Origin": "https://cam.example"}
        found = site.ask("POST", "/login", {"password": "long enough"}, headers=sent, role=None)
        assert found.json == {"role": "own"}
        assert "Secure" in found.headers["set-cookie"]
        for other in ({"Host": "evil.example"}, {"Host": "cam.example.evil.example"}):
            assert site.ask("GET", "/healthz", headers=other).status == 421
        bad = sent | {"Origin": "https://evil.example"}
        assert site.ask("POST", "/login", {"password": "x"}, headers=bad).status == 403


def test_a_fault_in_a_route_is_its_own(own_site: Site, monkeypatch, caplog):
    def broken(*args: object) -> None:
        raise ZeroDivisionError("cup")  # a name must not get into a log

    monkeypatch.setattr("edgecl.serve.page.reads.status_of", broken)
    with caplog.at_level(logging.ERROR):
        found = own_site.ask("GET", "/api/v1/status")
    assert found.status == 500
    assert set(found.json) == {"error", "exit"}
    assert "ZeroDivisionError" in caplog.text
    assert "cup" not in found.body.decode() + caplog.text
    assert goes_on(own_site.stream)
    monkeypatch.undo()
    assert own_site.ask("GET", "/api/v1/status").status == 200


def test_a_command_that_fails_is_its_askers_fault(own_site: Site, monkeypatch):
    def broken(device: Device) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(Device, "snapshot", broken)
    assert own_site.ask("POST", "/api/v1/snapshots", {}).status == 500
    assert goes_on(own_site.stream)


def test_a_page_whose_loop_is_killed_is_gone_and_the_stream_goes_on(own_site: Site):
    response = own_site.open("GET", "/api/v1/live")
    record(response)
    page = own_site.page
    assert page._news._loop is not None
    page._news._loop.call_soon_threadsafe(page._news._loop.stop)  # as a fault in asyncio would
    page._thread.join(90)
    assert not page._thread.is_alive()
    own_site.stream.serving.live.look()
    assert goes_on(own_site.stream, 5)
    with pytest.raises(OSError):  # noqa: PT011
        own_site.ask("GET", "/healthz")


def test_a_page_whose_loop_is_blocked_does_not_block_the_stream(own_site: Site):
    free = threading.Event()
    own_site.ask("GET", "/healthz")
    own_site.page._news._loop.call_soon_threadsafe(free.wait, 600)
    own_site.stream.serving.live.look()
    assert goes_on(own_site.stream, 10)
    for n in range(1000):  # what nobody takes does not fill the memory
        own_site.stream.serving.live.tell("event", {"n": n})
    assert len(own_site.page._news._inbox) <= 256
    free.set()
    assert own_site.ask("GET", "/healthz").status == 200


def test_a_listener_that_fails_is_not_heard(own_site: Site):
    def broken(kind: str, data: object) -> None:
        raise ValueError

    end = own_site.stream.serving.live.listen(broken)
    own_site.stream.serving.live.look()
    assert goes_on(own_site.stream, 5)
    end()


def test_a_client_that_never_reads_is_given_up(own_site: Site, monkeypatch):
    monkeypatch.setattr(guard, "SEND_S", 0.5)
    monkeypatch.setattr("edgecl.serve.page.news.News.record", lambda *_: b"x" * 1_000_000)
    news = own_site.page._news
    with socket.create_connection(("127.0.0.1", own_site.port), 90) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.sendall(
            f"GET /api/v1/live HTTP/1.1\r\nHost: 127.0.0.1:{own_site.port}\r\n"
            f"Authorization: Bearer {own_site.token}\r\n\r\n".encode()
        )
        assert until(lambda: news.n_sent)
        assert until(lambda: news.n_watchers == 0)
        assert goes_on(own_site.stream)


def test_a_watcher_that_goes_is_counted_out(own_site: Site):
    news = own_site.page._news
    responses = [own_site.open("GET", "/api/v1/live") for _ in range(3)]
    assert until(lambda: news.n_watchers == 3)
    for response in responses:
        response.close()
    own_site._open[0].close()
    for connection in own_site._open:
        connection.close()
    assert until(lambda: news.n_watchers == 0)


def test_fifty_watchers_get_pictures_and_no_more_than_there_is_time_for(own_site: Site):
    responses = [own_site.open("GET", "/api/v1/live") for _ in range(50)]
    assert all(record(response)[0]["n"] for response in responses)
    begin, sent = time.monotonic(), own_site.page._news.n_sent
    while time.monotonic() - begin < 2:
        for response in responses:
            record(response)
    n = own_site.page._news.n_sent - sent
    assert n < 60 * (time.monotonic() - begin) + 50  # 60 a second; each may just have begun
    assert goes_on(own_site.stream)


def test_a_body_that_does_not_come_is_not_waited_for(own_site: Site, monkeypatch):
    monkeypatch.setattr("edgecl.serve.page.context._BODY_S", 0.3)
    with socket.create_connection(("127.0.0.1", own_site.port), 90) as peer:
        peer.sendall(
            f"POST /api/v1/undo HTTP/1.1\r\nHost: 127.0.0.1:{own_site.port}\r\n"
            f"Authorization: Bearer {own_site.token}\r\nContent-Type: application/json\r\n"
            "Content-Length: 100\r\n\r\n{".encode()
        )
        assert b" 408 " in peer.recv(100)


def test_a_body_larger_than_it_says_is_cut(own_site: Site):
    with socket.create_connection(("127.0.0.1", own_site.port), 90) as peer:
        peer.sendall(
            f"POST /api/v1/undo HTTP/1.1\r\nHost: 127.0.0.1:{own_site.port}\r\n"
            f"Authorization: Bearer {own_site.token}\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        for _ in range(20):
            peer.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        assert b" 413 " in peer.recv(100)


def test_when_too_many_commands_wait_the_next_one_is_told(own_site: Site):
    held, serving = threading.Event(), own_site.stream.serving
    serving.do("hold", lambda device: held.wait(600))
    waiting = []
    with suppress(HomeLockedError):
        while True:
            waiting.append(serving.do("wait", lambda device: None))
    try:
        found = own_site.ask("POST", "/api/v1/snapshots", {})
        assert found.status == 409
        assert "commands wait" in found.json["error"]
    finally:
        held.set()
    waiting[-1].result(90)
    assert goes_on(own_site.stream)


def test_a_stream_that_is_busy_is_not_waited_for_without_end(own_site: Site, monkeypatch):
    monkeypatch.setattr("edgecl.serve.page.context._WRITE_S", 0.3)
    held, before = threading.Event(), len(own_site.get("snapshots"))
    own_site.stream.serving.do("hold", lambda device: held.wait(600))
    try:
        found = own_site.ask("POST", "/api/v1/snapshots", {})
        assert found.status == 409
        assert "nothing was done" in found.json["error"]
    finally:
        held.set()
    assert goes_on(own_site.stream)
    assert len(own_site.get("snapshots")) == before  # as it was said


def test_what_is_begun_is_not_said_to_be_undone(own_site: Site, monkeypatch):
    held, begun = threading.Event(), threading.Event()

    def slow(device: Device) -> None:
        begun.set()
        held.wait(600)

    monkeypatch.setattr(Device, "snapshot", slow)
    assert goes_on(own_site.stream)  # its engine is made
    for seconds in (2.0, 10.0, 50.0):  # until it is begun in time, on a machine that is busy
        monkeypatch.setattr("edgecl.serve.page.context._WRITE_S", seconds)
        found = own_site.ask("POST", "/api/v1/snapshots", {})
        if begun.is_set():
            break
        assert "nothing was done" in found.json["error"]
    held.set()
    assert found.status == 409
    assert "still at it" in found.json["error"]


def test_closing_ends_endless_answers(own_site: Site, monkeypatch):
    monkeypatch.setattr(server, "_PATIENCE_S", 60.0)
    live, events = own_site.open("GET", "/api/v1/live"), own_site.open("GET", "/events")
    record(live)
    begin = time.monotonic()
    own_site.page.close()
    live.read()
    events.read()
    assert time.monotonic() - begin < server._PATIENCE_S
    assert not own_site.page._thread.is_alive()
    assert goes_on(own_site.stream)
