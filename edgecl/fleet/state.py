"""Which contributions count: a map from a device to its newest one, and what stands in its way.

"The larger generation wins" is commutative, associative and idempotent, so it does not matter in
which order files come, how often, or how late. `settle` is a pure function of the files that are
there, the orders, and what counted before; the merged head is one of what counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from edgecl.fleet.orders import Orders
from edgecl.store.text import dump_json


@dataclass(frozen=True)
class Offer:
    """What a contribution says, as far as it decides whether it counts.

    Args:
        device: Public key of the device, hex.
        generation: How new it is among those of the device.
        digest: Of the whole contribution.
        order: The last order that the device had applied.
        ids: Ids of its classes.
        fault: Why it cannot count, whatever an admin says: another feature map; empty if it can.
        is_reduced: Whether the merger took closed classes out of it: then its digest is not the
            device's.
    """

    device: str
    generation: int
    digest: str
    order: int = 0
    ids: frozenset[str] = frozenset()
    fault: str = ""
    is_reduced: bool = False


Doubt = Callable[[Offer, Mapping[str, Offer]], str]
"""Says why an offer is doubtful beside those that count, or nothing."""


@dataclass(frozen=True)
class State:
    """What counts.

    Args:
        accepted: By key of the device.
        held: Offers that do not count until somebody decides, with the reason.
        went_back: Generation that a device sent after a larger one had counted.
        old: Digests of offers that can be deleted: a newer one counts.
    """

    accepted: dict[str, Offer] = field(default_factory=dict)
    held: tuple[tuple[Offer, str], ...] = ()
    went_back: dict[str, int] = field(default_factory=dict)
    old: frozenset[str] = frozenset()

    @property
    def version(self) -> list[tuple[str, int]]:
        """Devices with the generation that counts, sorted."""
        return sorted((key, offer.generation) for key, offer in self.accepted.items())


def _no_doubt(offer: Offer, accepted: Mapping[str, Offer]) -> str:
    return ""


def settle(
    offers: Iterable[Offer],
    *,
    members: Collection[str],
    orders: Orders,
    before: Mapping[str, int] | None = None,
    doubt: Doubt = _no_doubt,
) -> State:
    """Say what counts.

    Args:
        offers: All contributions that are there, checked and signed by whom they name.
        members: Keys of the fleet's devices.
        orders: The orders.
        before: Generation of each device that counted before, as the last merged head says it.
        doubt: Judges one that did not count before; an order `admit` overrules it.
    """
    before = before or {}
    refused, admitted = orders.refused, orders.admitted
    by_device: dict[str, list[Offer]] = {}
    for offer in sorted(set(offers), key=lambda o: (o.device, -o.generation, o.digest)):
        if offer.device in members and offer.device not in orders.out:
            if offer.digest not in refused:
                by_device.setdefault(offer.device, []).append(offer)
    accepted: dict[str, Offer] = {}
    went_back: dict[str, int] = {}
    held: list[tuple[Offer, str]] = []
    new: list[Offer] = []
    for device, known in by_device.items():
        rivals = _rivals(known, admitted)
        held += [(offer, _COPIED.format(n=offer.generation)) for offer in rivals]
        if rivals:
            continue
        known, last = _one_a_generation(known, admitted), before.get(device, 0)
        held += [(offer, offer.fault) for offer in known if offer.fault]
        known = [offer for offer in known if not offer.fault]
        for offer in known[::-1]:
            if offer.generation < last:
                went_back[device] = offer.generation
            elif offer.generation == last:
                accepted[device] = offer
            else:
                new.append(offer)
    held += _judge(new, accepted, admitted, doubt)
    return State(accepted, tuple(held), went_back, _old(by_device, accepted, held))


_COPIED = (
    "two contributions of generation {n} differ: the home was copied, so that two devices have one "
    "key, or was put back from a backup; admit the one that counts; then have a device with a "
    "home from a backup run `edgecl fleet join --again`, a copy join with a home of its own"
)


def _rivals(offers: list[Offer], admitted: frozenset[str]) -> list[Offer]:
    """Return offers of one generation of a device that differ and of which none was admitted."""
    generations: dict[int, list[Offer]] = {}
    for offer in offers:
        generations.setdefault(offer.generation, []).append(offer)
    return [
        offer
        for same in generations.values()
        if len({o.digest for o in same if not o.is_reduced}) > 1
        and not any(o.digest in admitted for o in same)
        and not any(o.is_reduced for o in same)
        for offer in same
    ]


def _one_a_generation(offers: list[Offer], admitted: frozenset[str]) -> list[Offer]:
    """Return one offer a generation: what was reduced most, or admitted, stands for the others."""
    best: dict[int, Offer] = {}
    for offer in sorted(
        offers, key=lambda o: (o.is_reduced, -len(o.ids) * o.is_reduced, o.digest in admitted)
    ):
        best[offer.generation] = offer
    return [best[generation] for generation in sorted(best, reverse=True)]


def _judge(
    new: list[Offer], accepted: dict[str, Offer], admitted: frozenset[str], doubt: Doubt
) -> list[tuple[Offer, str]]:
    """Let new offers count, the newest of a device first; returns those that are held."""
    held: list[tuple[Offer, str]] = []
    # Those that an admin admitted first: others are judged beside them, whatever came first.
    for offer in sorted(new, key=lambda o: (o.digest not in admitted, o.device, -o.generation)):
        newest = accepted.get(offer.device)
        if newest is not None and offer.generation < newest.generation:
            continue
        why = "" if offer.digest in admitted else doubt(offer, accepted)
        if why:
            held.append((offer, why))
        else:
            accepted[offer.device] = offer
    return held


def _old(
    by_device: Mapping[str, list[Offer]],
    accepted: Mapping[str, Offer],
    held: list[tuple[Offer, str]],
) -> frozenset[str]:
    """Return digests of what is no longer needed: it neither counts nor waits for a decision."""
    needed = {offer.digest for offer in accepted.values()} | {offer.digest for offer, _ in held}
    newest = {device: offer.generation for device, offer in accepted.items()}
    return frozenset(
        offer.digest
        for device, offers in by_device.items()
        for offer in offers
        if offer.digest not in needed and offer.generation <= newest.get(device, -1)
    )


def merged_digest(classes: Mapping[str, str]) -> str:
    """Return what stands for a merged state: of ids of classes and the digests of their sums.

    It says nothing of who brought what, so it is that of one place that learned everything.
    """
    return hashlib.sha256(dump_json(dict(classes)).encode()).hexdigest()
