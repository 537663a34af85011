"""What is replayed, from what was measured: worked numbers, and the head that is told so."""

from __future__ import annotations

import numpy as np
import pytest

import build
from edgecl.heads import make_head
from edgecl.heads.controllers import forgetting_of, ranked, row_losses, rows_wanted
from edgecl.runtime.grid import quantise

D = 12


def test_measured_forgetting_equals_the_worked_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecl.heads.controllers.THRESHOLD", 0.05)  # theirs
    state, found, rows = np.full(2, np.nan), [], []
    assert rows_wanted(32, state) == 8
    for loss in (0.5, 0.4, 1.4, 1.4, 0.3, 0.3):
        state = forgetting_of(loss, state)
        found.append(state[0] - state[1])
        rows.append(rows_wanted(32, state))
    assert found == pytest.approx([0, 0, 0.0900200, 0.1709380, 0.1336641, 0.1000172], abs=1e-7)
    assert rows == [8, 8, 32, 32, 32, 32]
    assert rows_wanted(2, np.full(2, np.nan)) == 1


def test_half_of_the_rows_are_those_of_the_largest_loss() -> None:
    losses = np.array([0.1, 5.0, 0.2, 4.0, 0.3, 3.0, 0.4, 0.5])
    rng = np.random.default_rng(0)
    for _ in range(20):
        places = ranked(losses, 4, rng)
        assert {1, 3} <= set(places.tolist())
        assert len(set(places.tolist())) == 4
        assert (np.diff(places) > 0).all()
    assert ranked(losses, 9, rng).tolist() == list(range(8))


def test_row_losses_are_the_cross_entropy() -> None:
    rng = np.random.default_rng(1)
    w, z = (rng.normal(size=(n, 5)).astype(np.float32) for n in (3, 7))
    y = np.arange(7) % 3
    p = np.exp(z @ w.T)
    p /= p.sum(axis=1, keepdims=True)
    assert np.allclose(row_losses(z @ w.T, y), -np.log(p[np.arange(7), y]), atol=1e-5)


@pytest.mark.parametrize("profile", ["measured", "ranked", "blurry"])
def test_a_head_that_is_opened_again_learns_on_in_the_same_bits(profile: str) -> None:
    x, y = build.features(60, D)
    one = make_head("uer", D, profile=profile)
    for part in range(0, 30, 10):
        rows = slice(part, part + 10)
        one.learn_many(x[rows], y[rows], (x[: part + 10], y[: part + 10]))
    kept = quantise(x[:30])
    moments = {c: one.statistic.of(kept[y[:30] == c]) for c in one.classes}
    other = make_head("uer", D, profile=profile)
    other.restore(moments, one.state())
    assert other.n_replay == one.n_replay
    for head in (one, other):
        head.learn_many(x[30:40], y[30:40], (x[:30], y[:30]))
    a, b = one.state(), other.state()
    assert a is not None
    assert b is not None
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[k], b[k]) for k in a)


def test_replay_opens_when_what_was_learned_is_forgotten_and_closes_for_a_forget() -> None:
    x, y = build.features(60, D)
    head = make_head("uer", D, profile="measured")
    head.learn_many(x[:10], y[:10], (x[:10], y[:10]))
    assert head.n_replay == 8
    wrong = (y + 1) % 3
    for _ in range(4):
        head.learn_many(x[:10], y[:10], (x[:10], wrong[:10]))
        head.learn_many(x[:10], wrong[:10], (x[:10], y[:10]))
    assert head.n_replay == 32
    memory = build.ListMemory(head.statistic.name, D)
    memory.add(x[:30], y[:30])
    head.rebuild(memory)
    fresh = make_head("uer", D, profile="measured")
    fresh.rebuild(memory)
    build.assert_learned_same(head, fresh)
    assert head.n_replay == fresh.n_replay
