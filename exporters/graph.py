"""Passes over ONNX graphs: check, half precision. The one file that imports onnx."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from edgecl.errors import MissingPackageError, ParityError

_LARGEST_HALF = 65504.0
# Inputs that stay float32 whatever the type of the rest is: scales and boxes of a Resize.
_ALWAYS_FLOAT = {"Resize": (1, 2)}


def import_onnx() -> Any:  # Any: onnx is not typed
    """Import onnx.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingPackageError(
            f"this export needs onnx ({error}); run `pip install 'edgecl[torch]'`, or `pip install "
            "onnx` where nothing is trained"
        ) from error
    return onnx


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def parse(model: bytes) -> Any:
    """Return the graph of a model file, the shapes of its tensors inferred."""
    onnx = import_onnx()
    return onnx.shape_inference.infer_shapes(onnx.load_from_string(model))


def checked(proto: Any) -> bytes:
    """Return the file of a graph that passes onnx's full check and shape inference.

    Raises:
        ParityError: It does not.
    """
    onnx = import_onnx()
    try:
        whole = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
        onnx.checker.check_model(whole, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ParityError(
            f"the exported graph is not valid ONNX ({str(error).splitlines()[0]}); try another "
            "version of onnx"
        ) from error
    return bytes(proto.SerializeToString())


def without_notes(proto: Any) -> Any:
    """Take out of a model what torch's exporter notes beside nodes: stacks, with paths of files.

    Args:
        proto: An ONNX model, which is changed.

    Returns:
        The model, for a chain.
    """
    del proto.metadata_props[:]
    graphs = [proto.graph, *proto.functions]
    while graphs:
        for node in graphs.pop().node:
            del node.metadata_props[:]
            node.doc_string = ""
            graphs += [g for a in node.attribute for g in (a.g, *a.graphs) if g.node]
    return proto


def opset_of(proto: Any) -> int:
    """Return the opset of a graph's standard operators."""
    return next(int(o.version) for o in proto.opset_import if o.domain in ("", "ai.onnx"))


def shape_of(value: Any) -> tuple[int, ...]:
    """Return the shape of an input or output; 0 stands for what is open."""
    return tuple(int(d.dim_value) for d in value.type.tensor_type.shape.dim)


def rename(graph: Any, old: str, new: str) -> None:
    """Let a tensor of a graph have another name wherever nodes make or take it."""
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new


def to_half(model: bytes) -> bytes:
    """Return a float32 model with weights and arithmetic in float16, inputs and outputs as before.

    The types stand in the graph, which is what a strongly typed builder wants (TensorRT 10 and 11);
    one Cast follows every input, also of adapters, and one stands before every output.
    """
    onnx = import_onnx()
    floats, halves = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    proto = onnx.load_from_string(model)
    graph = proto.graph
    kept = {
        node.input[i]
        for node in graph.node
        for i in _ALWAYS_FLOAT.get(node.op_type, ())
        if i < len(node.input)
    }
    for tensor in graph.initializer:
        if tensor.data_type == floats and tensor.name not in kept:
            _halve(tensor)
    for node in graph.node:
        for part in node.attribute:
            if node.op_type == "Cast" and part.name == "to" and part.i == floats:
                part.i = halves
            elif part.type == onnx.AttributeProto.TENSOR and part.t.data_type == floats:
                if not set(node.output) & kept:
                    _halve(part.t)
    first, last = [], []
    for value in graph.input:
        if value.type.tensor_type.elem_type == floats:
            inner = value.name + "/half"
            rename(graph, value.name, inner)
            first.append(onnx.helper.make_node("Cast", [value.name], [inner], to=halves))
    for value in graph.output:
        if value.type.tensor_type.elem_type == floats:
            inner = value.name + "/half"
            rename(graph, value.name, inner)
            last.append(onnx.helper.make_node("Cast", [inner], [value.name], to=floats))
    nodes = [*first, *graph.node, *last]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # they name the old types
    return checked(proto)


def _halve(tensor: Any) -> None:
    onnx = import_onnx()
    values = np.clip(onnx.numpy_helper.to_array(tensor), -_LARGEST_HALF, _LARGEST_HALF)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), tensor.name))
