"""Contributions added up, class by class, and the head that is solved once for all.

Sums are int64 of value x 2^24 (planes.py), so any order and any split gives the same bits; classes
come in the order of their ids, and one machine solves, since a solve is exact per BLAS only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgecl.errors import RequestError
from edgecl.fleet.contribution import Contribution, Part, rows, sums, total
from edgecl.fleet.orders import Orders
from edgecl.fleet.planes import Int64, added, from_grid
from edgecl.fleet.state import merged_digest
from edgecl.fleet.sums import ClassSums
from edgecl.heads.base import Head
from edgecl.heads.statistics import Gram, Moments, Statistic
from edgecl.runtime.scoring import Scorer

_NOTHING = np.zeros(0, np.int64)
Found = list[tuple[Contribution, Part]]


@dataclass(frozen=True)
class Summed:
    """What some contributions say together.

    Args:
        classes: Sums by id, in the order of the ids; where a head needs the Gram matrix of all
            classes only, theirs is empty.
        names: What the classes are called.
        second: The Gram matrix of all classes, packed; empty where each class has its own.
    """

    classes: dict[str, ClassSums]
    names: dict[str, str]
    second: Int64

    @property
    def digest(self) -> str:
        """What stands for it: equal in every place that has the same sums."""
        found = {class_: each.digest for class_, each in self.classes.items()}
        return merged_digest(found | {"second": hashlib.sha256(self.second.tobytes()).hexdigest()})

    def plus(self, other: Summed) -> Summed:
        """Return what both say together, as `add_up` of all of it does; names as they are here.

        Raises:
            RequestError: A sum is too large to be exact; it names the class.
        """
        classes = dict(self.classes)
        for class_, more in other.classes.items():
            try:
                classes[class_] = classes[class_].plus(more) if class_ in classes else more
            except RequestError as error:
                raise _of_class(other.names[class_], error) from error
        names = other.names | self.names
        in_order = sorted(classes)
        return Summed(
            {class_: classes[class_] for class_ in in_order},
            {class_: names[class_] for class_ in in_order},
            added(self.second, other.second),
        )

    def minus(self, other: Summed) -> Summed:
        """Return it without what `other` says, which must be part of it."""
        classes = self.classes | {i: self.classes[i].minus(c) for i, c in other.classes.items()}
        left = {class_: each for class_, each in classes.items() if each.count}
        return Summed(left, {i: self.names[i] for i in left}, self.second - other.second)

    def scorer(self, head: Head) -> Scorer:
        """Solve an empty head for these sums, and return it as arrays that predict."""
        statistic = head.statistic
        moments: Mapping[int, Moments]
        if isinstance(statistic, Gram):
            moments = _OfOneGram(self, statistic)
        else:
            moments = {i: c.moments(statistic) for i, c in enumerate(self.classes.values(), 1)}
        head.restore(moments, None)
        return head.scorer(dict(enumerate(self.names.values(), 1)))


def add_up(contributions: Sequence[Contribution], orders: Orders, statistic: Statistic) -> Summed:
    """Add contributions up, without classes that were ordered to be forgotten.

    Args:
        contributions: Those that count.
        orders: Of the fleet.
        statistic: What is summed.

    Raises:
        RequestError: A sum is too large to be exact; it names the class.
        IntegrityError: A file was changed since it was read.
    """
    found: dict[str, Found] = {}
    names: dict[str, tuple[bool, str]] = {}
    for each in contributions:
        for part in each.parts:
            if part.id in orders.closed:
                continue
            class_ = orders.canonical(part.id)
            found.setdefault(class_, []).append((each, part))
            # The class that the others are aliases of gives the name.
            called = (part.id != class_, part.name)
            names[class_] = min(called, names.get(class_, called))
    is_shared = isinstance(statistic, Gram)
    n_second = statistic.num_features * (statistic.num_features + 1) // 2 if is_shared else 0
    second, classes = np.zeros(n_second, np.int64), {}
    for class_ in sorted(found):
        try:
            classes[class_] = _sums_of(found[class_], statistic)
            if is_shared:
                if len(classes[class_].gram):
                    second = added(second, classes[class_].gram)
                classes[class_] = replace(classes[class_], gram=_NOTHING)
        except RequestError as error:
            raise _of_class(names[class_][1], error) from error
    for each in contributions:
        if each.total and is_shared:
            second = added(second, total(each).gram)
    return Summed(classes, {class_: names[class_][1] for class_ in classes}, second)


def _of_class(name: str, error: RequestError) -> RequestError:
    return RequestError(f"the class {name!r}: {error}")


def _sums_of(found: Found, statistic: Statistic) -> ClassSums:
    """Return the sums of a class; rows of all devices are multiplied in one go."""
    done = ClassSums(0, np.zeros(statistic.width, np.int64), _NOTHING)
    few = [rows(each, part) for each, part in found if part.form == "rows"]
    if few:
        done = ClassSums.of(statistic, statistic.of(np.concatenate(few)))
    for each, part in found:
        if part.form == "rows":
            continue
        more = sums(each, part)
        if len(done.gram) != len(more.gram):  # nothing yet, or the `total` form
            longer = max(done.gram, more.gram, key=len)
            added_up = replace(done, gram=_NOTHING).plus(replace(more, gram=_NOTHING))
            done = replace(added_up, gram=longer)
        else:
            done = done.plus(more)
    return done


class _OfOneGram(Mapping[int, Moments]):
    """Moments of classes of which only the sum of their Gram matrices is known, and needed."""

    def __init__(self, summed: Summed, statistic: Gram) -> None:
        self._classes = list(summed.classes.values())
        self._first = statistic.shaped(from_grid(summed.second))
        self._nothing = np.zeros_like(self._first)

    def __getitem__(self, i: int) -> Moments:
        own = self._classes[i - 1]
        return Moments(own.count, from_grid(own.total), self._first if i == 1 else self._nothing)

    def __iter__(self) -> Iterator[int]:
        return iter(range(1, len(self._classes) + 1))

    def __len__(self) -> int:
        return len(self._classes)
