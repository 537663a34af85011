"""From the shutter to the stored sample: latency, rate and age of live frames; a long run.

Prints two tables. (1) A camera with prepared pictures and an MJPEG server on loopback (a process of
its own), slower and faster than the engine, on a home that has learned 1,100 rows: frames a second
of the engine alone on prepared tensors, one by one as a live source runs it, before and after, and
of the whole stream (take, decode, preprocess, engine, head, store, commit); time from the frame's
arrival to its commit; age of learned frames in frame times. (2) Ten thousand frames of an MJPEG
server that closes the connection twenty times and sends the last frames again: memory, descriptors,
pictures learned twice.

Run: python benchmarks/live.py [--image-size N] [--seconds S]
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import functools
import hashlib
import http.server
import io
import itertools
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgecl.backbones import load_backbone
from edgecl.config import Config, LiveConfig, StoreConfig
from edgecl.exporters.onnx import init_home
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.runtime.preprocess import decode
from edgecl.runtime.sources import Source, open_source
from edgecl.runtime.sources.live import LiveSource, Shot
from edgecl.runtime.sources.synthetic import parse_pattern
from edgecl.session import open_learner, open_store
from edgecl.store.progress import Position
from edgecl.stream.progress import Progress
from edgecl.stream.run import learn_stream
from edgecl.types import Frame

N_LONG = 10_000
N_RECONNECTS = 20
N_AGAIN = 5
N_FOLDED = 2000
N_PICTURES = 400
N_TAUGHT = 1100
SMALL, LARGE = 128, 480


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(*map(float, sys.argv[2:]))
        return
    parser = argparse.ArgumentParser(description="Latency, rate and age of live frames.")
    parser.add_argument("--image-size", type=int, default=112, help="of the backbone, pixels")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each row")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        _rates(Path(place), options.image_size, options.seconds)
        _long_run(Path(place))


def pictures(n: int, size: int) -> list[tuple[bytes, str]]:
    """Return encoded pictures of the pattern, each another, with their classes."""
    pattern = parse_pattern(f"synthetic:frames=1,classes=4,hold=40,size={size}")
    made = []
    for i in range(n):
        out = io.BytesIO()
        Image.fromarray(pattern.picture(i)).save(out, "JPEG", quality=85)
        made.append((out.getvalue(), pattern.label(i)))
    return made


class Camera:
    """A connection that gives prepared pictures at a rate."""

    def __init__(self, shots: list[tuple[bytes, str]], fps: float) -> None:
        self._shots = shots
        self._fps = fps
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Shot]:
        due = time.monotonic()
        for i in itertools.count():
            data, label = self._shots[i % len(self._shots)]
            yield Shot(encoded=data, label=label)
            due = max(due + 1 / self._fps, time.monotonic())
            if self._closed.wait(max(0.0, due - time.monotonic())):
                return

    def close(self) -> None:
        """End the wait for the next frame."""
        self._closed.set()


def serve(fps: float, n_frames: float, n_parts: float) -> None:
    """Serve MJPEG: so many frames over so many connections; each begins with the last few again."""
    shots = pictures(N_PICTURES, SMALL)
    n_sent = 0
    of_one = n_frames / n_parts

    class Stream(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            nonlocal n_sent
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
            self.end_headers()
            last = min(int(n_frames), n_sent + int(of_one))
            due = time.monotonic()
            for i in range(max(0, n_sent - N_AGAIN), last):
                # Behind the end of a JPEG anything may stand: a number makes each picture another.
                data = shots[i % len(shots)][0] + f"{i:08}".encode()
                head = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + data + b"\r\n")
                except OSError:
                    return
                n_sent = max(n_sent, i + 1)
                due = max(due + 1 / fps, time.monotonic())
                time.sleep(max(0.0, due - time.monotonic()))
            if n_sent >= n_frames:
                done.set()

    done = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stream)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    done.wait()


@contextmanager
def server(fps: float, n_frames: int, n_parts: int) -> Iterator[tuple[str, Any]]:
    """Start a server process; yields its address and the process."""
    words = [sys.executable, __file__, "--serve", str(fps), str(n_frames), str(n_parts)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/", process
        finally:
            process.kill()


def _home(path: Path, *, duplicates: float, image_size: int = 112) -> Home:
    config = Config(store=StoreConfig(), live=LiveConfig(duplicate_cosine=duplicates))
    return init_home(path, load_backbone(image_size=image_size), config)


def _engine_rate(home: Home, engine: Any, n: int = 300) -> float:
    pre = home.manifest.preprocessing
    tensors = [pre.tensor(decode(data))[None] for data, _ in pictures(20, SMALL)]
    begin = time.perf_counter()
    for i in range(n):
        engine.run(tensors[i % 20])
    return n / (time.perf_counter() - begin)


def _teach(learner: Learner, shots: list[tuple[bytes, str]]) -> None:
    """Learn so many rows that the next exact solve, due when they have doubled, is far away."""
    rng = np.random.default_rng(0)
    width = learner.head.num_features
    for start in range(0, N_TAUGHT, 100):
        part = [shots[(start + i) % len(shots)] for i in range(100)]
        frames = [
            Frame(id=f"{start + i}", encoded=data, label=label, source="before")
            for i, (data, label) in enumerate(part)
        ]
        learner.learn_many(frames, rng.uniform(0, 1, (100, width)).astype(np.float32))


def _stream(
    home: Home, source: Source, shots: list[tuple[bytes, str]], seconds: float
) -> tuple[float, Progress]:
    """Return frames learned a second from the first commit to the last, and where it ended."""
    with home.lock(), open_store(home) as store:
        learner = open_learner(home, store)
        _teach(learner, shots)
        first, end, latest = 0, float("inf"), 0.0
        begin = 0.0
        last = Progress()
        for last in learn_stream(
            home,
            learner,
            home.engine(),
            source,
            key="benchmark",
            start=Position(0, b"", False),
            should_stop=lambda: time.monotonic() > end,  # noqa: B023
        ):
            learned = last.learned + last.held_out
            if last.is_interrupted or not learned:
                continue
            latest = time.monotonic()
            if not first:
                first, begin, end = learned, latest, latest + seconds
    return (last.learned + last.held_out - first) / (latest - begin), last


def _rates(place: Path, image_size: int, seconds: float) -> None:
    print("| source | frames/s | engine alone | stream | ratio | p50 ms | p99 ms | ", end="")
    print("oldest learned, frame times | stale | dropped |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for i, (name, size, share) in enumerate(
        [
            ("camera, 128 px", SMALL, 0.5),
            ("camera, 128 px", SMALL, 1.25),
            ("camera, 128 px", SMALL, 1.5),
            ("camera, 128 px", SMALL, 4.0),
            ("camera, 480 px", LARGE, 1.5),
            ("mjpeg, 128 px", SMALL, 0.5),
            ("mjpeg, 128 px", SMALL, 1.5),
        ]
    ):
        shots = pictures(N_PICTURES, size)
        home = _home(place / str(i), duplicates=1.0, image_size=image_size)
        engine = home.engine()
        before = _engine_rate(home, engine)
        fps = share * before
        if name.startswith("camera"):
            connect = functools.partial(Camera, shots, fps)
            rate, last = _stream(home, LiveSource("camera", lambda _: connect()), shots, seconds)  # noqa: B023
        else:
            with server(fps, 10**9, 1) as (url, _):
                rate, last = _stream(home, open_source(url, label="red disc"), shots, seconds)
        alone = (before + _engine_rate(home, engine)) / 2
        print(
            f"| {name} | {fps:.0f} | {alone:.0f} | {rate:.0f} | {rate / min(alone, fps):.2f} | "
            f"{last.p50_ms:.1f} | {last.p99_ms:.1f} | {last.oldest:.2f} | "
            f"{last.stale / last.seen:.1%} | {last.dropped} |",
            flush=True,
        )


def _long_run(place: Path) -> None:
    home = _home(place / "long", duplicates=1.0)
    home.save_config(replace(home.config, store=StoreConfig(capacity_samples=500)))
    home = Home(home.path)
    fps = 0.9 * _engine_rate(home, home.engine())
    digests: Counter[bytes] = Counter()
    first, last_seen = (0.0, 0), Progress()
    with (
        server(fps, N_LONG, N_RECONNECTS + 1) as (url, process),
        home.lock(),
        open_store(home) as store,
    ):
        learner = open_learner(home, store)
        learn_many = learner.learn_many

        def noted(frames: Any, x: Any, **options: Any) -> Any:
            digests.update(hashlib.sha256(f.encoded).digest() for f in frames)
            return learn_many(frames, x, **options)

        learner.learn_many = noted  # type: ignore[method-assign]
        for last_seen in learn_stream(
            home,
            learner,
            home.engine(),
            open_source(url, label="thing"),
            key="benchmark",
            start=Position(0, b"", False),
            should_stop=lambda: process.poll() is not None,
        ):
            # By then the class's statistics were folded once, which takes its arrays of 25 MB each.
            if not first[1] and last_seen.learned >= N_FOLDED:
                first = (_rss_mb(), _n_descriptors())
        rss, n_descriptors = _rss_mb(), _n_descriptors()
    twice = sum(n > 1 for n in digests.values())
    print()
    print("| sent | taken | learned | stale | dropped | reconnects | learned twice | ", end="")
    print(f"RSS at {N_FOLDED} learned MB | growth MB | more descriptors |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    print(
        f"| {N_LONG} | {last_seen.seen} | {last_seen.learned + last_seen.held_out} | "
        f"{last_seen.stale} | {last_seen.dropped} | {last_seen.reconnects} | {twice} | "
        f"{first[0]:.0f} | {rss - first[0]:.1f} | {n_descriptors - first[1]} |"
    )


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _n_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
