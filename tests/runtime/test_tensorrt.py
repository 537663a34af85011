"""The TensorRT engine: what it does with addresses, and which engine files it never loads."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_gpu import VERSIONS, FakeCuda, running
from small_engine import (
    ADAPTERS,
    GPU,
    KEY,
    SIZE,
    WIDTH,
    adapter,
    compute,
    engine_of,
    pictures,
    torch_on_the_host,
)

import edgecl.runtime.engines.cuda as cuda_module
import edgecl.runtime.engines.tensorrt as module
from edgecl.errors import (
    FeatureMapError,
    IntegrityError,
    MissingPackageError,
    ProviderError,
    ShapeError,
)
from edgecl.runtime.engines.cuda import CudaMemory, Gpu, TorchMemory, device_memory, gpu_here
from edgecl.runtime.engines.tensorrt import (
    Compiled,
    EngineKey,
    TensorrtEngine,
    check_key,
    open_tensorrt,
)

# Running


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("n", [0, 1, 4, 11])
def test_any_number_of_pictures_runs_in_parts(cuda: FakeCuda, version: str, n: int) -> None:
    trt = running(version, compute, size=SIZE, width=WIDTH, adapters=ADAPTERS)
    engine = engine_of(trt)
    assert (engine.provider, engine.max_batch, engine.image_size) == ("tensorrt", 4, SIZE)
    x = pictures(n)
    assert np.array_equal(engine.run(x), compute(x, {}))
    assert len(trt.called("IExecutionContext.execute_async_v3")) == -(-n // 4)


def test_an_engine_without_adapters(cuda: FakeCuda) -> None:
    engine = engine_of(adapters=False)
    assert engine.adapter_shapes == {}
    assert np.array_equal(engine.run(pictures(3)), compute(pictures(3), {}))
    assert np.array_equal(engine.with_adapters().run(pictures(3)), engine.run(pictures(3)))
    with pytest.raises(FeatureMapError, match="takes no adapters"):
        engine.with_adapters(adapter(0))


def test_adapters_are_swapped_without_a_copy_and_do_not_disturb_each_other(
    cuda: FakeCuda,
) -> None:
    plain = engine_of()
    one, both = plain.with_adapters(adapter(1)), plain.with_adapters(adapter(1), adapter(2))
    x = pictures(6)
    assert (one.num_features, both.num_features) == (2 * WIDTH, 3 * WIDTH)
    expected = [compute(x, {}), *(compute(x, adapter(i)) for i in (1, 2))]
    n_blocks = len(cuda.blocks)
    for _ in range(2):
        assert np.array_equal(both.run(x), np.concatenate(expected, axis=1))
        assert np.array_equal(one.run(x), np.concatenate(expected[:2], axis=1))
        assert np.array_equal(plain.run(x), one.with_adapters().run(x))
        assert np.array_equal(plain.run(x), expected[0])
    gc.collect()
    assert len(cuda.blocks) == n_blocks


def test_memory_of_the_device_is_freed_with_the_engine(cuda: FakeCuda) -> None:
    engine = engine_of()
    engine.with_adapters(adapter(1)).run(pictures(2))
    assert cuda.blocks
    del engine
    gc.collect()
    assert not cuda.blocks


def test_a_wrong_input_is_refused(cuda: FakeCuda) -> None:
    engine = engine_of()
    for wrong in (np.zeros((1, 3, 9, 9), np.float32), np.zeros((1, 3, SIZE, SIZE)),
                  np.zeros((3, SIZE, SIZE), np.float32)):  # fmt: skip
        with pytest.raises(ShapeError, match=r"expected \(N, 3, 8, 8\) float32"):
            engine.run(wrong)
    with pytest.raises(FeatureMapError, match="use the engine"):
        engine.with_adapters({"down": np.zeros((3, WIDTH), np.float32)})


@pytest.mark.parametrize("call", ["set_input_shape", "execute_async_v3"])
def test_a_call_that_fails_without_raising_is_an_error(cuda: FakeCuda, call: str) -> None:
    trt = running("10.13.3.9", compute, size=SIZE, width=WIDTH)
    trt._answers[f"IExecutionContext.{call}"] = lambda *_: False
    with pytest.raises(ProviderError, match="TensorRT"):
        engine_of(trt).run(pictures(1))


def test_an_engine_that_the_library_refuses_is_told(cuda: FakeCuda) -> None:
    trt = running("10.13.3.9", compute, size=SIZE, width=WIDTH)
    trt._answers["Runtime.deserialize_cuda_engine"] = lambda plan: None
    with pytest.raises(IntegrityError, match="edgecl export tensorrt"):
        engine_of(trt)
    trt = running("10.13.3.9", compute, size=SIZE, width=WIDTH)
    trt._answers["ICudaEngine.create_execution_context"] = lambda: None
    with pytest.raises(ProviderError, match="free some GPU memory"):
        engine_of(trt)


def test_only_a_version_compatible_engine_may_bring_code(cuda: FakeCuda) -> None:
    for key, calls in ((KEY, []), (replace(KEY, version="10.13.3.9+"), [(True,)])):
        trt = running("10.13.3.9", compute, size=SIZE, width=WIDTH)
        engine_of(trt, key=key)
        assert trt.called("Runtime.engine_host_code_allowed") == calls


# Memory


def test_a_full_gpu_is_told(cuda: FakeCuda) -> None:
    cuda.failing = "cudaMalloc"
    with pytest.raises(ProviderError, match="refused cudaMalloc"):
        engine_of()


def test_without_torch_or_cuda_python_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingPackageError, match=r"edgecl\[tensorrt\]"):
        device_memory()


def test_torch_is_used_where_it_is_loaded_and_sees_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = torch_on_the_host()
    monkeypatch.setitem(sys.modules, "torch", torch)
    memory = device_memory()
    assert isinstance(memory, TorchMemory)
    trt = running("11.4.0.106", compute, size=SIZE, width=WIDTH, adapters=ADAPTERS)
    engine = TensorrtEngine(trt, Compiled(b"plan", KEY), memory).with_adapters(adapter(4))
    parts = [compute(pictures(6), {}), compute(pictures(6), adapter(4))]
    assert np.array_equal(engine.run(pictures(6)), np.concatenate(parts, axis=1))


def test_the_names_of_the_cuda_runtime_exist() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    names = [name for name in dir(FakeCuda) if name.startswith("cuda")]
    assert len(names) > 8
    assert all(hasattr(runtime, name) for name in names)
    for enumeration in ("cudaMemcpyKind", "cudaStreamCaptureMode"):
        for kind in vars(getattr(FakeCuda, enumeration)):
            assert hasattr(getattr(runtime, enumeration), kind)


# Keys


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        (KEY, ""),
        (replace(KEY, version="10.3.0+"), ""),
        (replace(KEY, version="10.13.3.9+", device="sm_80+"), ""),
        (replace(KEY, precision="fp16"), ""),
        (replace(KEY, model_sha256="b" * 64), "model bbbb"),
        (replace(KEY, version="10.13.3.8"), "library 10.13.3.8, here 10.13.3.9"),
        (replace(KEY, version="11.0.0+"), "library 11"),
        (replace(KEY, device="Orin sm_89"), "device Orin sm_89, here Orin sm_87"),
    ],
)
def test_a_key_fits_one_model_one_library_and_one_device(key: EngineKey, wrong: str) -> None:
    def check() -> None:
        check_key(key, model_sha256="a" * 64, version="10.13.3.9", gpu=GPU)

    if not wrong:
        check()
    else:
        with pytest.raises(IntegrityError, match=wrong) as caught:
            check()
        assert "edgecl export tensorrt" in str(caught.value)


def test_an_engine_for_recent_gpus_does_not_run_on_an_old_one() -> None:
    key = replace(KEY, device="sm_80+")
    with pytest.raises(IntegrityError, match="here Turing sm_75"):
        check_key(key, model_sha256="a" * 64, version=KEY.version, gpu=Gpu("Turing", 75))


def test_an_engine_with_another_key_is_never_handed_to_the_library(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = running("10.13.3.9", compute, size=SIZE, width=WIDTH)
    monkeypatch.setattr(module, "import_tensorrt", lambda flavour: trt)
    monkeypatch.setattr(module, "gpu_here", lambda: GPU)
    monkeypatch.setattr(module, "device_memory", CudaMemory)
    for key in (replace(KEY, version="10.3.0"), replace(KEY, device="Thor sm_110")):
        with pytest.raises(IntegrityError, match="built for another"):
            open_tensorrt(Compiled(b"plan", key), "a" * 64)
    with pytest.raises(IntegrityError, match="another model"):
        open_tensorrt(Compiled(b"plan", KEY), "b" * 64)
    assert trt.calls == []
    assert open_tensorrt(Compiled(b"plan", KEY), "a" * 64).run(pictures(1)).shape == (1, WIDTH)
    assert trt.called("Runtime.deserialize_cuda_engine") == [(b"plan",)]


def test_what_is_noted_of_an_engine_is_read_back_or_refused() -> None:
    whole = Compiled(b"plan", KEY, {"max_batch": 4}, {"max_abs": 1e-6})
    assert Compiled.from_json(b"plan", whole.as_json()) == whole
    with pytest.raises(IntegrityError, match="was changed"):
        Compiled.from_json(b"other", whole.as_json())
    broken = [{k: v for k, v in whole.as_json().items() if k != name} for name in whole.as_json()]
    broken += [whole.as_json() | {"parity": 3}, whole.as_json() | {"key": {}}]
    for values in (None, 3, *broken):
        with pytest.raises(IntegrityError, match="incomplete"):
            Compiled.from_json(b"plan", values)


def test_the_gpu_is_named_or_its_absence_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def driver(path: str) -> Any:
        assert path == "libcuda.so.1"
        return SimpleNamespace(
            cuInit=lambda flags: state["init"],
            cuDeviceGet=lambda device, i: 0,
            cuDeviceGetName=name_it,
            cuDeviceGetAttribute=attribute,
        )

    def name_it(name: Any, size: int, device: Any) -> int:
        name.value = b"NVIDIA Orin"
        return 0

    def attribute(value: Any, what: int, device: Any) -> int:
        value._obj.value = {75: 8, 76: 7}[what]
        return 0

    state = {"init": 0}
    monkeypatch.setattr(cuda_module.ctypes, "CDLL", driver)
    assert gpu_here() == Gpu("NVIDIA Orin", 87)
    assert str(gpu_here()) == "NVIDIA Orin sm_87"
    state["init"] = 100
    with pytest.raises(ProviderError, match="CUDA error 100"):
        gpu_here()

    def missing(path: str) -> Any:
        raise OSError(path)

    monkeypatch.setattr(cuda_module.ctypes, "CDLL", missing)
    with pytest.raises(ProviderError, match="--provider cpu"):
        gpu_here()
