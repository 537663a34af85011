"""What counts: a pure function of what is there, whatever came first, twice or late."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from fleets import device_keys

from edgecl.fleet.orders import ADMIT, DEVICE, REFUSE, Orders
from edgecl.fleet.state import Offer, State, settle

ADMIN = device_keys(0)
A, B = "a" * 64, "b" * 64
OLD, NEW, OTHER, COPY = (
    Offer(A, 1, "01" * 32), Offer(A, 2, "02" * 32), Offer(B, 7, "03" * 32), Offer(A, 2, "04" * 32),
)  # fmt: skip


def order(kind: str, offer: Offer) -> Orders:
    body: dict[str, Any] = {"kind": kind, "time": 1, "reason": "", "key": offer.device}
    body |= {"name": "press"} if kind == DEVICE else {"digest": offer.digest}
    return Orders().add(body, ADMIN.sign)


def state(*offers: Offer, orders: Orders | None = None, **values: Any) -> State:
    return settle(offers, members={A, B}, orders=orders or Orders(), **values)


def test_the_newest_counts_in_every_order_and_however_often_it_came() -> None:
    found = [state(*some, *some[:2]) for some in permutations((OLD, NEW, OTHER))]
    assert all(each == found[0] for each in found)
    assert found[0].accepted == {A: NEW, B: OTHER}
    assert found[0].old == {OLD.digest}


CASES = {
    "a stranger": ({"offers": [Offer("c" * 64, 1, "05" * 32)]}, {}, 0),
    "a copied home": ({"offers": [NEW, COPY, OTHER]}, {B: OTHER}, 2),
    "a copied home, decided": (
        {"offers": [NEW, COPY, OTHER], "orders": order(ADMIT, COPY)}, {A: COPY, B: OTHER}, 0,
    ),
    "a copied home, one refused": (
        {"offers": [NEW, COPY], "orders": order(REFUSE, COPY)}, {A: NEW}, 0,
    ),
    "refused: the one before counts": (
        {"offers": [OLD, NEW], "orders": order(REFUSE, NEW)}, {A: OLD}, 0,
    ),
    "a device that was forgotten": (
        {"offers": [NEW, OTHER], "orders": order(DEVICE, NEW)}, {B: OTHER}, 0,
    ),
    "another map": ({"offers": [OLD, Offer(A, 2, "06" * 32, fault="map")]}, {A: OLD}, 1),
    "another map, admitted in vain": (
        {
            "offers": [Offer(A, 2, "06" * 32, fault="map")],
            "orders": order(ADMIT, Offer(A, 2, "06" * 32)),
        },
        {}, 1,
    ),
    "doubtful": ({"offers": [OLD, NEW], "doubt": lambda o, a: "far" * (o == NEW)}, {A: OLD}, 1),
    "doubtful and admitted": (
        {"offers": [OLD, NEW], "doubt": lambda o, a: "far", "orders": order(ADMIT, NEW)},
        {A: NEW}, 0,
    ),
    "what counted is not doubted again": (
        {"offers": [OLD], "before": {A: 1}, "doubt": lambda o, a: "far"}, {A: OLD}, 0,
    ),
    "reduced by the merger, and the original again": (
        {"offers": [NEW, Offer(A, 2, "07" * 32, is_reduced=True)]},
        {A: Offer(A, 2, "07" * 32, is_reduced=True)}, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_counts(name: str) -> None:
    values, accepted, n_held = CASES[name]
    for offers in permutations(values["offers"]):
        found = state(*offers, **{k: v for k, v in values.items() if k != "offers"})
        assert (found.accepted, len(found.held)) == (accepted, n_held)


def test_a_device_that_went_back_is_seen_and_its_older_state_does_not_count() -> None:
    found = state(OLD, OTHER, before={A: 2, B: 7})
    assert found.accepted == {B: OTHER}
    assert found.went_back == {A: 1}
    assert state(OLD, NEW, before={A: 2}).accepted == {A: NEW}
