"""Head only: predict one frame, then learn it, one thread, beside Avalanche's StreamingLDA.

Generated features in clusters (the arithmetic does not depend on their content), classes in turn.
All heads take the same features in the same run. The mean includes every solve and fold that fell
into the measured steps.

Run: pip install avalanche-lib; python benchmarks/head.py
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import time
import warnings
from collections.abc import Callable

import numpy as np
import torch

from edgecl.heads import HEADS, make_head

SIZES = ((1280, 40), (768, 100))
N_WARM, N_STEPS, N_PEER_STEPS = 2200, 1000, 30


def main() -> None:
    torch.set_num_threads(1)
    print("| d | C | head | median ms | mean ms | StreamingLDA ms / head ms |")
    print("|---|---|---|---|---|---|")
    for d, c in SIZES:
        rng = np.random.default_rng(0)
        n = N_WARM + N_STEPS
        y = np.arange(n) % c
        centres = rng.uniform(0, 2, (c, d))
        x = np.maximum(centres[y] + rng.normal(0, 0.5, (n, d)), 0).astype(np.float32)
        peer = _streaming_lda(x, y, d, c)
        for name in HEADS:
            times = _head(name, x, y, d)
            ratio = "-" if peer is None else f"{np.median(peer) / np.median(times):.0f}"
            print(f"| {d} | {c} | {name} | {np.median(times):.3f} | {times.mean():.3f} | {ratio} |")
        if peer is None:
            print(f"| {d} | {c} | StreamingLDA | not installed: pip install avalanche-lib | | |")
        else:
            print(f"| {d} | {c} | StreamingLDA | {np.median(peer):.1f} | {peer.mean():.1f} | 1 |")


def _head(name: str, x: np.ndarray, y: np.ndarray, d: int) -> np.ndarray:
    head = make_head(name, d)
    rng = np.random.default_rng(0)
    head.learn_many(x[:N_WARM], y[:N_WARM])

    def step(i: int) -> None:
        replay = None
        if head.n_replay:
            old = rng.integers(0, N_WARM, head.n_replay)
            replay = (x[old], y[old])
        head.predict_many(x[i : i + 1])
        head.learn_many(x[i : i + 1], y[i : i + 1], replay)

    return _times(step, range(N_WARM, N_WARM + N_STEPS))


def _streaming_lda(x: np.ndarray, y: np.ndarray, d: int, c: int) -> np.ndarray | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from avalanche.training.supervised.deep_slda import StreamingLDA
    except ImportError:
        return None
    peer = StreamingLDA(
        slda_model=torch.nn.Identity(),
        criterion=torch.nn.CrossEntropyLoss(),
        input_size=d,
        num_classes=c,
    )
    rows, labels = torch.from_numpy(x), torch.from_numpy(y)
    for i in range(c):
        peer.fit(rows[i], labels[i : i + 1])

    def step(i: int) -> None:
        peer.predict(rows[i : i + 1])
        peer.fit(rows[i], labels[i : i + 1])

    return _times(step, range(c, c + N_PEER_STEPS))


def _times(step: Callable[[int], None], which: range) -> np.ndarray:
    times = []
    for i in which:
        begin = time.perf_counter()
        step(i)
        times.append((time.perf_counter() - begin) * 1e3)
    return np.array(times)


if __name__ == "__main__":
    main()
