"""Processes that die: run a workload in a child, kill it, and see whether the home survived.

A workload is a module-level function `workload(home: Path) -> None` that can be run again: on a
home where an earlier run was killed it goes on, on a finished one it changes nothing. `survives`
kills it many times, each time on a fresh copy of a home, and compares what a second run makes of
the remains with what one run makes that nobody kills.

    survives(learn, state, home, tmp_path, kills=40, seed=0)

Children are forked from one light process that has no threads (`python tests/support/crash.py`),
so one costs milliseconds. Five ways to die, by turns:

    edge        SIGKILL before or after a statement that begins or ends a transaction, or empties or
                rewrites the files
    statement   SIGKILL before the n-th SQL statement, n spread over the whole run
    call        SIGKILL before the n-th system call that writes, cuts, flushes, renames or unlinks;
                needs ptrace, and is left out where that is forbidden
    bytes       death inside the write that takes a file beyond n bytes, which leaves a part of it
    delay       SIGKILL after a random time
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import random
import resource
import select
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

WAYS = ("edge", "statement", "call", "bytes", "delay")
Workload = Callable[[Path], None]

# Numbers of: write pwrite64 ftruncate fsync fdatasync rename unlink (renameat unlinkat renameat2).
_WRITING = {
    "x86_64": {1, 18, 77, 74, 75, 82, 87, 263, 264, 316},
    "aarch64": {64, 68, 46, 82, 83, 38, 35, 276},
}
_TRACEME, _SYSCALL, _SETOPTIONS, _SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_EXIT_KILL_AND_MARK = 0x100001
_ENTRY = 1
_EDGES = ("BEGIN", "COMMIT", "ROLLBACK", "VACUUM", "PRAGMA wal_checkpoint")


def survives(
    workload: Workload,
    check: Callable[[Path], Any],
    home: Path,
    place: Path,
    *,
    kills: int,
    seed: int = 0,
    ways: tuple[str, ...] = WAYS,
    wreck: Callable[[Path, random.Random], None] | None = None,
) -> int:
    """Kill a workload many times; whatever was reached, the home opens, verifies and goes on.

    Args:
        workload: See above; of a module that can be imported without pytest's help.
        check: Called with a home on which the workload ended; what it returns must be equal to what
            it returns for a run that was not killed.
        home: A home, which is copied and never written.
        place: Where the copies go.
        kills: How many children to kill.
        seed: Seed of the points of death.
        ways: Ways to die.
        wreck: Done to the home after the kill, as a pulled plug does.

    Returns:
        How many were killed, which is `kills`.
    """
    whole = _copy(home, place / "whole")
    run = forker().run(workload, whole)
    assert run["status"] == 0, f"the workload fails without being killed: {run['error']}"
    wanted = check(whole)
    forker().run(workload, whole)
    assert check(whole) == wanted, "the workload does not leave a finished home as it is"
    if not can_trace():
        ways = tuple(way for way in ways if way != "call")
    sizes = {"edge": run["edges"], "statement": run["statements"]}
    sizes |= {"bytes": run["largest"], "delay": run["seconds"]}
    if "call" in ways:
        traced = forker().run(workload, _copy(home, place / "traced"), way="call")
        assert traced["status"] == 0, traced["error"]
        sizes["call"] = traced["calls"]
    killed = place / "killed"
    for number, way in enumerate(ways):
        rng = random.Random(f"{seed} {way}")
        share = -(-(kills - number) // len(ways))
        for i in range(share):
            # One point in every part of the run, so that no stretch of it is left out.
            n = _kill(workload, home, killed, way, sizes[way], (i + rng.random()) / share)
            try:
                if wreck is not None:
                    wreck(killed, rng)
                _verify(killed)
                workload(killed)
                _verify(killed)
                _compare(check(killed), wanted)
            except Exception as error:
                raise AssertionError(
                    f"killed by {way} at {n} of {sizes[way]} (seed {seed}): "
                    f"{type(error).__name__}: {error}"
                ) from error
    return kills


def _kill(workload: Workload, home: Path, copy: Path, way: str, size: float, share: float) -> float:
    """Run a workload on a copy of a home and kill it there; returns the point of death."""
    for _ in range(20):
        n = share * size if way == "delay" else 1 + int(share * size)
        run = forker().run(workload, _copy(home, copy), way=way, n=n)
        if run["status"]:
            assert run["killed"], f"the workload failed instead of being killed: {run['error']}"
            return n
        size *= 0.9  # it ended first; only the delay and the size of files are not exact
    raise AssertionError(f"the workload always ends before {way} {n}")


def _compare(found: Any, wanted: Any) -> None:
    if found == wanted:
        return
    what = ""
    if isinstance(found, dict) and isinstance(wanted, dict):
        parts = [str(k) for k in wanted.keys() | found if found.get(k) != wanted.get(k)]
        what = f", in {', '.join(sorted(parts))}"
    raise AssertionError(f"it does not end as the run that was not killed{what}")


def _verify(home: Path) -> None:
    from edgecl.doctor import examine_home

    bad = [f"{f.name}: {f.text}" for f in examine_home(home) if f.state == "bad"]
    assert not bad, "; ".join(bad)


def _copy(home: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(home, to)
    return to


class Forker:
    """The light process that forks children; one is enough for all tests of a session."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def run(
        self, workload: Workload, home: Path, *, way: str | None = None, n: float | None = None
    ) -> dict[str, Any]:
        """Run a workload in a child of its own, to its end or until it dies at `n`.

        Returns:
            status: As `os.waitpid` gives it; 0 for a run to the end.
            killed: Whether it died as intended.
            error: What it said if it failed.
            seconds, edges, statements, calls, largest: Of the run: its time, its SQL statements at
                or after the edge of a transaction, all its statements, its writing system calls
                (only with the way `call`), bytes of the largest file.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        file = sys.modules[workload.__module__].__file__
        asked = {"file": file, "name": workload.__name__, "home": str(home), "way": way, "n": n}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the forking process died"
        result: dict[str, Any] = json.loads(answer)
        return result

    def close(self) -> None:
        """End the process."""
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()


@cache
def forker() -> Forker:
    """Return the session's forking process."""
    import atexit

    started = Forker()
    atexit.register(started.close)
    return started


@cache
def can_trace() -> bool:
    """Whether this machine lets a process trace its child."""
    return (
        platform.machine() in _WRITING
        and forker().run(nothing, Path("."), way="call")["status"] == 0
    )


def nothing(home: Path) -> None:
    """Do nothing, as a workload."""


# In the forking process and its children


def _serve() -> None:
    import edgecl.learner
    import edgecl.unlearning.request  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    modules: dict[str, ModuleType] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        file = asked["file"]
        if file not in modules:
            spec = importlib.util.spec_from_file_location(Path(file).stem, file)
            assert spec is not None
            assert spec.loader is not None
            modules[file] = importlib.util.module_from_spec(spec)
            sys.modules[Path(file).stem] = modules[file]
            spec.loader.exec_module(modules[file])
        workload = getattr(modules[file], asked["name"])
        print(json.dumps(_fork(workload, asked)), file=answers, flush=True)


def _fork(workload: Workload, asked: dict[str, Any]) -> dict[str, Any]:
    way, n = asked["way"], asked["n"]
    reader, writer = os.pipe()
    begin = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(workload, Path(asked["home"]), way, n, writer)
    os.close(writer)
    calls = 0
    if way == "call":
        status, calls = _trace(pid, n)
    else:
        if way == "delay" and n is not None and not select.select([reader], [], [], n)[0]:
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
    seconds = time.monotonic() - begin
    with open(reader) as pipe:
        said = pipe.read()
    report = json.loads(said) if said else {"error": ""}
    end = signal.SIGXFSZ if way == "bytes" else signal.SIGKILL
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == end
    return {"status": status, "killed": killed, "seconds": seconds, "calls": calls, **report}


def _child(workload: Workload, home: Path, way: str | None, n: float | None, writer: int) -> None:
    count = {"statements": 0, "edges": 0, "largest": 0}
    was_edge = False

    def statement(text: str) -> None:
        nonlocal was_edge
        is_edge = text.startswith(_EDGES)
        count["statements"] += 1
        count["edges"] += is_edge or was_edge
        is_there = way == "statement" or (way == "edge" and (is_edge or was_edge))
        if is_there and count[f"{way}s"] == n:
            os.kill(os.getpid(), signal.SIGKILL)
        was_edge = is_edge
        if n is None:
            sizes = [path.stat().st_size for path in home.glob("device.db*")]
            count["largest"] = max(count["largest"], *sizes, 0)

    connect = sqlite3.connect

    def traced(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **options)
        connection.set_trace_callback(statement)
        return connection

    error = ""
    try:
        sqlite3.connect = traced  # type: ignore[assignment]
        if way == "bytes" and n is not None:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(n), resource.RLIM_INFINITY))
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        if way == "call":
            _ptrace(_TRACEME, 0, 0, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
        workload(home)
    except BaseException:
        error = traceback.format_exc()
    os.write(writer, json.dumps({"error": error, **count}).encode())
    os._exit(1 if error else 0)


def _trace(pid: int, n: float | None) -> tuple[int, int]:
    """Follow a child from call to call and kill it before its n-th writing one."""
    writing, calls = _WRITING[platform.machine()], 0
    status = os.waitpid(pid, 0)[1]
    if not os.WIFSTOPPED(status):
        return status, 0
    _ptrace(_SETOPTIONS, pid, 0, _EXIT_KILL_AND_MARK)
    info = ctypes.create_string_buffer(88)
    forward = 0
    while True:
        _ptrace(_SYSCALL, pid, 0, forward)
        status = os.waitpid(pid, 0)[1]
        if not os.WIFSTOPPED(status):
            return status, calls
        stop = os.WSTOPSIG(status)
        forward = 0
        if stop != signal.SIGTRAP | 0x80:
            forward = 0 if stop in (signal.SIGTRAP, signal.SIGSTOP) else stop
            continue
        _ptrace(_SYSCALL_INFO, pid, len(info), ctypes.addressof(info))
        if info.raw[0] == _ENTRY and struct.unpack_from("Q", info.raw, 24)[0] in writing:
            calls += 1
            if calls == n:
                os.kill(pid, signal.SIGKILL)
                return os.waitpid(pid, 0)[1], calls


def _ptrace(request: int, pid: int, address: int, data: int) -> None:
    libc = _libc()
    if libc.ptrace(ctypes.c_long(request), ctypes.c_long(pid), address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    return libc


if __name__ == "__main__":
    sys.path[:] = json.loads(sys.argv[1])
    _serve()
