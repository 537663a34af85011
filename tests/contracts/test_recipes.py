"""What every recipe must do: see docs/decisions/0009 and edgecl/adapters/recipes.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from edgecl.adapters.bottleneck import adapt, new_adapter
from edgecl.adapters.recipes import RECIPES, Recipe
from edgecl.adapters.scene import Scene, Walk
from edgecl.adapters.training import Trained, Training, train_adapter
from edgecl.backbones import Backbone, load_backbone
from edgecl.runtime.adapters import Adapter, digest_of

if TYPE_CHECKING:
    from edgecl.adapters.bottleneck import AdaptedNetwork

QUICK = Training(epochs=3, views=2, batch_size=8, learning_rate=1e-2)


@pytest.fixture(scope="module")
def vit() -> Backbone:
    return load_backbone("test_vit", weights="random", image_size=32)


@pytest.fixture(params=sorted(RECIPES))
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return RECIPES[request.param]


def pictures(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    y = np.arange(n) % 2 + 5
    x = rng.uniform(-0.3, 0.3, (n, 3, 32, 32)).astype(np.float32)
    x[:, 0] += np.where(y == 5, 0.15, -0.15)[:, None, None]
    return x, y


def network_of(backbone: Backbone, recipe: Recipe) -> AdaptedNetwork:
    return adapt(backbone, rank=4, active=min(2, recipe.active))


def earlier_adapters(backbone: Backbone) -> list[Adapter]:
    rng = np.random.default_rng(3)
    shapes = adapt(backbone, rank=4).shapes
    return [
        {k: rng.normal(0, 0.02, s).astype(np.float32) for k, s in shapes.items()} for _ in range(2)
    ]


def trained(
    backbone: Backbone,
    recipe: Recipe,
    x: np.ndarray,
    y: np.ndarray,
    training: Training = QUICK,
    **options: object,
) -> Trained:
    return train_adapter(
        network_of(backbone, recipe),
        lambda i, view: x[i] + np.float32(0.01 * view),
        y,
        recipe=recipe,
        training=training,
        seed=0,
        **options,  # type: ignore[arg-type]
    )


def start_of(
    network: AdaptedNetwork, recipe: Recipe, x: np.ndarray, y: np.ndarray, earlier: list[Adapter]
) -> Adapter:
    def walk(most: int) -> Iterator[Walk]:
        sites: list[tuple[torch.Tensor, torch.Tensor]] = []
        h, early = network.prefix(torch.from_numpy(x[:most]))
        z = network.suffix(h.detach().requires_grad_(True), early, None, seen=sites)
        yield Walk(torch.arange(len(x[:most])), z, sites)

    def features(adapter: Adapter) -> torch.Tensor:
        with torch.no_grad():
            return network(torch.from_numpy(x), [torch.from_numpy(a) for a in adapter.values()])

    empty = np.zeros((0, 0), np.float32)
    return recipe.start(Scene(network, y, 0, tuple(earlier), empty, features, walk))


def test_before_the_first_step_it_is_the_map_before(vit: Backbone, recipe: Recipe) -> None:
    earlier = earlier_adapters(vit) if recipe.sees == "kept" else []
    network = network_of(vit, recipe)
    x, y = pictures(4)
    start = start_of(network, recipe, x, y, earlier)
    assert {k: a.shape for k, a in start.items()} == network.shapes
    before = earlier[-1] if earlier else new_adapter(network.shapes)
    with torch.inference_mode():
        a, b = (network(torch.from_numpy(x), [torch.from_numpy(p) for p in of.values()])
                for of in (start, before))  # fmt: skip
    assert torch.equal(a, b)


def test_masked_entries_keep_their_bits(vit: Backbone, recipe: Recipe) -> None:
    """Decay and moments move what has no gradient, so they are put back."""
    x, y = pictures(8)
    network = network_of(vit, recipe)
    name = next(iter(network.shapes))

    def only_half(scene: Scene) -> dict[str, np.ndarray]:
        mask = np.zeros(scene.network.shapes[name], dtype=np.bool_)
        mask[::2] = True
        return {name: mask}

    earlier = earlier_adapters(vit)
    start = earlier[-1] if recipe.sees == "kept" else new_adapter(network.shapes)
    done = trained(vit, replace(recipe, mask=only_half), x, y, earlier=earlier).adapter
    assert np.array_equal(done[name][1::2], start[name][1::2])
    assert not np.array_equal(done[name][::2], start[name][::2])


def test_the_same_seed_gives_the_same_bits_and_touches_no_global_state(
    vit: Backbone, recipe: Recipe
) -> None:
    x, y = pictures(8)
    before = torch.random.get_rng_state()
    a, b = (trained(vit, recipe, x, y, earlier=earlier_adapters(vit)) for _ in range(2))
    assert digest_of(a.adapter) == digest_of(b.adapter)
    assert np.array_equal(a.weights, b.weights)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("case", ["one picture", "one class", "constant", "many classes"])
def test_the_smallest_trainings_stay_finite(vit: Backbone, recipe: Recipe, case: str) -> None:
    x, y = pictures(6)
    if case == "one picture":
        x, y = x[:1], y[:1]
    elif case == "one class":
        y = np.full(6, 7)
    elif case == "constant":
        x = np.zeros_like(x)
    else:
        y = np.arange(6)
    done = trained(vit, recipe, x, y, Training(epochs=2, views=1, batch_size=4))
    assert all(np.isfinite(a).all() for a in done.adapter.values())
    assert np.isfinite(done.weights).all()
    assert np.isfinite(done.losses).all()


def test_what_it_does_not_see_changes_no_bit(vit: Backbone, recipe: Recipe) -> None:
    """A recipe that sees its session only is given nothing of another class."""
    if recipe.sees == "kept":
        assert recipe.blend == "newest"
        return
    x, y = pictures(8)
    a = trained(vit, recipe, x, y)
    b = trained(vit, recipe, x, y, earlier=earlier_adapters(vit))
    assert digest_of(a.adapter) == digest_of(b.adapter)
    assert recipe.blend in ("every", "mixed")


def test_ten_steps_lower_the_loss(vit: Backbone, recipe: Recipe) -> None:
    x, y = pictures(24)
    training = Training(epochs=8, views=2, batch_size=8, learning_rate=1e-2)
    plain = replace(recipe, mixup=0.0)  # whose loss has no floor
    losses = trained(vit, plain, x, y, training).losses
    assert losses[-1] < 0.8 * losses[0]
