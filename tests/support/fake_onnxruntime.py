"""onnxruntime with a CUDA provider that computes on the CPU.

Its sessions hold to what the real one demands of CUDA graphs: an id is used with the values that
were bound when it was recorded, and nothing but their content changes.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


class OrtValue:
    """An array on the GPU."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    @classmethod
    def ortvalue_from_numpy(cls, array: np.ndarray, device: str, number: int) -> OrtValue:
        assert (device, number) == ("cuda", 0)
        return cls(array.copy())

    @classmethod
    def ortvalue_from_shape_and_type(
        cls, shape: tuple[int, ...], kind: Any, device: str, number: int
    ) -> OrtValue:
        assert (device, number) == ("cuda", 0)
        return cls(np.full(shape, np.nan, kind))

    def update_inplace(self, array: np.ndarray) -> None:
        assert (array.shape, array.dtype) == (self.array.shape, self.array.dtype)
        assert array.flags.c_contiguous
        self.array[:] = array

    def numpy(self) -> np.ndarray:
        return self.array.copy()


class IOBinding:
    """Values by the names of a session's inputs and outputs."""

    def __init__(self) -> None:
        self.inputs: dict[str, OrtValue] = {}
        self.outputs: dict[str, OrtValue] = {}

    def bind_ortvalue_input(self, name: str, value: OrtValue) -> None:
        self.inputs[name] = value

    def bind_ortvalue_output(self, name: str, value: OrtValue) -> None:
        self.outputs[name] = value


class InferenceSession:
    """A session of the CUDA provider."""

    def __init__(self, owner: FakeOnnxruntime, model: bytes, way: dict[str, str]) -> None:
        self.way = way
        self.graphs: dict[str, list[OrtValue]] = {}
        self._owner = owner
        self._session = onnxruntime.InferenceSession(model, providers=[CPU])
        self.get_inputs, self.get_outputs = self._session.get_inputs, self._session.get_outputs

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def io_binding(self) -> IOBinding:
        return IOBinding()

    def run_with_iobinding(self, binding: IOBinding, options: Any) -> None:
        graph = options.get_run_config_entry("gpu_graph_id")
        if graph != "-1":
            assert self.way["enable_cuda_graph"] == "1"
            if self._owner.fails:
                raise RuntimeError(self._owner.fails)
            bound = [*binding.inputs.values(), *binding.outputs.values()]
            assert self.graphs.setdefault(graph, bound) == bound, "another value than recorded"
        given = {name: value.array for name, value in binding.inputs.items()}
        names = list(binding.outputs)
        for name, array in zip(names, self._session.run(names, given), strict=True):
            binding.outputs[name].array[:] = array


class FakeOnnxruntime(SimpleNamespace):
    """The module.

    Args:
        refuses: What a session with CUDA graphs is refused with; empty if it is made.
        fails: What a run that records fails with; empty if it records.
    """

    def __init__(self, refuses: str = "", fails: str = "") -> None:
        super().__init__(
            OrtValue=OrtValue, RunOptions=onnxruntime.RunOptions,
            SessionOptions=onnxruntime.SessionOptions, __version__=onnxruntime.__version__,
            get_available_providers=lambda: [CUDA, CPU], refuses=refuses, fails=fails,
        )  # fmt: skip

    def InferenceSession(self, model: bytes, options: Any, providers: list[Any]) -> Any:
        (provider,) = providers
        if provider == CPU:
            return onnxruntime.InferenceSession(model, options, providers=providers)
        assert provider[0] == CUDA
        assert provider[1]["use_tf32"] == "0"
        if self.refuses and "enable_cuda_graph" in provider[1]:
            raise RuntimeError(self.refuses)
        return InferenceSession(self, model, provider[1])
