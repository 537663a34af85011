"""Time and exactness of `forget class` on 10 classes x 1,000 samples, d = 1,280.

Generated features of the size of lite0's last layer, small PNG pictures. After the unlearning the
head is compared with one that learned the nine other classes only.

Run: python benchmarks/forget.py
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import io
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from edgecl.backbones import load_backbone
from edgecl.config import Config, HeadConfig, StoreConfig
from edgecl.exporters.onnx import init_home
from edgecl.heads import HEADS, make_head
from edgecl.home import Home
from edgecl.learner import open_learner, open_store
from edgecl.types import ForgetRequest, Frame
from edgecl.unlearning.request import forget

N_CLASSES, PER_CLASS = 10, 1000


def main() -> None:
    print("| head | forget, whole s | head's part s | rows erased | max gap / max weight |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for name in HEADS:
            config = Config(store=StoreConfig(capacity_samples=10_000), head=HeadConfig(name))
            backbone = load_backbone(image_size=64, taps=())
            _measure(init_home(Path(place) / name, backbone, config), name)


def _measure(home: Home, name: str) -> None:
    d = home.manifest.num_features
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 2, (N_CLASSES, d))
    y = np.arange(N_CLASSES * PER_CLASS) % N_CLASSES
    x = np.maximum(centres[y] + rng.normal(0, 0.5, (len(y), d)), 0).astype(np.float32)
    frames = []
    for i, c in enumerate(y.tolist()):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(out, "PNG")
        frames.append(Frame(id=str(i), encoded=out.getvalue(), label=f"part number {c}"))
    with home.lock(), open_store(home) as store:
        learner = open_learner(home, store)
        for start in range(0, len(y), 100):
            part = slice(start, start + 100)
            learner.learn_many(frames[part], x[part])
        learner.settle()
    begin = time.perf_counter()
    with home.lock(), open_store(home) as store:
        learner = open_learner(home, store)
        done = forget(home, learner, ForgetRequest("part number 4"))
        seconds = time.perf_counter() - begin
        ours = learner.head.scorer(store.names)
    gap = "not comparable: retrained on 9,000 stored samples"
    if name == "ridge":
        never = make_head(name, d)
        kept = y != 4
        never.learn_many(x[kept], y[kept] + 1)
        never.settle()
        theirs = never.scorer({c: f"part number {c - 1}" for c in range(1, 11)})
        assert theirs.labels == ours.labels
        largest = np.abs(ours.weights - theirs.weights).max()
        gap = f"{largest / np.abs(theirs.weights).max():.1g}"
    rows = sum(done.receipt.body["rows_erased"].values())
    print(f"| {name} | {seconds:.2f} | {done.head_seconds:.2f} | {rows} | {gap} |")


if __name__ == "__main__":
    main()
