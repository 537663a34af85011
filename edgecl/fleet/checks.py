"""What must be right of a contribution beside its hashes: what it is of, and whether it fits in.

A fault cannot be overruled: sums of two feature maps are of nothing. A doubt can: an admin may know
why the cups of a new camera look different.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgecl.fleet.contribution import Contribution, Part, rows, sums
from edgecl.fleet.gate import Gate
from edgecl.fleet.orders import Orders
from edgecl.fleet.planes import from_grid
from edgecl.fleet.plant import Fleet, Plant
from edgecl.fleet.state import Offer
from edgecl.fleet.sums import diagonal_of
from edgecl.types import Float64

_Class = tuple[int, Float64, Float64]
"""Samples, sum of the features (D,), sum of their squares (D,), which may be unknown: (0,)."""
_LEAST_VARIANCE = 1e-6


def fault_of(found: Contribution, fleet: Fleet, orders: Orders) -> str:
    """Return why a contribution can never count in this fleet, or nothing."""
    if other := other_map(found.feature_map, found.dim, found.head, found.layout.keys, fleet):
        return other
    if found.order > orders.last:
        return (
            f"its device applied order {found.order}, here are {orders.last}; bring the orders "
            "from its carrier first"
        )
    if found.total and found.layout.statistic != "full":
        return "the `total` form is for ridge only; export it without --total"
    return ""


def other_map(feature_map: str, dim: int, head: str, keys: str, fleet: Fleet) -> str:
    """Return why features, or sums of them, are of another kind than a fleet's, or nothing.

    Args:
        feature_map: Hash of the frozen map that they are of.
        dim: Width of the features.
        head: Name of the head that they are for.
        keys: Digest of its frozen keys, '' without.
        fleet: The fleet.
    """
    if feature_map != fleet.feature_map or dim != fleet.dim:
        return (
            f"it is of the feature map {feature_map[:12]} ({dim} features), the fleet "
            f"of {fleet.feature_map[:12]} ({fleet.dim}); make a fleet for that map (`edgecl fleet "
            "init`), or learn anew in a home of this one (`edgecl init --home`)"
        )
    if head != fleet.head["name"] or keys != fleet.keys:
        return (
            f"it is for the head {head}, the fleet for {fleet.head['name']}, or their frozen "
            "keys differ; make its home with the settings of the others"
        )
    return ""


class Judge:
    """Doubts, as a fleet's policy and the probes of its merger have them.

    Args:
        plant: The merger's folder.
        before: A judge of this folder; what it knows is not asked for again.
    """

    def __init__(self, plant: Plant, before: Judge | None = None) -> None:
        self._plant, self._policy = plant, plant.fleet.policy
        self._classes: dict[str, dict[str, _Class]] = {}
        self._contributions: Mapping[str, Contribution] = {}
        self._gate: Gate | None = None if before is None else before._gate

    def know(self, contributions: Mapping[str, Contribution], orders: Orders) -> None:
        """Take note of the contributions that are here, by digest, and of the orders.

        Raises:
            IntegrityError: The merger's probes are damaged.
        """
        self._contributions = contributions
        self._gate = Gate(self._plant, orders, contributions, self._gate)

    def doubt(self, offer: Offer, accepted: Mapping[str, Offer]) -> str:
        """Say why an offer is doubtful beside those that count, or nothing; see `state.settle`."""
        found, least = self._contributions[offer.digest], self._policy.min_rows
        few = [part for part in found.parts if part.count < least]
        if few:
            return f"the class {few[0].name!r} has {few[0].count} samples, at least {least} are due"
        return self._far(offer, accepted) or self._worse(offer, accepted)

    def _worse(self, offer: Offer, accepted: Mapping[str, Offer]) -> str:
        assert self._gate is not None  # `know` came before
        own = accepted.get(offer.device)
        if own is not None:
            was, now = (self._contributions[o.digest] for o in (own, offer))
            # To forget is a right: what it costs the others holds nothing up.
            if own.ids - offer.ids or now.count < was.count:
                return ""
        counting = {o.digest for o in accepted.values()}
        others = {o.digest for o in accepted.values() if o.device != offer.device}
        return self._gate.doubt(frozenset(counting), frozenset(others | {offer.digest}))

    def _far(self, offer: Offer, accepted: Mapping[str, Offer]) -> str:
        found = self._contributions[offer.digest]
        if not self._policy.most_distance or found.layout.statistic == "counts":
            return ""
        others = [
            self._contributions[o.digest] for o in accepted.values() if o.device != offer.device
        ]
        own, theirs = self._of(found), [self._of(other) for other in others]
        before = accepted.get(offer.device)
        counted = frozenset() if before is None else before.ids  # what counted is not doubted again
        known = {class_ for each in theirs for class_ in each}
        variance = _variance([own, *theirs])
        for class_ in sorted((own.keys() & known) - counted):
            others_class = _plus([each[class_] for each in theirs if class_ in each])
            far = _distance(own[class_], others_class, variance)
            if far > self._policy.most_distance:
                name = next(part.name for part in found.parts if part.id == class_)
                return (
                    f"its class {name!r} is {far:.1f} spreads from that of the others, more than "
                    f"{self._policy.most_distance:g}: perhaps another thing of the same name"
                )
        return ""

    def _of(self, found: Contribution) -> dict[str, _Class]:
        key = str(found.path)
        if key not in self._classes:
            self._classes[key] = {part.id: _moments(found, part) for part in found.parts}
        return self._classes[key]


def _moments(found: Contribution, part: Part) -> _Class:
    if part.form == "rows" and not found.layout.keys:
        x = rows(found, part).astype(np.float64)
        return part.count, x.sum(axis=0), np.einsum("nd,nd->d", x, x)
    if part.form == "sum":  # nothing says its spread
        return part.count, from_grid(sums(found, part).total), np.zeros(0)
    known = sums(found, part)
    return part.count, from_grid(known.total), from_grid(diagonal_of(known, found.layout))


def _plus(classes: list[_Class]) -> _Class:
    return sum(n for n, _, _ in classes), np.sum([t for _, t, _ in classes], axis=0), np.zeros(0)


def _variance(known: list[dict[str, _Class]]) -> Float64 | None:
    """Return the variance of each feature within classes; None if nothing says it."""
    parts = [part for each in known for part in each.values() if len(part[2])]
    freedom = sum(n - 1 for n, _, _ in parts)
    if not freedom:
        return None
    within = np.zeros(len(parts[0][1]))
    for n, total, squares in parts:
        within += squares - total**2 / n
    return np.maximum(within / freedom, _LEAST_VARIANCE)


def _distance(a: _Class, b: _Class, variance: Float64 | None) -> float:
    """Return how far two means are apart, in units of the spread within classes.

    The root of the mean over the features, less what so few samples give by chance.
    """
    if variance is None:
        return 0.0
    square = float(np.mean((a[1] / a[0] - b[1] / b[0]) ** 2 / variance)) - 1 / a[0] - 1 / b[0]
    return math.sqrt(max(0.0, square))
