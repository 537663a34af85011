"""Typed fp16 and static int8 of ONNX graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecl.errors import ParityError
from edgecl.exporters.graph import checked, to_half
from edgecl.exporters.quantize import calibrate, quantise_model, worst_nodes
from edgecl.home import Home
from edgecl.runtime.engines.onnx import OnnxEngine


def net() -> bytes:
    """Return a small net: convolutions `a`, `b`, `c` in a row, then pooling.

    Weights of `b` for a channel that is almost zero are huge, so that its others are rounded away.
    """
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(0, 0.3, (8, c, 3, 3)) for n, c in (("a", 3), ("b", 8), ("c", 8))}
    weights["a"][0] *= 1e-6
    weights["b"][:, 0] *= 1e3
    nodes, x = [], "pixels"
    for name in weights:
        nodes.append(
            helper.make_node("Conv", [x, f"{name}.weight"], [name], name=name, pads=[1] * 4)
        )
        nodes.append(helper.make_node("Relu", [name], [f"{name}.relu"], name=f"{name}.relu"))
        x = f"{name}.relu"
    nodes.append(helper.make_node("ReduceMean", [x, "axes"], ["features"], name="mean", keepdims=0))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [info("pixels", TensorProto.FLOAT, ["batch", 3, 12, 12])],
        [info("features", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(w.astype(np.float32), f"{n}.weight") for n, w in weights.items()]
        + [numpy_helper.from_array(np.array([2, 3]), "axes")],
    )
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


def pictures(n: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 3, size, size)).astype(np.float32)


def types_of(model: bytes) -> set[str]:
    tensors = onnx.load_from_string(model).graph.initializer
    return {TensorProto.DataType.Name(t.data_type) for t in tensors}


def test_half_has_typed_weights_behind_float32_inputs_and_outputs(adapted_home: Path) -> None:
    home = Home(adapted_home)
    whole = home.engine_bytes(has_adapters=True)
    half = to_half(whole)
    assert types_of(half) == {"FLOAT16", "INT64"}
    assert len(half) < 0.52 * len(whole)
    graph = onnx.load_from_string(half).graph
    kinds = {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
    assert kinds == {TensorProto.FLOAT}
    theirs, ours = OnnxEngine(whole, provider="cpu"), OnnxEngine(half, provider="cpu")
    assert ours.adapter_shapes == theirs.adapter_shapes
    rng = np.random.default_rng(0)
    adapter = {
        name: (rng.normal(0, 0.5, shape) / max(shape) ** 0.5).astype(np.float32)
        for name, shape in ours.adapter_shapes.items()
    }
    x = pictures(2, 64)
    plain = ours.run(x)
    for a, b in (
        (plain, theirs.run(x)),
        (ours.with_adapters(adapter).run(x), theirs.with_adapters(adapter).run(x)),
    ):
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosines.min() > 0.9995
    left, right = np.split(ours.with_adapters(adapter).run(x), 2, axis=1)
    assert np.array_equal(left, plain)
    assert np.abs(plain - right).max() > 0.1


def test_values_beyond_float16_become_its_largest() -> None:
    model = onnx.load_from_string(net())
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.full((8, 3, 3, 3), 1e6, np.float32), "a.weight")
    )
    half = onnx.load_from_string(to_half(model.SerializeToString()))
    assert numpy_helper.to_array(half.graph.initializer[0]).max() == 65504


def test_an_invalid_graph_is_refused() -> None:
    model = onnx.load_from_string(net())
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ParityError, match="not valid ONNX"):
        checked(model)


@pytest.mark.parametrize("recipe", ["cpu", "trt"])
def test_both_recipes_come_from_one_calibration(recipe: str) -> None:
    whole = net()
    model = onnx.load_from_string(
        quantise_model(calibrate(whole, lambda: [pictures(20, 12)]), recipe)
    )
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    assert constants["a.weight_quantized"].dtype == np.int8
    assert constants["a.weight_scale"].shape == (8,)  # one a channel
    taken = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    points = [constants[n.input[2]] for n in taken]
    assert {p.dtype for p in points} == {np.dtype("uint8" if recipe == "cpu" else "int8")}
    if recipe == "trt":
        assert not any(p.any() for p in points)  # symmetric
    assert model.opset_import[0].version == 18


def test_a_projection_of_the_features_stays_float32() -> None:
    model = onnx.load_from_string(net())
    graph = model.graph
    graph.node[-1].output[0] = "pooled"
    graph.node.append(helper.make_node("MatMul", ["pooled", "matrix"], ["product"], name="matmul"))
    graph.node.append(helper.make_node("Sub", ["product", "offset"], ["features"], name="sub"))
    for name, array in (("matrix", np.ones((8, 8))), ("offset", np.ones(8))):
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    calibrated = calibrate(model.SerializeToString(), lambda: [pictures(20, 12)])
    assert {"matmul", "sub"} <= set(calibrated.fixed)
    done = onnx.load_from_string(quantise_model(calibrated, "cpu"))
    kinds = {t.name: t.data_type for t in done.graph.initializer}
    assert kinds["matrix"] == TensorProto.FLOAT
    assert kinds["a.weight_quantized"] == TensorProto.INT8


def test_the_worst_node_is_found_and_stays_float32() -> None:
    whole = net()
    calibrated = calibrate(whole, lambda: [pictures(20, 12)])
    reference = OnnxEngine(whole, provider="cpu")
    x = pictures(4, 12, seed=1)
    worst = worst_nodes(calibrated, "cpu", reference, x)
    assert sorted(worst) == ["a", "b", "c"]
    assert worst[0] == "b"
    gaps = []
    for exclude in ([], worst[:1]):
        model = quantise_model(calibrated, "cpu", exclude=exclude)
        gaps.append(np.abs(OnnxEngine(model, provider="cpu").run(x) - reference.run(x)).max())
        names = {t.name for t in onnx.load_from_string(model).graph.initializer}
        assert ("b.weight" in names) == bool(exclude)
    assert gaps[1] < gaps[0] / 2


def test_adapters_stay_inputs_in_float32(adapted_home: Path) -> None:
    home = Home(adapted_home)
    whole = home.engine_bytes(has_adapters=True)
    theirs = OnnxEngine(whole, provider="cpu")
    rng = np.random.default_rng(0)
    adapter = {
        name: (rng.normal(0, 0.5, shape) / max(shape) ** 0.5).astype(np.float32)
        for name, shape in theirs.adapter_shapes.items()
    }
    x = pictures(6, 64)
    model = quantise_model(calibrate(whole, lambda: [x], [adapter]), "cpu")
    ours = OnnxEngine(model, provider="cpu")
    assert ours.adapter_shapes == theirs.adapter_shapes
    taken = {
        name
        for node in onnx.load_from_string(model).graph.node
        if node.op_type == "QuantizeLinear"
        for name in node.input
    }
    assert not taken & set(ours.adapter_shapes)
    a, b = ours.with_adapters(adapter).run(x), theirs.with_adapters(adapter).run(x)
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosines.min() > 0.9
    left, right = np.split(a, 2, axis=1)
    assert np.abs(left - right).max() > 0.1


def test_added_constants_stay_float32() -> None:
    rng = np.random.default_rng(0)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["pixels"], ["flat"], name="flat"),
            helper.make_node("MatMul", ["flat", "weight"], ["product"], name="product"),
            helper.make_node("Add", ["product", "bias"], ["sum"], name="sum"),
            # A last product would be the projection of a small feature, which stays float32.
            helper.make_node("Relu", ["sum"], ["features"], name="relu"),
        ],
        "linear",
        [info("pixels", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [info("features", TensorProto.FLOAT, ["batch", 6])],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
            for name, shape in (("weight", (48, 6)), ("bias", (6,)))
        ],
    )
    opset = helper.make_opsetid("", 18)
    whole = helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()
    made = quantise_model(calibrate(whole, lambda: [pictures(8, 4)]), "trt")
    names = {t.name: t.data_type for t in onnx.load_from_string(made).graph.initializer}
    assert names["bias"] == TensorProto.FLOAT
    assert names["weight_quantized"] == TensorProto.INT8
