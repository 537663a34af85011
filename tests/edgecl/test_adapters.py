"""Adapters: their places in two families of backbones, their training, their arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgecl.adapters.anchors import consistency_loss, margin_loss, spreading_loss
from edgecl.adapters.bottleneck import adapt, input_shapes, new_adapter, residual
from edgecl.adapters.keeps import slow
from edgecl.adapters.prefix import fused
from edgecl.adapters.recipes import RECIPES, Recipe
from edgecl.adapters.steps import merge_
from edgecl.adapters.training import Progress, Trained, Training, train_adapter
from edgecl.adapters.views import view_batches
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
            both = network(x, tensors(adapter))
            assert torch.allclose(both, torch.cat([plain, plain], dim=1), atol=1e-6)


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
        both = network(x, tensors(new_adapter(network.shapes))).chunk(2, dim=1)
    assert all(torch.allclose(out, small.forward_features(x), atol=1e-6) for out in both)


@pytest.mark.parametrize("name", ["test_efficientnet", "vit_tiny_patch16_224"])
def test_adapters_stand_before_fixed_directions(name: str) -> None:
    small = load_backbone(name, weights="random", image_size=32, features=20)
    network, x = adapt(small, rank=2), random_pixels(2, 32)
    parts = [p.requires_grad_() for p in tensors(new_adapter(network.shapes))]
    out = network(x, parts)
    plain = small.forward_features(x)
    assert torch.allclose(out.detach(), torch.cat([plain, plain], dim=1), atol=1e-5)
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
            left, right = network(x, tensors(adapter)).chunk(2, dim=1)
        assert torch.allclose(left, plain, atol=1e-6)
        assert not torch.allclose(right, plain, atol=1e-3), site


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


def test_the_margin_equals_the_worked_numbers() -> None:
    """GeRe in classifier form: codes of (-2, .5, 1.5, .2) and q = (-1.5, .9, .4, -1.7): .65."""
    q = torch.tensor([[-1.5, 0.9, 0.4, -1.7]], requires_grad=True)
    codes = torch.tensor([[-1, 0, 1, 0]])
    loss = margin_loss(q, codes)
    assert float(loss.detach()) == pytest.approx(0.65)
    loss.backward()
    assert torch.allclose(q.grad, torch.tensor([[0.0, 0, -0.5, -0.5]]))
    assert float(margin_loss(torch.tensor([[-2.0, 0.5, 1.5, 0.2]]), codes)) == 0.0


def test_slow_weights_are_a_mean_that_is_not_mostly_the_start() -> None:
    kept, now = [torch.zeros(1)], [torch.ones(1)]
    slow(kept, now, 1, 2)
    assert float(kept[0]) == pytest.approx(1 - 2 / 11)
    for step in range(2, 5000):
        slow(kept, now, step, 5000)
    assert float(kept[0]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("drawn_anew", [False, True])
@pytest.mark.parametrize(("n", "views"), [(10, 1), (10, 2), (11, 4), (3, 4), (1, 4)])
def test_view_batches_give_equal_exposure_and_rest(n: int, views: int, drawn_anew: bool) -> None:
    epochs = [
        view_batches(n, views, 8, epoch, seed=0, drawn_anew=drawn_anew)
        for epoch in range(2 * views)
    ]
    for cycle in (epochs[:views], epochs[views:]):
        seen = [pair for batches in cycle for batch in batches for pair in batch]
        pictures = [i for i, _ in seen]
        # Every picture once in V epochs, V views of it in one batch, the picture itself first.
        assert sorted(pictures) == sorted(list(range(n)) * views)
        for batches in cycle:
            for batch in batches:
                for k in range(0, len(batch), views):
                    group = batch[k : k + views]
                    assert len({i for i, _ in group}) == 1
                    assert group[0][1] == 0
                    assert len({view for _, view in group}) == views
    others = [pair for batches in epochs for batch in batches for pair in batch if pair[1]]
    assert len(set(others)) == (len(others) if drawn_anew else n * (views - 1))


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


def trained(
    backbone: Backbone,
    training: Training,
    recipe: Recipe = RECIPES["plain"],
    order_seed: int = 0,
    **options: object,
) -> Trained:
    x, y = two_colours(16, backbone.preprocessing.image_size)
    return train_adapter(
        adapt(backbone, rank=4),
        lambda i, view: x[i] + np.float32(0.01 * view),
        y,
        recipe=recipe,
        training=training,
        seed=0,
        order_seed=order_seed,
        **options,  # type: ignore[arg-type]
    )


def test_training_lowers_the_loss_and_repeats_bit_for_bit(vit: Backbone) -> None:
    training = Training(epochs=6, views=2, batch_size=8, dropout=0.1, learning_rate=1e-2)
    a, b = trained(vit, training), trained(vit, training)
    assert a.losses[-1] < a.losses[0]
    assert digest_of(a.adapter) == digest_of(b.adapter)
    assert np.array_equal(a.weights, b.weights)
    assert digest_of(trained(vit, training, order_seed=1).adapter) != digest_of(a.adapter)


def test_the_head_that_is_kept_reads_the_features_that_are_kept(vit: Backbone) -> None:
    done = trained(vit, Training(epochs=8, batch_size=8, learning_rate=1e-2))
    x, y = two_colours(16, 32)
    with torch.inference_mode():
        both = adapt(vit, rank=4)(torch.from_numpy(x), tensors(done.adapter))
    logits = both.chunk(2, dim=1)[1].numpy() @ done.weights + done.bias
    assert done.classes == (0, 1)
    assert (logits.argmax(axis=1) == y).mean() > 0.9


def test_what_is_computed_anew_and_what_is_kept_give_the_same_adapter(vit: Backbone) -> None:
    kept = trained(vit, Training(epochs=3, batch_size=8)).adapter
    anew = trained(vit, Training(epochs=3, batch_size=8, cache_bytes=0)).adapter
    assert all(np.allclose(kept[k], anew[k], atol=1e-6) for k in kept)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_training_goes_on_after_any_epoch_in_the_same_bits(vit: Backbone, at: int) -> None:
    training = Training(epochs=4, views=2, batch_size=8, dropout=0.1)
    told: list[Progress] = []
    whole = trained(vit, training, tell=told.append)
    states = {p.epoch: p.state for p in told if p.state is not None}
    state = {name: array.copy() for name, array in states[at].items()}
    assert [p.epoch for p in told] == [0, 1, 2, 3, 4]
    again = trained(vit, training, resume=state)
    assert digest_of(again.adapter) == digest_of(whole.adapter)
    assert np.array_equal(again.weights, whole.weights)
    assert again.losses == whole.losses


def test_a_limit_of_time_means_fewer_epochs_and_is_told(vit: Backbone) -> None:
    told: list[Progress] = []
    done = trained(vit, Training(epochs=500, batch_size=4, seconds=2.0), tell=told.append)
    assert 1 <= len(done.losses) < 500
    assert told[0].epochs == len(done.losses)


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
