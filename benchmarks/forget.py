"""Time and exactness of `forget class` on 10 classes x 1,000 samples, d = 1,280.

Generated features of the size of lite0's last layer, small PNG pictures. After the unlearning the
head is compared with one that learned the nine other classes only. With `--retrain` the same home
is then taught the nine classes anew from its store: every kept picture is embedded (lite0, 112 px),
the head learns the features, and an adapter is trained on the pictures (4 epochs), as it would
have to be without exact statistics.

Run: python benchmarks/forget.py [--retrain]
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

from edgecl.adapters.bottleneck import RANK
from edgecl.backbones import Backbone, load_backbone
from edgecl.config import Config, EvaluationConfig, HeadConfig, StoreConfig
from edgecl.consolidation import consolidate
from edgecl.exporters.onnx import init_home
from edgecl.heads import HEADS, make_head
from edgecl.home import Home
from edgecl.session import Session, open_learner, open_store
from edgecl.types import ForgetRequest, Frame
from edgecl.unlearning.request import forget

N_CLASSES, PER_CLASS = 10, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--retrain", action="store_true", help="time learning the rest anew, too")
    options = parser.parse_args()
    print("| head | forget, whole s | head's part s | rows erased | max gap / max weight |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for name in HEADS:
            config = Config(
                store=StoreConfig(capacity_samples=10_000),
                head=HeadConfig(name),
                evaluation=EvaluationConfig(probes=0),
            )
            backbone = load_backbone(image_size=112, taps=())
            home = init_home(Path(place) / name, backbone, config, adapter_rank=RANK)
            seconds = _measure(home, name)
            if options.retrain and name == "ridge":
                _retrain(home, backbone, seconds)


def _measure(home: Home, name: str) -> float:
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
    print(f"| {name} | {seconds:.2f} | {done.head_seconds:.2f} | {rows} | {gap} |", flush=True)
    return seconds


def _retrain(home: Home, backbone: Backbone, forgotten_s: float) -> None:
    """Learn what is kept anew, head and adapter, and compare the time with the unlearning's."""
    with home.lock(), open_store(home) as store:
        session = Session(home, store)
        learner = session.learner
        begin = time.perf_counter()
        session.embed(session.engine, [uid for uid, _ in store.stored_samples()], store.picture)
        learner.head.rebuild(store)
        learner.head.settle(store)
        head_s = time.perf_counter() - begin
        done = consolidate(session, backbone)
    whole_s = head_s + done.seconds
    print(
        f"\nlearning the rest anew from the store ({done.samples} pictures trained on): features "
        f"and head {head_s:.1f} s, adapter {done.seconds:.1f} s; the unlearning took "
        f"{forgotten_s:.2f} s: {whole_s / forgotten_s:.0f} times less (without adapter "
        f"{head_s / forgotten_s:.0f} times)\n",
        flush=True,
    )


if __name__ == "__main__":
    main()
