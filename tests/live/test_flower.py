"""Homes of a fleet over a SuperLink and three SuperNodes on loopback, with TLS and registered keys.

Needs `make flower` (the carrier's own environment) and ssh-keygen.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fleets import DIM, holders, teach, toy_home, toy_rows

from edgecl.fleet.carriers.folder import Folder
from edgecl.fleet.member import Device, Synced, join
from edgecl.fleet.merge import add_up
from edgecl.fleet.merger import Merger
from edgecl.fleet.orders import CLASS
from edgecl.fleet.plant import Plant as Merging
from edgecl.fleet.plant import Policy, make_plant
from edgecl.fleet.sums import ClassSums
from edgecl.heads.statistics import Gram
from peers import certificate, free_port, require

pytestmark = [pytest.mark.live, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
APP = ROOT / "packaging/edgecl-flower"
BIN = ROOT / ".venv-flower/bin"
NAMES = ("door", "press-1", "press-2")
QUICK = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05"}


def env(home: Path) -> dict[str, str]:
    """What all of them run in; nothing of it is in the house of who runs the tests."""
    home.mkdir(exist_ok=True)
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return os.environ | quiet | QUICK | {"FLWR_HOME": str(home), "PATH": path}


@contextmanager
def group(*command: object, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command with all that it starts until the block ends; its log lies in its folder."""
    with (home.parent / f"{home.name}.log").open("ab") as log:
        running = subprocess.Popen(
            [str(c) for c in command], env=env(home), stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(20)
        finally:
            for member in members(home):
                os.kill(member, signal.SIGKILL)
            running.wait(20)


def members(home: Path) -> list[int]:
    """Who runs with this folder as Flower's, or one below it: what was started, and by that."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if re.search(f"FLWR_HOME={re.escape(str(home))}[/\0]".encode(), environ.read_bytes()):
                found.append(int(environ.parent.name))
    return found


def gone(home: Path) -> bool:
    """Whether all of them end by themselves, soon."""
    for _ in range(50):
        if not members(home):
            return True
        time.sleep(0.1)
    return False


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


def put(folder: Path, name: str, data: bytes) -> Path:
    """Write a file of the layout; `{}` in its name becomes its digest."""
    path = folder / name.format(hashlib.sha256(data).hexdigest()[:16])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def tree(folder: Path, before: str = "") -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != ".exchanged")
    return {before + p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def flower() -> None:
    require((BIN / "edgecl-flower-node").exists(), "make flower")
    require(shutil.which("ssh-keygen"), "apt install openssh-client")


def run(tmp_path: Path, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script of this folder in the carrier's environment."""
    return subprocess.run(
        [str(a) for a in (BIN / "python", Path(__file__).with_name(script), *arguments)],
        env=env(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


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


def test_homes_merge_over_the_network_and_an_order_reaches_all(
    flower: None, tmp_path: Path
) -> None:
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


def test_both_sides_move_what_the_other_lacks_and_no_more(flower: None, tmp_path: Path) -> None:
    carrier, folders = tmp_path / "carrier", [tmp_path / name for name in NAMES]
    carrier.mkdir()
    sent = {}
    for i, (name, folder) in enumerate(zip(NAMES, folders, strict=True)):
        (folder / "inbox").mkdir(parents=True)
        for generation in (1, 2):  # Of press-2 the two do not fit into one message.
            data = os.urandom(400_000 * (i + 1))
            path = f"contributions/{name}/g{generation}-{{}}.efc"
            path = put(folder / "outbox", path, data).name
            sent[f"contributions/{name}/{path}"] = data
    put(carrier, "fleet.json", b'{"fleet":"plant"}')
    put(carrier, "orders/000001-{}.json", b"order 1")
    head = put(carrier, "merged/v1-{}.efb", os.urandom(300_000))
    # What does not belong to the layout stays where it is; what is too large is named.
    put(carrier, "orders/.secret", b"x")
    put(folders[0] / "outbox", "contributions/door/home.db", b"x")
    large = put(folders[0] / "outbox", "contributions/door/g3-{}.efc", bytes(3 << 20))

    done = run(tmp_path, "flower_pair.py", 2 << 20, carrier, *folders)
    assert done.stdout.split()[-2:] == ["3", "7"], done.stderr
    assert f"{large.name} is larger than 2,097,152 bytes" in done.stderr + done.stdout
    came = tree(carrier)
    assert {n: d for n, d in came.items() if n.startswith("contrib")} == sent
    first = {n: d for n, d in came.items() if not n.startswith(("contrib", "orders/."))}
    assert len(first) == 3
    assert [tree(f / "inbox") for f in folders] == [first] * 3

    # The merged head is revoked, and fleet.json is another one.
    head.unlink()
    put(carrier, "fleet.json", b'{"fleet":"plant","revision":2}')
    put(carrier, "masks/r1-{}.json", b"a round")
    done = run(tmp_path, "flower_pair.py", 2 << 20, carrier, *folders)
    assert done.stdout.split()[-2:] == ["3", "6"], done.stderr
    assert (done.stderr + done.stdout).count(": 0 files taken") == 3
    assert (done.stderr + done.stdout).count(": 2 files sent") == 3
    second = {n: d for n, d in tree(carrier).items() if not n.startswith(("contrib", "orders/."))}
    assert [tree(f / "inbox") for f in folders] == [second] * 3
    assert {n.partition("/")[0] for n in second} == {"fleet.json", "orders", "masks"}


def test_devices_that_lie_leave_nothing_and_are_named(flower: None, tmp_path: Path) -> None:
    carrier = tmp_path / "a" / "carrier"
    carrier.mkdir(parents=True)
    done = run(tmp_path, "flower_hostile.py", carrier)
    assert done.returncode == 0, done.stderr
    files = [p for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert [p.read_bytes() for p in files] == [b"a file"]
    assert files[0].parent == carrier / "contributions/good"
    lines = done.stderr + done.stdout
    for node, text in (
        (2, "'../../evil' is not the name"),
        (2, "is not the name of a file that travels this way"),
        (2, "does not have the digest that its name says"),
        (3, r"'contributions/a\x1b[2J/g1-"),
        (4, "is larger than 1,000 bytes"),
        (5, "a message has no list"),
        (6, "a message has no list 'inbox'"),
        (8, "says 4980 things more"),
        (9, "was not served"),
        (10, "gave no answer to collect"),
        (11, "a message has no list 'refused'"),
    ):
        assert re.search(f"device {node}:? .*{re.escape(text)}", lines), (node, text)
    assert "\x1b[2J" not in lines
    # Seven were served, and the one that always has more was not asked for ever.
    assert done.stdout.split()[-2:] == ["7", "19"]
