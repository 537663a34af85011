"""An MJPEG server with a real video file, in a process of its own that is killed and comes back."""

from __future__ import annotations

import gc
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from needs import require_opencv

from edgecl.runtime.preprocess import picture_of
from edgecl.runtime.sources import open_source
from edgecl.runtime.sources.live import LiveSource
from edgecl.types import Frame
from peers import free_port, process

pytestmark = pytest.mark.live
SERVER = Path(__file__).with_name("mjpeg_server.py")


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 100 frames of 96 x 64, written by OpenCV as JPEGs in an AVI file."""
    cv2 = require_opencv()

    path = tmp_path_factory.mktemp("video") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (96, 64))
    rng = np.random.default_rng(0)
    for i in range(100):
        picture = rng.integers(0, 60, (64, 96, 3), np.uint8)
        cv2.circle(picture, (i % 96, 32), 12, (0, 200, 255), -1)
        writer.write(picture)
    writer.release()
    return path


def number(frame: Frame) -> int:
    assert frame.encoded is not None
    found = re.search(rb"frame (\d+)", frame.encoded[:64])
    assert found is not None
    return int(found[1])


def rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def n_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_10000_frames_over_20_kills_none_twice_with_flat_memory(video: Path) -> None:
    n_lives, n_each = 20, 510
    port = free_port()
    source = open_source(f"http://127.0.0.1:{port}/live")
    assert isinstance(source, LiveSource)
    source.first_wait_s = source.longest_wait_s = 0.05
    got: list[int] = []
    ids: set[str] = set()
    frames = source.frames()
    before = None
    first = 0
    for life in range(n_lives):
        with process(sys.executable, SERVER, port, video, first, 2000):
            goal = source.counts.received + n_each
            while source.counts.received < goal:
                frame = next(frames)
                assert isinstance(frame, Frame)
                assert picture_of(frame, max_pixels=10_000).size == (96, 64)
                got.append(number(frame))
                ids.add(frame.id)
        # Killed in the middle of whatever it sent. What had arrived is taken; then it comes back,
        # and sends once more what it sent last.
        time.sleep(0.05)
        if life == 0:
            gc.collect()
            before = rss_mb(), n_descriptors()
        first = max(0, got[-1] - 2)
    frames.close()
    gc.collect()
    counts = source.counts
    assert before is not None
    growth = rss_mb() - before[0], n_descriptors() - before[1]
    print(f"{counts}, {len(got)} frames taken, RSS {growth[0]:+.1f} MB, descriptors {growth[1]:+d}")
    assert counts.received >= 10_000
    assert counts.reconnects == n_lives - 1
    assert counts.repeated > 0
    assert got == sorted(set(got))
    assert len(ids) == len(got)
    assert growth[0] < 20
    assert growth[1] <= 0
