"""The GPU: which it is, memory that an engine reads and writes, and the stream that it runs on.

A process that has torch loaded shares torch's memory and context; any other uses cuda-python, which
is small. This package never loads torch itself.
"""

from __future__ import annotations

import ctypes
import math
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from edgecl.errors import MissingPackageError, ProviderError
from edgecl.types import Float32

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NOT_RECORDED = "the engine cannot be recorded as a CUDA graph"
_HOST_TO_DEVICE, _DEVICE_TO_HOST = "cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU.

    Args:
        name: As the driver names it.
        capability: Its compute capability times ten: 87 is 8.7.
    """

    name: str
    capability: int

    def __str__(self) -> str:
        return f"{self.name} sm_{self.capability}"


def gpu_here() -> Gpu:
    """Return the first GPU that this process may use.

    Raises:
        ProviderError: There is no driver, or no GPU.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise ProviderError(
            "no NVIDIA driver (libcuda.so.1) on this machine; install it, or use --provider cpu"
        ) from error
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetName(name, len(name), device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    )
    if failed:
        raise ProviderError(
            f"the NVIDIA driver finds no GPU (CUDA error {failed}); run `nvidia-smi`, or use "
            "--provider cpu"
        )
    return Gpu(name.value.decode(errors="replace"), 10 * major.value + minor.value)


class Buffer(Protocol):
    """Memory on the device, freed with this object."""

    address: int


class Memory(Protocol):
    """What an engine needs beside itself. Copies are queued on the stream, in order."""

    stream: int
    """Handle of a stream that is not the default one."""

    def pinned(self, shape: tuple[int, ...]) -> Float32:
        """Return memory of the host that the device copies from without a detour."""
        ...

    def device(self, n_bytes: int) -> Buffer:
        """Return memory of the device."""
        ...

    def upload(self, buffer: Buffer, array: Float32) -> None:
        """Copy an array, C-contiguous, to the start of a buffer."""
        ...

    def download(self, array: Float32, buffer: Buffer) -> None:
        """Copy the start of a buffer into an array, C-contiguous."""
        ...

    def wait(self) -> None:
        """Return when everything that was queued is done."""
        ...

    def record(self, work: Callable[[], bool]) -> Callable[[], None]:
        """Record what `work` queues on the stream as a CUDA graph; nothing of it is done yet.

        Args:
            work: Queues kernels, waits for nothing, and was done once before; False if it failed.

        Returns:
            What queues all of it by one call.

        Raises:
            ProviderError: It cannot be recorded; the stream goes on as before.
        """
        ...


def device_memory() -> Memory:
    """Return torch's memory if this process has torch loaded and it sees a GPU, else cuda-python's.

    Raises:
        MissingPackageError: cuda-python is not installed.
        ProviderError: The driver refuses.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return TorchMemory(torch)
    return CudaMemory()


class TorchMemory:
    """Memory of torch, so that its allocator and this engine do not hold the same bytes twice."""

    def __init__(self, torch: Any) -> None:  # Any: torch is no dependency of this package
        self._torch = torch
        self._stream = torch.cuda.Stream()
        self.stream = int(self._stream.cuda_stream)

    def pinned(self, shape: tuple[int, ...]) -> Float32:
        """See `Memory`."""
        tensor = self._torch.empty(shape, dtype=self._torch.float32, pin_memory=True)
        array: Float32 = tensor.numpy()
        return array

    def device(self, n_bytes: int) -> Buffer:
        """See `Memory`."""
        tensor = self._torch.empty(n_bytes, dtype=self._torch.uint8, device="cuda")
        # Its content may belong to work that other streams have not finished.
        self._torch.cuda.current_stream().synchronize()
        return _TorchBuffer(tensor)

    def upload(self, buffer: Buffer, array: Float32) -> None:
        """See `Memory`."""
        with self._torch.cuda.stream(self._stream):
            self._part(buffer, array).copy_(self._bytes(array), non_blocking=True)

    def download(self, array: Float32, buffer: Buffer) -> None:
        """See `Memory`."""
        with self._torch.cuda.stream(self._stream):
            self._bytes(array).copy_(self._part(buffer, array), non_blocking=True)

    def wait(self) -> None:
        """See `Memory`."""
        self._stream.synchronize()

    def record(self, work: Callable[[], bool]) -> Callable[[], None]:
        """See `Memory`."""
        graph = self._torch.cuda.CUDAGraph()
        try:
            with self._torch.cuda.stream(self._stream):
                # What other threads do meanwhile, training say, is none of this graph's business.
                graph.capture_begin(capture_error_mode="thread_local")
                is_done = work()
                graph.capture_end()
        except RuntimeError as error:
            raise ProviderError(f"{_NOT_RECORDED} ({error})") from error
        if not is_done:
            raise ProviderError(_NOT_RECORDED)

        def replay() -> None:
            with self._torch.cuda.stream(self._stream):
                graph.replay()

        return replay

    def _bytes(self, array: Float32) -> Any:
        return self._torch.from_numpy(array.reshape(-1).view(np.uint8))

    @staticmethod
    def _part(buffer: Buffer, array: Float32) -> Any:
        assert isinstance(buffer, _TorchBuffer)
        return buffer.tensor[: array.nbytes]


class _TorchBuffer:
    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self.address = int(tensor.data_ptr())


class CudaMemory:
    """Memory of the CUDA runtime through cuda-python."""

    def __init__(self) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise MissingPackageError(
                "running a TensorRT engine needs cuda-python or a loaded torch; run `pip install "
                "'edgecl[tensorrt]'`"
            ) from error
        self._cuda: Any = runtime
        self._stream = self._do("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        self.stream = int(self._stream)
        weakref.finalize(self, runtime.cudaStreamDestroy, self._stream)

    def pinned(self, shape: tuple[int, ...]) -> Float32:
        """See `Memory`."""
        address = int(self._do("cudaMallocHost", 4 * math.prod(shape)))
        block = (ctypes.c_float * math.prod(shape)).from_address(address)
        weakref.finalize(block, self._cuda.cudaFreeHost, address)
        array: Float32 = np.ctypeslib.as_array(block).reshape(shape)  # keeps the block
        return array

    def device(self, n_bytes: int) -> Buffer:
        """See `Memory`."""
        buffer = _CudaBuffer(int(self._do("cudaMalloc", n_bytes)))
        weakref.finalize(buffer, self._cuda.cudaFree, buffer.address)
        return buffer

    def upload(self, buffer: Buffer, array: Float32) -> None:
        """See `Memory`."""
        self._copy(buffer.address, array.ctypes.data, array.nbytes, _HOST_TO_DEVICE)

    def download(self, array: Float32, buffer: Buffer) -> None:
        """See `Memory`."""
        self._copy(array.ctypes.data, buffer.address, array.nbytes, _DEVICE_TO_HOST)

    def wait(self) -> None:
        """See `Memory`."""
        self._do("cudaStreamSynchronize", self._stream)

    def record(self, work: Callable[[], bool]) -> Callable[[], None]:
        """See `Memory`."""
        # What other threads do meanwhile, training say, is none of this graph's business.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._do("cudaStreamBeginCapture", self._stream, mode)
        is_done = work()
        graph = self._do("cudaStreamEndCapture", self._stream)
        try:
            if not is_done:
                raise ProviderError(_NOT_RECORDED)
            run = self._do("cudaGraphInstantiate", graph, 0)
        finally:
            self._cuda.cudaGraphDestroy(graph)
        launch = partial(self._do, "cudaGraphLaunch", run, self._stream)
        weakref.finalize(launch, self._cuda.cudaGraphExecDestroy, run)
        return launch

    def _copy(self, to: int, from_: int, n_bytes: int, kind: str) -> None:
        kinds = self._cuda.cudaMemcpyKind
        self._do("cudaMemcpyAsync", to, from_, n_bytes, getattr(kinds, kind), self._stream)

    def _do(self, name: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime, which returns an error and what else it has."""
        error, *rest = getattr(self._cuda, name)(*arguments)
        if int(error) != 0:
            raise ProviderError(
                f"the GPU refused {name} ({error}); see that it is free and has memory left, or "
                "use --provider cpu"
            )
        return rest[0] if rest else None


class _CudaBuffer:
    def __init__(self, address: int) -> None:
        self.address = address
