"""Prototype head: class means, and PRD's losses against the numbers of the official code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import build
from build import ListMemory
from edgecl.errors import IntegrityError, ShapeError, UsageError
from edgecl.heads import make_head, prototype
from edgecl.heads import prd as losses
from edgecl.heads.prd import (
    cosine,
    prd_loss,
    project,
    projected,
    prototype_loss,
    relation_loss,
    supcon_loss,
)
from edgecl.heads.prototype import PrototypeHead
from edgecl.learner import Learner
from edgecl.runtime.scoring import load_scorer

D = 12
prd = pytest.mark.parametrize("relation", ["samples", "classes"])
every_relation = pytest.mark.parametrize("relation", ["none", "samples", "classes"])
# Two samples in two views each: output of the official code for these rows.
VIEWS = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, 0.6]])


def taught(relation: str, n: int = 90, seed: int = 0) -> tuple[PrototypeHead, ListMemory]:
    head, memory = PrototypeHead(D, seed=seed, relation=relation), ListMemory("diagonal")
    x, y = build.features(n, D, 3)
    for start in range(0, n, 10):
        part = slice(start, start + 10)
        head.learn_many(x[part], y[part], (x[:start], y[:start]) if start else None)
    memory.add(x, y)
    return head, memory


def same(a: PrototypeHead, b: PrototypeHead) -> bool:
    one, other = build.learned(a), build.learned(b)
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


# Losses


@pytest.mark.parametrize(
    ("target", "temperature", "expected"),
    [
        ([0, 0, 1, 1], 0.1, 4.2382889),
        ([0, 0, 0, 0], 0.1, 3.8573360),
        ([0, 0, 1, 1], 0.07, 4.0789986),
    ],
)
def test_contrast_equals_the_official_code(
    target: list[int], temperature: float, expected: float
) -> None:
    loss = supcon_loss(VIEWS, torch.tensor(target), temperature=temperature)
    assert loss.item() == pytest.approx(expected, abs=2e-6)


def test_anchors_without_positives_are_skipped_and_never_give_nan() -> None:
    u = VIEWS.clone().requires_grad_(True)
    lonely = supcon_loss(u, torch.tensor([0, 0, 1, 2]), temperature=0.1)
    (gradient,) = torch.autograd.grad(lonely, u)
    assert lonely.isfinite()
    assert gradient.isfinite().all()
    for n in (1, 4):
        alone = supcon_loss(u[:n], torch.arange(n), temperature=0.1)
        (gradient,) = torch.autograd.grad(alone, u)
        assert alone.item() == 0
        assert not gradient.any()


def test_prototype_loss_equals_the_official_code() -> None:
    z = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    first = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    both = torch.cat([first, torch.tensor([[1.0, 1.0], [-1.0, 1.0]])])
    assert prototype_loss(first, z, torch.tensor([0, 1])).item() == pytest.approx(0.1464466)
    assert prototype_loss(both, z, torch.tensor([2, 3])).item() == pytest.approx(0.6464466)


def test_one_step_of_the_prototype_loss() -> None:
    p = torch.tensor([[3.0, 0.0]], requires_grad=True)
    loss = prototype_loss(p, torch.tensor([[0.0, 2.0]]), torch.tensor([0]))
    (gradient,) = torch.autograd.grad(2 * loss, p)
    assert loss.item() == 1
    torch.testing.assert_close(p - 0.01 * gradient, torch.tensor([[3.0, 0.00666667]]))


def test_the_prototype_loss_moves_the_prototypes_of_its_samples_only() -> None:
    p = torch.eye(3, requires_grad=True)
    h = torch.tensor([[0.0, 2.0, 1.0]], requires_grad=True)
    loss = prototype_loss(p, h, torch.tensor([2]))
    gp, gh = torch.autograd.grad(loss, (p, h), materialize_grads=True)
    assert not gh.any()
    assert gp[2].any()
    assert not gp[:2].any()


@pytest.mark.parametrize(
    ("form", "temperature", "expected"),
    [
        ("samples", 1.0, 0.0154099),
        ("samples", 0.1, 0.2117801),
        ("classes", 1.0, 0.0099056),
        ("classes", 0.1, 0.0553704),
    ],
)
def test_relation_loss_has_the_published_values(
    form: str, temperature: float, expected: float
) -> None:
    before = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.4, 0.3]], requires_grad=True)
    now = torch.tensor([[0.7, 0.3], [0.3, 0.6], [0.5, 0.5]], requires_grad=True)
    loss = relation_loss(before, now, temperature=temperature, form=form)
    assert loss.item() == pytest.approx(expected, abs=2e-6)
    g_before, g_now = torch.autograd.grad(loss, (before, now), materialize_grads=True)
    assert not g_before.any()
    assert g_now.any()
    assert relation_loss(now, now, temperature=temperature, form=form).item() == 0


@prd
def test_relations_move_features_and_older_prototypes_and_nothing_else(relation: str) -> None:
    rng = torch.Generator().manual_seed(0)
    head, _ = taught(relation)
    weights = {
        key: torch.from_numpy(value).requires_grad_(True)
        for key, value in (head.state() or {}).items()
        if not key.startswith("teacher")
    }
    z, means = torch.randn(4, D, generator=rng), torch.randn(3, D, generator=rng)
    old, target = torch.tensor([0, 1]), torch.tensor([2, 2, 2, 2])
    before = cosine(torch.randn(4, D, generator=rng), torch.randn(2, D, generator=rng))
    before.requires_grad_(True)
    wanted = [weights["offsets"], weights["up"], before]
    with_old, without = (
        torch.autograd.grad(
            prd_loss(weights, means, z, target, kept, before, relation),
            wanted,
            materialize_grads=True,
        )
        for kept in (old, old[:0])
    )
    assert without[0][2].any()
    assert not without[0][:2].any()
    assert with_old[0][:2].any(dim=1).all()
    assert torch.equal(with_old[0][2], without[0][2])
    assert not torch.equal(with_old[1], without[1])
    assert not with_old[2].any()


@prd
def test_with_a_projection_that_does_not_move_nothing_is_distilled(
    relation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On frozen features PRD is the nearest class mean: L_d stays 0, prototypes turn to means."""
    monkeypatch.setattr(prototype, "LEARNING_RATE", 0.0)
    monkeypatch.setattr(prototype, "PROTOTYPE_RATE", 0.1)
    lost: list[float] = []
    plain = losses.relation_loss

    def watched(
        before: torch.Tensor, now: torch.Tensor, *, temperature: float, form: str
    ) -> torch.Tensor:
        loss = plain(before, now, temperature=temperature, form=form)
        lost.append(loss.item())
        return loss

    monkeypatch.setattr(losses, "relation_loss", watched)
    x, y = build.features(120, D, 3)
    head = PrototypeHead(D, relation=relation)
    for uid in (1, 2):
        head.learn_many(x[y == uid], y[y == uid])
    lost.clear()
    for _ in range(300):
        head.learn_many(x[y == 3], y[y == 3])
    assert lost
    assert max(lost) < 1e-6
    scorer = head.scorer({1: "a", 2: "b", 3: "c"})
    units = (x[y == 3] - scorer.mean) / scorer.scale
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    mean = units.mean(axis=0)
    assert scorer.prototypes[2] @ mean / np.linalg.norm(mean) > 0.999


# Class means


def test_class_means_are_the_nearest_by_cosine() -> None:
    head, memory = taught("none")
    rows, y = np.array(memory.x, np.float64), np.array(memory.y)
    scorer = head.scorer({1: "a", 2: "b", 3: "c"})
    z = (rows - rows.mean(axis=0)) / scorer.scale
    means = np.array([z[y == c].mean(axis=0) for c in (1, 2, 3)])
    expected = (z @ means.T) / np.linalg.norm(z, axis=1)[:, None] / np.linalg.norm(means, axis=1)
    np.testing.assert_allclose(head.predict_many(rows.astype(np.float32)), expected, atol=1e-7)
    assert np.abs(scorer.scale**2 - rows.var(axis=0)).max() < 0.01


def test_class_means_do_not_depend_on_order_or_batches() -> None:
    x, y = build.features(90, D, 3)
    heads = [PrototypeHead(D) for _ in range(2)]
    heads[0].learn_many(x, y)
    order = np.concatenate([[0, 1, 2], np.random.default_rng(1).permutation(np.arange(3, 90))])
    for i in order:
        heads[1].learn_one(x[i], int(y[i]))
    assert same(*heads)
    assert np.array_equal(heads[0].predict_many(x), heads[1].predict_many(x))


def test_forgetting_class_means_gives_the_bits_of_never_having_learned() -> None:
    head, memory = taught("none")
    assert head.is_exact
    assert head.forget_mode == "exact_head"
    assert head.state() is None
    head.forget(2, memory)
    x, y = build.features(90, D, 3)
    never = PrototypeHead(D)
    never.learn_many(x[y != 2], y[y != 2])
    assert same(head, never)
    a, b = (h.scorer({1: "a", 3: "c"}).arrays() for h in (head, never))
    assert all(np.array_equal(a[k], b[k]) for k in a)


# PRD


@prd
def test_a_restored_head_goes_on_bit_by_bit(relation: str) -> None:
    x, y = build.features(60, D, 4, seed=3)
    head, memory = taught(relation)
    copy = PrototypeHead(D, relation=relation)
    copy.restore(memory.all_moments(), head.state())
    assert same(head, copy)
    for h in (head, copy):
        for start in range(0, 60, 10):
            part = slice(start, start + 10)
            h.learn_many(x[part], y[part], (x, y))
    assert same(head, copy)
    assert np.array_equal(head.predict_many(x), copy.predict_many(x))


@prd
def test_prd_learns_class_after_class_from_a_store(relation: str, tmp_path: Path) -> None:
    x, y = build.features(300, D, 3)
    order = np.argsort(y[:120], kind="stable")
    with build.store(tmp_path / "s.db", D, second_moment="diagonal", capacity_samples=30) as store:
        learner = Learner(store, PrototypeHead(D, relation=relation), seed=3)
        frames = [build.frame(f"part-{y[i]}", int(i)) for i in order]
        learner.learn_many(frames[:70], x[order[:70]])
        again = Learner(store, PrototypeHead(D, relation=relation), seed=3)
        again.learn_many(frames[70:], x[order[70:]])
        guessed = np.array(again.head.classes)[again.predict_many(x[120:]).argmax(axis=1)]
        assert (guessed == y[120:]).mean() > 0.95
        with pytest.raises(UsageError):
            make_head("prototype", D, relation="order")


@prd
def test_a_class_of_one_sample_and_one_that_comes_back(relation: str) -> None:
    head = PrototypeHead(D, relation=relation)
    x, _ = build.features(30, D, 3)
    for i, uid in enumerate([5, 9, 2, 5, 5, 9]):
        head.learn_one(x[i], uid)
    assert head.classes == (5, 9, 2)
    assert len((head.state() or {})["teacher_offsets"]) == 2
    assert np.isfinite(head.predict_many(x)).all()
    head.learn_many(x, np.full(30, 9), (x[:4], np.array([5, 9, 2, 77])))
    assert head.predict_many(x).shape == (30, 3)
    head.learn_many(x[:0], np.zeros(0, np.int64))
    assert np.isfinite(head.predict_many(np.zeros((1, D), np.float32))).all()


@prd
def test_zero_and_identical_features_stay_finite(relation: str) -> None:
    head = PrototypeHead(D, relation=relation)
    for uid in (1, 2, 1, 2):
        head.learn_one(np.zeros(D, np.float32), uid)
    for uid in (1, 2, 3):
        head.learn_one(np.ones(D, np.float32), uid)
    assert np.isfinite(head.predict_many(np.full((1, D), 9, np.float32))).all()


@prd
def test_after_forgetting_nothing_of_the_class_is_left(relation: str) -> None:
    """Two devices that saw different samples of a class are equal after it is forgotten."""
    x, y = build.features(90, D, 3)
    other = x.copy()
    other[y == 2] = np.clip(other[y == 2][::-1] * 1.7, 0, 6)
    heads = []
    for rows in (x, other):
        head, memory = PrototypeHead(D, relation=relation), ListMemory("diagonal")
        head.learn_many(rows, y)
        memory.add(rows, y)
        head.forget(2, memory)
        heads.append(head)
    assert same(*heads)
    assert heads[0].classes == (1, 3)
    assert not heads[0].is_exact
    guessed = np.array([1, 3])[heads[0].predict_many(x[y != 2]).argmax(axis=1)]
    assert (guessed == y[y != 2]).mean() > 0.95
    for uid in (1, 3):
        heads[0].forget(uid, memory)
        memory.drop(uid)
    assert same(heads[0], PrototypeHead(D, relation=relation))


@prd
def test_rebuilt_from_the_store_it_works_and_is_the_same_every_time(relation: str) -> None:
    _, memory = taught(relation)
    heads = [PrototypeHead(D, relation=relation) for _ in range(2)]
    for head in heads:
        head.rebuild(memory)
    assert same(*heads)
    x, y = build.features(200, D, 3)
    guessed = np.array(heads[0].classes)[heads[0].predict_many(x).argmax(axis=1)]
    assert (guessed == y).mean() > 0.95


@prd
def test_same_seed_same_head_and_other_generators_are_left_alone(relation: str) -> None:
    before = torch.random.get_rng_state()
    heads = [taught(relation, seed=s)[0] for s in (0, 0, 1)]
    assert same(heads[0], heads[1])
    assert not same(heads[0], heads[2])
    assert torch.equal(before, torch.random.get_rng_state())


@prd
def test_a_state_that_does_not_fit_is_refused(relation: str) -> None:
    head, memory = taught(relation)
    with pytest.raises(IntegrityError, match="backup"):
        head.restore(memory.all_moments(), None)
    with pytest.raises(ShapeError):
        head.learn_many(np.zeros((1, D + 1), np.float32), np.array([1]))


# Scorer


@every_relation
def test_the_scorer_is_the_head_without_torch(relation: str) -> None:
    head, _ = taught(relation)
    x, _ = build.features(40, D, 3, seed=6)
    names = {1: "a", 2: "b", 3: "c"}
    scorer = head.scorer(names)
    again = load_scorer(scorer.arrays(), scorer.labels)
    assert np.array_equal(again.scores(x), head.predict_many(x))
    assert np.abs(again.scores(x)).max() <= 1 + 1e-9
    np.testing.assert_allclose(again.probabilities(again.scores(x)).sum(axis=1), 1)
    if relation != "none":
        weights = {k: torch.from_numpy(v) for k, v in (head.state() or {}).items()}
        z = torch.from_numpy(((x - scorer.mean) / scorer.scale).astype(np.float32))
        by_torch = cosine(project(z, weights), torch.from_numpy(scorer.prototypes).float())
        alone = replace(scorer, layers=(), centres=None)
        np.testing.assert_allclose(alone.scores(x), by_torch.numpy(), atol=1e-5)


def test_classes_that_were_not_seen_have_no_column() -> None:
    """The official class-incremental prediction could name a class of a task not yet trained."""
    head = PrototypeHead(D, relation="samples")
    x, y = build.features(40, D, 2)
    head.learn_many(x, y)
    assert head.classes == (1, 2)
    assert head.predict_many(x).shape == (40, 2)


@prd
def test_class_means_behind_the_projector_vote_and_are_kept(relation: str) -> None:
    head, _ = taught(relation)
    x, _ = build.features(20, D, 3, seed=8)
    state = head.state() or {}
    mean, scale = head._standard()
    weights = {k: torch.from_numpy(v) for k, v in head._weights.items()}
    h = project(torch.from_numpy(((x - mean) / scale).astype(np.float32)), weights)
    centres = state["centres"] / np.linalg.norm(state["centres"], axis=1, keepdims=True)
    scorer = head.scorer({c: str(c) for c in head.classes})
    plain = replace(scorer, layers=(), centres=None).scores(x)
    wanted = (plain + projected(h, weights).numpy() @ centres.T) / 2
    assert np.allclose(scorer.scores(x), wanted, atol=1e-5)
    again = load_scorer(scorer.arrays(), scorer.labels)
    assert np.array_equal(again.scores(x), scorer.scores(x))
