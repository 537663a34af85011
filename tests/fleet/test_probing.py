"""Held-out pictures of a home as probes of a merger: which are taken, and which never are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fleets import DIM, holders, teach, toy_home, toy_rows

from build import answer, frame, invoke
from edgecl.errors import EdgeclError, RequestError, UsageError
from edgecl.fleet.carriers.folder import Folder
from edgecl.fleet.probes import PROBES
from edgecl.home import Home
from edgecl.session import open_store
from edgecl.store.exports import exports_of
from edgecl.unlearning.request import writing

N = 20


def world(path: Path, head: str = "ridge") -> tuple[Path, Home]:
    """Return a fleet's folder and a home with twenty held-out pictures of each of two classes."""
    home = toy_home(path / "giver", head, probes=N)
    teach(home, {"cup": 200, "plate": 200}, seed=5)
    answer(
        "fleet", "init", "--fleet", path / "plant", "--feature-map-of", home.path,
        "--most-distance", 0,
    )  # fmt: skip
    return path / "plant", home


def exported(home: Home) -> list[tuple[str, str]]:
    """Return kind and status of the exports of a home."""
    with open_store(home, read_only=True) as store:
        return [(export.kind, export.status) for export in exports_of(store)]


@pytest.mark.parametrize("head", ["ridge", "prototype", "key-value"])
def test_held_out_pictures_of_a_home_try_what_devices_send(tmp_path: Path, head: str) -> None:
    fleet, giver = world(tmp_path, head)
    taken = answer("fleet", "probes", giver.path, "--fleet", fleet)
    assert taken == {"samples": 40, "classes": 2, "left_out": []}
    assert (fleet / PROBES).stat().st_mode & 0o777 == 0o600
    carrier = Folder(tmp_path / "carrier", is_made=True)
    serve = ("fleet", "serve", "--once", "--carrier", carrier.path, "--fleet", fleet)
    answer(*serve)
    for i, names in enumerate((("cup", "plate"), ("plate", "cup"))):
        home, n = toy_home(tmp_path / f"home-{i}", head), 50 + 150 * i
        with writing(home) as session:
            for name, kind in zip(names, ("cup", "plate"), strict=True):
                x = toy_rows(kind, n, i).astype(np.float32)
                session.learner.learn_many([frame(name, k) for k in range(n)], x)
        key = answer("fleet", "join", carrier.path / "fleet.json", "--home", home.path)["key"]
        answer("fleet", "add", f"press-{i}", key, "--fleet", fleet)
        answer(*serve)
        answer("fleet", "sync", "--carrier", carrier.path, "--home", home.path)
        assert answer(*serve)["held"] == i
    status = answer("fleet", "status", "--fleet", fleet)
    assert status["probes"] == {"samples": 40, "classes": 2}
    assert "of 40 probes are lost" in status["held"][0]["why"]
    assert holders(carrier.path, (fleet / PROBES).read_bytes()[-200:]) == []


def test_probes_are_replaced_and_taken_off(tmp_path: Path) -> None:
    fleet, giver = world(tmp_path)
    answer("fleet", "probes", giver.path, "--fleet", fleet)
    first = (fleet / PROBES).read_bytes()
    teach(giver, {"spoon": 200}, seed=5)
    assert answer("fleet", "probes", giver.path, "--fleet", fleet)["classes"] == 3
    assert (fleet / PROBES).read_bytes() != first
    said = invoke("fleet", "status", "--fleet", fleet).stdout
    assert "60 probes of 3 classes try what comes before it counts" in said
    assert answer("fleet", "probes", "--none", "--fleet", fleet)["samples"] == 0
    assert not (fleet / PROBES).exists()
    assert "no probes try what comes" in invoke("fleet", "status", "--fleet", fleet).stdout
    for words in ((), (giver.path, "--none")):
        with pytest.raises(UsageError, match="or --none"):
            invoke("fleet", "probes", *words, "--fleet", fleet)


def test_a_home_of_another_kind_gives_no_probes(tmp_path: Path) -> None:
    fleet, giver = world(tmp_path)
    answer("fleet", "probes", giver.path, "--fleet", fleet)
    before = (fleet / PROBES).read_bytes()
    others = {
        "of the feature map": toy_home(tmp_path / "wide", dim=DIM + 1, probes=N),
        "for the head prototype, the fleet for ridge": toy_home(tmp_path / "means", "prototype"),
        "holds no picture out": toy_home(tmp_path / "empty"),
        "add --plain": toy_home(tmp_path / "sealed", probes=N, sealed=True),
    }
    teach(others["add --plain"], {"cup": 20}, seed=1)
    for why, home in others.items():
        with pytest.raises(RequestError, match=why):
            invoke("fleet", "probes", home.path, "--fleet", fleet)
    with pytest.raises(EdgeclError):
        invoke("fleet", "probes", tmp_path / "nowhere", "--fleet", fleet)
    assert (fleet / PROBES).read_bytes() == before
    sealed = answer("fleet", "probes", others["add --plain"].path, "--plain", "--fleet", fleet)
    assert sealed["samples"] == 2


def test_a_home_that_was_away_does_not_bring_a_forgotten_class_back(tmp_path: Path) -> None:
    fleet, giver = world(tmp_path)
    answer("fleet", "forget", "class", "cup", "--yes", "--fleet", fleet)
    taken = answer("fleet", "probes", giver.path, "--fleet", fleet)
    assert taken == {"samples": 20, "classes": 1, "left_out": ["cup"]}
    # A device that has done the order may be taught the class anew.
    carrier = Folder(tmp_path / "carrier", is_made=True)
    serve = ("fleet", "serve", "--once", "--carrier", carrier.path, "--fleet", fleet)
    answer(*serve)
    key = answer("fleet", "join", carrier.path / "fleet.json", "--home", giver.path)["key"]
    answer("fleet", "add", "press-0", key, "--fleet", fleet)
    answer(*serve)
    assert answer("fleet", "probes", giver.path, "--fleet", fleet)["left_out"] == ["cup"]
    answer("fleet", "sync", "--carrier", carrier.path, "--home", giver.path)
    teach(giver, {"cup": 200}, seed=6)
    taken = answer("fleet", "probes", giver.path, "--fleet", fleet)
    assert taken == {"samples": 40, "classes": 2, "left_out": []}
    answer("fleet", "forget", "device", "press-0", "--yes", "--fleet", fleet)
    assert not (fleet / PROBES).exists()
    with pytest.raises(RequestError, match="forgotten by an order"):
        invoke("fleet", "probes", giver.path, "--fleet", fleet)


def test_what_a_home_unlearns_is_gone_from_the_probes_it_gave(tmp_path: Path) -> None:
    fleet, giver = world(tmp_path)
    answer("fleet", "probes", giver.path, "--fleet", fleet)
    before = (fleet / PROBES).read_bytes()
    answer("fleet", "probes", giver.path, "--fleet", fleet)  # the export of before is replaced
    assert exported(giver) == [("probes", "replaced"), ("probes", "fresh")]
    plan = answer("forget", "class", "cup", "--dry-run", "--home", giver.path)
    assert len(plan["exports"]) == 1
    done = answer("forget", "class", "cup", "--verify", "--yes", "--home", giver.path)
    assert (done["verified"], done["exports_stale"]) == (True, [2])
    assert exported(giver)[1] == ("probes", "replaced")
    assert not (fleet / PROBES).exists()
    assert holders(tmp_path, before[-200:]) == []
    assert "no probes try what comes" in invoke("fleet", "status", "--fleet", fleet).stdout
    assert answer("fleet", "probes", giver.path, "--fleet", fleet)["classes"] == 1


def test_probes_that_were_moved_are_named_as_out_of_reach(tmp_path: Path) -> None:
    fleet, giver = world(tmp_path)
    answer("fleet", "probes", giver.path, "--fleet", fleet)
    (fleet / PROBES).rename(tmp_path / "elsewhere")
    done = answer("forget", "class", "cup", "--yes", "--home", giver.path)
    assert done["exports_stale"] == [1]
    assert exported(giver) == [("probes", "stale")]
    assert answer("export", "--rebuild-stale", "--home", giver.path)["unreachable"] == []
