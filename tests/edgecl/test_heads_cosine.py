"""UER's loss: the numeric checks and the structural facts of its reconstruction."""

from __future__ import annotations

import numpy as np
import torch

import build
from edgecl.heads.cosine import TEMPERATURE, UerHead, cosine, uer_loss

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


def test_replay_changes_norms() -> None:
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


def test_replay_of_a_class_that_the_head_does_not_hold_is_left_out() -> None:
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
