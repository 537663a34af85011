"""Over a folder only what is new travels: the parts that lie there already are not sent again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fleets import World, holders, teach

from build import answer
from edgecl.fleet.carriers.folder import CONTRIBUTIONS, MERGED, number_of
from edgecl.fleet.contribution import outline
from edgecl.fleet.status import status_of


def files(world: World, i: int = 0) -> list[Path]:
    """The files of a device on the carrier, the oldest first."""
    return sorted(world.carrier.files(CONTRIBUTIONS, f"press-{i}", suffix="efc"), key=number_of)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two devices that exchanged once, of which the first learned one more class and sent that."""
    world = World(tmp_path / "world", 2)
    for i, home in enumerate(world.homes):
        teach(home, {"cup": 40, "plate": 40}, seed=i)
        world.sync(i)
    world.serve()
    teach(world.homes[0], {"spoon": 3}, seed=7)
    assert world.sync(0)["sent"]
    return world


ALL = {"cup": 80, "plate": 80, "spoon": 3}


def test_one_new_class_is_one_part_and_counts_like_the_whole(world: World) -> None:
    base, new = files(world)
    assert new.stat().st_size < base.stat().st_size
    assert outline(base) is not None
    assert outline(new) is None  # it is not whole
    world.serve()
    assert world.classes() == ALL
    assert files(world) == [base, new]
    # Nothing is taken twice, nothing went back, and nothing is sent again.
    merger = world.merger()
    assert merger.pull(world.carrier) == 0
    assert status_of(merger)["went_back"] == {}
    assert status_of(merger)["faults"] == {}
    assert world.sync(0)["sent"] is None
    teach(world.homes[0], {"fork": 2}, seed=8)
    assert world.sync(0)["sent"]
    assert files(world)[0] == base
    assert len(files(world)) == 2
    world.serve()
    assert world.classes() == ALL | {"fork": 2}


def test_a_merger_that_lost_all_makes_it_again_from_the_carrier(world: World) -> None:
    world.serve()
    before = world.merger().merged()
    for name in (CONTRIBUTIONS, MERGED):
        shutil.rmtree(world.plant / name)
    world.serve()
    assert world.merger().merged() == before
    assert len(files(world)) == 2


@pytest.mark.parametrize("is_served", [True, False])
def test_where_the_parts_are_nowhere_any_more_all_is_sent(world: World, is_served: bool) -> None:
    base, new = files(world)
    if is_served:
        world.serve()
    base.unlink()
    for name in (CONTRIBUTIONS, MERGED):
        shutil.rmtree(world.plant / name)
    shutil.rmtree(world.carrier.path / MERGED)
    merger = world.merger()
    merger.pull(world.carrier)
    assert "leaves out 2 parts" in merger.faults[str(new)]
    world.serve()
    assert world.sync(0)["sent"]
    world.serve()
    assert world.classes() == ALL
    assert status_of(world.merger())["faults"] == {}
    assert world.sync(0)["sent"] is None


def test_a_merger_that_does_not_count_what_was_sent_gets_all(world: World) -> None:
    shutil.rmtree(world.carrier.path / MERGED)  # as where a new merger has begun elsewhere
    assert world.sync(0)["sent"]
    (only,) = files(world)  # the one without the rest is gone
    assert outline(only) is not None
    world.serve()
    assert world.classes() == ALL


@pytest.mark.parametrize("how", ["here", "by order"])
def test_what_is_forgotten_is_in_no_file_that_lends_parts(world: World, how: str) -> None:
    world.serve()
    if how == "here":
        for i in (0, 1):
            answer("forget", "class", "plate", "--home", world.homes[i].path)
    else:
        world.fleet("forget", "class", "plate")
        world.serve()
    for i in (0, 1):
        world.sync(i)
    world.serve()
    for i in (0, 1):
        world.sync(i)
    assert world.classes() == {"cup": 80, "spoon": 3}
    assert holders(world.carrier.path, b"plate") == []
    assert holders(world.plant, b"plate") == []
    assert status_of(world.merger())["faults"] == {}


def test_what_changed_most_is_sent_whole(world: World) -> None:
    world.serve()
    teach(world.homes[0], {"cup": 60, "spoon": 60}, seed=11)
    assert world.sync(0)["sent"]
    (only,) = files(world)
    assert outline(only) is not None
