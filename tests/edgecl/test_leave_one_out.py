"""Leave-one-out in closed form, beside really leaving out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

import build
from edgecl import calibration
from edgecl.calibration import calibration_of, left_out_in_parts, left_out_of
from edgecl.evaluation.calibrated import calibration_summary
from edgecl.governed import governed
from edgecl.governor.verdicts import kept_verdicts
from edgecl.heads import HEADS, influence, make_head
from edgecl.heads.base import Head
from edgecl.heads.codebook import N_FOR_MEANS, default_codebook, make_whitening
from edgecl.heads.leave_one_out import LeaveOneOut, LeftOut
from edgecl.heads.linear import LAMBDA_PER_FEATURE
from edgecl.heads.prototype import PrototypeHead
from edgecl.heads.ridge import RidgeHead
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.novelty import open_novelty
from edgecl.runtime.grid import quantise
from edgecl.session import Session, reading
from edgecl.types import ForgetRequest
from edgecl.unlearning.request import forget, writing

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
@settings(max_examples=10)
def test_ridge_equals_scikit_learn_without_the_sample(seed: int, n: int, n_classes: int) -> None:
    x, y = build.features(n, D, n_classes, seed)
    head = taught("ridge", x, y)
    assert isinstance(head, RidgeHead)
    found = left_out(head, x, y).scores
    really = np.concatenate([refitted(head, x, y, np.array([i])) for i in range(n)])
    np.testing.assert_allclose(found, really, atol=1e-8)


@given(st.integers(0, 10**6), st.integers(2, 9))
@settings(max_examples=10)
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
    found = left_out_of(learner.store, learner.head)
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


def home_of(path: Path, name: str, x: np.ndarray, y: np.ndarray) -> Home:
    """Return a home that learned, with probes where the head needs them to be calibrated."""
    home = build.tiny_home(path, name, probes=0 if name in EXACT else 20)
    with build.open_store(home) as store:
        learner = Session(home, store).learner
        for start in range(0, len(x), 10):
            part = slice(start, start + 10)
            frames = [build.frame(f"part-{c}", start + i) for i, c in enumerate(y[part])]
            learner.learn_many(frames, x[part])
        learner.settle()
    return home


def known_of(home: Home) -> dict[str, np.ndarray]:
    """Return all that left-out samples say, and what is kept of it, by name."""
    with reading(home) as session:
        store = session.store
        kept = store.load_head("scorer", home.config.head.name)
        calibration = session.calibration()
        assert kept is not None
        assert calibration is not None
        novelty = open_novelty(store, session.learner.head)
        found = calibration.arrays() | novelty.arrays()
        found |= {"labels": np.array(calibration.labels), "near": np.array(novelty.labels)}
        found |= {f"kept {k}": v for k, v in kept.items() if k.startswith("calibration")}
        one = session.leave_one_out()
        if one is not None:
            found |= {"scores": one.scores, "leverage": one.leverage, "suspicion": one.suspicion}
        return found


@pytest.mark.parametrize("name", EXACT)
def test_after_a_forget_all_of_it_is_that_of_a_home_that_never_saw_the_class(
    tmp_path: Path, name: str
) -> None:
    x, y = build.features(160, D, 3)
    rest = y != 2
    saw = home_of(tmp_path / "saw", name, x, y)
    with writing(saw) as session:
        forget(saw, session.learner, ForgetRequest("part-2"))
    ours, theirs = known_of(saw), known_of(home_of(tmp_path / "never", name, x[rest], y[rest]))
    assert ours.keys() == theirs.keys()
    assert {"scores", "kept calibration.shares", "novelty.centres"} <= ours.keys()
    for part, value in theirs.items():
        assert np.array_equal(ours[part], value), part


def test_a_head_by_gradient_is_calibrated_by_samples_that_are_held_out(tmp_path: Path) -> None:
    x, y = build.features(200, D, 3)
    with reading(home_of(tmp_path / "home", "uer", x, y)) as session:
        found = session.calibration()
        assert session.leave_one_out() is None
        assert session.leave_out("day") is None
        assert found is not None
        assert not found.is_left_out
        summary = calibration_summary(session)
    assert len(found.targets) == 19  # each tenth of a class
    assert summary is not None
    assert (summary["by"], summary["sets"]["measured_on"]) == ("held out", "themselves")


def test_status_measures_sets_on_samples_that_were_never_learned(tmp_path: Path) -> None:
    x, y = build.features(300, D, 3)
    home = build.tiny_home(tmp_path / "home", probes=20)
    with build.open_store(home) as store:
        session = Session(home, store)
        assert calibration_summary(session) is None
        frames = [build.frame(f"part-{c}", i) for i, c in enumerate(y)]
        session.learner.learn_many(frames, x)
        summary = calibration_summary(session)
    assert summary is not None
    assert (summary["by"], summary["sets"]["measured_on"]) == ("left out", "held out")
    assert summary["samples"] == 300 - summary["sets"]["n"]
    assert 0.7 <= summary["sets"]["coverage"] <= 1
    assert set(summary["classes"]) == {"part-1", "part-2", "part-3"}


def test_a_class_that_is_being_unlearned_is_in_none_of_it(tmp_path: Path) -> None:
    x, y = build.features(120, D, 3)
    home = home_of(tmp_path / "home", "ridge", x, y)
    with build.open_store(home) as store:
        session = Session(home, store)
        with store.transaction(changes_head=False):
            store.connection.execute(
                "INSERT INTO requests(kind, target, phase, created, body) "
                "VALUES ('class', ?, 'PENDING', 0, '{}')",
                (store.class_uid("part-2"),),
            )
        found, calibration = session.leave_one_out(), session.calibration()
        assert found is not None
        assert calibration is not None
        assert store.class_uid("part-2") not in {*found.columns.tolist(), *found.classes.tolist()}
        assert set(calibration.labels) == {"part-1", "part-3"}
        assert len(calibration.targets) == (y != 2).sum()


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


def test_with_very_many_scores_some_bursts_say_it_and_all_rows_come_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with twenty thousand kept rows of a thousand classes: never are all scores in memory."""
    x, y = build.features(240, D, 60)
    learner = learner_of(tmp_path / "s.db", "ridge", x, y)
    whole, store, head = of(learner), learner.store, learner.head
    wanted = kept_verdicts(learner)
    known = calibration_of(store, head)
    assert known is not None
    monkeypatch.setattr(calibration, "_MOST_SCORES", 60 * 50)
    monkeypatch.setattr(calibration, "_MOST_ROWS", 10)
    sizes = [len(part.uids) for part in left_out_in_parts(store, head)]
    assert sum(sizes) == 240
    assert max(sizes) == 50
    again = kept_verdicts(learner)
    for one, other in zip(again, wanted, strict=True):
        assert np.array_equal(one, other)
    some = left_out_of(store, head, by_burst=True)
    assert some is not None
    assert 20 <= len(some.uids) <= 60
    assert len(np.unique(some.classes)) > 15  # spread over all
    # A class of which one row was chosen is no class of one row.
    few = calibration_of(store, head)
    assert few is not None
    uids, counts = np.unique(whole.classes, return_counts=True)
    assert len(few.targets) == np.isin(some.classes, uids[counts > 1]).sum() > 40
    assert few.temperature == pytest.approx(known.temperature, rel=0.5)
    # Rows that are asked for by name are there, whatever else is.
    meant = whole.uids[7:200:40]
    named = left_out_of(store, head, by_burst=True, asked=meant)
    assert named is not None
    assert np.isin(meant, named.uids).all()
    assert len(named.uids) < 60
    learner.store.close()


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each time that ridge multiplies them with the factor, which is what it costs."""
    rows: list[int] = []
    plain = influence.members

    def counted(groups: np.ndarray | None, n: int) -> list[np.ndarray]:
        rows.append(n)
        return plain(groups, n)

    monkeypatch.setattr(influence, "members", counted)
    return rows


def test_rows_left_out_in_groups_are_known_alone_at_no_cost(products: list[int]) -> None:
    x, y = build.features(60, D)
    head, other = taught("ridge", x, y), taught("ridge", x, y)
    left_out(head, x, y, np.arange(60) // 3)
    assert products == [60]
    alone = left_out(head, x, y)
    assert products == [60]
    wanted = left_out(other, x, y)
    assert np.array_equal(alone.scores, wanted.scores)
    assert np.array_equal(alone.leverage, wanted.leverage)
    del products[:]
    left_out(head, x[:50], y[:50])  # others, and then another head
    head.learn_many(x[:1], y[:1])
    left_out(head, x[:50], y[:50])
    assert products == [50, 50]


def test_a_run_and_its_judge_leave_out_once(tmp_path: Path, products: list[int]) -> None:
    home = build.tiny_home(tmp_path / "home", probes=20)
    x, y = build.features(90)
    frames = [build.frame(f"part-{c}", i) for i, c in enumerate(y)]
    for part in (slice(0, 60), slice(60, 90)):
        del products[:]
        with writing(home) as session, governed(session, "learn"):
            session.learner.learn_many(frames[part], x[part])
            session.learner.settle()
            n_before = len(products)
            assert n_before <= 2  # the judge, before it, and the head's calibration
        assert len(products) == n_before
