"""Devices that learn, forget, go away and come back, over a carrier that loses and doubles.

After every step the merged sums are those of one place that learned what the newest contribution
of each device says, and no class that was ordered to be forgotten is ever back. Sums are toy
integers; who counts, ids, epochs and orders are the fleet's own code. 2,000 steps in every run;
EDGECL_FLEET_STEPS=100000 walks on.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field

from fleets import device_keys
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from edgecl.fleet.orders import ALIAS, CLASS, DEVICE, Orders
from edgecl.fleet.requests import open_ids
from edgecl.fleet.state import Offer, State, settle

STEPS = int(os.environ.get("EDGECL_FLEET_STEPS", "2000"))
PER_WALK = 50
NAMES = ("cup", "mug", "jug")
SECRET = bytes(32)
ADMIN = device_keys(0)
DEVICES = tuple(f"{i:064x}" for i in range(4))
DEVICE_OF, NAME_OF = st.sampled_from(DEVICES), st.sampled_from(NAMES)


@dataclass
class Device:
    """What a device knows: sums by name, its generation, and the orders that it applied."""

    sums: dict[str, int] = field(default_factory=dict)
    generation: int = 0
    orders: Orders = field(default_factory=Orders)


@dataclass(frozen=True)
class Message:
    """A contribution on its way: the offer, sums by id, and (name, epoch) for the oracle."""

    offer: Offer
    sums: tuple[tuple[str, int], ...]
    truth: tuple[tuple[str, int, int], ...]


class FleetModel(RuleBasedStateMachine):
    """A fleet and an oracle that knows nothing of ids."""

    n_steps = n_dropped = 0

    @initialize()
    def begin(self) -> None:
        self.devices = {key: Device() for key in DEVICES}
        self.orders, self.epochs = Orders(), Counter()
        self.same = {name: name for name in NAMES}
        self.out: set[str] = set()
        self.carrier: list[Message] = []
        self.files: dict[str, Message] = {}
        self.newest: dict[str, Message] = {}
        self.before: dict[str, int] = {}
        self.state = State()

    @rule(key=DEVICE_OF, name=NAME_OF, value=st.integers(1, 9))
    def learn(self, key: str, name: str, value: int) -> None:
        device = self.devices[key]
        device.sums[name] = device.sums.get(name, 0) + value
        device.generation += 1

    @rule(key=DEVICE_OF, name=NAME_OF)
    def forget_here(self, key: str, name: str) -> None:
        device = self.devices[key]
        if device.sums.pop(name, None) is not None:
            device.generation += 1

    @rule(key=DEVICE_OF, name=NAME_OF, how=st.sampled_from(("now", "now", "twice", "late", "lost")))
    def send(self, key: str, name: str, how: str) -> None:
        """Learn a little, and send all that is known; it arrives now, later, again, or never."""
        self.learn(key, name, 1)
        device = self.devices[key]
        sums = tuple((device.orders.id_of(SECRET, n), v) for n, v in sorted(device.sums.items()))
        digest = hashlib.sha256(repr((key, device.generation, sums)).encode()).hexdigest()
        offer = Offer(key, device.generation, digest, device.orders.last, frozenset(dict(sums)))
        truth = tuple((n, device.orders.epoch(SECRET, n), v) for n, v in device.sums.items())
        message = Message(offer, sums, truth)
        if how in ("now", "twice"):
            self._arrives(message)
        if how in ("twice", "late"):
            self.carrier.append(message)

    @rule(place=st.integers(0, 99), is_kept=st.booleans())
    def deliver(self, place: int, is_kept: bool) -> None:
        """Any message, old or new; one that is kept comes once more later."""
        if self.carrier:
            message = self.carrier[place % len(self.carrier)]
            if not is_kept:
                self.carrier.remove(message)
            self._arrives(message)

    @rule(key=DEVICE_OF, n=st.integers(1, 3))
    def come_back(self, key: str, n: int) -> None:
        """A device that was away gets some of the orders that it missed, and applies them."""
        device = self.devices[key]
        for order in self.orders.entries[device.orders.last : device.orders.last + n]:
            gone = [x for x in device.sums if device.orders.id_of(SECRET, x) in order.ids]
            if order.kind == CLASS:
                for name in gone:
                    del device.sums[name]
            device.orders = self.orders.until(order.number)
            device.generation += 1

    @rule(name=NAME_OF, other=NAME_OF, key=DEVICE_OF, chance=st.integers(0, 19))
    def order(self, name: str, other: str, key: str, chance: int) -> None:
        """Seldom: forget a class, name two classes as one, or forget a device."""
        if chance < 5:
            self._forget(name)
        elif chance < 8 and self.same[name] != self.same[other]:
            ids = [self.orders.canonical(self.orders.id_of(SECRET, n)) for n in (other, name)]
            self._order({"kind": ALIAS, "ids": ids[:1], "to": ids[1]})
            gone = self.same[other]
            for n, meant in self.same.items():
                self.same[n] = self.same[name] if meant == gone else meant
        elif chance == 8 and len(self.out) < len(DEVICES) - 2 and key not in self.out:
            self._order({"kind": DEVICE, "key": key, "name": "press"})
            self.out.add(key)

    @rule(key=DEVICE_OF, name=NAME_OF, chance=st.integers(0, 19))
    def ask(self, key: str, name: str, chance: int) -> None:
        """Seldom: a device asks that all forget what it knows by a name; late, that is nothing."""
        device = self.devices[key]
        if chance < 4 and key not in self.out:
            ids = open_ids([device.orders.id_of(SECRET, name)], self.orders)
            assert bool(ids) == (device.orders.epoch(SECRET, name) == self.epochs[name])
            if ids:
                self._forget(name, ids)

    @rule()
    def lose_the_merger(self) -> None:
        """What counted is known from the files alone."""
        self.before = {}

    @invariant()
    def merged_is_one_place(self) -> None:
        type(self).n_steps += 1
        offers = [message.offer for message in self.files.values()]
        orders = self.orders
        self.state = settle(offers, members=DEVICES, orders=orders, before=self.before)
        assert not self.state.held
        found: Counter[str] = Counter()
        for offer in self.state.accepted.values():
            type(self).n_dropped += len(offer.ids & orders.closed)
            for class_, value in self.files[offer.digest].sums:
                if class_ not in orders.closed:
                    found[orders.canonical(class_)] += value
        expected: Counter[str] = Counter()
        for key, message in self.newest.items():
            for name, epoch, value in message.truth:
                if key not in self.out and epoch == self.epochs[name]:
                    meant = orders.canonical(orders.id_of(SECRET, self.same[name]))
                    expected[meant] += value
        assert found == expected
        assert not set(found) & orders.closed
        for digest in self.state.old:
            del self.files[digest]
        self.before = dict(self.state.version)

    def _forget(self, name: str, ids: list[str] | None = None) -> None:
        ids = ids or self.orders.all_of(self.orders.id_of(SECRET, name))
        self._order({"kind": CLASS, "ids": ids})
        gone = [n for n in NAMES if self.same[n] == self.same[name]]
        self.epochs.update(gone)
        for each in gone:  # names of the next epoch are each their own again
            self.same[each] = each

    def _arrives(self, message: Message) -> None:
        self.files[message.offer.digest] = message
        newest = self.newest.get(message.offer.device)
        if newest is None or message.offer.generation > newest.offer.generation:
            self.newest[message.offer.device] = message

    def _order(self, target: dict[str, object]) -> None:
        self.orders = self.orders.add(target | {"time": 1, "reason": ""}, ADMIN.sign)


def test_merged_is_one_place_and_nothing_comes_back() -> None:
    FleetModel.n_steps = FleetModel.n_dropped = 0
    run_state_machine_as_test(
        FleetModel,
        settings=settings(
            max_examples=STEPS // PER_WALK * 11 // 10 + 5,
            stateful_step_count=PER_WALK,
            database=None,
            phases=(Phase.generate,) if STEPS > 2000 else (Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(f"{FleetModel.n_steps} steps; closed classes dropped {FleetModel.n_dropped} times")
    assert FleetModel.n_steps >= STEPS
    assert FleetModel.n_dropped > STEPS / 100
