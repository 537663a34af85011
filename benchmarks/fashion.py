"""Accuracy on Fashion-MNIST, class by class in one pass, over three class orders.

12,000 pictures of the training set (the first 1,200 of each class), 4,000 of the test set (the
first 4,000), lite0 at 112 px with its default taps. All choices (taps, penalty, learning rate,
steps, replay) were made on other pictures of the training set: 1,200 a class from position 2,000
and 400 a class from 4,000 on (docs/decisions); nothing was tuned on what is reported here.

Run: python benchmarks/fashion.py
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import fashion_data
import numpy as np

from edgecl.backbones import load_backbone
from edgecl.config import Config, EvaluationConfig, HeadConfig, StoreConfig
from edgecl.exporters.onnx import init_home
from edgecl.heads import HEADS
from edgecl.heads.codebook import (
    N_FOR_KEYS,
    N_FOR_MEANS,
    default_codebook,
    make_codebook,
    make_whitening,
)
from edgecl.heads.linear import LAMBDA_PER_FEATURE, scale_of
from edgecl.home import Home
from edgecl.runtime.codebook import Keys
from edgecl.runtime.engines.base import EngineOptions
from edgecl.runtime.grid import quantise
from edgecl.runtime.pipeline import Embedded, embed
from edgecl.session import open_learner
from edgecl.store.store import Store, create_store
from edgecl.types import Frame

PER_CLASS, N_TEST, SEEDS = 1200, 4000, (0, 1, 2)
N_STORED = 1000
N_KEYS = 200


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        config = Config(
            store=StoreConfig(capacity_samples=N_STORED), evaluation=EvaluationConfig(probes=0)
        )
        home = init_home(Path(place) / "home", load_backbone(image_size=112), config)
        x, y = fashion_data.load("train")
        tx, ty = fashion_data.load("t10k")
        chosen = fashion_data.class_by_class(y, PER_CLASS, np.arange(10))
        frames = fashion_data.frames(x, y, chosen)
        features = _features(home, frames)
        test = _features(home, fashion_data.frames(tx, ty, np.arange(N_TEST)))
        test_labels = np.array([f"class-{c}" for c in ty[:N_TEST]])
        print(
            f"lite0 at 112 px, taps {home.manifest.taps}, {test.shape[1]} features; "
            f"{len(frames)} learned class by class, {N_TEST} tested; {N_STORED} stored samples"
        )
        print("| head | order 0 | order 1 | order 2 | mean | spread |\n|---|---|---|---|---|---|")
        agreements = []
        # Other pictures of the training set than those that are learned, labels not used.
        apart = fashion_data.class_by_class(y, N_KEYS, np.arange(10), skip=3200)
        unlabelled, stages = _features(home, fashion_data.frames(x, y, apart)), home.manifest.stages
        keys = make_codebook(unlabelled, whitening=make_whitening(unlabelled, stages, N_FOR_KEYS))
        free, sgd = (
            default_codebook(test.shape[1]),
            HeadConfig("key-value", options={"values": "sgd"}),
        )
        variants: list[tuple[str, HeadConfig, Keys | None]] = [
            (name, HeadConfig(name), free if name == "key-value" else None) for name in HEADS
        ]
        variants += [
            ("key-value, keys", HeadConfig("key-value"), keys),
            ("key-value, sgd", sgd, free),
            ("key-value, sgd, keys", sgd, keys),
            (
                "prototype, keys",
                HeadConfig("prototype"),
                make_whitening(unlabelled, stages, N_FOR_MEANS),
            ),
        ]
        for title, head, codebook in variants:
            scores = []
            for seed in SEEDS:
                order = _order(y[chosen], seed)
                file = Path(place) / f"{title}-{seed}.db"
                with _store(file, home, head.name, codebook) as store:
                    device = replace_head(home, head)
                    learner = open_learner(device, store)
                    for start in range(0, len(order), 20):
                        part = order[start : start + 20]
                        learner.learn_many([frames[i] for i in part], features[part])
                    learner.settle()
                    labels = np.array(learner.labels)
                    guesses = labels[learner.predict_many(test).argmax(axis=1)]
                scores.append(float((guesses == test_labels).mean()))
                if title == "ridge":
                    batch = _closed_form(features[order], y[chosen][order], test)
                    agreements.append(float((guesses == batch).mean()))
            cells = " | ".join(f"{s:.4f}" for s in scores)
            spread = max(scores) - min(scores)
            print(f"| {title} | {cells} | {np.mean(scores):.4f} | {spread:.4f} |")
        print(
            "ridge, same predictions as the batch closed form on the same features: "
            + ", ".join(f"{a:.2%}" for a in agreements)
        )


def replace_head(home: Home, head: HeadConfig) -> Home:
    """Return the home as if it had been made with another head; nothing is written."""
    device = Home(home.path)
    device.config = replace(home.config, head=head)
    return device


def _features(home: Home, frames: list[Frame]) -> np.ndarray:
    groups = embed(
        iter(frames), home.manifest.preprocessing, home.engine(options=EngineOptions(threads=2))
    )
    items = [item for group in groups for item in group]
    print(f"{len(items)} pictures embedded", file=sys.stderr)
    return np.array([item.feature for item in items if isinstance(item, Embedded)])


def _order(labels: np.ndarray, seed: int) -> np.ndarray:
    """Class by class; order 0 is 0..9, the others are random; random inside a class."""
    rng = np.random.default_rng(seed)
    classes = np.arange(10) if seed == 0 else rng.permutation(10)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == c)) for c in classes])


def _store(path: Path, home: Home, head: str, codebook: Keys | None) -> Store:
    create_store(
        path,
        feature_map=home.manifest.feature_map,
        num_features=home.manifest.num_features,
        second_moment=HEADS[head].statistic.name,
        codebook=codebook,
    )
    return Store(path, capacity_samples=N_STORED)


def _closed_form(x: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Ridge on all features at once, by a plain solve."""
    rows = quantise(x).astype(np.float64)
    mean, scale = rows.mean(axis=0), scale_of(rows.var(axis=0))
    z = (rows - mean) / scale
    targets = (y[:, None] == np.arange(10)).astype(np.float64)
    d = z.shape[1]
    weights = np.linalg.solve(
        z.T @ z + LAMBDA_PER_FEATURE * d * np.eye(d), z.T @ (targets - targets.mean(axis=0))
    )
    scores = (test - mean) / scale @ weights + targets.mean(axis=0)
    return np.array([f"class-{c}" for c in scores.argmax(axis=1)])


if __name__ == "__main__":
    main()
