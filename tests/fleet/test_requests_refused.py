"""What is no request of a member, or not one that is read: left where it is, and named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fleets import World, request, requested, toy_home

from edgecl.errors import IntegrityError
from edgecl.fleet.carriers.folder import Folder
from edgecl.fleet.identity import DeviceKeys
from edgecl.fleet.plant import Plant
from edgecl.fleet.requests import REQUESTS

BAD = {
    "forged by a non-member": (lambda w: request(w, 3, "press-1"), "not of the key"),
    "signed by another member": (lambda w: request(w, 0, "press-1"), "not of the key"),
    "of a stranger": (lambda w: request(w, 3, "press-9"), "no member of this fleet"),
    "of another fleet": (lambda w: request(w, 1, "press-1", fleet="e" * 32), "another fleet"),
    "another kind": (lambda w: request(w, 1, "press-1", kind="forget class"), "not to be"),
    "more than it should say": (lambda w: request(w, 1, "press-1", name="cup"), "not to be"),
    "no ids": (lambda w: request(w, 1, "press-1", ids=[]), "not to be"),
    "ids that are none": (lambda w: request(w, 1, "press-1", ids=["teacup"]), "not to be"),
    "an id in capitals": (lambda w: request(w, 1, "press-1", ids=["A" * 64]), "not to be"),
    "ids that are no list": (lambda w: request(w, 1, "press-1", ids="a" * 64), "not to be"),
    "one id twice": (lambda w: request(w, 1, "press-1", ids=["a" * 64] * 2), "not to be"),
    "too many ids": (
        lambda w: request(w, 1, "press-1", ids=[f"{i:064x}" for i in range(1001)]), "not to be",
    ),
    "too large": (lambda w: request(w, 1, "press-1", ids=["a" * 2**20]), "more than"),
    "no time": (lambda w: request(w, 1, "press-1", time="now"), "not to be"),
    "cut off": (
        lambda w: (p := request(w, 1, "press-1")).write_bytes(p.read_bytes()[:-2]), "cut off",
    ),
    "no JSON": (
        lambda w: w.carrier.put("r5", b"[]", REQUESTS, "press-1", suffix="json"), "damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", BAD)
def test_what_is_no_request_of_a_member_is_left_and_named(free: World, way: str) -> None:
    free.homes.append(toy_home(free.path / "home-3"))
    make, why = BAD[way]
    make(free)
    before = requested(free.carrier)
    free.serve()
    status = free.fleet("status", "--carrier", free.carrier.path)
    assert requested(free.carrier) == before
    assert (status["orders"], status["requests"]) == ([], [])
    (fault,) = status["faults"].values()
    assert why in fault


def test_more_requests_than_are_read_wait(world: World) -> None:
    for i in range(102):
        request(world, 1, "press-1", ids=[f"{i:064x}"])
    world.serve()
    status = world.fleet("status", "--carrier", world.carrier.path)
    assert len(status["requests"]) == 100
    (fault,) = status["faults"].values()
    assert "more than 100 requests" in fault
    # Nor do they pile up at the merger when others lie on the carrier.
    shutil.rmtree(world.carrier.path / REQUESTS)
    request(world, 1, "press-1", ids=["f" * 64])
    world.serve()
    assert len(world.fleet("status", "--carrier", world.carrier.path)["requests"]) == 100


def test_a_policy_that_is_no_yes_or_no_is_refused(free: World) -> None:
    plant = Plant(free.plant)
    assert plant.fleet.policy.members_may_order is True
    plant._write(policy=replace(plant.fleet.policy, members_may_order=2))
    with pytest.raises(IntegrityError, match="is not yes or no"):
        Plant(free.plant)


def test_a_link_in_place_of_requests_is_not_followed(world: World, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    path = request(world, 1, "press-1", ids=["b" * 64])
    shutil.move(path, other)
    shutil.rmtree(world.carrier.path / REQUESTS)
    (world.carrier.path / REQUESTS).symlink_to(other)
    world.serve()
    assert world.fleet("status")["requests"] == []
    assert json.loads((other / path.name).read_text())["body"]["ids"] == ["b" * 64]


def test_what_a_device_that_is_out_asked_is_wiped_though_another_has_its_name(
    world: World, tmp_path: Path
) -> None:
    request(world, 1, "press-1")
    world.fleet("status", "--carrier", world.carrier.path)
    assert requested(Folder(world.plant)) == requested(world.carrier) != []
    world.fleet("forget", "device", "press-1")
    key = DeviceKeys.of(toy_home(tmp_path / "other")).public
    world.fleet("add", "press-1", key)
    status = world.fleet("status", "--carrier", world.carrier.path)
    assert status["faults"] == {}
    assert requested(Folder(world.plant)) == requested(world.carrier) == []
