"""The class gate: golden numbers, its gradient, and what of it is kept, served and unlearned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import build
from build import ListMemory
from edgecl.errors import ShapeError
from edgecl.heads.cosine import UerHead, uer_loss
from edgecl.heads.gate import frozen_keys, nearest
from edgecl.heads.profile import BALANCED, profile_of
from edgecl.heads.statistics import Diagonal
from edgecl.heads.uer_step import uer_gradient
from edgecl.runtime.gated import GatedScorer, factors
from edgecl.runtime.scoring import LinearScorer, load_scorer

D, BLURRY = 12, profile_of("blurry")
E = BLURRY.n_gates


def learned(profile: object = BLURRY, classes: int = 3, n: int = 200) -> UerHead:
    head = UerHead(D, profile=profile)  # type: ignore[arg-type]
    x, y = build.features(n, D, classes)
    for i in range(0, n, 10):
        head.learn_many(x[i : i + 10], y[i : i + 10], (x[:i], y[:i]) if i else None)
    return head


def test_factors_are_the_published_ones() -> None:
    found = factors(np.array([[9.0, 9.0, 9.0], [0.0, -1.0, 1.0]]), np.array([1]))
    assert found[0] == pytest.approx([1, 0.5378828, 1.4621172], abs=1e-6)


def test_the_nearest_key_is_so_by_angle() -> None:
    keys = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    z = np.array([[5, 1], [0.1, 0.2], [-3, 2]], np.float32)
    assert nearest(z, keys).tolist() == [0, 1, 2]
    keys = frozen_keys(7, 4)
    assert np.array_equal(keys, frozen_keys(7, 4))
    assert np.linalg.norm(keys, axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
@pytest.mark.parametrize("n_views", [0, 1, 3])
def test_the_gradient_in_closed_form_is_that_of_autograd(gamma: float, n_views: int) -> None:
    rng = np.random.default_rng(0)
    k, d, n, m, e = 7, 40, 9, 8, 4
    rows = rng.normal(0, 0.3, (k, d + e)).astype(np.float32)
    z = rng.normal(0, 0.2, (n, d)).astype(np.float32)
    keys = frozen_keys(d, e)
    target, old_target = rng.integers(0, k, n), rng.integers(0, k, m)
    shape = (m, d) if n_views == 1 else (m, n_views, d)
    old_z = rng.normal(0, 2.0, shape).astype(np.float32) if n_views else None
    w = torch.from_numpy(rows).requires_grad_(True)
    old = None if old_z is None else (torch.from_numpy(old_z), torch.from_numpy(old_target))
    loss = uer_loss(
        w, torch.from_numpy(z), torch.from_numpy(target), *(old or (None, None)),
        gamma=gamma, view_weight=1.0, keys=torch.from_numpy(keys),
    )  # fmt: skip
    (expected,) = torch.autograd.grad(loss, w)
    found = uer_gradient(
        rows, z, target, old_z, old_target if n_views else None,
        gamma=gamma, view_weight=1.0, keys=keys,
    )  # fmt: skip
    for part in (slice(0, d), slice(d, None)):
        scale = float(expected[:, part].abs().max())
        assert scale > 0
        np.testing.assert_allclose(
            found[:, part], expected[:, part].numpy(), atol=3e-6 * scale, rtol=3e-5
        )


def test_a_gate_that_is_shut_out_of_learning_changes_no_bit() -> None:
    """Gates of 0 are the factor 1: before the first step both heads predict alike."""
    x, y = build.features(10, D, 3)
    with_gates, without = UerHead(D, profile=BLURRY), UerHead(D, profile=BALANCED)
    for head in (with_gates, without):
        head._count(*head.checked(x, y))
        head._mean, head._scale = head._standard()
    assert np.array_equal(with_gates.predict_many(x), without.predict_many(x))


def test_the_scorer_says_what_the_head_says_also_from_its_arrays() -> None:
    head = learned()
    head.settle(None)
    x, _ = build.features(60, D, 3, seed=5)
    scorer = head.scorer({c: f"class {c}" for c in head.classes})
    assert isinstance(scorer, GatedScorer)
    assert np.abs(scorer.gates).max() > 0.01
    again = load_scorer(scorer.arrays(), scorer.labels)
    assert np.array_equal(again.scores(x), scorer.scores(x))
    np.testing.assert_allclose(scorer.scores(x), head.predict_many(x), atol=1e-5)
    shares = again.probabilities(again.scores(x))
    assert shares.sum(axis=1) == pytest.approx(1)


def test_a_new_class_counts_as_it_is_and_a_forgotten_one_leaves_nothing() -> None:
    x, y = build.features(200, D, 3)
    head, memory = learned(), ListMemory(Diagonal.name)
    memory.add(x, y)
    gone = head.classes[1]
    head.forget(gone, memory)
    never, rest = UerHead(D, profile=BLURRY), ListMemory(Diagonal.name)
    rest.add(x[y != gone], y[y != gone])
    never.rebuild(rest)
    for part, array in never.state().items():
        assert np.array_equal(head.state()[part], array), part
    rows = learned().state()["rows"]
    head = learned()
    head._add_class(99)
    assert rows[:, D:].any()
    assert not head.state()["rows"][-1, D:].any()


@pytest.mark.parametrize(("before", "after"), [(BALANCED, BLURRY), (BLURRY, BALANCED)])
def test_a_home_may_change_to_gates_and_back(before: object, after: object) -> None:
    head, other = learned(before), UerHead(D, profile=after)  # type: ignore[arg-type]
    other.restore(head._moments, head.state())
    rows = other.state()["rows"]
    assert rows.shape == (3, D + other.profile.n_gates)
    assert np.array_equal(rows[:, :D], head.state()["rows"][:, :D])
    assert not rows[:, D:].any()
    x, _ = build.features(10, D, 3)
    assert other.predict_many(x).shape == (10, 3)


def test_settling_tunes_the_rows_as_they_are_served_and_no_gate() -> None:
    head, memory = learned(replace(BLURRY, n_settle_steps=50)), ListMemory(Diagonal.name)
    memory.add(*build.features(200, D, 3))
    slow = head.state()["slow"]
    head.settle(memory)
    settled = head.state()["settled"]
    assert np.array_equal(settled[:, D:], slow[:, D:])
    assert not np.array_equal(settled[:, :D], slow[:, :D])


def test_parts_that_do_not_fit_are_refused() -> None:
    linear = LinearScorer(np.zeros((4, 2)), np.zeros(2), ("a", "b"), "logits")
    with pytest.raises(ShapeError, match="gates"):
        GatedScorer(linear, np.zeros((4, 3)), np.zeros(3), np.zeros((2, 2)))
