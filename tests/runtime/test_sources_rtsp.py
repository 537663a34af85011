"""RTSP and RTMP, also over TLS: who is asked what before FFmpeg is."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from needs import require_opencv

from edgecl.errors import SourceError
from edgecl.runtime.sources import open_source
from edgecl.runtime.sources.live import LiveSource
from edgecl.types import Frame
from peers import Call, certificate, peer

SECRET = "S3CRET"
OK = "RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"


class Capture:
    """Stands where `cv2.VideoCapture` would; gives a few grey pictures."""

    def __init__(self) -> None:
        self.n = 0

    def isOpened(self) -> bool:
        return True

    def grab(self) -> bool:
        return True

    def read(self) -> tuple[bool, Any]:
        self.n += 1
        return self.n < 4, np.full((4, 4, 3), self.n, np.uint8)

    def release(self) -> None:
        pass


@pytest.fixture
def opened_by_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    require_opencv()
    targets: list[str] = []

    def open_capture(target: str, *more: object) -> Capture:
        targets.append(target)
        return Capture()

    monkeypatch.setattr("edgecl.runtime.sources.opencv.open_capture", open_capture)
    monkeypatch.setattr("edgecl.runtime.sources.opencv._SETTLE_S", 0.0)
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "")  # restored, whatever is set meanwhile
    monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS")
    return targets


def opened(url: str) -> LiveSource:
    source = open_source(url)
    assert isinstance(source, LiveSource)
    source.first_wait_s = source.longest_wait_s = source.refused_wait_s = 0.02
    return source


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return context


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "RTSPS"])
def test_rtsp_is_described_and_then_opened(
    scheme: str, opened_by_ffmpeg: list[str], tls: ssl.SSLContext
) -> None:
    is_encrypted = scheme.lower() == "rtsps"
    with peer(lambda call: call.send(OK), tls=tls if is_encrypted else None) as server:
        source = opened(server.url("/live", user="me:p@ss", scheme=scheme))
        assert isinstance(next(source.frames()), Frame)
        source.close()
        bare = server.url("/live", scheme=scheme.lower())
    assert server.calls[0].head.startswith(f"DESCRIBE {bare} RTSP/1.0\r\n")
    assert opened_by_ffmpeg[0] == bare.replace("://", "://me:p%40ss@")
    options = os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS", "")
    assert ("tls_verify;1|ca_file;" in options) == is_encrypted


@pytest.mark.parametrize("scheme", ["rtmp", "rtmps"])
def test_rtmp_is_reached_and_then_opened(
    scheme: str, opened_by_ffmpeg: list[str], tls: ssl.SSLContext
) -> None:
    with peer(Call.until_closed, tls=tls if scheme == "rtmps" else None) as server:
        source = opened(server.url("/live/cam", scheme=scheme))
        assert isinstance(next(source.frames()), Frame)
        source.close()
        assert opened_by_ffmpeg[0] == server.url("/live/cam", scheme=scheme)


@pytest.mark.parametrize("scheme", ["rtsps", "rtmps"])
def test_a_certificate_that_cannot_be_trusted_is_an_error_at_once(
    scheme: str, opened_by_ffmpeg: list[str], tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with peer(lambda call: call.send(OK), tls=tls) as server:
        with pytest.raises(SourceError, match=f"SSL_CERT_FILE, or use {scheme[:-1]}://") as caught:
            next(opened(server.url(user=f"me:{SECRET}", scheme=scheme)).frames())
    assert SECRET not in str(caught.value)
    assert opened_by_ffmpeg == []


DIGEST = 'Digest realm="cam", NONCE, qop="auth"'


class RtspDoor:
    """A server that asks for a login and takes every answer to a nonce that is not used up.

    Args:
        challenges: The WWW-Authenticate headers, with NONCE in place of a new nonce.
        uses: 0 refuses all, 1 takes them.
    """

    def __init__(self, *challenges: str, uses: int = 1) -> None:
        self.challenges = challenges
        self.uses = uses
        self.left: dict[str, int] = {}
        self.n_proofs = 0
        self.seen = ""

    def __call__(self, call: Call) -> None:
        heads = call.head
        while True:
            found = re.search(r"^Authorization: (Digest|Basic) (.*)\r$", heads, re.MULTILINE)
            self.seen += heads
            if found is not None and found[1] == "Digest":
                given = {
                    k: v.strip('"') for k, v in re.findall(r'(\w+)=("[^"]*"|[^,\s]+)', found[2])
                }
                if self.left.get(given["nonce"], 0) > 0:
                    return call.send(OK)
            self.n_proofs += found is not None
            nonce = f"n{len(self.left)}"
            self.left[nonce] = self.uses
            texts = (c.replace("NONCE", f'nonce="{nonce}"') for c in self.challenges)
            asked = "".join(f"WWW-Authenticate: {text}\r\n" for text in texts)
            call.send(f"RTSP/1.0 401 Unauthorized\r\n{asked}\r\n")
            heads = call.socket.recv(4096).decode()
            if not heads:
                return None


@pytest.mark.parametrize(
    "headers", [(DIGEST,), ('Basic realm="x"', DIGEST), (DIGEST + ', Basic realm="x"',)]
)
def test_rtsp_asks_for_digest_and_never_gets_the_password(
    headers: tuple[str, ...], opened_by_ffmpeg: list[str]
) -> None:
    door = RtspDoor(*headers)
    with peer(door) as server:
        source = opened(server.url(user=f"me:{SECRET}", scheme="rtsp"))
        assert isinstance(next(source.frames()), Frame)
        source.close()
    assert "Authorization: Basic" not in door.seen


@pytest.mark.parametrize(
    ("headers", "line"),
    [
        (('Basic realm="x", ' + DIGEST,), "Basic and Digest in one line, where FFmpeg takes Basic"),
        ((DIGEST + ", algorithm=SHA-256",), "a Digest that FFmpeg does not know; a gst: pipeline"),
        ((DIGEST + ", algorithm=SHA-512-256",), "asks for Digest with SHA-512-256, which is not"),
    ],
)
def test_a_login_that_ffmpeg_would_do_wrongly_is_an_error_at_once(
    headers: tuple[str, ...], line: str, opened_by_ffmpeg: list[str]
) -> None:
    with peer(RtspDoor(*headers)) as server:
        with pytest.raises(SourceError, match=line) as caught:
            next(opened(server.url(user=f"me:{SECRET}", scheme="rtsp")).frames())
    assert SECRET not in str(caught.value)
    assert opened_by_ffmpeg == []


def test_a_wrong_password_over_rtsp_costs_two_proofs_at_most(opened_by_ffmpeg: list[str]) -> None:
    door = RtspDoor(DIGEST, uses=0)
    with peer(door) as server:
        with pytest.raises(SourceError, match=r"refuses this user or password \(401\)"):
            next(opened(server.url(user=f"me:{SECRET}", scheme="rtsp")).frames())
    assert door.n_proofs <= 2
