"""Worked numbers of recipes (float64, computed apart from this code) that no other file holds."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edgecl.adapters.anchors import largest, teacher_loss
from edgecl.adapters.blends import depth_scaled
from edgecl.adapters.bottleneck import Site, input_shapes, residual
from edgecl.adapters.recipes import RECIPES
from edgecl.adapters.steps import moved
from edgecl.adapters.weights import guard, spread, unlike_gradients
from edgecl.heads.stability import focal_weights


def f64(*rows: object) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


A = (f64([1, 0, 2]), f64(0.5), f64([1], [0], [-1]), f64(0.1, 0, 0))
B = (f64([0, -1, 1]), f64(0), f64([0.5], [1], [0]), f64(0, 0.2, 0))


@pytest.mark.parametrize(
    ("share", "wanted"), [(1.0, [3.85, 2.7, -2.5]), (0.5, [1.925, 1.35, -1.25])]
)
def test_rows_side_by_side_add_their_residuals(share: float, wanted: list[float]) -> None:
    """Both adapters stacked: the sum of what each adds, and with halves the mean."""
    h = f64([[1, -2, 0.5]])[0][None]
    alone = [residual(h, part, dropout=0.0)[0, 0].tolist() for part in (A, B)]
    assert alone == [pytest.approx([2.6, 0, -2.5]), pytest.approx([1.25, 2.7, 0])]
    stacked = [
        torch.cat([A[0], B[0]]),
        torch.cat([A[1], B[1]]),
        torch.cat([A[2], B[2]], dim=1) * share,
        (A[3] + B[3]) * share,
    ]
    out = residual(h, stacked, dropout=0.0)[0, 0]
    assert out.tolist() == pytest.approx(wanted, abs=1e-9)


def test_the_optimiser_moves_what_has_no_gradient() -> None:
    """Why masked entries are put back after every step: 1 becomes .99970004 in 1,000 of them."""
    part = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.AdamW([part], lr=3e-3, weight_decay=1e-4)
    for _ in range(1000):
        part.grad = torch.zeros_like(part)
        optimiser.step()
    assert float(part.detach()) == pytest.approx(0.99970004, abs=1e-8)


def test_the_focal_weight_equals_the_worked_numbers() -> None:
    weights = focal_weights(f64(0.1, 0.5, 0.9, 0.995), 1.0)
    assert weights.tolist() == pytest.approx([2.3920266, 1.3289037, 0.2657807, 0.0132890], abs=1e-6)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_weights_of_what_is_sure_or_hopeless_are_finite(p: float) -> None:
    rows = torch.full((3,), p, dtype=torch.float64)
    shares = torch.stack([rows, 1 - rows], dim=1)
    found = [
        spread(rows),
        RECIPES["certain"].weigh(None)(rows, None),  # type: ignore[arg-type]
        unlike_gradients(
            rows, shares, torch.zeros(3, dtype=torch.int64), torch.ones(3, 4).double()
        ),
        focal_weights(rows, 1.0),
    ]
    assert all(torch.isfinite(weights).all() for weights in found)


def test_the_teachers_share_of_the_loss_equals_the_worked_number() -> None:
    taught = RECIPES["teacher"].anchors[0](
        SimpleNamespace(earlier=({},), features=lambda _: f64([1, 0, -1]))  # type: ignore[arg-type]
    )
    batch = SimpleNamespace(
        rows=torch.tensor([0]), partner=torch.tensor([0]), own=1.0,
        head=lambda z: z, logits=f64([0, 1, -1]),
    )  # fmt: skip
    assert float(taught(batch)) == pytest.approx(0.1195707, abs=1e-6)  # type: ignore[arg-type]
    assert float(teacher_loss(f64([1, 0, -1]), f64([1, 0, -1]))) == pytest.approx(0, abs=1e-12)


def test_a_fiftieth_of_the_entries_is_owned_and_one_at_least() -> None:
    assert len(largest(torch.arange(100.0).reshape(10, 10))) == 2
    assert largest(torch.tensor([[0.0, -3], [1, 2]])).tolist() == [1]


def test_half_of_the_worked_rows_are_new() -> None:
    own, old = np.array([0.8, 0.52, 0.4, 0.9]), np.array([0.4, 0.5, 0.8, 0.3])
    new = guard(own, old)
    assert new.tolist() == [True, False, False, True]
    assert new.mean() == 0.5


def test_a_backbone_of_one_block_keeps_its_residual() -> None:
    model = SimpleNamespace(patch_embed=None, blocks=[None])
    network = SimpleNamespace(model=model, sites=(Site("blocks.0", 4),))
    assert depth_scaled(network, 0.25) == {"blocks.0": 1.0}  # type: ignore[arg-type]


@pytest.mark.parametrize(("rank", "wanted"), [(16, 10_576), (48, 31_088), (64, 41_344)])
def test_numbers_of_a_site_are_as_worked_out(rank: int, wanted: int) -> None:
    """2 C R + R + C at a width C of 320."""
    shapes = input_shapes([Site("blocks.0", 320)], rank)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == wanted


def test_the_mean_change_equals_the_worked_number() -> None:
    assert moved(f64(1, 2, 3, 4), f64(1.5, 2, 2, 4)) == pytest.approx(0.375)


def test_the_last_steps_of_a_period_train_the_head_and_what_forgets() -> None:
    """Three tensors: one went far beyond its own steps, and settles alone; the head always."""
    names = ("a.down", "b.down", "c.down")
    start = [torch.zeros(4) for _ in names]
    tensors = [torch.full((4,), far, requires_grad=True) for far in (9.0, 1.0, 1.0)]
    head = torch.ones(4, requires_grad=True)
    network = SimpleNamespace(shapes=dict.fromkeys(names, (4,)), scale=1.0)
    earlier = ({name: part.numpy() for name, part in zip(names, start, strict=True)},)
    step = RECIPES["forgetful"].step(
        SimpleNamespace(network=network, earlier=earlier)  # type: ignore[arg-type]
    )
    optimiser = torch.optim.AdamW([*tensors, head], lr=1e-4)

    def loss(reaches_adapter: bool) -> torch.Tensor:
        assert reaches_adapter
        return sum((part**2).sum() for part in (*tensors, head))  # type: ignore[return-value]

    for done in range(34):
        before = [part.detach().clone() for part in (*tensors, head)]
        step(optimiser, loss, tensors, done)
        now = [not torch.equal(a, b) for a, b in zip(before, (*tensors, head), strict=True)]
        assert now == ([True, False, False, True] if 24 <= done < 32 else [True] * 4), done


def test_the_first_session_has_nothing_to_forget() -> None:
    step = RECIPES["forgetful"].step(SimpleNamespace(earlier=()))  # type: ignore[arg-type]
    assert step is RECIPES["plain"].step(None)  # type: ignore[arg-type]
