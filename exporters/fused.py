"""One ONNX file from a decoded picture to scores, for people who bring their own runtime.

    picture (N, H, W, 3) uint8, any size  ->  resize, crop, normalise  ->  backbone  ->  head
                                                                          ->  scores (N, K) float32

The resize is two matrix products whose weights are computed from H and W inside the graph: Pillow's
filter at Pillow's sample points, rounded to whole pixel values after each of the two passes as
Pillow does. The Resize operator is not used: without `antialias` it is another filter, and with it
few runtimes know it. What is left of a difference to `runtime/preprocess.py` is float32 against
fixed point: now and then a pixel value is one of 255 off.

Adapters are constants here. Names of classes are not in the file; the bundle's manifest has them,
in the order of the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.errors import RequestError
from edgecl.runtime.adapters import Adapter, padded, zeros
from edgecl.runtime.preprocess import Preprocessing
from edgecl.runtime.scoring import LinearScorer, ProjectedScorer, Scorer

from .graph import checked, import_onnx, shape_of

_FILTERS = ("bicubic", "bilinear")


def fuse(
    model: bytes, preprocessing: Preprocessing, scorer: Scorer, adapters: Sequence[Adapter] = ()
) -> bytes:
    """Return one ONNX file with preprocessing, backbone, adapters and head.

    Args:
        model: The backbone as ONNX, at any precision; its inputs and outputs are float32.
        preprocessing: How a picture becomes its input.
        scorer: The head, of form linear or projected.
        adapters: None, or the one that makes the head's features.

    Raises:
        RequestError: The head has another form, or the picture filter is not known here.
    """
    is_mapped = isinstance(scorer, ProjectedScorer) and scorer.whitening is not None
    if not isinstance(scorer, LinearScorer | ProjectedScorer) or is_mapped or len(adapters) > 1:
        raise RequestError(
            "this head cannot stand in one ONNX file; expected one of the form linear or projected "
            "(ridge, uer, prototype without keys) on one adapter at most; leave --fused out"
        )
    if preprocessing.interpolation not in _FILTERS:
        raise RequestError(
            f"pictures are scaled with {preprocessing.interpolation}, a fused file knows "
            f"{' and '.join(_FILTERS)}; leave --fused out"
        )
    onnx = import_onnx()
    proto = onnx.load_from_string(model)
    graph = proto.graph
    pixels, *rest = graph.input
    features = graph.output[0].name
    shapes = {value.name: shape_of(value) for value in rest}
    baked = padded(adapters[0], shapes) if adapters else zeros(shapes)

    before = _Nodes("picture")
    _preprocess(before, preprocessing, pixels.name)
    after = _Nodes("head")
    _score(after, scorer, features)

    nodes = [*before.nodes, *graph.node, *after.nodes]
    for part in (graph.node, graph.input, graph.output, graph.value_info):
        del part[:]
    graph.node.extend(nodes)
    graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in baked.items())
    graph.initializer.extend([*before.constants, *after.constants])
    types, make = onnx.TensorProto, onnx.helper.make_tensor_value_info
    graph.input.append(make("picture", types.UINT8, ["batch", "height", "width", 3]))
    graph.output.append(make("scores", types.FLOAT, ["batch", len(scorer.labels)]))
    return checked(proto)


def _preprocess(to: _Nodes, how: Preprocessing, pixels: str) -> None:
    """Add what `Preprocessing.tensor` does, from the input `picture` to a tensor of this name."""
    size, side = how.image_size, how.resize_side
    shape = to.add("Shape", "picture")
    lengths = [to.add("Gather", shape, to.int([axis])) for axis in (1, 2)]
    short = to.add("Min", *lengths)
    weights = []
    for length in lengths:
        new = to.add("Div", to.add("Mul", length, to.int([side])), short)
        rest = to.add("Cast", to.add("Sub", new, to.int([size])), to=to.FLOAT)
        # Half to even, as Python's round.
        start = to.add("Round", to.add("Mul", rest, to.float([0.5])))
        full = to.add("Cast", length, to=to.FLOAT)
        step = to.add("Div", full, to.add("Cast", new, to=to.FLOAT))
        # Centres of the S new pixels, (S, 1), and of the old ones, (length,), in old pixels.
        places = to.float(np.arange(size)[:, None] + 0.5)
        new_centres = to.add("Mul", to.add("Add", places, start), step)
        count = to.add("Range", to.int(0), to.add("Squeeze", length, to.int([0])), to.int(1))
        centres = to.add("Add", to.add("Cast", count, to=to.FLOAT), to.float([0.5]))
        width = to.add("Max", step, to.float([1.0]))
        apart = to.add("Abs", to.add("Sub", centres, new_centres))
        raw = _filter(to, how.interpolation, to.add("Div", apart, width))  # (S, length)
        weights.append(to.add("Div", raw, to.add("ReduceSum", raw, to.int([1]), keepdims=1)))
    down, across = weights
    x = to.add("Cast", "picture", to=to.FLOAT)  # the one thing that TensorRT does with uint8
    x = to.add("Transpose", x, perm=[0, 3, 1, 2])  # (N, 3, H, W)
    x = to.whole(to.add("MatMul", x, to.add("Transpose", across, perm=[1, 0])))  # (N, 3, H, S)
    x = to.whole(to.add("MatMul", down, x))  # (N, 3, S, S)
    mean, std = (np.array(v, np.float64)[:, None, None] for v in (how.mean, how.std))
    x = to.add("Mul", x, to.float(1 / (255 * std)))
    to.add("Sub", x, to.float(mean / std), output=pixels)


def _filter(to: _Nodes, kind: str, t: str) -> str:
    """Add Pillow's filter of distances (not negative), in units of its width."""
    one = to.float(1.0)
    if kind == "bilinear":
        return to.add("Relu", to.add("Sub", one, t))
    # Keys's cubic with a = -1/2, by Horner.
    near = to.add("Sub", to.add("Mul", t, to.float(1.5)), to.float(2.5))
    near = to.add("Add", to.add("Mul", near, to.add("Mul", t, t)), one)
    far = to.add("Add", to.add("Mul", to.add("Sub", t, to.float(5.0)), t), to.float(8.0))
    far = to.add("Mul", to.add("Sub", to.add("Mul", far, t), to.float(4.0)), to.float(-0.5))
    far = to.add("Where", to.add("Less", t, to.float(2.0)), far, to.float(0.0))
    return to.add("Where", to.add("Less", t, one), near, far)


def _score(to: _Nodes, scorer: LinearScorer | ProjectedScorer, features: str) -> None:
    """Add the head, from features to the output `scores`."""
    if isinstance(scorer, LinearScorer):
        x = to.add("MatMul", features, to.float(scorer.weights))
        to.add("Add", x, to.float(scorer.bias), output="scores")
        return
    z = to.add("Sub", features, to.float(scorer.mean))
    z = to.add("Div", z, to.float(scorer.scale))
    if len(scorer.down):
        hidden = to.add("MatMul", z, to.float(scorer.down.T))
        hidden = to.add("Relu", to.add("Add", hidden, to.float(scorer.down_bias)))
        z = to.add("Add", z, to.add("MatMul", hidden, to.float(scorer.up.T)))
    if not scorer.layers or scorer.centres is None:
        to.add("MatMul", _unit(to, z), to.float(scorer.prototypes.T), output="scores")
        return
    cosines = to.add("MatMul", _unit(to, z), to.float(scorer.prototypes.T / 2))
    for i in range(0, len(scorer.layers), 2):
        z = to.add("MatMul", to.add("Relu", z) if i else z, to.float(scorer.layers[i].T))
        z = to.add("Add", z, to.float(scorer.layers[i + 1]))
    behind = to.add("MatMul", _unit(to, z), to.float(scorer.centres.T / 2))
    to.add("Add", cosines, behind, output="scores")


def _unit(to: _Nodes, rows: str) -> str:
    """Add the division of rows by their norms."""
    norm = to.add("Sqrt", to.add("ReduceSum", to.add("Mul", rows, rows), to.int([1]), keepdims=1))
    return to.add("Div", rows, to.add("Max", norm, to.float([1e-8])))


class _Nodes:
    """Nodes and constants in the order in which they were added.

    Args:
        prefix: Of all names, so that they are not the backbone's.
    """

    def __init__(self, prefix: str) -> None:
        self._onnx = import_onnx()
        self.FLOAT = self._onnx.TensorProto.FLOAT
        self._prefix = prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        name = output or f"{self._prefix}/{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def int(self, value: npt.ArrayLike) -> str:
        """Add an int64 constant; returns its name."""
        return self._constant(np.asarray(value, np.int64))

    def float(self, value: npt.ArrayLike) -> str:
        """Add a float32 constant; returns its name."""
        return self._constant(np.ascontiguousarray(value, np.float32))

    def whole(self, x: str) -> str:
        """Add rounding to whole pixel values 0..255."""
        floor = self.add("Floor", self.add("Add", x, self.float(0.5)))
        return self.add("Min", self.add("Relu", floor), self.float(255.0))

    def _constant(self, array: npt.NDArray[Any]) -> str:
        name = f"{self._prefix}/constant-{len(self.constants)}"
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name
