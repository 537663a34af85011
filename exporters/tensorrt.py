"""An ONNX file built into an engine of TensorRT or of TensorRT for RTX.

One path for TensorRT 10.3 to 11 and for RTX: precision stands in the ONNX file and the network is
strongly typed, since version 11 has nothing else. TF32 is off, so that features are those of the
ONNX file: a head is exact for the engine that it learned with.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgecl.errors import (
    IntegrityError,
    MissingPackageError,
    ParityError,
    ProviderError,
    RequestError,
    UsageError,
)
from edgecl.home import ENGINE_FOLDER, Home
from edgecl.runtime.bundle import TENSORRT, compiled_name
from edgecl.runtime.engines.base import Engine
from edgecl.runtime.engines.cuda import device_memory, gpu_here
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.engines.tensorrt import (
    ANY_RECENT_GPU,
    FLAVOURS,
    Compiled,
    EngineKey,
    TensorrtEngine,
    import_tensorrt,
    log_of,
)
from edgecl.runtime.files import write_whole
from edgecl.store.exports import Export

from .parity import LEAST_COSINE_FP16, Parity, parity_of
from .precision import PRECISIONS

# Both sides are int8 already; what is left is the order of rounding. Our own choice.
LEAST_COSINE_INT8 = 0.98
_MOST_FAULTS = 8


@dataclass(frozen=True, slots=True)
class Settings:
    """What an engine is built for; kept in the register of exports, so that it can be built anew.

    Args:
        flavour: `full`, built on the GPU that it is for; `rtx`, for any RTX GPU from Ampere on and
            built without one.
        precision: Of the ONNX file: `fp32`, `fp16` or `int8`.
        max_batch: Most pictures that run together.
        workspace_mb: GPU memory that layers may use beside weights and activations, MiB.
        version_compatible: Let newer versions of the library run it; needs its lean runtime.
        hardware_compatible: Let every GPU from Ampere on run it, more slowly; not on a Jetson.

    Raises:
        UsageError: An unknown word.
    """

    flavour: str = "full"
    precision: str = "fp32"
    max_batch: int = 8
    workspace_mb: int = 1024
    version_compatible: bool = False
    hardware_compatible: bool = False

    def __post_init__(self) -> None:
        for name, known in (("flavour", FLAVOURS), ("precision", PRECISIONS)):
            value = getattr(self, name)
            if value not in known:
                raise UsageError(f"{name} {value!r} is unknown; expected {', '.join(known)}")


def compile_model(
    model: bytes,
    settings: Settings,
    *,
    timing_cache: Path | None = None,
    tell: Callable[[str], None] | None = None,
) -> Compiled:
    """Build an engine for this machine and compare it with its ONNX file.

    Args:
        model: Content of the ONNX file, its hash checked before.
        settings: What for.
        timing_cache: File of timings that later builds reuse; made if missing; only for `full`.
        tell: Told how far the build is.

    Returns:
        Compiled: The engine; how far its features are from the ONNX file's is known where a GPU
            can run it.

    Raises:
        MissingPackageError: The library is not installed.
        ProviderError: `full` and there is no GPU.
        RequestError: The library cannot build the file; names the nodes.
        ParityError: See `check_parity`.
    """
    trt = import_tensorrt(settings.flavour)
    is_rtx = settings.flavour == "rtx"
    is_wide = is_rtx or settings.hardware_compatible
    device = ANY_RECENT_GPU if is_wide else str(gpu_here())
    plan = build_engine(
        trt,
        model,
        max_batch=settings.max_batch,
        workspace_mb=settings.workspace_mb,
        # RTX times kernels when it first runs, and would ask for a GPU here.
        timing_cache=None if is_rtx else timing_cache,
        version_compatible=settings.version_compatible,
        hardware_compatible=settings.hardware_compatible and not is_rtx,
        tell=tell,
    )
    key = EngineKey(
        model_sha256=hashlib.sha256(model).hexdigest(),
        flavour=settings.flavour,
        version=f"{trt.__version__}{'+' if settings.version_compatible else ''}",
        device=device,
        precision=settings.precision,
    )
    compiled = Compiled(plan, key, asdict(settings))
    try:
        gpu_here()
        memory = device_memory()
    except (ProviderError, MissingPackageError):
        return compiled
    engine = TensorrtEngine(trt, compiled, memory)
    parity = compare_engines(OnnxEngine(model, provider="cpu"), engine)
    check_parity(parity, settings.precision)
    return replace(compiled, parity=parity.as_json())


def timing_cache_of(home: Home) -> Path:
    """Return the file in which a home keeps kernel timings; it holds nothing that was learned."""
    return home.path / ENGINE_FOLDER / ".timing.cache"


def build_again(export: Export, timing_cache: Path) -> Callable[[bytes], Compiled] | None:
    """Return what builds the TensorRT engine of an export anew, or None if it has none.

    An engine that lies in the export's folder is taken as it is, also where the library is missing:
    it holds nothing that was learned, and the home's register says what it must be.
    """
    if export.kind != TENSORRT:
        return None
    noted = export.body[TENSORRT]

    def build(model: bytes) -> Compiled:
        if noted["key"]["model_sha256"] == hashlib.sha256(model).hexdigest():
            for path in export.path.glob("*.engine"):
                try:
                    return Compiled.from_json(path.read_bytes(), noted)
                except (IntegrityError, OSError):
                    continue  # changed or gone: built anew
        return compile_model(model, Settings(**noted["settings"]), timing_cache=timing_cache)

    return build


def build_engine(
    trt: Any,
    model: bytes,
    *,
    max_batch: int = 8,
    workspace_mb: int = 1024,
    timing_cache: Path | None = None,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
    tell: Callable[[str], None] | None = None,
) -> bytes:
    """Build an engine.

    Args:
        trt: The library, `tensorrt` or `tensorrt_rtx`.
        model: Content of an ONNX file whose only dynamic dimension is the batch.
        max_batch: See `Settings`.
        workspace_mb: See `Settings`.
        timing_cache: See `compile_model`.
        version_compatible: See `Settings`.
        hardware_compatible: See `Settings`.
        tell: Told how far it is.

    Returns:
        bytes: The content of an engine file.

    Raises:
        ProviderError: The library finds no GPU that it can build for.
        RequestError: A node cannot be parsed, or no kernel does it in the workspace.
        UsageError: The library does not know an option.
    """
    log = log_of(trt)
    try:
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    except TypeError as error:  # what the bindings make of a null pointer
        raise ProviderError(
            f"TensorRT cannot build on this machine ({_last(log)}); check the GPU with "
            "`nvidia-smi`, or take --flavour rtx, which builds without one"
        ) from error
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        raise RequestError(_parser_faults(trt, parser))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    config.clear_flag(trt.BuilderFlag.TF32)
    if version_compatible:
        config.set_flag(_option(trt, "BuilderFlag", "VERSION_COMPATIBLE"))
    if hardware_compatible:
        level = _option(trt, "HardwareCompatibilityLevel", "AMPERE_PLUS")
        config.hardware_compatibility_level = level
    profile = builder.create_optimization_profile()
    for name, shapes in profile_shapes(network, max_batch).items():
        profile.set_shape(name, *shapes)
    config.add_optimization_profile(profile)
    if timing_cache is not None:
        _start_timings(config, timing_cache)
    progress = _progress(trt, tell)
    config.progress_monitor = progress
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RequestError(
            f"TensorRT cannot build the engine ({_last(log)}); try a larger --workspace-mb or a "
            "smaller --max-batch"
        )
    if timing_cache is not None:
        write_whole(timing_cache, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _start_timings(config: Any, path: Path) -> None:
    """Start with the timings of a file; those of another GPU or version are refused: with none."""
    known = path.read_bytes() if path.exists() else b""
    if not config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def profile_shapes(network: Any, max_batch: int) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Return smallest, usual and largest shape of every input: batch 1, 1 and `max_batch`.

    Adapters have one shape. The usual batch is 1, a camera's picture: kernels are chosen for it.

    Raises:
        RequestError: Something else than the batch is dynamic.
    """
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {}
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        first, *rest = (int(n) for n in tensor.shape)
        if min(rest, default=1) < 0:
            raise RequestError(
                f"input {tensor.name} has shape {(first, *rest)}; only the batch may be dynamic"
            )
        least, most = ((1, *rest), (max_batch, *rest)) if first < 0 else ((first, *rest),) * 2
        shapes[tensor.name] = (least, least, most)
    return shapes


def trtexec_line(
    key: EngineKey,
    settings: Settings,
    model_name: str,
    *,
    image_size: int,
    input_name: str = "pixels",
) -> str:
    """Return the command of the library's own tool that builds the same engine."""
    shape = f"{input_name}:{{}}x3x{image_size}x{image_size}"
    words = [
        "tensorrt_rtx" if key.flavour == "rtx" else "trtexec",
        f"--onnx={model_name}",
        f"--saveEngine={compiled_name(model_name)}",
        f"--minShapes={shape.format(1)}",
        f"--optShapes={shape.format(1)}",
        f"--maxShapes={shape.format(settings.max_batch)}",
        f"--memPoolSize=workspace:{settings.workspace_mb}",
        "--noTF32",
    ]
    if key.flavour == "full":
        if int(key.version.split(".")[0]) < 11:  # from 11 on there is nothing else
            words.append("--stronglyTyped")
        if key.device == ANY_RECENT_GPU:
            words.append("--hardwareCompatibilityLevel=ampere+")
    if key.version.endswith("+"):
        words.append("--versionCompatible")
    return " ".join(words)


def compare_engines(
    reference: Engine, engine: TensorrtEngine, *, batches: tuple[int, ...] = (1, 2, 5)
) -> Parity:
    """Run two engines on the same generated pictures, with `batches` pictures at once."""
    rng = np.random.default_rng(0)
    side = engine.image_size
    steps = -(-side // 8)
    ours, theirs = [], []
    for n in batches:
        coarse = rng.uniform(-1, 1, (n, 3, 8, 8)).repeat(steps, axis=2).repeat(steps, axis=3)
        noise = rng.uniform(-1, 1, (n, 3, side, side))
        pixels = (0.8 * coarse[:, :, :side, :side] + 0.2 * noise).astype(np.float32)
        ours.append(engine.run(pixels))
        theirs.append(reference.run(pixels))
    return parity_of(np.concatenate(ours), np.concatenate(theirs))


def check_parity(parity: Parity, precision: str) -> None:
    """Refuse an engine that is too far from its ONNX file.

    Raises:
        ParityError: More than 1e-4 (fp32), or a cosine below 0.9995 (fp16) or 0.98 (int8); NaN too.
    """
    if precision == "fp32" and not parity.max_abs <= parity.most_fp32:
        raise ParityError(
            f"the TensorRT engine differs from the ONNX file by {parity.max_abs:.2g}; at most "
            f"{parity.most_fp32:g} is accepted; use another version of TensorRT"
        )
    least = {"fp16": LEAST_COSINE_FP16, "int8": LEAST_COSINE_INT8}.get(precision)
    if least is not None and not parity.cosine >= least:
        raise ParityError(
            f"a feature of the TensorRT engine has cosine {parity.cosine:.5f} to the ONNX file's; "
            f"at least {least:g} is accepted for {precision}; use fp32"
        )


def _parser_faults(trt: Any, parser: Any) -> str:
    """Return one line with every node that the parser refused."""
    faults = []
    for i in range(parser.num_errors):
        problem = parser.get_error(i)
        where = f"{problem.node_operator()} {problem.node_name()}".strip()
        faults.append(f"node {where or '?'}: {' '.join(problem.desc().split())}")
    more = f"; {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
    told = "; ".join(faults[:_MOST_FAULTS]) or "it names no node"
    return (
        f"TensorRT {trt.__version__} cannot read the ONNX file: {told}{more}; use another version "
        "of TensorRT, or predict with onnxruntime"
    )


def _option(trt: Any, kind: str, name: str) -> Any:
    """Return a value that not every version has."""
    value = getattr(getattr(trt, kind, None), name, None)
    if value is None:
        raise UsageError(f"TensorRT {trt.__version__} has no {kind}.{name}; leave the option out")
    return value


def _progress(trt: Any, tell: Callable[[str], None] | None) -> Any:
    """Return what the library tells its progress to; only the outermost phases are passed on."""

    class Progress(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, n_steps: int) -> None:
            if parent is None:
                self.steps[phase] = n_steps

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self.steps and tell is not None:
                share = (step + 1) / max(1, self.steps[phase])
                tell(f"{phase}, {math.floor(100 * min(1.0, share))} %")
            return True

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Progress()


def _last(log: Any) -> str:
    return log.errors[-1] if log.errors else "it gives no reason"
