"""Scores of a head, as arrays: all that prediction needs of what was learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgecl.errors import IntegrityError, NothingLearnedError, ShapeError
from edgecl.types import Float32, Float64

from .codebook import Codebook
from .grid import quantise
from .whitening import Whitening

Arrays = dict[str, npt.NDArray[Any]]


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
        _check(self.labels, x, len(self.weights))
        scores: Float64 = x.astype(np.float64) @ self.weights + self.bias  # (N, K)
        return scores

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


# Samples that the keys read in a codebook hold together: few rows are spread over many keys.
ENOUGH = 8
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class KeyValueScorer:
    """A key-value head: frozen keys, and tables of what samples took them.

    Args:
        codebook: Keys of C codebooks with J keys each.
        counts: How often each class took a key, shape (K, C * J); a key that none took is not used.
        values: Trained values (K, C * J), or None to score by counts.
        prior: Added to every count.
        labels: K class names.
    """

    codebook: Codebook
    counts: npt.NDArray[Any]
    values: Float64 | None
    prior: float
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = (len(self.labels), self.codebook.n_codebooks * self.codebook.n_keys)
        if self.counts.shape != shape or (self.values is not None and self.values.shape != shape):
            raise ShapeError(f"a key-value scorer has counts {self.counts.shape}; expected {shape}")

    @property
    def n_maps(self) -> int:
        """Return 1."""
        return 1

    def scores(self, x: Float32) -> Float64:
        """Return mean log shares, or mean values, (N, K); see `Scorer.scores`.

        Shares of counts are those of classes of equal size: what the codebooks say is added up, so
        a class's own share would count C times.
        """
        book = self.codebook
        _check(self.labels, x, book.num_features)
        taken = self.counts.sum(axis=0, dtype=np.int64).reshape(book.n_codebooks, book.n_keys)
        rows, steps = quantise(x), np.arange(book.n_codebooks) * book.n_keys
        if self.values is not None:
            flat = book.addresses(rows, taken > 0) + steps  # (N, C)
            means: Float64 = self.values[:, flat].mean(axis=2).T
            return means
        n = self.counts[:, : book.n_keys].sum(axis=1, dtype=np.float64)  # samples of a class (K,)
        size = n * len(n) / n.sum()
        out = np.empty((len(x), len(self.labels)))
        for start in range(0, len(x), _CHUNK):
            keys, weights = book.near(rows[start : start + _CHUNK], taken, ENOUGH)
            found = self.counts[:, keys + steps[:, None]] * weights  # (K, n, C, R)
            counts = found.sum(axis=3) / (256 * size[:, None, None]) + self.prior  # (K, n, C)
            # Sorted, so that the sum does not depend on the order of the classes.
            shares = counts / np.sort(counts, axis=0).sum(axis=0)
            out[start : start + _CHUNK] = np.log(shares).mean(axis=2).T
        return out

    def probabilities(self, scores: Float64) -> Float64:
        """Turn scores (N, K) into estimated probabilities (N, K)."""
        return softmax(scores)

    def arrays(self) -> Arrays:
        """Return keys and tables; counts in the smallest type that holds them."""
        most = int(self.counts.max(initial=0))
        arrays: Arrays = {
            "form": word_of("key-value"),
            "counts": self.counts.astype(np.min_scalar_type(most)),
            "prior": np.array([self.prior]),
            **self.codebook.arrays(),
        }
        if self.values is not None:
            arrays["values"] = self.values
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], labels: tuple[str, ...]) -> Scorer:
        """Read what `arrays` returned."""
        return cls(
            codebook=Codebook.from_arrays(arrays),
            counts=arrays["counts"],
            values=arrays.get("values"),
            prior=float(arrays["prior"][0]),
            labels=labels,
        )


_MOST_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class BankScorer:
    """A bank of T adapters with its classifier: self-refined retrieval and ensemble (MOS).

    The nearest class mean under the first adapter proposes an adapter; the classifier, on the
    feature of the proposed adapter, names a class and so perhaps another adapter; this repeats
    until it names itself, four times at most. The softmax of the last logits and the softmax of T
    times the cosines are added. Nothing is changed by it.

    Reference: Sun et al. 2025, arXiv:2412.09441.

    Args:
        weights: Shape (D, K), float64.
        bias: Shape (K,).
        prototypes: Unit class means under the first adapter, shape (D, K).
        task_of: Number of each class's adapter, shape (K,), 0 to T - 1.
        n_maps: Adapters, T.
        labels: K class names.
    """

    weights: Float64
    bias: Float64
    prototypes: Float64
    task_of: npt.NDArray[np.int64]
    n_maps: int
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        d, k = self.prototypes.shape
        shapes = (self.weights.shape, self.bias.shape, self.task_of.shape, len(self.labels))
        if shapes != ((d, k), (k,), (k,), k) or not (self.task_of < self.n_maps).all():
            raise ShapeError(
                f"a bank of {self.n_maps} adapters has weights, bias, tasks and labels of shapes "
                f"{shapes}; expected {((d, k), (k,), (k,), k)} and tasks below {self.n_maps}"
            )

    def scores(self, x: Float32) -> Float64:
        """Return the added shares (N, K), 0 to 2; see `Scorer.scores`."""
        d = len(self.prototypes)
        if x.ndim != 2 or x.shape[1] != self.n_maps * d:
            raise ShapeError(f"features are {x.shape}; expected (N, {self.n_maps} * {d})")
        maps = x.astype(np.float64).reshape(len(x), self.n_maps, d)
        first = maps[:, 0]
        norms = np.maximum(np.linalg.norm(first, axis=1, keepdims=True), 1e-12)
        cosines = first / norms @ self.prototypes  # (N, K)
        logits = np.einsum("ntd,dk->ntk", maps, self.weights) + self.bias
        rows = np.arange(len(x))
        used = self.task_of[cosines.argmax(axis=1)]
        for _ in range(_MOST_ROUNDS - 1):
            used, before = self.task_of[logits[rows, used].argmax(axis=1)], used
            # Where an adapter named itself it stays; the others go on.
            if (used == before).all():
                break
        return softmax(logits[rows, used]) + softmax(cosines * self.n_maps)

    def probabilities(self, scores: Float64) -> Float64:
        """Return half the scores (N, K)."""
        return scores / 2

    def only(self, columns: list[int]) -> BankScorer:
        """Return the same classifier with some of its classes."""
        return BankScorer(
            weights=self.weights[:, columns],
            bias=self.bias[columns],
            prototypes=self.prototypes[:, columns],
            task_of=self.task_of[columns],
            n_maps=self.n_maps,
            labels=tuple(self.labels[k] for k in columns),
        )

    def arrays(self) -> Arrays:
        """Return all but the labels as arrays."""
        return {
            "form": word_of("bank"),
            "weights": self.weights,
            "bias": self.bias,
            "prototypes": self.prototypes,
            "task_of": self.task_of,
            "n_maps": np.array([self.n_maps]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], labels: tuple[str, ...]) -> Scorer:
        """Read what `arrays` returned."""
        return cls(
            weights=arrays["weights"],
            bias=arrays["bias"],
            prototypes=arrays["prototypes"],
            task_of=arrays["task_of"],
            n_maps=int(arrays["n_maps"][0]),
            labels=labels,
        )


@dataclass(frozen=True, slots=True)
class ProjectedScorer:
    """A head as prototypes behind a small projection; scores are cosines.

    Args:
        mean: Centre of the features, shape (D,).
        scale: Their scale, shape (D,).
        down: First matrix of the bottleneck, shape (R, D); R = 0 is no bottleneck.
        down_bias: Its bias, shape (R,).
        up: Second matrix, with the correction's scale in it, shape (D, R).
        prototypes: Unit vectors, shape (K, D).
        labels: K class names.
        temperature: Of the softmax that makes cosines probabilities.
        whitening: A map that features go through first, if any; D is then the width behind it.
        layers: Matrices and biases of a projector behind the bottleneck, in turn, with rectified
            units between them; a score is then the mean of both cosines.
        centres: Unit class means behind it, shape (K, M); a zero one says nothing.
    """

    mean: Float64
    scale: Float64
    down: Float32
    down_bias: Float32
    up: Float32
    prototypes: Float64
    labels: tuple[str, ...]
    temperature: float
    whitening: Whitening | None = None
    layers: tuple[Float32, ...] = ()
    centres: Float32 | None = None

    def __post_init__(self) -> None:
        d, r = len(self.mean), len(self.down)
        expected = (
            (self.scale, (d,)),
            (self.down, (r, d)),
            (self.down_bias, (r,)),
            (self.up, (d, r)),
            (self.prototypes, (len(self.labels), d)),
        )
        for array, shape in expected:
            if array.shape != shape:
                raise ShapeError(f"scorer has an array of {array.shape}; expected {shape}")

    @property
    def n_maps(self) -> int:
        """Return 1."""
        return 1

    def scores(self, x: Float32) -> Float64:
        """Return cosines (N, K) of features (N, D); see `Scorer.scores`."""
        if self.whitening is None:
            _check(self.labels, x, len(self.mean))
            values = x.astype(np.float64)
        else:
            _check(self.labels, x, self.whitening.num_features)
            values = self.whitening.map(quantise(x))
        z = (values - self.mean) / self.scale
        hidden = np.maximum(z @ self.down.T + self.down_bias, 0)  # (N, R)
        h = z + hidden @ self.up.T
        # The smallest norm keeps a feature on the centre finite: it is as near to every class.
        unit = h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-8)
        cosines: Float64 = unit @ self.prototypes.T
        if not self.layers or self.centres is None:
            return cosines
        u: npt.NDArray[Any] = h
        for i in range(0, len(self.layers), 2):
            u = (np.maximum(u, 0) if i else u) @ self.layers[i].T + self.layers[i + 1]
        u = u / np.maximum(np.linalg.norm(u, axis=1, keepdims=True), 1e-8)
        both: Float64 = (cosines + u @ self.centres.T) / 2
        return both

    def probabilities(self, scores: Float64) -> Float64:
        """Turn raw scores (N, K) into estimated probabilities (N, K); each row sums to one."""
        return softmax(scores / self.temperature)

    def arrays(self) -> Arrays:
        """Return the arrays and the temperature."""
        return {
            "form": word_of("projected"),
            "mean": self.mean,
            "scale": self.scale,
            "down": self.down,
            "down_bias": self.down_bias,
            "up": self.up,
            "prototypes": self.prototypes,
            "temperature": np.array([self.temperature]),
            **({} if self.whitening is None else self.whitening.arrays()),
            **{f"layer{i}": layer for i, layer in enumerate(self.layers)},
            **({} if self.centres is None or not self.layers else {"centres": self.centres}),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], labels: tuple[str, ...]) -> Scorer:
        """Read what `arrays` returned."""
        n_layers = sum(name.startswith("layer") for name in arrays)
        return cls(
            mean=arrays["mean"],
            scale=arrays["scale"],
            down=arrays["down"],
            down_bias=arrays["down_bias"],
            up=arrays["up"],
            prototypes=arrays["prototypes"],
            labels=labels,
            temperature=float(arrays["temperature"][0]),
            whitening=Whitening.from_arrays(arrays) if "directions" in arrays else None,
            layers=tuple(arrays[f"layer{i}"] for i in range(n_layers)),
            centres=arrays.get("centres"),
        )


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
    forms: dict[str, Any] = {
        "linear": LinearScorer,
        "projected": ProjectedScorer,
        "bank": BankScorer,
        "key-value": KeyValueScorer,
    }
    try:
        scorer: Scorer = forms[text_of(arrays["form"])].from_arrays(arrays, labels)
        return scorer
    except (KeyError, ValueError) as error:
        raise IntegrityError(
            f"the kept head is of no known form ({error}); learn or `edgecl verify` to renew it"
        ) from error


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


def _check(labels: tuple[str, ...], x: Float32, num_features: int) -> None:
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
