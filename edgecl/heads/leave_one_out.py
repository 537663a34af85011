"""What a head would say of a sample that it learned, had it not learned it.

For ridge with an unpenalised intercept that is t - (t - s) / (1 - h) with the leverage
h = z' A^-1 z + 1 / n (Cook and Weisberg 1982, "Residuals and Influence in Regression"), and for a
group of samples t - (I - H)^-1 (t - s) with the block H of the hat matrix. Both are exact for the
centre and scale in use; those of a head that really never saw the samples are a little different
(measured: docs/benchmarks.md). Class means and counts subtract the samples.

Kept rows may be a part of what was learned. A is of all learned rows, so the score of each kept
row is what learning all the others gives; a group leaves out its kept rows and no more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgecl.types import Float64, Labels

# Rows that are left out in one product; 512 of lite0 are 9 MB.
_CHUNK = 512


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Scores of learned rows without themselves.

    Args:
        scores: Raw scores (N, K), columns as the head's classes. Of a class of which nothing is
            left: 0 by ridge, -1 as a cosine, the prior of counts.
        leverage: How much each row decides about itself (N,), 0 to 1: the diagonal of the hat
            matrix, or one over the samples of its class.
    """

    scores: Float64
    leverage: Float64


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """What the head says of the kept samples, each without itself; all of it follows the store.

    Args:
        uids: Uids of the kept samples (N,), oldest first.
        classes: Uids of the classes that they were taught as (N,).
        columns: Uids of the classes that are scored (K,).
        scores: Raw scores (N, K).
        leverage: How much each decides about itself (N,).
    """

    uids: Labels
    classes: Labels
    columns: Labels
    scores: Float64
    leverage: Float64

    def only(self, chosen: npt.NDArray[np.bool_]) -> LeaveOneOut:
        """Return the same of some of the samples."""
        uids, classes = self.uids[chosen], self.classes[chosen]
        return LeaveOneOut(uids, classes, self.columns, self.scores[chosen], self.leverage[chosen])

    @property
    def targets(self) -> Labels:
        """Columns of the taught classes (N,)."""
        order = np.argsort(self.columns)
        found: Labels = order[np.searchsorted(self.columns, self.classes, sorter=order)]
        return found

    @property
    def named(self) -> Labels:
        """Uids of the classes that the others name (N,)."""
        found: Labels = self.columns[self.scores.argmax(axis=1)]
        return found

    @property
    def verdicts(self) -> npt.NDArray[np.bool_]:
        """Whether the others name the taught class (N,)."""
        right: npt.NDArray[np.bool_] = self.named == self.classes
        return right

    @property
    def suspicion(self) -> Float64:
        """How much the best other class is ahead of the taught one (N,); above 0 it contradicts.

        -1 where there is no other class.
        """
        if len(self.columns) < 2:
            return np.full(len(self.uids), -1.0)
        own = self.scores[np.arange(len(self.uids)), self.targets]
        others = self.scores.copy()
        others[np.arange(len(self.uids)), self.targets] = -np.inf
        ahead: Float64 = others.max(axis=1) - own
        return ahead

    def accuracy(self) -> dict[int, float]:
        """Return the share of verdicts that are right, by class uid."""
        right = self.verdicts
        return {
            int(uid): float(right[self.classes == uid].mean()) for uid in np.unique(self.classes)
        }


def members(groups: Labels | None, n: int) -> Iterator[npt.NDArray[np.intp]]:
    """Yield the places of each group of n rows; without groups each row is one."""
    if groups is None:
        yield from np.arange(n)[:, None]
        return
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order][:1] - 1))
    yield from np.split(order, starts[1:])


def chunks(groups: Iterator[npt.NDArray[np.intp]]) -> Iterator[list[npt.NDArray[np.intp]]]:
    """Yield groups whose rows go through one product: every call reads the whole factor."""
    chunk: list[npt.NDArray[np.intp]] = []
    n = 0
    for group in groups:
        if chunk and n + len(group) > _CHUNK:
            yield chunk
            chunk, n = [], 0
        chunk.append(group)
        n += len(group)
    if chunk:
        yield chunk
