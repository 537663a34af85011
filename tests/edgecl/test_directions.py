"""Small features: fixed, equal on every machine, and a function of one picture alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecl.backbones import load_backbone, load_backbone_of, on_directions
from edgecl.directions import principal_directions, sign_directions, unit_roots
from edgecl.errors import RequestError, UsageError
from edgecl.exporters.onnx import export_backbone
from edgecl.runtime.engines.onnx import OnnxEngine

STAGES = (4, 6, 10)


def wide_features(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.maximum(rng.normal(0.2, 2, (n, sum(STAGES))), 0).astype(np.float32)


def test_signs_are_these_for_ever() -> None:
    """Homes carry the hash; it was made with CPython's SHAKE-128 and needs no floating point."""
    signs = sign_directions(2224, 512)
    assert signs.sha256 == "579e83d82f68f4750219d13bc4b3b335a49214265e23926cfa06e0969976dc9d"
    assert set(np.unique(signs.matrix)) == {-1.0, 1.0}
    assert abs(signs.matrix.mean()) < 0.005
    assert sign_directions(7, 3).matrix.shape == (7, 3)


def test_roots_keep_signs_and_every_block_has_length_one() -> None:
    x = np.array([[4, -9, 0, 0, 0.25, 0]], np.float32)
    out = unit_roots(torch.from_numpy(x), (2, 2, 2)).numpy()
    expected = [2 / 13**0.5, -3 / 13**0.5, 0, 0, 1, 0]
    np.testing.assert_allclose(out[0], expected, atol=3e-4)


def test_who_trains_through_roots_of_zero_gets_a_finite_slope() -> None:
    x = torch.zeros(2, 6, requires_grad=True)
    unit_roots(x, (2, 4)).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_principal_directions_are_uncorrelated_and_of_deviation_one_on_their_pictures() -> None:
    wide = wide_features(300)
    found = principal_directions(wide, STAGES, 5)
    x = unit_roots(torch.from_numpy(wide), STAGES).numpy() @ found.matrix - found.offset
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(x, rowvar=False), np.eye(5), atol=1e-3)


@pytest.mark.parametrize(("n_pictures", "n"), [(5, 5), (300, 21), (300, 0)])
def test_too_few_pictures_or_features_for_directions_are_refused(n_pictures: int, n: int) -> None:
    with pytest.raises(UsageError, match="give more pictures or take fewer"):
        principal_directions(wide_features(n_pictures), STAGES, n)


def test_a_small_backbone_projects_its_wide_feature_and_so_does_its_engine(tmp_path: Path) -> None:
    options = {"weights": "random", "image_size": 32}
    wide = load_backbone("test_efficientnet", **options)
    small = load_backbone("test_efficientnet", features=24, **options)
    assert (small.num_features, small.stages) == (24, (24,))
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    roots = unit_roots(wide.forward_features(pixels), wide.stages).numpy()
    expected = roots @ sign_directions(wide.num_features, 24).matrix
    np.testing.assert_allclose(small.forward_features(pixels).numpy(), expected, atol=1e-4)
    manifest = export_backbone(small, tmp_path, adapter_rank=2)
    engine = OnnxEngine((tmp_path / manifest.engine).read_bytes(), provider="cpu")
    np.testing.assert_allclose(engine.run(pixels.numpy()), expected, atol=1e-4)
    assert load_backbone_of(manifest).directions == manifest.directions == small.directions
    pictures = wide.forward_features(
        torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ).numpy()
    own = on_directions(wide, principal_directions(pictures, wide.stages, 24))
    assert own.forward_features(pixels).shape == (3, 24)
    with pytest.raises(RequestError, match="came from pictures"):
        load_backbone_of(replace(manifest, directions=own.directions))


@pytest.mark.parametrize("features", [0, -1, 10_000])
def test_a_width_that_the_backbone_does_not_have_is_refused(features: int) -> None:
    with pytest.raises(UsageError, match="choose 1 to"):
        load_backbone("test_efficientnet", weights="random", image_size=32, features=features)
