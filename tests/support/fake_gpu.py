"""A GPU library and a CUDA runtime without a GPU.

`FakeTensorrt` has the public names of one released version and no others, so code that drives it
uses nothing that the version lacks. The names were read from the released bindings by introspection
(tests/golden/tensorrt_api).
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

API = Path(__file__).parents[1] / "golden/tensorrt_api"
VERSIONS = sorted(path.stem for path in API.glob("*.json"))


def names_of(version: str) -> dict[str, set[str]]:
    """Return the public names of a version's classes and enumerations, by class."""
    lists = json.loads((API / f"{version}.json").read_text(encoding="utf-8"))
    kinds = {kind.split()[-1]: set(names) for kind, names in lists.items() if " " in kind}
    return {name: kinds.get(name, set()) for name in lists["top"]}


class FakeTensorrt:
    """A library that knows names, and answers what a test tells it to.

    Args:
        version: Of the library.
        answers: By `Class.name`: a value of a property, or a function that answers a call.
    """

    def __init__(self, version: str, answers: dict[str, Any]) -> None:
        self.__version__ = version
        self.names = names_of(version)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self._answers = answers

    def __getattr__(self, kind: str) -> Any:
        names = self.__dict__["names"]
        if kind not in names:
            raise AttributeError(f"TensorRT {self.__version__} has no {kind}")
        if kind in ("ILogger", "IProgressMonitor"):  # these are subclassed
            members = {name: name for name in names[kind] if name.isupper()}
            return type(kind, (), members)
        if f"{kind}()" in self._answers:
            return lambda *arguments: self._answers[f"{kind}()"](self, *arguments)
        if kind[0] == "I" or kind in ("Builder", "OnnxParser", "Runtime"):
            return lambda *arguments: self.new(kind)
        numbers = {name: i for i, name in enumerate(sorted(names[kind]))}
        return SimpleNamespace(**numbers)

    def new(self, kind: str) -> Any:
        """Return an object of a class."""
        return _Object(self, kind)

    def called(self, name: str) -> list[tuple[Any, ...]]:
        """Return the arguments of every call of `Class.name`."""
        return [arguments for found, arguments, _ in self.calls if found == name]


class _Object:
    def __init__(self, library: FakeTensorrt, kind: str) -> None:
        object.__setattr__(self, "_library", library)
        object.__setattr__(self, "_kind", kind)

    def _checked(self, name: str) -> str:
        if name not in self._library.names[self._kind]:
            raise AttributeError(f"TensorRT {self._library.__version__} has no {self._kind}.{name}")
        return f"{self._kind}.{name}"

    def __getattr__(self, name: str) -> Any:
        whole = self._checked(name)
        answer = self._library._answers.get(whole)
        if answer is not None and not callable(answer):
            return answer

        def call(*arguments: Any, **named: Any) -> Any:
            self._library.calls.append((whole, arguments, named))
            return answer(*arguments, **named) if answer is not None else None

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        self._library.calls.append((self._checked(name), (value,), {}))


Compute = Callable[[np.ndarray, dict[str, np.ndarray]], np.ndarray]


def running(
    version: str,
    compute: Compute,
    *,
    size: int,
    width: int,
    adapters: dict[str, tuple[int, ...]] | None = None,
    max_batch: int = 4,
) -> FakeTensorrt:
    """Return a library whose engines do `compute(pixels, adapter)`, through addresses.

    With adapters they give `compute(pixels, {})` beside it, the plain features first.

    The pixels' memory and the features' are where the engine said that they are. While the stream
    is recorded the work is kept instead, with the addresses of that moment; it must have run
    before in that state, and to replay it after the context was told another one is an error.
    """
    adapters = adapters or {}
    names = ["pixels", *adapters, "features"]
    at: dict[str, int] = {}
    batch = 0
    n_told = 0  # how often the context was told something
    ran_at = -1

    def set_address(name: str, address: int) -> bool:
        nonlocal n_told
        n_told += 1
        at[name] = address
        return True

    def set_shape(name: str, shape: tuple[int, ...]) -> bool:
        nonlocal batch, n_told
        n_told += 1
        batch = shape[0]
        return name == "pixels" and 1 <= batch <= max_batch

    def execute(stream: int) -> bool:
        nonlocal ran_at
        assert stream
        if stream not in RECORDING:
            compute_at(dict(at), batch)
            ran_at = n_told
            return True
        told, places, n = n_told, dict(at), batch
        if ran_at != told:
            return False

        def again() -> None:
            assert n_told == told, "replayed after the context was told another state"
            compute_at(places, n)

        RECORDING[stream].append(again)
        return True

    def compute_at(places: dict[str, int], n: int) -> None:
        pixels = array_at(places["pixels"], (n, 3, size, size))
        given = {name: array_at(places[name], shape) for name, shape in adapters.items()}
        parts = [compute(pixels, {})]
        if adapters:
            parts.append(compute(pixels, given))
        array_at(places["features"], (n, given_width))[:] = np.concatenate(parts, axis=1)

    given_width = width * (1 + bool(adapters))
    shapes = {"pixels": (-1, 3, size, size), "features": (-1, given_width), **adapters}
    answers: dict[str, Any] = {
        "Runtime.deserialize_cuda_engine": lambda plan: library.new("ICudaEngine"),
        "ICudaEngine.create_execution_context": lambda: library.new("IExecutionContext"),
        "ICudaEngine.num_io_tensors": len(names),
        "ICudaEngine.get_tensor_name": names.__getitem__,
        "ICudaEngine.get_tensor_mode": lambda name: (
            library.TensorIOMode.OUTPUT if name == "features" else library.TensorIOMode.INPUT
        ),
        "ICudaEngine.get_tensor_shape": shapes.__getitem__,
        "ICudaEngine.get_tensor_profile_shape": lambda name, profile: [
            (n, 3, size, size) for n in (1, 1, max_batch)
        ],
        "IExecutionContext.set_tensor_address": set_address,
        "IExecutionContext.set_input_shape": set_shape,
        "IExecutionContext.execute_async_v3": execute,
    }
    library = FakeTensorrt(version, answers)
    return library


RECORDING: dict[int, list[Callable[[], None]]] = {}
"""What is queued on a stream while it is recorded, by the stream."""


def array_at(address: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return memory as a float32 array."""
    block = (ctypes.c_float * int(np.prod(shape))).from_address(address)
    return np.ctypeslib.as_array(block).reshape(shape)


class FakeCuda(ModuleType):
    """The CUDA runtime of cuda-python with the host's memory; counts what is not freed."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.blocks: dict[int, Any] = {}
        self.failing = ""
        self.graphs: dict[int, list[Callable[[], None]]] = {}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
        """Let imports find it."""
        import sys

        package, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
        bindings.runtime = package.bindings = self  # type: ignore[attr-defined]
        for module in (package, bindings, self):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        return self

    def _new(self, name: str, n_bytes: int) -> tuple[int, int | None]:
        if name == self.failing:
            return 2, None
        block = ctypes.create_string_buffer(n_bytes)
        self.blocks[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaMalloc(self, n_bytes: int) -> tuple[int, int | None]:
        return self._new("cudaMalloc", n_bytes)

    def cudaMallocHost(self, n_bytes: int) -> tuple[int, int | None]:
        return self._new("cudaMallocHost", n_bytes)

    def cudaFree(self, address: int) -> tuple[int]:
        del self.blocks[address]
        return (0,)

    cudaFreeHost = cudaFree

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        return 0, 7

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert stream not in RECORDING, "a stream that is recorded must not be waited for"
        return (0,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        if self.failing == "cudaStreamBeginCapture":
            return (900,)
        assert (stream in RECORDING, mode) == (False, 1)
        RECORDING[stream] = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int | None]:
        return self._graph("cudaStreamEndCapture", RECORDING.pop(stream))

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int | None]:
        assert flags == 0
        return self._graph("cudaGraphInstantiate", list(self.graphs[graph]))

    def _graph(self, name: str, work: list[Callable[[], None]]) -> tuple[int, int | None]:
        if name == self.failing:
            return 901, None
        self.graphs[id(work)] = work
        return 0, id(work)

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        del self.graphs[graph]
        return (0,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[int]:
        if self.failing == "cudaGraphLaunch":
            return (1,)
        for work in self.graphs[graph]:
            work()
        return (0,)

    def cudaMemcpyAsync(
        self, to: int, from_: int, n_bytes: int, kind: int, stream: int
    ) -> tuple[int]:
        device = to if kind == 1 else from_
        assert device in self.blocks, "no memory of the device"
        assert n_bytes <= len(self.blocks[device])
        ctypes.memmove(to, from_, n_bytes)
        return (0,)
