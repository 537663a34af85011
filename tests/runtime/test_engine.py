"""The engine in use is the one asked for, unchanged, and gives the same features at any batch."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecl.errors import IntegrityError, ProviderError, ShapeError, UsageError
from edgecl.home import Home
from edgecl.runtime.engines import onnx as module
from edgecl.runtime.engines.base import EngineOptions
from edgecl.runtime.engines.onnx import OnnxEngine, import_onnxruntime
from edgecl.runtime.manifest import SCHEMA, Manifest, checked_engine
from edgecl.types import Float32


def pictures(n: int) -> Float32:
    return np.random.default_rng(0).uniform(-1, 1, (n, 3, 64, 64)).astype(np.float32)


def test_features_do_not_depend_on_the_batch_size(home: Home) -> None:
    engine = home.engine(options=EngineOptions(provider="cpu"))
    x = pictures(32)
    together = engine.run(x)
    alone = np.concatenate([engine.run(x[i : i + 1]) for i in range(32)])
    assert together.shape == (32, engine.num_features) == (32, home.manifest.num_features)
    assert together.dtype == np.float32
    # Kernels may sum in another order for another batch; a neighbour's influence would be large.
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_adapters_are_swapped_in_a_millisecond_without_a_new_session(
    adapted_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Home(adapted_home).engine(takes_adapters=True)
    plain = Home(adapted_home).engine()
    ort = import_onnxruntime()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a session was built")

    monkeypatch.setattr(ort, "InferenceSession", refuse)
    rng = np.random.default_rng(0)
    adapters = [
        {n: rng.normal(0, 0.1, s).astype(np.float32) for n, s in engine.adapter_shapes.items()}
        for _ in range(2)
    ]
    x = pictures(2)
    first, second = (engine.with_adapters(adapter).run(x) for adapter in adapters)
    d = plain.num_features
    assert first.shape == (2, 2 * d)
    for both in (first, second):
        assert np.allclose(both[:, :d], plain.run(x), atol=1e-4)
    assert np.array_equal(engine.run(x), first[:, :d])  # zeros, or none, are the plain backbone
    assert not np.allclose(first[:, d:], second[:, d:])
    assert np.array_equal(engine.with_adapters(adapters[0]).run(x), first)
    times = []
    for i in range(50):
        begin = time.process_time()
        engine.with_adapters(adapters[i % 2])
        times.append(time.process_time() - begin)
    assert np.median(times) <= 1e-3


def test_no_picture_gives_no_feature(home: Home) -> None:
    engine = home.engine()
    assert engine.run(pictures(0)).shape == (0, engine.num_features)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((3, 64, 64), np.float32),
        np.zeros((1, 3, 64, 65), np.float32),
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((1, 3, 64, 64), np.float64),
        np.zeros((1, 3, 64, 64), np.uint8),
    ],
    ids=lambda x: f"{x.shape} {x.dtype}",
)
def test_input_of_another_shape_or_type_is_refused(home: Home, pixels: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"expected \(N, 3, 64, 64\) float32"):
        home.engine().run(pixels)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_provider_without_driver_is_an_error_unless_fallback_is_allowed(
    home: Home, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    monkeypatch.setattr(module, "has_cuda_driver", lambda: False)
    with pytest.raises(ProviderError, match=f"provider {provider} was asked for") as caught:
        home.engine(options=EngineOptions(provider=provider))
    assert "--allow-fallback" in str(caught.value)
    assert caught.value.exit_code == 3
    assert (
        home.engine(options=EngineOptions(provider=provider, allow_fallback=True)).provider == "cpu"
    )


def test_a_session_that_fell_back_in_silence_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    ort = import_onnxruntime()
    monkeypatch.setattr(module, "has_cuda_driver", lambda: True)
    monkeypatch.setattr(
        ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    session = ort.InferenceSession
    monkeypatch.setattr(
        ort,
        "InferenceSession",
        lambda model, options, providers: session(model, options, ["CPUExecutionProvider"]),
    )
    with pytest.raises(ProviderError, match="runs on CPUExecutionProvider instead"):
        home.engine(options=EngineOptions(provider="cuda"))
    assert home.engine(options=EngineOptions(provider="auto")).provider == "cpu"


def test_unknown_provider_is_refused_with_the_known_ones(home: Home) -> None:
    with pytest.raises(UsageError, match="'npu' is unknown; expected auto, cuda, tensorrt, cpu"):
        home.engine(options=EngineOptions(provider="npu"))


def test_bytes_that_are_no_model_are_an_integrity_error() -> None:
    with pytest.raises(IntegrityError, match="cannot be loaded"):
        OnnxEngine(b"no model", provider="cpu")


def test_telemetry_is_switched_off_before_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


# Integrity


def test_manifest_reads_back_what_it_wrote(home: Home) -> None:
    folder = home.path / "engine"
    home.manifest.save(folder)
    assert Manifest.load(folder) == home.manifest
    assert checked_engine(folder, home.manifest) == (folder / "backbone.onnx").read_bytes()


def test_one_changed_byte_of_the_engine_is_noticed(home: Home) -> None:
    path = home.path / "engine" / "backbone.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError, match="its manifest says") as caught:
        home.engine()
    assert caught.value.exit_code == 4


def test_missing_engine_is_an_integrity_error(home: Home) -> None:
    (home.path / "engine" / "backbone.onnx").unlink()
    with pytest.raises(IntegrityError, match="cannot be read"):
        home.engine()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backbone", "resnet18"),
        ("weights_sha256", "0" * 64),
        ("taps", []),
        ("tap_pool", "avg"),
        ("stages", [2000, 224]),
        ("num_features", 7),
        ("feature_map", "0" * 64),
    ],
)
def test_changed_manifest_is_noticed(home: Home, key: str, value: object) -> None:
    path = home.path / "engine" / "manifest.json"
    values = json.loads(path.read_text())
    assert values[key] != value
    path.write_text(json.dumps(values | {key: value}))
    with pytest.raises(IntegrityError, match=r"was changed|do not add up") as caught:
        Home(home.path)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("tap_pool", "max", "expected avg or catavgmax"),
        ("stages", [40, 40], "do not add up to 2224"),
        ("stages", [2225, -1], "do not add up"),
    ],
)
def test_blocks_that_no_feature_has_are_refused(
    home: Home, key: str, value: object, why: str
) -> None:
    path = home.path / "engine" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(IntegrityError, match=why):
        Home(home.path)


def test_a_manifest_from_before_there_were_blocks_keeps_its_map(home: Home) -> None:
    """What an older edgecl hashed says nothing of pooling; stores carry that hash."""
    old = replace(home.manifest, tap_pool="avg", stages=())
    values = old.as_json()
    del values["tap_pool"], values["stages"]
    what = {
        "backbone": old.backbone,
        "weights": old.weights_sha256,
        "taps": [2, 3, 4],
        "num_features": old.num_features,
        "adapter": None,
        "preprocessing": old.preprocessing.as_json(),
    }
    before = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    read = Manifest.from_json(values, Path("manifest.json"))
    assert read.feature_map == values["feature_map"] == before
    assert (read.tap_pool, read.stages) == ("avg", (read.num_features,))


def test_changed_preprocessing_is_noticed(home: Home) -> None:
    path = home.path / "engine" / "manifest.json"
    values = json.loads(path.read_text())
    values["preprocessing"]["crop_pct"] = 1.0
    path.write_text(json.dumps(values))
    with pytest.raises(IntegrityError, match="was changed"):
        Home(home.path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 1}', '{"schema": "x"}', "\xff"])
def test_unreadable_manifest_is_an_integrity_error(home: Home, text: str) -> None:
    (home.path / "engine" / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(IntegrityError, match="cannot be read"):
        Home(home.path)


def test_manifest_of_a_newer_schema_asks_for_an_upgrade(home: Home) -> None:
    path = home.path / "engine" / "manifest.json"
    values = json.loads(path.read_text()) | {"schema": SCHEMA + 1}
    path.write_text(json.dumps(values))
    with pytest.raises(IntegrityError, match="upgrade edgecl"):
        Home(home.path)
