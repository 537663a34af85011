"""What keeps an int8 graph right on every processor: ranges of channels, and roundings of weights.

Equal channels. One range holds for all channels of an activation, and behind ReLU6 many channels
use a tenth of it. A channel is scaled up before the clipping and down in the weights behind it,
which changes nothing in float32 as long as it stays below what it reached on the calibration
pictures, and some room. Nagel et al. 2019, "Data-free quantization through weight equalization and
bias correction", arXiv:1906.04721; differs: ranges of activations, not of weights, are made equal,
since those are quantised per channel anyway.

Weights that keep their sums. A depthwise convolution is often a derivative: nine weights, of which
the largest is a hundred times their sum. Rounded one by one they have another sum, and so another
answer to every even surface: the 288 weights of lite0's first one cost more than all others. So
they are rounded such that the sum of a channel stays.

Weights that cannot overflow. Without VNNI an x86 multiplies an unsigned by a signed byte and adds
two neighbours in 16 bits, which hold 32,767: two products of 255 and 127 are cut to half their
sum, without a word. So the scale of a channel's weights is chosen such that no two neighbours sum
to more than 128. It costs a fifth of the resolution, where `reduce_range` of onnxruntime's
quantizer costs half of it. Depthwise convolutions add in 32 bits (1.32, measured) and need none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from edgecl.runtime.engines.onnx import open_session
from edgecl.types import Float32, Float64

from .graph import import_onnx

# Of the largest value on the calibration pictures: room for others. And the most that a channel
# is scaled by: one that hardly speaks need not be heard in every detail.
_ROOM = 1.25
_MOST = 8.0
# In front of a convolution that sums over channels, whose own rounding then counts more.
_POWER = 0.5
_LARGEST = 127
# Of the largest scale: a bias is a whole number of them, too large a one where weights vanish.
_LEAST = 1e-3


def equalise(proto: Any, feeds: Iterable[dict[str, Float32]]) -> None:
    """Scale the channels behind every clipping so that each uses its range; changes the model.

    Args:
        proto: A float32 model; clippings that do not stand between two convolutions stay.
        feeds: Its inputs, for the calibration pictures.
    """
    graph = proto.graph
    pairs = list(_clipped(graph))
    largest = _largest(proto, [clip.output[0] for _, clip, _ in pairs], feeds)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for (before, clip, behind), most in zip(pairs, largest, strict=True):
        top = float(_array(weights[clip.input[2]]))
        scale = np.clip(top / np.maximum(_ROOM * most, 1e-12), 1.0, _MOST)
        scale = np.where(most > 0, scale, 1.0)
        is_depthwise = _group(behind) > 1
        scale = scale if is_depthwise else scale**_POWER
        for name in before.input[1:]:
            _set(weights[name], _along(_array(weights[name]), scale, 0))
        name = behind.input[1]
        _set(weights[name], _along(_array(weights[name]), 1 / scale, 0 if is_depthwise else 1))


def round_weights(
    proto: Any, names: Iterable[str], *, is_paired: bool
) -> dict[str, list[dict[str, Any]]]:
    """Round the weights of depthwise convolutions; returns scales of all, as the quantizer takes.

    Args:
        proto: A float32 model, which is changed.
        names: Of nodes, convolutions, matrix products and others; those without weights are passed.
        is_paired: Whether what runs it may add two products in 16 bits.
    """
    chosen = set(names)
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    found: dict[str, list[dict[str, Any]]] = {}
    for node in proto.graph.node:
        if node.name not in chosen or len(node.input) < 2 or node.input[1] not in weights:
            continue
        w = _array(weights[node.input[1]])
        is_summed = _group(node) == 1 or w.shape[1] > 1  # not in a depthwise one
        if node.op_type == "Conv":
            # Channels last, as they are summed.
            rows, axis = np.moveaxis(w, 1, -1).reshape(len(w), -1), 0
        elif node.op_type in ("MatMul", "Gemm") and w.ndim == 2:
            axis = int(not _attribute(node, "transB", 0))
            rows = w if axis == 0 else w.T
        else:
            continue
        scales = _scales(rows, is_paired=is_summed and is_paired)
        if not is_summed:
            kept = _sums_kept(rows / scales[:, None]) * scales[:, None]
            _set(weights[node.input[1]], np.moveaxis(kept.reshape(_last(w)), -1, 1))
        found[node.input[1]] = [
            {"axis": axis, "scale": s, "zero_point": np.int8(0)} for s in scales.astype(np.float32)
        ]
    return found


def _sums_kept(rows: Float64) -> Float64:
    """Round rows (C, K) such that the sum of each is off by half of one at most.

    Those go the other way that were nearest to it.
    """
    rounded = np.round(rows)
    missing = np.round(rows.sum(axis=1) - rounded.sum(axis=1))[:, None]
    sign = np.sign(missing)
    rank = ((rounded - rows) * sign).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    kept: Float64 = np.clip(rounded + sign * (rank < np.abs(missing)), -_LARGEST, _LARGEST)
    return kept


def _last(w: Float64) -> tuple[int, ...]:
    """Return the shape of weights (O, I, H, W) with I at the end."""
    return (w.shape[0], *w.shape[2:], w.shape[1])


def _scales(rows: Float64, *, is_paired: bool) -> Float64:
    most = np.abs(rows).max(axis=1)
    if is_paired:
        even = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(rows), -1, 2)
        # Rounded, a sum of 127 can become 128, which still fits: 128 * 255 = 32,640.
        sums = [np.maximum(sign * even, 0).sum(axis=2).max(axis=1) for sign in (1, -1)]
        most = np.maximum(sums[0], sums[1])
    scales: Float64 = np.maximum(most, max(_LEAST * most.max(), 1e-12)) / _LARGEST
    return scales


def _clipped(graph: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yield convolution, clipping between zero and a bound, convolution, in this order."""
    made_by = {name: node for node in graph.node for name in node.output}
    taken_by: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            taken_by.setdefault(name, []).append(node)
    for value in graph.output:  # what is given out keeps its scale
        taken_by.setdefault(value.name, []).append(value)
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for clip in graph.node:
        if clip.op_type != "Clip" or len(clip.input) < 3 or not set(clip.input[1:]) <= set(tensors):
            continue
        before, behind = made_by.get(clip.input[0]), taken_by.get(clip.output[0], [])
        if (
            before is not None
            and before.op_type == "Conv"
            and len(taken_by[clip.input[0]]) == 1
            and [getattr(node, "op_type", "") for node in behind] == ["Conv"]
            and all(set(node.input[1:]) <= set(tensors) for node in (before, *behind))
            and _group(behind[0]) in (1, len(_array(tensors[behind[0].input[1]])))
            and float(_array(tensors[clip.input[1]])) == 0
        ):
            yield before, clip, behind[0]


def _largest(
    proto: Any, names: Sequence[str], feeds: Iterable[dict[str, Float32]]
) -> list[Float64]:
    """Return the largest value of each channel of these activations."""
    onnx = import_onnx()
    probe = type(proto)()
    probe.CopyFrom(proto)
    places = onnx.numpy_helper.from_array(np.array([0, 2, 3], np.int64), "portable/places")
    probe.graph.initializer.append(places)
    for i, name in enumerate(names):
        out = f"portable/{i}"
        probe.graph.node.append(
            onnx.helper.make_node("ReduceMax", [name, places.name], [out], keepdims=0)
        )
        probe.graph.output.append(onnx.helper.make_empty_tensor_value_info(out))
    session, _ = open_session(probe.SerializeToString(), "cpu", 1, False)
    outs = [f"portable/{i}" for i in range(len(names))]
    found = [session.run(outs, feed) for feed in feeds] if names else []
    return [np.max(values, axis=0).astype(np.float64) for values in zip(*found, strict=True)]


def _group(node: Any) -> int:
    return int(_attribute(node, "group", 1))


def _attribute(node: Any, name: str, default: int) -> Any:
    onnx = import_onnx()
    return next(
        (onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default
    )


def _along(values: Float64, scale: Float64, axis: int) -> Float64:
    shape = [1] * values.ndim
    shape[axis] = -1
    scaled: Float64 = values * scale.reshape(shape)
    return scaled


def _array(tensor: Any) -> Any:
    return import_onnx().numpy_helper.to_array(tensor)


def _set(tensor: Any, values: Any) -> None:
    """Give a constant other values, of the type that it has."""
    numpy_helper = import_onnx().numpy_helper
    dtype = numpy_helper.to_array(tensor).dtype
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, dtype), tensor.name))
