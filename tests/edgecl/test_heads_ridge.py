"""The ridge head against closed forms and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

import build
from build import ListMemory
from edgecl.heads import blas
from edgecl.heads.linear import LAMBDA_PER_FEATURE, scale_of
from edgecl.heads.ridge import RidgeHead
from edgecl.heads.statistics import Diagonal, Gram
from edgecl.runtime.grid import GRID, quantise

D = 12


def closed_form(
    x: np.ndarray, y: np.ndarray, classes: tuple[int, ...], at: np.ndarray
) -> np.ndarray:
    """Scores by scikit-learn, on the same scaled features."""
    rows = quantise(x).astype(np.float64)
    scale = scale_of(rows.var(axis=0))
    model = Ridge(alpha=LAMBDA_PER_FEATURE * x.shape[1], solver="cholesky")
    model.fit(rows / scale, (y[:, None] == np.array(classes)).astype(float))
    scores: np.ndarray = model.predict(at.astype(np.float64) / scale)
    return scores


def test_settled_head_equals_scikit_learn() -> None:
    x, y = build.features(200, D, 4)
    head = RidgeHead(D)
    head.learn_many(x, y)
    head.settle()
    at, _ = build.features(50, D, 4, seed=1)
    expected = closed_form(x, y, head.classes, at)
    np.testing.assert_allclose(head.predict_many(at), expected, atol=1e-9)


def test_rank_one_updates_equal_a_solve_with_the_same_centre_and_scale() -> None:
    x, y = build.features(700, D, 3)
    head = RidgeHead(D)
    head.learn_many(x[:512], y[:512])  # the last solve, at 512
    mean, scale = head._mean.copy(), 1 / head._inverse_scale
    head.learn_many(x[512:], y[512:])  # 188 updates: two flushes and a part
    rows = (quantise(x).astype(np.float64) - mean) / scale
    design = np.column_stack([rows, np.ones(len(rows))])
    penalty = np.diag([LAMBDA_PER_FEATURE * D] * D + [0.0])
    targets = (y[:, None] == np.array(head.classes)).astype(float)
    weights = np.linalg.solve(design.T @ design + penalty, design.T @ targets)
    at, _ = build.features(50, D, 3, seed=1)
    z = np.column_stack([(at.astype(np.float64) - mean) / scale, np.ones(len(at))])
    # float32 in the inverse: 1e-5 is ten times what was seen.
    np.testing.assert_allclose(head.predict_many(at), z @ weights, atol=1e-5)


@pytest.mark.parametrize("asked", ["before each", "each by each other", "sometimes", "at the end"])
def test_classes_that_come_one_by_one_are_what_a_solve_gives(asked: str) -> None:
    d, n, k = 40, 900, 300
    x, y = build.features(n, d, k)
    head = RidgeHead(d)
    for i in range(n):
        if i and asked == "before each":  # of the sample that is learned next
            head.predict_many(x[i : i + 1])
        if i and (asked == "each by each other" or (asked == "sometimes" and i % 50 == 0)):
            head.predict_many(x[i - 1 : i])
        head.learn_many(x[i : i + 1], y[i : i + 1])
    now = head.predict_many(x)
    now_left_out = head.left_out_now(quantise(x), y)
    mean, scale = head._mean, 1 / head._inverse_scale
    z = (quantise(x).astype(np.float64) - mean) / scale
    design = np.column_stack([z, np.ones(n)])
    penalty = np.diag([LAMBDA_PER_FEATURE * d] * d + [0.0])
    targets = (y[:, None] == np.array(head.classes)).astype(float)
    inverse = np.linalg.inv(design.T @ design + penalty)
    scores = design @ inverse @ design.T @ targets
    at = np.column_stack([(x - mean) / scale, np.ones(n)])
    np.testing.assert_allclose(now, at @ inverse @ design.T @ targets, atol=1e-5)
    leverage = np.einsum("nd,de,ne->n", design, inverse, design)
    wanted = targets - (targets - scores) / (1 - leverage[:, None])
    np.testing.assert_allclose(now_left_out, wanted, atol=1e-4)
    once = RidgeHead(d)
    once.learn_many(x, y)
    for one in (head, once):
        one.settle()
    assert np.array_equal(head.predict_many(x), once.predict_many(x))


@pytest.mark.parametrize("step", [2, 16, 50, 100])
def test_rows_that_were_announced_are_said_and_learned_as_any(step: int) -> None:
    """Whatever comes between: new classes, solves, full blocks, rows that are left out."""
    n, d = 700, 40
    x, y = build.features(n, d, 60)
    rows = quantise(x)
    head, plain = RidgeHead(d), RidgeHead(d)
    for first in range(0, n, step):
        head.expect(rows[first : first + step])
        for i in range(first, min(first + step, n)):
            row = rows[i : i + 1].astype(np.float32)
            if plain.classes:
                np.testing.assert_allclose(
                    head.predict_many(row), plain.predict_many(row), atol=2e-5
                )
            if i % 9:
                for one in (head, plain):
                    one.learn_many(rows[i : i + 1], y[i : i + 1])
    for one in (head, plain):
        one.settle()
    assert np.array_equal(head.predict_many(x), plain.predict_many(x))


def test_announced_rows_read_the_inverse_once() -> None:
    x, y = build.features(300, D, 3)
    head = RidgeHead(D)
    head.learn_many(x[:200], y[:200])
    head.predict_many(x[:1])  # solved
    head.learn_many(x[200:201], y[200:201])
    head.prepare()
    rows = quantise(x[201:233])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blas, "symmetric_vector", lambda *_: pytest.fail("it is read for each row"))
        head.expect(rows)
        for i in range(32):
            head.predict_many(rows[i : i + 1].astype(np.float32))
            head.learn_many(rows[i : i + 1], y[201 + i : 202 + i])
        head.predict_many(x)


def test_a_new_class_needs_no_room_for_itself_alone() -> None:
    head = RidgeHead(D)
    x, y = build.features(400, D, 400)
    rooms = set()
    for i in range(400):
        head.learn_many(x[i : i + 1], y[i : i + 1])
        assert head.predict_many(x[i : i + 1]).shape == (1, i + 1)
        rooms.add(len(head._live()._w))
    assert len(rooms) < 12


@given(seed=st.integers(0, 1000), split=st.integers(1, 59))
@settings(max_examples=25)
def test_order_and_batching_do_not_change_a_single_bit(seed: int, split: int) -> None:
    x, y = build.features(60, D, 3)
    first = RidgeHead(D)
    first.learn_many(x, y)
    first.settle()
    order = np.random.default_rng(seed).permutation(60)
    second = RidgeHead(D)
    second.learn_many(x[order][:split], y[order][:split])
    second.settle()
    second.learn_many(x[order][split:], y[order][split:])
    second.settle()
    columns = [second.classes.index(c) for c in first.classes]
    assert np.array_equal(first._moments.second, second._moments.second)
    # The columns stand in another order, and BLAS may treat them in other groups.
    np.testing.assert_allclose(
        first.predict_many(x), second.predict_many(x)[:, columns], atol=1e-12
    )


@pytest.mark.parametrize("n", [9, 100, 1100])
def test_forgetting_gives_the_bits_of_never_having_learned(n: int) -> None:
    x, y = build.features(n, D, 3)
    head, memory = RidgeHead(D), ListMemory(Gram.name)
    head.learn_many(x, y)
    memory.add(x, y)
    head.forget(2, memory)
    never = RidgeHead(D)
    never.learn_many(x[y != 2], y[y != 2])
    never.settle()
    names = {1: "a", 3: "b"}
    assert np.array_equal(head.scorer(names).weights, never.scorer(names).weights)
    assert np.array_equal(head.scorer(names).bias, never.scorer(names).bias)


def test_forgetting_then_learning_again_equals_having_learned_at_once() -> None:
    x, y = build.features(90, D, 3)
    head, memory = RidgeHead(D), ListMemory(Gram.name)
    head.learn_many(x, y)
    memory.add(x, y)
    head.forget(2, memory)
    head.learn_many(x[y == 2], np.full((y == 2).sum(), 4))
    head.settle()
    once = RidgeHead(D)
    once.learn_many(x, np.where(y == 2, 4, y))
    once.settle()
    columns = [once.classes.index(c) for c in head.classes]
    np.testing.assert_allclose(head.predict_many(x), once.predict_many(x)[:, columns], atol=1e-9)


def test_inexact_sums_are_added_up_anew_instead_of_subtracted() -> None:
    x, y = build.features(60, D, 3)
    x = x * 9000  # beyond what float64 adds without rounding
    head, memory = RidgeHead(D), ListMemory(Gram.name)
    head.learn_many(x, y)
    memory.add(x, y)
    head.settle()
    assert not head._moments.is_exact
    head.forget(2, memory)
    never = RidgeHead(D)
    never.learn_many(x[y != 2], y[y != 2])
    never.settle()
    np.testing.assert_allclose(head.predict_many(x), never.predict_many(x), atol=1e-8)


@given(st.lists(st.floats(-70000, 70000, width=32), min_size=1, max_size=30))
def test_quantised_values_lie_on_the_grid_and_near_the_input(values: list[float]) -> None:
    x = np.array(values, np.float32)
    q = quantise(x)
    assert q.dtype == np.float16
    assert np.array_equal(q.astype(np.float64) / GRID, np.round(q.astype(np.float64) / GRID))
    limit = float(np.finfo(np.float16).max)
    step = np.maximum(GRID / 2, np.abs(x) * 2.0**-11)
    assert (np.abs(q.astype(np.float64) - np.clip(x, -limit, limit)) <= step + GRID / 2).all()
    assert np.array_equal(quantise(q.astype(np.float32)), q)


@pytest.mark.parametrize("kind", [Gram, Diagonal])
def test_moments_survive_packing_and_add_exactly(kind: str) -> None:
    x = quantise(build.features(50, D)[0])
    of = kind(D)
    whole, a, b = of.of(x), of.of(x[:20]), of.of(x[20:])
    again = of.unpack(whole.n, *of.pack(whole))
    for got in (again, a.plus(b)):
        assert got.n == 50
        assert np.array_equal(got.total, whole.total)
        assert np.array_equal(got.second, whole.second)
    back = whole.minus(b)
    assert np.array_equal(back.second, a.second)
    assert np.array_equal(back.total, a.total)


def test_folded_statistics_are_never_larger_than_the_rows_they_replace() -> None:
    for d in (64, 1280, 2224):
        gram = Gram(d)
        n = gram.fold_limit
        packed = sum(len(part) for part in gram.pack(gram.empty()))
        assert packed <= n * d * 2 < packed + 2 * d
