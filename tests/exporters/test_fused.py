"""One file from picture to scores equals the pipeline, but for a pixel value here and there."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

import build
from edgecl.errors import RequestError
from edgecl.exporters.fused import fuse
from edgecl.runtime.bank import BankScorer
from edgecl.runtime.engines.onnx import open_session
from edgecl.runtime.gated import GatedScorer
from edgecl.runtime.preprocess import Preprocessing
from edgecl.runtime.projected import ProjectedScorer
from edgecl.runtime.scoring import LinearScorer

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def flat_backbone(size: int) -> bytes:
    """Return a backbone whose features are its pixels."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["pixels"], ["features"])],
        "flat",
        [info("pixels", TensorProto.FLOAT, ["batch", 3, size, size])],
        [info("features", TensorProto.FLOAT, ["batch", 3 * size * size])],
    )
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


def labels(n: int) -> tuple[str, ...]:
    return tuple(f"c{i}" for i in range(n))


def run(fused: bytes, pixels: np.ndarray) -> np.ndarray:
    session, _ = open_session(fused, "cpu", 1, False)
    scores: np.ndarray = session.run(["scores"], {"picture": pixels})[0]
    return scores


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop", [0.875, 1.0])
def test_pixels_are_those_of_the_pipeline(interpolation: str, crop: float) -> None:
    size = 24
    how = Preprocessing(size, crop, interpolation, MEAN, STD)
    d = 3 * size * size
    fused = fuse(
        flat_backbone(size), how, LinearScorer(np.eye(d), np.zeros(d), labels(d), "logits")
    )
    rng = np.random.default_rng(0)
    for height, width in ((48, 48), (97, 64), (31, 240), (24, 25), (9, 13), (300, 411)):
        noise = Image.fromarray(rng.integers(0, 256, (7, 8, 3), np.uint8))
        picture = noise.resize((width, height), Image.Resampling.BICUBIC)
        ours = run(fused, np.asarray(picture)[None]).reshape(3, size, size)
        gap = np.abs(ours - how.tensor(picture)) * 255 * np.array(STD)[:, None, None]
        assert gap.max() < 1.01, (height, width)  # one of 255
        assert (gap > 0.01).mean() < 0.06, (height, width)


def test_a_projected_head_gives_its_cosines() -> None:
    size, d, r, k = 4, 48, 5, 3
    rng = np.random.default_rng(0)
    how = Preprocessing(size, 1.0, "bilinear", MEAN, STD)
    unit = rng.normal(size=(k, d))
    behind = tuple(rng.normal(size=n).astype(np.float32) for n in ((6, d), (6,), (5, 6), (5,)))
    centres = rng.normal(size=(k, 5)) / 5
    for n_hidden, layers in ((0, ()), (r, ()), (r, behind)):
        scorer = ProjectedScorer(
            mean=rng.normal(size=d),
            scale=rng.uniform(0.5, 2, d),
            down=rng.normal(size=(n_hidden, d)).astype(np.float32),
            down_bias=rng.normal(size=n_hidden).astype(np.float32),
            up=rng.normal(size=(d, n_hidden)).astype(np.float32),
            prototypes=unit / np.linalg.norm(unit, axis=1, keepdims=True),
            labels=labels(k),
            temperature=1.0,
            layers=layers,
            centres=centres if layers else None,
        )
        pictures = rng.integers(0, 256, (3, size, size, 3), np.uint8)
        ours = run(fuse(flat_backbone(size), how, scorer), pictures)
        x = np.stack([how.tensor(Image.fromarray(p)) for p in pictures]).reshape(3, d)
        assert np.abs(ours - scorer.scores(x)).max() < 1e-5


def test_a_gated_head_gives_its_logits() -> None:
    size, d, k, e = 4, 48, 3, 5
    rng = np.random.default_rng(0)
    how = Preprocessing(size, 1.0, "bilinear", MEAN, STD)
    linear = LinearScorer(rng.normal(size=(d, k)), rng.normal(size=k), labels(k), "logits")
    scorer = GatedScorer(
        linear, rng.normal(size=(d, e)), rng.normal(size=e), rng.normal(size=(e, k))
    )
    pictures = rng.integers(0, 256, (20, size, size, 3), np.uint8)
    ours = run(fuse(flat_backbone(size), how, scorer), pictures)
    x = np.stack([how.tensor(Image.fromarray(p)) for p in pictures]).reshape(20, d)
    assert np.abs(ours - scorer.scores(x)).max() < 1e-4
    assert np.abs(ours - linear.scores(x)).max() > 0.1


def test_the_file_names_no_class_and_takes_any_batch_and_size() -> None:
    how = Preprocessing(4, 1.0, "bilinear", MEAN, STD)
    scorer = LinearScorer(np.ones((48, 2)), np.zeros(2), build.PARTS[:2], "logits")
    fused = fuse(flat_backbone(4), how, scorer)
    assert not [name for name in scorer.labels if name.encode() in fused]
    model = onnx.load_from_string(fused)
    onnx.checker.check_model(model, full_check=True)
    (picture,) = model.graph.input
    assert picture.type.tensor_type.elem_type == TensorProto.UINT8
    shape = [d.dim_param or d.dim_value for d in picture.type.tensor_type.shape.dim]
    assert shape == ["batch", "height", "width", 3]
    assert run(fused, np.zeros((5, 6, 7, 3), np.uint8)).shape == (5, 2)


def test_other_heads_and_filters_are_refused_in_one_line() -> None:
    how = Preprocessing(4, 1.0, "bilinear", MEAN, STD)
    bank = BankScorer(
        np.zeros((48, 1)), np.zeros(1), np.zeros((48, 1)), np.zeros(1, np.int64), 2, ("a",)
    )
    with pytest.raises(RequestError, match="leave --fused out"):
        fuse(flat_backbone(4), how, bank)
    lanczos = Preprocessing(4, 1.0, "lanczos", MEAN, STD)
    with pytest.raises(RequestError, match="lanczos"):
        fuse(
            flat_backbone(4), lanczos, LinearScorer(np.ones((48, 1)), np.zeros(1), ("a",), "logits")
        )
