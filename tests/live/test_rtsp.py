"""RTSP through OpenCV, from GStreamer's server (Debian: gir1.2-gst-rtsp-server-1.0)."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from needs import require, require_opencv
from patience import PATIENCE_S, until

from edgecl.errors import SourceError
from edgecl.runtime.sources import open_source
from edgecl.runtime.sources.live import LiveSource
from edgecl.types import Frame
from peers import free_port, process

pytestmark = pytest.mark.live
SERVER = Path(__file__).with_name("rtsp_server.py")
# The bindings are Debian's, and so is the Python that they are for.
PYTHON = "/usr/bin/python3"
LOGIN = ("me", "S3CRET")


@cache
def has_server() -> bool:
    code = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst; "
    code += "Gst.init(None); assert Gst.ElementFactory.find('rtpjpegpay')"
    return (
        Path(PYTHON).exists()
        and subprocess.run([PYTHON, "-c", code], capture_output=True, check=False).returncode == 0
    )


@pytest.fixture(autouse=True)
def _needs() -> None:
    require_opencv()
    require(has_server(), "apt install gir1.2-gst-rtsp-server-1.0 python3-gi")


@pytest.fixture(autouse=True)
def _no_secret_is_printed(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """FFmpeg and OpenCV write to the descriptor itself."""
    yield
    out, err = capfd.readouterr()
    assert "S3CRET" not in out + err
    assert err == ""


def opened(port: int, login: str = "me:S3CRET@", path: str = "/live") -> LiveSource:
    source = open_source(f"rtsp://{login}127.0.0.1:{port}{path}")
    assert isinstance(source, LiveSource)
    source.first_wait_s = source.longest_wait_s = 0.2
    # On a machine so busy that no stream is opened in time it would be tried for ever.
    end = threading.Timer(300, source.close)
    end.daemon = True
    end.start()
    return source


def test_a_server_that_is_killed_and_comes_back_goes_on() -> None:
    port = free_port()
    source = opened(port)
    news: list[str] = []
    source.on_news = news.append
    frames = source.frames()
    ids: list[str] = []
    for _ in range(2):
        with process(PYTHON, SERVER, port, *LOGIN):
            for frame in itertools.islice(frames, 20):
                assert isinstance(frame, Frame)
                assert frame.pixels is not None
                assert frame.pixels.shape == (240, 320, 3)
                assert time.monotonic() - frame.monotonic < 30
                assert frame.source == f"rtsp://***@127.0.0.1:{port}/live"
                ids.append(frame.id)
            # A white ball on black.
            assert frame.pixels.max() > 200
            assert np.median(frame.pixels) < 40
    frames.close()
    assert len(set(ids)) == 40
    assert source.counts.reconnects == 1
    assert sum("connected" in line for line in news) == 2
    assert "S3CRET" not in "".join(news)


def test_a_server_that_freezes_is_a_stall_and_closing_does_not_wait_for_it() -> None:
    port = free_port()
    source = opened(port)
    source.stall_s = 1
    with process(PYTHON, SERVER, port, *LOGIN) as server:
        frames = source.frames()
        assert isinstance(next(frames), Frame)
        server.send_signal(signal.SIGSTOP)
        rest: list[object] = []
        waiting = threading.Thread(target=lambda: rest.extend(frames))
        waiting.start()
        assert until(lambda: source.counts.stalls)
        source.close()
        waiting.join(PATIENCE_S)  # the server stands still for longer
        assert not waiting.is_alive()
        server.send_signal(signal.SIGCONT)
    # The read that hung ends with its server.
    for thread in threading.enumerate():
        if thread.name in ("live", "capture"):
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("login", "path", "message"),
    [
        ("me:wrong-S3CRET@", "/live", "refuses this user or password"),
        ("", "/live", "asks for a user and a password"),
        ("me:S3CRET@", "/nothing", "answered 404; check the address"),
    ],
)
def test_what_a_server_refuses_is_told_at_once(login: str, path: str, message: str) -> None:
    port = free_port()
    with process(PYTHON, SERVER, port, *LOGIN), pytest.raises(SourceError, match=message) as caught:
        next(opened(port, login, path).frames())
    assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_program_that_ends_while_it_reads_ends_cleanly(is_frozen: bool) -> None:
    code = "import sys; from edgecl.runtime.sources import open_source; frames = open_source("
    code += "sys.argv[1]).frames(); next(frames); print('one', flush=True); sys.stdin.readline()"
    port = free_port()
    url = f"rtsp://me:S3CRET@127.0.0.1:{port}/live"
    with process(PYTHON, SERVER, port, *LOGIN) as server:
        with subprocess.Popen(
            [sys.executable, "-c", code, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "one\n"
            if is_frozen:
                server.send_signal(signal.SIGSTOP)
            _, err = child.communicate("\n", timeout=120)
            server.send_signal(signal.SIGCONT)
    assert (child.returncode, err) == (0, "")
