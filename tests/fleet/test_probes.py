"""Probes of a merger: what makes the head worse on them is held, and what was forgotten is gone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleets import DIM, contribute, holders, toy_plant, toy_rows
from safetensors.numpy import save

from build import answer, invoke
from edgecl.errors import IntegrityError
from edgecl.fleet.carriers.folder import CONTRIBUTIONS, Folder
from edgecl.fleet.merge import add_up
from edgecl.fleet.merger import Merger
from edgecl.fleet.orders import ALIAS, CLASS, DEVICE, Orders
from edgecl.fleet.plant import Plant
from edgecl.fleet.probes import PROBES, Probes, probes_of, put_probes
from edgecl.fleet.status import in_words, status_of
from edgecl.fleet.sums import ClassSums
from edgecl.heads import make_head
from edgecl.heads.base import Head
from edgecl.heads.statistics import Gram

N = 20
GIVER = "a" * 64


def lay(plant: Plant, *names: str, orders: Orders | None = None) -> None:
    """Give a plant twenty probes of each class."""
    orders = orders or Orders()
    ids = sorted((orders.id_of(plant.key, name), name) for name in names)
    x = np.concatenate([toy_rows(name, N, 77) for _, name in ids])
    y = np.repeat(np.arange(len(ids)), N)
    put_probes(plant, Probes(tuple(i for i, _ in ids), x, y, GIVER))


def good(seed: int, *names: str, n: int = 15) -> dict[str, np.ndarray]:
    return {name: toy_rows(name, n, seed) for name in names}


def swapped(seed: int, n: int = 57) -> dict[str, np.ndarray]:
    """Return cups that are called plates, and plates that are called cups."""
    return {"plate": toy_rows("cup", n, seed), "cup": toy_rows("plate", n, seed)}


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A fleet whose merger has probes of cups, plates and spoons."""
    found = toy_plant(tmp_path / "plant", 4)
    lay(found, "cup", "plate", "spoon")
    return found


def come(plant: Plant, i: int, generation: int, classes: dict[str, Any], **more: Any) -> Merger:
    """Have a contribution come and be merged."""
    contribute(plant.path, plant, i, generation, classes, **more)
    merger = Merger(plant)
    merger.merge()
    return merger


def counts(merger: Merger) -> dict[str, int]:
    names = {member.key: member.name for member in merger.plant.fleet.members}
    return {names[key]: n for key, n in merger.state().version}


def held(merger: Merger) -> dict[str, str]:
    return {each["device"]: each["why"] for each in status_of(merger)["held"]}


@pytest.mark.parametrize("form", ["rows", "gram", "total"])
def test_a_mislabelled_device_is_held_until_it_is_admitted(plant: Plant, form: str) -> None:
    come(plant, 0, 1, good(0, "cup", "plate", "spoon"), form=form)
    merger = come(plant, 1, 1, swapped(1), form=form)
    assert counts(merger) == {"press-0": 1}
    (why,) = held(merger).values()
    assert "of 60 probes are lost and 0 won (p = " in why
    assert "class 'cup' " in why or "class 'plate' " in why
    assert "are answered '" in why
    assert any(why in line for line in in_words(status_of(merger), 0))
    answer("fleet", "admit", "press-1", "--fleet", plant.path)
    merger = Merger(plant)
    assert counts(merger) == {"press-0": 1, "press-1": 1}
    assert held(merger) == {}
    # What counted once is not doubted again, whatever the head does now.
    merger = come(plant, 2, 1, good(2, "spoon"), form=form)
    assert counts(merger) == {"press-0": 1, "press-1": 1, "press-2": 1}


def test_good_ones_and_a_new_class_count(plant: Plant) -> None:
    come(plant, 0, 1, good(0, "cup", "plate"))
    come(plant, 1, 1, good(1, "cup", "plate", "spoon"))
    come(plant, 2, 1, good(2, "saucer"))  # no probe is of it
    merger = come(plant, 1, 2, good(1, "cup", "plate", "spoon", n=20))
    assert counts(merger) == {"press-0": 1, "press-1": 2, "press-2": 1}
    assert held(merger) == {}


@pytest.mark.parametrize("left", [{"spoon": 40}, {"cup": 1, "plate": 1, "spoon": 15}])
def test_what_a_device_forgets_itself_is_never_held(plant: Plant, left: dict[str, int]) -> None:
    come(plant, 0, 1, swapped(0, 10))
    come(plant, 1, 1, good(1, "cup", "plate", "spoon"))
    merger = come(plant, 1, 2, {name: toy_rows(name, n, 1) for name, n in left.items()})
    assert counts(merger) == {"press-0": 1, "press-1": 2}
    assert held(merger) == {}


def test_the_first_ones_of_an_empty_fleet_count(plant: Plant) -> None:
    for i in range(3):
        contribute(plant.path, plant, i, 1, good(i, "cup", "plate", "spoon"))
    merger = Merger(plant)
    merger.merge()
    assert counts(merger) == {"press-0": 1, "press-1": 1, "press-2": 1}


def test_where_no_class_is_common_nothing_is_doubted(plant: Plant) -> None:
    come(plant, 0, 1, good(0, "spoon"))
    merger = come(plant, 0, 2, {"cup": toy_rows("spoon", 30, 1)})
    assert counts(merger) == {"press-0": 2}


@pytest.mark.parametrize("way", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_no_order_of_arrival_holds_bad_and_good_for_ever(
    plant: Plant, way: tuple[int, ...]
) -> None:
    come(plant, 3, 1, good(3, "cup", "plate", "spoon"))
    classes = {0: good(0, "cup", "plate"), 1: swapped(1), 2: good(2, "cup", "spoon")}
    for i in way:
        merger = come(plant, i, 1, classes[i])
    assert counts(merger) == {"press-0": 1, "press-2": 1, "press-3": 1}
    assert list(held(merger)) == ["press-1"]
    # Its labels were mended: what it sent before waits no longer.
    merger = come(plant, 1, 2, good(1, "cup", "plate"))
    assert counts(merger)["press-1"] == 2
    assert held(merger) == {}


def test_good_ones_count_where_a_bad_one_was_the_first(plant: Plant) -> None:
    come(plant, 0, 1, swapped(0, 15))
    come(plant, 1, 1, good(1, "cup", "plate", "spoon", n=40))
    merger = come(plant, 0, 2, good(0, "cup", "plate"))
    assert counts(merger) == {"press-0": 2, "press-1": 1}
    assert held(merger) == {}


def test_of_a_device_the_generation_before_counts_while_the_new_one_is_held(plant: Plant) -> None:
    come(plant, 0, 1, good(0, "cup", "plate", "spoon"))
    come(plant, 1, 1, good(1, "cup", "plate"))
    merger = come(plant, 1, 2, swapped(1))
    assert counts(merger) == {"press-0": 1, "press-1": 1}
    assert list(held(merger)) == ["press-1"]


def test_names_of_one_class_are_one_for_probes_too(plant: Plant) -> None:
    come(plant, 0, 1, good(0, "cup", "plate", "spoon"))
    merger = Merger(plant)
    ids = {name: merger.orders.id_of(plant.key, name) for name in ("cup", "mug")}
    merger.give({"kind": ALIAS, "ids": [ids["cup"]], "to": ids["mug"], "time": 1, "reason": ""})
    merger.merge()
    merger = come(plant, 1, 1, {"mug": toy_rows("plate", 57, 1), "plate": toy_rows("cup", 57, 1)})
    assert "class 'mug' " in held(merger)["press-1"] or "'plate'" in held(merger)["press-1"]
    assert counts(merger) == {"press-0": 1}


def test_heads_are_solved_once_for_a_set(
    plant: Plant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    carrier = Folder(tmp_path / "carrier", is_made=True)
    come(plant, 0, 1, good(0, "cup", "plate", "spoon"))
    solved = []

    def counted(*args: Any, **more: Any) -> Head:
        solved.append(args)
        return make_head("ridge", DIM)

    monkeypatch.setattr("edgecl.fleet.gate.make_head_of", counted)
    for i in (1, 2):
        contribute(carrier.path, plant, i, 1, swapped(i))
    merger = Merger(plant)
    merger.pull(carrier)
    merger.merge()
    assert len(solved) == 3  # what counts, and what would with each of the two
    merger.state()
    merger = merger.again(plant)
    merger.pull(carrier)
    merger.merge()
    assert list(held(merger)) == ["press-1", "press-2"]
    assert len(solved) == 3


@pytest.mark.parametrize("form", ["rows", "gram", "total"])
def test_sums_are_the_same_added_up_or_changed(tmp_path: Path, form: str) -> None:
    plant, statistic = toy_plant(tmp_path / "plant"), Gram(DIM)
    classes = ("cup", "plate"), ("plate", "spoon"), ("cup", "mug")
    for i, names in enumerate(classes):
        contribute(plant.path, plant, i, 1, good(i, *names), form=form)
    a, b, c = Merger(plant).contributions().values()
    one, two = (add_up([each], Orders(), statistic) for each in (b, c))
    found = add_up([a, b], Orders(), statistic).minus(one).plus(two)
    assert found.digest == add_up([a, c], Orders(), statistic).digest
    assert list(found.names) == sorted(found.names)


def test_large_sums_that_replace_as_large_ones_are_not_added_to_them(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    come(plant, 0, 1, good(0, "cup", "plate", "spoon"))
    come(plant, 1, 1, good(1, "cup", "plate"))
    whole, i = ClassSums.of, np.arange(DIM)

    def large(*args: Any) -> ClassSums:
        gram = np.zeros_like(whole(*args).gram)
        gram[i * DIM - i * (i - 1) // 2] = 3 * 2**60  # the diagonal; twice that is too large
        return ClassSums(2**40, np.zeros(DIM, np.int64), gram)

    for generation in (1, 2):
        with monkeypatch.context() as patched:
            patched.setattr("fleets.ClassSums.of", large)
            contribute(plant.path, plant, 2, generation, good(2, "saucer"), form="gram")
        merged, _ = Merger(plant).merge()
        if generation == 1:  # so many of them take all probes
            answer("fleet", "admit", "press-2", "--fleet", plant.path)
            merged, _ = Merger(plant).merge()
        assert merged.generations[plant.fleet.named("press-2").key] == generation


def test_what_a_killed_process_wrote_of_probes_is_overwritten(plant: Plant) -> None:
    part, other = plant.path / f".{PROBES}.part", plant.path / "linked"
    part.write_bytes(b"features of somebody")
    other.hardlink_to(part)
    lay(plant, "cup")
    assert other.read_bytes() == bytes(20)


def test_sums_that_are_too_large_are_held_and_the_others_go_on(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    come(plant, 0, 1, good(0, "cup", "plate", "spoon"))
    whole, i = ClassSums.of, np.arange(DIM)

    def enormous(*args: Any) -> ClassSums:
        gram = np.zeros_like(whole(*args).gram)
        gram[i * DIM - i * (i - 1) // 2] = 2**61  # the diagonal
        return ClassSums(2**40, np.zeros(DIM, np.int64), gram)

    monkeypatch.setattr("fleets.ClassSums.of", enormous)
    for device in (1, 2):
        contribute(plant.path, plant, device, 1, good(1, "saucer"), form="gram")
    monkeypatch.undo()
    merger = Merger(plant)
    merger.merge()
    assert counts(merger)["press-0"] == 1
    assert len(held(merger)) in (1, 2)  # one by itself may be as good as none
    for device in sorted(held(merger))[: len(held(merger)) - 1]:
        answer("fleet", "admit", device, "--fleet", plant.path)
    (why,) = held(Merger(plant)).values()
    assert why.startswith("with it there is no head: ")
    assert counts(come(plant, 3, 1, good(3, "cup")))["press-3"] == 1


@pytest.mark.parametrize("is_device", [False, True], ids=["class", "device"])
def test_what_was_ordered_to_be_forgotten_is_in_no_probe_any_more(
    plant: Plant, is_device: bool
) -> None:
    merger = come(plant, 0, 1, good(0, "cup", "plate", "spoon"))
    cup, key = merger.orders.id_of(plant.key, "cup"), plant.fleet.named("press-1").key
    target: dict[str, Any] = {"kind": CLASS, "ids": [cup]}
    if is_device:
        found = probes_of(plant)
        assert found is not None
        put_probes(plant, replace(found, giver=key))
        target = {"kind": DEVICE, "key": key, "name": "press-1"}
    bytes_ = toy_rows("cup", N, 77).tobytes()
    assert holders(plant.path, bytes_) == [PROBES]
    kept = (plant.path / PROBES).open("rb")  # what is on the disk, under whatever name
    merger.give({**target, "time": 1, "reason": ""})
    with kept:
        merger.merge()
        assert bytes_ not in kept.read()
    assert holders(plant.path, bytes_) == []
    assert PROBES not in holders(plant.path, cup.encode())
    left = status_of(merger)["probes"]
    assert left == ({"samples": 0, "classes": 0} if is_device else {"samples": 40, "classes": 2})


def test_the_others_go_on_trying_what_comes(plant: Plant) -> None:
    merger = come(plant, 0, 1, good(0, "cup", "plate", "spoon"))
    cup = merger.orders.id_of(plant.key, "cup")
    merger.give({"kind": CLASS, "ids": [cup], "time": 1, "reason": ""})
    merger.merge()
    other = {"spoon": toy_rows("plate", 57, 1), "plate": toy_rows("spoon", 57, 1)}
    lines = in_words(status_of(come(plant, 1, 1, other)), 0)
    assert "40 probes of 2 classes try what comes before it counts" in lines
    assert any("is held: with it" in line for line in lines)


def test_an_order_wipes_the_last_probes_and_what_a_killed_process_left(plant: Plant) -> None:
    lay(plant, "cup")
    part = plant.path / f".{PROBES}.part"
    shutil.copy(plant.path / PROBES, part)
    merger = Merger(plant)
    ids = [merger.orders.id_of(plant.key, "cup")]
    merger.give({"kind": CLASS, "ids": ids, "time": 1, "reason": ""})
    merger.clean()
    assert probes_of(plant) is None
    assert not part.exists()


def cut_off(plant: Plant) -> None:
    path = plant.path / PROBES
    path.write_bytes(path.read_bytes()[:-3])


def one_bit(plant: Plant) -> None:
    path = plant.path / PROBES
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)


def of_another_fleet(plant: Plant) -> None:
    other = toy_plant(plant.path.parent / "other")
    lay(other, "cup")
    shutil.copy(other.path / PROBES, plant.path / PROBES)


def no_probes(plant: Plant) -> None:
    (plant.path / PROBES).write_bytes(save({"x": np.zeros(3)}))


def a_link(plant: Plant) -> None:
    path = plant.path / PROBES
    path.rename(plant.path.parent / "elsewhere")
    path.symlink_to(plant.path.parent / "elsewhere")


def infinite(plant: Plant) -> None:
    found = probes_of(plant)
    assert found is not None
    x = found.x.copy()
    x[0, 0] = np.inf
    put_probes(plant, replace(found, x=x))


@pytest.mark.parametrize(
    "way",
    [cut_off, one_bit, of_another_fleet, no_probes, a_link, infinite],
    ids=lambda way: way.__name__,
)
def test_damaged_or_foreign_probes_stop_the_merger_until_they_are_taken_off(
    plant: Plant, way: Any
) -> None:
    before = come(plant, 0, 1, good(0, "cup", "plate", "spoon")).merged()
    way(plant)
    contribute(plant.path, plant, 1, 1, swapped(1))
    for command in (("status",), ("serve", "--once", "--carrier", plant.path)):
        with pytest.raises(IntegrityError, match=PROBES) as told:
            invoke("fleet", *command, "--fleet", plant.path)
        assert "\n" not in str(told.value)
    assert Merger(plant).merged() == before
    answer("fleet", "probes", "--none", "--fleet", plant.path)
    assert counts(Merger(plant)) == {"press-0": 1, "press-1": 1}
    assert way is not a_link or (plant.path.parent / "elsewhere").read_bytes() != b""


def test_a_merger_that_is_made_again_has_no_probes_and_what_counted_counts(
    plant: Plant, tmp_path: Path
) -> None:
    carrier = Folder(tmp_path / "carrier", is_made=True)
    come(plant, 0, 1, good(0, "cup", "plate", "spoon"))
    come(plant, 1, 1, swapped(1))
    answer("fleet", "admit", "press-1", "--fleet", plant.path)
    shutil.copytree(plant.path / CONTRIBUTIONS, carrier.path / CONTRIBUTIONS)
    Merger(plant).push(carrier)
    copy = tmp_path / "again"
    (copy / "secret").mkdir(parents=True)
    for name in ("fleet.json", "secret/fleet.key", "secret/merger.key"):
        shutil.copy(plant.path / name, copy / name)
    contribute(carrier.path, plant, 2, 1, swapped(2))
    again = Merger(Plant(copy))
    again.pull(carrier)
    again.merge()
    assert counts(again) == {"press-0": 1, "press-1": 1, "press-2": 1}
    assert status_of(again)["probes"] == {"samples": 0, "classes": 0}
