"""What `edgecl fleet` says of files that are none, of nothing new, and of slips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fleets import contribute, toy_plant, toy_rows

from build import answer, invoke
from edgecl.errors import EdgeclError
from edgecl.fleet.merger import Merger
from edgecl.fleet.plant import Plant


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    toy_plant(tmp_path / "plant")
    return tmp_path / "plant"


def test_files_of_which_none_can_be_taken_are_an_error(plant: Path, tmp_path: Path) -> None:
    good = contribute(tmp_path, Plant(plant), 0, 1, {"cup": toy_rows("cup", 4)})
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    (tmp_path / "cut.efc").write_bytes(good.read_bytes()[:-9])
    bad = [tmp_path / name for name in ("a.png", "cut.efc", "nothing.efc")]
    for some in ([bad[0]], [bad[1]], [bad[2]], bad):
        with pytest.raises(EdgeclError, match=some[0].name):
            invoke("fleet", "merge", *some, "--fleet", plant)
    assert Merger(Plant(plant)).merged() is None
    done = answer("fleet", "merge", *bad, good, "--fleet", plant)
    assert (done["classes"], done["passed_over"]) == (1, 3)


def test_once_answers_also_if_nothing_is_new(plant: Path, tmp_path: Path) -> None:
    contribute(tmp_path, Plant(plant), 0, 1, {"cup": toy_rows("cup", 4)})
    once = ("fleet", "serve", "--once", "--carrier", tmp_path, "--fleet", plant)
    assert [answer(*once)["is_new"] for _ in range(2)] == [True, False]
    assert "1 class of 1 device" in invoke(*once).stdout


@pytest.mark.parametrize("days", ["inf", "nan", "1e300", "-1"])
def test_a_lease_without_end_is_refused_before_anything_is_made(tmp_path: Path, days: str) -> None:
    to = tmp_path / "plant"
    said = invoke(
        "fleet", "init", "--feature-map-of", tmp_path, "--fleet", to, "--serve-days", days
    )
    assert said.exit_code == 2
    assert not to.exists()


def test_a_slip_in_an_alias_is_told(plant: Path, tmp_path: Path) -> None:
    contribute(tmp_path, Plant(plant), 0, 1, {"cup": toy_rows("cup", 4)})
    answer("fleet", "serve", "--once", "--carrier", tmp_path, "--fleet", plant)
    said = invoke("fleet", "alias", "cupp", "cup", "--json", "--fleet", plant)
    assert "no contribution here has 'cupp' yet" in said.output
    assert "has 'cup' yet" not in said.output
    assert json.loads(said.stdout.splitlines()[-1])["order"] == 1
