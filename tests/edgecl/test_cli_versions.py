"""`rename`, `snapshot`, `rollback`, and the other ways to forget, as commands."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import build
from edgecl.home import Home
from edgecl.session import open_store

GONE = "washer"


def run(home: Path, *arguments: object) -> dict[str, Any]:
    return build.last_json(build.run_edgecl(*arguments, "--home", home, "--json"))


@pytest.fixture
def taught(taught_home: Path, copy_of: Callable[[Path], Path]) -> Path:
    """A home of its own that learned four parts."""
    return copy_of(taught_home)


def classes(home: Path) -> list[str]:
    with open_store(Home(home), read_only=True) as store:
        return list(store.names.values())


def test_versions_and_names(taught: Path, taught_home: Path) -> None:
    kept = run(taught, "snapshot")
    assert (kept["snapshot_id"], kept["classes"], kept["samples"]) == ("s1", 4, 32)
    renamed = run(taught, "rename", GONE, "brass ring")
    assert (renamed["name"], renamed["aliases"]) == ("brass ring", [GONE])
    scores = run(taught, "evaluate", taught_home.parent / "parts")
    assert scores["accuracy"] == 1.0
    assert "brass ring" in scores["per_class"]
    back = run(taught, "rollback", "s1")
    assert (back["snapshot_id"], back["samples"]) == ("s1", 32)
    assert sorted(classes(taught)) == sorted(build.PARTS)
    (shown,) = run(taught, "snapshot", "--list")["snapshots"]
    assert (shown["snapshot_id"], shown["size_bytes"]) == ("s1", kept["bytes"])
    for bad, status in (("s7", 3), ("latest", 2)):
        done = build.run_edgecl("rollback", bad, "--home", taught)
        assert done.returncode == status
        assert len(done.stderr.splitlines()) <= 2


def test_the_plan_is_printed_and_nothing_is_changed(taught: Path) -> None:
    before = (taught / "device.db").read_bytes()
    plan = run(taught, "forget", "class", GONE, "--dry-run")
    assert (plan["mode"], plan["rows"]["pictures"]) == ("exact_head", 8)
    assert plan["adapters"] == plan["exports"] == plan["snapshots"] == []
    assert (taught / "device.db").read_bytes() == before
    done = build.run_edgecl("forget", "class", "unicorn", "--dry-run", "--home", taught)
    assert done.returncode == 3
    assert (taught / "device.db").read_bytes() == before


def test_samples_and_sources_are_forgotten_by_command(taught: Path, taught_home: Path) -> None:
    done = run(taught, "forget", "sample", 3, "--verify", "--reason", "letter 5")
    assert (done["mode"], done["sample_uid"], done["verified"]) == ("exact_head", 3, True)
    assert run(taught, "forget", "sample", 3)["mode"] == "already_forgotten"
    source = str(taught_home.parent / "parts")
    assert list(run(taught, "status")["sources"]) == [source]
    done = run(taught, "forget", "source", source, "--verify")
    assert (done["mode"], done["verified"]) == ("exact_head", True)
    assert classes(taught) == []
    shown = run(taught, "receipt", done["receipt_id"])
    assert shown["followed_by"]
    assert set(shown["followed_by"].values()) == {"erasure done", "verified"}
    assert len(shown["public_key"]) == 64
    assert len(shown["signature"]) == 128


def test_a_store_put_back_from_a_backup_is_told_what_to_run(
    taught: Path, taught_home: Path, tmp_path: Path
) -> None:
    shutil.copy(taught / "device.db", tmp_path / "old.db")
    first = run(taught, "forget", "class", GONE)
    shutil.copy(tmp_path / "old.db", taught / "device.db")
    parts = taught_home.parent / "parts"
    for command in (("predict", parts), ("status",), ("verify",)):
        done = build.run_edgecl(*command, "--home", taught)
        assert done.returncode == 4, command
        assert "forget pending" in done.stderr
    done = run(taught, "forget", "pending")
    assert (len(done["receipts"]), done["pending"]) == (1, [])
    assert GONE not in classes(taught)
    assert run(taught, "receipt", done["receipts"][0])["again"] == first["receipt_id"]
    assert run(taught, "forget", "pending") == {"receipts": [], "pending": []}
    assert build.run_edgecl("verify", "--home", taught).returncode == 0


@pytest.mark.slow
def test_a_request_while_another_process_learns_is_carried_out_by_it(
    home: Home, tmp_path: Path
) -> None:
    folder = build.part_folder(tmp_path / "parts", 3)
    table = tmp_path / "long.csv"
    lines = [
        f"{folder}/{part}/{i:03}.jpg,{part}"
        for _ in range(200)
        for i in range(3)
        for part in build.PARTS
    ]
    table.write_text("path,label\n" + "\n".join(lines) + "\n")
    code = "from edgecl.cli import main; main()"
    command = [sys.executable, "-c", code, "train-stream", str(table), "--home", str(home.path)]
    with subprocess.Popen([*command, "--json"], stdout=-1, stderr=-1, text=True) as learning:
        try:
            while True:
                with open_store(home, read_only=True) as store:
                    if len(store.names) == len(build.PARTS):
                        break
                assert learning.poll() is None, learning.communicate()[1]
                time.sleep(0.05)
            done = run(home.path, "forget", "class", GONE, "--verify")
            learning.terminate()
            out, err = learning.communicate(timeout=300)
        finally:
            learning.kill()
    assert (done["mode"], done["verified"]) == ("exact_head", True), err
    assert learning.returncode == 0, err
    assert "unlearned as another process asked" in err
    assert GONE not in classes(home.path)
    assert out.splitlines()
    with open_store(home, read_only=True) as store:
        assert not store.has_requests()


@pytest.mark.slow
def test_a_source_that_is_forgotten_while_it_is_learned_does_not_come_back(
    home: Home, tmp_path: Path
) -> None:
    folder = build.part_folder(tmp_path / "parts", 2)
    learned = build.run_edgecl("train-stream", folder, "--home", home.path)
    assert learned.returncode == 0, learned.stderr
    table = tmp_path / "long.csv"
    lines = [f"{folder}/{part}/000.jpg,{part}" for _ in range(900) for part in build.PARTS]
    table.write_text("path,label\n" + "\n".join(lines) + "\n")
    code = "from edgecl.cli import main; main()"
    command = [sys.executable, "-c", code, "train-stream", str(table), "--home", str(home.path)]
    with subprocess.Popen([*command, "--json"], stdout=-1, stderr=-1, text=True) as learning:
        try:
            while True:
                with open_store(home, read_only=True) as store:
                    if str(table) in store.sources().values():
                        break
                assert learning.poll() is None, learning.communicate()[1]
                time.sleep(0.05)
            first = run(home.path, "forget", "source", table)
            # Nothing is learned from here on, and the process still finds what is asked for.
            second = run(home.path, "forget", "class", GONE)
            assert learning.poll() is None
            learning.terminate()
            err = learning.communicate(timeout=300)[1]
        finally:
            learning.kill()
    assert (first["mode"], second["mode"]) == ("exact_head", "exact_head"), err
    with open_store(home, read_only=True) as store:
        assert list(store.sources().values()) == [str(folder)]
    assert sorted(classes(home.path)) == sorted(set(build.PARTS) - {GONE})


def test_a_changed_or_missing_ledger_is_named(taught: Path) -> None:
    run(taught, "forget", "class", GONE, "--verify")
    ledger = taught / "receipts.jsonl"
    whole = ledger.read_bytes()
    ledger.write_bytes(whole.replace(b'"mode":"exact_head"', b'"mode":"exact_hexd"'))
    done = build.run_edgecl("verify", "--home", taught)
    assert done.returncode == 4
    assert "r1 does not fit" in done.stderr
    ledger.unlink()
    done = build.run_edgecl("verify", "--home", taught)
    assert done.returncode == 4
    assert "receipts.jsonl lacks receipts from r1 on" in done.stderr
    run(taught, "forget", "pending")
    assert build.run_edgecl("verify", "--home", taught).returncode == 0


def test_a_plan_for_what_was_unlearned_names_its_receipt(taught: Path) -> None:
    done = run(taught, "forget", "class", GONE)
    plan = run(taught, "forget", "class", GONE, "--dry-run")
    assert (plan["mode"], plan["receipt"]) == ("already_forgotten", done["receipt_id"])
