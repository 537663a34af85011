"""What it costs that a learned sample survives a pulled plug.

The same stream is learned with `synchronous=FULL`, as the store does it, and with OFF, which leaves
the flushing to the operating system: features given, 2224 wide, ten classes, the ridge head, and
pictures of a few kilobytes that displace each other. Rounds of both alternate in one run, on the
disk that is named. A step is one frame: its embedding by a home's engine, which is measured between
the rounds, and its share of a commit. One flush of a small file says what the disk itself takes.

Run: python benchmarks/durability.py HOME --folder PLACE-ON-A-DISK
(HOME: any home with the default backbone; it is not written.)
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import io
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from edgecl.heads import make_head
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.preprocess import decode
from edgecl.store.progress import Position
from edgecl.store.store import Store, create_store
from edgecl.types import Frame

D, N_CLASSES = 2224, 10
CAPACITY, N_WARM, N_FRAMES = 100, 100, 300
COMMITS = (1, 16)
MODES = ("FULL", "OFF")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("."))
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    frames, x = _stream()
    home = Home(arguments.home)
    engine = home.engine()
    embeddings: list[float] = []
    flushes: list[float] = []
    mean_kb = np.mean([len(f.encoded or b"") for f in frames]) / 1e3
    times: dict[tuple[int, str], list[np.ndarray]] = {(n, m): [] for n in COMMITS for m in MODES}
    for i in range(arguments.rounds):
        for n_commit in COMMITS:
            embeddings += _embed_ms(home, engine, frames)
            flushes += _flush_ms(arguments.folder)
            for mode in MODES if i % 2 == 0 else MODES[::-1]:
                taken = _learn(arguments.folder, frames, x, n_commit, mode)
                times[n_commit, mode].append(taken)
    embed_ms = float(np.median(embeddings))
    print(f"File system: {_file_system(arguments.folder)}. Pictures: {mean_kb:.1f} kB.")
    print(
        f"Embedding one picture: {embed_ms:.2f} ms, one flush of 4 kB: {np.median(flushes):.2f} ms "
        f"(medians). Rounds: {arguments.rounds} of each.\n"
    )
    print(
        "| frames a commit | learn, FULL: median (mean) ms a frame | OFF | durability, ms | "
        "share of a step, median (mean) |"
    )
    print("|---|---|---|---|---|")
    for n_commit in COMMITS:
        full, off = (np.concatenate(times[n_commit, mode]) for mode in MODES)
        medians, means = ([f(full), f(off)] for f in (np.median, np.mean))
        shares = [(a - b) / (embed_ms + a) for a, b in (medians, means)]
        print(
            f"| {n_commit} | {medians[0]:.2f} ({means[0]:.2f}) | {medians[1]:.2f} ({means[1]:.2f}) "
            f"| {medians[0] - medians[1]:.2f} ({means[0] - means[1]:.2f}) "
            f"| {shares[0]:.1%} ({shares[1]:.1%}) |"
        )


def _learn(
    folder: Path, frames: list[Frame], x: np.ndarray, n_commit: int, mode: str
) -> np.ndarray:
    """Learn the stream into a new store; returns milliseconds a frame of every commit."""
    times = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "device.db"
        create_store(path, feature_map="f" * 64, num_features=D, second_moment="full")
        with Store(path, capacity_samples=CAPACITY) as store:
            store.connection.execute(f"PRAGMA synchronous = {mode}")
            learner = Learner(store, make_head("ridge", D))
            for start in range(0, N_WARM + N_FRAMES, n_commit):
                part = slice(start, start + n_commit)
                begin = time.perf_counter()
                position = ("stream", Position(part.stop, b"", False))
                learner.learn_many(frames[part], x[part], position=position)
                if start >= N_WARM:
                    times.append((time.perf_counter() - begin) * 1e3 / n_commit)
    return np.array(times)


def _embed_ms(home: Home, engine: OnnxEngine, frames: list[Frame]) -> list[float]:
    """Return milliseconds from picture bytes to a feature, one picture at a time."""
    times = []
    for frame in frames[:30]:
        begin = time.perf_counter()
        picture = decode(frame.encoded or b"")
        engine.run(home.manifest.preprocessing.tensor(picture)[None])
        times.append((time.perf_counter() - begin) * 1e3)
    return times[10:]


def _flush_ms(folder: Path) -> list[float]:
    """Return milliseconds of appending 4 kB to a file and flushing it."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(20):
            begin = time.perf_counter()
            os.write(file.fileno(), bytes(4096))
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - begin) * 1e3)
    return times


def _stream() -> tuple[list[Frame], np.ndarray]:
    """Return frames of ten classes in turn and features in clusters."""
    rng = np.random.default_rng(0)
    n = N_WARM + N_FRAMES
    y = np.arange(n) % N_CLASSES
    centres = rng.uniform(0, 2, (N_CLASSES, D))
    x = np.maximum(centres[y] + rng.normal(0, 0.5, (n, D)), 0).astype(np.float32)
    frames = []
    for i, c in enumerate(y):
        coarse = Image.fromarray(rng.integers(0, 255, (14, 14, 3), np.uint8))
        out = io.BytesIO()
        coarse.resize((112, 112), Image.Resampling.BICUBIC).save(out, "JPEG")
        frames.append(Frame(str(i), encoded=out.getvalue(), label=f"class-{c}", time=1e9 + i))
    return frames, x


def _file_system(folder: Path) -> str:
    """Return kind and device of the file system that holds a folder."""
    place = folder.resolve()
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    found = [m for m in mounts if place.is_relative_to(m[1])]
    device, _, kind = max(found, key=lambda m: len(m[1]))[:3]
    return f"{kind} on {device}"


if __name__ == "__main__":
    main()
