"""The engines of a GPU where there is none: real code above libraries that compute on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from fake_gpu import VERSIONS, FakeCuda, running
from fake_onnxruntime import FakeOnnxruntime
from small_engine import KEY

from edgecl.runtime.engines import onnx
from edgecl.runtime.engines.cuda import CudaMemory
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.engines.tensorrt import Compiled, TensorrtEngine

GPU = "stand-in"
Open = Callable[[bytes, str, int], OnnxEngine | TensorrtEngine]


def on_tensorrt(model: bytes, precision: str, max_batch: int) -> TensorrtEngine:
    """Return a TensorRT engine that computes what an ONNX file does."""
    onnx_engine = OnnxEngine(model, provider="cpu")
    width = onnx_engine.num_features

    def compute(pixels: np.ndarray, adapter: dict[str, np.ndarray]) -> np.ndarray:
        found = onnx_engine.with_adapters(*[adapter] * bool(adapter)).run(pixels)
        return found[:, -width:]

    size = onnx_engine.image_size
    trt = running(
        VERSIONS[-1],
        compute,
        size=size,
        width=width,
        adapters=onnx_engine.adapter_shapes,
        max_batch=max_batch,
    )
    return TensorrtEngine(trt, Compiled(b"plan", KEY), CudaMemory())


def on_cuda(model: bytes, precision: str, max_batch: int) -> OnnxEngine:
    """Return an engine of onnxruntime's CUDA provider that computes on the CPU."""
    return OnnxEngine(model, provider="cuda")


@contextmanager
def standing_in() -> Iterator[dict[str, Open]]:
    """Let the GPU's libraries be others, and give what opens an engine with each."""
    with pytest.MonkeyPatch.context() as patched:
        FakeCuda().install(patched)
        patched.setattr(onnx, "import_onnxruntime", FakeOnnxruntime)
        patched.setattr(onnx, "has_cuda_driver", lambda: True)
        yield {"onnxruntime CUDA": on_cuda, "TensorRT": on_tensorrt}
