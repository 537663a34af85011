"""What the page of `edgecl serve` costs the learner, and how soon it answers.

One process serves a home (default backbone at 224 px, ridge, two classes) whose camera gives frames
of 640 x 480 faster than they are taken; watchers of /api/v1/live are another process on another
core. `frames/s` is the learner's rate, which depends on what else the machine does; `page` the
processor time of the page's thread, encoding included, as a share of a core: what a learner on one
core loses to it. Then: from the moment a camera of 5 frames/s gives a frame to its picture and
answer at the page (`live`), from sending a 224 px JPEG to its answer (`frames`), the engine alone,
and bytes of the first load.

Run: python benchmarks/serve_page.py [--seconds 8]
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from edgecl.config import Config
from edgecl.device import Device
from edgecl.exporters.onnx import init_home
from edgecl.exporters.shipped import shipped
from edgecl.runtime.options import Part
from edgecl.runtime.sources.live import LiveBase
from edgecl.runtime.sources.several import Several
from edgecl.serve.browser import ADDRESS, NAME
from edgecl.serve.live import Live
from edgecl.serve.page.server import Page, Wire
from edgecl.serve.run import served
from edgecl.serve.serving import Serving
from edgecl.serve.teacher import Teacher
from edgecl.stream.queue import CommandQueue
from edgecl.stream.run import StreamOptions
from edgecl.types import Frame
from edgecl.unlearning.request import writing

WATCHERS = (0, 1, 4, 50)
WATCH = """
import asyncio, os, sys
port, token, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.sched_setaffinity(0, {int(sys.argv[4])})
async def watch():
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    writer.write(f"GET /api/v1/live HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\n"
                 f"Authorization: Bearer {token}\\r\\n\\r\\n".encode())
    while await reader.read(1 << 16):
        pass
async def main():
    await asyncio.gather(*[watch() for _ in range(n)])
asyncio.run(main())
"""


class Camera(LiveBase):
    """Gives eight pictures in turn."""

    def __init__(self, fps: float) -> None:
        super().__init__("camera")
        self.fps, self.closed = fps, threading.Event()
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 255, (8, 30, 40, 3), np.uint8)
        self._pictures = [np.asarray(Image.fromarray(c).resize((640, 480))) for c in coarse]

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """Yield them until it is closed."""
        i = 0
        while not self.closed.wait(1 / self.fps):
            i += 1
            yield Frame(str(i), pixels=self._pictures[i % 8], source="camera", time=time.time())

    def close(self) -> None:
        """End it."""
        self.closed.set()


@contextmanager
def _served(folder: Path) -> Iterator[tuple[Page, Camera, Serving]]:
    engine = shipped("tf_efficientnet_lite0")
    assert engine is not None
    init_home(folder / "home", engine, Config())
    rng = np.random.default_rng(1)
    for name in ("cup", "bolt"):
        (folder / "pictures" / name).mkdir(parents=True)
        for i in range(8):
            coarse = Image.fromarray(rng.integers(0, 255, (9, 9, 3), np.uint8))
            coarse.resize((224, 224)).save(folder / "pictures" / name / f"{i}.jpg")
    device = Device.open(folder / "home")
    device.learn(str(folder / "pictures"))
    camera, serving = Camera(100.0), Serving(device, CommandQueue(), Live(), Teacher())

    def run() -> None:
        parts = [Part("camera", "camera:"), Part(NAME, ADDRESS)]
        source = Several(parts, lambda url: serving.browser if url == ADDRESS else camera)
        options = StreamOptions(show=serving.live.show)
        with (
            writing(device.home) as session,
            served(
                session, serving, source, options,
                should_stop=camera.closed.is_set, tell=lambda text: None,
            ) as run,
        ):  # fmt: skip
            deque(run, maxlen=0)

    thread = threading.Thread(target=run)
    thread.start()
    page = Page(serving, Wire("127.0.0.1:0"))
    page.start()
    try:
        yield page, camera, serving
    finally:
        page.close()
        camera.close()
        thread.join()


def _rate(page: Page, serving: Serving, n: int, seconds: float) -> tuple[float, float, float]:
    """Return frames a second, the share of a core for the page, and pictures sent a second."""
    watching = None
    if n:
        port, other = page.address.rpartition(":")[2], str(min(os.sched_getaffinity(0)) ^ 1)
        token = page.access.session("look")
        watching = subprocess.Popen([sys.executable, "-c", WATCH, port, token, str(n), other])
        while page._news.n_watchers < n:
            time.sleep(0.1)
        time.sleep(1)

    def seen() -> int:
        return int(serving.live.state.get("progress", {}).get("seen", 0))

    assert page._thread is not None
    assert page._thread.ident is not None
    clock = time.pthread_getcpuclockid(page._thread.ident)
    before, sent, begin = seen(), page._news.n_sent, time.monotonic()
    cpu = time.clock_gettime(clock)
    time.sleep(seconds)
    wall, cpu = time.monotonic() - begin, time.clock_gettime(clock) - cpu
    frames, sent = seen() - before, page._news.n_sent - sent
    if watching is not None:
        watching.kill()
        watching.wait()
        while page._news.n_watchers:
            time.sleep(0.1)
    return frames / wall, cpu / wall, sent / wall


def _record(response: HTTPResponse) -> dict[str, object]:
    head: dict[str, object] = json.loads(response.read(int.from_bytes(response.read(4), "big")))
    response.read(int(str(head["jpeg"])))
    return head


def _latencies(page: Page, camera: Camera) -> tuple[list[float], list[float]]:
    """Return ms from a camera's frame, and from a sent picture, to the answer."""
    port = int(page.address.rpartition(":")[2])
    headers = {"Authorization": f"Bearer {page.access.session('own')}"}
    camera.fps = 5.0
    peer = HTTPConnection("127.0.0.1", port)
    peer.request("GET", "/api/v1/live?source=camera", headers=headers)
    response, live = peer.getresponse(), []
    for i in range(45):
        taken = float(str(_record(response)["time"]))
        if i >= 5:
            live.append(1000 * (time.time() - taken))
    peer.close()
    out = io.BytesIO()
    rng = np.random.default_rng(2)
    Image.fromarray(rng.integers(0, 255, (28, 28, 3), np.uint8)).resize((224, 224)).save(
        out, "JPEG"
    )
    peer, sent = HTTPConnection("127.0.0.1", port), []
    camera.fps = 0.5
    for _ in range(60):
        begin = time.perf_counter()
        peer.request(
            "POST", "/api/v1/frames", out.getvalue(), headers | {"Content-Type": "image/jpeg"}
        )
        peer.getresponse().read()
        sent.append(1000 * (time.perf_counter() - begin))
        time.sleep(0.02)
    return live, sent[5:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="of each number of watchers")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder, _served(Path(folder)) as (page, camera, serving):
        time.sleep(3)
        found: dict[int, list[tuple[float, float, float]]] = {n: [] for n in WATCHERS}
        for _ in range(3):
            for n in WATCHERS:
                found[n].append(_rate(page, serving, n, seconds))
        print("| watchers | frames/s | page | pictures/s |\n|---|---|---|---|")
        for n, rows in found.items():
            rate, share, n_sent = np.median(np.array(rows), axis=0)
            print(f"| {n} | {rate:.1f} | {share:.1%} | {n_sent:.1f} |")
        live, sent = _latencies(page, camera)
        engine = serving.device.home.engine()
        x = np.zeros((1, 3, 224, 224), np.float32)
        alone = []
        for _ in range(30):
            begin = time.perf_counter()
            engine.run(x)
            alone.append(1000 * (time.perf_counter() - begin))
        for name, ms in (("live", live), ("frames", sent), ("engine", alone)):
            print(f"{name}: median {np.median(ms):.0f} ms, p95 {np.percentile(ms, 95):.0f} ms")
    root = files("edgecl.serve.page")
    parts = [
        f for f in root.joinpath("static").iterdir() if f.name.endswith((".js", ".css", ".svg"))
    ]
    weight = sum(len(f.read_bytes()) for f in [*parts, root.joinpath("templates", "page.html")])
    print(f"first load: {weight / 1000:.0f} kB in {len(parts) + 1} files at most")


if __name__ == "__main__":
    main()
