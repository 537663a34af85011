"""GStreamer pipelines in a process of their own (Debian: gstreamer1.0-tools and plugins)."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import threading
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from needs import require
from patience import PATIENCE_S, until

from edgecl.errors import SourceError
from edgecl.runtime.sources import open_source
from edgecl.runtime.sources.live import LiveSource
from edgecl.types import Frame, Pixels

pytestmark = pytest.mark.live
PATTERN = "gst:videotestsrc is-live=true pattern={} ! video/x-raw,format={},width={},height={}"


@cache
def has_gstreamer() -> bool:
    return bool(shutil.which("gst-inspect-1.0")) and all(
        subprocess.run(["gst-inspect-1.0", "--exists", name], check=False).returncode == 0
        for name in ("videotestsrc", "videoconvert", "y4menc")
    )


@pytest.fixture(autouse=True)
def _needs() -> None:
    require(
        has_gstreamer(),
        "apt install gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good",
    )


def opened(spec: str) -> LiveSource:
    source = open_source(spec)
    assert isinstance(source, LiveSource)
    source.first_wait_s = source.longest_wait_s = 0.05
    return source


def pixels(source: LiveSource, n: int) -> list[Pixels]:
    frames = source.frames()
    out = []
    for frame in itertools.islice(frames, n):
        assert isinstance(frame, Frame)
        assert frame.pixels is not None
        out.append(frame.pixels)
    frames.close()
    return out


def children() -> list[int]:
    """Process ids of the pipelines that this process runs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition(") ")
        except OSError:
            continue
        if "gst-launch" in name and rest.split()[1] == str(os.getpid()):
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("format", ["RGB", "Y444"])
@pytest.mark.parametrize(("width", "height"), [(320, 240), (321, 41), (322, 40), (323, 43)])
def test_pictures_have_their_size_and_no_row_is_shifted(
    format: str, width: int, height: int
) -> None:
    for picture in pixels(opened(PATTERN.format("smpte75", format, width, height)), 2):
        assert picture.shape == (height, width, 3)
        bars = picture[: height // 2].astype(int)
        assert (bars == bars[:1]).all()  # upright bars: every row is the first
    assert children() == []


@pytest.mark.parametrize(
    ("pattern", "colour"), [("red", (255, 0, 0)), ("green", (0, 255, 0)), ("blue", (0, 0, 255))]
)
def test_colours_are_those_of_the_picture(pattern: str, colour: tuple[int, int, int]) -> None:
    (picture,) = pixels(opened(PATTERN.format(pattern, "RGB", 64, 48)), 1)
    assert np.abs(picture.astype(int) - colour).max() <= 4


def test_a_pipeline_that_dies_is_started_again_and_the_last_one_ends_with_the_source() -> None:
    source = opened(PATTERN.format("ball", "RGB", 64, 48))
    frames = source.frames()
    for n in range(3):
        assert isinstance(next(frames), Frame)
        (child,) = children()
        os.kill(child, signal.SIGKILL)
        end = time.monotonic() + PATIENCE_S
        while source.counts.reconnects <= n and time.monotonic() < end:
            next(frames)
    assert source.counts.reconnects == 3
    frames.close()
    assert children() == []


def test_a_pipeline_that_hangs_is_a_stall_and_does_not_outlive_its_source() -> None:
    source = opened("gst:appsrc ! video/x-raw,format=RGB,width=8,height=8,framerate=1/1")
    source.stall_s = 0.5
    frames = source.frames()
    waiting = threading.Thread(target=lambda: list(frames))
    waiting.start()
    assert until(lambda: source.counts.stalls >= 2)
    source.close()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()
    assert children() == []


def test_one_that_ignores_an_interrupt_is_killed() -> None:
    source = opened(PATTERN.format("ball", "RGB", 64, 48))
    frames = source.frames()
    next(frames)
    (child,) = children()
    os.kill(child, signal.SIGSTOP)
    begin = time.monotonic()
    frames.close()
    assert time.monotonic() - begin < 60
    assert children() == []


def test_a_pipeline_that_comes_to_its_end_ends_the_stream() -> None:
    frames = list(opened("gst:videotestsrc num-buffers=3").frames())
    assert 1 <= len(frames) <= 3
    assert children() == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gst:videotestsrc ! nosuch", 'no element "nosuch"'),
        ("gst:videotestsrc patern=ball", 'no property "patern"'),
        ("gst:v4l2src device=/dev/video77", "Cannot identify device"),
        ("gst:videotestsrc ! fakesink", "could not link"),
        ("gst:videotestsrc ! user-pw=S3CRET", "cannot run"),
    ],
)
def test_a_pipeline_that_cannot_run_is_one_line(spec: str, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        next(opened(spec).frames())
    assert "\n" not in str(caught.value)
    assert "S3CRET" not in str(caught.value)
    assert children() == []


def test_no_shell_reads_the_pipeline(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for text in (f"$(touch {trap})", f"`touch {trap}`", f"; touch {trap} ;", f"& touch {trap}"):
        with pytest.raises(SourceError):
            next(opened(f"gst:videotestsrc ! {text} ! videoconvert").frames())
    assert not trap.exists()
