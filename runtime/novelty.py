"""How unknown a picture is, for a device that has no kept samples: part of the head, as arrays.

Two questions are asked (docs/decisions/0019-unknown-from-the-head.md): how far is the feature from
the centres of the classes, and how low is the head's best score. Each gets a p-value, the share of
the learned samples that were farther, or scored lower, when they were left out; both are put
together by Fisher's method. A centre is a mean of samples, never one of a class that has three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from edgecl.errors import IntegrityError, ShapeError
from edgecl.types import Float16, Float32, Float64, Labels

from .scoring import Arrays, Scorer

UNKNOWN = "unknown"
PREFIX = "novelty."
_TINY = 1e-6


@dataclass(frozen=True, slots=True)
class Novelty:
    """Scores features by how unlike they are to what was learned; float32, no torch.

    Args:
        centres: Means of samples' directions (C, D), float32 of float16 precision.
        owners: Which of the labels each centre is of (C,).
        units: Spread of each centre's class (C,): a distance counts in these.
        labels: Names of the classes.
        far: Distances of left-out samples (M,), ascending.
        low: Best scores of left-out samples (M,), ascending; none where the head has no closed
            form of them, or the distance alone is wanted.
        threshold: A score above it is unknown.
        scorer: The head on plain features that gave `low`; None without.
    """

    centres: Float32
    owners: Labels
    units: Float32
    labels: tuple[str, ...]
    far: Float64
    low: Float64
    threshold: float
    scorer: Scorer | None = None

    def scores(self, x: Float32) -> Float64:
        """Return how unknown features (N, D) are, (N,): larger is more unknown.

        Of features of adapted maps beside each other the first D, the plain ones, count.

        Raises:
            ShapeError: x is not (N, D), or not (N, n * D).
        """
        found = surprise(self.far, self._distances(x).min(axis=1))
        if len(self.low) and self.scorer is not None:
            best = self.scorer.scores(x[:, : self.centres.shape[1]]).max(axis=1)
            found += surprise(-self.low[::-1], -best)
        return found

    def verdict(self, score: float) -> dict[str, Any]:
        """Return what `edgecl predict --unknown --json` says of a picture beside its prediction.

        The label is `unknown` if its score is above the threshold; the best classes stay in `top`.
        Whether a class happens to have this name, or the picture is none, says the entry `unknown`.
        """
        is_unknown = score > self.threshold
        named = {"label": UNKNOWN} if is_unknown else {}
        return {"unknown": is_unknown, "novelty": score} | named

    def nearest(self, x: Float32) -> list[str]:
        """Return the class of the centre nearest to each feature (N, D).

        Raises:
            ShapeError: See `scores`.
        """
        return [self.labels[k] for k in self.owners[self._distances(x).argmin(axis=1)]]

    def _distances(self, x: Float32) -> Float64:
        d = self.centres.shape[1]
        if x.ndim != 2 or not x.shape[1] or x.shape[1] % d:
            raise ShapeError(f"features are {x.shape}; expected (N, {d})")
        return apart(directions(x[:, :d]), self.centres) / self.units

    def among(self, labels: tuple[str, ...]) -> Novelty:
        """Return the same with its classes numbered as in labels, which hold them."""
        place = np.array([labels.index(label) for label in self.labels], dtype=np.int64)
        return replace(self, owners=place[self.owners], labels=labels)

    def arrays(self) -> Arrays:
        """Return all but labels and scorer as arrays; `novelty_from` reads them."""
        return {
            f"{PREFIX}centres": self.centres.astype(np.float16),
            f"{PREFIX}owners": self.owners,
            f"{PREFIX}units": self.units,
            f"{PREFIX}far": self.far,
            f"{PREFIX}low": self.low,
            f"{PREFIX}threshold": np.array([self.threshold]),
        }


def novelty_from(
    arrays: Mapping[str, npt.NDArray[Any]], labels: tuple[str, ...], scorer: Scorer
) -> Novelty | None:
    """Read what `Novelty.arrays` returned; None where there is none.

    Args:
        arrays: What was kept.
        labels: Names of the classes.
        scorer: The head on plain features.

    Raises:
        IntegrityError: It does not fit the labels, or itself.
    """
    if f"{PREFIX}threshold" not in arrays:
        return None
    try:
        names = ("centres", "owners", "units", "far", "low", "threshold")
        centres, owners, units, far, low, threshold = (arrays[PREFIX + name] for name in names)
    except KeyError as error:
        raise IntegrityError(f"what is unknown is kept incompletely ({error})") from error
    is_fit = centres.ndim == 2 and owners.shape == units.shape == (len(centres),) and len(far)
    if not is_fit or not np.isin(owners, np.arange(len(labels))).all():
        raise IntegrityError(
            f"what is kept to tell the unknown does not fit {len(labels)} classes; export anew"
        )
    centres = centres.astype(np.float32)
    return Novelty(centres, owners, units, labels, far, low, float(threshold[0]), scorer)


def directions(x: Float16 | Float32) -> Float32:
    """Return rows (N, D) as unit vectors of the signed roots of their values."""
    # In place: these rows are most of what is in memory.
    roots = x.astype(np.float32)
    np.sqrt(np.abs(roots, out=roots), out=roots)
    np.copysign(roots, x, out=roots)
    norms = np.sqrt(np.einsum("nd,nd->n", roots, roots))[:, None]
    roots /= np.maximum(norms, np.float32(_TINY))
    return roots


def apart(rows: Float32, centres: Float32) -> Float64:
    """Return distances (N, C) of directions (N, D) to centres (C, D)."""
    squares = np.einsum("nd,nd->n", rows, rows)[:, None] - 2 * (rows @ centres.T)
    squares += np.einsum("cd,cd->c", centres, centres)
    return cast(Float64, np.sqrt(np.maximum(squares, 0)).astype(np.float64))


def surprise(usual: Float64, found: Float64) -> Float64:
    """Return -log of the share of usual values (M,), ascending, that are as large as found (N,).

    Beyond the largest it goes on as an exponential tail through that and the median would, so that
    what is farther is still more.
    """
    n_larger = len(usual) - np.searchsorted(usual, found, side="left")
    top, middle = float(usual[-1]), float(usual[len(usual) // 2])
    fall = max(top - middle, _TINY) / np.log(len(usual) + 1)
    beyond = np.maximum(found - top, 0) / fall
    return cast(Float64, beyond - np.log((n_larger + 1) / (len(usual) + 1)))
