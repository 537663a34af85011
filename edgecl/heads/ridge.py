"""Ridge regression to one-hot targets, online and exactly forgettable.

Between two exact solves a sample is one rank-one update of the inverse (recursive least squares,
Plackett 1950); the update is exact for the centre and scale of the last solve. The exact solve
takes centre, scale and weights from the statistics alone, so after `settle` the head is a pure
function of the set of its samples: "learn A, B, C, forget B" has the very weights of "learn A, C".

The inverse is kept as R - U U^T: new rank-one terms collect in U (D, 64) and go into R in one block
update, which reads R once instead of 64 times. It is float32, which moves scores by less than 1e-5
between solves (measured over 4,000 updates); statistics, weights and solves are float64.

Same closed form as ACIL (Zhuang et al. 2022, arXiv:2205.14922) and RanPAC (McDonnell et al. 2023,
arXiv:2307.02251) without the random expansion; deletion by dropping a class's statistics as in the
analytic unlearning line (ACU, 2025, arXiv:2505.12239). Departures: unpenalised intercept, scaled
features, a fixed penalty (docs/decisions/0002), sums that are exact (heads/statistics.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas, lapack

from edgecl.heads.base import Head, Replay, State
from edgecl.heads.leave_one_out import LeftOut, members
from edgecl.heads.linear import LAMBDA_PER_FEATURE, on_each_column, scale_of
from edgecl.heads.memory import Memory
from edgecl.heads.statistics import Gram, Moments
from edgecl.runtime.scoring import LinearScorer
from edgecl.types import Float16, Float32, Float64, Labels

_BLOCK = 64
# Rows are cheapest to add many at a time; 512 rows of lite0 are 2 MB.
_MOST_PENDING = 512
# A solve comes when the samples have doubled; below this many, when there are four times as many,
# since it costs as much as some hundred updates.
_EARLY = 256
# Rows that are left out in one product; 512 of lite0 are 9 MB.
_CHUNK = 512
# Nearer to one a leverage in float32 is no number to divide by.
_LEAST_REST = 1e-4
# Bounds what rounding can add up to in the float32 inverse.
_MOST_UPDATES = 16_384


class RidgeHead(Head):
    """Exact ridge head.

    Args:
        num_features: Width D of the features.
        seed: Nothing here is random.
    """

    name = "ridge"

    def __init__(self, num_features: int, *, seed: int = 0) -> None:
        del seed
        super().__init__(Gram(num_features))
        self._sums: dict[int, tuple[int, Float64]] = {}
        self._moments = self.statistic.empty()
        self._pending: list[Float16] = []
        self._n_next_solve = 1
        self._is_settled = True
        # Of the last solve, for who leaves something out; kept by solves once somebody did.
        self._kept_factor: Float64 | None = None
        self._is_left_out = False
        # Of the last solve: centre, scale and weights (D, K) of scaled features, bias (K,).
        self._mean: Float64
        self._inverse_scale: Float64
        self._weights: Float64
        self._bias: Float64
        # The inverse (D + 1, D + 1) of the scaled, centred problem with its intercept: the lower
        # triangle of its D x D part, border and corner, less U U^T for the terms since.
        self._r: Float32
        self._r_edge: Float32
        self._r_corner: float
        self._u: Float32
        self._u_edge: Float32
        self._n_block: int
        self._solve()

    @property
    def classes(self) -> tuple[int, ...]:
        """Uids of the classes, in the order in which they came."""
        return tuple(self._sums)

    @property
    def n_samples(self) -> int:
        """Samples learned and not forgotten."""
        return self._moments.n + len(self._pending)

    def learn_many(self, x: Float32 | Float16, y: Labels, replay: Replay | None = None) -> None:
        """Learn features (N, D) of classes (N,), one after the other; replay is not needed."""
        rows, y = self.checked(x, y)
        for row, uid in zip(rows, y.tolist(), strict=True):
            self._learn(row, uid)

    def predict_many(self, x: Float32) -> Float64:
        """Return scores (N, K) of features (N, D): estimated probabilities, not clipped."""
        self.check_learned(x)
        z = (x - self._mean) * self._inverse_scale
        scores: Float64 = z @ self._weights
        scores += self._bias
        return scores  # (N, K)

    def settle(self, memory: Memory | None = None) -> None:
        """Solve exactly; a no-op when nothing was learned since the last solve."""
        del memory
        if not self._is_settled:
            self._solve()

    @property
    def is_exact(self) -> bool:
        """Whether an unlearning gives the very bits of never having learned."""
        return self._moments.is_exact

    def forget(self, y: int, memory: Memory) -> None:
        """Unlearn class y: subtract its exact statistics, which `memory` still holds, and solve."""
        self.check_known(y)
        self._fold()
        if len(self._sums) == 1:
            self._moments = self.statistic.empty()
        elif self._moments.is_exact:
            self._moments = self._moments.minus(memory.moments(y))
        else:  # too many rows for exact sums: add up what remains, in the order of the classes
            kept = [memory.moments(c) for c in self._sums if c != y]
            self._moments = self.statistic.empty()
            for part in kept:
                self._moments = self._moments.plus(part)
        del self._sums[y]
        self._solve()

    def restore(self, moments: Mapping[int, Moments], state: State | None) -> None:
        """Add up the statistics that a store kept, and solve."""
        del state
        self._pending.clear()
        self._sums = {}
        self._moments = self.statistic.empty()
        for uid, part in moments.items():
            self._moments = self._moments.plus(part)
            self._sums[uid] = (part.n, part.total.copy())
        self._solve()

    def left_out(self, x: Float16, y: Labels, groups: Labels | None = None) -> LeftOut:
        """Return scores and leverage of learned rows without themselves; see `Head.left_out`.

        Exact for the centre and scale of all learned rows; solves first if something is pending.
        """
        self.check_learned(x)
        self.settle()
        self._is_left_out = True
        if self._kept_factor is None:
            self._kept_factor = self._factor()
        factor, n = self._kept_factor, self.n_samples
        targets = np.equal.outer(y, np.array(self.classes)).astype(np.float64)
        scores, leverage = np.zeros_like(targets), np.empty(len(x))
        for groups_of_chunk in _chunks(members(groups, len(x))):
            rows = np.concatenate(groups_of_chunk)
            z = (x[rows].astype(np.float64) - self._mean) * self._inverse_scale
            error = targets[rows] - (z @ self._weights + self._bias)
            # A = L L', so z' A^-1 z is the squared length of L^-1 z.
            half = blas.dtrsm(1.0, factor, z.T, lower=1)  # (D, rows)
            leverage[rows] = np.einsum("dn,dn->n", half, half) + 1.0 / n
            if groups is None and n > 1:
                scores[rows] = targets[rows] - error / (1.0 - leverage[rows, None])
                continue
            begin = 0
            for group in groups_of_chunk:
                part = slice(begin, begin := begin + len(group))
                if len(group) < n:
                    rest = np.eye(len(group)) - half[:, part].T @ half[:, part] - 1.0 / n
                    _, change, failed = lapack.dposv(rest, error[part], lower=1)
                    if failed:
                        raise AssertionError("what is left of learned rows is positive definite")
                    scores[group] = targets[group] - change
        return LeftOut(scores, leverage)

    def left_out_now(self, x: Float16, y: Labels) -> Float64:
        """Return scores (N, K) without the rows, by the inverse as it stands: nothing is solved.

        Exact for the centre and scale of the last solve, as the head's own scores are.
        """
        self.check_learned(x)
        z = (x.astype(np.float64) - self._mean) * self._inverse_scale
        z32 = np.asfortranarray(z.T, dtype=np.float32)
        u, u_edge = self._u[:, : self._n_block], self._u_edge[: self._n_block]
        border = self._r_edge - u @ u_edge
        product = blas.ssymm(1.0, self._r, z32, lower=1) - u @ (u.T @ z32)  # (D, N)
        leverage = np.einsum("dn,dn->n", z32, product + 2 * border[:, None])
        leverage += self._r_corner - float(u_edge @ u_edge)
        targets = np.equal.outer(y, np.array(self.classes)).astype(np.float64)
        error = targets - (z @ self._weights + self._bias)
        # A lone sample decides all about itself.
        rest = np.maximum(1.0 - leverage.astype(np.float64), _LEAST_REST)
        scores: Float64 = targets - error / rest[:, None]
        return scores

    @property
    def left_out_cost(self) -> int:
        """Two multiply-adds for each value of the inverse, and those of a prediction."""
        return self.num_features * (2 * self.num_features + len(self.classes) + 100)

    def scorer(self, names: Mapping[int, str]) -> LinearScorer:
        """Return the head as weights on plain features."""
        weights = self._weights * self._inverse_scale[:, None]
        return LinearScorer(
            weights=weights,
            bias=self._bias - on_each_column(self._mean, weights),
            labels=tuple(names[c] for c in self._sums),
            kind="regression",
        )

    def _learn(self, row: Float16, uid: int) -> None:
        x = row.astype(np.float64)
        if uid not in self._sums:
            self._sums[uid] = (0, np.zeros(self.num_features))
            column = np.zeros(self.num_features)
            self._weights = np.asfortranarray(np.column_stack([self._weights, column]))
            self._bias = np.append(self._bias, 0.0)
        n, total = self._sums[uid]
        total += x
        self._sums[uid] = (n + 1, total)
        self._pending.append(row)
        self._is_settled = False
        if len(self._pending) == _MOST_PENDING:
            self._fold()
        if self.n_samples >= self._n_next_solve:
            self._solve()
        else:
            self._update(x, list(self._sums).index(uid))

    def _update(self, x: Float64, k: int) -> None:
        """Add one sample of column k to the weights and the inverse."""
        z = (x - self._mean) * self._inverse_scale
        z32 = z.astype(np.float32)
        j = self._n_block
        u, u_edge = self._u[:, :j], self._u_edge[:j]
        # The intercept is one more feature, always 1 and not penalised: its row of the inverse is
        # kept apart, so that the other D x D part stays the plain block that the solve gives.
        border = self._r_edge - u @ u_edge
        corner = self._r_corner - float(u_edge @ u_edge)
        gain = blas.ssymv(1.0, self._r, z32, lower=1) - u @ (u.T @ z32) + border  # (D,)
        edge = float(z32 @ border) + corner
        denominator = 1.0 + float(z32 @ gain) + edge
        error = -(z @ self._weights) - self._bias  # (K,)
        error[k] += 1.0
        self._weights = blas.dger(
            1.0 / denominator, gain.astype(np.float64), error, a=self._weights, overwrite_a=1
        )
        self._bias += edge / denominator * error
        root = math.sqrt(denominator)
        self._u[:, j] = gain / root
        self._u_edge[j] = edge / root
        self._n_block += 1
        if self._n_block == _BLOCK:
            self._flush()

    def _flush(self) -> None:
        """Take the collected rank-one terms into R."""
        self._r = blas.ssyrk(-1.0, self._u, beta=1.0, c=self._r, lower=1, overwrite_c=1)
        self._r_edge -= self._u @ self._u_edge
        self._r_corner -= float(self._u_edge @ self._u_edge)
        self._n_block = 0

    def _fold(self) -> None:
        """Take the rows since the last solve into the Gram matrix."""
        if self._pending:
            self._moments = self._moments.plus(self.statistic.of(np.array(self._pending)))
            self._pending.clear()

    def _solve(self) -> None:
        """Set centre, scale, inverse and weights from the statistics alone."""
        self._fold()
        d, k, n = self.num_features, len(self._sums), self._moments.n
        self._u = np.zeros((d, _BLOCK), np.float32, order="F")
        self._u_edge = np.zeros(_BLOCK, np.float32)
        self._n_block = 0
        self._r_edge = np.zeros(d, np.float32)
        self._n_next_solve = max(1, 4 * n if n < _EARLY else n + min(n, _MOST_UPDATES))
        self._is_settled = True
        self._kept_factor = None
        penalty = LAMBDA_PER_FEATURE * d
        if n == 0:
            self._mean, self._inverse_scale = np.zeros(d), np.ones(d)
            self._r = np.asfortranarray(np.eye(d, dtype=np.float32) / np.float32(penalty))
            self._r_corner = 1.0
            self._weights, self._bias = np.zeros((d, 0), order="F"), np.zeros(0)
            return
        self._mean = self._moments.total / n
        self._inverse_scale = 1.0 / _scale(self._moments)
        counts = np.array([c for c, _ in self._sums.values()], dtype=np.float64)
        sums = np.array([s for _, s in self._sums.values()]).T  # (D, K)
        factor = self._factor()
        if self._is_left_out:
            self._kept_factor = factor
        targets = (sums - np.outer(self._mean, counts)) * self._inverse_scale[:, None]
        # Columns are solved in an order of their own: how a solve rounds one may hang on its place.
        place = np.array(sorted(range(k), key=lambda c: (counts[c], sums[:, c].tobytes())))
        self._weights = np.empty((d, k), order="F")
        solved, _ = lapack.dpotrs(factor, np.asfortranarray(targets[:, place]), lower=1)
        self._weights[:, place] = solved.reshape((d, k), order="F")
        self._bias = counts / n
        self._r, _ = lapack.spotri(
            np.asfortranarray(factor, dtype=np.float32), lower=1, overwrite_c=1
        )
        self._r_corner = 1.0 / n

    def _factor(self) -> Float64:
        """Return the Cholesky factor (D, D), lower, of what the last solve inverted."""
        d, n = self.num_features, self._moments.n
        # In place, and lower triangles only: at D = 2,224 every copy is 40 MB.
        a = np.array(self._moments.second, order="F")
        a = blas.dsyr(-1.0 / n, self._moments.total, a=a, lower=1, overwrite_a=1)
        a *= self._inverse_scale
        a *= self._inverse_scale[:, None]
        a[np.diag_indices(d)] += LAMBDA_PER_FEATURE * d
        factor, failed = lapack.dpotrf(a, lower=1, overwrite_a=1)
        if failed:
            raise AssertionError("a Gram matrix plus a penalty is positive definite")
        return np.asarray(factor)


def _chunks(groups: Iterator[npt.NDArray[np.intp]]) -> Iterator[list[npt.NDArray[np.intp]]]:
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


def _scale(moments: Moments) -> Float64:
    """Return the scale of every feature (D,), a pure function of the statistics."""
    mean = moments.total / moments.n
    diagonal = np.diagonal(moments.second) if moments.second.ndim == 2 else moments.second
    return scale_of(diagonal / moments.n - mean * mean)
