"""The carrier on Flower in tests: its environment, what runs in it, and the files that it moves."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from needs import require

ROOT = Path(__file__).parents[2]
APP = ROOT / "packaging/edgecl-flower"
BIN = ROOT / ".venv-flower/bin"
NAMES = ("door", "press-1", "press-2")
QUICK = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05"}


def require_flower() -> None:
    """Skip (fail) a test where the carrier's environment, or what makes its keys, is missing."""
    require((BIN / "edgecl-flower-node").exists(), "make flower")
    require(shutil.which("ssh-keygen"), "apt install openssh-client")


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
            running.wait(120)
        finally:
            for member in members(home):
                os.kill(member, signal.SIGKILL)
            running.wait(120)


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


def put(folder: Path, name: str, data: bytes) -> Path:
    """Write a file of the layout; `{}` in its name becomes its digest."""
    path = folder / name.format(hashlib.sha256(data).hexdigest()[:16])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def tree(folder: Path, before: str = "") -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != ".exchanged")
    return {before + p.relative_to(folder).as_posix(): p.read_bytes() for p in files}
