"""Adapters: their places in two families of backbones, their training, their arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgecl.adapters.bottleneck import adapt, input_shapes, new_adapter, residual
from edgecl.adapters.training import (
    Training,
    consistency_loss,
    fused,
    merge_,
    spreading_loss,
    train_adapter,
    view_batches,
)
from edgecl.backbones import Backbone, load_backbone
from edgecl.errors import FeatureMapError, UsageError
from edgecl.runtime.adapters import digest_of, mean_of, padded, zeros


@pytest.fixture(scope="module")
def vit() -> Backbone:
    return load_backbone("vit_tiny_patch16_224", weights="random", image_size=32)


def random_pixels(n: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(seed).uniform(-1, 1, (n, 3, size, size)).astype(np.float32)
    )


def tensors(adapter: dict[str, np.ndarray]) -> list[torch.Tensor]:
    return [torch.from_numpy(a) for a in adapter.values()]


@pytest.mark.parametrize("kind", ["conv", "vit"])
def test_a_new_adapter_and_zeros_are_the_plain_backbone(
    kind: str, backbone: Backbone, vit: Backbone
) -> None:
    of = backbone if kind == "conv" else vit
    network = adapt(of)
    x = random_pixels(2, of.preprocessing.image_size)
    plain = of.forward_features(x)
    with torch.inference_mode():
        for adapter in (zeros(network.shapes), new_adapter(network.shapes, seed=3)):
            assert torch.allclose(network(x, tensors(adapter)), plain, atol=1e-6)


@pytest.mark.parametrize("tap_pool", ["avg", "catavgmax"])
@pytest.mark.parametrize("taps", [(), (0, 4), (1, 2, 3)])
def test_taps_before_and_after_the_first_adapter_are_pooled_as_without_adapters(
    tap_pool: str, taps: tuple[int, ...]
) -> None:
    small = load_backbone(
        "test_efficientnet", weights="random", image_size=64, taps=taps, tap_pool=tap_pool
    )
    network, x = adapt(small, rank=2), random_pixels(2, 64)
    with torch.inference_mode():
        out = network(x, tensors(new_adapter(network.shapes)))
    assert torch.allclose(out, small.forward_features(x), atol=1e-6)


@pytest.mark.parametrize("name", ["test_efficientnet", "vit_tiny_patch16_224"])
def test_adapters_stand_before_fixed_directions(name: str) -> None:
    small = load_backbone(name, weights="random", image_size=32, features=20)
    network, x = adapt(small, rank=2), random_pixels(2, 32)
    parts = [p.requires_grad_() for p in tensors(new_adapter(network.shapes))]
    out = network(x, parts)
    assert torch.allclose(out.detach(), small.forward_features(x), atol=1e-5)
    out.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in parts if p.grad is not None)
    assert any(bool(p.grad.any()) for p in parts if p.grad is not None)


@pytest.mark.parametrize("kind", ["conv", "vit"])
def test_every_site_changes_the_features(kind: str, backbone: Backbone, vit: Backbone) -> None:
    of = backbone if kind == "conv" else vit
    network = adapt(of, rank=4)
    x = random_pixels(1, of.preprocessing.image_size)
    plain = of.forward_features(x)
    for site in network.sites:
        adapter = zeros(network.shapes)
        # Not a constant, which a LayerNorm would take out again.
        adapter[f"adapter.{site.name}.up_bias"][::2] = 0.5
        with torch.inference_mode():
            assert not torch.allclose(network(x, tensors(adapter)), plain, atol=1e-3), site


def test_parameter_counts_of_the_papers_backbones(backbone: Backbone) -> None:
    """MOS: 304,320 a task on ViT-B/16 with rank 16; lite0's last eleven blocks have 55,088."""
    from edgecl.adapters.bottleneck import Site

    vit_b = input_shapes([Site(f"blocks.{i}", 768) for i in range(12)], 16)
    assert sum(int(np.prod(shape)) for shape in vit_b.values()) == 304_320
    lite0 = adapt(backbone).shapes
    assert sum(int(np.prod(shape)) for shape in lite0.values()) == 55_088
    assert len(lite0) == 44


def test_residual_equals_the_official_numbers() -> None:
    """Numeric check of the official code: d = 4, r = 2, s = 0.1."""
    down = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0]])
    up = torch.tensor([[1.0, 0], [0, 1], [1, 1], [0, 0]]) * 0.1
    parts = [down, torch.tensor([0.0, 1.0]), up, torch.tensor([0.0, 0, 0, 1]) * 0.1]
    for h, wanted in (
        ([2.0, 3, 0, 0], [0.2, 0, 0.2, 0.1]),
        ([2.0, -3, 0, 0], [0.2, 0.4, 0.6, 0.1]),
    ):
        out = residual(torch.tensor([[h]]), parts, dropout=0.0)
        assert torch.allclose(out, torch.tensor([[wanted]]), atol=1e-6)
        pixel = torch.tensor(h).reshape(1, 4, 1, 1)
        assert torch.allclose(residual(pixel, parts, dropout=0.0).flatten(), torch.tensor(wanted))


def test_merge_equals_the_official_numbers() -> None:
    """Prefix mean 1 and A = 0 gives 0.1; with the mean of {1, 0} it gives 0.05."""
    part = [torch.zeros(2)]
    merge_(part, [torch.ones(2)], 0.1)
    assert torch.allclose(part[0], torch.full((2,), 0.1))
    part = [torch.zeros(2)]
    mean = mean_of([{"a": np.ones(2, np.float32)}, {"a": np.zeros(2, np.float32)}])
    merge_(part, [torch.from_numpy(mean["a"])], 0.1)
    assert torch.allclose(part[0], torch.full((2,), 0.05))


@pytest.mark.parametrize(
    ("rows", "means", "wanted"),
    [
        ([[1, 0], [0, 1]], [], 0.0251929),
        ([[1, 0], [0, 1]], [[1, 1]], 0.0702346),
        ([[10, 0], [0, 10]], [], 0.0),
        ([[1, 0], [1, 0]], [], 0.0693147),
    ],
)
def test_spreading_equals_the_official_numbers(
    rows: list[list[float]], means: list[list[float]], wanted: float
) -> None:
    """Numeric check of the official code, times its weight 0.1."""
    z = torch.tensor(rows, dtype=torch.float32)
    of = torch.tensor(means, dtype=torch.float32).reshape(-1, 2)
    assert 0.1 * float(spreading_loss(z, of)) == pytest.approx(wanted, abs=1e-6)


def test_consistency_equals_the_worked_numbers_and_spares_the_weak_view() -> None:
    """KL 0.226289 for (.9, .1) and (.6, .4); the weak view is a target only."""
    logits = torch.log(torch.tensor([[[0.9, 0.1], [0.6, 0.4]]])).requires_grad_(True)
    loss = consistency_loss(logits)
    assert float(loss.detach()) == pytest.approx(0.226289, abs=1e-6)
    loss.backward()
    assert torch.allclose(logits.grad, torch.tensor([[[0.0, 0], [-0.3, 0.3]]]), atol=1e-6)


@pytest.mark.parametrize(("n", "views"), [(10, 1), (10, 2), (11, 4), (3, 4), (1, 4)])
def test_view_batches_give_equal_exposure_and_rest(n: int, views: int) -> None:
    epochs = list(view_batches(n, views, 8, 2 * views, np.random.default_rng(0)))
    assert len(epochs) == 2 * views
    for cycle in (epochs[:views], epochs[views:]):
        seen = [pair for batches in cycle for batch in batches for pair in batch]
        pictures = [i for i, _ in seen]
        # Every picture once in V epochs, V views of it in one batch, the weak one first.
        assert sorted(pictures) == sorted(list(range(n)) * views)
        for batches in cycle:
            for batch in batches:
                for k in range(0, len(batch), views):
                    group = batch[k : k + views]
                    assert len({i for i, _ in group}) == 1
                    assert group[0][1] == 0
                    assert len({view for _, view in group}) == views
    strong = [pair for batches in epochs for batch in batches for pair in batch if pair[1]]
    assert len(set(strong)) == len(strong), "strong views are drawn anew"


def test_fused_computes_the_same(backbone: Backbone) -> None:
    network = adapt(backbone)
    rng = np.random.default_rng(1)
    adapter = {k: rng.normal(0, 0.05, s).astype(np.float32) for k, s in network.shapes.items()}
    x = random_pixels(2, backbone.preprocessing.image_size)
    with torch.inference_mode():
        plain = network(x, tensors(adapter))
        fast = fused(network)(x, tensors(adapter))
    assert torch.allclose(plain, fast, atol=1e-4)


def two_colours(n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    y = np.arange(n) % 2
    x = rng.uniform(-0.3, 0.3, (n, 3, size, size)).astype(np.float32)
    x[:, 0] += np.where(y, 0.15, -0.15)[:, None, None]
    return x, y


def trained(backbone: Backbone, training: Training, seed: int = 0) -> dict[str, np.ndarray]:
    x, y = two_colours(16, backbone.preprocessing.image_size)
    network = adapt(backbone, rank=4)
    start = new_adapter(network.shapes)
    done = train_adapter(
        network,
        lambda i, view: x[i] + np.float32(0.01 * view),
        y,
        start=start,
        earlier_mean=None,
        class_means=np.zeros((0, backbone.num_features), np.float32),
        training=training,
        seed=seed,
    )
    assert done.losses[-1] < done.losses[0]
    return done.adapter


def test_training_lowers_the_loss_and_repeats_bit_for_bit(vit: Backbone) -> None:
    training = Training(epochs=4, views=2, batch_size=8, dropout=0.1, learning_rate=1e-2)
    a, b = trained(vit, training), trained(vit, training)
    assert digest_of(a) == digest_of(b)
    assert digest_of(trained(vit, training, seed=1)) != digest_of(a)


def test_what_is_computed_anew_and_what_is_kept_give_the_same_adapter(vit: Backbone) -> None:
    kept = trained(vit, Training(epochs=3, batch_size=8))
    anew = trained(vit, Training(epochs=3, batch_size=8, cache_bytes=0))
    assert all(np.allclose(kept[k], anew[k], atol=1e-6) for k in kept)


def test_the_heads_standard_is_that_of_the_features_it_sees(vit: Backbone) -> None:
    """A later adapter starts from an earlier one, whose scale counts in the standardisation."""
    from edgecl.adapters import training as module

    network = adapt(vit, rank=4)
    rng = np.random.default_rng(0)
    start = {k: rng.normal(0, 0.2, s).astype(np.float32) for k, s in network.shapes.items()}
    x, y = two_colours(16, 32)
    seen = []
    original = module._standard

    def noted(*arguments: object) -> object:
        seen.append(original(*arguments))  # type: ignore[arg-type]
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_standard", noted)
        train_adapter(
            network,
            lambda i, view: x[i],
            y,
            start=start,
            earlier_mean=None,
            class_means=np.zeros((0, vit.num_features), np.float32),
            training=Training(epochs=1, batch_size=8),
            seed=0,
        )
    with torch.inference_mode():
        features = network(torch.from_numpy(x), tensors(start))
    assert torch.allclose(seen[0][0], features.mean(dim=0), atol=2e-2)


def test_training_leaves_the_backbone_as_it_was(vit: Backbone) -> None:
    before = {k: v.clone() for k, v in vit.model.state_dict().items()}
    trained(vit, Training(epochs=2, batch_size=8))
    after = vit.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_smaller_ranks_are_padded_and_strangers_refused(vit: Backbone) -> None:
    shapes = adapt(vit, rank=8).shapes
    small = new_adapter(adapt(vit, rank=4).shapes)
    big = padded(small, shapes)
    assert {k: a.shape for k, a in big.items()} == shapes
    x = random_pixels(1, 32)
    with torch.inference_mode():
        one = adapt(vit, rank=4)(x, tensors(small))
        two = adapt(vit, rank=8)(x, tensors(big))
    assert torch.allclose(one, two, atol=1e-6)
    with pytest.raises(FeatureMapError, match="engine takes"):
        padded(new_adapter(shapes), adapt(vit, rank=4).shapes)
    with pytest.raises(FeatureMapError, match="other names"):
        padded({"stranger": np.zeros(2, np.float32)}, shapes)


def test_a_backbone_without_known_places_is_refused() -> None:
    with pytest.raises(UsageError, match="adapters are not known"):
        adapt(load_backbone("resnet10t", weights="random", image_size=32))
