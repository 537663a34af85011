"""What is served after a consolidation: the exact frozen head, and second opinions beside it.

The frozen head knows every class and has learned every sample; an adapter comes with a head of its
own, which knows the classes of its training. A softmax adds up to one over those, whatever the
picture, so an opinion only deals out anew the share that the frozen head gives to the classes that
it knows: q_k <- (1 - w) q_k + w m p_k, m the sum of q over them. A class that came later keeps its
share, and the result is a probability (docs/decisions/0009).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.errors import IntegrityError, ShapeError
from edgecl.types import Float32, Float64

from .scoring import Arrays, Scorer, load_scorer, softmax, text_of, word_of

_FORM = "mixed"
# Of the cosines to the keys.
_TEMPERATURE = 0.05


@dataclass(frozen=True, slots=True)
class Opinion:
    """A head on adapted features, and how much it is heard.

    Args:
        scorer: Its classes are some of the frozen head's.
        share: w, from 0 (not heard) to 1.
        key: Mean plain features (D,) of the pictures that it was trained on, where each picture
            chooses whom it hears (`routed`); None is heard alike by all.
    """

    scorer: Scorer
    share: float
    key: Float64 | None = None


@dataclass(frozen=True, slots=True)
class MixedScorer:
    """The frozen head's calibrated shares, dealt out anew by every opinion in turn.

    Args:
        frozen: The exact head, on plain features.
        temperature: What its scores are multiplied by before their softmax.
        opinions: Second opinions; each takes `n_maps` blocks of features after the plain one.
    """

    frozen: Scorer
    temperature: float
    opinions: tuple[Opinion, ...]

    def __post_init__(self) -> None:
        known = set(self.frozen.labels)
        for opinion in self.opinions:
            if not set(opinion.scorer.labels) <= known:
                raise IntegrityError(
                    "an adapter's head names classes that the home does not know; run "
                    "`edgecl verify`"
                )

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the K classes, in the order of the columns."""
        return self.frozen.labels

    @property
    def n_maps(self) -> int:
        """Blocks of features: the plain ones, and those of every opinion."""
        return 1 + sum(opinion.scorer.n_maps for opinion in self.opinions)

    def scores(self, x: Float32) -> Float64:
        """Return probabilities (N, K) of features (N, n_maps * D), the plain ones first."""
        if x.ndim != 2 or x.shape[1] % self.n_maps:
            raise ShapeError(f"features are {x.shape}; expected (N, {self.n_maps} * D)")
        d = x.shape[1] // self.n_maps
        q = softmax(self.temperature * self.frozen.scores(x[:, :d]))
        at = d
        keys = [opinion.key for opinion in self.opinions if opinion.key is not None]
        weights = iter(routed(x[:, :d], np.array(keys)).T) if len(keys) > 1 else None
        for opinion in self.opinions:
            end = at + opinion.scorer.n_maps * d
            p = opinion.scorer.probabilities(opinion.scorer.scores(x[:, at:end]))
            share = np.full(len(x), opinion.share)
            if weights is not None and opinion.key is not None:
                share = share * next(weights)
            q = mixed(q, p, self._columns(opinion), share[:, None])
            at = end
        return q

    def probabilities(self, scores: Float64) -> Float64:
        """Return the scores (N, K), which are probabilities; a blocked class has none."""
        left = np.maximum(scores, 0)
        shares: Float64 = left / np.maximum(left.sum(axis=1, keepdims=True), 1e-300)
        return shares

    def arrays(self) -> Arrays:
        """Return all but the labels as arrays; `load_served` reads them."""
        arrays: Arrays = {
            "form": word_of(_FORM),
            "temperature": np.array([self.temperature]),
            "shares": np.array([opinion.share for opinion in self.opinions]),
        }
        arrays |= {f"frozen.{name}": array for name, array in self.frozen.arrays().items()}
        for i, opinion in enumerate(self.opinions):
            arrays[f"{i}.columns"] = np.array(self._columns(opinion), dtype=np.int64)
            arrays |= {f"{i}.{name}": array for name, array in opinion.scorer.arrays().items()}
            if opinion.key is not None:
                arrays[f"key.{i}"] = opinion.key
        return arrays

    def _columns(self, opinion: Opinion) -> list[int]:
        places = {label: i for i, label in enumerate(self.labels)}
        return [places[label] for label in opinion.scorer.labels]


def routed(x: Float32, keys: Float64, temperature: float = _TEMPERATURE) -> Float64:
    """Return how much each of T opinions is heard by each picture (N, T), adding up to 1.

    The softmax of the cosines of plain features (N, D) to keys (T, D), over a temperature. Weights
    of answers for each picture, where HY-WU (2026) makes the weights of a network for each.
    """
    unit_x, unit_keys = (
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        for rows in (x.astype(np.float64), keys)
    )
    return softmax(unit_x @ unit_keys.T / temperature)


def mixed(q: Float64, p: Float64, columns: list[int], share: float | Float64) -> Float64:
    """Return shares (N, K) of which those of some columns are dealt out anew.

    Args:
        q: Calibrated shares of the frozen head (N, K).
        p: An opinion on J of the classes (N, J).
        columns: Their places in q.
        share: How much the opinion is heard, w, or by each picture (N, 1).
    """
    out = q.copy()
    known = q[:, columns]
    out[:, columns] = (1 - share) * known + share * known.sum(axis=1, keepdims=True) * p
    return out


def plain_of(scorer: Scorer) -> Scorer:
    """Return the exact head of what is served, on plain features."""
    return scorer.frozen if isinstance(scorer, MixedScorer) else scorer


def load_served(arrays: Mapping[str, npt.NDArray[Any]], labels: tuple[str, ...]) -> Scorer:
    """Make the scorer that `arrays` describe, mixed or a head alone.

    Raises:
        IntegrityError: No scorer of this edgecl.
    """
    if "form" not in arrays or text_of(arrays["form"]) != _FORM:
        return load_scorer(arrays, labels)
    try:
        opinions = []
        for i, share in enumerate(arrays["shares"]):
            names = tuple(labels[int(k)] for k in arrays[f"{i}.columns"])
            key = None if f"key.{i}" not in arrays else np.array(arrays[f"key.{i}"], np.float64)
            opinions.append(Opinion(load_scorer(_part(arrays, f"{i}."), names), float(share), key))
        frozen = load_scorer(_part(arrays, "frozen."), labels)
        return MixedScorer(frozen, float(arrays["temperature"][0]), tuple(opinions))
    except (KeyError, ValueError, IndexError) as error:
        raise IntegrityError(
            f"the kept heads are of no known form ({error}); write the bundle anew"
        ) from error


def _part(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Arrays:
    return {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
