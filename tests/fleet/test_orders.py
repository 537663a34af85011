"""Orders: a chain that only the admin lengthens, and what it means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleets import device_keys

from edgecl.errors import IntegrityError, RequestError, UsageError
from edgecl.fleet.identity import class_id
from edgecl.fleet.orders import ALIAS, CLASS, DEVICE, REFUSE, Order, Orders, read_order

ADMIN, THIEF = (device_keys(i) for i in (1, 2))
SECRET = bytes(32)
CUP, MUG = (class_id(SECRET, name, 0) for name in ("cup", "mug"))


def body(kind: str, **target: Any) -> dict[str, Any]:
    return {"kind": kind, "time": 1, "reason": "", **target}


def chain(*bodies: dict[str, Any]) -> Orders:
    orders = Orders()
    for each in bodies:
        orders = orders.add(each, ADMIN.sign)
    return orders


def test_orders_come_in_any_order_and_more_than_once() -> None:
    whole = chain(*(body(CLASS, ids=[class_id(SECRET, str(i), 0)]) for i in range(4)))
    read = [read_order(order.line(), "it") for order in whole.entries]
    assert Orders().extended([*read[::-1], *read], ADMIN.key) == whole
    assert whole.until(2).extended(read[1:], ADMIN.key) == whole
    with pytest.raises(IntegrityError, match="order 1 is missing before order 2"):
        Orders().extended(read[1:], ADMIN.key)


def test_what_the_admin_did_not_order_is_no_order() -> None:
    (good,) = chain(body(CLASS, ids=[CUP])).entries
    forged = Orders().add(body(CLASS, ids=[MUG]), THIEF.sign).entries[0]
    for bad in (forged, replace(good, body=body(CLASS, ids=[MUG])), replace(good, number=2)):
        with pytest.raises(IntegrityError):
            Orders().extended([bad], ADMIN.key)
    other = chain(body(CLASS, ids=[MUG]))
    with pytest.raises(IntegrityError, match=r"two orders 1 .* copied or stolen"):
        other.extended([good], ADMIN.key)


@pytest.mark.parametrize(
    "bad",
    [
        body("burn", ids=[CUP]),
        body(CLASS),
        body(CLASS, ids=[]),
        body(CLASS, ids=["cup"]),
        body(CLASS, ids=[CUP], name="cup"),
        body(DEVICE, key="x", name="press"),
        body(DEVICE, key=CUP, name="../x"),
        body(REFUSE, key=ADMIN.key),
        body(CLASS, ids=[CUP]) | {"time": "now"},
    ],
)
def test_an_order_that_says_nothing_or_too_much_is_none(bad: dict[str, Any]) -> None:
    with pytest.raises((RequestError, UsageError)):
        Orders().add(bad, ADMIN.sign)
    with pytest.raises(IntegrityError, match="it is no order"):
        read_order(Order(1, bad, "0" * 64, "0" * 64, "").line(), "it")


@pytest.mark.parametrize("data", [b"", b"{}\n", b"[]", b"\xff", b'{"number":1}\n'])
def test_a_damaged_file_is_no_order(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="it is no order"):
        read_order(data, "it")


def test_each_order_to_forget_a_name_raises_its_epoch() -> None:
    orders = Orders()
    for epoch in range(3):
        assert orders.epoch(SECRET, "cup") == epoch
        assert orders.id_of(SECRET, "cup") == class_id(SECRET, "cup", epoch)
        orders = orders.add(body(CLASS, ids=[orders.id_of(SECRET, "cup")]), ADMIN.sign)
    assert orders.epoch(SECRET, "mug") == 0
    assert orders.until(1).epoch(SECRET, "cup") == 1


def test_a_class_is_forgotten_under_all_its_names() -> None:
    jug = class_id(SECRET, "jug", 0)
    orders = chain(body(ALIAS, ids=[MUG], to=CUP), body(ALIAS, ids=[jug], to=MUG))
    assert {orders.canonical(i) for i in (CUP, MUG, jug)} == {CUP}
    for name in (CUP, MUG, jug):
        assert orders.all_of(name) == sorted([CUP, MUG, jug])
    later = orders.add(body(CLASS, ids=orders.all_of(jug)), ADMIN.sign)
    assert [later.epoch(SECRET, name) for name in ("cup", "mug", "jug")] == [1, 1, 1]


def test_names_that_stand_for_each_other_in_a_ring_end() -> None:
    orders = chain(body(ALIAS, ids=[MUG], to=CUP), body(ALIAS, ids=[CUP], to=MUG))
    assert orders.canonical(CUP) in (CUP, MUG)
