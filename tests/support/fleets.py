"""A fleet in small: keys without homes, a plant, and contributions of a few toy rows."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from build import answer, frame, invoke, tiny_home
from edgecl.fleet.carriers.folder import CONTRIBUTIONS, Folder
from edgecl.fleet.contribution import Contribution, rows_part, sums_part, total_body, write
from edgecl.fleet.identity import DeviceKeys, signed
from edgecl.fleet.merger import Merger
from edgecl.fleet.orders import Orders
from edgecl.fleet.plant import Plant, Policy, make_plant
from edgecl.fleet.requests import REQUESTS
from edgecl.fleet.sums import ClassSums, Layout
from edgecl.heads import head_config
from edgecl.heads.statistics import Gram
from edgecl.home import Home
from edgecl.runtime.grid import quantise
from edgecl.unlearning.request import writing

DIM = 6
FEATURE_MAP = "f" * 64
Rows = Mapping[str, np.ndarray]


def device_keys(i: int) -> DeviceKeys:
    """Return the keys of the i-th device, without a home."""
    home: Any = SimpleNamespace(key=bytes([i]) * 32)
    return DeviceKeys.of(home)


def toy_plant(path: Path, n_devices: int = 3, policy: Policy | None = None) -> Plant:
    """Return a fleet of ridge heads of six features with devices press-0, press-1, ..."""
    home: Any = SimpleNamespace(
        manifest=SimpleNamespace(feature_map=FEATURE_MAP, num_features=DIM),
        config=SimpleNamespace(head=head_config("ridge")),
    )
    make_plant(path, home, None, policy or Policy(most_distance=0))
    (path / "secret" / "fleet.key").write_bytes(bytes(32))  # so that ids are always the same
    plant = Plant(path)
    for i in range(n_devices):
        plant.add(f"press-{i}", device_keys(i).public)
    return plant


def toy_rows(name: str, n: int, seed: int = 0) -> np.ndarray:
    """Return rows (n, 6) of a class, float16 on the grid, around a centre of its own."""
    centre = np.random.default_rng(list(name.encode())).uniform(0, 2, DIM)
    noise = np.random.default_rng([seed, *name.encode()]).normal(0, 0.2, (n, DIM))
    return quantise((centre + noise).astype(np.float32))


def contribute(
    folder: Path,
    plant: Plant,
    i: int,
    generation: int,
    classes: Rows,
    *,
    orders: Orders | None = None,
    form: str = "rows",
    key: int | None = None,
    **said: Any,
) -> Path:
    """Write what device press-I has learned onto a carrier; returns the file.

    Args:
        folder: The carrier.
        plant: The fleet.
        i: Number of the device.
        generation: Of the contribution.
        classes: Rows by class.
        orders: Those that the device applied.
        form: `rows`, `gram` or `total`.
        key: Number of the device that signs, if another does.
        said: What it says otherwise than it should.
    """
    orders, gram = orders or Orders(), Gram(DIM)
    found = []
    for name, x in classes.items():
        class_ = orders.id_of(plant.key, name)
        sums = ClassSums.of(gram, gram.of(x))
        made = {
            "rows": lambda c=class_, n=name, x=x: rows_part(c, n, x),
            "gram": lambda c=class_, n=name, s=sums: sums_part(c, n, s),
            "total": lambda c=class_, n=name, s=sums: sums_part(c, n, s, "sum"),
        }
        found.append((*made[form](), sums))
    found.sort(key=lambda each: each[0].id)
    bodies = {part.digest: body for part, body, _ in found}
    total = ""
    if form == "total":
        total, body = total_body(np.sum([s.gram for _, _, s in found], axis=0))
        bodies[total] = body
    keys = device_keys(i if key is None else key)
    contribution = Contribution(
        fleet=plant.fleet.id,
        device=f"press-{i}",
        key=keys.key,
        generation=generation,
        order=orders.last,
        receipt="",
        feature_map=FEATURE_MAP,
        head="ridge",
        layout=Layout.of(gram),
        parts=tuple(part for part, _, _ in found),
        total=total,
    )
    path = folder / f"press-{i}-g{generation}.efc"
    write(path, replace(contribution, **said), bodies, keys.sign)
    put = Folder(folder).put(f"g{generation}", path, CONTRIBUTIONS, f"press-{i}", suffix="efc")
    path.unlink()
    return put


def toy_home(
    path: Path, head: str = "ridge", dim: int = DIM, *, probes: int = 0, sealed: bool = False
) -> Home:
    """Return a home of a few features whose engine is a file of no use."""
    home = tiny_home(path, head, dim, probes=probes, sealed=sealed)
    engine = b"no engine"
    digest = hashlib.sha256(engine).hexdigest()
    manifest = replace(home.manifest, engine_sha256=digest)
    manifest.save(path / "engine")
    (path / "engine" / manifest.engine).write_bytes(engine)
    return Home(path)


def teach(home: Home, classes: Mapping[str, int], seed: int) -> None:
    """Let a home learn so many toy rows of each class."""
    with writing(home) as session:
        for name, n in classes.items():
            x = toy_rows(name, n, seed).astype(np.float32)
            session.learner.learn_many([frame(name, i) for i in range(n)], x)


def holders(folder: Path, *needles: bytes) -> list[str]:
    """Return the files below a folder that hold one of some bytes."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]


class World:
    """A plant, a carrier and some homes."""

    def __init__(self, path: Path, n: int, *options: object) -> None:
        self.path, self.plant = path, path / "plant"
        self.homes = [toy_home(path / f"home-{i}") for i in range(n)]
        self.carrier = Folder(path / "carrier", is_made=True)
        answer(
            "fleet", "init", "--fleet", self.plant, "--feature-map-of", self.homes[0].path,
            "--most-distance", 0, *options,
        )  # fmt: skip
        self.serve()
        for i, home in enumerate(self.homes):
            key = self.fleet("join", self.carrier.path / "fleet.json", home=home)["key"]
            self.fleet("add", f"press-{i}", key)
        self.serve()

    @classmethod
    def copied(cls, made: Path, path: Path) -> World:
        """Return a copy of one that lies in a folder."""
        shutil.copytree(made, path)
        found = cls.__new__(cls)
        found.path, found.plant, found.carrier = path, path / "plant", Folder(path / "carrier")
        found.homes = [Home(home) for home in sorted(path.glob("home-*"))]
        return found

    def fleet(self, *words: object, home: Home | None = None) -> dict:
        where = ("--fleet", self.plant) if home is None else ("--home", home.path)
        return answer("fleet", *words, *where)

    def serve(self) -> None:
        done = invoke(
            "fleet", "serve", "--fleet", self.plant, "--carrier", self.carrier.path, "--once"
        )
        assert done.exit_code == 0

    def sync(self, i: int) -> dict:
        return self.fleet("sync", "--carrier", self.carrier.path, home=self.homes[i])

    def merger(self) -> Merger:
        return Merger(Plant(self.plant))

    def classes(self) -> dict[str, int]:
        merged = self.merger().merged()
        assert merged is not None
        return {name: n for _, name, n in merged.classes}


def requested(folder: Folder | Home) -> list[str]:
    """Return the names of the requests in a folder or home."""
    path = folder.fleet if isinstance(folder, Home) else folder.path
    return sorted(file.name for file in (path / REQUESTS).rglob("*.json"))


def request(world: World, i: int, device: str, **said: object) -> Path:
    """Put what device I signs on the carrier, as a request of a device."""
    fleet = Plant(world.plant).fleet
    body = {"kind": "request: forget class", "fleet": fleet.id, "ids": ["a" * 64], "time": 5}
    data = signed(body | said, DeviceKeys.of(world.homes[i]).sign)
    return world.carrier.put("r5", data, REQUESTS, device, suffix="json")
