"""Ridge regression to one-hot targets, online and exactly forgettable.

Between two exact solves a sample is one rank-one update (heads/recursion.py), exact for the centre
and scale of the last solve. The exact solve takes centre, scale and weights from the statistics
alone, in float64, so after `settle` the head is a pure function of the set of its samples: "learn
A, B, C, forget B" has the very weights of "learn A, C".

What is learned waits until somebody asks: a prediction takes it in, with the scores of the
prediction before it if that was of the same sample. Few samples are solved over the samples.

Same closed form as ACIL (Zhuang et al. 2022, arXiv:2205.14922) and RanPAC (McDonnell et al. 2023,
arXiv:2307.02251) without the random expansion; deletion by dropping a class's statistics as in the
analytic unlearning line (ACU, 2025, arXiv:2505.12239). Departures: unpenalised intercept, scaled
features, a fixed penalty (docs/decisions/0002), sums that are exact (heads/statistics.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from edgecl.heads import blas
from edgecl.heads.base import Head, Replay, State
from edgecl.heads.influence import Solution, leave_out
from edgecl.heads.leave_one_out import LeftOut
from edgecl.heads.linear import LAMBDA_PER_FEATURE, on_each_column, scale_of
from edgecl.heads.memory import ByClass, Memory, Whole, whole_of, whole_without
from edgecl.heads.recursion import Recursion
from edgecl.heads.statistics import Gram, Moments
from edgecl.runtime.scoring import LinearScorer
from edgecl.types import Float16, Float32, Float64, Labels

# Rows are cheapest to add many at a time; 512 rows of lite0 are 2 MB.
_MOST_PENDING = 512
# A solve comes when the samples have doubled; below this many, when there are four times as many,
# since it costs as much as some hundred updates.
_EARLY = 256
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
        self._columns: dict[int, int] = {}
        self._known: tuple[int, ...] = ()
        self._moments = self.statistic.empty()
        # Rows that are not in the moments yet, with their columns; the last `_n_waiting` are not
        # in the weights either, nor is what came before them if `_is_stale`.
        self._pending: list[Float16] = []
        self._pending_columns: list[int] = []
        self._n_waiting = 0
        self._is_stale = False
        self._n_next_solve = 1
        self._is_settled = True
        # Of the last solve: centre, scale, factor of what was inverted (D, D), and, until something
        # is learned on, weights (D, K) of scaled features and bias (K,).
        self._mean: Float64
        self._inverse_scale: Float64
        self._factor: Float64 | None
        # What was said of rows, each alone, since then: which ones, as a hash, and what.
        self._alone: tuple[bytes, LeftOut] | None
        self._weights: Float64
        self._bias: Float64
        # The head since then.
        self._recursion: Recursion | None
        # The sample that was predicted last, and its scores (1, K), while nothing has changed.
        self._said: tuple[Float32, Float64] | None
        self._solve()

    @property
    def classes(self) -> tuple[int, ...]:
        """Uids of the classes, in the order in which they came."""
        if len(self._known) != len(self._sums):
            self._known = tuple(self._sums)
        return self._known

    @property
    def n_samples(self) -> int:
        """Samples learned and not forgotten."""
        return self._moments.n + len(self._pending)

    def learn_many(self, x: Float32 | Float16, y: Labels, replay: Replay | None = None) -> None:
        """Learn features (N, D) of classes (N,), one after the other; replay is not needed."""
        rows, y = self.checked(x, y)
        for row, uid in zip(rows, y.tolist(), strict=True):
            self._note(row, uid)

    def predict_many(self, x: Float32) -> Float64:
        """Return scores (N, K) of features (N, D): estimated probabilities, not clipped."""
        self.check_learned(x)
        self._catch_up()
        scores = self._scores(x)
        self._said = (x[0].copy(), scores) if len(x) == 1 else None
        return scores  # (N, K)

    def expect(self, x: Float16) -> None:
        """Read weights and inverse once for rows (N, D) that come next."""
        if not self._sums:
            return
        self.check_learned(x)
        self._catch_up()
        if not self._is_settled:
            self._live().expect(self._scaled(x))

    def prepare(self) -> None:
        """Take what was learned into weights and inverse."""
        if self._sums:
            self._catch_up()

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
            self._moments = self._moments.absorb(memory.moments(y), -1)
        else:  # too many rows for exact sums: add up what remains, in the order of the classes
            kept = [memory.moments(c) for c in self._sums if c != y]
            self._moments = self.statistic.empty()
            for part in kept:
                self._moments = self._moments.plus(part)
        del self._sums[y]
        self._number()
        self._solve()

    def restore(self, moments: Mapping[int, Moments], state: State | None) -> None:
        """Add up the statistics that a store kept, and solve."""
        del state
        self._pending.clear()
        self._pending_columns.clear()
        whole = whole_of(moments, self.statistic)
        # What only went to other classes has the same Gram matrix, and the same factor of it.
        is_same = self._is_settled and self._moments.is_same(whole.moments)
        self._moments, self._sums = whole.moments, whole.sums
        self._number()
        self._solve(self._factor if is_same else None)

    def take_off(self, gone: Whole, memory: Memory, counts: Mapping[int, int]) -> None:
        """Subtract samples, which is exact: what is left need not be added up."""
        self._fold()
        left = whole_without(Whole(self._moments, self._sums), gone, counts)
        if left is None:
            return self.rebuild(memory)
        self._moments, self._sums = left.moments, left.sums
        self._number()
        return self._solve()

    def regroup(self, memory: Memory) -> None:
        """Take the sums of the classes anew: the Gram matrix of all, and its factor, stay."""
        moments = memory.all_moments()
        self._fold()
        sums = moments.class_sums() if isinstance(moments, ByClass) else {}
        if not self._moments.is_exact or sum(n for n, _ in sums.values()) != self._moments.n:
            return self.rebuild(memory)  # they are not those learned
        self._sums = sums
        self._number()
        return self._solve(self._factor if self._is_settled else None)

    def whole(self) -> Whole:
        """Return what was learned."""
        self._catch_up()
        self._fold()
        return Whole(self._moments, self._sums)

    def left_out(self, x: Float16, y: Labels, groups: Labels | None = None) -> LeftOut:
        """Return scores and leverage of learned rows without themselves; see `Head.left_out`.

        Exact for the centre and scale of all learned rows; solves first if something is pending.
        Groups say what each row alone would as well: who asks for that next has it at no cost.
        """
        self.check_learned(x)
        self.settle()
        asked = hashlib.blake2b(x.tobytes() + y.tobytes()).digest()
        if groups is None and self._alone is not None and self._alone[0] == asked:
            return self._alone[1]
        assert self._factor is not None  # something was learned, and solved
        solution = Solution(
            self._factor, self._mean, self._inverse_scale, self._weights, self._bias,
            np.array(self.classes), self.n_samples,
        )  # fmt: skip
        alone, together = leave_out(solution, x, y, groups)
        self._alone = asked, alone
        return together

    def left_out_now(self, x: Float16, y: Labels) -> Float64:
        """Return scores (N, K) without the rows, by the inverse as it stands: nothing is solved.

        Exact for the centre and scale of the last solve, as the head's own scores are.
        """
        self.check_learned(x)
        self._catch_up()
        leverage = self._live().left_out(self._scaled(x))
        targets = np.equal.outer(y, np.array(self.classes)).astype(np.float64)
        error = targets - self._scores(x)
        # A lone sample decides all about itself.
        rest = np.maximum(1.0 - leverage, _LEAST_REST)
        scores: Float64 = targets - error / rest[:, None]
        return scores

    @property
    def left_out_cost(self) -> int:
        """Two multiply-adds for each value of the inverse, and those of a prediction."""
        return self.num_features * (2 * self.num_features + len(self.classes) + 100)

    def scorer(self, names: Mapping[int, str]) -> LinearScorer:
        """Return the head as weights on plain features."""
        self._catch_up()
        weights, bias = self._weights, self._bias
        if self._recursion is not None and not self._is_settled:
            weights, bias = self._recursion.weights()
        # By rows, as it is kept: else that would take a copy.
        weights = np.multiply(weights, self._inverse_scale[:, None], order="C")
        return LinearScorer(
            weights=weights,
            bias=bias - on_each_column(self._mean, weights),
            labels=tuple(names[c] for c in self._sums),
            kind="regression",
        )

    def _number(self) -> None:
        """Number the classes as they stand."""
        self._columns = {uid: k for k, uid in enumerate(self._sums)}
        self._known = ()

    def _note(self, row: Float16, uid: int) -> None:
        """Add a sample to the statistics; weights and inverse wait."""
        if uid not in self._sums:
            self._sums[uid] = (0, np.zeros(self.num_features))
            self._columns[uid] = len(self._columns)
        n, total = self._sums[uid]
        total += row
        self._sums[uid] = (n + 1, total)
        self._pending.append(row)
        self._pending_columns.append(self._columns[uid])
        self._n_waiting += 1
        self._is_settled = False
        if len(self._pending) == _MOST_PENDING:
            # So many at once are cheaper to solve than to take in, when somebody asks.
            self._is_stale |= self._n_waiting == _MOST_PENDING
            if not self._is_stale or not self._moments.n:
                self._catch_up()
            self._fold()

    def _catch_up(self) -> None:
        """Take what waits into weights and inverse."""
        n = self._n_waiting
        if self._is_stale or (n and self.n_samples >= self._n_next_solve):
            few = min(_MOST_PENDING, self.num_features // 2)
            if self._moments.n or len(self._pending) > few:
                self._solve()
            else:
                self._solve_rows()
        elif n:
            rows = np.array(self._pending[-n:])
            said = None
            if n == 1 and self._said is not None and np.array_equal(self._said[0], rows[0]):
                said = self._said[1]
            recursion = self._live()
            recursion.grow(len(self._sums))
            recursion.learn(self._scaled(rows), self._pending_columns[-n:], said)
            self._n_waiting, self._said, self._factor, self._alone = 0, None, None, None
            self._weights = np.zeros((self.num_features, 0))

    def _live(self) -> Recursion:
        """Return weights and inverse as they stand since the last solve."""
        if self._recursion is None:
            d, n = self.num_features, self._moments.n
            if self._factor is None:
                inverse = np.asfortranarray(np.eye(d, dtype=np.float32) / (LAMBDA_PER_FEATURE * d))
            else:
                inverse = np.array(self._factor, np.float32, order="F")
                blas.inverse_into(inverse)
            corner = 1.0 / n if n else 1.0
            self._recursion = Recursion(inverse, corner, self._weights, self._bias)
        return self._recursion

    def _scaled(self, x: Float32 | Float16) -> Float32:
        z: Float64 = (x - self._mean) * self._inverse_scale
        return z.astype(np.float32)

    def _scores(self, x: Float32 | Float16) -> Float64:
        """Return scores (N, K) of features (N, D) when nothing waits."""
        if not self._is_settled:
            return self._live().scores(self._scaled(x))
        scores: Float64 = (x - self._mean) * self._inverse_scale @ self._weights
        scores += self._bias
        return scores

    def _fold(self) -> None:
        """Take the rows since the last solve into the Gram matrix."""
        if self._pending:
            self._moments = self._moments.absorb(self.statistic.of(np.array(self._pending)))
            self._pending.clear()
            self._pending_columns.clear()

    def _begin(self, n: int) -> None:
        """Begin anew with what a solve of n samples is about to find."""
        self._n_next_solve = max(1, 4 * n if n < _EARLY else n + min(n, _MOST_UPDATES))
        self._n_waiting, self._is_stale = 0, False
        self._recursion = self._said = self._factor = self._alone = None

    def _solve(self, factor: Float64 | None = None) -> None:
        """Set centre, scale and weights from the statistics alone.

        Args:
            factor: That of the statistics as they are now, if it is known.
        """
        self._fold()
        d, k, n = self.num_features, len(self._sums), self._moments.n
        self._begin(n)
        self._is_settled = True
        if n == 0:
            self._mean, self._inverse_scale = np.zeros(d), np.ones(d)
            self._weights, self._bias = np.zeros((d, 0), order="F"), np.zeros(0)
            return
        self._mean = self._moments.total / n
        self._inverse_scale = 1.0 / _scale(self._moments)
        counts = np.array([c for c, _ in self._sums.values()], dtype=np.float64)
        sums = np.array([s for _, s in self._sums.values()]).T  # (D, K)
        self._factor = self._factored() if factor is None else factor
        targets = (sums - np.outer(self._mean, counts)) * self._inverse_scale[:, None]
        # Columns are solved in an order of their own: how a solve rounds one may hang on its place.
        place = np.array(sorted(range(k), key=lambda c: (counts[c], sums[:, c].tobytes())))
        self._weights = np.empty((d, k), order="F")
        self._weights[:, place] = blas.solve_factored(self._factor, targets[:, place])
        self._bias = counts / n

    def _solve_rows(self) -> None:
        """Set all for the time being from a few rows Z (n, D): a solve with Z Z' instead of Z' Z.

        With a penalty p and L L' = Z Z' + p the inverse is (1 - H' H) / p for H = L^-1 Z.
        """
        d, n, k = self.num_features, len(self._pending), len(self._sums)
        self._begin(n)
        x = np.array(self._pending, dtype=np.float64)
        self._mean = x.mean(axis=0)
        self._inverse_scale = 1.0 / scale_of(x.var(axis=0))
        z = (x - self._mean) * self._inverse_scale
        penalty = LAMBDA_PER_FEATURE * d
        factor = np.asfortranarray(z @ z.T + penalty * np.eye(n))
        blas.factor_into(factor)
        half = np.ascontiguousarray(blas.solve_lower(factor, z))  # (n, D)
        targets = np.zeros((n, k))
        targets[np.arange(n), self._pending_columns] = 1.0
        weights = half.T @ blas.solve_lower(factor, targets)
        inverse = np.asfortranarray(np.eye(d, dtype=np.float32) / penalty)
        blas.add_square_into(-1.0 / penalty, half.T.astype(np.float32), inverse)
        self._weights = np.zeros((d, 0))
        self._recursion = Recursion(inverse, 1.0 / n, weights, targets.mean(axis=0))

    def _factored(self) -> Float64:
        """Return the Cholesky factor (D, D), lower, of what a solve inverts."""
        d, n = self.num_features, self._moments.n
        # In place, and lower triangles only: at D = 2,224 every copy is 40 MB.
        a = np.array(self._moments.second, order="F")
        blas.add_outer_into(-1.0 / n, self._moments.total, a)
        a *= self._inverse_scale
        a *= self._inverse_scale[:, None]
        a[np.diag_indices(d)] += LAMBDA_PER_FEATURE * d
        if not blas.factor_into(a):
            raise AssertionError("a Gram matrix plus a penalty is positive definite")
        return a


def _scale(moments: Moments) -> Float64:
    """Return the scale of every feature (D,), a pure function of the statistics."""
    mean = moments.total / moments.n
    diagonal = np.diagonal(moments.second) if moments.second.ndim == 2 else moments.second
    return scale_of(diagonal / moments.n - mean * mean)
