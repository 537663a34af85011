"""What continual evaluation costs: its share of a step, by head, classes and frames of a step.

Generated features of the default width, small PNG pictures, 20 probes of every class; with
`--probes 0` as many kept samples as are learned first, asked as if they had not been. A step is the
engine at 112 px on its frames, at most eight at once, and one `learn_many`. Steps just behind a new
class are scored each, later ones every tenth. Timed are the calls that the learner makes to its
probes; what the commit has to write more is the difference between two stores, with and without
probes, that learn the same by turns. All is time of the processor, so that other processes do not
count, nor do waits for the disk: with them a step is longer and the share less.

Run: python benchmarks/probes.py
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgecl.backbones import load_backbone
from edgecl.config import Config
from edgecl.exporters.onnx import init_home
from edgecl.heads import HEADS, make_head
from edgecl.learner import Learner
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.store.held_out import STEPS_AFTER_NEW, STEPS_BETWEEN
from edgecl.store.probes import held_out
from edgecl.store.store import Store, create_store
from edgecl.types import Frame

D, N_FILL, N_STEADY, N_NEW = 1752, 200, 100, 2
BATCH = 8
CALLS = ("choose", "add", "note_prediction", "note_latency", "end_step")


def main() -> None:
    parser = argparse.ArgumentParser(description="What continual evaluation costs.")
    parser.add_argument("--heads", default="ridge,uer")
    parser.add_argument("--classes", default="10,40")
    parser.add_argument("--probes", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        engine = init_home(Path(place) / "home", load_backbone(image_size=112), Config()).engine()
    titles = ("head", "classes", "frames a step", "when", "step, ms", "of it engine, ms",
              "evaluation, ms", "largest, ms", "share", "commit more, ms")  # fmt: skip
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for head in options.heads.split(","):
        for n_classes in map(int, options.classes.split(",")):
            with tempfile.TemporaryDirectory() as place:
                _measure(Path(place), head, n_classes, engine, options.probes)


def _measure(place: Path, head: str, n_classes: int, engine: OnnxEngine, n_probes: int) -> None:
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 2, (n_classes + 100, D)).astype(np.float32)
    learners = [_learner(place / f"{n}.db", head, n) for n in (None, n_probes)]
    spent = _timed(learners[1])

    def batch(y: np.ndarray) -> tuple[list[Frame], np.ndarray]:
        x = np.maximum(centres[y] + rng.normal(0, 0.5, (len(y), D)), 0).astype(np.float32)
        frames = [Frame(id=str(i), encoded=_PICTURE, label=f"part {c}") for i, c in enumerate(y)]
        return frames, x

    order = np.repeat(np.arange(n_classes), N_FILL)
    rng.shuffle(order)
    for start in range(0, len(order), 100):
        frames, x = batch(order[start : start + 100])
        for learner in learners:
            learner.learn_many(frames, x)
    assert min(held_out(learners[1].store).values()) == n_probes
    newest = n_classes
    for n in (1, 16):
        for when, n_steps in (("later", N_STEADY), ("behind a new class", STEPS_AFTER_NEW)):
            times: list[tuple[float, float, float, float]] = []
            for k in range(STEPS_BETWEEN):  # what steps of another size left to be scored
                _step(learners, *batch(rng.integers(0, newest, n)), spent, k, engine)
            for _ in range(1 if when == "later" else N_NEW):
                if when != "later":
                    newest += 1
                for k in range(n_steps):
                    y = rng.integers(0, newest, n)
                    if when != "later" and k % 2 == 0:
                        y[0] = newest - 1
                    times.append(_step(learners, *batch(y), spent, k, engine))
            plain, own, whole, embedding = np.array(times).T
            step = plain + embedding
            more = np.median(whole - own - plain)
            print(
                f"| {head} | {n_classes} | {n} | {when} | {step.mean() * 1e3:.1f} | "
                f"{embedding.mean() * 1e3:.1f} | "
                f"{own.mean() * 1e3:.2f} | {own.max() * 1e3:.2f} | "
                f"{own.sum() / step.sum():.1%} | {more * 1e3:.2f} |",
                flush=True,
            )
    for learner in learners:
        learner.store.close()


def _step(
    learners: list[Learner],
    frames: list[Frame],
    x: np.ndarray,
    spent: list[float],
    k: int,
    engine: OnnxEngine,
) -> tuple[float, float, float, float]:
    """Learn with both; returns seconds without probes, of the probes, with them, of the engine."""
    spent[0] = 0.0
    seconds = [0.0, 0.0]
    begin = time.thread_time()
    for start in range(0, len(frames), BATCH):
        engine.run(_PIXELS[: len(frames[start : start + BATCH])])
    embedding = time.thread_time() - begin
    for i in (0, 1) if k % 2 else (1, 0):
        begin = time.thread_time()
        learners[i].learn_many(frames, x)
        seconds[i] = time.thread_time() - begin
    return seconds[0], spent[0], seconds[1], embedding


def _timed(learner: Learner) -> list[float]:
    """Have a learner's calls to its probes add up their seconds in what is returned."""
    spent = [0.0]

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            begin = time.thread_time()
            try:
                return call(*arguments, **named)
            finally:
                spent[0] += time.thread_time() - begin

        return run

    for name in CALLS:
        setattr(learner.probes, name, timed(getattr(learner.probes, name)))
    return spent


def _learner(path: Path, head: str, n_probes: int | None) -> Learner:
    create_store(
        path, feature_map="f" * 64, num_features=D, second_moment=HEADS[head].statistic.name
    )
    return Learner(Store(path), make_head(head, D), probes=n_probes)


def _png() -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (28, 28, 3), np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


_PICTURE = _png()
_PIXELS = np.random.default_rng(1).normal(0, 1, (BATCH, 3, 112, 112)).astype(np.float32)


if __name__ == "__main__":
    main()
