"""What a head learns from: a store's memory, that without some of its rows, or rows at hand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgecl.heads.statistics import Moments, Statistic
from edgecl.types import Float16, Float64, Labels

Sums = dict[int, tuple[int, Float64]]


@dataclass(frozen=True, slots=True)
class Whole:
    """What all classes add up to.

    Args:
        moments: Statistics of all samples.
        sums: Count and sum of the features (D,) of each class, oldest class first.
    """

    moments: Moments
    sums: Sums


def add_rows(sums: Sums, x: Float16, classes: Labels) -> None:
    """Add rows (N, D) to the counts and sums of their classes (N,)."""
    order = np.argsort(classes, kind="stable")
    uids, starts, counts = np.unique(classes[order], return_index=True, return_counts=True)
    if not len(uids):
        return
    totals: Float64 = np.add.reduceat(x[order].astype(np.float64), starts, axis=0)
    for uid, n, total in zip(uids.tolist(), counts.tolist(), totals, strict=True):
        before = sums.get(uid)
        sums[uid] = (n, total) if before is None else (before[0] + n, before[1] + total)


def whole_of_rows(rows: Sequence[Float16], classes: Sequence[int], statistic: Statistic) -> Whole:
    """Return what N rows (D,) of N classes add up to."""
    x = np.array(rows, np.float16).reshape(-1, statistic.num_features)
    sums: Sums = {}
    add_rows(sums, x, np.array(classes, np.int64))
    return Whole(statistic.of(x), sums)


def whole_without(whole: Whole, gone: Whole, counts: Mapping[int, int]) -> Whole | None:
    """Return what is left of exact sums, in their memory, which is given up.

    Args:
        whole: All samples.
        gone: Those that are taken off.
        counts: How many of each class have to be left, oldest class first; others are gone.

    Returns:
        None, and nothing was changed, if sums are rounded or other numbers would be left.
    """
    nothing = (0, np.zeros(1))
    left = {uid: n - gone.sums.get(uid, nothing)[0] for uid, (n, _) in whole.sums.items()}
    kept = {uid: n for uid, n in left.items() if uid in counts}
    is_known = set(gone.sums) <= set(whole.sums) and not any(left[u] for u in set(left) - set(kept))
    if not (whole.moments.is_exact and is_known and list(kept.items()) == list(counts.items())):
        return None
    sums = {
        uid: (n, whole.sums[uid][1] - gone.sums[uid][1]) if uid in gone.sums else whole.sums[uid]
        for uid, n in kept.items()
    }
    return Whole(whole.moments.absorb(gone.moments, -1), sums)


class ByClass(Mapping[int, Moments]):
    """Statistics by class of somebody who knows what they add up to."""

    @abstractmethod
    def whole(self) -> Whole:
        """Return it; without rounding, or as the classes are added one after the other."""

    @abstractmethod
    def class_sums(self) -> Sums:
        """Return the sums of it alone, which cost much less."""


def whole_of(moments: Mapping[int, Moments], statistic: Statistic) -> Whole:
    """Return what statistics of classes add up to."""
    found = moments.whole() if isinstance(moments, ByClass) else None
    if found is not None and found.moments.is_exact:
        return found
    sums: Sums = {}
    total = statistic.empty()
    for uid, part in moments.items():  # a sum that is rounded hangs on its order
        total = total.plus(part)
        sums[uid] = (part.n, part.total.copy())
    return Whole(total, sums)


class Memory(Protocol):
    """What a head may ask of the store when it settles or unlearns a class."""

    def moments(self, y: int) -> Moments:
        """Return the statistics of all samples of class y that were learned."""
        ...

    def all_moments(self) -> Mapping[int, Moments]:
        """Return the statistics of every class."""
        ...

    def stored_rows(self) -> tuple[Float16, Labels]:
        """Return the features and classes of the samples kept for replay, oldest first."""
        ...


class RowMemory:
    """Features (N, D) and class uids (N,) as what a head may ask of a store.

    Args:
        x: Quantised features, oldest first.
        y: Their classes.
        statistic: What is kept of every class.
        keeps: Keep a statistic once it was made; a Gram matrix of wide features is tens of MB.
    """

    def __init__(self, x: Float16, y: Labels, statistic: Statistic, *, keeps: bool = False) -> None:
        self.x, self.y = x, y
        self._statistic = statistic
        self._made: dict[int, Moments] | None = {} if keeps else None

    def moments(self, y: int) -> Moments:
        """Return the statistics of class y."""
        if self._made is not None and y in self._made:
            return self._made[y]
        made = self._statistic.of(self.x[self.y == y])
        if self._made is not None:
            self._made[y] = made
        return made

    def all_moments(self) -> Mapping[int, Moments]:
        """Return the statistics of every class, in the order of their first rows."""
        return Lazy(tuple(dict.fromkeys(self.y.tolist())), self.moments)

    def stored_rows(self) -> tuple[Float16, Labels]:
        """Return all rows."""
        return self.x, self.y


class Without:
    """A memory without some rows that it learned and keeps.

    Args:
        whole: All of it.
        kept: Which of its stored rows stay (N,), in their order.
        statistic: What is kept of every class.
        classes: Uids of its classes, oldest first.
    """

    def __init__(
        self,
        whole: Memory,
        kept: npt.NDArray[np.bool_],
        statistic: Statistic,
        classes: tuple[int, ...],
    ) -> None:
        x, y = whole.stored_rows()
        self._whole, self._classes = whole, classes
        self._but = RowMemory(x[~kept], y[~kept], statistic)
        self._rows = x[kept], y[kept]

    def moments(self, y: int) -> Moments:
        """Return the statistics of class y."""
        whole = self._whole.moments(y)
        return whole.minus(self._but.moments(y)) if (self._but.y == y).any() else whole

    def all_moments(self) -> Mapping[int, Moments]:
        """Return the statistics of every class; each is made when it is asked for."""
        return Lazy(self._classes, self.moments)

    def stored_rows(self) -> tuple[Float16, Labels]:
        """Return the rows that stay."""
        return self._rows


class OnlyClasses:
    """A memory of some of its classes.

    Args:
        whole: All of it.
        classes: Uids of those, oldest first.
    """

    def __init__(self, whole: Memory, classes: tuple[int, ...]) -> None:
        self._whole, self._classes = whole, classes
        self.moments = whole.moments

    def all_moments(self) -> Mapping[int, Moments]:
        """Return the statistics of these classes; each is made when it is asked for."""
        return Lazy(self._classes, self._whole.moments)

    def stored_rows(self) -> tuple[Float16, Labels]:
        """Return the rows of these classes."""
        x, y = self._whole.stored_rows()
        kept = np.isin(y, self._classes)
        return x[kept], y[kept]


class Lazy(Mapping[int, Moments]):
    """Statistics by class that are made one at a time."""

    def __init__(self, classes: tuple[int, ...], of: Callable[[int], Moments]) -> None:
        self._classes, self._of = classes, of

    def __getitem__(self, uid: int) -> Moments:
        """Return the statistics of a class."""
        return self._of(uid)

    def __iter__(self) -> Iterator[int]:
        """Go through the classes."""
        return iter(self._classes)

    def __len__(self) -> int:
        """Return how many classes there are."""
        return len(self._classes)
