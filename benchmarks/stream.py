"""Rate of the whole stream beside the engine alone, and latency of a step as the store fills.

Prints two tables: (1) pictures a second of the engine alone on prepared tensors and of the whole
stream (decode, preprocess, engine, store, head, commit) on the same pictures, interleaved in one
run; (2) median latency of a step with 1,000 to 20,000 stored samples.

Run: python benchmarks/stream.py
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import io
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import fashion_data
import numpy as np
from PIL import Image

from edgecl.backbones import load_backbone
from edgecl.config import Config, EvaluationConfig, StoreConfig
from edgecl.exporters.onnx import init_home
from edgecl.home import Home
from edgecl.runtime.preprocess import picture_of
from edgecl.runtime.sources import open_source
from edgecl.session import open_learner, open_store
from edgecl.store.progress import Position
from edgecl.stream.position import source_key
from edgecl.stream.run import learn_stream
from edgecl.types import Frame

N_PICTURES = 6000
ROUNDS = 3
LATENCY_AT = (1000, 5000, 10000, 20000)


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        for head in ("ridge", "uer"):
            home = _home(Path(place) / head, head)
            _rates(home, head, Path(place) / "pictures")
            _latency(home, head)


def _home(path: Path, head: str) -> Home:
    config = Config(
        store=StoreConfig(capacity_samples=20_000), evaluation=EvaluationConfig(probes=0)
    )
    config = replace(config, head=replace(config.head, name=head))
    return init_home(path, load_backbone(image_size=112), config)


def _rates(home: Home, head: str, folder: Path) -> None:
    pictures, labels = fashion_data.load("train")
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(labels))[:N_PICTURES]
    if not folder.exists():
        for i in chosen.tolist():
            path = folder / f"class-{labels[i]}" / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            large = Image.fromarray(pictures[i]).convert("RGB").resize((128, 128))
            large.save(path, quality=90)
    engine = home.engine()
    source = open_source(str(folder))
    tensors = [
        home.manifest.preprocessing.tensor(picture_of(frame))
        for frame in source.frames()
        if isinstance(frame, Frame)
    ]
    batch = home.config.engine.batch_size
    engine_rates, stream_rates = [], []

    def engine_alone() -> float:
        begin = time.perf_counter()
        for start in range(0, len(tensors), batch):
            engine.run(np.stack(tensors[start : start + batch]))
        return len(tensors) / (time.perf_counter() - begin)

    for _ in range(ROUNDS):
        # Before and after the stream, since the machine's speed drifts.
        before = engine_alone()
        with home.lock(), open_store(home) as store:
            learner = open_learner(home, store)
            key = source_key(home, str(folder), None, None)
            begin = time.perf_counter()
            *_, last = learn_stream(
                home, learner, engine, source, key=key, start=Position(0, b"", False)
            )
            stream_rates.append(last.seen / (time.perf_counter() - begin))
        engine_rates.append((before + engine_alone()) / 2)
    print(f"\n{head}: {N_PICTURES} JPEG files 128 x 128, lite0 at 112 px, engine with one thread")
    print("| round | engine alone, pictures/s | whole stream | ratio |\n|---|---|---|---|")
    for i, (e, s) in enumerate(zip(engine_rates, stream_rates, strict=True), start=1):
        print(f"| {i} | {e:.0f} | {s:.0f} | {s / e:.3f} |")
    ratios = np.array(stream_rates) / np.array(engine_rates)
    print(f"median ratio {np.median(ratios):.3f}")


def _latency(home: Home, head: str) -> None:
    """Fill the store with generated features and time single steps at several sizes."""
    rng = np.random.default_rng(0)
    picture = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(picture, "JPEG")
    data = picture.getvalue()
    width = home.manifest.num_features
    centres = rng.uniform(0, 2, (20, width)).astype(np.float32)
    print(f"\n{head}: one step = one frame, its own transaction")
    print("| stored samples | median ms | 90th percentile ms |\n|---|---|---|")
    with home.lock(), open_store(home) as store:
        learner = open_learner(home, store)
        n = sum(store.n_stored().values())
        medians = []
        for target in LATENCY_AT:
            while n < target:
                k = min(50, target - n)
                learner.learn_many(*_batch(rng, centres, data, k))
                n = sum(store.n_stored().values())
            times = []
            for _ in range(200):
                (frame,), x = _batch(rng, centres, data, 1)
                begin = time.perf_counter()
                learner.learn_one(frame, x[0])
                times.append((time.perf_counter() - begin) * 1e3)
            medians.append(float(np.median(times)))
            print(f"| {target} | {medians[-1]:.3f} | {np.percentile(times, 90):.3f} |")
            n = sum(store.n_stored().values())
        print(f"largest median over the smallest: {max(medians) / min(medians):.2f}")


def _batch(
    rng: np.random.Generator, centres: np.ndarray, data: bytes, n: int
) -> tuple[list[Frame], np.ndarray]:
    y = rng.integers(0, len(centres), n)
    x = np.maximum(centres[y] + rng.normal(0, 0.5, (n, centres.shape[1])), 0).astype(np.float32)
    frames = [
        Frame(id=f"{i}", encoded=data, label=f"part-{c}", source="benchmark")
        for i, c in enumerate(y.tolist())
    ]
    return frames, x


if __name__ == "__main__":
    main()
