"""A ridge head of few rows, in the form that costs little, for benchmarks that fit it often.

The shipped head (edgecl/heads/ridge.py) solves over features, since its rows come one by one and
go; of a few hundred rows the same weights come from a solve over the rows, a hundred times faster.
`check` compares the two.
"""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path

import fashion_data
import numpy as np
from sklearn.datasets import load_digits
from unknown import Data, features_of

from edgecl.backbones import load_backbone
from edgecl.config import Config
from edgecl.exporters.onnx import init_home
from edgecl.heads.linear import ridge, scale_of
from edgecl.heads.ridge import RidgeHead

N_DIGITS = 1200


class FewRows:
    """The ridge head of rows (N, D) with classes (N,), and what it says of each without itself."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.classes, self.targets = np.unique(y, return_inverse=True)
        x = x.astype(np.float64)
        mean, inverse = x.mean(axis=0), 1 / scale_of(x.var(axis=0))
        self._z = (x - mean) * inverse
        self._taught = np.eye(len(self.classes))[self.targets]
        centre = self._taught.mean(axis=0)
        self.weights = ridge(self._z, self._taught - centre) * inverse[:, None]
        self.bias = centre - mean @ self.weights

    @cached_property
    def left_out(self) -> np.ndarray:
        """Scores (N, K) of each row without itself."""
        n = len(self._z)
        hat = self._z @ ridge(self._z, np.eye(n) - 1 / n) + 1 / n
        error = self._taught - hat @ self._taught
        found: np.ndarray = self._taught - error / (1 - np.diag(hat))[:, None]
        return found

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Return scores (N, K) of features (N, D)."""
        found: np.ndarray = x @ self.weights + self.bias
        return found

    def accuracy(self, x: np.ndarray, y: np.ndarray) -> float:
        """Return the share of features (N, D) of classes (N,) that are answered rightly."""
        return float((self.classes[self.scores(x).argmax(axis=1)] == y).mean())


def check(x: np.ndarray, y: np.ndarray) -> float:
    """Return the largest difference of scores and left-out scores to the shipped head's."""
    few, head = FewRows(x, y), RidgeHead(x.shape[1])
    head.restore({c: head.statistic.of(x[y == c]) for c in few.classes.tolist()}, None)
    wide = x.astype(np.float32)
    return max(
        float(np.abs(head.predict_many(wide) - few.scores(wide)).max()),
        float(np.abs(head.left_out(x, y).scores - few.left_out).max()),
    )


class Pictures:
    """Features of digits and Fashion-MNIST by the shipped engine at 112 px, kept in a file.

    Args:
        cache: A .npz file; it is made when it is not there.
    """

    def __init__(self, cache: Path) -> None:
        if not cache.exists():
            _embed(cache)
        with np.load(cache) as kept:
            self._kept = {name: kept[name] for name in kept.files}

    def digits(self, seed: int) -> Data:
        """Return 1,200 digits to learn and 597 to test on, drawn anew by seed."""
        x, y = self._kept["digits"], self._kept["digit_labels"]
        order = np.random.default_rng(seed).permutation(len(y))
        a, b = order[:N_DIGITS], order[N_DIGITS:]
        return Data(x[a], y[a], x[b].astype(np.float64), y[b])

    def fashion(self, seed: int) -> Data:
        """Return the first 2,000 pictures to learn and the first 1,000 to test on."""
        del seed
        x, y = self._kept["fashion"], self._kept["fashion_labels"]
        return Data(x[:2000], y[:2000], x[2000:].astype(np.float64), y[2000:])


def _embed(cache: Path) -> None:
    place = tempfile.TemporaryDirectory()
    home = init_home(Path(place.name) / "home", load_backbone(image_size=112), Config())
    digits = load_digits()
    train, labels = fashion_data.load("train")
    test, test_labels = fashion_data.load("t10k")
    pixels = (digits.images * 255 / 16).astype(np.uint8)
    fashion = np.concatenate([train[:2000], test[:1000]])
    np.savez(
        cache,
        digits=features_of(home, pixels).astype(np.float16),
        digit_labels=digits.target.astype(np.int64),
        fashion=features_of(home, fashion).astype(np.float16),
        fashion_labels=np.concatenate([labels[:2000], test_labels[:1000]]).astype(np.int64),
    )
    place.cleanup()
