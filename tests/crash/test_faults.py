"""Disks, files and clocks that fail: one line, the right exit status, and nothing lost."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import workloads
from crash import forker

import build
from edgecl.cli import main
from edgecl.doctor import examine_home
from edgecl.errors import HomeLockedError, IntegrityError, StoreError
from edgecl.home import Home
from edgecl.session import open_store

PAGE = 4096
Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workloads.small_home(tmp_path_factory.mktemp("fresh") / "home").path


@pytest.fixture(scope="module")
def taught(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("taught") / "home"
    shutil.copytree(fresh, path)
    workloads.learn(path)
    return path


@pytest.fixture
def home(taught: Path, tmp_path: Path) -> Path:
    return copied(taught, tmp_path / "home")


@pytest.fixture
def new_home(fresh: Path, tmp_path: Path) -> Path:
    return copied(fresh, tmp_path / "home")


@pytest.fixture
def edgecl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process; returns its status and its last line on stderr."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["edgecl", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return int(end.value.code or 0), err.strip().splitlines()[-1] if err.strip() else ""

    return run


def copied(home: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(home, to)
    return to


def is_sound(home: Path) -> bool:
    return all(finding.state == "ok" for finding in examine_home(home))


# Full disk


@contextmanager
def room_for(n: int) -> Iterator[None]:
    """Let no file of this process grow beyond n bytes; SIGXFSZ is ignored by Python."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def attempt(workload: Callable[[Path], None], home: Path, n_bytes: int) -> StoreError | None:
    """Run a workload with little room; returns the error that it stopped with."""
    try:
        with room_for(n_bytes):
            workload(home)
    except StoreError as error:
        return error
    return None


@pytest.mark.parametrize("work", ["learn", "forget"])
def test_a_full_disk_stops_a_command_with_one_line_and_later_it_goes_on(
    fresh: Path, taught: Path, tmp_path: Path, work: str
) -> None:
    workload = getattr(workloads, work)
    start = fresh if work == "learn" else taught
    whole = copied(start, tmp_path / "whole")
    workload(whole)
    stops = []
    for n_bytes in range(36_000, 300_000, 16_000):
        home = copied(start, tmp_path / "home")
        error = attempt(workload, home, n_bytes)
        if error is None:
            break
        stops.append(n_bytes)
        assert "\n" not in str(error)
        assert "disk" in str(error)
        assert "free" in str(error)
        assert error.exit_code == 3
        assert is_sound(home)
        workload(home)
        assert workloads.state(home) == workloads.state(whole)
    assert len(stops) >= 3


def test_a_store_at_its_page_limit_takes_nothing_and_loses_nothing(
    new_home: Path, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgecl.store import database

    connect = database.connect

    def tight(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.execute("PRAGMA max_page_count = 28")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(database, "connect", tight)
        with pytest.raises(StoreError, match=r"is full.*free some disk space") as error:
            workloads.learn(new_home)
    assert error.value.exit_code == 3
    assert is_sound(new_home)
    workloads.learn(new_home)
    assert workloads.state(new_home) == workloads.state(taught)


@contextmanager
def mounted(place: Path, size: str) -> Iterator[Path]:
    """A file system of its own in memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    place.mkdir()
    if libc.mount(b"tmpfs", bytes(place), b"tmpfs", 0, f"size={size}".encode()):
        pytest.skip(f"mounting a small file system: {os.strerror(ctypes.get_errno())}")
    try:
        yield place
    finally:
        libc.umount2(bytes(place), 2)


def make_read_only(place: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    remount, read_only = 32, 1
    assert libc.mount(b"", bytes(place), b"", remount | read_only, b"") == 0


def test_a_small_file_system_fills_up_and_is_usable_after_there_is_room(
    fresh: Path, taught: Path, tmp_path: Path, edgecl: Command
) -> None:
    with mounted(tmp_path / "disk", "1100k") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(640_000))
        home = copied(fresh, disk / "home")
        with pytest.raises(StoreError, match=r"full.*free some disk space"):
            workloads.learn(home)
        ballast.unlink()
        assert is_sound(home)
        workloads.learn(home)
        assert workloads.state(home) == workloads.state(taught)


# No right to write


def test_a_home_on_a_read_only_file_system_is_read_and_nothing_else(
    taught: Path, tmp_path: Path, edgecl: Command
) -> None:
    parts = build.part_folder(tmp_path / "parts", 1)
    with mounted(tmp_path / "disk", "4m") as disk:
        home = copied(taught, disk / "home")
        make_read_only(disk)
        assert is_sound(home)
        for command in (("train-stream", parts), ("forget", "class", workloads.FORGOTTEN)):
            status, line = edgecl(*command, "--home", home)
            assert status == 3
            assert "ead-only" in line


def test_a_log_on_a_read_only_file_system_is_told(
    new_home: Path, tmp_path: Path, edgecl: Command
) -> None:
    with mounted(tmp_path / "disk", "4m") as disk:
        home = copied(killed(new_home), disk / "home")
        (home / "device.db-shm").unlink()
        make_read_only(disk)
        status, line = edgecl("status", "--home", home)
        assert status == 3
        assert "unable to open" in line
        assert "written" in line


def test_a_store_without_the_right_to_write_says_so(
    home: Path, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgecl.store import database

    connect = database.connect
    with monkeypatch.context() as patch:
        patch.setattr(database, "connect", lambda path, **_: connect(path, read_only=True))
        with pytest.raises(StoreError, match=r"readonly.*make the home writable"):
            workloads.forget(home)
    assert workloads.state(home) == workloads.state(taught)


# Another process


def test_a_home_that_another_process_writes_is_refused(home: Path, edgecl: Command) -> None:
    with Home(home).lock():
        with pytest.raises(HomeLockedError, match="another edgecl process"):
            workloads.learn(home)
        status, line = edgecl("forget", "class", workloads.FORGOTTEN, "--home", home)
        assert (status, "another edgecl process" in line) == (3, True)
        assert is_sound(home)  # reading is never in the way


def test_what_is_to_be_forgotten_waits_for_the_process_that_writes(
    home: Path, edgecl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Home(home).lock():
        monkeypatch.setattr("edgecl.unlearning.ask._PATIENCE_S", 0.2)
        status, line = edgecl("forget", "class", workloads.FORGOTTEN, "--home", home)
        assert (status, "another edgecl process" in line) == (3, True)
    workloads.learn(home)
    with open_store(Home(home), read_only=True) as store:
        assert workloads.FORGOTTEN not in store.names.values()
    assert is_sound(home)


def test_what_was_asked_for_twice_is_finished_once(home: Path, edgecl: Command) -> None:
    with open_store(Home(home)) as store:
        uid = store.class_uid(workloads.FORGOTTEN)
        body = '{"adapter_method":"drop","reason":"","verify":false,"weights":null}'
        for _ in "12":  # by processes that came at the same time
            store.connection.execute(
                "INSERT INTO requests(kind, target, phase, created, body) "
                "VALUES ('class', ?, 'PENDING', 1e9, ?)",
                (uid, body),
            )
    status, line = edgecl("forget", "pending", "--home", home)
    assert status == 0, line
    assert is_sound(home)


def test_a_foreign_writer_is_waited_for_and_then_told(
    home: Path, taught: Path, edgecl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecl.store.database._BUSY_TIMEOUT_MS", 30)
    foreign = sqlite3.connect(home / "device.db", isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    status, line = edgecl("forget", "class", workloads.FORGOTTEN, "--home", home)
    assert status == 3
    assert "locked" in line
    assert "another process holds it" in line
    assert is_sound(home)
    foreign.execute("ROLLBACK")
    foreign.close()
    assert workloads.state(home) == workloads.state(taught)
    assert edgecl("forget", "class", workloads.FORGOTTEN, "--home", home)[0] == 0


# Damaged files


def test_every_damaged_page_is_found_and_never_taken_for_good(
    taught: Path, tmp_path: Path, edgecl: Command
) -> None:
    with sqlite3.connect(taught / "device.db") as connection:
        (n_pages,) = connection.execute("PRAGMA page_count").fetchone()
        (n_free,) = connection.execute("PRAGMA freelist_count").fetchone()
    connection.close()
    n_unseen = 0
    for number in range(n_pages):
        home = copied(taught, tmp_path / "home")
        with (home / "device.db").open("r+b") as file:
            file.seek(number * PAGE + (100 if number == 0 else 0))
            file.write(random.Random(number).randbytes(64))
        status, line = edgecl("verify", "--home", home)
        if status == 0:  # a free page holds nothing
            n_unseen += 1
            assert workloads.state(home) == workloads.state(taught)
            continue
        assert status == 4, f"page {number}: {line}"
        assert "damaged" in line or "fails its check" in line, f"page {number}: {line}"
        for work in (workloads.state, workloads.forget):
            # What does not need the page works, the rest says so; nothing else is raised.
            with suppress(IntegrityError, sqlite3.IntegrityError):
                work(home)
    assert n_unseen <= n_free


def test_a_damaged_page_is_told_by_reading_and_learning(home: Path, edgecl: Command) -> None:
    with (home / "device.db").open("r+b") as file:
        pages = file.seek(0, os.SEEK_END) // PAGE
        for number in range(2, pages):
            file.seek(number * PAGE)
            file.write(b"\xff" * 64)
    for command in (
        ("status", "--home", home),
        ("forget", "class", workloads.FORGOTTEN, "--home", home),
        ("verify", "--home", home),
    ):
        status, line = edgecl(*command)
        assert status == 4, line
        assert "damaged" in line
        assert "restore the home from a backup" in line
    with pytest.raises(IntegrityError, match="damaged"):
        workloads.learn(home, stop=10_000)


@pytest.mark.parametrize("share", [0.0, 0.003, 0.5, 0.95])
def test_a_truncated_store_is_told(home: Path, share: float, edgecl: Command) -> None:
    store = home / "device.db"
    os.truncate(store, int(store.stat().st_size * share))
    for command in ("verify", "status"):
        status, line = edgecl(command, "--home", home)
        assert status == 4, line
        assert "restore the home from a backup" in line


def killed(home: Path) -> Path:
    """Leave a home as a killed stream does, with a log that was not emptied."""
    run = forker().run(workloads.learn, home, way="statement", n=700)
    assert run["killed"]
    assert (home / "device.db-wal").stat().st_size > 10 * PAGE
    return home


@pytest.mark.parametrize(
    "wreck",
    [
        lambda home: (home / "device.db-shm").unlink(),
        lambda home: (home / "device.db-shm").write_bytes(random.Random(1).randbytes(32768)),
        lambda home: (home / "device.db-wal").unlink(),
        lambda home: [p.unlink() for p in home.glob("device.db-*")],
        lambda home: (home / "device.db-wal").write_bytes(random.Random(1).randbytes(50_000)),
        lambda home: os.truncate(home / "device.db-wal", 5 * PAGE + 17),
        lambda home: flip(home / "device.db-wal", 20 * PAGE),
    ],
    ids=["no-shm", "garbage-shm", "no-wal", "neither", "garbage-wal", "cut-wal", "flipped-wal"],
)
def test_a_log_that_is_lost_or_damaged_costs_its_commits_only(
    new_home: Path, taught: Path, wreck: Callable[[Path], Any]
) -> None:
    wreck(killed(new_home))
    assert is_sound(new_home)
    workloads.learn(new_home)
    assert workloads.state(new_home) == workloads.state(taught)


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


# Other


def test_a_clock_that_goes_back_changes_nothing(
    new_home: Path, taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        now = iter(range(2_000_000_000, 0, -86_400))
        patch.setattr(time, "time", lambda: float(next(now)))
        workloads.learn(new_home)
        assert workloads.state(new_home) == workloads.state(taught)
        workloads.forget(new_home)
    assert is_sound(new_home)
    other = copied(taught, tmp_path / "other")
    workloads.forget(other)
    assert workloads.state(new_home) == workloads.state(other)


def test_a_store_of_a_newer_schema_is_refused_and_left_alone(home: Path, edgecl: Command) -> None:
    store = home / "device.db"
    with sqlite3.connect(store) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = store.read_bytes()
    for command in (("status",), ("verify",), ("forget", "class", workloads.FORGOTTEN)):
        status, line = edgecl(*command, "--home", home)
        assert status == 4
        assert "schema 99" in line
        assert "upgrade edgecl" in line
    assert store.read_bytes() == before


@pytest.mark.parametrize("wreck", [Path.unlink, lambda key: key.write_bytes(b"short")])
def test_a_home_without_its_key_is_refused(
    home: Path, wreck: Callable[[Path], Any], edgecl: Command
) -> None:
    wreck(home / "device.key")
    for command in ("status", "verify"):
        status, line = edgecl(command, "--home", home)
        assert status == 4
        assert "device key" in line
        assert "backup" in line


def test_a_store_that_is_gone_is_told(home: Path, edgecl: Command) -> None:
    (home / "device.db").unlink()
    status, line = edgecl("status", "--home", home)
    assert status == 3
    assert "missing; restore it" in line
