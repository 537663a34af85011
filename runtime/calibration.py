"""From scores to probabilities, and to sets of labels that hold the truth as often as asked.

What a head says of samples that it did not learn, or has left out (edgecl/calibration.py), says how
far its scores can be believed. A probability is the softmax of the scores times one temperature
(Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599); of a mixture, whose
scores are shares already, of their logarithms. A set holds every
label that is at least as probable as the taught one was for all but a share of those samples: split
conformal prediction with leave-one-out scores, the jackknife (Vovk et al. 2005; Barber et al. 2021,
arXiv:1905.02928); a class with enough samples has a bound of its own (Mondrian). A set may be
empty: no label is as probable as it mostly is when it is true.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.errors import IntegrityError
from edgecl.types import Float64, Labels

from .scoring import Arrays, softmax

PREFIX = "calibration."
# A bound of its own needs ten samples beyond it.
_BEYOND = 10
_TINY = 1e-9
_LEAST_SHARE = 1e-12
_TEMPERATURE, _POWER = "temperature", "power"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is known of samples that the head did not learn.

    Args:
        temperature: What scores are multiplied by before their softmax.
        targets: Columns of the taught classes of the samples (M,).
        shares: Probability of the taught class of each (M,).
        right: Whether that class was named (M,).
        labels: Names of the K classes, in the order of the scorer's columns.
        is_left_out: Whether they were learned and left out in closed form, and not held out.
        of_shares: Whether the scores are shares, of a head that adapters are mixed into.
    """

    temperature: float
    targets: Labels
    shares: Float64
    right: npt.NDArray[np.bool_]
    labels: tuple[str, ...]
    is_left_out: bool
    of_shares: bool = False

    def probabilities(self, scores: Float64) -> Float64:
        """Return calibrated probabilities (N, K) of raw scores (N, K)."""
        return softmax(self.temperature * (logarithms(scores) if self.of_shares else scores))

    def least(self, level: float) -> Float64:
        """Return the least probability (K,) with which each label is in a set.

        Args:
            level: How often a set shall hold the truth, above 0 and below 1.
        """
        out = np.full(len(self.labels), _bound(self.shares, level))
        for k, n in enumerate(np.bincount(self.targets, minlength=len(self.labels))):
            if n * (1 - level) + _TINY >= _BEYOND:
                out[k] = _bound(self.shares[self.targets == k], level)
        return out

    def sets(self, probabilities: Float64, level: float) -> npt.NDArray[np.bool_]:
        """Return which labels are in the set of each picture, (N, K)."""
        found: npt.NDArray[np.bool_] = probabilities >= self.least(level)
        return found

    def only(self, labels: tuple[str, ...]) -> Calibration:
        """Return what is known of some of the classes, in the order of `labels`."""
        place = {label: k for k, label in enumerate(labels)}
        column = np.array([place.get(label, -1) for label in self.labels], dtype=np.int64)
        targets = column[self.targets]
        kept = targets >= 0
        return replace(
            self,
            targets=targets[kept],
            shares=self.shares[kept],
            right=self.right[kept],
            labels=labels,
        )

    def arrays(self) -> Arrays:
        """Return all but the labels as arrays; `calibration_from` reads them."""
        # By another name: an edgecl that knows no mixture's would take it for a head's.
        return {
            PREFIX + (_POWER if self.of_shares else _TEMPERATURE): np.array([self.temperature]),
            f"{PREFIX}targets": self.targets,
            f"{PREFIX}shares": self.shares,
            f"{PREFIX}right": self.right,
            f"{PREFIX}is_left_out": np.array([self.is_left_out]),
        }


def calibration_from(
    arrays: Mapping[str, npt.NDArray[Any]], labels: tuple[str, ...]
) -> Calibration | None:
    """Read what `Calibration.arrays` returned; None where there is none.

    Raises:
        IntegrityError: It does not fit the labels.
    """
    of_shares = PREFIX + _POWER in arrays
    if not of_shares and PREFIX + _TEMPERATURE not in arrays:
        return None
    try:
        temperature = float(arrays[PREFIX + (_POWER if of_shares else _TEMPERATURE)][0])
        targets, shares, right = (arrays[PREFIX + name] for name in ("targets", "shares", "right"))
        is_left_out = bool(arrays[f"{PREFIX}is_left_out"][0])
    except (KeyError, IndexError) as error:
        raise IntegrityError(f"a kept calibration is incomplete ({error}); learn anew") from error
    is_fit = targets.shape == shares.shape == right.shape and np.isfinite(temperature)
    if not is_fit or not np.isin(targets, np.arange(len(labels))).all():
        raise IntegrityError(
            f"a kept calibration does not fit {len(labels)} classes; learn or export anew"
        )
    targets, right = targets.astype(np.int64), right.astype(np.bool_)
    return Calibration(temperature, targets, shares, right, labels, is_left_out, of_shares)


def logarithms(shares: Float64) -> Float64:
    """Return the logarithms of shares, of one that is zero a very low one."""
    found: Float64 = np.log(np.maximum(shares, _LEAST_SHARE))
    return found


def _bound(shares: Float64, level: float) -> float:
    """Return the share that all but 1 - level of the samples reach; 0 where too few say."""
    n_below = int((1 - level) * (len(shares) + 1) + _TINY)
    return float(np.sort(shares)[n_below - 1]) if n_below else 0.0
