"""The gate of a merger: does what counts know its probes worse with one more contribution?

The head of what counts and the one that would be answer the same probes, of the classes that both
know; a class that is new, or that the device itself forgot, is neither lost nor won. What that
proves is the governor's to say (edgecl/governor/judge.py), with its defaults. A new class counts
where it takes pictures from a known one: the head that devices get would do so, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgecl.config import GovernorConfig
from edgecl.errors import RequestError
from edgecl.fleet.contribution import Contribution
from edgecl.fleet.merge import Summed, add_up
from edgecl.fleet.orders import Orders
from edgecl.fleet.plant import Plant
from edgecl.fleet.probes import Probes, probes_of
from edgecl.governor.judge import Judgement, judged
from edgecl.governor.verdicts import paired
from edgecl.heads import make_head_of
from edgecl.heads.statistics import Statistic
from edgecl.runtime.codebook import Keys
from edgecl.runtime.scoring import best_of
from edgecl.store.changes import Verdicts
from edgecl.types import Labels

Digests = frozenset[str]
"""Which contributions: their digests."""
_Key = tuple[str, int, Digests]
# Some hundred answers are kept: of 2,000 probes they take 16 kB each.
_MOST_KEPT = 500


@dataclass(frozen=True)
class Answers:
    """How a head answers probes.

    Args:
        known: Ids of its classes.
        names: What they are called.
        best: Place in `known` of each probe's answer (N,).
    """

    known: tuple[str, ...]
    names: Mapping[str, str]
    best: Labels

    def right(self, y: Labels, places: Mapping[str, int]) -> Verdicts:
        """Return which probes of the classes that it knows are answered rightly.

        Args:
            y: Class of each probe (N,).
            places: Number of each class in `y`, by its id.
        """
        known = [places[class_] for class_ in self.known if class_ in places]
        uids = np.flatnonzero(np.isin(y, known))
        said = np.array([places.get(class_, -1) for class_ in self.known] or [-1])
        return Verdicts(uids, y[uids], said[self.best[uids]] == y[uids])


class Gate:
    """What the probes of a merger say of contributions.

    Args:
        plant: The merger's folder.
        orders: Of the fleet.
        contributions: Those that are here, by digest.
        before: A gate of this folder, whose answers need not be asked for again.

    Raises:
        IntegrityError: The probes are damaged, or of another fleet.
    """

    def __init__(
        self,
        plant: Plant,
        orders: Orders,
        contributions: Mapping[str, Contribution],
        before: Gate | None = None,
    ) -> None:
        self._plant, self._orders, self._contributions = plant, orders, contributions
        self.probes = probes_of(plant)
        self._answers: dict[_Key, Answers] = {} if before is None else before._answers
        # Of the two sets that were compared last: those of lite0 are 12 MB.
        self._sums: dict[Digests, Summed] = {}

    def doubt(self, counting: Digests, with_it: Digests) -> str:
        """Say what is proved to be lost if one more contribution counts, or nothing.

        Args:
            counting: What counts now.
            with_it: What would count.
        """
        if self.probes is None or not counting:
            return ""
        try:
            before, after = (self._answer(self.probes, some) for some in (counting, with_it))
        except RequestError as error:  # sums that are too large to add up
            return f"with it there is no head: {error}"
        self._sums = {k: v for k, v in self._sums.items() if k in (counting, with_it)}
        ids = [self._orders.canonical(class_) for class_ in self.probes.ids]
        places = {class_: i for i, class_ in enumerate(dict.fromkeys(ids))}
        y = np.array([places[class_] for class_ in ids])[self.probes.y]
        was, now = before.right(y, places), after.right(y, places)
        uids = dict.fromkeys(places.values(), 0)
        judgement = judged(paired(was, now, uids, uids), GovernorConfig())
        if not judgement.is_worse:
            return ""
        lost = np.setdiff1d(was.uids[was.right], now.uids[now.right], assume_unique=True)
        lost = np.intersect1d(lost, now.uids, assume_unique=True)
        return _in_words(judgement, list(places), before, after, after.best[lost])

    def _answer(self, probes: Probes, counting: Digests) -> Answers:
        """Return how the head of some contributions answers; it is solved once for a set."""
        key = (probes.digest, self._orders.last, counting)
        if key not in self._answers:
            if len(self._answers) >= _MOST_KEPT:
                self._answers.clear()
            fleet = self._plant.fleet
            head = make_head_of(fleet.head_config, fleet.dim, codebook=self._keys)
            summed = self._summed(counting, head.statistic)
            best = np.zeros(len(probes.y), np.int64)
            if summed.classes:
                best = best_of(summed.scorer(head), probes.x)
            self._answers[key] = Answers(tuple(summed.classes), summed.names, best)
        return self._answers[key]

    def _summed(self, counting: Digests, statistic: Statistic) -> Summed:
        """Return the sums of some contributions, made of those of nearly the same ones."""
        nearest = min(self._sums, key=lambda known: len(known ^ counting), default=Digests())
        if len(nearest ^ counting) >= len(counting):
            found = self._added(counting, statistic)
        else:
            found = self._sums[nearest]
            # First, so that no sum is larger than those that are asked for.
            if nearest - counting:
                found = found.minus(self._added(nearest - counting, statistic))
            if counting - nearest:
                found = found.plus(self._added(counting - nearest, statistic))
        self._sums[counting] = found
        return found

    def _added(self, some: Digests, statistic: Statistic) -> Summed:
        return add_up([self._contributions[d] for d in sorted(some)], self._orders, statistic)

    @cached_property
    def _keys(self) -> Keys | None:
        return self._plant.keys


def _in_words(
    judgement: Judgement, ids: list[str], before: Answers, after: Answers, said: Labels
) -> str:
    """Say what is lost; `said` is what the lost probes are answered as now."""
    pairs = judgement.pairs
    text = f"with it {pairs.lost} of {pairs.n} probes are lost and {pairs.won} won"
    text += f" (p = {judgement.p:.1g})"
    if judgement.worst is not None:
        worst = judgement.worst_pairs
        name = after.names[ids[judgement.worst]]
        text += f"; class {name!r} {worst.lost} of {worst.n} lost, {worst.won} won"
        text += f" (p = {judgement.worst_p:.1g})"
    ((place, n),) = Counter(said.tolist()).most_common(1)
    class_ = after.known[place]
    text += f"; {n} are answered {after.names[class_]!r} now"
    return text + ("" if class_ in before.known else ", which is new")
