"""What held-out pictures cost on small sets, and which estimate of accuracy is nearer the truth.

5 to 50 pictures a class of scikit-learn's digits and of Fashion-MNIST, by the default backbone at
112 px, head `ridge`, ten draws each. Either one of ten is held out, as `evaluation.probes = 20`
does, and says how good the head of the others is; or all are learned, and leave-one-out says it.
The truth is the accuracy of that head on pictures that neither ever saw.

Run: python benchmarks/held_out.py
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import tempfile
from collections.abc import Callable
from pathlib import Path

import few
import numpy as np
from unknown import Data

from edgecl.store.held_out import EVERY

SIZES = (5, 10, 20, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description="What held-out pictures cost.")
    parser.add_argument("--draws", default=10, type=int, help="Draws of each size.")
    parser.add_argument("--features", help="A .npz file that keeps features from run to run.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        pictures = few.Pictures(Path(options.features or Path(place) / "features.npz"))
    print(
        "| data | a class | held out: accuracy | it says | off by | all learned: accuracy "
        "| leave-one-out says | off by |\n" + "|---" * 8 + "|"
    )
    for name, drawn in (("digits", pictures.digits), ("fashion", pictures.fashion)):
        for n in SIZES:
            _measure(name, n, drawn, options.draws)


def _measure(name: str, n: int, drawn: Callable[[int], Data], n_draws: int) -> None:
    rows = []
    for seed in range(n_draws):
        data, rng = drawn(seed), np.random.default_rng(seed)
        own = [rng.permutation(np.flatnonzero(data.y == c))[:n] for c in np.unique(data.y)]
        # The 10th, 20th, ... picture of a class is held out; of five none is.
        n_held = [n // EVERY for _ in own]
        held = np.concatenate([o[:k] for o, k in zip(own, n_held, strict=True)])
        kept = np.concatenate([o[k:] for o, k in zip(own, n_held, strict=True)])
        part, whole = (
            few.FewRows(data.x[rows], data.y[rows]) for rows in (kept, np.concatenate([kept, held]))
        )
        left = float((whole.left_out.argmax(axis=1) == whole.targets).mean())
        said = part.accuracy(data.x[held], data.y[held]) if len(held) else np.nan
        rows.append((part.accuracy(data.tx, data.ty), said, whole.accuracy(data.tx, data.ty), left))
    a, says, b, left = np.array(rows).T
    # Of five pictures a class none is held out, and nothing is said.
    held_says = f"{says.mean():.3f} | {abs(says - a).mean():.3f}" if n >= EVERY else "- | -"
    print(
        f"| {name} | {n} | {a.mean():.3f} | {held_says} | {b.mean():.3f} | {left.mean():.3f} "
        f"| {abs(left - b).mean():.3f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
