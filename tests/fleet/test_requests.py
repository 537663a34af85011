"""A device asks that all forget a class: from its request to the order, and all that is none."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
from fleets import World, holders, requested, teach, toy_home

from build import answer, invoke
from edgecl.errors import HomeLockedError, RequestError, StoreError, UnknownClassError, UsageError
from edgecl.fleet.carriers.folder import Folder
from edgecl.fleet.member import Device
from edgecl.fleet.plant import Plant
from edgecl.fleet.requests import REQUESTS
from edgecl.fleet.status import in_words, in_words_of_device
from edgecl.home import Home
from edgecl.session import open_store
from edgecl.types import ForgetRequest
from edgecl.unlearning.ask import unlearn


def ask(world: World, i: int, name: str = "teacup", *words: object) -> dict:
    return answer("forget", "class", name, "--fleet", *words, "--home", world.homes[i].path)


def names(home: Home) -> set[str]:
    with open_store(home, read_only=True) as store:
        return set(store.names.values())


def test_a_request_becomes_an_order_and_reaches_all(world: World) -> None:
    done = ask(world, 0, "teacup", "--reason", "request 7")
    assert done["mode"] == "exact_head"
    assert done["request"]["is_new"]
    assert names(world.homes[0]) == {"part-0"}
    assert requested(world.homes[0])
    assert world.sync(0)["requests"] == 1
    assert requested(world.carrier) == requested(world.homes[0])
    assert holders(world.path / "carrier" / REQUESTS, b"teacup") == []
    world.serve()
    (asked,) = world.fleet("status")["requests"]
    assert (asked["device"], asked["classes"], asked["digest"]) == (
        "press-0", ["teacup"], done["request"]["digest"],
    )  # fmt: skip
    assert (asked["samples"], asked["devices"]) == (8, 2)
    lines = in_words(world.fleet("status"), time.time() + 3 * 86400)
    short = asked["digest"][:16]
    assert (
        "press-0 asked 3 days ago that all forget a class (teacup, 8 samples on 2 devices): "
        f"`edgecl fleet forget request {short}` orders it, `edgecl fleet refuse press-0 --digest "
        f"{short}` does not" in lines
    )
    assert world.fleet("status")["orders"] == []
    world.fleet("forget", "request", short)
    assert world.fleet("status")["requests"] == []
    assert set(world.classes()) == {"part-0", "part-1", "part-2"}
    world.serve()
    for i in range(3):
        world.sync(i)
    assert names(world.homes[1]) == {"part-1"}
    assert world.sync(0)["requests"] == 0
    world.serve()
    assert requested(world.homes[0]) == requested(world.carrier) == []
    assert requested(Folder(world.plant)) == []
    (order,) = world.fleet("status")["orders"]
    assert order["confirmed"] == 3
    assert world.merger().orders.entries[0].body["reason"] == "asked by press-0"
    assert holders(world.path, b"teacup") == []


def test_where_members_may_order_the_merger_signs_it_at_once(free: World) -> None:
    ask(free, 1)
    free.sync(1)
    said = invoke("fleet", "serve", "--fleet", free.plant, "--carrier", free.carrier.path, "--once")
    assert "order 1 is signed: asked by press-1" in said.stderr
    assert set(free.classes()) == {"part-0", "part-1", "part-2"}
    assert free.sync(2)["orders"] == {"1": "r1"}
    assert free.sync(1)["requests"] == 0
    assert (free.merger().orders.last, requested(free.carrier)) == (1, [])


def test_without_the_admins_key_it_stays_a_request(free: World) -> None:
    away = free.path / "away"
    shutil.copytree(free.plant, away)
    (free.plant / "secret" / "admin.key").unlink()
    ask(free, 0)
    free.sync(0)
    free.serve()
    status = free.fleet("status")
    assert (status["orders"], status["can_order"]) == ([], False)
    short = status["requests"][0]["digest"][:16]
    assert any("its admin has to, where" in line for line in in_words(status, 0))
    with pytest.raises(RequestError, match="no admin key"):
        free.fleet("forget", "request", short)
    # The admin's copy of the folder, with the same stick.
    elsewhere = answer("fleet", "serve", "--once", "--fleet", away, "--carrier", free.carrier.path)
    assert elsewhere["requests"] == 0
    free.serve()
    assert "teacup" not in free.classes()
    assert free.fleet("status")["requests"] == []


def test_a_request_that_is_refused_ends_and_may_be_made_again(world: World) -> None:
    first = ask(world, 0)["request"]["digest"]
    world.sync(0)
    world.serve()
    with pytest.raises(RequestError, match=f"asked for: {first[:16]}"):
        world.fleet("refuse", "press-0", "--digest", "abcabc")
    with pytest.raises(RequestError, match="0 contributions of press-0"):
        world.fleet("admit", "press-0", "--digest", first[:16])
    world.fleet("refuse", "press-0", "--digest", first[:16])
    assert world.fleet("status")["requests"] == []
    world.serve()
    assert world.sync(0)["refused"] == 1
    assert requested(world.homes[0]) == requested(world.carrier) == []
    assert set(world.classes()) == {"teacup", "part-0", "part-1", "part-2"}
    with mock.patch("edgecl.fleet.asking.time.time", return_value=time.time() + 60):
        again = ask(world, 0)  # after a word with the admin
    assert again["mode"] == "already_forgotten"
    assert again["request"]["digest"] != first
    world.sync(0)
    world.serve()
    assert len(world.fleet("status")["requests"]) == 1


def test_to_ask_twice_and_an_old_request_again_are_harmless(free: World) -> None:
    first = ask(free, 0)["request"]
    again = ask(free, 0)["request"]
    assert (again["digest"], again["is_new"]) == (first["digest"], False)
    free.sync(0)
    (old,) = (free.carrier.path / REQUESTS / "press-0").iterdir()
    data = old.read_bytes()
    free.serve()
    teach(free.homes[1], {"teacup": 2}, seed=9)
    for i in range(3):
        free.sync(i)
    teach(free.homes[1], {"teacup": 3}, seed=10)  # of the next epoch
    free.sync(1)
    free.carrier.put("r5", data, REQUESTS, "press-0", suffix="json")
    free.serve()
    assert (free.classes()["teacup"], free.merger().orders.last) == (3, 1)
    assert (requested(free.carrier), free.merger().faults) == ([], {})
    last = ask(free, 0)  # which an order has closed already
    assert last["request"] == {"digest": None, "ids": 0, "is_new": False}
    said = invoke("forget", "class", "teacup", "--fleet", "--home", free.homes[0].path)
    assert "an order had all devices forget it already" in said.stdout
    assert requested(free.homes[0]) == []


def test_a_class_is_asked_for_under_all_its_names(world: World) -> None:
    answer("rename", "teacup", "flask", "--home", world.homes[0].path)
    world.fleet("alias", "mug", "flask")
    world.serve()
    world.sync(0)
    assert ask(world, 0, "flask")["request"]["ids"] == 3
    teach(world.homes[1], {"mug": 2}, seed=1)
    world.sync(0)
    world.sync(1)
    world.serve()
    (asked,) = world.fleet("status")["requests"]
    assert asked["classes"] == ["mug", "teacup"]
    world.fleet("forget", "request", asked["digest"])
    assert set(world.classes()) == {"part-0", "part-1", "part-2"}


def test_a_class_that_only_this_device_had_is_closed_all_the_same(world: World) -> None:
    ask(world, 0, "part-0")
    world.sync(0)
    world.serve()
    (asked,) = world.fleet("status")["requests"]
    assert (asked["classes"], asked["samples"]) == ([], 0)
    lines = in_words(world.fleet("status"), time.time())
    assert any("(no contribution here has it)" in line for line in lines)
    world.fleet("forget", "request", asked["digest"])
    world.serve()
    teach(world.homes[1], {"part-0": 2}, seed=1)  # who was away cannot bring it
    world.sync(1)
    world.serve()
    assert "part-0" not in world.classes()


def test_a_home_in_no_fleet_unlearns_nothing(tmp_path: Path) -> None:
    home = toy_home(tmp_path / "home")
    teach(home, {"teacup": 3}, seed=0)
    for more in ((), ("--dry-run",)):
        with pytest.raises(UsageError, match=r"is in no fleet.*without --fleet"):
            invoke("forget", "class", "teacup", "--fleet", *more, "--home", home.path)
    assert names(home) == {"teacup"}


def test_a_device_that_is_out_cannot_ask(world: World) -> None:
    asked = ask(world, 2)["request"]["digest"]
    world.sync(2)
    world.fleet("forget", "device", "press-2")
    world.serve()
    assert world.merger().orders.last == 1
    assert (world.fleet("status")["requests"], requested(world.carrier)) == ([], [])
    world.sync(2)
    with pytest.raises(RequestError, match="took this device out"):
        ask(world, 2, "part-2")
    dry = ("forget", "class", "part-2", "--fleet", "--dry-run", "--home", world.homes[2].path)
    with pytest.raises(RequestError, match="took this device out"):
        invoke(*dry)
    with pytest.raises(RequestError, match=f"0 requests .* begin with '{asked[:16]}'"):
        world.fleet("forget", "request", asked[:16])


def test_a_dry_run_says_it_and_asks_nothing(world: World) -> None:
    said = invoke(
        "forget", "class", "teacup", "--fleet", "--dry-run", "--home", world.homes[0].path
    )
    assert "All devices of the fleet are asked to forget it" in said.stdout
    assert "teacup" in names(world.homes[0])
    assert requested(world.homes[0]) == []


def test_words_say_what_was_asked_and_what_waits(world: World) -> None:
    home = world.homes[0]
    said = invoke("forget", "class", "teacup", "--fleet", "--home", home.path)
    assert "the fleet's admin is asked to have all devices forget it" in said.stdout
    assert "edgecl fleet sync" in said.stdout
    status = world.fleet("status", home=home)
    assert len(status["requests"]) == 1
    assert any("no order has come yet" in line for line in in_words_of_device(status))
    said = invoke("fleet", "sync", "--carrier", world.carrier.path, "--home", home.path)
    assert "1 request to forget a class waits for the fleet's admin" in said.stdout
    said = invoke(
        "fleet", "serve", "--fleet", world.plant, "--carrier", world.carrier.path, "--once"
    )
    assert "1 request to forget a class" in said.stdout


def test_a_name_that_nobody_knows_asks_nothing(world: World) -> None:
    with pytest.raises(UnknownClassError):
        ask(world, 0, "teacups")
    assert requested(world.homes[0]) == []


def test_an_unlearning_that_is_refused_takes_its_request_back(world: World) -> None:
    """Where the class is here as before; not where the store kept what was asked."""
    for error, n in ((RequestError("no torch"), 0), (StoreError("disk full"), 1)):
        with (
            mock.patch("edgecl.unlearning.request.carry_out", side_effect=error),
            pytest.raises(type(error)),
        ):
            ask(world, 0)
        assert len(requested(world.homes[0])) == n
    with open_store(world.homes[0], read_only=True) as store:
        assert store.has_requests()


def test_a_home_that_another_process_holds_asks_too(world: World) -> None:
    home = world.homes[0]
    with mock.patch("edgecl.unlearning.ask._PATIENCE_S", 0.0), home.lock():
        with pytest.raises(HomeLockedError, match="the request is recorded"):
            ask(world, 0)
    assert len(requested(home)) == 1
    world.sync(0)
    assert names(home) == {"part-0"}
    world.serve()
    assert len(world.fleet("status")["requests"]) == 1


KILLED = """
import os, signal, sys
from edgecl.cli import main
from edgecl.fleet.carriers.folder import Folder
from edgecl.unlearning import request

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

where = {"request": (Folder, "put"), "record": (request, "record"), "unlearn": (request, "_erase")}
setattr(*where[sys.argv.pop(1)], die)
main()
"""


@pytest.mark.parametrize(
    ("where", "is_asked"), [("request", False), ("record", True), ("unlearn", True)]
)
def test_what_is_unlearned_is_asked_for_wherever_the_process_dies(
    world: World, where: str, is_asked: bool
) -> None:
    home = world.homes[0]
    words = ["forget", "class", "teacup", "--fleet", "--home", str(home.path)]
    died = subprocess.run(
        [sys.executable, "-c", KILLED, where, *words], capture_output=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert died.returncode == -signal.SIGKILL
    assert bool(requested(home)) is is_asked
    assert ("teacup" in names(home)) is (where != "unlearn")
    world.sync(0)
    world.serve()
    assert len(world.fleet("status")["requests"]) == is_asked
    ask(world, 0)  # again, as a person does
    world.sync(0)
    world.serve()
    assert len(world.fleet("status")["requests"]) == 1
    assert "teacup" not in names(home)


def test_an_older_fleet_without_the_policy_reads_and_is_written_as_before(world: World) -> None:
    """So that a device with an older edgecl reads what a newer admin writes."""
    text = (world.plant / "fleet.json").read_text()
    assert "members_may_order" not in text
    assert not Plant(world.plant).fleet.policy.members_may_order


def test_what_was_forgotten_before_can_be_asked_for_later(world: World) -> None:
    unlearn(world.homes[0], ForgetRequest("teacup"))
    done = ask(world, 0)
    assert (done["mode"], done["request"]["ids"]) == ("already_forgotten", 1)
    world.sync(0)
    world.serve()
    (asked,) = world.fleet("status")["requests"]
    assert asked["classes"] == ["teacup"]


def test_a_device_under_masks_asks_too(world: World) -> None:
    with mock.patch.object(Device, "is_masked", True):
        ask(world, 0)
        assert world.sync(0)["requests"] == 1
