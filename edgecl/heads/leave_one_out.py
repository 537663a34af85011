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

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgecl.heads import blas
from edgecl.types import Float16, Float64, Labels

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


class Solution(NamedTuple):
    """An exact solve of ridge.

    Args:
        factor: Cholesky factor L (D, D), lower, of A, scaled products of all rows and a penalty.
        mean: Centre of the features (D,).
        inverse_scale: One over their scale (D,).
        weights: Weights (D, K) of scaled features.
        bias: Intercepts (K,).
        classes: Uids of the classes (K,).
        n: Learned rows.
    """

    factor: Float64
    mean: Float64
    inverse_scale: Float64
    weights: Float64
    bias: Float64
    classes: Labels
    n: int

    def errors(self, x: Float16, y: Labels) -> tuple[Float64, Float64, Float64]:
        """Return L^-1 z (D, N) of rows (N, D) scaled, their targets (N, K) and errors (N, K)."""
        targets = np.equal.outer(y, self.classes).astype(np.float64)
        z = (x.astype(np.float64) - self.mean) * self.inverse_scale
        return blas.solve_lower(self.factor, z.T), targets, targets - (z @ self.weights + self.bias)

    def without(self, half: Float64, targets: Float64, error: Float64) -> Float64:
        """Return scores (M, K) of a group of rows without all of it; see `errors`."""
        if len(targets) == self.n:
            return np.zeros_like(targets)
        rest = np.asfortranarray(np.eye(len(targets)) - half.T @ half - 1.0 / self.n)
        if not blas.factor_into(rest):
            raise AssertionError("what is left of learned rows is positive definite")
        scores: Float64 = targets - blas.solve_factored(rest, error)
        return scores


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


def leave_out(
    solution: Solution, x: Float16, y: Labels, groups: Labels | None
) -> tuple[LeftOut, LeftOut]:
    """Return what ridge says of learned rows (N, D) of classes (N,), each alone and by groups.

    The second core helps, since a run that ends, as a rule, has it to itself.

    Args:
        solution: The solve of all learned rows.
        x: Rows that it learned.
        y: Uids of their classes.
        groups: Numbers (N,) of what is left out together; None, and both results are the same.
    """
    leverage, alone = np.empty(len(x)), np.zeros((len(x), len(solution.classes)))
    if groups is not None and len(np.unique(groups)) == len(groups):
        groups = None
    together = alone if groups is None else np.zeros_like(alone)

    def take(chunk: list[npt.NDArray[np.intp]]) -> None:
        rows = np.concatenate(chunk)
        half, targets, error = solution.errors(x[rows], y[rows])
        # A = L L', so z' A^-1 z is the squared length of L^-1 z.
        leverage[rows] = np.einsum("dn,dn->n", half, half) + 1.0 / solution.n
        if solution.n > 1:
            alone[rows] = targets - error / (1.0 - leverage[rows, None])
        if groups is None:
            return
        together[rows] = alone[rows]
        ends = np.cumsum([len(group) for group in chunk])
        for part in np.split(np.arange(len(rows)), ends[:-1]):
            if len(part) > 1:
                together[rows[part]] = solution.without(half[:, part], targets[part], error[part])

    with ThreadPoolExecutor(min(2, len(os.sched_getaffinity(0)))) as pool:
        list(pool.map(take, chunks(members(groups, len(x)))))
    return LeftOut(alone, leverage), LeftOut(together, leverage)
