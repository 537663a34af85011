"""The backbone on ONNX Runtime: CUDA, TensorRT or CPU, whichever really makes a session.

`get_available_providers()` lists what was compiled in, not what runs, and a session that cannot use
a provider falls back in silence; so the provider in use is read back from the session. Telemetry is
switched off in the environment before the import, the only way that leaves no file and no socket.
"""

from __future__ import annotations

import copy
import ctypes
import io
import os
import sys
from contextlib import redirect_stdout
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
from .bound import Bound

PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
# Features must be those of other devices, so without TF32; graphs only if the session takes them.
_EXACT = {"use_tf32": "0"}
_RECORDING = {"enable_cuda_graph": "1"}
_WAYS: dict[str, tuple[dict[str, str], ...]] = {"cuda": (_EXACT | _RECORDING, _EXACT)}
_NO_PACKAGE = (
    "onnxruntime is not installed; run `pip install 'edgecl[cpu]'`, or 'edgecl[gpu]' on a GPU box"
)


def import_onnxruntime() -> Any:  # Any: onnxruntime ships no types
    """Import onnxruntime with its telemetry off.

    Raises:
        MissingPackageError: Not installed, or an empty leftover of two clashing packages.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(_NO_PACKAGE) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise MissingPackageError(
            "onnxruntime imports as an empty folder, as it does after onnxruntime and "
            "onnxruntime-gpu were both installed and one was removed; uninstall both, then "
            "install one: `pip install 'edgecl[cpu]'` or 'edgecl[gpu]'"
        )
    return onnxruntime


def has_cuda_driver() -> bool:
    """Whether the NVIDIA driver library can be loaded."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


class OnnxEngine:
    """A backbone in an ONNX Runtime session.

    Args:
        model: Content of the ONNX file, its hash checked before.
        provider: `auto`, `cuda`, `tensorrt` or `cpu`; `auto` takes the first that makes a session.
        threads: CPU threads for one picture; on a busy 2-core device one is faster than two.
        allow_fallback: Use the CPU when the named provider does not make a session.

    Raises:
        UsageError: No such provider.
        ProviderError: The named provider is not in use and no fallback was allowed.
        IntegrityError: The model cannot be loaded at all.
    """

    def __init__(
        self,
        model: bytes,
        *,
        provider: str = "auto",
        threads: int = 1,
        allow_fallback: bool = False,
    ) -> None:
        self._session, self.provider, refused = _opened(model, provider, threads, allow_fallback)
        try:
            pixels, *rest = self._session.get_inputs()
            (features,) = self._session.get_outputs()
            self.image_size, width = int(pixels.shape[2]), int(features.shape[1])
            self.adapter_shapes: dict[str, tuple[int, ...]] = {
                part.name: tuple(int(n) for n in part.shape) for part in rest
            }
        except (ValueError, TypeError, IndexError) as error:
            raise IntegrityError(
                f"the engine is no backbone that edgecl exports ({error}); take the bundle or home "
                "from a backup"
            ) from error
        self._input, self._output = pixels.name, features.name
        # One that takes adapters gives plain and adapted features beside each other.
        self._width = width // (2 if rest else 1)
        self._adapters: tuple[Adapter, ...] = ()
        self._plain = zeros(self.adapter_shapes)
        self.runs = Runs()
        self._bound: Bound | None = None
        if self.provider == "cuda":
            ort = import_onnxruntime()
            self._bound = Bound(ort, self._session, width, self.runs, refused=refused)

    @property
    def num_features(self) -> int:
        """Width of what `run` returns."""
        return self._width * (1 + len(self._adapters))

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The adapters whose features stand beside the plain ones."""
        return self._adapters

    def with_adapters(self, *adapters: Adapter) -> OnnxEngine:
        """Return this engine, same session, with other adapters; none is the plain backbone.

        `run` returns the plain features, and those of each adapter beside them.

        Raises:
            FeatureMapError: The engine takes no adapters, or others.
        """
        other = copy.copy(self)
        other._adapters = fitted(adapters, self.adapter_shapes)
        return other

    def run(self, pixels: Float32) -> Float32:
        """Return features (N, D) of pictures (N, 3, S, S); see `Engine.run`."""
        side = self.image_size
        expected = (3, side, side)
        if pixels.ndim != 4 or pixels.shape[1:] != expected or pixels.dtype != np.float32:
            raise ShapeError(
                f"engine input is {pixels.shape} {pixels.dtype}; expected (N, 3, {side}, "
                f"{side}) float32 as Preprocessing.tensor makes it"
            )
        if len(pixels) == 0:
            return np.empty((0, self.num_features), np.float32)
        run_once = self._run_on_host if self._bound is None else self._bound.run
        try:
            parts = [run_once(pixels, a) for a in self._adapters or (self._plain,)]
        except Exception as error:  # onnxruntime's have no base of their own
            raise ProviderError(
                f"the engine fails on {self.provider} ({_first_line(error)}); see `edgecl "
                "doctor`, or name another --provider"
            ) from error
        # The plain features are the same in every run.
        return beside(parts, self._width, n_adapters=len(self._adapters))

    def _run_on_host(self, pixels: Float32, adapter: Adapter) -> Float32:
        found: Float32 = self._session.run([self._output], {self._input: pixels, **adapter})[0]
        return found


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def open_session(
    model: bytes, provider: str, threads: int, allow_fallback: bool
) -> tuple[Any, str]:
    """Return a session and the name of the provider that it uses; see `OnnxEngine`."""
    return _opened(model, provider, threads, allow_fallback)[:2]


def _opened(
    model: bytes, provider: str, threads: int, allow_fallback: bool
) -> tuple[Any, str, str]:
    """Return a session, the name of its provider, and why it records no CUDA graphs, if so."""
    wanted = list(PROVIDERS) if provider == "auto" else [provider]
    if provider not in PROVIDERS and provider != "auto":
        raise UsageError(f"provider {provider!r} is unknown; expected auto, {', '.join(PROVIDERS)}")
    if allow_fallback and "cpu" not in wanted:
        wanted.append("cpu")
    reasons: list[str] = []
    for name in wanted:
        session, reason = _try(model, name, threads)
        if session is not None:
            return session, name, reason
        reasons.append(f"{name}: {reason}")
    if wanted[-1] == "cpu":
        raise IntegrityError(
            f"the engine cannot be loaded ({'; '.join(reasons)}); if it is damaged, restore "
            "it from a backup"
        )
    raise ProviderError(
        f"provider {provider} was asked for and is not in use ({'; '.join(reasons)}); run "
        "`edgecl doctor`, or allow the CPU with --allow-fallback"
    )


def _try(model: bytes, name: str, threads: int) -> tuple[Any | None, str]:
    """Return a session, or None and why not; with one, why it is not the first of its ways."""
    ort = import_onnxruntime()
    full_name = PROVIDERS[name]
    if full_name not in ort.get_available_providers():
        return None, "not part of the installed onnxruntime"
    if name != "cpu" and not has_cuda_driver():
        return None, "no NVIDIA driver (libcuda.so.1) on this machine"
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Waiting threads that spin steal the core that the head and the camera need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if name == "cuda" and hasattr(ort, "preload_dlls"):
        # CUDA and cuDNN of wheels are on no search path; it prints what is not there.
        with redirect_stdout(io.StringIO()):
            ort.preload_dlls()
    reason = ""
    for way in _WAYS.get(name, ({},)):
        try:
            # Its banner about failed providers goes to stdout, where a command's results belong.
            with redirect_stdout(sys.stderr):
                session = ort.InferenceSession(
                    model, options, providers=[(full_name, way) if way else full_name]
                )
        except Exception as error:  # onnxruntime raises many kinds, some of its own
            reason = _first_line(error)
            continue
        if session.get_providers()[0] == full_name:
            if name == "cpu":  # it holds the file's bytes to begin anew on the CPU, where it is
                session.disable_fallback()
                session._model_bytes = None
            return session, reason
        reason = f"the session runs on {session.get_providers()[0]} instead"
    return None, reason
