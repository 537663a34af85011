"""Devices with homes: joining, exchanging, what was ordered, and what a backup or a copy does."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fleets import DIM, World, device_keys, holders, teach, toy_home, toy_plant

from build import answer, frame, invoke
from edgecl.errors import IntegrityError, RequestError
from edgecl.fleet.carriers.folder import CONTRIBUTIONS, Folder
from edgecl.fleet.member import Device, join
from edgecl.fleet.plant import Plant
from edgecl.fleet.status import events_of, in_words
from edgecl.home import Home
from edgecl.runtime.bundle import open_bundle
from edgecl.runtime.predictor import Predictor
from edgecl.session import open_store, reading
from edgecl.store.exports import exports_of
from edgecl.types import ForgetRequest
from edgecl.unlearning.ask import unlearn
from edgecl.unlearning.request import writing

NAMES = ("teacup", "plate", "spoon")


@pytest.fixture(scope="session")
def made_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet of three devices that exchanged once; never write to it."""
    world = World(tmp_path_factory.mktemp("fleet"), 3)
    for i, home in enumerate(world.homes):
        teach(home, dict.fromkeys(NAMES[: i + 1], 4), seed=i)
        world.sync(i)
    world.serve()
    for i in range(3):
        world.sync(i)
    return world.path


@pytest.fixture
def world(made_world: Path, tmp_path: Path) -> World:
    """A copy of the fleet."""
    return World.copied(made_world, tmp_path / "world")


def test_three_devices_know_what_one_place_knows(world: World, tmp_path: Path) -> None:
    whole = toy_home(tmp_path / "whole")
    for i in range(3):
        teach(whole, dict.fromkeys(NAMES[: i + 1], 4), seed=i)
    with reading(whole) as session:
        expected = session.exact_scorer()
    merged = world.merger().merged()
    assert merged is not None
    for home in world.homes:
        device = Device(home)
        assert device.merged() == merged
        scorer = open_bundle(device.bundle).scorer
        order = [scorer.labels.index(label) for label in expected.labels]
        assert (scorer.arrays()["weights"][:, order] == expected.arrays()["weights"]).all()
        assert (scorer.arrays()["bias"][order] == expected.arrays()["bias"]).all()


def test_nothing_new_is_sent_twice(world: World) -> None:
    first = {i: world.sync(i) for i in range(3)}
    assert {done["sent"] for done in first.values()} == {None}
    assert not any(done["is_new"] for done in first.values())
    teach(world.homes[0], {"teacup": 1}, seed=9)
    assert world.sync(0)["sent"] is not None
    assert len(list(world.carrier.files(CONTRIBUTIONS, "press-0", suffix="efc"))) == 1


def test_an_order_reaches_all_and_is_confirmed_with_receipts(world: World) -> None:
    world.fleet("forget", "class", "teacup", "--reason", "request 7")
    assert world.classes() == {"plate": 8, "spoon": 4}
    world.serve()
    done = world.sync(0)
    assert done["orders"] == {"1": "r1"}
    assert done["merged"] is not None
    world.sync(1)
    world.serve()
    status = world.fleet("status")
    (order,) = status["orders"]
    assert (order["confirmed"], order["waiting"]) == (2, ["press-2"])
    assert status["devices"][0]["receipt"]
    lines = in_words(status, time.time() + 3 * 86400)
    assert "order 1 (forget class): 2 of 3 confirmed, press-2 last seen 3 days ago" in lines
    world.sync(2)
    world.serve()
    assert holders(world.path, b"teacup") == []
    assert world.fleet("status")["orders"][0]["confirmed"] == 3
    events = events_of(world.homes[0])
    assert [event["what"] for event in events if event["said"] == "done here"] == [
        "order 1: forget class"
    ]
    assert not events_of(toy_home(world.path / "alone"))
    for home in world.homes:
        with writing(home) as session:  # which checks the chain of receipts
            assert "teacup" not in session.store.names.values()


def test_what_the_merger_took_off_a_carrier_is_no_export_that_waits(world: World) -> None:
    teach(world.homes[0], {"teacup": 1}, seed=9)
    world.sync(0)
    world.serve()
    world.fleet("forget", "class", "teacup")
    world.serve()
    world.sync(0)
    with open_store(world.homes[0], read_only=True) as store:
        states = {e.status for e in exports_of(store) if e.path.is_relative_to(world.path)}
    assert states == {"fresh", "replaced"}  # without its bytes nothing is left to be mended


def test_a_class_is_taught_anew_after_the_order(world: World) -> None:
    world.fleet("forget", "class", "teacup")
    world.serve()
    teach(world.homes[2], {"teacup": 5}, seed=5)  # it was away and knows of nothing
    world.sync(2)
    world.serve()
    assert "teacup" not in world.classes()
    teach(world.homes[2], {"teacup": 2}, seed=6)
    world.sync(2)
    world.serve()
    assert world.classes()["teacup"] == 2
    world.fleet("forget", "class", "teacup")  # and forgotten once more: the next epoch
    world.serve()
    for i in range(3):
        world.sync(i)
    world.serve()
    assert holders(world.path, b"teacup") == []


def test_a_device_that_renamed_a_class_forgets_it_too(world: World) -> None:
    answer("rename", "teacup", "flask", "--home", world.homes[0].path)
    world.fleet("forget", "class", "teacup")
    world.serve()
    assert world.sync(0)["orders"] == {"1": "r1"}
    with open_store(world.homes[0], read_only=True) as store:
        assert not store.names


@pytest.mark.parametrize("n_lost", [1, 2])
def test_a_home_from_a_backup_is_found_out_and_goes_on(world: World, n_lost: int) -> None:
    home, backup = world.homes[1], world.path / "backup"
    shutil.copytree(home.path, backup)
    for seed in range(n_lost):
        teach(home, {"plate": 3}, seed=seed + 8)
    world.fleet("forget", "class", "spoon")
    world.serve()
    world.sync(1)
    world.serve()
    assert world.classes() == {"teacup": 12, "plate": 8 + 3 * n_lost}
    shutil.rmtree(home.path)
    backup.rename(home.path)
    teach(home, {"fork": 1}, seed=8)
    assert world.sync(1)["orders"] == {"1": None}  # it had missed that one, and does it again
    world.serve()
    status = world.fleet("status")
    if n_lost == 2:
        assert list(status["went_back"]) == ["press-1"]
        assert world.classes() == {"teacup": 12, "plate": 14}
    else:  # as many changes as before: there are two contributions of one generation
        assert "put back from a backup" in status["held"][0]["why"]
        world.fleet("admit", "press-1", "--digest", status["held"][0]["digest"][:16])
    world.fleet("join", world.carrier.path / "fleet.json", "--again", home=home)
    assert world.sync(1)["sent"] is not None
    world.serve()
    status = world.fleet("status")
    assert (status["went_back"], status["held"]) == ({}, [])
    assert world.classes() == {"teacup": 12, "plate": 8, "fork": 1}


def test_a_copied_home_is_held_until_the_admin_decides(world: World) -> None:
    copy = world.path / "copy"
    shutil.copytree(world.homes[1].path, copy)
    stick = Folder(world.path / "stick", is_made=True)
    for home, name, carrier in (
        (world.homes[1], "fork", world.carrier),
        (Home(copy), "knife", stick),
    ):
        teach(home, {name: 2}, seed=3)
        world.fleet("sync", "--carrier", carrier.path, home=home)
    invoke("fleet", "serve", "--fleet", world.plant, "--carrier", stick.path, "--once")
    world.serve()
    held = world.fleet("status")["held"]
    assert [each["device"] for each in held] == ["press-1", "press-1"]
    assert "the home was copied" in held[0]["why"]
    assert world.classes() == {"teacup": 8, "plate": 4, "spoon": 4}
    world.fleet("admit", "press-1", "--digest", held[0]["digest"][:16])
    assert len({"fork", "knife"} & set(world.classes())) == 1
    assert world.fleet("status")["held"] == []


def test_a_forgotten_device_is_out(world: World) -> None:
    world.fleet("forget", "class", "spoon")  # which it is still to hear of
    world.fleet("forget", "device", "press-2")
    world.serve()
    assert world.classes() == {"teacup": 8, "plate": 4}
    done = world.sync(2)
    assert done["is_out"]
    assert done["orders"] == {"1": "r1", "2": None}
    assert holders(world.homes[2].path, b"spoon") == []
    assert not Device(world.homes[2]).bundle.exists()
    with pytest.raises(RequestError, match="was forgotten by an order"):
        world.fleet("add", "press-9", Device(world.homes[2]).keys.public)


def test_what_was_forgotten_here_leaves_the_merged_head_that_lies_here(world: World) -> None:
    home = world.homes[0]
    assert Device(home).bundle.is_dir()
    unlearn(home, ForgetRequest("teacup"))
    assert holders(home.path, b"teacup") == []
    assert Device(home).merged() is None


def test_a_device_that_nobody_added_is_told_its_key(tmp_path: Path, world: World) -> None:
    home = toy_home(tmp_path / "home")
    key = world.fleet("join", world.carrier.path / "fleet.json", home=home)["key"]
    with pytest.raises(RequestError, match=f"edgecl fleet add NAME {key}"):
        world.fleet("sync", "--carrier", world.carrier.path, home=home)
    assert key in str(invoke("fleet", "status", "--home", home.path).stdout)


@pytest.mark.parametrize("name", ["PRESS-1", "press-1", "Press-1", "press-1.", "press-1.."])
def test_a_name_that_a_stick_takes_for_anothers_is_refused(tmp_path: Path, name: str) -> None:
    plant = toy_plant(tmp_path / "plant")
    with pytest.raises(RequestError, match="the device press-1 has this name"):
        plant.add(name, device_keys(7).public)
    with pytest.raises(RequestError, match=r"the device press-1 has this (name|key)"):
        plant.add("Press-1" if name == "press-1" else name, device_keys(1).public)
    plant.add("press-1", device_keys(1).public)  # the same once more
    assert len(plant.fleet.members) == 3


def test_a_fleet_of_a_head_that_does_not_add_up_is_refused(tmp_path: Path) -> None:
    home = toy_home(tmp_path / "home", "uer")
    with pytest.raises(RequestError, match="learns by gradient, which does not add up"):
        answer("fleet", "init", "--fleet", tmp_path / "plant", "--feature-map-of", home.path)
    assert not (tmp_path / "plant").exists()


@pytest.mark.parametrize(
    ("head", "dim", "said"),
    [("ridge", DIM + 1, "the fleet"), ("prototype", DIM, "this home has the head prototype")],
)
def test_another_home_cannot_join(
    tmp_path: Path, world: World, head: str, dim: int, said: str
) -> None:
    home = toy_home(tmp_path / "home", head, dim)
    with pytest.raises(RequestError, match=said):
        join(home, world.carrier.path / "fleet.json")


def test_a_carrier_of_another_fleet_is_refused(tmp_path: Path, world: World) -> None:
    other = World(tmp_path / "other", 1)
    with pytest.raises(IntegrityError, match="is of the fleet"):
        world.fleet("sync", "--carrier", other.carrier.path, home=world.homes[0])


def test_a_lease_that_is_over_predicts_no_more(world: World) -> None:
    with Plant.lock(world.plant):
        plant = Plant(world.plant)
        plant._write(policy=replace(plant.fleet.policy, serve_days=1e-9))
    teach(world.homes[0], {"teacup": 1}, seed=7)
    world.sync(0)
    world.serve()
    assert world.sync(0)["is_new"]
    bundle = Device(world.homes[0]).bundle
    assert 0 < open_bundle(bundle).serve_until <= time.time()
    with pytest.raises(RequestError, match=r"lease ended .* `edgecl fleet sync"):
        Predictor(bundle)
    # One that is open already ends to predict, too.
    home, x = world.homes[0], np.zeros((1, DIM), np.float32)
    with reading(home) as session:
        predictor = Predictor.of(None, home.manifest.preprocessing, session.exact_scorer())
    predictor.serve_until = time.time() + 60
    assert predictor.predict_features(["x"], x)
    predictor.serve_until = time.time() - 60
    with pytest.raises(RequestError, match="lease ended"):
        predictor.predict_features(["x"], x)


@pytest.mark.slow
def test_ten_devices_hold_neither_name_nor_picture_when_all_have_confirmed(tmp_path: Path) -> None:
    world = World(tmp_path / "world", 10)
    pictures = [frame("washers", i).encoded for i in range(3)]
    for i, home in enumerate(world.homes):
        teach(home, {"washers": 3, f"part-{i % 4}": 3}, seed=i)
        world.sync(i)
    world.serve()
    for i in range(10):
        world.sync(i)
    assert len(holders(world.path, *pictures)) >= 10
    assert len(holders(world.path, b"washers")) >= 40  # homes, heads, contributions
    world.fleet("forget", "class", "washers")
    world.serve()
    for i in range(9):
        world.sync(i)
    world.serve()
    assert {Path(file).parts[0] for file in holders(world.path, b"washers", *pictures)} == {
        "home-9"
    }
    assert world.fleet("status")["orders"][0]["waiting"] == ["press-9"]
    world.sync(9)
    world.serve()
    assert world.fleet("status")["orders"][0]["confirmed"] == 10
    assert holders(world.path, b"washers", *pictures) == []
    assert world.classes() == {"part-0": 9, "part-1": 9, "part-2": 6, "part-3": 6}
