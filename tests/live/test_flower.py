"""A SuperLink and three SuperNodes on loopback, with TLS and registered keys.

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
from pathlib import Path

import pytest

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
            (folder / name / "outbox").mkdir(parents=True)
            (folder / name / "inbox").mkdir()
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
            *("--key", place / "key", "--outbox", place / "outbox", "--inbox", place / "inbox"),
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


def tree(folder: Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != ".exchanged")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def flower() -> None:
    require((BIN / "edgecl-flower-node").exists(), "make flower")
    require(shutil.which("ssh-keygen"), "apt install openssh-client")


def passed_down(folder: Path) -> dict[str, bytes]:
    return {n: d for n, d in tree(folder).items() if not n.startswith(("contrib", "orders/."))}


def test_files_reach_the_merger_and_orders_reach_every_device(flower: None, tmp_path: Path) -> None:
    with ExitStack() as stack:
        plant = Plant(tmp_path, stack)
        carrier = plant.carrier
        sent = {}
        for i, name in enumerate(NAMES):
            for generation in (1, 2):  # Of press-2 the two do not fit into one message.
                data = os.urandom(400_000 * (i + 1))
                path = f"contributions/{name}/g{generation}-{{}}.efc"
                path = put(tmp_path / name / "outbox", path, data).name
                sent[f"contributions/{name}/{path}"] = data
        put(carrier, "fleet.json", b'{"fleet":"plant"}')
        put(carrier, "orders/000001-{}.json", b"order 1")
        head = put(carrier, "merged/v1-{}.efb", os.urandom(300_000))
        # What does not belong to the layout stays where it is; what is too large is named.
        put(carrier, "orders/.secret", b"x")
        put(tmp_path / "door/outbox", "contributions/door/home.db", b"x")
        large = put(tmp_path / "door/outbox", "contributions/door/g3-{}.efc", bytes(3 << 20))

        # Press-2 is away. A stranger comes, and somebody in the network tries to start a run.
        with plant.exchange(2) as said, ThreadPoolExecutor(2) as pool:
            stranger = pool.submit(plant.start, "stranger", 60)
            outside = pool.submit(plant.try_from_outside)
            plant.come("door", "press-1")
            assert stranger.result() == 1
            assert 0 not in outside.result()
        assert f"{large.name} is larger than 2,097,152 bytes" in said[0]
        came = {n: d for n, d in tree(carrier).items() if n.startswith("contrib")}
        assert came == {n: d for n, d in sent.items() if "press-2" not in n}
        first = passed_down(carrier)
        assert len(first) == 3
        assert [tree(tmp_path / n / "inbox") for n in NAMES] == [first, first, {}]

        # It is back, and meanwhile a class was forgotten: an order, and the merged head is revoked.
        head.unlink()
        put(carrier, "orders/000002-{}.json", b"order 2: forget a class")
        put(carrier, "merged/v2-{}.efb", os.urandom(300_000))
        new = put(tmp_path / "press-1/outbox", "contributions/press-1/g3-{}.efc", os.urandom(9000))
        sent[f"contributions/press-1/{new.name}"] = new.read_bytes()
        second = passed_down(carrier)
        assert len(second) == 4
        with plant.exchange(3):
            plant.come(*NAMES)
        assert {n: d for n, d in tree(carrier).items() if n.startswith("contrib")} == sent
        assert [tree(tmp_path / n / "inbox") for n in NAMES] == [second] * 3
        assert plant.log("link").count("/v1/control/start-run HTTP") == 2
        assert plant.log("link").count("/v1/control/register-node HTTP") == 3
        # Nobody registered the key of the stranger.
        assert "Failed to activate SuperNode" in plant.log("stranger-node")
        assert tree(tmp_path / "stranger/inbox") == {}
    assert gone(tmp_path)


def test_devices_that_lie_leave_nothing_and_are_named(flower: None, tmp_path: Path) -> None:
    carrier = tmp_path / "a" / "carrier"
    carrier.mkdir(parents=True)
    script = Path(__file__).with_name("flower_hostile.py")
    done = subprocess.run(
        [BIN / "python", script, carrier],
        env=env(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
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
