"""UER's loss: the numeric checks and the structural facts of its reconstruction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import build
from build import ListMemory
from edgecl.adapters.anchors import consistency_loss
from edgecl.errors import UsageError
from edgecl.heads.cosine import TEMPERATURE, UerHead, cosine, uer_loss
from edgecl.heads.profile import PLAIN
from edgecl.heads.stability import (
    focal_cross_entropy,
    focal_weights,
    settled_rows,
    slow_decay,
)
from edgecl.heads.statistics import Diagonal
from edgecl.heads.uer_step import uer_gradient

D = 12
Z = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
W = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])


def test_cosine_logits_equal_the_published_constants() -> None:
    # Output of the authors' PCR cosLinear (eps 1e-6, scale 0.09) on these rows.
    expected = torch.tensor([[6.666659, 8.888883, -10.999429], [0.0, 11.111100, -7.856732]])
    torch.testing.assert_close(cosine(Z, W) / TEMPERATURE, expected, atol=2e-5, rtol=0)


def test_the_current_batch_turns_rows_and_never_stretches_them() -> None:
    w = W.clone().requires_grad_(True)
    z = Z.clone().requires_grad_(True)
    loss = uer_loss(w, z, torch.tensor([0, 2]), None, None)
    gw, gz = torch.autograd.grad(loss, (w, z))
    assert (w * gw).sum(dim=1).abs().max() < 1e-5
    assert (z * gz).sum(dim=1).abs().max() < 1e-5


def test_store_changes_norms() -> None:
    w = W.clone().requires_grad_(True)
    loss = uer_loss(w, Z, torch.tensor([0, 1]), Z, torch.tensor([0, 2]))
    (gw,) = torch.autograd.grad(loss, w)
    assert (w * gw).sum(dim=1).abs().max() > 0.1


def test_the_loss_is_the_sum_of_two_cross_entropies() -> None:
    target, old_target = torch.tensor([1, 1]), torch.tensor([0, 2])
    log_p = torch.log_softmax(cosine(Z, W) / TEMPERATURE, dim=1)
    log_q = torch.log_softmax(Z @ W.T, dim=1)
    by_hand = -(log_p[0, 1] + log_p[1, 1]) / 2 - (log_q[0, 0] + log_q[1, 2]) / 2
    torch.testing.assert_close(uer_loss(W, Z, target, Z, old_target), by_hand)


def test_a_zero_feature_has_a_uniform_softmax() -> None:
    assert torch.equal(cosine(torch.zeros(1, 2), W), torch.zeros(1, 3))


def test_store_of_a_class_that_the_head_does_not_hold_is_left_out() -> None:
    x, y = build.features(40, D, 2)
    a, b = UerHead(D), UerHead(D)
    a.learn_many(x[:10], y[:10], (x[10:20], y[10:20]))
    stranger = np.concatenate([x[10:20], x[:3]]), np.concatenate([y[10:20], [77, 77, 77]])
    b.learn_many(x[:10], y[:10], stranger)
    assert a.classes == b.classes
    np.testing.assert_array_equal(a.predict_many(x), b.predict_many(x))


def test_same_seed_same_head_other_seed_other_head() -> None:
    x, y = build.features(40, D, 3)
    heads = [UerHead(D, seed=s) for s in (0, 0, 1)]
    for head in heads:
        head.learn_many(x, y)
    assert np.array_equal(heads[0].predict_many(x), heads[1].predict_many(x))
    assert not np.array_equal(heads[0].predict_many(x), heads[2].predict_many(x))


def test_every_other_random_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    x, y = build.features(40, D, 3)
    UerHead(D).learn_many(x, y)
    assert torch.equal(before, torch.random.get_rng_state())


def test_focal_weights_equal_the_published_factors_over_their_mean() -> None:
    # Numeric check: gamma 2 gives 0.81, 0.25, 0.01 for 0.1, 0.5, 0.9.
    factors = torch.tensor([0.81, 0.25, 0.01])
    weights = focal_weights(torch.tensor([0.1, 0.5, 0.9]), 2.0)
    torch.testing.assert_close(weights, factors / factors.mean())


def test_one_hard_sample_weighs_at_most_four_and_a_learned_batch_nothing() -> None:
    p = torch.cat([torch.zeros(1), torch.full((99,), 0.999)])
    assert focal_weights(p, 2.0).max() == 4
    assert torch.equal(focal_weights(torch.ones(3), 1.0), torch.zeros(3))


def test_without_gamma_the_loss_is_the_plain_mean() -> None:
    target = torch.tensor([0, 2])
    logits = Z @ W.T
    expected = torch.nn.functional.cross_entropy(logits, target)
    torch.testing.assert_close(focal_cross_entropy(logits, target, 0.0), expected)
    assert focal_cross_entropy(logits, target, 1.0) != expected


def test_the_slow_rows_warm_up() -> None:
    # Numeric check: 0.1, 0.526 and 0.99 after 0, 9 and 899 updates.
    decays = [slow_decay(t, 0.99) for t in (0, 9, 899)]
    assert decays == pytest.approx([0.1, 0.526, 0.99], abs=5e-4)
    assert slow_decay(10**6, 0.95) == 0.95
    assert slow_decay(5, 0.0) == 0


def test_an_average_of_what_does_not_move_goes_there() -> None:
    slow = 7.0
    for t in range(2000):
        keep = slow_decay(t, 0.99)
        slow = keep * slow + (1 - keep) * 3.0
    assert slow == pytest.approx(3.0, abs=1e-6)


def test_views_are_drawn_to_the_weak_one_and_not_back() -> None:
    # Numeric check: anchor (.9, .1), view (.6, .4): KL 0.226289, gradient p_view - p_anchor.
    logits = torch.log(torch.tensor([[[0.9, 0.1], [0.6, 0.4]]])).requires_grad_(True)
    loss = consistency_loss(logits)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(0.226289, abs=1e-6)
    torch.testing.assert_close(gradient, torch.tensor([[[0.0, 0.0], [-0.3, 0.3]]]))


def test_the_agreement_is_a_mean_over_samples_and_strong_views_and_stays_finite() -> None:
    # Numeric check: three classes, KL 0.634897.
    p = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.3, 0.5]])
    same = p[[0, 0]]
    logits = torch.log(torch.stack([torch.cat([p, p[:1]]), torch.cat([same, same[:1]])]))
    assert consistency_loss(logits).item() == pytest.approx(0.634897 / 4, abs=1e-6)
    far = torch.tensor([[[500.0, 0.0], [0.0, 500.0]]])
    assert torch.isfinite(consistency_loss(far))


def stream(head: UerHead, start: int, stop: int) -> None:
    x, y = build.features(400, D, 3)
    for i in range(start, stop, 10):
        replay = (x[:i], y[:i]) if i else None
        head.learn_many(x[i : i + 10], y[i : i + 10], replay)


def memory_of(n: int) -> ListMemory:
    memory = ListMemory(Diagonal.name)
    memory.add(*build.features(n, D, 3))
    return memory


def test_what_is_served_does_not_change_what_is_learned() -> None:
    quiet = PLAIN
    steady = replace(PLAIN, slow_decay=0.99, n_settle_steps=30)
    heads = [UerHead(D, profile=p) for p in (quiet, steady)]
    for head in heads:
        stream(head, 0, 100)
        head.settle(memory_of(100))
        stream(head, 100, 200)
    states = [head.state() for head in heads]
    assert np.array_equal(states[0]["rows"], states[1]["rows"])
    assert not np.array_equal(states[0]["slow"], states[1]["slow"])


def test_plain_serves_the_rows_that_learn() -> None:
    head = UerHead(D, profile=PLAIN)
    stream(head, 0, 100)
    assert np.array_equal(head.state()["slow"], head.state()["rows"])
    head.settle(memory_of(100))
    assert not len(head.state()["settled"])


def test_settling_serves_another_copy_until_something_is_learned() -> None:
    head = UerHead(D)
    stream(head, 0, 100)
    x, _ = build.features(40, D, 3, seed=3)
    before = head.predict_many(x)
    head.settle(memory_of(100))
    settled = head.predict_many(x)
    head.settle(memory_of(100))
    assert np.array_equal(head.predict_many(x), settled)
    assert not np.array_equal(before, settled)
    names = {c: str(c) for c in head.classes}
    np.testing.assert_allclose(head.scorer(names).scores(x), settled, atol=1e-5)
    stream(head, 100, 110)
    assert not len(head.state()["settled"])


@pytest.mark.parametrize("memory", [None, memory_of(1), ListMemory(Diagonal.name)])
def test_settling_on_fewer_than_two_classes_is_left_out(memory: ListMemory | None) -> None:
    head = UerHead(D)
    stream(head, 0, 100)
    head.settle(memory)
    assert not len(head.state()["settled"])


def test_settling_mends_a_head_that_lost_a_class() -> None:
    x, y = build.features(400, D, 3)
    rows = np.zeros((3, D), np.float32)
    z = x - x.mean(axis=0)
    mended = settled_rows(
        rows, z, y - 1, n_steps=100, learning_rate=1.0, rng=np.random.default_rng(0)
    )
    assert ((z @ mended.T).argmax(axis=1) == y - 1).mean() > 0.95
    assert not rows.any()


def test_a_class_of_one_stored_sample_counts_a_third_in_a_step() -> None:
    z = np.ones((2, 3), np.float32)
    one = settled_rows(
        np.zeros((2, 3), np.float32),
        z,
        np.array([0, 1]),
        n_steps=1,
        learning_rate=1.0,
        rng=np.random.default_rng(0),
    )
    many = settled_rows(
        np.zeros((2, 3), np.float32),
        np.ones((6, 3), np.float32),
        np.array([0, 0, 0, 1, 1, 1]),
        n_steps=1,
        learning_rate=1.0,
        rng=np.random.default_rng(0),
    )
    np.testing.assert_allclose(one * 3, many, atol=1e-6)


def test_an_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="balanced, light, careful"):
        UerHead(D, profile="bold")


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("n_views", [0, 1, 2, 3])
@pytest.mark.parametrize("view_weight", [0.0, 1.0])
def test_the_gradient_in_closed_form_is_that_of_autograd(
    gamma: float, n_views: int, view_weight: float
) -> None:
    rng = np.random.default_rng(0)
    k, d, n, m = 7, 40, 3, 5
    rows = rng.normal(0, 0.3, (k, d)).astype(np.float32)
    rows[2] = 0.0
    z = rng.normal(0, 0.2, (n, d)).astype(np.float32)
    z[1] = 0.0
    target, old_target = rng.integers(0, k, n), rng.integers(0, k, m)
    shape = (m, d) if n_views == 1 else (m, n_views, d)
    old_z = rng.normal(0, 2.0, shape).astype(np.float32) if n_views else None
    w = torch.from_numpy(rows).requires_grad_(True)
    old = None if old_z is None else (torch.from_numpy(old_z), torch.from_numpy(old_target))
    loss = uer_loss(
        w, torch.from_numpy(z), torch.from_numpy(target), *(old or (None, None)),
        gamma=gamma, view_weight=view_weight,
    )  # fmt: skip
    (expected,) = torch.autograd.grad(loss, w)
    found = uer_gradient(
        rows, z, target, old_z, old_target if n_views else None, gamma=gamma,
        view_weight=view_weight,
    )  # fmt: skip
    assert found.dtype == np.float32
    scale = float(expected.abs().max())
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-6 * scale, rtol=2e-5)
