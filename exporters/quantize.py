"""Static int8 with onnxruntime's quantizer: QDQ, weights per channel, activations by min and max.

Two recipes from one calibration. `cpu` has uint8 activations, which x86 runs fastest and TensorRT
does not parse; `trt` has symmetric int8 activations and biases that are not quantised, which
TensorRT parses and which is slower than float32 on x86. Weights per tensor ruin depthwise
convolutions (cosine of the features 0.77 against 0.98), hence per channel.

What adapters compute stays float32: their arrays are inputs, unknown at calibration. So do the
pooling and a projection of the features, which cost nothing and whose values the head wants fine,
and what stands between the matrix products of a transformer.

Ranges and roundings beyond onnxruntime's own are in portable.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgecl.errors import MissingPackageError
from edgecl.runtime.adapters import Adapter, padded, zeros
from edgecl.runtime.engines.onnx import OnnxEngine, import_onnxruntime
from edgecl.types import Float32

from .graph import checked, import_onnx, parse, shape_of
from .portable import equalise, round_weights

RECIPES = ("cpu", "trt")
_OPS = ("Conv", "Gemm", "MatMul", "Add", "Clip", "Relu", "MaxPool", "AveragePool")
# The ones that lose accuracy; the others carry on the type of these.
_HEAVY_OPS = ("Conv", "Gemm", "MatMul", "Add")
_FOLDED = ("Clip", "Relu")


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A float32 model and the ranges of its activations.

    Args:
        proto: The model, shapes inferred, channels equalised.
        ranges: What onnxruntime's calibrator found.
        fixed: Nodes that stay float32.
    """

    proto: Any
    ranges: Any
    fixed: tuple[str, ...]


def calibrate(
    model: bytes, batches: Callable[[], Iterable[Float32]], adapters: Sequence[Adapter] = ()
) -> Calibrated:
    """Make channels equal and find the range of every activation on preprocessed pictures.

    Args:
        model: The backbone as ONNX, float32.
        batches: Gives preprocessed pictures (M, 3, S, S), one at least; called twice.
        adapters: Every one that the engine will run with; without one, no change.

    Raises:
        MissingPackageError: onnx or onnxruntime's quantizer is not installed.
    """
    onnx, calibration = import_onnx(), _import_quantization().calibrate
    proto = parse(model)
    shapes = {value.name: shape_of(value) for value in proto.graph.input[1:]}
    chosen = [padded(adapter, shapes) for adapter in adapters] or [zeros(shapes)]
    name = proto.graph.input[0].name

    def feeds() -> Iterator[dict[str, Float32]]:
        return ({name: batch, **adapter} for batch in batches() for adapter in chosen)

    equalise(proto, feeds())
    with tempfile.TemporaryDirectory(prefix="edgecl-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(proto, str(path))
        calibrator = calibration.create_calibrator(
            path,
            list(_OPS),
            augmented_model_path=str(path.with_name("augmented.onnx")),
            calibrate_method=calibration.CalibrationMethod.MinMax,
        )
        calibrator.collect_data(_Reader(feeds()))
        ranges = calibrator.compute_data()
    fixed = (*_of_adapters(proto.graph, set(shapes)), *_biases(proto.graph), *_last(proto.graph))
    return Calibrated(proto, ranges, fixed)


def quantise_model(
    calibrated: Calibrated,
    recipe: str,
    *,
    exclude: Collection[str] = (),
    only: Sequence[str] = (),
) -> bytes:
    """Return the int8 model, which takes and gives what the float32 one does.

    Args:
        calibrated: Model and ranges.
        recipe: `cpu` or `trt`.
        exclude: Names of nodes that stay float32.
        only: If given, names of the nodes to quantise.
    """
    quantization = _import_quantization()
    is_trt = recipe == "trt"
    signed = quantization.QuantType.QInt8
    proto = type(calibrated.proto)()
    proto.CopyFrom(calibrated.proto)
    kept = [*calibrated.fixed, *exclude]
    names = {n.name for n in proto.graph.node if n.name in only or not only}.difference(kept)
    scales = round_weights(proto, names, is_paired=not is_trt)
    quantizer = quantization.QDQQuantizer(
        proto,
        True,  # per channel
        False,  # full range
        signed,
        signed if is_trt else quantization.QuantType.QUInt8,
        calibrated.ranges,
        list(only),
        kept,
        list(_OPS),
        {
            "ActivationSymmetric": is_trt,
            "WeightSymmetric": True,
            "QuantizeBias": not is_trt,
            "TensorQuantOverrides": scales,
        },
    )
    quantizer.quantize_model()
    _guard(quantizer.model.model.graph, exclude)
    quantizer.model.topological_sort()
    return checked(quantizer.model.model)


def worst_nodes(
    calibrated: Calibrated, recipe: str, reference: OnnxEngine, pixels: Float32
) -> list[str]:
    """Return the nodes that can be quantised, those first that alone change features most.

    Args:
        calibrated: Model and ranges.
        recipe: `cpu` or `trt`.
        reference: The float32 engine, with the adapters that it will run with.
        pixels: A few preprocessed pictures (N, 3, S, S); costs one engine for every node.
    """
    wanted = reference.run(pixels)
    gaps: dict[str, float] = {}
    nodes = calibrated.proto.graph.node
    for node in nodes:
        if node.op_type in _HEAVY_OPS and node.name not in calibrated.fixed:
            # With the clipping behind it, which the quantizer folds into its range.
            folded = [n.name for n in nodes if n.op_type in _FOLDED and n.input[0] in node.output]
            model = quantise_model(calibrated, recipe, only=[node.name, *folded])
            engine = OnnxEngine(model, provider="cpu").with_adapters(*reference.adapters)
            gaps[node.name] = float(np.square(engine.run(pixels) - wanted).sum())
    return sorted(gaps, key=lambda name: -gaps[name])


def _biases(graph: Any) -> tuple[str, ...]:
    """Return the additions of a constant: in int8 they save nothing and cost accuracy."""
    constants = {tensor.name for tensor in graph.initializer}
    return tuple(n.name for n in graph.node if n.op_type == "Add" and constants & set(n.input))


def _last(graph: Any) -> tuple[str, ...]:
    """Return the projection behind the pooling, of a small feature."""
    made_by = {name: node for node in graph.node for name in node.output}
    names, node = [], made_by[graph.output[0].name]
    while node is not None and node.op_type in ("MatMul", "Gemm", "Add", "Sub"):
        names.append(node.name)
        node = made_by.get(node.input[0])
    return tuple(names)


def _guard(graph: Any, names: Collection[str]) -> None:
    """Keep onnxruntime from quantising what was left float32.

    A float32 convolution between quantised tensors it quantises by itself, its weights per tensor
    (1.32, weight and bias quantisation). A maximum of one value, which no optimiser removes, stands
    in between.
    """
    onnx = import_onnx()
    for node in [n for n in graph.node if n.name in names]:
        result, inner = node.output[0], node.output[0] + "/kept"
        node.output[0] = inner
        graph.node.append(onnx.helper.make_node("Max", [inner], [result], name=inner))


class _Reader:
    """What onnxruntime's calibrator reads from."""

    def __init__(self, feeds: Iterator[dict[str, Float32]]) -> None:
        self._feeds = feeds

    def get_next(self) -> dict[str, Float32] | None:
        """Return the next input, or None after the last."""
        return next(self._feeds, None)


def _of_adapters(graph: Any, known: set[str]) -> tuple[str, ...]:
    """Return the nodes that take an adapter's array, as it is or transposed."""
    names = []
    for node in graph.node:
        if known & set(node.input):
            names.append(node.name)
            if node.op_type == "Transpose":
                known |= set(node.output)
    return tuple(names)


def _import_quantization() -> Any:
    """Import onnxruntime's quantizer, telemetry off.

    Raises:
        MissingPackageError: It needs onnx, or onnxruntime is not installed.
    """
    import_onnxruntime()
    import_onnx()
    try:
        import onnxruntime.quantization as quantization
    except ImportError as error:
        raise MissingPackageError(
            f"int8 needs onnxruntime's quantizer ({error}); run `pip install 'edgecl[torch]'`"
        ) from error
    return quantization
