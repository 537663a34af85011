"""What ridge would say of learned rows had it not learned them, from its exact solve.

See `leave_one_out.py` for the formula; here is what needs a factor, and scipy, which a device that
only predicts has not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgecl.heads import blas
from edgecl.heads.leave_one_out import LeftOut, chunks, members
from edgecl.runtime.cores import on_cores
from edgecl.types import Float16, Float64, Labels


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

    for _ in on_cores(take, chunks(members(groups, len(x)))):
        pass  # it wrote its rows
    return LeftOut(alone, leverage), LeftOut(together, leverage)
