"""A small backbone: as ONNX, and as TensorRT engine on library and CUDA runtime of `fake_gpu`."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_gpu import RECORDING, FakeTensorrt, running

from edgecl.runtime.engines.cuda import CudaMemory, Gpu
from edgecl.runtime.engines.tensorrt import Compiled, EngineKey, TensorrtEngine

SIZE, WIDTH = 8, 5
ADAPTERS = {"down": (3, WIDTH), "up": (4,)}
GPU = Gpu("Orin", 87)
KEY = EngineKey("a" * 64, "full", "10.13.3.9", str(GPU), "fp32")


def compute(pixels: np.ndarray, adapter: dict[str, np.ndarray]) -> np.ndarray:
    out = pixels.mean((2, 3)) @ np.arange(3 * WIDTH).reshape(3, WIDTH)
    if adapter:
        out = out + pixels.mean((2, 3)) @ adapter["down"] + adapter["up"].sum()
    return out.astype(np.float32)


def engine_of(
    trt: FakeTensorrt | None = None, *, adapters: bool = True, key: EngineKey = KEY
) -> TensorrtEngine:
    shapes = ADAPTERS if adapters else {}
    trt = trt or running("11.4.0.106", compute, size=SIZE, width=WIDTH, adapters=shapes)
    return TensorrtEngine(trt, Compiled(b"plan", key), CudaMemory())


def pictures(n: int) -> np.ndarray:
    return np.random.default_rng(n).uniform(-1, 1, (n, 3, SIZE, SIZE)).astype(np.float32)


def adapter(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in ADAPTERS.items()}


def small_model(*, adapters: bool = False) -> bytes:
    """Return an ONNX file that computes `compute`: with adapters plain and adapted features."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.arange(3 * WIDTH, dtype=np.float32).reshape(3, WIDTH)
    constants = {"weights": weights, "axes": np.array([2, 3], np.int64)}
    node = helper.make_node
    nodes = [
        node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        node("MatMul", ["mean", "weights"], ["plain" if adapters else "features"]),
    ]
    if adapters:
        nodes += [
            node("MatMul", ["mean", "down"], ["more"]),
            node("ReduceSum", ["up"], ["sum"], keepdims=0),
            node("Sum", ["plain", "more", "sum"], ["adapted"]),
            node("Concat", ["plain", "adapted"], ["features"], axis=1),
        ]
    value = helper.make_tensor_value_info
    shapes = ADAPTERS if adapters else {}
    graph = helper.make_graph(
        nodes,
        "small",
        [
            value("pixels", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE]),
            *(value(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()),
        ],
        [value("features", TensorProto.FLOAT, ["batch", WIDTH * (1 + adapters)])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


class Recorder:
    """torch.cuda.CUDAGraph."""

    def capture_begin(self, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local"
        RECORDING[7] = self.work = []

    def capture_end(self) -> None:
        del RECORDING[7]

    def fail(self) -> None:
        del RECORDING[7]
        raise RuntimeError("capture was invalidated")

    def replay(self) -> None:
        for work in self.work:
            work()


def torch_on_the_host() -> Any:
    """Return torch whose GPU memory is the host's."""
    import torch

    stream = SimpleNamespace(cuda_stream=7, synchronize=lambda: None)
    on_gpu = SimpleNamespace(
        CUDAGraph=Recorder,
        is_available=lambda: True,
        Stream=lambda: stream,
        current_stream=lambda: stream,
        stream=lambda stream: contextlib.nullcontext(),
    )

    def empty(shape: Any, *, dtype: Any, **place: Any) -> Any:
        assert place in ({"pin_memory": True}, {"device": "cuda"})
        return torch.empty(shape, dtype=dtype)

    return SimpleNamespace(
        cuda=on_gpu, empty=empty, from_numpy=torch.from_numpy,
        float32=torch.float32, uint8=torch.uint8,
    )  # fmt: skip
