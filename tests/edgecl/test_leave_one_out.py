"""Leave-one-out in closed form, beside really leaving out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

import build
from edgecl.heads import HEADS, make_head
from edgecl.heads.base import Head
from edgecl.heads.codebook import N_FOR_MEANS, default_codebook, make_whitening
from edgecl.heads.leave_one_out import LeaveOneOut, LeftOut
from edgecl.heads.linear import LAMBDA_PER_FEATURE
from edgecl.heads.prototype import PrototypeHead
from edgecl.heads.ridge import RidgeHead
from edgecl.learner import Learner
from edgecl.runtime.grid import quantise
from edgecl.session import Session, left_out_of

D = 12
EXACT = ("ridge", "prototype", "key-value")


BOOK = default_codebook(D)


def taught(name: str, x: np.ndarray, y: np.ndarray) -> Head:
    head = make_head(name, D, **({"codebook": BOOK} if name == "key-value" else {}))
    head.learn_many(x, y)
    head.settle()
    return head


def left_out(head: Head, x: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> LeftOut:
    found = head.left_out(quantise(x), y, groups)
    assert found is not None
    return found


def refitted(head: RidgeHead, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Scores of rows `out` by scikit-learn without them, with the head's centre and scale."""
    z = (quantise(x).astype(np.float64) - head._mean) * head._inverse_scale
    kept = np.setdiff1d(np.arange(len(x)), out)
    model = Ridge(alpha=LAMBDA_PER_FEATURE * x.shape[1], solver="cholesky")
    model.fit(z[kept], np.equal.outer(y[kept], np.array(head.classes)).astype(float))
    scores: np.ndarray = model.predict(z[out]).reshape(len(out), -1)
    return scores


@given(st.integers(0, 10**6), st.integers(3, 20), st.integers(1, 4))
@settings(max_examples=10, deadline=None)
def test_ridge_equals_scikit_learn_without_the_sample(seed: int, n: int, n_classes: int) -> None:
    x, y = build.features(n, D, n_classes, seed)
    head = taught("ridge", x, y)
    assert isinstance(head, RidgeHead)
    found = left_out(head, x, y).scores
    really = np.concatenate([refitted(head, x, y, np.array([i])) for i in range(n)])
    np.testing.assert_allclose(found, really, atol=1e-8)


@given(st.integers(0, 10**6), st.integers(2, 9))
@settings(max_examples=10, deadline=None)
def test_a_group_equals_scikit_learn_without_the_group(seed: int, n_groups: int) -> None:
    x, y = build.features(60, D, 3, seed)
    groups = np.random.default_rng(seed).integers(0, n_groups, 60)
    head = taught("ridge", x, y)
    assert isinstance(head, RidgeHead)
    found = left_out(head, x, y, groups).scores
    if len(np.unique(groups)) > 1:
        for g in np.unique(groups):
            out = np.flatnonzero(groups == g)
            np.testing.assert_allclose(found[out], refitted(head, x, y, out), atol=1e-8)


@pytest.mark.parametrize("name", EXACT)
def test_without_holding_centre_and_scale_it_is_nearly_what_a_new_head_says(name: str) -> None:
    x, y = build.features(120, D, 3)
    found = left_out(taught(name, x, y), x, y).scores
    apart = []
    for i in range(0, 120, 10):
        rest = np.arange(120) != i
        head = taught(name, x[rest], y[rest])
        columns = [head.classes.index(c) for c in taught(name, x, y).classes]
        apart.append(np.abs(head.predict_many(x[i : i + 1])[0, columns] - found[i]))
    assert np.mean(apart) < 0.02
    if name == "key-value":  # nothing there depends on the others
        assert np.max(apart) < 1e-9


def test_prototypes_behind_a_map_are_those_of_a_new_head() -> None:
    x, y = build.features(300, D, 3)
    mapped = make_whitening(x[200:], (D,), N_FOR_MEANS)
    head = PrototypeHead(D, codebook=mapped)
    head.learn_many(x[:200], y[:200])
    found = left_out(head, x[:200], y[:200]).scores
    for i in range(0, 200, 20):
        other = PrototypeHead(D, codebook=mapped)
        rest = np.arange(200) != i
        other.learn_many(x[:200][rest], y[:200][rest])
        columns = [other.classes.index(c) for c in head.classes]
        np.testing.assert_allclose(
            other.predict_many(x[i : i + 1])[0, columns], found[i], atol=1e-9
        )


@pytest.mark.parametrize("name", EXACT)
def test_rows_that_are_no_longer_kept_still_count(name: str) -> None:
    x, y = build.features(90, D, 3)
    head, kept = taught(name, x, y), np.arange(0, 90, 4)
    whole, part = left_out(head, x, y), left_out(head, x[kept], y[kept])
    np.testing.assert_allclose(part.scores, whole.scores[kept], atol=1e-12)
    np.testing.assert_allclose(part.leverage, whole.leverage[kept], atol=1e-12)


@pytest.mark.parametrize("name", EXACT)
def test_a_group_of_one_is_a_row_and_the_last_of_a_class_scores_finite(name: str) -> None:
    x, y = build.features(31, D, 3)
    y[-1] = 9
    head = taught(name, x, y)
    alone = left_out(head, x, y)
    np.testing.assert_allclose(
        left_out(head, x, y, np.arange(31)[::-1].copy()).scores, alone.scores, atol=1e-9
    )
    assert np.isfinite(alone.scores).all()
    assert alone.scores[-1].argmax() != head.classes.index(9)
    everything = left_out(head, x, y, np.zeros(31, np.int64))
    assert np.isfinite(everything.scores).all()


@pytest.mark.parametrize("name", EXACT)
def test_one_sample_has_nothing_beside_it(name: str) -> None:
    x, y = build.features(1, D, 1)
    assert np.isfinite(left_out(taught(name, x, y), x, y).scores).all()


def test_heads_by_gradient_say_that_they_have_none() -> None:
    x, y = build.features(30, D, 3)
    assert set(HEADS) - set(EXACT) == {"uer"}
    for name, options in (("uer", {}), ("prototype", {"relation": "samples"})):
        assert make_head(name, D, **options).left_out(quantise(x), y) is None
    assert make_head("key-value", D, values="sgd").left_out(quantise(x), y) is None


def learner_of(path: Path, name: str, x: np.ndarray, y: np.ndarray, **options: int) -> Learner:
    store = build.store(path, D, second_moment=HEADS[name].statistic.name, **options)
    learner = Learner(store, make_head(name, D), seed=1)
    for start in range(0, len(x), 10):
        part = slice(start, start + 10)
        frames = [build.frame(f"part-{c}", start + i) for i, c in enumerate(y[part])]
        learner.learn_many(frames, x[part])
    learner.settle()
    return learner


def of(learner: Learner) -> LeaveOneOut:
    found = left_out_of(learner, learner.store.blocked_classes())
    assert found is not None
    return found


def test_planted_wrong_labels_are_the_most_suspicious(tmp_path: Path) -> None:
    x, y = build.features(200, D, 3)
    wrong = np.arange(5, 200, 40)
    y[wrong] = y[wrong] % 3 + 1
    learner = learner_of(tmp_path / "s.db", "ridge", x, y)
    found = of(learner)
    assert set(np.argsort(-found.suspicion)[: len(wrong)]) == set(wrong.tolist())
    assert (found.suspicion[wrong] > 0).all()
    assert np.array_equal(found.suspicion > 0, ~found.verdicts)
    assert found.accuracy().keys() == set(found.columns.tolist())
    learner.store.close()


@pytest.mark.parametrize("name", EXACT)
def test_after_a_forget_it_is_that_of_a_store_that_never_saw_the_class(
    tmp_path: Path, name: str
) -> None:
    x, y = build.features(120, D, 3)
    rest = y != 2
    saw = learner_of(tmp_path / "a.db", name, x, y)
    with saw.store.transaction():
        saw.head.forget(saw.store.class_uid("part-2"), saw.store)
        saw.store.connection.execute("DELETE FROM samples WHERE class_uid = 2")
    never = learner_of(tmp_path / "b.db", name, x[rest], y[rest])
    a, b = of(saw), of(never)
    names = saw.store.names, never.store.names
    assert [names[0][u] for u in a.columns.tolist()] == [names[1][u] for u in b.columns.tolist()]
    assert np.array_equal(a.scores, b.scores)
    assert np.array_equal(a.leverage, b.leverage)
    saw.store.close()
    never.store.close()


def test_a_session_keeps_it_until_something_is_learned(tmp_path: Path) -> None:
    x, y = build.features(60, D, 3)
    home = build.tiny_home(tmp_path / "home")
    with build.open_store(home) as store:
        session = Session(home, store)
        assert session.leave_one_out() is None
        session.learner.learn_many([build.frame(f"p{c}", i) for i, c in enumerate(y)], x)
        first = session.leave_one_out()
        assert first is not None
        assert session.leave_one_out() is first
        session.learner.learn_one(build.frame("p1", 99), x[0])
        again = session.leave_one_out()
        assert again is not None
        assert len(again.uids) == len(first.uids) + 1
        by_source = session.leave_out("source")
        assert by_source is not None
        assert sum(len(part.uids) for part in by_source.values()) == len(again.uids)
