"""The backbone as an engine of TensorRT (`full`) or of TensorRT for RTX (`rtx`).

Both libraries have one API, so each function takes the module. An engine file is machine code for
one library version and one kind of GPU: it comes from a file that a bundle's manifest lists, and
it is handed to the library only when its key fits model, library and device (docs/deploy.md).
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np

from edgecl.errors import (
    IntegrityError,
    MissingPackageError,
    ProviderError,
    ShapeError,
    UsageError,
)
from edgecl.types import Float32

from ..adapters import Adapter, beside, fitted, zeros
from .base import Runs
from .cuda import Buffer, Gpu, Memory, device_memory, gpu_here
from .graphs import Graphs

FLAVOURS = ("full", "rtx")
ANY_RECENT_GPU = "sm_80+"
"""Device of an engine that runs on every GPU from compute capability 8.0 on."""
_BUILD_ANEW = "build it here with `edgecl export tensorrt --output DIR`, or use --provider cpu"


@dataclass(frozen=True, slots=True)
class EngineKey:
    """What an engine file was built from and for; it runs nowhere else.

    Args:
        model_sha256: Hash of the ONNX file, hex.
        flavour: `full` or `rtx`.
        version: Of the library; `10.13.3.9+` is that one or a newer one.
        device: Name of the GPU with its compute capability, or `sm_80+`.
        precision: Of the ONNX file: `fp32`, `fp16` or `int8`.
    """

    model_sha256: str
    flavour: str
    version: str
    device: str
    precision: str


@dataclass(frozen=True, slots=True)
class Compiled:
    """An engine file and what is known of it.

    Args:
        plan: Content of the file.
        key: What it was built from and for.
        settings: How it was built, JSON values.
        parity: Differences to its ONNX file; empty if no GPU could run it when it was built.
    """

    plan: bytes
    key: EngineKey
    settings: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return JSON values; of the file its hash."""
        return {
            "key": asdict(self.key),
            "settings": self.settings,
            "parity": self.parity,
            "sha256": hashlib.sha256(self.plan).hexdigest(),
        }

    @classmethod
    def from_json(cls, plan: bytes, values: Any) -> Compiled:
        """Put a file and what `as_json` returned together.

        Raises:
            IntegrityError: Incomplete, or of another file.
        """
        try:
            key = EngineKey(
                **{part.name: str(values["key"][part.name]) for part in fields(EngineKey)}
            )
            settings = {str(name): value for name, value in values["settings"].items()}
            parity = {str(name): float(value) for name, value in values["parity"].items()}
            found = cls(plan, key, settings, parity)
            is_same = found.as_json()["sha256"] == values["sha256"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IntegrityError(
                f"what is noted of a TensorRT engine is incomplete ({error!r}); {_BUILD_ANEW}"
            ) from error
        if not is_same:
            raise IntegrityError(f"the TensorRT engine was changed; {_BUILD_ANEW}")
        return found


def import_tensorrt(flavour: str) -> Any:  # Any: the libraries ship no types
    """Import a library.

    Args:
        flavour: `full` for TensorRT, `rtx` for TensorRT for RTX.

    Raises:
        UsageError: Another flavour.
        MissingPackageError: Not installed, or its shared libraries are missing.
    """
    if flavour not in FLAVOURS:
        raise UsageError(f"flavour {flavour!r} is unknown; expected {' or '.join(FLAVOURS)}")
    try:
        return _import_rtx() if flavour == "rtx" else _import_full()
    except ImportError as error:
        extra = "tensorrt-rtx" if flavour == "rtx" else "tensorrt"
        where = "" if flavour == "rtx" else ", on a Jetson see docs/jetson.md"
        raise MissingPackageError(
            f"{'TensorRT for RTX' if flavour == 'rtx' else 'TensorRT'} is not installed ({error}); "
            f"run `pip install 'edgecl[{extra}]'`{where}"
        ) from error


def _import_full() -> Any:
    try:
        import tensorrt

        return tensorrt
    except ModuleNotFoundError:  # the bindings' own package, beside libraries of the system
        import tensorrt_bindings

        return tensorrt_bindings


def _import_rtx() -> Any:
    try:
        import tensorrt_rtx

        return tensorrt_rtx
    except ModuleNotFoundError:
        import tensorrt_rtx_bindings

        return tensorrt_rtx_bindings


def check_key(key: EngineKey, *, model_sha256: str, version: str, gpu: Gpu) -> None:
    """Check that an engine was built from this model, by this library, for this GPU.

    Args:
        key: The engine's.
        model_sha256: Hash of the ONNX file beside it.
        version: Of the library that would load it.
        gpu: What it would run on.

    Raises:
        IntegrityError: It was not; names every difference.
    """
    wrong = []
    if key.model_sha256 != model_sha256:
        wrong.append(f"model {key.model_sha256[:12]}..., here {model_sha256[:12]}...")
    if key.version.endswith("+"):
        if _numbers(version) < _numbers(key.version):
            wrong.append(f"library {key.version}, here {version}")
    elif key.version != version:
        wrong.append(f"library {key.version}, here {version}")
    if key.device == ANY_RECENT_GPU:
        if gpu.capability < 80:
            wrong.append(f"device {key.device}, here {gpu}")
    elif key.device != str(gpu):
        wrong.append(f"device {key.device}, here {gpu}")
    if wrong:
        raise IntegrityError(
            f"the TensorRT engine was built for another {'; another '.join(wrong)}; {_BUILD_ANEW}"
        )


def open_tensorrt(compiled: Compiled, model_sha256: str) -> TensorrtEngine:
    """Load an engine on this machine's GPU, after its key was checked.

    Args:
        compiled: From a bundle, its hash checked before.
        model_sha256: Hash of the ONNX file in the same bundle.

    Raises:
        MissingPackageError: The library or cuda-python is not installed.
        ProviderError: There is no driver or no GPU.
        IntegrityError: The key does not fit, or the library refuses the engine.
    """
    trt = import_tensorrt(compiled.key.flavour)
    check_key(compiled.key, model_sha256=model_sha256, version=str(trt.__version__), gpu=gpu_here())
    return TensorrtEngine(trt, compiled, device_memory())


def log_of(trt: Any) -> Any:
    """Return a logger for the library that prints nothing and keeps `errors`, newest last."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Log()


def _opened(trt: Any, runtime: Any, plan: bytes, log: Any) -> tuple[Any, Any]:
    """Return engine and execution context; the library raises nothing, but gives None."""
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise IntegrityError(
            f"TensorRT refuses the engine ({log.errors[-1] if log.errors else 'no reason'}); "
            f"{_BUILD_ANEW}"
        )
    context = _context_of(trt, engine)
    if context is None:
        raise ProviderError(
            "TensorRT cannot make an execution context "
            f"({log.errors[-1] if log.errors else 'no reason'}); free some GPU memory"
        )
    return engine, context


def _context_of(trt: Any, engine: Any) -> Any:
    """Return an execution context; the one of RTX records CUDA graphs by itself."""
    strategies = getattr(trt, "CudaGraphStrategy", None)
    if strategies is None:
        return engine.create_execution_context()
    wish = engine.create_runtime_config()
    wish.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(wish)


class TensorrtEngine:
    """A backbone in a TensorRT execution context. One thread at a time.

    Args:
        trt: The library, `tensorrt` or `tensorrt_rtx`.
        compiled: The engine, its key checked before.
        memory: Memory of the GPU and a stream.

    Raises:
        IntegrityError: The library refuses the engine.
        ProviderError: The GPU has no memory left.
    """

    def __init__(self, trt: Any, compiled: Compiled, memory: Memory) -> None:
        self.provider = "tensorrt"
        self._memory = memory
        log = log_of(trt)
        runtime = trt.Runtime(log)
        if compiled.key.version.endswith("+"):
            # A version-compatible engine brings its own small runtime.
            runtime.engine_host_code_allowed = True
        engine, context = _opened(trt, runtime, compiled.plan, log)
        self._keep = (log, runtime, engine)  # the library does not
        self._context = context
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        modes = {name: engine.get_tensor_mode(name) for name in names}
        self._input, *rest = (n for n in names if modes[n] == trt.TensorIOMode.INPUT)
        (self._output,) = (n for n in names if modes[n] == trt.TensorIOMode.OUTPUT)
        pixels = tuple(engine.get_tensor_profile_shape(self._input, 0)[2])
        self.max_batch = int(pixels[0])
        self._shape = tuple(int(n) for n in pixels[1:])
        self.image_size = self._shape[-1]
        # One that takes adapters gives plain and adapted features beside each other.
        given = int(tuple(engine.get_tensor_shape(self._output))[-1])
        self._width = given // (2 if rest else 1)
        self.adapter_shapes: dict[str, tuple[int, ...]] = {
            name: tuple(int(n) for n in engine.get_tensor_shape(name)) for name in rest
        }
        self.runs = Runs(pinned=True)
        # RTX compiles kernels for a shape while it runs, so it alone knows when to record.
        by_itself = "TensorRT for RTX records by itself" * hasattr(trt, "CudaGraphStrategy")
        self._graphs = Graphs(memory, self.runs, refused=by_itself)
        self._pixels = memory.pinned((self.max_batch, *self._shape))
        self._features = memory.pinned((self.max_batch, given))
        self._device_pixels = memory.device(self._pixels.nbytes)
        self._device_features = memory.device(self._features.nbytes)
        context.set_tensor_address(self._input, self._device_pixels.address)
        context.set_tensor_address(self._output, self._device_features.address)
        self._plain = self._on_device(zeros(self.adapter_shapes))
        self._adapters: tuple[dict[str, Buffer], ...] = ()

    @property
    def num_features(self) -> int:
        """Width of what `run` returns."""
        return self._width * (1 + len(self._adapters))

    def with_adapters(self, *adapters: Adapter) -> TensorrtEngine:
        """Return this engine, same context, with other adapters; none is the plain backbone.

        `run` returns the plain features, and those of each adapter beside them.

        Raises:
            FeatureMapError: The engine takes no adapters, or others.
        """
        other = copy.copy(self)
        other._adapters = tuple(map(self._on_device, fitted(adapters, self.adapter_shapes)))
        return other

    def run(self, pixels: Float32) -> Float32:
        """Return features (N, D) of pictures (N, 3, S, S); see `Engine.run`.

        More pictures than the engine takes at once run one part after the other.
        """
        if pixels.ndim != 4 or pixels.shape[1:] != self._shape or pixels.dtype != np.float32:
            raise ShapeError(
                f"engine input is {pixels.shape} {pixels.dtype}; expected "
                f"(N, {', '.join(map(str, self._shape))}) float32 as Preprocessing.tensor makes it"
            )
        out = np.empty((len(pixels), self.num_features), np.float32)
        for start in range(0, len(pixels), self.max_batch):
            self._run_part(pixels[start : start + self.max_batch], out[start:])
        return out

    def _run_part(self, pixels: Float32, out: Float32) -> None:
        """Run at most `max_batch` pictures; the first rows of `out` become their features."""
        n = len(pixels)
        self._pixels[:n] = pixels
        self._memory.upload(self._device_pixels, self._pixels[:n])
        parts = []
        for adapter in self._adapters or (self._plain,):
            addresses = tuple(buffer.address for buffer in adapter.values())
            if not self._graphs.run((n, addresses), partial(self._set, n, adapter), self._execute):
                raise ProviderError(f"TensorRT cannot run the engine; {_BUILD_ANEW}")
            self._memory.download(self._features[:n], self._device_features)
            self._memory.wait()
            parts.append(self._features[:n].copy())
        out[:n] = beside(parts, self._width, n_adapters=len(self._adapters))

    def _set(self, n: int, adapter: Mapping[str, Buffer]) -> None:
        """Tell the context the batch and where the adapter is."""
        if not self._context.set_input_shape(self._input, (n, *self._shape)):
            raise ProviderError(f"TensorRT refuses a batch of {n}; {_BUILD_ANEW}")
        for name, buffer in adapter.items():
            self._context.set_tensor_address(name, buffer.address)

    def _execute(self) -> bool:
        return bool(self._context.execute_async_v3(self._memory.stream))

    def _on_device(self, adapter: Adapter) -> dict[str, Buffer]:
        """Copy an adapter to memory of its own: to swap adapters is to set addresses."""
        buffers = {}
        for name, array in adapter.items():
            buffers[name] = self._memory.device(array.nbytes)
            self._memory.upload(buffers[name], np.ascontiguousarray(array))
        self._memory.wait()
        return buffers


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version))
