"""An int8 graph is right on every x86: channels made equal, sums kept, and none that overflows."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecl.exporters.portable import equalise
from edgecl.exporters.quantize import calibrate, quantise_model
from edgecl.runtime.engines.onnx import OnnxEngine

SIDE = 12
# Weights (O, I / groups, H, W) and groups, in a row behind each other.
LAYERS = {
    "stem": ((8, 3, 3, 3), 1),
    "expand": ((16, 8, 1, 1), 1),
    "depthwise": ((16, 1, 3, 3), 16),
    "project": ((5, 16, 1, 1), 1),
    "odd": ((16, 5, 3, 3), 1),
}


def net(weights: dict[str, np.ndarray]) -> bytes:
    """Return convolutions, clipped to 0..6 behind all but `project`, whose tap is a maximum."""
    constants = {"low": np.float32(0), "high": np.float32(6), "places": np.array([2, 3])}
    nodes, x = [], "pixels"
    for name, w in weights.items():
        constants |= {f"{name}.weight": w, f"{name}.bias": np.full(len(w), 0.1, np.float32)}
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        pads = [w.shape[-1] // 2] * 4
        node = helper.make_node("Conv", inputs, [name], name, group=LAYERS[name][1], pads=pads)
        nodes.append(node)
        x = name
        if name != "project":
            x = f"{name}.clip"
            nodes.append(helper.make_node("Clip", [name, "low", "high"], [x], x))
    for kind, source in (("ReduceMax", "project"), ("ReduceMean", x)):
        nodes.append(helper.make_node(kind, [source, "places"], [kind], kind, keepdims=0))
    nodes.append(helper.make_node("Concat", ["ReduceMax", "ReduceMean"], ["features"], axis=1))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [info("pixels", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [info("features", TensorProto.FLOAT, ["batch", 21])],
        [numpy_helper.from_array(a, name) for name, a in constants.items()],
    )
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


def drawn(kind: str) -> dict[str, np.ndarray]:
    """Return weights, normal ones or such whose sums are as large as can be."""
    rng = np.random.default_rng(0)
    found = {}
    for name, (shape, _) in LAYERS.items():
        n = np.prod(shape[1:])
        w = rng.normal(0, 1 / n**0.5, shape) if kind == "normal" else np.full(shape, 1 / n)
        found[name] = w.astype(np.float32)
    # A derivative: its weights sum to nearly nothing.
    found["depthwise"] -= found["depthwise"].mean(axis=(2, 3), keepdims=True) - np.float32(0.002)
    return found


def pictures(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 3, SIDE, SIDE)).astype(np.float32)


def quantised(model: bytes, recipe: str = "cpu") -> tuple[onnx.GraphProto, bytes]:
    done = quantise_model(calibrate(model, lambda: [pictures(20)]), recipe)
    return onnx.load_from_string(done).graph, done


def of(graph: onnx.GraphProto) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t) for t in graph.initializer}


@pytest.mark.parametrize("kind", ["normal", "even"])
def test_no_sum_of_two_products_overflows_16_bits(kind: str) -> None:
    graph, done = quantised(net(drawn(kind)))
    constants = of(graph)
    for name, (_, groups) in LAYERS.items():
        w = constants[f"{name}.weight_quantized"].astype(int)
        if groups > 1:
            continue
        # Channels last, in twos, as the processor's instruction takes them.
        row = np.moveaxis(w, 1, -1).reshape(len(w), -1)
        row = np.pad(row, ((0, 0), (0, row.shape[1] % 2))).reshape(len(w), -1, 2)
        for sign in (1, -1):
            assert np.maximum(sign * row, 0).sum(axis=2).max() * 255 <= 32_767, name
        assert np.abs(row).max() >= 60  # and no more resolution is given away than that
    # So what is optimised computes what the graph says, in float arithmetic.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = ort.InferenceSession(done, options, providers=["CPUExecutionProvider"])
    white = np.ones((1, 3, SIDE, SIDE), np.float32)
    for x in (pictures(4, seed=1), white, -white):
        fast = OnnxEngine(done, provider="cpu").run(x)
        assert np.abs(fast - plain.run(None, {"pixels": x})[0]).max() < 0.1


@pytest.mark.parametrize("recipe", ["cpu", "trt"])
def test_a_depthwise_convolution_keeps_the_sums_of_its_weights(recipe: str) -> None:
    constants = of(quantised(net(drawn("normal")), recipe)[0])
    # Equalised weights are the drawn ones times a factor of each channel.
    before = drawn("normal")["depthwise"].reshape(16, -1).astype(float)
    q = constants["depthwise.weight_quantized"].reshape(16, -1)
    after = q * constants["depthwise.weight_scale"].astype(float)[:, None]
    factor = (after * before).sum(axis=1) / np.square(before).sum(axis=1)
    step = constants["depthwise.weight_scale"]
    gap = np.abs(after.sum(axis=1) - factor * before.sum(axis=1))
    assert (gap < 0.6 * step).all()
    assert np.abs(after - factor[:, None] * before).max() < 1.5 * step.max()


def test_equal_channels_change_nothing_in_float32() -> None:
    weights = drawn("normal")
    weights["expand"][::2] *= 0.05
    proto = onnx.load_from_string(net(weights))
    x = pictures(20)
    wanted = OnnxEngine(net(weights), provider="cpu").run(x)
    equalise(proto, [{"pixels": part} for part in (x[:10], x[10:])])
    assert np.allclose(OnnxEngine(proto.SerializeToString(), provider="cpu").run(x), wanted, 1e-4)
    changed = {n for n, a in of(proto.graph).items() if not np.array_equal(a, of_net(weights)[n])}
    # `project` is not clipped, so what stands behind it stays.
    assert changed == {
        *(f"{n}.{part}" for n in ("stem", "expand", "depthwise") for part in ("weight", "bias")),
        "project.weight",
    }


def of_net(weights: dict[str, np.ndarray]) -> dict[str, Any]:
    return of(onnx.load_from_string(net(weights)).graph)


def test_an_int8_net_is_near_to_the_float32_one() -> None:
    whole = net(drawn("normal"))
    x = pictures(8, seed=2)
    wanted = OnnxEngine(whole, provider="cpu").run(x)
    for recipe in ("cpu", "trt"):
        ours = OnnxEngine(quantised(whole, recipe)[1], provider="cpu").run(x)
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(wanted, axis=1)
        assert ((ours * wanted).sum(axis=1) / norms).min() > 0.99
