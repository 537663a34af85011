"""Rounds of masks with homes: the sum of a fleet bit for bit, and on the carrier only noise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fleets import device_keys, teach, toy_home, toy_rows

from build import answer, invoke
from edgecl.errors import IntegrityError, RequestError
from edgecl.fleet.carriers.folder import CONTRIBUTIONS, Folder
from edgecl.fleet.contribution import read, sums, total
from edgecl.fleet.masking import Step, advance, open_round, take_part
from edgecl.fleet.member import Device
from edgecl.fleet.merger import Merger
from edgecl.fleet.plant import Plant
from edgecl.fleet.sums import ClassSums
from edgecl.heads.statistics import Gram
from edgecl.home import Home

NAMES = ("cup", "plate")
LEARNED = ({"cup": 4}, {"cup": 5, "plate": 3}, {"plate": 6})


class World:
    """A fleet of three devices that have sent nothing yet."""

    def __init__(self, path: Path) -> None:
        self.path, self.plant = path, path / "plant"
        self.carrier = Folder(path / "carrier", is_made=True)

    @property
    def homes(self) -> list[Home]:
        return [Home(self.path / f"home-{i}") for i in range(3)]

    def merger(self) -> Merger:
        return Merger(Plant(self.plant))

    def mask(self, i: int, **options: int) -> Step:
        return take_part(Device(self.homes[i]), self.carrier, **options)

    def on_carrier(self) -> bytes:
        files = (p for p in self.carrier.path.rglob("*") if p.is_file())
        return b"".join(p.read_bytes() for p in files)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = World(tmp_path_factory.mktemp("masks"))
    for i, learned in enumerate(LEARNED):
        teach(toy_home(world.path / f"home-{i}"), learned, seed=i)
    plant = ("--fleet", world.plant)
    answer("fleet", "init", *plant, "--feature-map-of", world.homes[0].path, "--most-distance", 0)
    world.merger().push(world.carrier)
    for i, home in enumerate(world.homes):
        fleet = world.carrier.path / "fleet.json"
        key = answer("fleet", "join", fleet, "--home", home.path)["key"]
        answer("fleet", "add", f"press-{i}", key, *plant)
    world.merger().push(world.carrier)
    return world.path


@pytest.fixture
def world(made: Path, tmp_path: Path) -> World:
    shutil.copytree(made, tmp_path / "world")
    return World(tmp_path / "world")


def counted(world: World, learned: list[dict[str, int]]) -> None:
    """The member `masked` has, bit for bit, the sums of all of these rows."""
    (path,) = (world.plant / CONTRIBUTIONS / "masked").glob("*.efc")
    found, gram = read(path), Gram(6)
    everything = []
    for part in found.parts:
        rows = [toy_rows(part.name, each[part.name], i) for i, each in enumerate(learned)
                if part.name in each]  # fmt: skip
        whole = np.concatenate(rows)
        everything.append(whole)
        expected = ClassSums.of(gram, gram.of(whole))
        assert sums(found, part).count == part.count == len(whole)
        assert np.array_equal(sums(found, part).total, expected.total)
    expected = ClassSums.of(gram, gram.of(np.concatenate(everything)))
    assert np.array_equal(total(found).gram, expected.gram)
    assert {part.name for part in found.parts} == {name for each in learned for name in each}


def test_a_round_by_commands_gives_the_head_of_one_place(world: World) -> None:
    on = ("--carrier", world.carrier.path)
    opened = answer(
        "fleet", "unmask", "--open", "cup", "--open", "plate", *on, "--fleet", world.plant
    )
    assert (opened["step"], opened["missing"]) == ("opened", ["press-0", "press-1", "press-2"])
    for home in world.homes:
        assert answer("fleet", "mask", *on, "--home", home.path)["step"] == "seated"
    waiting = answer("fleet", "unmask", *on, "--fleet", world.plant)
    assert waiting["devices"] == ["press-0", "press-1", "press-2"]
    closed = answer("fleet", "unmask", "--close", *on, "--fleet", world.plant)
    assert (closed["step"], closed["missing"]) == ("closed", [])
    for home in world.homes:
        assert answer("fleet", "mask", *on, "--home", home.path)["step"] == "masked"
    # All that the carrier holds of them, and the merger has seen, is noise.
    blobs = [p.read_bytes().partition(b"\n")[2] for p in world.carrier.path.rglob("m*.efc")]
    assert len(blobs) == 3
    values = np.concatenate([np.frombuffer(b, "<u8") for b in blobs])
    assert (values >> np.uint64(40)).min() > 0
    done = answer("fleet", "unmask", *on, "--fleet", world.plant)
    assert (done["step"], done["classes"], len(done["devices"])) == ("added", 2, 3)
    counted(world, list(LEARNED))
    merged = world.merger().merged()
    assert merged is not None
    assert {name: n for _, name, n in merged.classes} == {"cup": 9, "plate": 9}
    # Devices get it as always, and nothing unmasked goes out.
    for home in world.homes:
        came = answer("fleet", "sync", *on, "--home", home.path)
        assert (came["merged"], came["sent"]) == (merged.version, None)
    assert not list((world.carrier.path / CONTRIBUTIONS).glob("press-*/*"))
    assert not list(world.carrier.path.rglob("m1-*"))


def test_who_drops_out_ends_the_round_and_the_next_one_is_without_it(world: World) -> None:
    open_round(world.merger(), world.carrier, NAMES)
    for i in range(3):
        world.mask(i)
    first = advance(world.merger(), world.carrier, closes=True).round
    world.mask(0)
    world.mask(1)
    step = advance(world.merger(), world.carrier)
    assert (step.what, step.missing) == ("waiting", ("press-2",))
    second = open_round(world.merger(), world.carrier, NAMES).round
    assert (second.number, second.id != first.id) == (first.number + 1, True)
    assert not any(world.carrier.path.rglob(f"m{first.number}-*"))
    for i in range(2):
        assert world.mask(i).what == "seated"
    with pytest.raises(RequestError, match="a round has 3 to 1000 members, this one 2"):
        advance(world.merger(), world.carrier, closes=True)
    world.mask(2)
    advance(world.merger(), world.carrier, closes=True)
    for i in range(3):
        assert world.mask(i).what == "masked"
    assert advance(world.merger(), world.carrier).what == "added"
    counted(world, list(LEARNED))


def test_a_device_that_learned_more_masks_no_second_time(world: World) -> None:
    open_round(world.merger(), world.carrier, NAMES)
    for i in range(3):
        world.mask(i)
    advance(world.merger(), world.carrier, closes=True)
    world.mask(0)
    before = world.on_carrier()
    world.mask(0)  # the same again is the same
    assert world.on_carrier() == before
    teach(world.homes[0], {"cup": 2}, seed=7)
    with pytest.raises(RequestError, match=r"has masked in round .* already"):
        world.mask(0)
    assert world.on_carrier() == before


def test_classes_of_few_samples_stay_on_the_device(world: World) -> None:
    open_round(world.merger(), world.carrier, NAMES)
    for i in range(3):
        world.mask(i)
    advance(world.merger(), world.carrier, closes=True)
    for i in range(3):
        world.mask(i, min_rows=5)
    advance(world.merger(), world.carrier)
    counted(world, [{}, {"cup": 5}, {"plate": 6}])


def test_a_class_that_the_round_does_not_sum_is_named(world: World) -> None:
    open_round(world.merger(), world.carrier, ["cup"])
    with pytest.raises(RequestError, match="the round sums cup; this home knows also plate"):
        world.mask(1)
    assert not list(world.carrier.path.rglob("s1-*"))
    other = world.path / "other"
    other.mkdir()
    with pytest.raises(RequestError, match="no round of masks is open on"):
        take_part(Device(world.homes[1]), Folder(other))


@pytest.mark.parametrize("is_pulled", [True, False])
def test_nobody_counts_twice(world: World, is_pulled: bool) -> None:
    answer("fleet", "sync", "--carrier", world.carrier.path, "--home", world.homes[0].path)
    if is_pulled:
        world.merger().pull(world.carrier)
    open_round(world.merger(), world.carrier, NAMES)
    for i in range(3):
        world.mask(i)
    with pytest.raises(RequestError, match="press-0 would count twice"):
        advance(world.merger(), world.carrier, closes=True)


def test_the_name_of_the_sum_is_no_devices(world: World) -> None:
    key = device_keys(7).public
    with pytest.raises(RequestError, match="'masked' is the name of the sum under masks"):
        invoke("fleet", "add", "Masked", key, "--fleet", world.plant)
    Plant(world.plant).add("masked", key)  # as an earlier edgecl let it
    with pytest.raises(RequestError, match="the device masked has this name"):
        open_round(Merger(Plant(world.plant)), world.carrier, NAMES)


@pytest.mark.parametrize("what", ["m", "l", "r"])
def test_files_that_were_changed_on_the_carrier_are_refused(world: World, what: str) -> None:
    open_round(world.merger(), world.carrier, NAMES)
    for i in range(3):
        world.mask(i)
    advance(world.merger(), world.carrier, closes=True)
    for i in range(3):
        world.mask(i)
    path = next(iter(world.carrier.path.rglob(f"masks/**/{what}1-*")))
    data = bytearray(path.read_bytes())
    data[-3 if what == "m" else data.index(b"body") + 30] ^= 1
    folder = path.parent
    path.unlink()
    world.carrier.put(f"{what}1", bytes(data), *folder.relative_to(world.carrier.path).parts,
                      suffix=path.suffix[1:])  # fmt: skip
    told = r"not what press-\d signed|is damaged or not from"
    if what == "m":
        with pytest.raises(IntegrityError, match=told):
            advance(world.merger(), world.carrier)
    else:
        with pytest.raises(IntegrityError, match=told):
            world.mask(0)


def test_what_is_on_the_carrier_names_no_secret(world: World) -> None:
    open_round(world.merger(), world.carrier, NAMES)
    world.mask(0)
    turn = json.loads((world.homes[0].fleet / "mask.json").read_text())
    assert turn["secret"].encode() not in world.on_carrier()
    assert (world.homes[0].fleet / "mask.json").stat().st_mode & 0o777 == 0o600
