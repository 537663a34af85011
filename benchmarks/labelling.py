"""Labels needed: frames named by usefulness, by novelty alone, and at random.

A person names ten frames of a pool at a time, beginning with one of each of two classes, until the
head reaches 90 % of the accuracy that it has with all labels. scikit-learn's digits (pool of 1,200,
597 tested, drawn anew by seed) and Fashion-MNIST (the first 2,000, the first 1,000 of the test
set), by the default backbone at 112 px, head `ridge`. Settings were chosen on other draws, and on
other pictures of Fashion-MNIST.

Run: python benchmarks/labelling.py
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

from edgecl.calibration import FEWEST, fitted_temperature
from edgecl.novelty import MIN_ROWS, novelty_of
from edgecl.runtime.scoring import LinearScorer, nearest_simplex, softmax
from edgecl.usefulness import by_usefulness

BATCH, SHARE = 10, 0.9
NAMES = {c: str(c) for c in range(10)}
Rule = Callable[[Data, np.ndarray, np.ndarray, few.FewRows, np.random.Generator], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description="Labels needed.")
    parser.add_argument("--seeds", default=3, type=int, help="Draws.")
    parser.add_argument("--first", default=0, type=int, help="Seed of the first.")
    parser.add_argument("--features", help="A .npz file that keeps features from run to run.")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    with tempfile.TemporaryDirectory() as place:
        pictures = few.Pictures(Path(options.features or Path(place) / "features.npz"))
    data = pictures.digits(options.first)
    print(f"largest difference to the shipped head: {few.check(data.x[:50], data.y[:50]):.0e}\n")
    print(
        "| data | all labels: accuracy | rule | labels to 90 % of it | mean | of random's |\n"
        + "|---" * 6 + "|"
    )  # fmt: skip
    for name, drawn in (("digits", pictures.digits), ("fashion", pictures.fashion)):
        _compare(name, [(seed, drawn(seed)) for seed in seeds])


def _compare(name: str, draws: list[tuple[int, Data]]) -> None:
    full = [few.FewRows(d.x, d.y).accuracy(d.tx, d.ty) for _, d in draws]
    by_random = 0.0
    for rule in (at_random, by_novelty, usefully):
        n = [labels_needed(d, rule, SHARE * f, s) for (s, d), f in zip(draws, full, strict=True)]
        by_random = by_random or float(np.mean(n))
        print(
            f"| {name} | {np.mean(full):.3f} | {rule.__name__.replace('_', ' ')} "
            f"| {', '.join(map(str, n))} | {np.mean(n):.0f} | {np.mean(n) / by_random:.2f} |",
            flush=True,
        )


def labels_needed(data: Data, rule: Rule, enough: float, seed: int) -> int:
    """Return how many labels there are when the head is as accurate as `enough`; all at most."""
    rng = np.random.default_rng(seed)
    two = rng.permutation(np.unique(data.y))[:2]
    named = np.array([rng.choice(np.flatnonzero(data.y == c)) for c in two])
    while True:
        head = few.FewRows(data.x[named], data.y[named])
        rest = np.setdiff1d(np.arange(len(data.y)), named)
        if not len(rest) or head.accuracy(data.tx, data.ty) >= enough:
            return len(named)
        named = np.append(named, rest[rule(data, named, rest, head, rng)])


def at_random(
    data: Data, named: np.ndarray, rest: np.ndarray, head: few.FewRows, rng: np.random.Generator
) -> np.ndarray:
    return rng.permutation(len(rest))[:BATCH]


def by_novelty(
    data: Data, named: np.ndarray, rest: np.ndarray, head: few.FewRows, rng: np.random.Generator
) -> np.ndarray:
    return np.argsort(-_novelty(data, named, rest, head), kind="stable")[:BATCH]


def usefully(
    data: Data, named: np.ndarray, rest: np.ndarray, head: few.FewRows, rng: np.random.Generator
) -> np.ndarray:
    x, scores = data.x[rest], head.scores(data.x[rest])
    shares = nearest_simplex(scores)
    if len(named) >= FEWEST:
        shares = softmax(fitted_temperature(head.left_out, head.targets) * scores)
    return by_usefulness(x, shares, _novelty(data, named, rest, head), data.x[named], n=BATCH).order


def _novelty(data: Data, named: np.ndarray, rest: np.ndarray, head: few.FewRows) -> np.ndarray:
    """Return what `--unknown` does; by distance alone as long as it would refuse."""
    x, y = data.x[named], data.y[named]
    more: tuple[np.ndarray, LinearScorer] | tuple[()] = ()
    if len(named) >= MIN_ROWS:
        labels = tuple(NAMES[c] for c in head.classes.tolist())
        scorer = LinearScorer(
            weights=head.weights, bias=head.bias, labels=labels, kind="regression"
        )
        more = (head.left_out.max(axis=1), scorer)
    return novelty_of(x, y, NAMES, *more).scores(data.x[rest].astype(np.float32))


if __name__ == "__main__":
    main()
