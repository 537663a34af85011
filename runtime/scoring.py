"""Scores of a head, as arrays: all that prediction needs of what was learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgecl.errors import IntegrityError, NothingLearnedError, ShapeError
from edgecl.types import Float16, Float32, Float64, Labels

Arrays = dict[str, npt.NDArray[Any]]
_AT_ONCE = 256
# Relative error of a float32 that was rounded.
_ROUNDED = 2.0**-24
# Where a form of head is; a file for each, loaded when one is.
FORMS = {
    "linear": (__name__, "LinearScorer"),
    "projected": ("edgecl.runtime.projected", "ProjectedScorer"),
    "bank": ("edgecl.runtime.bank", "BankScorer"),
    "key-value": ("edgecl.runtime.key_value", "KeyValueScorer"),
    "gated": ("edgecl.runtime.gated", "GatedScorer"),
}


class Scorer(Protocol):
    """A head that only predicts; immutable, and whole in its arrays and labels."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the columns."""
        ...

    @property
    def n_maps(self) -> int:
        """Feature maps whose features it wants side by side; 1 but for a bank of adapters."""
        ...

    def scores(self, x: Float32) -> Float64:
        """Return raw scores (N, K) of features (N, n_maps * D); the largest names the class.

        Raises:
            NothingLearnedError: There is no class.
            ShapeError: x is not (N, n_maps * D).
        """
        ...

    def probabilities(self, scores: Float64) -> Float64:
        """Turn raw scores (N, K) into estimated probabilities (N, K); each row sums to one."""
        ...

    def arrays(self) -> Arrays:
        """Return all but the labels as arrays; `load_scorer` reads them."""
        ...


@dataclass(frozen=True, slots=True)
class LinearScorer:
    """A head as weights.

    Args:
        weights: Shape (D, K), float64.
        bias: Shape (K,), float64.
        labels: K class names.
        kind: `regression` (scores estimate probabilities) or `logits`.
    """

    weights: Float64
    bias: Float64
    labels: tuple[str, ...]
    kind: str

    def __post_init__(self) -> None:
        k = len(self.labels)
        if self.weights.ndim != 2 or self.weights.shape[1] != k or self.bias.shape != (k,):
            raise ShapeError(
                f"scorer has weights {self.weights.shape}, bias {self.bias.shape} and {k} labels; "
                "expected (D, K), (K,) and K"
            )

    @property
    def n_maps(self) -> int:
        """Return 1."""
        return 1

    def scores(self, x: Float32) -> Float64:
        """Return raw scores (N, K) of features (N, D); see `Scorer.scores`."""
        check_features(self.labels, x, len(self.weights))
        scores: Float64 = x.astype(np.float64) @ self.weights + self.bias  # (N, K)
        return scores

    def chooser(self) -> Callable[[Float32], Labels]:
        """Return what names the column (N,) of the best of `scores`, in half the time.

        A product in float32 decides where the best is further ahead than rounding can have put it;
        what is left is asked in float64. A sum of n products is off by at most n u / (1 - n u)
        times the sum of their sizes, in whatever order (Higham 2002, Accuracy and Stability of
        Numerical Algorithms, section 3.1); the intercept is one more product.
        """
        # Weights that float32 cannot hold are never further ahead.
        with np.errstate(over="ignore", invalid="ignore"):
            weights, bias = self.weights.astype(np.float32), self.bias.astype(np.float32)
            n = len(weights) + 4
            squares = np.einsum("dk,dk->k", self.weights, self.weights) + np.square(self.bias)
            doubt = 2 * n * _ROUNDED / (1 - n * _ROUNDED) * np.sqrt(squares.max(initial=0.0))

        def best(x: Float32) -> Labels:
            check_features(self.labels, x, len(weights))
            with np.errstate(over="ignore", invalid="ignore"):
                scores = x @ weights
                scores += bias
                rows = np.arange(len(x))
                found: Labels = scores.argmax(axis=1)
                ahead = scores[rows, found]
                scores[rows, found] = -np.inf
                ahead -= scores.max(axis=1)
                unsure = ~(ahead > doubt * np.sqrt(np.einsum("nd,nd->n", x, x) + 1.0))
            if unsure.any():
                found[unsure] = self.scores(x[unsure]).argmax(axis=1)
            return found

        return best

    def probabilities(self, scores: Float64) -> Float64:
        """Turn raw scores (N, K) into estimated probabilities (N, K); each row sums to one."""
        return softmax(scores) if self.kind == "logits" else nearest_simplex(scores)

    def only(self, columns: list[int]) -> LinearScorer:
        """Return the same head with some of its classes."""
        labels = tuple(self.labels[k] for k in columns)
        return LinearScorer(self.weights[:, columns], self.bias[columns], labels, self.kind)

    def arrays(self) -> Arrays:
        """Return weights and bias, and what the scores are."""
        return {
            "form": word_of("linear"),
            "kind": word_of(self.kind),
            "weights": self.weights,
            "bias": self.bias,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], labels: tuple[str, ...]) -> Scorer:
        """Read what `arrays` returned."""
        return cls(arrays["weights"], arrays["bias"], labels, text_of(arrays["kind"]))


class MaskedScorer:
    """A scorer that names some classes no more: a block at the output, not an erasure.

    Args:
        scorer: What is masked.
        hidden: Labels that must not be named.
    """

    def __init__(self, scorer: Scorer, hidden: tuple[str, ...]) -> None:
        self._scorer = scorer
        self._columns = [i for i, label in enumerate(scorer.labels) if label not in hidden]
        self.labels = tuple(scorer.labels[i] for i in self._columns)
        self.n_maps = scorer.n_maps

    def scores(self, x: Float32) -> Float64:
        """Return raw scores (N, K) of features; see `Scorer.scores`."""
        return self._scorer.scores(x)[:, self._columns]

    def probabilities(self, scores: Float64) -> Float64:
        """Turn raw scores (N, K) into probabilities among the classes that are left."""
        whole = np.full((len(scores), len(self._scorer.labels)), -1e9)
        whole[:, self._columns] = scores
        shares = self._scorer.probabilities(whole)[:, self._columns]
        total: Float64 = shares / shares.sum(axis=1, keepdims=True)
        return total

    def arrays(self) -> Arrays:
        """Raise: a block is not kept.

        Raises:
            IntegrityError: Always.
        """
        raise IntegrityError("a blocked class cannot be exported; run `edgecl forget pending`")


def load_scorer(arrays: Mapping[str, npt.NDArray[Any]], labels: tuple[str, ...]) -> Scorer:
    """Make the scorer that `arrays` describe.

    Raises:
        IntegrityError: No scorer of this edgecl.
    """
    try:
        module, form = FORMS[text_of(arrays["form"])]
        scorer: Scorer = getattr(import_module(module), form).from_arrays(arrays, labels)
        return scorer
    except (KeyError, ValueError) as error:
        raise IntegrityError(
            f"the kept head is of no known form ({error}); learn or `edgecl verify` to renew it"
        ) from error


def chooser(scorer: Scorer | Callable[[Float32], Float64]) -> Callable[[Float16], Labels]:
    """Return what names the place of the best score of each feature (N, D), shape (N,).

    Some at a time: of many classes all scores at once would be far more than the features.
    """
    if isinstance(scorer, LinearScorer):
        best = scorer.chooser()
    else:
        scores = scorer if callable(scorer) else scorer.scores

        def best(x: Float32) -> Labels:
            found: Labels = scores(x).argmax(axis=1)
            return found

    def of(x: Float16) -> Labels:
        parts = np.split(x, range(_AT_ONCE, len(x), _AT_ONCE))
        found = np.concatenate([best(part.astype(np.float32)) for part in parts])
        return found.astype(np.int64)

    return of


def best_of(scorer: Scorer | Callable[[Float32], Float64], x: Float16) -> Labels:
    """Return the place of the best score of each feature (N, D), shape (N,); see `chooser`."""
    return chooser(scorer)(x)


def softmax(scores: Float64) -> Float64:
    """Return the softmax of rows of scores (N, K)."""
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: Float64 = e / e.sum(axis=1, keepdims=True)
    return shares


def nearest_simplex(scores: Float64) -> Float64:
    """Return the probability vectors nearest to rows of scores (N, K), in Euclidean distance.

    A least-squares head estimates class probabilities that may leave [0, 1]; the projection is the
    nearest that does not, and keeps their order.

    Reference: Wang and Carreira-Perpinan 2013, arXiv:1309.1541.
    """
    ordered = -np.sort(-scores, axis=1)
    excess = np.cumsum(ordered, axis=1) - 1
    k = np.arange(1, scores.shape[1] + 1)
    n_kept = (ordered - excess / k > 0).sum(axis=1)
    threshold = np.take_along_axis(excess, n_kept[:, None] - 1, axis=1) / n_kept[:, None]
    nearest: Float64 = np.maximum(scores - threshold, 0)
    return nearest


def check_features(labels: tuple[str, ...], x: Float32, num_features: int) -> None:
    """Check that there is a class, and that features are (N, D)."""
    if not labels:
        raise NothingLearnedError("nothing was learned yet; run `edgecl train-stream SOURCE` first")
    if x.ndim != 2 or x.shape[1] != num_features:
        raise ShapeError(f"features are {x.shape}; expected (N, {num_features})")


def word_of(text: str) -> npt.NDArray[np.uint8]:
    """Write a word as an array, so that a scorer is arrays only."""
    return np.frombuffer(text.encode(), np.uint8)


def text_of(word: npt.NDArray[Any]) -> str:
    """Read what `word_of` wrote."""
    return word.tobytes().decode()
