"""What a topic carries and what a broker refuses, with a broker of a few lines on loopback."""

from __future__ import annotations

import base64
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest
from patience import until

import build
from edgecl.errors import SourceError, UsageError
from edgecl.runtime import sinks
from edgecl.runtime.broker import parse_broker
from edgecl.runtime.sinks import open_sink
from edgecl.runtime.sources import open_source
from edgecl.runtime.sources.labels import open_labels
from edgecl.runtime.sources.live import LiveSource
from edgecl.types import Frame

pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")

JPEG = build.encode(build.part_picture("bolt-m4", 0, 16))
PNG = build.encode(build.part_picture("bolt-m4", 0, 16), "PNG")
SECRET = "S3CRET"
NOT_NOW, WRONG_PASSWORD, NOT_ALLOWED = 3, 4, 5


def _taken(sock: socket.socket, n: int) -> bytes:
    out = b""
    while len(out) < n:
        piece = sock.recv(n - len(out))
        if not piece:
            raise OSError
        out += piece
    return out


def _packet(kind: int, body: bytes) -> bytes:
    length, out = len(body), b""
    while True:
        length, low = divmod(length, 128)
        out += bytes([low | (128 if length else 0)])
        if not length:
            return bytes([kind]) + out + body


@contextmanager
def broker(
    *payloads: bytes, answers: Callable[[int], int] = lambda n: 0, suback: int = 1
) -> Iterator[tuple[str, list[int]]]:
    """Serve MQTT 3.1.1 on loopback; yields the address of a topic and the answers given so far.

    Args:
        payloads: Published to who subscribes.
        answers: Gives the CONNACK code of each connection by its number.
        suback: Answer to a subscription.
    """
    given: list[int] = []
    sockets: list[socket.socket] = []

    def serve(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            while True:
                kind, length, shift = _taken(sock, 1)[0] >> 4, 0, 0
                while (byte := _taken(sock, 1)[0]) and shift < 28:
                    length |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                body = _taken(sock, length)
                if kind == 1:
                    given.append(answers(len(given)))
                    sock.sendall(_packet(0x20, bytes([0, given[-1]])))
                elif kind == 8:
                    sock.sendall(_packet(0x90, body[:2] + bytes([suback])))
                    for payload in payloads:
                        sock.sendall(_packet(0x30, b"\0\3cam" + payload))
                        time.sleep(0.05)
                elif kind == 12:
                    sock.sendall(_packet(0xD0, b""))

    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    sockets.append(server.accept()[0])
                    threading.Thread(target=serve, args=(sockets[-1],), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"mqtt://me:{SECRET}@127.0.0.1:{server.getsockname()[1]}/cam", given
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(60)
            for sock in sockets:
                sock.close()


def opened(url: str) -> LiveSource:
    source = open_source(url, label="x")
    assert isinstance(source, LiveSource)
    source.first_wait_s = source.longest_wait_s = source.refused_wait_s = 0.02
    return source


def b64(data: bytes) -> bytes:
    return base64.b64encode(data)


@pytest.mark.parametrize("picture", [JPEG, PNG], ids=["jpeg", "png"])
@pytest.mark.parametrize(
    "written",
    [
        lambda p: p,
        b64,
        lambda p: base64.encodebytes(p),
        lambda p: b"\r\n" + b64(p) + b"\r\n",
        lambda p: base64.urlsafe_b64encode(p),
        lambda p: b'"' + b64(p) + b'"',
        lambda p: b"data:image/jpeg;base64," + b64(p),
        lambda p: b'"data:image/png;base64,' + b64(p) + b'"',
        lambda p: json.dumps({"image": b64(p).decode()}).encode(),
    ],
    ids=["raw", "b64", "lines", "breaks", "url", "quoted", "data", "quoted data", "json"],
)
def test_a_picture_as_it_is_sent_to_a_topic(
    picture: bytes, written: Callable[[bytes], bytes]
) -> None:
    with broker(written(picture)) as (url, _):
        frame = next(opened(url).frames())
    assert isinstance(frame, Frame)
    assert frame.encoded == picture


@pytest.mark.parametrize(
    "payload", [b"online", b"offline1", b"AAAA" * 50, b"\0\1\2", b64(b"text" * 9)]
)
def test_what_is_no_picture_is_left_for_the_decoder_to_name(payload: bytes) -> None:
    with broker(payload) as (url, _):
        frame = next(opened(url).frames())
    assert isinstance(frame, Frame)
    assert frame.encoded == payload


@pytest.mark.parametrize(
    "payload", [b"data:image/jpeg,abc", b"data:image/jpeg;base64,a\xff", b"{}"]
)
def test_what_cannot_be_meant_is_counted_and_named(payload: bytes) -> None:
    with broker(payload, JPEG) as (url, _):
        source = opened(url)
        assert isinstance(next(source.frames()), Frame)
        assert source.counts.broken == 1
        (line,) = source.feed.news()  # type: ignore[attr-defined]
    assert line.startswith("a message on cam: ")


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (WRONG_PASSWORD, "refuses this user or password"),
        (NOT_ALLOWED, "refuses this user or password"),
    ],
)
def test_a_broker_that_refuses_is_an_error_at_once(code: int, line: str) -> None:
    with broker(answers=lambda n: code) as (url, given):
        with pytest.raises(SourceError, match=line) as caught:
            next(opened(url).frames())
        assert given == [code]
        nobody = url.replace(f"me:{SECRET}@", "")
        with pytest.raises(SourceError, match="no account; write USER:PASSWORD@ before its host"):
            next(opened(nobody).frames())
        with closing(open_labels(url)) as feed:

            def is_told() -> bool:
                try:
                    return bool(feed.poll())
                except SourceError as error:
                    return line in str(error) and SECRET not in str(error)

            assert until(is_told)
            time.sleep(0.1)
        assert given == [code] * 3
    assert SECRET not in str(caught.value)


def test_a_subscription_that_is_refused_is_an_error_at_once() -> None:
    with broker(suback=0x80) as (url, given):
        with pytest.raises(SourceError, match="refuses the subscription to this topic"):
            next(opened(url).frames())
        assert given == [0]


def test_a_broker_that_cannot_now_is_waited_for() -> None:
    with broker(JPEG, answers=lambda n: 0 if n else NOT_NOW) as (url, given):
        assert isinstance(next(opened(url).frames()), Frame)
        assert given == [NOT_NOW, 0]


def test_events_for_a_broker_that_refuses_do_not_hammer_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sinks, "_FIRST_WAIT_S", 0.01)
    with broker(answers=lambda n: NOT_ALLOWED) as (url, given), caplog.at_level(logging.WARNING):
        with closing(open_sink(url)) as sink:
            for i in range(5):
                sink.emit({"n": i})
            assert until(lambda: sink.n_dropped == 5)
        assert given == [NOT_ALLOWED]
    assert "refuses this user or password" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        f"mqtt://admin:Xa@{SECRET}/Zc@127.0.0.1:1/t", f"mqtt://u:{SECRET}/x@h/t",
        f"mqtt://u:12/{SECRET}@h/t", f"mqtt://u:{SECRET}/h", f"mqtts://u:{SECRET}/a@h/t",
    ],
)  # fmt: skip
def test_an_address_that_needs_escapes_says_so(url: str) -> None:
    for use in (open_source, open_labels, open_sink):
        with pytest.raises(UsageError, match=r"write / as %2F, \? as %3F, # as %23, @ as %40") as e:
            use(url)
        assert SECRET not in str(e.value)


def test_a_topic_with_an_at_sign_is_written_with_an_escape() -> None:
    found = parse_broker(f"mqtt://u:{SECRET}#?@h/a%40b/#")
    assert (found.topic, found.password, found.host) == ("a@b/#", f"{SECRET}#?", "h")
    assert found.name == "mqtt://h/a%40b/#"
