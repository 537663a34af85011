"""The exported backbone is the torch model, at any batch, or it is refused."""

from __future__ import annotations

import errno
import getpass
import site
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import build
import edgecl.exporters.onnx as module
from edgecl.backbones import Backbone, load_backbone
from edgecl.config import Config
from edgecl.errors import ParityError, RequestError
from edgecl.exporters.onnx import add_adapter_inputs, export_backbone, init_home
from edgecl.exporters.parity import Parity, compare
from edgecl.home import Home, is_home
from edgecl.runtime.engines.base import EngineOptions


@pytest.fixture(scope="module")
def small() -> Backbone:
    return load_backbone("test_efficientnet", weights="random", image_size=32)


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Path:
    """Here one that was exported with torch."""
    path = tmp_path_factory.mktemp("exported") / "home"
    init_home(path, backbone, Config())
    return path


def test_default_backbone_equals_torch(made_home: Path, backbone: Backbone) -> None:
    home = Home(made_home)
    assert home.manifest.parity["max_abs"] <= 1e-4
    assert home.manifest.parity["cosine"] > 0.99999
    assert home.manifest.parity["n"] == 8
    # Other pictures than the export itself was checked with.
    x = np.random.default_rng(9).uniform(-1, 1, (3, 3, 64, 64)).astype(np.float32)
    ours = home.engine(options=EngineOptions(provider="cpu")).run(x)
    assert np.abs(ours - backbone.forward_features(torch.from_numpy(x)).numpy()).max() <= 1e-4


@pytest.mark.slow
def test_default_backbone_equals_torch_on_256_pictures(made_home: Path, backbone: Backbone) -> None:
    parity = compare(backbone, Home(made_home).engine(), batches=(1, 2, 5, *[8] * 31))
    assert parity.n == 256
    assert parity.max_abs < 1e-4
    assert parity.cosine > 0.99999


@pytest.mark.slow
def test_no_engine_or_bundle_names_a_path_of_the_machine(
    made_home: Path, small: Backbone, tmp_path: Path
) -> None:
    """torch notes the stack of every node beside it."""
    home = tmp_path / "home"
    init_home(home, small, Config(), adapter_rank=4)
    parts = build.part_folder(tmp_path / "parts", 4)
    assert build.run_edgecl("train-stream", parts, "--home", home).returncode == 0
    for precision in ("fp32", "fp16", "int8"):
        to = ["--output", tmp_path / f"bundle-{precision}", "--precision", precision, "--fused"]
        done = build.run_edgecl("export", "onnx", *to, "--home", home, "--allow-parity-loss")
        assert done.returncode == 0, done.stderr
    places = (sys.prefix, site.getsitepackages()[0], str(Path(torch.__file__).parent))
    secret = [p.encode() for p in (*places, str(Path.home()), str(tmp_path), str(Path.cwd()))]
    secret += [b"stack_trace", b"site-packages", b".py", getpass.getuser().encode() + b"/"]
    files = [
        *made_home.glob("engine/**/*"),
        *home.glob("engine/**/*"),
        *tmp_path.glob("bundle-*/*"),
    ]
    files = [p for p in files if p.is_file()]
    assert len([p for p in files if p.suffix == ".onnx"]) >= 8
    found = [(p.name, s) for p in files for s in secret if s in p.read_bytes()]
    assert found == []
    assert len(onnx.load(home / "engine" / "backbone.onnx").graph.node) > 10


def test_manifest_tells_what_was_exported(made_home: Path, backbone: Backbone) -> None:
    manifest = Home(made_home).manifest
    assert manifest.backbone == "tf_efficientnet_lite0"
    assert manifest.weights_sha256 == backbone.weights_sha256
    assert manifest.taps == backbone.taps
    assert (manifest.tap_pool, manifest.stages) == ("catavgmax", backbone.stages)
    assert manifest.num_features == backbone.num_features
    assert manifest.preprocessing == backbone.preprocessing
    assert {"torch", "timm", "onnx", "onnxscript"} <= set(manifest.made_with)


def test_file_has_opset_18_dynamic_batch_and_no_data_beside_it(made_home: Path) -> None:
    folder = made_home / "engine"
    model = onnx.load(str(folder / "backbone.onnx"))
    assert [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")] == [18]
    assert Home(made_home).manifest.opset == 18
    for value in (model.graph.input[0], model.graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param
    assert sorted(p.name for p in folder.iterdir()) == [
        "backbone.onnx",
        "manifest.json",
        "pretrained.safetensors",
    ]


@pytest.mark.parametrize("n", [1, 2, 7])
def test_engine_takes_any_batch(made_home: Path, n: int) -> None:
    engine = Home(made_home).engine(options=EngineOptions(provider="cpu"))
    assert engine.run(np.zeros((n, 3, 64, 64), np.float32)).shape == (n, engine.num_features)


def test_compare_finds_a_wrong_engine(made_home: Path, backbone: Backbone) -> None:
    engine = Home(made_home).engine(options=EngineOptions(provider="cpu"))

    class Wrong:
        provider = "cpu"
        num_features = engine.num_features

        def run(self, pixels: np.ndarray) -> np.ndarray:
            features = engine.run(pixels)
            features[-1, 0] += 0.01
            return features

    parity = compare(backbone, Wrong(), batches=(1, 2))
    assert parity.max_abs == pytest.approx(0.01, rel=0.05)
    assert parity.n == 3


@pytest.mark.slow
def test_unfaithful_export_is_refused_and_nothing_is_left(
    tmp_path: Path, small: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "compare", lambda *_: Parity(1.01e-4, 1e-5, 1.0, 8))
    with pytest.raises(ParityError, match=r"differs from torch by 0\.0001") as caught:
        init_home(tmp_path / "place" / "home", small, Config())
    assert caught.value.exit_code == 4
    assert list((tmp_path / "place").iterdir()) == []


@pytest.mark.slow
def test_unknown_parity_is_refused(
    tmp_path: Path, small: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = float("nan")
    monkeypatch.setattr(module, "compare", lambda *_: Parity(nan, nan, nan, 8))
    with pytest.raises(ParityError):
        export_backbone(small, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_home_that_is_there_is_kept_unless_forced(
    home: Home, small: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (home.path / "engine" / "manifest.json").read_bytes()
    with pytest.raises(RequestError, match="--force"):
        init_home(home.path, small, Config())
    monkeypatch.setattr(module, "export_backbone", _fail)
    with pytest.raises(RequestError, match="disk full"):
        init_home(home.path, small, Config(), force=True)
    assert (home.path / "engine" / "manifest.json").read_bytes() == before
    assert [p.name for p in home.path.parent.iterdir()] == ["home"]
    assert is_home(home.path)


def _fail(*_: object, **__: object) -> None:
    raise OSError("disk full")


def test_an_engine_that_cannot_be_written_is_told_and_leaves_nothing(
    home: Home, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(backbone: Backbone, network: object, path: Path) -> None:
        path.write_bytes(b"half an engine")
        raise OSError(errno.ENOSPC, "No space left on device")

    before = {p.name: p.read_bytes() for p in (home.path / "engine").iterdir()}
    monkeypatch.setattr(module, "_export", full)
    with pytest.raises(RequestError, match=r"No space left on device.*free some"):
        add_adapter_inputs(home, backbone)
    assert {p.name: p.read_bytes() for p in (home.path / "engine").iterdir()} == before


@pytest.mark.slow
def test_large_features_may_differ_by_the_share_that_float32_has(
    tmp_path: Path, small: Backbone
) -> None:
    """Averaged or badly scaled weights: a difference of 1e-4 is none of a feature of 1,000."""
    large = load_backbone("test_efficientnet", weights="random", image_size=32)
    with torch.no_grad():
        large.model.model.bn2.weight.mul_(3000)
        large.model.model.bn2.bias.mul_(3000)
    manifest = export_backbone(large, tmp_path)
    plain = (
        small.forward_features(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
        .square()
        .mean()
        .sqrt()
    )
    assert manifest.parity["rms"] > 30 * float(plain)
    assert manifest.parity["max_abs"] <= 1e-4 * manifest.parity["rms"]
