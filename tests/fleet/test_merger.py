"""The merger: any split and order gives the bits of one place, and what was forgotten is gone."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fleets import DIM, contribute, device_keys, holders, toy_plant, toy_rows
from safetensors.numpy import load

from edgecl.fleet.carriers.folder import CONTRIBUTIONS, MERGED, Folder
from edgecl.fleet.merged import arrays_file
from edgecl.fleet.merger import Merger
from edgecl.fleet.orders import ALIAS, CLASS, DEVICE
from edgecl.fleet.plant import Plant, Policy
from edgecl.heads import make_head
from edgecl.heads.statistics import Gram

NAMES = ("teacup", "flask", "plate", "spoon")


def order(merger: Merger, kind: str, **target: Any) -> None:
    merger.give({"kind": kind, "time": 1, "reason": "", **target})
    merger.clean()


def ids(merger: Merger, name: str) -> list[str]:
    return merger.orders.all_of(merger.orders.id_of(merger.plant.key, name))


def arrays(merger: Merger) -> dict[str, np.ndarray]:
    merged = merger.merged()
    assert merged is not None
    path = arrays_file(merger.store, merged)
    assert path is not None
    return load(path.read_bytes())


def one_place(merger: Merger, classes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the head of one place that learned all rows, classes in the order of their ids."""
    head, gram = make_head("ridge", DIM), Gram(DIM)
    names = sorted(classes, key=lambda n: ids(merger, n))
    head.restore({i: gram.of(classes[n]) for i, n in enumerate(names, 1)}, None)
    return head.scorer(dict(enumerate(names, 1))).arrays()


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    for name in ("weights", "bias"):
        np.testing.assert_array_equal(a[name], b[name], strict=True)


@pytest.mark.parametrize("form", ["rows", "gram", "total", "mixed"])
def test_any_split_and_order_is_one_place(tmp_path: Path, form: str) -> None:
    whole = {name: toy_rows(name, 9) for name in NAMES}
    states = set()
    for n, way in enumerate(((0, 1, 2), (2, 1, 0), (1, 2, 0))):
        plant = toy_plant(tmp_path / f"plant-{n}")
        carrier = Folder(tmp_path / f"carrier-{n}", is_made=True)
        merger = Merger(plant)
        for i in way:
            part = {name: x[i::3] for name, x in whole.items() if (name, i) != ("teacup", 0)}
            if i == 1:
                part["teacup"] = np.concatenate([part["teacup"], whole["teacup"][0::3]])
            how = ("rows", "gram", "total")[i] if form == "mixed" else form
            contribute(carrier.path, plant, i, 5, part, form=how)
            merger.pull(carrier)
            merger.merge()
        merged, is_new = merger.merge()
        assert not is_new
        same(arrays(merger), one_place(merger, whole))
        assert {name: count for _, name, count in merged.classes} == dict.fromkeys(NAMES, 9)
        states.add(merged.state)
    assert len(states) == 1


@pytest.mark.parametrize("is_pulled", [True, False])
def test_what_comes_on_a_carrier_while_it_merges_waits_for_the_next_time(
    tmp_path: Path, is_pulled: bool
) -> None:
    plant, carrier = toy_plant(tmp_path / "plant"), Folder(tmp_path / "carrier", is_made=True)
    merger = Merger(plant)
    contribute(carrier.path, plant, 0, 1, {"teacup": toy_rows("teacup", 4)})
    if is_pulled:
        merger.pull(carrier)
    late = [contribute(carrier.path, plant, i, 2, {"flask": toy_rows("flask", 4)}) for i in (0, 1)]
    merger.merge()
    merger.push(carrier)
    assert all(path.exists() for path in late)
    again = merger.again(plant)
    assert again.pull(carrier) == (2 if is_pulled else 3)
    merged, _ = again.merge()
    assert dict(merged.devices) == {device_keys(0).key: 2, device_keys(1).key: 2}


@pytest.fixture
def three(tmp_path: Path) -> tuple[Merger, Folder]:
    """Return a merger and a carrier of three devices, merged and given out."""
    plant, carrier = toy_plant(tmp_path / "plant"), Folder(tmp_path / "carrier", is_made=True)
    for i in range(3):
        classes = {name: toy_rows(name, 4, i) for name in NAMES[i : i + 2]}
        contribute(carrier.path, plant, i, 10 + i, classes)
    merger = Merger(plant)
    assert merger.pull(carrier) == 3
    merger.merge()
    merger.push(carrier)
    return merger, carrier


def test_a_class_that_was_ordered_to_be_forgotten_is_in_no_file_any_more(
    three: tuple[Merger, Folder], tmp_path: Path
) -> None:
    merger, carrier = three
    before = merger.merged()
    assert before is not None
    assert len(holders(tmp_path, b"flask")) > 4
    order(merger, CLASS, ids=ids(merger, "flask"))
    merged, is_new = merger.merge()
    assert is_new
    merger.push(carrier)
    assert holders(tmp_path, b"flask") == []
    assert merged.version > before.version
    assert [name for _, name, _ in merged.classes if name == "flask"] == []
    rest = {name: toy_rows(name, 4, i) for i, name in ((0, "teacup"), (2, "spoon"))}
    rest["plate"] = np.concatenate([toy_rows("plate", 4, i) for i in (1, 2)])
    same(arrays(merger), one_place(merger, rest))
    assert merged.generations == before.generations


def test_a_device_that_was_away_cannot_bring_a_class_back(
    three: tuple[Merger, Folder], tmp_path: Path
) -> None:
    merger, carrier = three
    order(merger, CLASS, ids=ids(merger, "flask"))
    merger.merge()
    merger.push(carrier)
    mugs = {"flask": toy_rows("flask", 7, 9), "teacup": toy_rows("teacup", 5, 9)}
    contribute(carrier.path, merger.plant, 0, 11, mugs)  # it knows of no order
    contribute(carrier.path, merger.plant, 0, 10, {"flask": toy_rows("flask", 4)})  # an old stick
    merger.pull(carrier)
    merged, _ = merger.merge()
    merger.push(carrier)
    assert holders(tmp_path, b"flask") == []
    assert {name: n for _, name, n in merged.classes} == {"teacup": 5, "plate": 8, "spoon": 4}
    # It applied the order, and is taught anew: that is another class.
    orders = merger.orders
    contribute(carrier.path, merger.plant, 0, 12, {"flask": toy_rows("flask", 3, 8)}, orders=orders)
    merger.pull(carrier)
    merged, _ = merger.merge()
    assert {name: n for _, name, n in merged.classes} == {"flask": 3, "plate": 8, "spoon": 4}


def test_a_device_that_was_forgotten_counts_no_longer(three: tuple[Merger, Folder]) -> None:
    merger, carrier = three
    member = merger.plant.fleet.named("press-1")
    order(merger, DEVICE, key=member.key, name=member.name)
    merger.plant.remove(member.name)
    merger.clean()
    merged, _ = merger.merge()
    merger.push(carrier)
    rest = {"teacup": 0, "flask": 0, "plate": 2, "spoon": 2}
    same(arrays(merger), one_place(merger, {n: toy_rows(n, 4, i) for n, i in rest.items()}))
    contribute(carrier.path, merger.plant, 1, 50, {"flask": toy_rows("flask", 2)})
    merger.pull(carrier)
    assert merger.merge() == (merged, False)
    assert list(carrier.files(CONTRIBUTIONS, "press-1", suffix="efc")) == []


def test_two_names_can_mean_one_class(three: tuple[Merger, Folder]) -> None:
    merger, _ = three
    order(merger, ALIAS, ids=ids(merger, "flask"), to=ids(merger, "teacup")[0])
    merged, _ = merger.merge()
    assert {name: n for _, name, n in merged.classes} == {"teacup": 12, "plate": 8, "spoon": 4}
    order(merger, CLASS, ids=ids(merger, "flask"))
    merged, _ = merger.merge()
    assert {name: n for _, name, n in merged.classes} == {"plate": 8, "spoon": 4}


def test_a_lost_merger_is_made_again_of_a_carrier(
    three: tuple[Merger, Folder], tmp_path: Path
) -> None:
    merger, carrier = three
    order(merger, CLASS, ids=ids(merger, "flask"))
    merged, _ = merger.merge()
    merger.push(carrier)
    copy = tmp_path / "again"
    (copy / "secret").mkdir(parents=True)
    for name in ("fleet.json", "secret/fleet.key", "secret/merger.key"):
        (copy / name).write_bytes((merger.plant.path / name).read_bytes())
    again = Merger(Plant(copy))
    again.pull(carrier)
    found, is_new = again.merge()
    assert (found, is_new) == (merged, False)
    for path in list(carrier.files(MERGED, suffix="json")):
        path.unlink()
    for path in list(again.store.files(MERGED, suffix="json")):
        path.unlink()
    found, _ = again.merge()
    assert (found.state, found.devices, found.head) == (merged.state, merged.devices, merged.head)


def test_a_lease_is_renewed_when_half_of_it_is_over(tmp_path: Path) -> None:
    plant = toy_plant(tmp_path / "plant", policy=Policy(serve_days=10, most_distance=0))
    contribute(plant.path, plant, 0, 1, {"teacup": toy_rows("teacup", 3)})
    merger, now = Merger(plant), int(time.time())
    first, _ = merger.merge(now)
    assert first.serve_until == now + 10 * 86400
    assert merger.merge(now + 4 * 86400) == (first, False)
    second, is_new = merger.merge(now + 6 * 86400)
    assert is_new
    assert (second.serve_until, second.version) == (now + 16 * 86400, first.version + 1)


def test_what_replaces_is_kept_once(three: tuple[Merger, Folder]) -> None:
    merger, carrier = three
    contribute(carrier.path, merger.plant, 0, 20, {"teacup": toy_rows("teacup", 2)})
    merger.pull(carrier)
    merger.merge()
    merger.push(carrier)
    for folder in (merger.store, carrier):
        (path,) = folder.files(CONTRIBUTIONS, "press-0", suffix="efc")
        assert path.name.startswith("g20-")
        assert len(list(folder.files(MERGED, suffix="efb"))) == 1


def test_one_command_at_a_time_works_on_a_fleet(three: tuple[Merger, Folder]) -> None:
    path, done = three[0].plant.path, threading.Event()

    def other() -> None:
        with Plant.lock(path):
            done.set()

    thread = threading.Thread(target=other)
    with Plant.lock(path):
        thread.start()
        assert not done.wait(0.2)
    thread.join(90)
    assert done.is_set()
