"""What a few pictures can prove: tests of a change on the same pictures before and after.

Pure functions of counts and arrays. The exact test is McNemar's (1947, "Note on the sampling error
of the difference between correlated proportions", Psychometrika 12), one-sided; many classes are
corrected by Holm (1979, "A simple sequentially rejective multiple test procedure", Scand. J.
Stat. 6); an interval of one share is Wilson's (1927, J. Am. Stat. Assoc. 22), and the bound of a
paired loss is Tango's (1998, "Equivalence test and confidence interval for the difference in
proportions for the paired-sample design", Stat. in Medicine 17). Errors are compared by their
paired mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edgecl.types import Float64

_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Pairs:
    """How the same pictures were answered before and after a change.

    Args:
        n: Pictures.
        lost: Of them, right before and wrong after.
        won: Wrong before and right after.
    """

    n: int
    lost: int
    won: int

    @property
    def drop(self) -> float:
        """Share of the pictures by which accuracy fell; 0 of none."""
        return (self.lost - self.won) / self.n if self.n else 0.0

    def plus(self, other: Pairs) -> Pairs:
        """Return both sets of pictures as one."""
        return Pairs(self.n + other.n, self.lost + other.lost, self.won + other.won)


def mcnemar(pairs: Pairs) -> float:
    """Return the exact one-sided p-value of "it is worse": 1 where nothing changed sides.

    As many losses or more would come by chance among `lost + won` changes, each equally likely to
    be a loss or a win.
    """
    m = pairs.lost + pairs.won
    if not pairs.lost:
        return 1.0
    # Sum of the upper tail of Binomial(m, 1/2); in logarithms, since 2^m overflows.
    base = math.lgamma(m + 1) - m * math.log(2)
    terms = (
        math.exp(base - math.lgamma(k + 1) - math.lgamma(m - k + 1))
        for k in range(pairs.lost, m + 1)
    )
    return min(1.0, math.fsum(terms))


def fewer_right(right: int, n: int, other_right: int, other_n: int) -> float:
    """Return the exact one-sided p-value of "of these n fewer are right than of the others".

    So few or fewer would be among n of all pictures by chance (Fisher 1935); 1 where one has none.
    """
    whole, good = n + other_n, right + other_right

    def log_choose(a: int, b: int) -> float:
        return math.lgamma(a + 1) - math.lgamma(b + 1) - math.lgamma(a - b + 1)

    base = log_choose(whole, n)
    return min(
        1.0,
        math.fsum(
            math.exp(log_choose(good, k) + log_choose(whole - good, n - k) - base)
            for k in range(max(0, n - whole + good), right + 1)
        ),
    )


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for being many, in their order: below alpha means rejected."""
    adjusted, highest = [1.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def upper_drop(pairs: Pairs, z: float) -> float:
    """Return how far accuracy may have fallen: the upper bound of the drop, at z one-sided.

    The largest drop that the score test at z does not refuse; 1 where there is no picture. Of 20
    pictures of which none was lost it is 0.12 at z = 1.645: few pictures prove no harmlessness.
    """
    n, lost, won = pairs.n, pairs.lost, pairs.won
    low, high = pairs.drop, 1.0
    while n and high - low > 1e-9:
        drop = (low + high) / 2
        # Likeliest share of wins under this drop, a root of a quadratic equation.
        b = -lost - won + (2 * n - lost + won) * drop
        c = -won * drop * (1 - drop)
        share = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        spread = math.sqrt(max(0.0, n * (2 * share + drop * (1 - drop))))
        low, high = (low, drop) if n * drop - lost + won > z * spread else (drop, high)
    return high


def wilson(right: int, n: int, z: float = _Z95) -> tuple[float, float]:
    """Return the interval of a share of which `right` of n were seen; (0, 1) of none.

    The default z gives 95 %: 18 of 20 is 0.70 to 0.97.
    """
    if not n:
        return 0.0, 1.0
    share, square = right / n, z * z
    middle = share + square / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    low, high = (middle - half) / (1 + square / n), (middle + half) / (1 + square / n)
    return max(0.0, low), min(1.0, high)


def normal_quantile(p: float) -> float:
    """Return z with P(Z <= z) = p for 0 < p < 1, by halving; exact to 1e-12."""
    low, high = -40.0, 40.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if _phi(middle) < p else (low, middle)
    return (low + high) / 2


def paired_errors(before: Float64, after: Float64) -> float:
    """Return the one-sided p-value of "the mean error is higher after"; NaN counts as worse.

    The paired mean over its standard error against the normal distribution: errors of shares
    (Brier) are bounded, so that this holds from some 20 pictures on.

    Args:
        before: Error of each picture before (N,).
        after: And after (N,).
    """
    worse = after - before
    if not len(worse):
        return 1.0
    if not np.isfinite(worse).all():
        return 0.0
    spread = float(worse.std(ddof=1)) / math.sqrt(len(worse)) if len(worse) > 1 else 0.0
    if spread == 0.0:
        return 1.0 if float(worse.mean()) <= 0 else 0.0
    return 1.0 - _phi(float(worse.mean()) / spread)


def pooled(parts: Iterable[Pairs]) -> Pairs:
    """Return all pictures of some classes as one set."""
    whole = Pairs(0, 0, 0)
    for part in parts:
        whole = whole.plus(part)
    return whole


def _phi(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))
