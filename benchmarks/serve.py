"""What cameras in a house cost: four sources against one, and a still scene with motion on.

Prints two tables, on a home with prepared pictures of 480 x 480, given by threads of this process.
(1) One camera that is faster than the engine, and four that together give as many frames, in turns:
frames taken a second, processor time of each, and how they are shared out. (2) A camera before a
still scene, with a camera's noise, at 15 frames a second as pixels and as JPEGs: processor time of
the process with and without `motion=0.02`, and of the camera alone.

Run: python benchmarks/serve.py [--image-size N] [--seconds S]
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import io
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from edgecl.config import LiveConfig
from edgecl.exporters.setup import Setup, set_up
from edgecl.home import Home
from edgecl.runtime.options import Options, Part
from edgecl.runtime.sources import Source
from edgecl.runtime.sources.live import LiveSource, Shot
from edgecl.runtime.sources.several import Several
from edgecl.runtime.sources.synthetic import parse_pattern
from edgecl.runtime.sources.viewed import ViewedSource
from edgecl.session import open_learner, open_store
from edgecl.store.progress import Position
from edgecl.stream.progress import Progress
from edgecl.stream.run import learn_stream

SIZE = 480
N_PICTURES = 100
N_PAIRS = 5
# Opening the engine and the store is no part of a scene.
BEGINNING_S = 3.0
STILL_FPS = 15.0
# Of a camera in the light, grey levels.
NOISE = 2.0
# Four cameras of 30 a second: more than the engine takes, so that it is what limits.
TOTAL_FPS = 120.0


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description="Cameras in a house.")
    parser.add_argument("--image-size", type=int, default=224, help="of the backbone, pixels")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each row")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        home = set_up(Path(place) / "home", Setup(image_size=options.image_size))
        home.save_config(replace(home.config, live=LiveConfig(duplicate_cosine=1.0)))
        sources(home, options.seconds)
        still_scene(home, options.seconds)


class Camera:
    """A connection that gives prepared pictures at a rate, over and over."""

    def __init__(self, shots: Sequence[Shot], fps: float) -> None:
        self._shots, self._fps = shots, fps
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Shot]:
        due, i = time.monotonic(), 0
        while not self._closed.is_set():
            yield self._shots[i % len(self._shots)]
            i, due = i + 1, due + 1 / self._fps
            self._closed.wait(max(0.0, due - time.monotonic()))

    def close(self) -> None:
        """End it."""
        self._closed.set()


def camera(shots: Sequence[Shot], fps: float) -> LiveSource:
    """Return a camera as a source."""
    return LiveSource("camera", lambda _: Camera(shots, fps))


def sources(home: Home, seconds: float) -> None:
    """Print how fast one source and four sources are learned, in turns."""
    pattern = parse_pattern(f"synthetic:size={SIZE},classes=4,hold=10")
    shots = [Shot(pixels=pattern.picture(i), label=pattern.label(i)) for i in range(N_PICTURES)]
    print("| sources | frames/s each | taken/s | processor ms/frame | p50 ms | stale | of each |")
    print("|---|---|---|---|---|---|---|")
    fps = TOTAL_FPS
    ratios = []
    for _ in range(N_PAIRS):
        rates = []
        for n in (1, 4):
            parts = [Part(f"s{i}", f"camera:{i}") for i in range(n)]
            share = fps / n
            source: Source = camera(shots, fps)
            if n > 1:
                source = Several(parts, lambda url, share=share: camera(shots, share))  # type: ignore[misc]
            last, busy = streamed(home, source, seconds)
            ms = busy * 1e3 / last.samples_per_second
            rates.append(last.samples_per_second)
            each = ", ".join(str(counts["seen"]) for counts in last.by_source.values())
            print(
                f"| {n} | {share:.1f} | {rates[-1]:.1f} | {ms:.1f} | {last.p50_ms or 0:.0f} | "
                f"{last.stale / last.seen:.1%} | {each} |",
                flush=True,
            )
        ratios.append(rates[1] / rates[0])
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"\nfour against one: {median(ratios):.2f} of the rate, the median of {each}\n")


def still_scene(home: Home, seconds: float) -> None:
    """Print the processor time of a still scene with and without motion."""
    print("| still scene, 15/s | camera alone % | motion off % | motion on % | on / off |")
    print("|---|---|---|---|---|")
    for kind in ("pixels", "JPEG"):
        shots = still_shots(is_jpeg=kind == "JPEG")
        begin = time.process_time()
        give(camera(shots, STILL_FPS), seconds)
        alone = (time.process_time() - begin) / seconds
        shares = []
        for motion in (0.0, 0.02):
            source = ViewedSource(camera(shots, STILL_FPS), Options(motion=motion))
            last, busy = streamed(home, source, seconds)
            shares.append(busy)
            print(f"  {kind}, motion {motion}: seen {last.seen}, still {last.still}", flush=True)
        print(
            f"| {kind} | {alone:.1%} | {shares[0]:.1%} | {shares[1]:.1%} | "
            f"{shares[1] / shares[0]:.1%} |",
            flush=True,
        )


def still_shots(*, is_jpeg: bool) -> list[Shot]:
    """Return pictures of one scene under noise."""
    scene = parse_pattern(f"synthetic:size={SIZE}").picture(0).astype(np.int16)
    rng = np.random.default_rng(0)
    shots = []
    for _ in range(N_PICTURES):
        noisy = np.clip(scene + rng.normal(0, NOISE, scene.shape), 0, 255).astype(np.uint8)
        if is_jpeg:
            out = io.BytesIO()
            Image.fromarray(noisy).save(out, "JPEG", quality=85)
            shots.append(Shot(encoded=out.getvalue()))
        else:
            shots.append(Shot(pixels=noisy))
    return shots


def give(source: LiveSource, seconds: float) -> None:
    """Take the frames of a source, and do nothing with them."""
    threading.Timer(seconds, source.close).start()
    for _ in source.frames():
        pass


def streamed(home: Home, source: Source, seconds: float) -> tuple[Progress, float]:
    """Learn a live source for so long.

    Returns:
        Where it ended, and the processor time of a second once it has begun.
    """
    begin = time.monotonic()
    busy: list[tuple[float, float]] = []

    def is_over() -> bool:
        now = time.monotonic()
        if now - begin > BEGINNING_S and not busy:
            busy.append((now, time.process_time()))
        return now - begin > seconds + BEGINNING_S

    with home.lock(), open_store(home) as store:
        learner, engine = open_learner(home, store), home.engine()
        *_, last = learn_stream(
            home,
            learner,
            engine,
            source,
            key="benchmark",
            start=Position(0, b"", False),
            should_stop=is_over,
        )
        busy.append((time.monotonic(), time.process_time()))
    return last, (busy[-1][1] - busy[0][1]) / (busy[-1][0] - busy[0][0])


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
