"""Resources that tests share: one real home, made once a session."""

from __future__ import annotations

import os

# Before numpy, torch and onnxruntime are imported anywhere: one thread each, no network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import build
from edgecl.backbones import DEFAULT_BACKBONE, Backbone, load_backbone
from edgecl.config import Config, HeadConfig
from edgecl.exporters.onnx import init_home
from edgecl.exporters.shipped import shipped
from edgecl.home import Home

# In the background of a shell Ctrl-C is ignored, and so by all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    """The default backbone with its real weights, at 64 pixels."""
    return load_backbone(image_size=64)


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that learned nothing, of the default engine as it ships; never write to it."""
    path = tmp_path_factory.mktemp("session") / "home"
    engine = shipped(DEFAULT_BACKBONE, image_size=64)
    assert engine is not None
    init_home(path, engine, Config(head=HeadConfig("ridge")))
    return path


@pytest.fixture(scope="session")
def adapted_home(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Path:
    """A home whose engine takes adapters and that learned nothing; never write to it."""
    path = tmp_path_factory.mktemp("adapted") / "home"
    init_home(path, backbone, Config(head=HeadConfig("ridge")), adapter_rank=16)
    return path


@pytest.fixture
def home(made_home: Path, tmp_path: Path) -> Home:
    """A fresh copy of the home."""
    shutil.copytree(made_home, tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture(scope="session")
def taught_home(made_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that learned four parts; never write to it, copy it with `copy_of`."""
    place = tmp_path_factory.mktemp("taught")
    shutil.copytree(made_home, place / "home")
    folder = build.part_folder(place / "parts", 8)
    done = build.run_edgecl("train-stream", folder, "--home", place / "home", "--json")
    assert build.last_json(done)["learned"] == 32
    return place / "home"


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """Copy a shared home to a place where the test may write."""

    def copy(path: Path) -> Path:
        shutil.copytree(path, tmp_path / "copy")
        return tmp_path / "copy"

    return copy
