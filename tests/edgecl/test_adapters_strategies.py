"""Strategies of recipes against worked numbers (float64, computed apart from this code)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgecl.adapters.anchors import drift, largest, pair_loss, teacher_loss
from edgecl.adapters.blends import depth_scaled
from edgecl.adapters.bottleneck import adapt
from edgecl.adapters.keeps import averaged, retrodicted, steady_step
from edgecl.adapters.masks import (
    SLICES,
    condition,
    forgetful,
    front,
    half,
    only,
    slice_of,
    well_conditioned,
)
from edgecl.adapters.readers import readers
from edgecl.adapters.recipes import RECIPES, recipe_of
from edgecl.adapters.scene import Scene
from edgecl.adapters.starts import busiest, directions
from edgecl.adapters.steps import refresh_
from edgecl.adapters.weights import guard, new_rows, spread, unlike_gradients
from edgecl.backbones import Backbone, load_backbone
from edgecl.errors import RequestError, UsageError
from edgecl.runtime.adapters import zeros

LENGTH = 3**-0.5
NO_MEANS = np.zeros((0, 0), np.float32)


def f64(*rows: object) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.fixture(scope="module")
def conv() -> Backbone:
    return load_backbone("test_efficientnet", weights="random", image_size=32)


def scene_of(
    backbone: Backbone, *, sessions: int = 0, seed: int = 0, y: tuple[int, ...] = (0, 1)
) -> Scene:
    network = adapt(backbone, rank=6)
    nothing = zeros(network.shapes)
    return Scene(
        network, np.array(y), seed, (nothing,) * sessions, NO_MEANS,
        lambda adapter: torch.zeros(len(y), backbone.num_features), lambda most: iter(()),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("session", "is_up"),
    [(0, [1] * 11), (1, [1, 1, 0, 1, 1, 0, 1, 0, 0, 0, 1]), (2, [1, 0, 1, 0, 0, 1, 1, 0, 1, 1, 1])],
)
def test_half_equals_the_worked_coins(session: int, is_up: list[int]) -> None:
    scene = scene_of(load_backbone("tf_efficientnet_lite0", weights="random", image_size=32),
                     sessions=session)  # fmt: skip
    mask = half(scene)
    found = [bool(mask[f"adapter.{site.name}.up"].all()) for site in scene.network.sites]
    assert found == [bool(up) for up in is_up]
    for site, up in zip(scene.network.sites, found, strict=True):
        assert bool(mask[f"adapter.{site.name}.up_bias"].all()) is up
        assert bool(mask[f"adapter.{site.name}.down"].any()) is not up
        assert bool(mask[f"adapter.{site.name}.down_bias"].any()) is not up


def test_the_condition_equals_the_worked_numbers_whatever_the_length() -> None:
    assert condition(np.diag([4.0, 2, 1, 0, 0, 0])[:3]) == pytest.approx(0.6661065, abs=1e-7)
    other = np.array([[1.0, 2, 0, 1], [0, 1, 3, -1]])
    assert condition(other) == pytest.approx(0.2366045, abs=1e-7)
    assert condition(7 * other) == pytest.approx(condition(other), abs=1e-12)
    with pytest.raises(UsageError, match="square"):
        condition(np.eye(3))


def test_half_of_the_sites_are_conditioned_well(conv: Backbone) -> None:
    scene = scene_of(conv)
    mask = well_conditioned(scene)
    trains = {name for name, part in mask.items() if part.all()}
    assert all(part.all() or not part.any() for part in mask.values())
    assert len(trains) == 4 * -(-len(scene.network.sites) // 2)


def test_every_session_has_rows_of_its_own_until_they_are_used_up(conv: Backbone) -> None:
    masks = [slice_of(scene_of(conv, sessions=n)) for n in range(SLICES)]
    for name in masks[0]:
        assert sum(mask[name].astype(int) for mask in masks).max() == 1
        if not name.endswith("up_bias"):
            assert sum(mask[name].astype(int) for mask in masks).min() == 1
    with pytest.raises(RequestError, match="all rows of the adapter are taken by 3 sessions"):
        slice_of(scene_of(conv, sessions=SLICES))


def test_sites_and_arrays_can_be_named(conv: Backbone) -> None:
    scene = scene_of(conv)
    site = scene.network.sites[-1].name
    mask = recipe_of(f"sites:{site}").mask(scene)
    assert {name for name, part in mask.items() if part.any()} == {
        f"adapter.{site}.{part}" for part in ("down", "down_bias", "up", "up_bias")
    }
    assert [n for n, part in only([f"{site}.up"])(scene).items() if part.any()] == [
        f"adapter.{site}.up"
    ]
    with pytest.raises(UsageError, match=r"no site 'blocks.99'; expected some of blocks\."):
        recipe_of("sites:blocks.99").mask(scene)
    with pytest.raises(UsageError, match="recipe 'site:x' is unknown"):
        recipe_of("site:x")


def test_what_forgets_and_what_none_beats() -> None:
    changes = {"head": (0.4, 0.1), "norm": (0.05, 0.01), "down0": (0.02, 0.02),
               "up0": (0.03, 0.02), "down1": (0.01, 0.01)}  # fmt: skip
    assert forgetful(changes) == ["head", "norm"]
    assert front([(0.1, 0.5), (0.2, 0.3), (0.25, 0.35), (0.4, 0.1), (0.1, 0.6)]) == [0, 1, 3]
    assert front([(0.5, 0.5), (0.5, 0.5)]) == [0, 1]


def test_weights_equal_the_worked_numbers() -> None:
    p = f64(0.1, 0.5, 0.9, 0.995)
    assert spread(p).tolist() == pytest.approx([0.36, 1, 0.36, 0.0199])
    certain = RECIPES["certain"].weigh(None)(p, None)  # type: ignore[arg-type]
    assert certain.tolist() == [1, 1, 1, 0]
    shares = f64([0.7, 0.3], [0.4, 0.6], [0.2, 0.8])
    z = f64([1, 0], [0, 1], [1, 1])
    w = unlike_gradients(f64(0.7, 0.4, 0.8), shares, torch.tensor([0, 0, 1]), z)
    assert w.tolist() == pytest.approx([0.7868761, 0.5004457, 2.2251400], abs=1e-6)


def test_a_class_of_few_pictures_is_not_weighed_by_its_variance(conv: Backbone) -> None:
    weigh = RECIPES["variance"].weigh(scene_of(conv, y=(0,) * 29 + (1,) * 30))

    class Rows:
        rows = torch.tensor([0, 40])

    assert weigh(f64(0.9, 0.9), Rows).tolist() == pytest.approx([1, 0.36])  # type: ignore[arg-type]


def test_the_guard_equals_the_worked_numbers() -> None:
    own = np.array([0.52, 0.8, 0.4, 0.6, 0.9])
    old = np.array([0.50, 0.4, 0.8, 0.48, 0.3])
    assert guard(own, old).tolist() == [False, True, False, False, True]
    assert guard(np.zeros(2), np.zeros(2)).tolist() == [False, False]


def test_pictures_that_are_all_known_train_no_adapter(conv: Backbone) -> None:
    scene = scene_of(conv, y=(0, 0, 1, 1))
    z = torch.eye(4, conv.num_features)
    near = replace(scene, features=lambda _: z, class_means=z.numpy().astype(np.float32))
    with pytest.raises(RequestError, match="0 of 4 pictures are farther"):
        new_rows(near)
    far = replace(near, class_means=-z[:1].numpy().astype(np.float32))

    class Rows:
        rows = torch.arange(4)

    assert new_rows(far)(torch.ones(4), Rows).tolist() == [1, 1, 1, 1]  # type: ignore[arg-type]


def test_owned_entries_equal_the_worked_numbers() -> None:
    before, now = f64([0.1, -0.5], [0.3, 0.02]), f64([0.2, 0.4], [-0.1, 0])
    owned = largest(before, 0.5)
    assert owned.tolist() == [1, 2]
    assert float(drift(now, owned, before.flatten()[owned])) == pytest.approx(0.65)
    up, down = f64([1, 0], [0.5, -1], [0, 2]), f64([0.2, 0, 1], [0, 0.4, -0.3])
    owned = largest(up @ down, 2 / 9)
    assert owned.tolist() == [2, 5]
    held = (up @ down).flatten()[owned]
    assert float(drift((up + 0.1) @ down, owned, held)) == pytest.approx(0.07)


def test_the_teacher_equals_the_worked_numbers() -> None:
    assert float(teacher_loss(f64([1, 0, -1]), f64([0, 1, -1]))) == pytest.approx(
        0.3985690, abs=1e-6
    )
    z = f64([1, 1, 0], [0, 2, 2]).requires_grad_(True)
    loss = teacher_loss(f64([2, 0, 0], [0, 1, 3]), z)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.3698859, abs=1e-6)
    assert z.grad is not None
    wanted = [[-0.1924652, 0.1717102, 0.0207550], [0.0151180, 0.1910949, -0.2062129]]
    assert torch.allclose(z.grad, f64(*wanted), atol=1e-6)


def test_the_pair_equals_the_worked_number_and_is_chosen_by_what_trains() -> None:
    loss = pair_loss(f64([3, 1, 0]), f64([2, 1, 5]), torch.tensor([0]))
    assert float(loss) == pytest.approx(0.1454047, abs=1e-6)
    alone = pair_loss(f64([3]).requires_grad_(True), f64([2]), torch.tensor([0]))
    assert float(alone.detach()) == 0


def test_busy_units_are_copied_as_in_the_worked_numbers() -> None:
    weight, bias = f64([3, 4], [0, 1], [6, 8], [-1, 0]), f64(1, 0, -10, 2)
    h = f64([1, 1], [0, 2], [-1, 1])
    assert (h @ weight.T + bias).clamp_min(0).mean(0).tolist() == pytest.approx(
        [6.3333333, 1.3333333, 3.3333333, 2]
    )
    down, down_bias = busiest(weight, bias, h, 2)
    assert torch.allclose(down, f64([0.3464102, 0.4618802], [0.3464102, 0.4618802]), atol=1e-7)
    assert down_bias.tolist() == pytest.approx([0.1154701, -0.5773503], abs=1e-7)


def test_the_steepest_directions_equal_the_worked_numbers() -> None:
    rows = directions(f64([3, 0], [4, 5]), f64(1, 0.5), 2) / LENGTH
    half_root = 0.5**0.5
    assert torch.allclose(rows, f64([half_root, half_root], [half_root, -half_root]), atol=1e-7)


@pytest.mark.parametrize(
    "name", ["test_efficientnet", "vit_tiny_patch16_224", "tf_mobilenetv3_small_minimal_100"]
)
def test_every_site_has_a_reader_that_computes_what_the_backbone_does(name: str) -> None:
    """The unit that reads a site is compared with the layer behind it, BatchNorm and all."""
    backbone = load_backbone(name, weights="random", image_size=32)
    network = adapt(backbone, rank=2)
    found = readers(network)
    assert len(found) == len(network.sites)
    for site, (weight, bias) in zip(network.sites, found, strict=True):
        assert weight.shape[1] == site.width
        assert bias.shape == (len(weight),)


@pytest.mark.parametrize(
    ("name", "a", "block", "wanted"),
    [
        ("tf_efficientnet_lite0", 0.0, 5, 1 / 3),
        ("tf_efficientnet_lite0", 0.0, 10, 2 / 3),
        ("tf_efficientnet_lite0", 0.25, 5, 0.5),
        ("tf_efficientnet_lite0", 0.25, 6, 0.55),
        ("tf_efficientnet_lite0", 0.25, 15, 1),
        ("vit_tiny_patch16_224", 0.3, 5, 0.6181818),
    ],
)
def test_depth_scales_by_the_blocks_own_number(
    name: str, a: float, block: int, wanted: float
) -> None:
    network = adapt(load_backbone(name, weights="random", image_size=32), rank=2)
    factors = list(depth_scaled(network, a).values())
    first = (16 if "lite0" in name else 12) - len(factors)
    assert factors[block - first] == pytest.approx(wanted, abs=1e-7)


def test_uphill_equals_the_worked_numbers() -> None:
    def moved(theta: torch.Tensor, g: torch.Tensor, f: torch.Tensor, rate: float) -> torch.Tensor:
        refresh_(theta, g, f, noise=0.0, rate=rate)
        return theta

    out = moved(f64(3, 4), f64(0.6, 0.8), f64(0, 1000), 1e-5)
    assert (out - f64(3, 4)).tolist() == pytest.approx([3e-5, 2e-5], rel=1e-6)
    assert moved(f64(3, 4), f64(1, 0), f64(0, 0), 1e-3).tolist() == pytest.approx([3.005, 4])
    zero = torch.zeros(2)
    refresh_(zero, torch.ones(2), torch.zeros(2), noise=1.0)
    assert zero.tolist() == [0, 0]


def test_kept_means_and_lines_equal_the_worked_numbers() -> None:
    kept = [torch.zeros(1, dtype=torch.float64)]
    for step, theta in enumerate((1, 1, 2, 4), start=1):
        averaged(kept, [f64(theta)], step, 4)
    assert float(kept[0]) == pytest.approx(3.3062937, abs=1e-7)

    line = [f64(0)]
    for step, theta in enumerate((1.2, 1.5, 1.6, 1.75), start=1):
        retrodicted(line, [f64(theta)], step, 4)
    assert float(line[0]) == pytest.approx(1.875)
    assert steady_step(f64(1), f64(1.5), f64(1.75)).tolist() == pytest.approx([2])
    assert steady_step(f64(1, 2), f64(1.5, 2.2), f64(1.75, 2.3)).tolist() == pytest.approx([2, 2.4])
    stays = f64(1.75, 3)
    assert torch.equal(steady_step(f64(1, 0), f64(1.5, 1), stays), stays)


def test_the_adapter_learns_from_every_fourth_batch_and_the_head_from_all(conv: Backbone) -> None:
    head, adapter = (torch.ones(1, requires_grad=True) for _ in range(2))
    step = recipe_of("two-rates").step(scene_of(conv))
    moved = []
    for done in range(10):
        before = float(head.detach()), float(adapter.detach())

        def loss(reaches_adapter: bool) -> torch.Tensor:
            return (head * (adapter if reaches_adapter else adapter.detach())).sum()

        step(torch.optim.SGD([head, adapter], lr=0.1), loss, [adapter], done)
        moved.append((float(head.detach()) != before[0], float(adapter.detach()) != before[1]))
    assert [head for head, _ in moved] == [True] * 10
    assert [i for i, (_, adapter) in enumerate(moved) if adapter] == [0, 4, 8]
