"""Homes of a fleet over a SuperLink and three SuperNodes on loopback, with TLS and registered keys.

Needs `make flower` (the carrier's own environment) and ssh-keygen.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fleets import DIM, holders, teach, toy_home, toy_rows
from flower import APP, BIN, NAMES, env, gone, group, require_flower, tree

from edgecl.fleet.carriers.folder import Folder
from edgecl.fleet.member import Device, Synced, join
from edgecl.fleet.merge import add_up
from edgecl.fleet.merger import Merger
from edgecl.fleet.orders import CLASS
from edgecl.fleet.plant import Plant as Merging
from edgecl.fleet.plant import Policy, make_plant
from edgecl.fleet.sums import ClassSums
from edgecl.heads.statistics import Gram
from peers import certificate, free_port

pytestmark = [pytest.mark.live, pytest.mark.slow]


class Plant:
    """A SuperLink with its merger's carrier folder, and the folders of three devices."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.port = folder, free_port()
        self.carrier = folder / "carrier"
        self.carrier.mkdir()
        self.cert = certificate(folder)
        for name in (*NAMES, "stranger"):
            (folder / name / "carrier").mkdir(parents=True)
            keygen = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f"]
            subprocess.run([*keygen, folder / name / "key"], check=True)
        self.link = stack.enter_context(
            group(
                BIN / "flower-superlink",
                *("--ssl-ca-certfile", self.cert, "--ssl-certfile", self.cert),
                *("--ssl-keyfile", self.cert, "--port", self.port),
                *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
                home=folder / "link",
            )
        )
        self.gate = free_port()
        stack.enter_context(
            group(
                BIN / "edgecl-flower-gate",
                *("--superlink", f"127.0.0.1:{self.port}", "--port", self.gate),
                *("--host", "127.0.0.1", "--ssl-cafile", self.cert),
                *("--ssl-certfile", self.cert, "--ssl-keyfile", self.cert),
                home=folder / "gate",
            )
        )
        env(folder / "cli")
        (folder / "cli/config.toml").write_text(
            "".join(
                f'[superlink.{name}]\naddress = "127.0.0.1:{port}"\n'
                f'root-certificates = "{self.cert}"\n'
                for name, port in (("plant", self.port), ("outside", self.gate))
            )
        )
        # Here, not at the gate: asked until it is up.
        while self.register(NAMES[0]):
            assert self.link.poll() is None, self.log("link")
        with ThreadPoolExecutor(2) as pool:
            assert not any(pool.map(self.register, NAMES[1:])), self.log("link")

    def register(self, name: str, where: str = "plant") -> int:
        key = self.folder / name / "key.pub"
        return self.flwr("supernode", "register", key, where).returncode

    def try_from_outside(self) -> tuple[int, int]:
        """Start a run, and register a key, through the gate; return the statuses."""
        return self.flwr("run", APP, "outside").returncode, self.register("stranger", "outside")

    def flwr(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(a) for a in (BIN / "flwr", *arguments)]
        return subprocess.run(
            command,
            env=env(self.folder / "cli"),
            text=True,
            timeout=300,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def start(self, name: str, seconds: int = 240) -> int:
        """Run a device's node for one exchange, as its timer does; return its status."""
        place = self.folder / name
        command = (
            BIN / "edgecl-flower-node",
            *("--superlink", f"127.0.0.1:{self.gate}", "--root-certificates", self.cert),
            *("--key", place / "key", "--outbox", place / "carrier", "--inbox", place / "carrier"),
            *("--port", free_port(), "--for", seconds),
        )
        home = self.folder / f"{name}-node"
        with group(*command, home=home) as node:
            status = node.wait(300)
            assert gone(home), "it left something behind"
        return status

    @contextmanager
    def exchange(self, n_nodes: int) -> Iterator[list[str]]:
        """Run the app until it has served so many devices; what it says is there at the end."""
        said: list[str] = []
        config = f'carrier="{self.carrier}" nodes={n_nodes} wait-s=240 limit-mb=2'
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(self.flwr, "run", APP, "plant", "--stream", "-c", config)
            yield said
            said.append(run.result().stdout)
        assert f"{n_nodes} of {n_nodes} devices served" in said[0], said[0] + self.log("link")

    def come(self, *names: str) -> None:
        """Let devices be there until they were served."""
        with ThreadPoolExecutor(len(names)) as pool:
            done = dict(zip(names, pool.map(self.start, names), strict=True))
        assert not any(done.values()), "\n".join(self.log(f"{n}-node") for n in names)


class Fleet:
    """Homes of a few features, and the merger; their carriers are the folders of a plant."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.homes = [toy_home(plant.folder / name / "edgecl") for name in NAMES]
        self.path = plant.folder / "fleet"
        make_plant(self.path, self.homes[0], None, Policy(most_distance=0))
        for name, home in zip(NAMES, self.homes, strict=True):
            Merging(self.path).add(name, join(home, self.path / "fleet.json").keys.public)
        # The admin hands the list to the devices; from here on all goes over the network.
        for name in NAMES:
            shutil.copy(self.path / "fleet.json", plant.folder / name / "carrier")

    def sync(self, i: int) -> Synced:
        return Device(self.homes[i]).sync(Folder(self.plant.folder / NAMES[i] / "carrier"))

    def merge(self) -> Merger:
        merger, carrier = Merger(Merging(self.path)), Folder(self.plant.carrier)
        merger.pull(carrier)
        merger.merge()
        merger.push(carrier)
        assert merger.faults == {}
        return merger


def sums_of(merger: Merger) -> dict[str, str]:
    """Return what the merged head rests on, by the names of the classes."""
    found = [c for c, offer in merger.offers() if offer.digest in {
        o.digest for o in merger.state().accepted.values()
    }]  # fmt: skip
    summed = add_up(found, merger.orders, Gram(DIM))
    sums = {summed.names[i]: each.digest for i, each in summed.classes.items()}
    return sums | {"second": hashlib.sha256(summed.second.tobytes()).hexdigest()}


def in_one_place(taught: list[tuple[int, str, int]]) -> dict[str, str]:
    """Return the same of all rows in one place."""
    gram, found = Gram(DIM), {}
    rows: dict[str, list[np.ndarray]] = {}
    for i, name, n in taught:
        rows.setdefault(name, []).append(toy_rows(name, n, i))
    for name, some in rows.items():
        sums = ClassSums.of(gram, gram.of(np.concatenate(some)))
        found[name] = replace(sums, gram=np.zeros(0, np.int64)).digest
    every = ClassSums.of(gram, gram.of(np.concatenate([x for some in rows.values() for x in some])))
    return found | {"second": hashlib.sha256(every.gram.tobytes()).hexdigest()}


def test_homes_merge_over_the_network_and_an_order_reaches_all(tmp_path: Path) -> None:
    require_flower()
    taught = [(0, "cup", 4), (0, "plate", 3), (1, "plate", 5), (1, "spoon", 4), (2, "cup", 6),
              (2, "spoon", 7)]  # fmt: skip
    with ExitStack() as stack:
        plant = Plant(tmp_path, stack)
        fleet = Fleet(plant)
        for i, name, n in taught:
            teach(fleet.homes[i], {name: n}, seed=i)
        for i in range(3):
            fleet.sync(i)
        fleet.merge()

        # Press-2 is away. A stranger comes, and somebody in the network tries to start a run.
        with plant.exchange(2), ThreadPoolExecutor(2) as pool:
            stranger = pool.submit(plant.start, "stranger", 120)
            outside = pool.submit(plant.try_from_outside)
            plant.come("door", "press-1")
            assert stranger.result() == 1
            assert 0 not in outside.result()
        merger = fleet.merge()
        assert sums_of(merger) == in_one_place([each for each in taught if each[0] < 2])
        kept = tree(tmp_path / "door/carrier/contributions")
        assert kept == tree(plant.carrier / "contributions/door", "door/")

        # A class is forgotten while it is away, which it still has; and it is back.
        ids = [merger.orders.id_of(merger.plant.key, "cup")]
        body = {"kind": CLASS, "ids": ids, "reason": "", "time": 1}
        Merger(Merging(fleet.path)).give(body)
        fleet.merge()
        with plant.exchange(3):
            plant.come(*NAMES)
        merger = fleet.merge()
        left = [each for each in taught if each[1] != "cup"]
        assert sums_of(merger) == in_one_place(left)
        synced = [fleet.sync(i) for i in range(3)]
        assert [[n for n, _ in each.orders] for each in synced] == [[1]] * 3
        assert [bool(each.orders[0][1]) for each in synced] == [True, False, True]
        merged = [each.merged for each in synced]
        assert [m is not None and {n for _, n, _ in m.classes} for m in merged] == [
            {"plate", "spoon"}
        ] * 3
        assert holders(plant.carrier, ids[0].encode()) == [
            p.relative_to(plant.carrier).as_posix() for p in plant.carrier.glob("orders/*.json")
        ]

        assert plant.log("link").count("/v1/control/start-run HTTP") == 2
        assert plant.log("link").count("/v1/control/register-node HTTP") == 3
        # Nobody registered the key of the stranger.
        assert "Failed to activate SuperNode" in plant.log("stranger-node")
        assert tree(tmp_path / "stranger/carrier") == {}
    assert gone(tmp_path)
