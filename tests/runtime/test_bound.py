"""The CUDA provider of onnxruntime: what stays on the GPU, and which CUDA graphs it records."""

from __future__ import annotations

from pathlib import Path

import fake_onnxruntime
import numpy as np
import onnxruntime
import pytest
from fake_gpu import FakeCuda
from fake_onnxruntime import FakeOnnxruntime
from small_engine import adapter, pictures, small_model

from edgecl.errors import ProviderError
from edgecl.exporters.parity import parity_of
from edgecl.home import Home
from edgecl.runtime.engines import onnx as module
from edgecl.runtime.engines.bound import MOST_GRAPHS, TOO_MANY
from edgecl.runtime.engines.onnx import OnnxEngine

REFUSED = "This session cannot use the graph capture feature: control flow\nsecond line"


def on_gpu(monkeypatch: pytest.MonkeyPatch, model: bytes, fake: FakeOnnxruntime) -> OnnxEngine:
    monkeypatch.setattr(module, "import_onnxruntime", lambda: fake)
    monkeypatch.setattr(module, "has_cuda_driver", lambda: True)
    engine = OnnxEngine(model, provider="cuda")
    assert engine.provider == "cuda"
    return engine


@pytest.fixture(scope="module")
def model() -> bytes:
    return small_model()


@pytest.fixture(scope="module")
def reference(model: bytes) -> OnnxEngine:
    return OnnxEngine(model, provider="cpu")


def test_a_batch_size_is_recorded_once_and_replayed(
    monkeypatch: pytest.MonkeyPatch, model: bytes, reference: OnnxEngine
) -> None:
    FakeCuda().install(monkeypatch)
    engine = on_gpu(monkeypatch, model, FakeOnnxruntime())
    for i, n in enumerate((1, 3, 1, 3, 3)):
        x = np.float32(i + 1) * pictures(n)
        np.testing.assert_allclose(engine.run(x), reference.run(x), rtol=1e-5, atol=1e-5)
    assert engine.runs.as_json() == {"pinned": True, "recorded": 2, "replayed": 3, "plain": {}}
    assert engine.run(pictures(0)).shape == (0, engine.num_features)


def test_what_was_given_is_not_changed_by_the_next_run(
    monkeypatch: pytest.MonkeyPatch, model: bytes
) -> None:
    engine = on_gpu(monkeypatch, model, FakeOnnxruntime())
    first = engine.run(pictures(1))
    kept = first.copy()
    assert not np.array_equal(engine.run(np.float32(2) * pictures(1)), kept)
    assert np.array_equal(first, kept)


@pytest.mark.parametrize(
    ("fake", "reason"),
    [
        (FakeOnnxruntime(refuses=REFUSED), REFUSED.splitlines()[0]),
        (FakeOnnxruntime(fails=REFUSED), REFUSED.splitlines()[0]),
    ],
    ids=["session", "run"],
)
def test_graphs_that_are_refused_are_counted_by_the_reason(
    monkeypatch: pytest.MonkeyPatch,
    model: bytes,
    reference: OnnxEngine,
    fake: FakeOnnxruntime,
    reason: str,
) -> None:
    engine = on_gpu(monkeypatch, model, fake)
    for i in range(3):
        x = np.float32(i + 1) * pictures(2)
        np.testing.assert_allclose(engine.run(x), reference.run(x), rtol=1e-5, atol=1e-5)
    assert (engine.runs.recorded, engine.runs.replayed) == (0, 0)
    assert engine.runs.plain == {reason: 3}


def test_more_batch_sizes_than_graphs_run_as_they_are(
    monkeypatch: pytest.MonkeyPatch, model: bytes
) -> None:
    engine = on_gpu(monkeypatch, model, FakeOnnxruntime())
    for _ in range(2):
        for n in range(1, MOST_GRAPHS + 3):
            assert engine.run(pictures(n)).shape == (n, engine.num_features)
    assert (engine.runs.recorded, engine.runs.replayed) == (MOST_GRAPHS, MOST_GRAPHS)
    assert engine.runs.plain == {TOO_MANY: 4}


def test_adapters_have_graphs_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small_model(adapters=True)
    theirs, ours = OnnxEngine(model, provider="cpu"), on_gpu(monkeypatch, model, FakeOnnxruntime())
    one, other = adapter(1), adapter(2)
    for chosen in ((), (one,), (other,), (one, other)):
        a, b = ours.with_adapters(*chosen), theirs.with_adapters(*chosen)
        for i in range(2):
            x = np.float32(i + 1) * pictures(2)
            np.testing.assert_allclose(a.run(x), b.run(x), rtol=1e-4, atol=1e-4)
    assert (ours.runs.recorded, ours.runs.replayed) == (5, 5)


def test_an_engine_that_fails_on_the_gpu_is_told(
    monkeypatch: pytest.MonkeyPatch, model: bytes
) -> None:
    engine = on_gpu(monkeypatch, model, FakeOnnxruntime())

    def fail(self: object, binding: object, options: object) -> None:
        raise RuntimeError("out of memory\nat some place")

    monkeypatch.setattr(fake_onnxruntime.InferenceSession, "run_with_iobinding", fail)
    with pytest.raises(ProviderError, match=r"fails on cuda \(out of memory\); see"):
        engine.run(pictures(1))


def test_an_engine_on_the_cpu_counts_nothing(reference: OnnxEngine) -> None:
    reference.run(pictures(1))
    zero = {"pinned": False, "recorded": 0, "replayed": 0, "plain": {}}
    assert reference.runs.as_json() == zero


def test_the_names_of_onnxruntime_exist() -> None:
    for kind in ("OrtValue", "IOBinding", "InferenceSession"):
        names = [n for n in vars(getattr(fake_onnxruntime, kind)) if not n.startswith("_")]
        assert names
        assert all(hasattr(getattr(onnxruntime, kind), name) for name in names)
    assert hasattr(onnxruntime.RunOptions, "add_run_config_entry")


@pytest.mark.gpu
def test_on_a_gpu_the_provider_equals_the_cpu_and_replays(made_home: Path) -> None:
    model = Home(made_home).engine_bytes(has_adapters=False)
    try:
        ours = OnnxEngine(model, provider="cuda")
    except ProviderError as error:
        pytest.skip(str(error))
    theirs = OnnxEngine(model, provider="cpu")
    rng = np.random.default_rng(0)
    for n in (1, 8, 1, 8, 1):
        x = rng.uniform(-1, 1, (n, 3, 64, 64)).astype(np.float32)
        parity = parity_of(ours.run(x), theirs.run(x))
        assert parity.max_abs <= parity.most_fp32
    assert (ours.runs.recorded, ours.runs.replayed) == (2, 3), ours.runs.plain
