"""What ships is what torch gives today: its features, and an export of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgecl.backbones import Backbone, load_backbone
from edgecl.config import Config
from edgecl.exporters.onnx import init_home
from edgecl.exporters.parity import MAX_ABS_FP32, compare, generated_pictures
from edgecl.exporters.shipped import DATA, Shipped, shipped
from edgecl.home import Home
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.manifest import Manifest, checked_engine

ROOT = Path(__file__).parents[2]


def written(place: Path, found: Shipped | None) -> tuple[Manifest, OnnxEngine]:
    assert found is not None
    manifest = found.write(place)
    return manifest, OnnxEngine(checked_engine(place, manifest), provider="cpu")


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 224},
        {"image_size": 64, "tap_pool": "avg"},
        {"image_size": 65},
        {"image_size": 90, "taps": (2, 4)},
        {"image_size": 47, "taps": ()},
    ],
    ids=str,
)
def test_it_is_the_network_of_torch_at_every_size(tmp_path: Path, options: dict[str, Any]) -> None:
    backbone = load_backbone(**options)
    manifest, engine = written(tmp_path, shipped(backbone.name, **options))
    assert compare(backbone, engine).max_abs <= MAX_ABS_FP32
    onnx.checker.check_model(str(tmp_path / manifest.engine), full_check=True)
    for part in ("weights_sha256", "preprocessing", "taps", "tap_pool", "stages", "num_features"):
        assert getattr(manifest, part) == getattr(backbone, part), part


@pytest.mark.slow
def test_an_export_of_today_gives_the_same(tmp_path: Path, backbone: Backbone) -> None:
    """Homes made both ways have one feature map, and compute the same."""
    (tmp_path / "ships").mkdir()
    manifest, ships = written(tmp_path / "ships", shipped(backbone.name, image_size=64))
    home: Home = init_home(tmp_path / "home", backbone, Config())
    assert home.manifest.feature_map == manifest.feature_map
    pictures = generated_pictures(8, 64, seed=3)
    x = np.stack([manifest.preprocessing.tensor(picture) for picture in pictures])
    assert np.abs(home.engine().run(x) - ships.run(x)).max() <= 1e-5


@pytest.mark.slow
def test_the_recipe_makes_what_ships(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("recipe", ROOT / "packaging/make_engine.py")
    assert spec is not None
    assert spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    whole = load_backbone(image_size=224)
    recipe.export_backbone(whole, tmp_path)
    engine = OnnxEngine(recipe.portable((tmp_path / "backbone.onnx").read_bytes()), provider="cpu")
    ships = OnnxEngine((DATA / "backbone.onnx").read_bytes(), provider="cpu")
    x = np.random.default_rng(5).uniform(-1, 1, (2, 3, 224, 224)).astype(np.float32)
    assert np.abs(engine.run(x) - ships.run(x)).max() <= 1e-5
