"""Every head of HEADS passes every check."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import build
from build import ListMemory
from edgecl.errors import NothingLearnedError, ShapeError, UnknownClassError, UsageError
from edgecl.heads import HEADS, make_head
from edgecl.heads.base import Head

D = 12
every_head = pytest.mark.parametrize("name", list(HEADS))


def taught(name: str, n: int = 90, n_classes: int = 3) -> tuple[Head, ListMemory]:
    head, memory = make_head(name, D), ListMemory(HEADS[name].statistic.name)
    x, y = build.features(n, D, n_classes)
    for start in range(0, n, head.batch_size):
        part = slice(start, start + head.batch_size)
        head.learn_many(x[part], y[part], (x[:start], y[:start]) if start else None)
    memory.add(x, y)
    head.settle()
    return head, memory


@every_head
def test_learns_separable_classes(name: str) -> None:
    head, _ = taught(name)
    x, y = build.features(300, D, 3)
    guessed = np.array(head.classes)[head.predict_many(x[90:]).argmax(axis=1)]
    assert (guessed == y[90:]).mean() > 0.95


@every_head
def test_empty_head_says_that_nothing_was_learned(name: str) -> None:
    head = make_head(name, D)
    assert head.classes == ()
    with pytest.raises(NothingLearnedError, match="learn a sample"):
        head.predict_many(np.zeros((1, D), np.float32))


@every_head
def test_one_sample_of_one_class_is_predicted(name: str) -> None:
    head = make_head(name, D)
    head.learn_one(np.full(D, 0.5, np.float32), 7)
    assert head.classes == (7,)
    assert head.predict_many(np.ones((2, D), np.float32)).shape == (2, 1)


@every_head
def test_a_class_appears_when_its_first_sample_does_and_may_come_back(name: str) -> None:
    head = make_head(name, D)
    x, _ = build.features(30, D, 3)
    for i, y in enumerate([5, 5, 9, 2, 5, 9]):
        head.learn_one(x[i], y)
    assert head.classes == (5, 9, 2)
    assert head.predict_many(x).shape == (30, 3)


@every_head
def test_batch_of_one_equals_learn_one(name: str) -> None:
    one, many = make_head(name, D), make_head(name, D)
    x, y = build.features(12, D, 3)
    for i in range(12):
        one.learn_one(x[i], int(y[i]))
        many.learn_many(x[i : i + 1], y[i : i + 1])
    assert np.array_equal(one.predict_many(x), many.predict_many(x))


@every_head
def test_zero_and_identical_features_stay_finite(name: str) -> None:
    head = make_head(name, D)
    for y in (1, 2, 1, 2):
        head.learn_one(np.zeros(D, np.float32), y)
    for y in (1, 2, 3):
        head.learn_one(np.ones(D, np.float32), y)
    assert np.isfinite(head.predict_many(np.zeros((1, D), np.float32))).all()
    head.settle()
    assert np.isfinite(head.predict_many(np.full((1, D), 9, np.float32))).all()


@every_head
def test_restored_from_statistics_and_state_it_is_bit_equal(name: str) -> None:
    head, memory = taught(name)
    copy = make_head(name, D)
    copy.restore(memory.all_moments(), head.state())
    x, _ = build.features(40, D, 3, seed=5)
    assert copy.classes == head.classes
    assert np.array_equal(copy.predict_many(x), head.predict_many(x))
    build.assert_learned_same(copy, head)


@every_head
def test_scorer_gives_the_scores_of_the_head(name: str) -> None:
    head, _ = taught(name)
    x, _ = build.features(40, D, 3, seed=6)
    scorer = head.scorer({uid: f"c{uid}" for uid in head.classes})
    np.testing.assert_allclose(scorer.scores(x), head.predict_many(x), atol=1e-5)
    assert scorer.labels == tuple(f"c{uid}" for uid in head.classes)


@every_head
def test_predicting_changes_nothing(name: str) -> None:
    head, _ = taught(name)
    before = build.learned(head)
    x, _ = build.features(40, D, 3)
    head.predict_many(x)
    after = build.learned(head)
    assert all(np.array_equal(before[k], after[k]) for k in before)


@every_head
def test_forgetting_an_unknown_class_changes_nothing(name: str) -> None:
    head, memory = taught(name)
    before = build.learned(head)
    with pytest.raises(UnknownClassError, match="99"):
        head.forget(99, memory)
    after = build.learned(head)
    assert all(np.array_equal(before[k], after[k]) for k in before)


@every_head
def test_a_forgotten_class_is_gone_and_the_rest_still_works(name: str) -> None:
    head, memory = taught(name)
    head.forget(2, memory)
    assert head.classes == (1, 3)
    x, y = build.features(300, D, 3)
    rest = y != 2
    guessed = np.array(head.classes)[head.predict_many(x[rest]).argmax(axis=1)]
    assert (guessed == y[rest]).mean() > 0.95
    with pytest.raises(UnknownClassError):
        head.forget(2, memory)


@every_head
def test_forgetting_every_class_gives_an_empty_head(name: str) -> None:
    head, memory = taught(name)
    for y in (1, 2, 3):
        head.forget(y, memory)
        memory.drop(y)
    assert head.classes == ()
    build.assert_learned_same(head, make_head(name, D))


@every_head
def test_unlearning_is_independent_of_the_forgotten_samples(name: str) -> None:
    """Two devices that saw different samples of a class are equal after it is forgotten."""
    x, y = build.features(90, D, 3)
    other = x.copy()
    other[y == 2] = np.clip(other[y == 2][::-1] * 1.7, 0, 6)
    heads = []
    for rows in (x, other):
        head, memory = make_head(name, D), ListMemory(HEADS[name].statistic.name)
        head.learn_many(rows, y)
        memory.add(rows, y)
        head.forget(2, memory)
        heads.append(head)
    build.assert_learned_same(*heads)


@every_head
@pytest.mark.parametrize(
    "x", [np.zeros(D), np.zeros((1, D + 1)), np.full((1, D), np.nan), np.full((1, D), np.inf)]
)
def test_wrong_features_are_refused_and_nothing_is_learned(name: str, x: np.ndarray) -> None:
    head = make_head(name, D)
    with pytest.raises(ShapeError):
        head.learn_many(x.astype(np.float32), np.array([1]))
    assert head.classes == ()


@every_head
def test_classes_that_do_not_fit_the_features_are_refused(name: str) -> None:
    with pytest.raises(ShapeError, match="one each"):
        make_head(name, D).learn_many(np.zeros((2, D), np.float32), np.array([1]))


def test_unknown_head_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="ridge, uer"):
        make_head("slda", D)


@every_head
def test_restored_from_a_store_the_head_is_the_same(name: str, tmp_path: Path) -> None:
    from edgecl.learner import Learner

    with build.store(tmp_path / "s.db", D, second_moment=HEADS[name].statistic.name) as store:
        learner = Learner(store, make_head(name, D), seed=3)
        x, y = build.features(50, D, 3)
        learner.learn_many([build.frame(f"part-{c}", i) for i, c in enumerate(y)], x)
        learner.settle()
        again = Learner(store, make_head(name, D), seed=3)
        assert np.array_equal(again.predict_many(x), learner.predict_many(x))
