"""Unknown detection: 3 of 10 classes are never learned, and are to be told from the 7 that are.

scikit-learn's digits (1,200 learned, 597 tested) and Fashion-MNIST (the first 200 of each class of
the training set, the first 2,000 of the test set; the score was chosen on other pictures,
docs/decisions/0013-unknown.md), both by the default backbone at 112 px, five draws of three
classes. AUROC of the distance to the kept rows, and of each head's own best score and margin.

Run: python benchmarks/unknown.py
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import fashion_data
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from edgecl.backbones import load_backbone
from edgecl.calibration import bursts_of
from edgecl.config import Config
from edgecl.exporters.onnx import init_home
from edgecl.heads import HEADS, make_head
from edgecl.heads.codebook import default_codebook
from edgecl.heads.ridge import RidgeHead
from edgecl.heads.statistics import Gram
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.novelty import novelty_of, open_novelty
from edgecl.runtime.engines.base import EngineOptions
from edgecl.runtime.grid import quantise
from edgecl.runtime.novelty import directions
from edgecl.runtime.pipeline import Embedded, embed
from edgecl.store.store import Store, create_store
from edgecl.types import Frame

N_DRAWS, N_TRAIN_DIGITS, PER_CLASS, N_TEST = 5, 1200, 200, 2000


@dataclass
class Data:
    """Learned and tested features (N, D) with labels (N,)."""

    x: np.ndarray
    y: np.ndarray
    tx: np.ndarray
    ty: np.ndarray


def main() -> None:
    rng = np.random.default_rng(0)
    draws = [tuple(sorted(rng.permutation(10)[:3].tolist())) for _ in range(N_DRAWS)]
    with tempfile.TemporaryDirectory() as place:
        home = init_home(Path(place) / "home", load_backbone(image_size=112), Config())
        print(f"left out: {', '.join('/'.join(map(str, d)) for d in draws)}")
        print(
            "| data | head | known: accuracy | AUROC unknown | worst | AUROC best score | worst | "
            "AUROC margin | known called unknown | unknown found |\n" + "|---" * 10 + "|"
        )
        for name, data in (("digits", digits_of(home)), ("fashion", fashion_of(home))):
            for head in HEADS:
                rows = [
                    _measure(Path(place) / f"{name}-{head}-{i}.db", head, data, draw)
                    for i, draw in enumerate(draws)
                ]
                mean, worst = np.mean(rows, axis=0), np.min(rows, axis=0)
                print(
                    f"| {name} | {head} | {mean[0]:.3f} | {mean[1]:.3f} | {worst[1]:.3f} "
                    f"| {mean[2]:.3f} | {worst[2]:.3f} | {mean[3]:.3f} | {mean[4]:.1%} "
                    f"| {mean[5]:.1%} |",
                    flush=True,
                )
            _all_draws(name, data)
    _time()


def _measure(path: Path, head: str, data: Data, unknown: tuple[int, ...]) -> list[float]:
    """Learn the other classes; return accuracy, three AUROCs, and the two rates."""
    is_new = np.isin(data.ty, unknown)
    with _store(path, head, data.x.shape[1]) as store:
        options = {"codebook": store.codebook} if head == "key-value" else {}
        learner = Learner(store, make_head(head, data.x.shape[1], **options))
        learned = np.flatnonzero(~np.isin(data.y, unknown))
        picture = b"none"
        for start in range(0, len(learned), 20):
            part = learned[start : start + 20]
            frames = [
                Frame(str(i), encoded=picture, label=str(data.y[i]), source="s") for i in part
            ]
            learner.learn_many(frames, data.x[part])
        learner.settle()
        novelty = open_novelty(store, learner.head)
        scorer = learner.head.scorer(store.names)
    shares = scorer.probabilities(scorer.scores(data.tx))
    best = np.sort(shares, axis=1)
    guesses = np.array([int(label) for label in scorer.labels])[shares.argmax(axis=1)]
    scores = novelty.scores(data.tx)
    return [
        float((guesses == data.ty)[~is_new].mean()),
        roc_auc_score(is_new, scores),
        roc_auc_score(is_new, -best[:, -1]),
        roc_auc_score(is_new, best[:, -2] - best[:, -1]),
        float((scores > novelty.threshold)[~is_new].mean()),
        float((scores > novelty.threshold)[is_new].mean()),
    ]


def _all_draws(name: str, data: Data) -> None:
    """Print what `ridge` gives in all 120 draws: with its best score, and by distance alone."""
    statistic = Gram(data.x.shape[1])
    x = quantise(data.x)
    parts = {c: statistic.of(x[data.y == c]) for c in range(10)}
    names = {c: str(c) for c in range(10)}
    found = []
    for draw in combinations(range(10), 3):
        head = RidgeHead(data.x.shape[1])
        head.restore({c: part for c, part in parts.items() if c not in draw}, None)
        is_kept, is_new = ~np.isin(data.y, draw), np.isin(data.ty, draw)
        rows, y = x[is_kept], data.y[is_kept].astype(np.int64)
        best = head.left_out(rows, y, bursts_of(directions(rows), y)).scores.max(axis=1)
        line = []
        for args in ((), (best, head.scorer(names))):
            novelty = novelty_of(rows, y, names, *args)
            scores = novelty.scores(data.tx)
            is_far = scores > novelty.threshold
            line += [roc_auc_score(is_new, scores), is_far[~is_new].mean(), is_far[is_new].mean()]
        found.append(line)
    values = np.array(found)
    for i, what in ((0, "distance alone"), (3, "with the best score")):
        print(
            f"\n{name}, all {len(found)} draws, {what}: AUROC {values[:, i].mean():.3f}, worst "
            f"{values[:, i].min():.3f}; {values[:, i + 1].mean():.1%} of the known called unknown, "
            f"{values[:, i + 2].mean():.1%} of the unknown found",
            flush=True,
        )


def _time() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(1, 1, (2000, 2224)).astype(np.float16), rng.integers(1, 11, 2000)
    begin = time.perf_counter()
    novelty = novelty_of(x, y, {c: str(c) for c in range(1, 11)})
    made = time.perf_counter() - begin
    frame = x[:1].astype(np.float32)
    times = []
    for _ in range(500):
        begin = time.perf_counter()
        novelty.scores(frame)
        times.append((time.perf_counter() - begin) * 1e3)
    print(
        f"2,000 rows of 2,224 features: threshold in {made:.2f} s, one frame in "
        f"{np.median(times):.2f} ms (p99 {np.percentile(times, 99):.2f} ms)"
    )


def _store(path: Path, head: str, width: int) -> Store:
    create_store(
        path,
        feature_map="f" * 64,
        num_features=width,
        second_moment=HEADS[head].statistic.name,
        codebook=default_codebook(width) if head == "key-value" else None,
    )
    return Store(path)


def digits_of(home: Home) -> Data:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    pixels = (digits.images[order] * 255 / 16).astype(np.uint8)
    x, y = features_of(home, pixels), digits.target[order]
    n = N_TRAIN_DIGITS
    return Data(x[:n], y[:n], x[n:], y[n:])


def fashion_of(home: Home) -> Data:
    pictures, labels = fashion_data.load("train")
    chosen = fashion_data.class_by_class(labels, PER_CLASS, np.arange(10))
    chosen = np.random.default_rng(0).permutation(chosen)
    test, test_labels = fashion_data.load("t10k")
    return Data(
        features_of(home, pictures[chosen]),
        labels[chosen].astype(np.int64),
        features_of(home, test[:N_TEST]),
        test_labels[:N_TEST].astype(np.int64),
    )


def features_of(home: Home, pictures: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    frames = (
        Frame(str(i), pixels=p if p.ndim == 3 else np.repeat(p[:, :, None], 3, axis=2))
        for i, p in enumerate(pictures)
    )
    groups = embed(
        frames, home.manifest.preprocessing, home.engine(options=EngineOptions(threads=1))
    )
    found = [item.feature for group in groups for item in group if isinstance(item, Embedded)]
    print(f"{len(found)} pictures embedded", file=sys.stderr)
    return np.array(found)


if __name__ == "__main__":
    main()
