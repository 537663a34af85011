"""`edgecl export`, `predict --bundle` and what other commands say of exports."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import build
from edgecl.home import Home
from edgecl.runtime import Predictor
from edgecl.runtime.bundle import read_manifest
from edgecl.runtime.preprocess import picture_of
from edgecl.session import open_learner, open_store
from edgecl.store.erasure import erase
from edgecl.store.exports import exports_of, holding, mark_stale, revoke
from edgecl.types import Kind


@pytest.fixture
def device(taught: Path, copy_of: Callable[[Path], Path]) -> Path:
    """A home that learned four parts."""
    return copy_of(taught)


@pytest.fixture(scope="module")
def taught(made_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("taught") / "home"
    shutil.copytree(made_home, place)
    teach(Home(place), build.PARTS, 3)
    return place


def teach(home: Home, parts: tuple[str, ...], n: int, start: int = 0) -> None:
    frames = [
        build.Frame(id=f"{p}/{i}", encoded=build.encode(build.part_picture(p, i)), label=p)
        for p in parts
        for i in range(start, start + n)
    ]
    tensor = home.manifest.preprocessing.tensor
    x = home.engine().run(np.stack([tensor(picture_of(frame)) for frame in frames]))
    with home.lock(), open_store(home) as store:
        learner = open_learner(home, store)
        learner.learn_many(frames, x)
        learner.settle()


def export(home: Path, output: Path) -> dict[str, object]:
    return build.last_json(
        build.run_edgecl("export", "onnx", "--output", output, "--home", home, "--json")
    )


def unlearn(home: Path, name: str) -> list[str]:
    """Do what an unlearning does with exports: mark them with the receipt, then revoke them."""
    device = Home(home)
    with device.lock(), open_store(device) as store:
        learner = open_learner(device, store)
        uid = store.class_uid(name)
        stale = holding(store, [uid], [])
        with store.transaction():
            learner.head.forget(uid, store)
            erase(store, Kind.CLASS, uid)
            mark_stale(store, [e.uid for e in stale], "r1")
        return [revoke(e, "r1") for e in stale]


def test_export_reports_what_it_wrote_and_the_bundle_predicts_as_the_home(
    device: Path, tmp_path: Path
) -> None:
    values = export(device, tmp_path / "bundle")
    assert set(values) >= {"path", "bytes", "precision", "parity", "feature_map"}
    assert values["path"] == str(tmp_path / "bundle")
    assert values["bytes"] == sum(p.stat().st_size for p in (tmp_path / "bundle").iterdir())
    assert (values["precision"], values["classes"], values["export"]) == ("fp32", 4, 1)
    manifest = Home(device).manifest
    assert (values["parity"], values["feature_map"]) == (manifest.parity, manifest.feature_map)
    folder = build.part_folder(tmp_path / "unseen", 2, start=70)
    # One picture: the last bits of a feature may depend on how many run together.
    words = ("predict", folder / "washer" / "070.jpg", "--json", "--top", 9)
    ours = build.run_edgecl(*words, "--bundle", tmp_path / "bundle")
    theirs = build.run_edgecl(*words, "--home", device)
    assert (ours.returncode, ours.stderr) == (0, "")
    assert ours.stdout == theirs.stdout
    assert json.loads(ours.stdout)["label"] == "washer"
    done = build.run_edgecl("evaluate", folder, "--bundle", tmp_path / "bundle", "--json")
    assert build.last_json(done)["n"] == 8


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_changed_bundle_is_status_4_and_none_is_status_3(
    command: str, device: Path, tmp_path: Path
) -> None:
    export(device, tmp_path / "bundle")
    folder = build.part_folder(tmp_path / "unseen", 1)
    (tmp_path / "bundle" / "head.safetensors").unlink()
    done = build.run_edgecl(command, folder, "--bundle", tmp_path / "bundle", "--json")
    assert build.is_refused(done, 4)
    assert "head.safetensors is missing" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = build.run_edgecl(command, folder, "--bundle", tmp_path / "nowhere")
    assert done.returncode == 3
    assert "edgecl export onnx --output" in done.stderr


def test_a_home_that_learned_nothing_cannot_be_exported(made_home: Path, tmp_path: Path) -> None:
    shutil.copytree(made_home, tmp_path / "home")
    words = ("--output", tmp_path / "bundle", "--home", tmp_path / "home", "--json")
    done = build.run_edgecl("export", "onnx", *words)
    assert build.is_refused(done, 3)
    assert "edgecl train-stream" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("onnx",),
        ("tflite", "--output", "b"),
        ("--rebuild-stale", "onnx", "--output", "b"),
        ("--json", "onnx", "--output", "b"),
    ],
)
def test_a_wrong_call_is_status_2(words: tuple[str, ...], tmp_path: Path) -> None:
    done = build.run_edgecl("export", *words, env={"EDGECL_HOME": str(tmp_path / "home")})
    assert build.is_refused(done, 2)
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_learning_more_makes_an_export_old_but_not_stale(device: Path, tmp_path: Path) -> None:
    export(device, tmp_path / "bundle")
    before = Predictor(tmp_path / "bundle").scorer
    teach(Home(device), build.PARTS[:1], 2, start=30)
    build.assert_same(before, Predictor(tmp_path / "bundle").scorer)
    status = build.last_json(build.run_edgecl("status", "--home", device, "--json"))
    assert (status["exports"], status["exports_stale"]) == (1, 0)
    done = build.run_edgecl("export", "--rebuild-stale", "--home", device, "--json")
    assert build.last_json(done) == {"rebuilt": [], "unreachable": []}
    assert read_manifest(tmp_path / "bundle")["version"] == 1


@pytest.mark.slow
def test_a_stale_bundle_is_refused_until_it_is_written_anew(device: Path, tmp_path: Path) -> None:
    name = build.PARTS[1]
    for place in ("one", "two", "moved"):
        export(device, tmp_path / place)
    (tmp_path / "moved").rename(tmp_path / "elsewhere")
    assert name.encode() in (tmp_path / "one" / "manifest.json").read_bytes()
    assert unlearn(device, name) == ["erased", "erased", "unreachable"]

    for path in (p for place in ("one", "two") for p in (tmp_path / place).iterdir()):
        assert name.encode() not in path.read_bytes(), path
    picture = tmp_path / "a.jpg"
    picture.write_bytes(build.encode(build.part_picture("washer", 99)))
    done = build.run_edgecl("predict", picture, "--bundle", tmp_path / "one", "--json")
    assert build.is_refused(done, 4)
    assert "receipt r1" in done.stderr
    assert "edgecl export --rebuild-stale" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    status = build.run_edgecl("status", "--home", device)
    assert "3 exports with something that was unlearned" in status.stdout

    done = build.run_edgecl("export", "--rebuild-stale", "--home", device, "--json")
    result = build.last_json(done)
    assert [(e["export"], e["path"]) for e in result["rebuilt"]] == [
        (4, str(tmp_path / "one")),
        (5, str(tmp_path / "two")),
    ]
    (left,) = result["unreachable"]
    assert (left["export"], left["path"]) == (3, str(tmp_path / "moved"))
    assert f"export 3 at {tmp_path / 'moved'} could not be written anew: it is not" in done.stderr
    for place in ("one", "two"):
        assert Predictor(tmp_path / place).scorer.labels == ("bolt-m4", "washer", "gasket")
    with open_store(Home(device), read_only=True) as store:
        assert [e.status for e in exports_of(store)] == [
            "replaced", "replaced", "stale", "fresh", "fresh"
        ]  # fmt: skip

    done = build.run_edgecl("export", "--rebuild-stale", "--home", device, "--json")
    assert build.is_refused(done, 3)
    assert "export 3 at " in done.stderr
    assert "none of 1 stale exports" in done.stderr


def test_a_folder_that_cannot_be_replaced_does_not_keep_the_others(
    device: Path, tmp_path: Path
) -> None:
    for place in ("one", "two"):
        export(device, tmp_path / place)
    unlearn(device, build.PARTS[0])
    (tmp_path / "one" / "notes.txt").write_text("mine")
    done = build.run_edgecl("export", "--rebuild-stale", "--home", device)
    assert done.returncode == 0, done.stderr
    assert "also holds notes.txt" in done.stderr
    assert done.stdout.count("unreachable") == done.stdout.count("written anew") == 1
    assert "stale" in read_manifest(tmp_path / "one")
    assert Predictor(tmp_path / "two").scorer.labels == build.PARTS[1:]


def test_after_the_last_class_nothing_can_be_written_anew(device: Path, tmp_path: Path) -> None:
    export(device, tmp_path / "bundle")
    for name in build.PARTS:
        unlearn(device, name)
    done = build.run_edgecl("export", "--rebuild-stale", "--home", device, "--json")
    assert build.is_refused(done, 3)
    assert "nothing is left to write its stale exports anew of; delete them" in done.stderr
    assert "stale" in read_manifest(tmp_path / "bundle")


KILLED = """
import os, sys
import edgecl.exporters.bundle as bundle, edgecl.exporters.registered as registered

def die(*_):
    os._exit(137)

where = sys.argv.pop(1)
if where == "written":
    registered.put_in_place = die
elif where == "started":
    bundle.flush = die
else:
    put_in_place = registered.put_in_place
    def in_place(part, place):
        put_in_place(part, place)
        die()
    registered.put_in_place = in_place
from edgecl.cli import main
main()
"""


@pytest.mark.parametrize("where", ["started", "written", "in place"])
def test_a_killed_export_leaves_one_whole_bundle_and_the_next_command_the_rest(
    where: str, device: Path, tmp_path: Path
) -> None:
    export(device, tmp_path / "bundle")
    teach(Home(device), build.PARTS[:1], 1, start=40)
    words = ["export", "onnx", "--output", tmp_path / "bundle", "--home", device]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, where, *map(str, words)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 137, done.stderr
    Predictor(tmp_path / "bundle")  # whole
    version = 2 if where == "in place" else 1
    assert read_manifest(tmp_path / "bundle")["version"] == version
    assert len([p for p in tmp_path.iterdir() if p.name.startswith(".bundle-export-")]) == 1
    done = build.run_edgecl("export", "--rebuild-stale", "--home", device, "--json")
    assert build.last_json(done) == {"rebuilt": [], "unreachable": []}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "copy"]
    assert read_manifest(tmp_path / "bundle")["version"] == version
    with open_store(Home(device), read_only=True) as store:
        fresh = [e.uid for e in exports_of(store) if e.status == "fresh"]
    assert fresh == [version]


def test_verify_reports_an_engine_that_the_manifest_does_not_list(device: Path) -> None:
    (device / "engine" / "other.onnx").write_bytes(b"planted")
    done = build.run_edgecl("verify", "--home", device, "--json")
    assert done.returncode == 4
    assert "other.onnx" in done.stderr
    assert "other.onnx" in json.loads(done.stdout.splitlines()[-1])["engine"]


def test_export_loads_neither_torch_nor_timm(device: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'timm', 'onnx'):\n"
        "    sys.modules[name] = None\n"
        "from edgecl.cli import main\n"
        "main()\n"
    )
    words = ["export", "onnx", "--output", tmp_path / "bundle", "--home", device]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fp32" in done.stdout
