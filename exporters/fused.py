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
from edgecl.runtime.gated import GatedScorer, factors
from edgecl.runtime.mixture import MixedScorer
from edgecl.runtime.preprocess import Preprocessing
from edgecl.runtime.projected import ProjectedScorer
from edgecl.runtime.scoring import LinearScorer, Scorer

from .graph import checked, import_onnx, shape_of

_FILTERS = ("bicubic", "bilinear")


def fuse(
    model: bytes, preprocessing: Preprocessing, scorer: Scorer, adapters: Sequence[Adapter] = ()
) -> bytes:
    """Return one ONNX file with preprocessing, backbone, adapters and head.

    Args:
        model: The backbone as ONNX, at any precision; its inputs and outputs are float32.
        preprocessing: How a picture becomes its input.
        scorer: The head, of form linear, gated or projected, or such a one mixed with an adapter's.
        adapters: None, or the one whose features stand beside the plain ones.

    Raises:
        RequestError: The head has another form, or the picture filter is not known here.
    """
    if not _fits(scorer) or len(adapters) > 1:
        raise RequestError(
            "this head cannot stand in one ONNX file; expected one of the form linear, gated or "
            "projected (ridge, uer, prototype without keys), with the head of one adapter at most; "
            "leave --fused out"
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


def _fits(scorer: Scorer) -> bool:
    """Whether a head can be written as nodes."""
    if isinstance(scorer, MixedScorer):
        parts = [scorer.frozen, *(opinion.scorer for opinion in scorer.opinions)]
        return len(parts) == 2 and isinstance(parts[1], LinearScorer) and _fits(parts[0])
    if isinstance(scorer, ProjectedScorer):
        return scorer.whitening is None
    return isinstance(scorer, LinearScorer | GatedScorer)


def _score(to: _Nodes, scorer: Scorer, features: str, output: str | None = "scores") -> str:
    """Add the head, from features to its scores; returns their name."""
    if isinstance(scorer, MixedScorer):
        return _mix(to, scorer, features, output)
    if isinstance(scorer, LinearScorer):
        x = to.add("MatMul", features, to.float(scorer.weights))
        return to.add("Add", x, to.float(scorer.bias), output=output)
    if isinstance(scorer, GatedScorer):
        logits = _score(to, scorer.linear, features, None)
        near = to.add("MatMul", features, to.float(scorer.keys))
        near = to.add("Add", near, to.float(scorer.key_bias))
        near = to.add("ArgMax", near, axis=1, keepdims=0)
        every = factors(scorer.gates, np.arange(len(scorer.gates)))
        factor = to.add("Gather", to.float(every), near)
        return to.add("Mul", logits, factor, output=output)
    assert isinstance(scorer, ProjectedScorer)
    z = to.add("Sub", features, to.float(scorer.mean))
    z = to.add("Div", z, to.float(scorer.scale))
    if len(scorer.down):
        hidden = to.add("MatMul", z, to.float(scorer.down.T))
        hidden = to.add("Relu", to.add("Add", hidden, to.float(scorer.down_bias)))
        z = to.add("Add", z, to.add("MatMul", hidden, to.float(scorer.up.T)))
    if not scorer.layers or scorer.centres is None:
        return to.add("MatMul", _unit(to, z), to.float(scorer.prototypes.T), output=output)
    cosines = to.add("MatMul", _unit(to, z), to.float(scorer.prototypes.T / 2))
    for i in range(0, len(scorer.layers), 2):
        z = to.add("MatMul", to.add("Relu", z) if i else z, to.float(scorer.layers[i].T))
        z = to.add("Add", z, to.float(scorer.layers[i + 1]))
    behind = to.add("MatMul", _unit(to, z), to.float(scorer.centres.T / 2))
    return to.add("Add", cosines, behind, output=output)


def _unit(to: _Nodes, rows: str) -> str:
    """Add the division of rows by their norms."""
    norm = to.add("Sqrt", to.add("ReduceSum", to.add("Mul", rows, rows), to.int([1]), keepdims=1))
    return to.add("Div", rows, to.add("Max", norm, to.float([1e-8])))


def _mix(to: _Nodes, scorer: MixedScorer, features: str, output: str | None) -> str:
    """Add what `MixedScorer.scores` does."""
    (opinion,) = scorer.opinions
    head = opinion.scorer
    assert isinstance(head, LinearScorer)
    d = len(head.weights)
    plain, adapted = (
        to.add("Slice", features, to.int([start]), to.int([start + d]), to.int([1]))
        for start in (0, d)
    )
    frozen = _score(to, scorer.frozen, plain, None)
    q = to.add("Softmax", to.add("Mul", frozen, to.float([scorer.temperature])), axis=1)
    p = to.add("Softmax", _score(to, head, adapted, None), axis=1)
    # Column j of the opinion is this column of the whole; ones where it knows a class.
    places = np.zeros((len(head.labels), len(scorer.labels)))
    for j, label in enumerate(head.labels):
        places[j, scorer.labels.index(label)] = 1
    known = places.sum(axis=0)
    share = to.add("MatMul", q, to.float(opinion.share * known[:, None]))  # (N, 1)
    dealt = to.add("Mul", share, to.add("MatMul", p, to.float(places)))
    kept = to.add("Mul", q, to.float(1 - opinion.share * known))
    return to.add("Add", kept, dealt, output=output)


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
