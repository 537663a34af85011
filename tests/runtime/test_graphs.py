"""CUDA graphs: what is recorded, when it is replayed, and what is told where it is not."""

from __future__ import annotations

import numpy as np
import pytest
from fake_gpu import RECORDING, VERSIONS, FakeCuda, running
from small_engine import (
    ADAPTERS,
    KEY,
    SIZE,
    WIDTH,
    Recorder,
    adapter,
    compute,
    engine_of,
    pictures,
    torch_on_the_host,
)

from edgecl.errors import ProviderError
from edgecl.runtime.engines.cuda import TorchMemory
from edgecl.runtime.engines.graphs import FIRST
from edgecl.runtime.engines.tensorrt import Compiled, TensorrtEngine


def recorded(engine: TensorrtEngine) -> tuple[int, int, int]:
    return engine.runs.recorded, engine.runs.replayed, engine.runs.plain[FIRST]


def test_the_second_run_in_a_row_is_recorded_and_others_replay_it(cuda: FakeCuda) -> None:
    engine = engine_of()
    for i in range(5):
        assert np.array_equal(engine.run(pictures(3) * i), compute(pictures(3) * i, {}))
    assert recorded(engine) == (1, 4, 1)
    assert engine.runs.pinned
    assert engine.runs.as_json() == {
        "pinned": True, "recorded": 1, "replayed": 4, "plain": {FIRST: 1},
    }  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_another_batch_or_adapter_is_recorded_anew(cuda: FakeCuda, version: str) -> None:
    trt = running(version, compute, size=SIZE, width=WIDTH, adapters=ADAPTERS)
    plain = engine_of(trt)
    one, other = plain.with_adapters(adapter(1)), plain.with_adapters(adapter(2))
    for engine, n, given in (
        (plain, 1, {}), (plain, 2, {}), (one, 2, adapter(1)), (other, 2, adapter(2)),
        (one, 2, adapter(1)),
    ):  # fmt: skip
        for _ in range(3):
            found = engine.run(pictures(n))
            assert np.array_equal(found[:, -WIDTH:], compute(pictures(n), given))
    assert recorded(plain) == recorded(other) == (5, 10, 5)
    assert len(cuda.graphs) == 1  # the others are gone
    # Nothing is told to the context that it knows already.
    assert len(trt.called("IExecutionContext.set_input_shape")) == 5


def test_adapters_that_take_turns_are_not_recorded(cuda: FakeCuda) -> None:
    both = engine_of().with_adapters(adapter(1), adapter(2))
    for _ in range(3):
        both.run(pictures(2))
    assert recorded(both) == (0, 0, 6)


@pytest.mark.parametrize(
    "call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate",
             "cudaGraphLaunch"],
)  # fmt: skip
def test_a_graph_that_the_gpu_refuses_is_counted_by_its_reason(cuda: FakeCuda, call: str) -> None:
    engine = engine_of()
    cuda.failing = call
    for _ in range(4):
        assert np.array_equal(engine.run(pictures(2)), compute(pictures(2), {}))
    (reason,) = set(engine.runs.plain) - {FIRST}
    assert call in reason
    assert (engine.runs.replayed, engine.runs.plain[reason]) == (0, 3)  # tried once, not each time
    assert not cuda.graphs


def test_an_engine_that_cannot_be_recorded_runs_as_it_is(cuda: FakeCuda) -> None:
    trt = running("11.4.0.106", compute, size=SIZE, width=WIDTH)
    execute = trt._answers["IExecutionContext.execute_async_v3"]
    trt._answers["IExecutionContext.execute_async_v3"] = lambda stream: (
        stream not in RECORDING and execute(stream)
    )
    engine = engine_of(trt)
    for _ in range(3):
        assert np.array_equal(engine.run(pictures(2)), compute(pictures(2), {}))
    assert engine.runs.plain["the engine cannot be recorded as a CUDA graph"] == 2
    assert not cuda.graphs
    assert not RECORDING


def test_torch_records_on_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = TorchMemory(torch_on_the_host())
    trt = running("11.4.0.106", compute, size=SIZE, width=WIDTH)
    engine = TensorrtEngine(trt, Compiled(b"plan", KEY), memory)
    for i in range(4):
        assert np.array_equal(engine.run(pictures(2) * i), compute(pictures(2) * i, {}))
    assert recorded(engine) == (1, 3, 1)


def test_torch_that_cannot_record_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = TorchMemory(torch_on_the_host())
    with pytest.raises(ProviderError, match="cannot be recorded"):
        memory.record(lambda: False)
    assert not RECORDING
    monkeypatch.setattr(Recorder, "capture_end", Recorder.fail)
    with pytest.raises(ProviderError, match=r"cannot be recorded .*capture was invalidated"):
        memory.record(lambda: True)


def test_the_library_for_rtx_records_by_itself(cuda: FakeCuda) -> None:
    trt = running("11.4.0.106", compute, size=SIZE, width=WIDTH)
    trt.names["CudaGraphStrategy"] = {"DISABLED", "WHOLE_GRAPH_CAPTURE"}
    trt.names["IRuntimeConfig"] = {"cuda_graph_strategy"}
    trt._answers["ICudaEngine.create_runtime_config"] = lambda: trt.new("IRuntimeConfig")
    trt._answers["ICudaEngine.create_execution_context"] = lambda wish: trt.new("IExecutionContext")
    engine = engine_of(trt)
    for _ in range(3):
        engine.run(pictures(2))
    assert trt.called("IRuntimeConfig.cuda_graph_strategy") == [
        (trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE,)
    ]
    assert engine.runs.plain["TensorRT for RTX records by itself"] == 2
    assert engine.runs.recorded == 0


def test_the_names_of_the_library_for_rtx_exist() -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed")
    assert hasattr(trt.CudaGraphStrategy, "WHOLE_GRAPH_CAPTURE")
    assert hasattr(trt.IRuntimeConfig, "cuda_graph_strategy")
    assert hasattr(trt.ICudaEngine, "create_runtime_config")
