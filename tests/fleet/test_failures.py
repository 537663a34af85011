"""Every way in which a fleet can go wrong, as docs/fleet.md lists them: what then.

In each case what counted before still counts, the file is left where it is, and status names it.
What happens to a home (a backup that was put back, a lease that is over) is in test_member.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleets import DIM, contribute, device_keys, toy_plant, toy_rows

from edgecl.errors import IntegrityError, RequestError
from edgecl.fleet.carriers.folder import CONTRIBUTIONS, ORDERS, Folder
from edgecl.fleet.merger import Merger, orders_in
from edgecl.fleet.orders import ADMIT, CLASS, REFUSE, Orders
from edgecl.fleet.plant import Plant, Policy
from edgecl.fleet.status import in_words, status_of
from edgecl.fleet.sums import ClassSums

CUPS = {"cup": toy_rows("cup", 4)}
MUGS = {"cup": toy_rows("mug", 4)}  # another thing of the same name
Way = Callable[[Path, Plant], Any]


def cut_off(path: Path, plant: Plant) -> None:
    file = contribute(path, plant, 1, 8, CUPS)
    file.write_bytes(file.read_bytes()[:-3])


def one_bit(path: Path, plant: Plant) -> None:
    file = contribute(path, plant, 1, 8, CUPS)
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.unlink()
    Folder(path).put("g8", bytes(data), CONTRIBUTIONS, "press-1", suffix="efc")


def no_contribution(path: Path, plant: Plant) -> None:
    Folder(path).put("g8", b"not what it is called", CONTRIBUTIONS, "press-1", suffix="efc")


def a_stranger(path: Path, plant: Plant) -> None:
    contribute(path, plant, 9, 8, CUPS)


def wrong_key(path: Path, plant: Plant) -> None:
    contribute(path, plant, 1, 8, CUPS, key=9)


def another_member_under_this_name(path: Path, plant: Plant) -> None:
    contribute(path, plant, 1, 8, CUPS, key=0)


def another_fleet(path: Path, plant: Plant) -> None:
    contribute(path, plant, 1, 8, CUPS, fleet="e" * 32)


PASSED_OVER: dict[Way, str] = {
    cut_off: "cut off or changed",
    one_bit: "not the one that was signed",
    no_contribution: "damaged or no contribution",
    a_stranger: "not signed by a member of this fleet called 'press-9'",
    wrong_key: "not signed by a member",
    another_member_under_this_name: "not signed by a member",
    another_fleet: "not signed by a member",
}


def another_map(path: Path, plant: Plant) -> None:
    contribute(path, plant, 1, 8, CUPS, feature_map="e" * 64)


def another_head(path: Path, plant: Plant) -> None:
    contribute(path, plant, 1, 8, CUPS, head="uer")


def orders_that_are_not_here(path: Path, plant: Plant) -> None:
    contribute(path, plant, 1, 8, CUPS, order=3)


def a_copied_home(path: Path, plant: Plant) -> None:
    contribute(path, plant, 1, 8, CUPS)
    contribute(path, plant, 1, 8, CUPS | {"plate": toy_rows("plate", 2)})


def too_few_rows(path: Path, plant: Plant) -> None:
    contribute(path, plant, 1, 8, {"cup": toy_rows("cup", 1)})


def another_thing_of_that_name(path: Path, plant: Plant) -> None:
    contribute(path, plant, 1, 8, MUGS)


HELD: dict[Way, tuple[str, int]] = {
    another_map: ("of the feature map eeeeeeeeeeee", 1),
    another_head: ("for the head uer, the fleet for ridge", 1),
    orders_that_are_not_here: ("applied order 3, here are 0", 1),
    a_copied_home: ("two contributions of generation 8 differ", 2),
    too_few_rows: ("'cup' has 1 samples, at least 2 are due", 1),
    another_thing_of_that_name: ("'cup' is ", 1),
}


@pytest.fixture
def started(tmp_path: Path) -> tuple[Merger, Folder]:
    """Return a merger that knows cups of press-0 and plates of press-1."""
    plant = toy_plant(tmp_path / "plant", policy=Policy(min_rows=2, most_distance=0.6))
    carrier = Folder(tmp_path / "carrier", is_made=True)
    contribute(carrier.path, plant, 0, 5, {"cup": toy_rows("cup", 9, 1)})
    contribute(carrier.path, plant, 1, 5, {"plate": toy_rows("plate", 9, 1)})
    merger = Merger(plant)
    merger.pull(carrier)
    merger.merge()
    merger.push(carrier)
    return merger, carrier


def tree(carrier: Folder) -> set[Path]:
    return set((carrier.path / CONTRIBUTIONS).rglob("*.efc"))


@pytest.mark.parametrize("way", PASSED_OVER, ids=lambda way: way.__name__)
def test_what_is_damaged_or_of_no_member_is_left_and_named(
    started: tuple[Merger, Folder], way: Way
) -> None:
    merger, carrier = started
    before = merger.merged()
    way(carrier.path, merger.plant)
    files = tree(carrier)
    assert merger.pull(carrier) == 0
    assert merger.merge() == (before, False)
    merger.push(carrier)
    assert tree(carrier) == files
    status = status_of(merger)
    (why,) = status["faults"].values()
    assert PASSED_OVER[way] in why
    assert f"passed over: {why}" in in_words(status, 0)


@pytest.mark.parametrize("way", HELD, ids=lambda way: way.__name__)
def test_what_does_not_fit_is_held_until_somebody_decides(
    started: tuple[Merger, Folder], way: Way
) -> None:
    merger, carrier = started
    way(carrier.path, merger.plant)
    assert merger.pull(carrier) == HELD[way][1]
    merger.merge()
    merger.push(carrier)
    held = status_of(merger)["held"]
    assert len(held) == HELD[way][1]
    assert all(HELD[way][0] in each["why"] for each in held)
    key = merger.plant.fleet.named("press-1").key
    expected = {} if way is a_copied_home else {key: 5}
    assert {k: n for k, n in merger.state().version if k == key} == expected
    assert merger.faults == {}
    # What is refused is gone for good, wherever it comes from.
    for each in held:
        merger.give({"kind": REFUSE, "key": key, "digest": each["digest"], "time": 1, "reason": ""})
    merger.merge()
    assert status_of(merger)["held"] == []
    assert dict(merger.state().version)[key] == 5 or way is a_copied_home


@pytest.mark.parametrize("way", [w for w in HELD if w not in list(HELD)[:3]])
def test_what_an_admin_admits_counts(started: tuple[Merger, Folder], way: Way) -> None:
    merger, carrier = started
    way(carrier.path, merger.plant)
    merger.pull(carrier)
    (first, *_) = status_of(merger)["held"]
    key = merger.plant.fleet.named("press-1").key
    body = {"kind": ADMIT, "key": key, "digest": first["digest"], "time": 1, "reason": ""}
    merger.give(body)
    merged, _ = merger.merge()
    assert merged.generations[key] == 8
    assert status_of(merger)["held"] == []


def test_a_device_that_went_back_is_told_and_counts_as_before(
    started: tuple[Merger, Folder],
) -> None:
    merger, carrier = started
    before = merger.merged()
    contribute(carrier.path, merger.plant, 1, 3, {"plate": toy_rows("plate", 2)})
    merger.pull(carrier)
    assert merger.merge() == (before, False)
    status = status_of(merger)
    assert status["went_back"] == {"press-1": 3}
    assert any("press-1 went back to generation 3" in line for line in in_words(status, 0))


def test_an_order_that_was_changed_stops_all_and_says_so(
    started: tuple[Merger, Folder],
) -> None:
    merger, carrier = started
    ids = [merger.orders.id_of(merger.plant.key, "cup")]
    merger.give({"kind": CLASS, "ids": ids, "time": 1, "reason": ""})
    merger.push(carrier)
    (path,) = carrier.files(ORDERS, suffix="json")
    path.write_bytes(path.read_bytes().replace(b'"time":1', b'"time":2'))
    with pytest.raises(IntegrityError, match="cut off or changed"):
        orders_in(carrier, merger.plant.fleet)


def test_a_stolen_key_of_the_admin_shows_in_the_chain(started: tuple[Merger, Folder]) -> None:
    merger, carrier = started
    key, secret = merger.plant.admin, merger.plant.key
    for name, folder in (("cup", merger.store), ("plate", carrier)):
        ids = [Orders().id_of(secret, name)]
        order = Orders().add({"kind": CLASS, "ids": ids, "time": 1, "reason": ""}, key)
        folder.put("000001", order.entries[0].line(), ORDERS, suffix="json")
    with pytest.raises(IntegrityError, match=r"two orders 1 of this fleet: the admin's key"):
        Merger(merger.plant).pull(carrier)


def test_without_the_admins_key_nothing_is_ordered_and_all_else_goes_on(
    started: tuple[Merger, Folder],
) -> None:
    merger, carrier = started
    (merger.plant.path / "secret" / "admin.key").unlink()
    again = Merger(Plant(merger.plant.path))
    contribute(carrier.path, merger.plant, 1, 6, {"plate": toy_rows("plate", 3)})
    again.pull(carrier)
    assert again.merge()[1]
    ids = [again.orders.id_of(again.plant.key, "cup")]
    with pytest.raises(RequestError, match="this copy of the fleet has no admin key"):
        again.give({"kind": CLASS, "ids": ids, "time": 1, "reason": ""})
    with pytest.raises(RequestError, match="no admin key"):
        again.plant.add("press-7", device_keys(7).public)


@pytest.mark.parametrize("now", [0, 2**40])
def test_a_wrong_clock_changes_nothing_that_is_merged(tmp_path: Path, now: int) -> None:
    plant = toy_plant(tmp_path / "plant")
    contribute(plant.path, plant, 0, 5, CUPS)
    first, _ = Merger(plant).merge(1_700_000_000)
    contribute(plant.path, plant, 1, 5, {"plate": toy_rows("plate", 4)})
    second, _ = Merger(plant).merge(now)
    assert second.version > first.version
    shutil.rmtree(plant.path / "merged")
    third, _ = Merger(plant).merge(1_800_000_000)
    assert replace(third, time=now) == second


def test_a_sum_out_of_range_is_refused_before_the_merge_and_names_the_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = toy_plant(tmp_path / "plant")
    whole = ClassSums.of
    n = 2**40

    def enormous(*args: Any) -> ClassSums:
        found = whole(*args)
        gram = np.zeros_like(found.gram)
        i = np.arange(DIM)
        gram[i * DIM - i * (i - 1) // 2] = 2**61
        return ClassSums(n, np.zeros_like(found.total), gram)

    monkeypatch.setattr("fleets.ClassSums.of", enormous)
    for i in range(3):
        contribute(plant.path, plant, i, 5, CUPS, form="gram")
    monkeypatch.undo()
    with pytest.raises(RequestError, match="the class 'cup': "):
        Merger(plant).merge()
    assert Merger(plant).merged() is None
