from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import build
import edgecl
from edgecl.backbones import load_backbone_of
from edgecl.figures import percent
from edgecl.home import Home
from edgecl.runtime.engines.base import EngineOptions
from edgecl.runtime.grid import quantise
from edgecl.session import open_learner
from edgecl.store.table import Role
from edgecl.unlearning.request import writing


def damage_engine(home: Path) -> None:
    engine = home / "engine" / "backbone.onnx"
    data = bytearray(engine.read_bytes())
    data[-1] ^= 1
    engine.write_bytes(data)


def damage_manifest(home: Path) -> None:
    path = home / "engine" / "manifest.json"
    path.write_text(path.read_text().replace('"image_size": 64', '"image_size": 96'))


def change_feature_map(home: Path) -> None:
    with closing(sqlite3.connect(home / "device.db")) as connection, connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'feature_map'", ("0" * 64,))


def drop_database(home: Path) -> None:
    (home / "device.db").write_bytes(b"no database" * 1000)


def drop_key(home: Path) -> None:
    (home / "device.key").unlink()


DAMAGE = [damage_engine, damage_manifest, change_feature_map, drop_database, drop_key]


def test_status_says_what_was_learned(taught_home: Path) -> None:
    done = build.run_edgecl("status", "--home", taught_home, "--json")
    values = build.last_json(done)
    assert len(done.stdout.splitlines()) == 1
    assert set(values["classes"]) == set(build.PARTS)
    for counts in values["classes"].values():
        assert counts["first_right"] >= 2
        counts |= {"first_right": None, "nine_of_ten": None}
        assert counts.pop("right") == 0
        assert counts == {
            "seen": 8, "stored": 8, "held_out": 0, "accuracy": None, "first_right": None,
            "nine_of_ten": None,
        }  # fmt: skip
    assert (values["probes"], values["evaluations"], values["review"]) == (0, 0, 0)
    assert values["min_accuracy"] is values["worst_case_accuracy"] is values["forgetting"] is None
    assert (values["samples"], values["stored"], values["receipts"]) == (32, 32, 0)
    assert (values["head"], values["backbone"]) == ("ridge", "tf_efficientnet_lite0")
    assert values["image_size"] == 64
    assert values["capacity_samples"] == 2000
    assert len(values["feature_map"]) == 64
    assert values["statistics_bytes"] == 32 * 2 * values["num_features"]
    assert values["stored_bytes"] > 0
    assert values["database_bytes"] == (taught_home / "device.db").stat().st_size


def test_status_for_a_person_names_every_class(taught_home: Path) -> None:
    done = build.run_edgecl("status", env={"EDGECL_HOME": str(taught_home)})
    assert (done.returncode, done.stderr) == (0, "")
    for word in (*build.PARTS, "tf_efficientnet_lite0", "learned from 32 pictures"):
        assert word in done.stdout
    assert "not known, since no picture was kept to test on" in done.stdout
    assert "review" not in done.stdout


def test_status_says_how_well_classes_are_known_and_what_waits(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home", probes=20)
    x, y = build.features(200, home.manifest.num_features)
    with writing(home) as session:
        store = session.store
        learner = open_learner(home, store)
        for i in range(0, 200, 10):
            frames = [build.frame(f"part-{c}", i + k) for k, c in enumerate(y[i : i + 10])]
            learner.learn_many(frames, x[i : i + 10])
        with store.transaction(changes_head=False):
            store.add_aside(
                Role.REVIEW, 1, quantise(x[0]), b"p", source="gate", frame="f", time=0.0, score=1.0
            )
    values = build.last_json(build.run_edgecl("status", "--home", home.path, "--json"))
    held = [c["held_out"] for c in values["classes"].values()]
    assert sum(held) == values["probes"] == 200 - values["samples"] > 15
    assert values["review"] == 1
    assert values["evaluations"] > 10
    assert values["probes_bytes"] > 0
    for score in ("accuracy", "min_accuracy", "worst_case_accuracy"):
        assert 0.9 < values[score] <= 1
    assert 0 <= values["forgetting"] < 0.1
    assert all(0.8 < c["accuracy"] <= 1 for c in values["classes"].values())
    told = build.run_edgecl("status", "--home", home.path).stdout
    n_right = sum(c["right"] for c in values["classes"].values())
    assert values["accuracy"] == n_right / sum(held) == values["right"] / sum(held)
    assert [s["source"] for s in values["learned_from"]] == list(values["sources"])
    assert values["last_learned"] == values["learned_from"][-1]["last"]
    first = next(iter(values["classes"].values()))
    for word in (f"accuracy {percent(values['accuracy'])}: {n_right} of {sum(held)} pictures",
                 f"{first['right']} of {first['held_out']}", "learned from", "to review: 1",
                 "Next: edgecl review list"):  # fmt: skip
        assert word in told
    for word in ("min-ACC", "WC-ACC", "forgetting"):
        assert word not in told


def test_doctor_and_verify_find_a_sound_home_in_order(taught_home: Path) -> None:
    verified = build.last_json(build.run_edgecl("verify", "--home", taught_home, "--json"))
    assert set(verified) == {"ok", "engine", "store", "receipts"}
    assert verified["ok"] is True
    assert "classes: 4, samples learned: 32" in verified["store"]
    examined = build.last_json(build.run_edgecl("doctor", "--home", taught_home, "--json"))
    assert examined["ok"] is True
    checks = examined["checks"]
    assert {"python", "onnxruntime", "torch", "sqlite", "disk", "engine"} <= set(checks)
    assert all(set(check) == {"state", "text"} for check in checks.values())
    assert "telemetry off" in checks["onnxruntime"]["text"]
    assert "secure_delete reads back 1" in checks["sqlite"]["text"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_verify_finds_damage_with_status_4(
    damage: Callable[[Path], None], taught_home: Path, copy_of: Callable[[Path], Path]
) -> None:
    home = copy_of(taught_home)
    damage(home)
    done = build.run_edgecl("verify", "--home", home, "--json")
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    if done.stdout:
        (values,) = map(json.loads, done.stdout.splitlines())
        assert values.get("ok") is False or values["exit"] == 4


def test_doctor_reports_damage_and_still_prints_its_object(
    taught_home: Path, copy_of: Callable[[Path], Path]
) -> None:
    home = copy_of(taught_home)
    damage_engine(home)
    done = build.run_edgecl("doctor", "--home", home, "--json")
    assert done.returncode == 4
    values = json.loads(done.stdout.splitlines()[-1])
    assert values["ok"] is False
    assert values["checks"]["engine"]["state"] == "bad"
    assert values["checks"]["store"]["state"] == "ok"
    assert "engine" in done.stderr


def test_settings_that_cannot_be_read_are_status_2_for_every_command(
    made_home: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(made_home, home)
    (home / "edgecl.toml").write_text("[stor]\n")
    for command in ("status", "verify"):
        done = build.run_edgecl(command, "--home", home)
        assert done.returncode == 2, command
        assert "did you mean 'store'?" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_doctor_works_without_a_home(tmp_path: Path) -> None:
    done = build.run_edgecl("doctor", "--home", tmp_path / "nowhere", "--json")
    values = build.last_json(done)
    assert values["checks"]["home"]["state"] == "note"
    assert "edgecl init" in values["checks"]["home"]["text"]


@pytest.mark.parametrize("command", ["status", "verify"])
def test_a_missing_home_is_status_3(command: str, tmp_path: Path) -> None:
    done = build.run_edgecl(command, "--home", tmp_path / "nowhere", "--json")
    assert build.is_refused(done, 3)
    assert "edgecl init" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_looking_changes_nothing(taught_home: Path, copy_of: Callable[[Path], Path]) -> None:
    home = copy_of(taught_home)
    before = {p.name: p.read_bytes() for p in home.rglob("*") if p.is_file()}
    for command in ("status", "doctor", "verify"):
        assert build.run_edgecl(command, "--home", home).returncode == 0
    after = {p.name: p.read_bytes() for p in home.rglob("*") if p.is_file()}
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) <= {"device.db-wal", "device.db-shm"}


def test_version_is_printed() -> None:
    done = build.run_edgecl("--version")
    assert (done.returncode, done.stdout.strip()) == (0, edgecl.__version__)


@pytest.mark.parametrize("arguments", [(), ("--no-such",), ("fly",), ("init", "--head", "forest")])
def test_a_wrong_call_is_status_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = build.run_edgecl(*arguments, env={"EDGECL_HOME": str(tmp_path / "home")})
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_init_refuses_to_replace_a_home_without_force(made_home: Path) -> None:
    key = (made_home / "device.key").read_bytes()
    done = build.run_edgecl("init", "--home", made_home)
    assert build.is_refused(done, 3)
    assert "--force" in done.stderr
    assert (made_home / "device.key").read_bytes() == key


@pytest.mark.slow
def test_init_never_replaces_a_folder_with_other_things(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    done = build.run_edgecl(
        "init", "--home", tmp_path, "--backbone", "test_efficientnet", "--weights", "random"
    )
    assert done.returncode == 3
    assert [p.name for p in tmp_path.iterdir()] == ["photo.jpg"]


@pytest.mark.slow
def test_init_reports_what_it_made(tmp_path: Path) -> None:
    words = ("init", "--backbone", "test_efficientnet", "--weights", "random", "--image-size", 64)
    small = (*words, "--features", 48, "--home", tmp_path / "small", "--adapters", "--json")
    assert build.last_json(build.run_edgecl(*small))["num_features"] == 48
    device = Home(tmp_path / "small")
    assert device.engine(options=EngineOptions(provider="cpu")).num_features == 48
    assert load_backbone_of(device.manifest).directions == device.manifest.directions
    done = build.run_edgecl(*words, "--features", 5000, "--home", tmp_path / "no")
    assert done.returncode == 2
    assert "5000 features of test_efficientnet are none or not fewer than it has" in done.stderr
    done = build.run_edgecl(*words, "--head", "uer", "--home", tmp_path / "home", "--json")
    values = build.last_json(done)
    assert set(values) >= {"backbone", "num_features", "image_size", "feature_map"}
    assert (values["backbone"], values["image_size"]) == ("test_efficientnet", 64)
    assert values["tap_pool"] == "catavgmax"
    status = build.last_json(build.run_edgecl("status", "--home", tmp_path / "home", "--json"))
    for key in ("backbone", "num_features", "image_size", "feature_map", "head"):
        assert status[key] == values[key]
    assert status["head"] == "uer"


def test_a_home_without_its_settings_is_damaged_not_absent(home: Home) -> None:
    (home.path / "edgecl.toml").unlink()
    for command in (["doctor"], ["status"], ["train-stream", home.path]):
        done = build.run_edgecl(*command, "--home", home.path)
        assert done.returncode == 4, done.stderr
    done = build.run_edgecl("doctor", "--home", home.path, "--json")
    assert "lacks edgecl.toml" in json.loads(done.stdout.splitlines()[-1])["checks"]["home"]["text"]


def test_evaluate_names_what_it_skips(taught_home: Path, tmp_path: Path) -> None:
    folder = build.part_folder(tmp_path / "parts", 2)
    (folder / build.PARTS[0] / "bad.jpg").write_bytes(b"no picture")
    done = build.run_edgecl("evaluate", folder, "--home", taught_home, "--json")
    assert build.last_json(done)["skipped"] == 1
    assert "skipped bolt-m4/bad.jpg: " in done.stderr
