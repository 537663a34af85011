"""Stores and bundles with values that edgecl never writes, and stores that are taken away.

Each ends in one line with the status of damage, never in the name of a Python error.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import workloads
from safetensors.numpy import load, save

import build
from edgecl.cli import main
from edgecl.cli.output import json_line
from edgecl.errors import StoreError, UnknownClassError
from edgecl.home import Home
from edgecl.runtime.bundle import manifest_text
from edgecl.session import open_store
from edgecl.store.requests import record
from edgecl.unlearning.lookup import resolve
from edgecl.unlearning.request import ForgetRequest, writing

Run = Callable[..., tuple[int, str, str]]
VALUES = [None, "x", b"", b"\0", -1, 2**62, float("inf"), "[]", "{}"]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = workloads.small_home(tmp_path_factory.mktemp("taught") / "home").path
    workloads.learn(home)
    workloads.offer_frames(home)
    return home


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; returns status, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgecl", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return int(end.value.code or 0), shown.out, shown.err

    return run


def columns(home: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(home / "device.db")) as db:
        tables = db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        ).fetchall()
        return [
            (table, column[1])
            for (table,) in tables
            if db.execute(f"SELECT 1 FROM {table}").fetchone()
            for column in db.execute(f"PRAGMA table_info({table})")
        ]


def spoil(home: Path, table: str, column: str, value: Any) -> bool:
    """Write a value into the first row of a table; False where SQLite refuses."""
    with closing(sqlite3.connect(home / "device.db")) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        key = db.execute(f"PRAGMA table_info({table})").fetchone()[1]
        try:
            db.execute(
                f"UPDATE {table} SET {column} = ? "
                f"WHERE {key} = (SELECT {key} FROM {table} LIMIT 1)",
                (value,),
            )
            db.commit()
        except sqlite3.DatabaseError:
            return False
        return True


@pytest.mark.parametrize("n", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_a_value_of_another_type_in_the_store_is_damage(
    n: int, taught: Path, run: Run, tmp_path: Path
) -> None:
    parts = build.part_folder(tmp_path / "parts", 1)
    commands = (
        ("status", "--json"),
        ("predict", parts, "--json"),
        ("forget", "class", workloads.FORGOTTEN),
        ("forget", "sample", 190),
        ("verify",),
        ("export", "dataset", "--output", tmp_path / "dataset"),
        ("review", "list"),
        ("rename", workloads.FORGOTTEN, "another"),
        ("report", "--output", tmp_path / "a.html"),
    )
    rng, known, tried, home = random.Random(n), columns(taught), 0, tmp_path / "home"
    while tried < n:
        where, value, command = rng.choice(known), rng.choice(VALUES), rng.choice(commands)
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(tmp_path / "dataset", ignore_errors=True)
        shutil.copytree(taught, home)
        if not spoil(home, *where, value):
            continue
        tried += 1
        status, out, err = run(*command, "--home", home)
        assert status in (0, 3, 4), (where, value, command, err)
        assert "NaN" not in out


@pytest.mark.parametrize(
    ("table", "column", "value", "command", "words"),
    [
        ("features", "x", "text", ("forget", "sample", 190), "features.x are not BLOB"),
        ("features", "x", b"short", ("forget", "sample", 190), "does not have 12 values"),
        ("sources", "text", b"x", ("status", "--json"), "sources.text are not TEXT"),
        ("meta", "value", "[]", ("status",), "does not write"),
    ],
)
def test_it_is_named(
    table: str, column: str, value: Any, command: tuple[Any, ...], words: str,
    taught: Path, run: Run, tmp_path: Path,
) -> None:  # fmt: skip
    home = tmp_path / "home"
    shutil.copytree(taught, home)
    with closing(sqlite3.connect(home / "device.db")) as db:
        where = " WHERE key = 'step'" if table == "meta" else ""
        db.execute(f"UPDATE {table} SET {column} = ?{where}", (value,))
        db.commit()
    status, _, err = run(*command, "--home", home)
    assert status == 4, err
    assert words in err
    assert "restore the home from a backup" in err


@pytest.fixture(scope="module")
def bundle(taught: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bundle") / "b"
    done = build.run_edgecl("export", "onnx", "--output", place, "--home", taught)
    assert done.returncode == 0, done.stderr
    return place


def test_weights_that_are_no_numbers_are_damage(bundle: Path, run: Run, tmp_path: Path) -> None:
    place = tmp_path / "b"
    shutil.copytree(bundle, place)
    arrays = load((place / "head.safetensors").read_bytes())
    name = next(n for n, a in arrays.items() if a.dtype.kind == "f")
    arrays[name].flat[0] = np.nan
    data = save(arrays)
    (place / "head.safetensors").write_bytes(data)
    values = json.loads((place / "manifest.json").read_text())
    values["files"]["head.safetensors"] = hashlib.sha256(data).hexdigest()
    (place / "manifest.json").write_text(manifest_text(values))
    status, out, err = run("predict", build.part_folder(tmp_path / "p", 1), "--bundle", place)
    assert (status, out) == (4, "")
    assert f"{name} in head.safetensors holds what is no number" in err


def test_a_manifest_with_other_values_is_damage(bundle: Path, run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    build.part_picture("washer", 1).save(picture)
    whole = json.loads((bundle / "manifest.json").read_text())
    rng, place = random.Random(1), tmp_path / "b"
    odd = [float("inf"), 10**400, -1, "x", None, [], {}, True, 0, "../../etc/passwd"]
    for _ in range(12):
        values = json.loads(json.dumps(whole))
        part = values
        while isinstance(part[key := rng.choice(sorted(part))], dict) and part[key]:
            part = part[key]
        part[key] = rng.choice(odd)
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(bundle, place)
        (place / "manifest.json").write_text(manifest_text(values))
        status, out, err = run("predict", picture, "--bundle", place, "--json")
        assert status in (0, 3, 4), (key, part[key], err)
        assert "NaN" not in out


def test_what_is_no_number_is_null_in_json() -> None:
    line = json_line({"a": float("nan"), "b": [1.5, (float("-inf"), "x")], "c": {"d": 2}})
    assert json.loads(line) == {"a": None, "b": [1.5, [None, "x"]], "c": {"d": 2}}


@pytest.mark.parametrize("how", ["deleted", "replaced", "moved"])
def test_a_store_that_is_taken_away_while_it_is_in_use_is_told(
    how: str, taught: Path, tmp_path: Path
) -> None:
    """What is learned into a file without a name would be lost, with status 0."""
    home = tmp_path / "home"
    shutil.copytree(taught, home)
    with writing(Home(home)) as session:
        store = session.store
        with store.transaction(changes_head=False):
            store.set_meta("probes", "0")
        if how == "moved":
            home.rename(tmp_path / "elsewhere")
        else:
            (home / "device.db").unlink()
        if how == "replaced":
            shutil.copy2(taught / "device.db", home)
        with (
            pytest.raises(StoreError, match="deleted, moved or replaced while it was in use"),
            store.transaction(),
        ):
            raise AssertionError
        if how == "moved":
            (tmp_path / "elsewhere").rename(home)


def test_a_class_that_is_being_unlearned_is_named_by_no_command(
    taught: Path, run: Run, tmp_path: Path
) -> None:
    home, parts = tmp_path / "home", build.part_folder(tmp_path / "parts", 2)
    shutil.copytree(taught, home)
    run("train-stream", parts, "--home", home)  # whose sources say their classes
    asked = ForgetRequest("washer")
    with open_store(Home(home)) as store:
        record(store, resolve(store, asked), asked, verify=False)
    for command in (
        ("status",), ("status", "--json"), ("report", "--output", tmp_path / "a.html"),
        ("verify",), ("doctor",), ("predict", parts / "bolt", "--json"), ("review", "list"),
        ("snapshot", "--list"),
    ):  # fmt: skip
        shown = run(*command, "--home", home)
        assert "washer" not in shown[1] + shown[2], command
    assert "washer" not in (tmp_path / "a.html").read_text()
    # By a command that writes, which would carry out the request first.
    with (
        open_store(Home(home), read_only=True) as store,
        pytest.raises(UnknownClassError, match="known: part-1 of the stream") as error,
    ):
        store.class_uid("nobody")
    assert "washer" not in str(error.value)
    assert "1 request to unlearn not finished" in run("status", "--home", home)[1]
    assert json.loads(run("status", "--home", home, "--json")[1])["pending"] == 1
