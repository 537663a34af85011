"""Makes edgecl/data: the default engine, which ships with edgecl, and its manifest.

Run `python packaging/make_engine.py` in the repository root, with the extra `torch`, and only when
the frozen map was changed on purpose: what runs is the hash in the manifest. The export is taken as
torch makes it, but for two things: strided convolutions pad by `SAME_UPPER`, as TensorFlow does
and timm's `Conv2dSame` copies, where torch writes the numbers for one size; the shapes between
nodes, which are of one size, go.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from edgecl.backbones import load_backbone
from edgecl.exporters.graph import checked, without_notes
from edgecl.exporters.onnx import export_backbone
from edgecl.exporters.parity import Parity, compare
from edgecl.exporters.shipped import DATA, shipped
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.manifest import Manifest
from edgecl.runtime.pretrained import PRETRAINED_NAME, pretrained_bytes

# Of those that 32 does not divide some layers are padded differently.
SIZES = (64, 224, 90, 65)


def portable(model: bytes) -> bytes:
    """Return an export as one that runs at every size."""
    proto = without_notes(onnx.load_from_string(model))
    for node in proto.graph.node:
        if node.op_type == "Conv":
            _pad_same(node)
    del proto.graph.value_info[:]
    return checked(proto)


def _pad_same(node: Any) -> None:
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    total = [k - s for k, s in zip(values["kernel_shape"], values["strides"], strict=True)]
    if list(values["strides"]) == [1, 1]:
        total = [k - 1 for k in values["kernel_shape"]]
    same = [t // 2 for t in total] + [t - t // 2 for t in total]
    if list(values["pads"]) != same:
        raise ValueError(f"{node.name} pads by {values['pads']}; SAME_UPPER is {same}")
    if list(values["strides"]) != [1, 1]:
        kept = [a for a in node.attribute if a.name not in ("pads", "auto_pad")]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.append(onnx.helper.make_attribute("auto_pad", "SAME_UPPER"))


def pack(exported: Path, data: Path = DATA) -> None:
    """Write the portable engine of an export's folder, and compare it with torch at every size."""
    manifest = Manifest.load(exported)
    model = portable((exported / manifest.engine).read_bytes())
    data.mkdir(exist_ok=True)
    (data / manifest.engine).write_bytes(model)
    (data / PRETRAINED_NAME).write_bytes(pretrained_bytes(exported, manifest))
    manifest = replace(manifest, engine_sha256=hashlib.sha256(model).hexdigest())
    manifest.save(data)
    found = [parity_at(size) for size in SIZES]
    worst = Parity(
        max_abs=max(p.max_abs for p in found),
        mean_abs=max(p.mean_abs for p in found),
        cosine=min(p.cosine for p in found),
        n=sum(p.n for p in found),
        rms=min(p.rms for p in found),
    )
    assert worst.max_abs <= worst.most_fp32, worst
    replace(manifest, parity=worst.as_json()).save(data)


def parity_at(size: int) -> Parity:
    """Compare what ships, at a size, with torch."""
    backbone = load_backbone(image_size=size)
    found = shipped(backbone.name, image_size=size)
    assert found is not None
    with tempfile.TemporaryDirectory() as place:
        manifest = found.write(Path(place))
        engine = OnnxEngine((Path(place) / manifest.engine).read_bytes(), provider="cpu")
    return compare(backbone, engine)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        export_backbone(load_backbone(image_size=224), Path(place))
        pack(Path(place))
