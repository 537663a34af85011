"""The audit finds what an unlearning left behind, and nothing where it left nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import build
from edgecl.config import HeadConfig
from edgecl.heads import HEADS, make_head, make_head_of
from edgecl.heads.base import Head
from edgecl.heads.memory import Memory
from edgecl.heads.ridge import RidgeHead
from edgecl.heads.statistics import Gram
from edgecl.learner import Learner
from edgecl.runtime.grid import quantise
from edgecl.runtime.scoring import LinearScorer, Scorer
from edgecl.store.erasure import erase
from edgecl.types import Kind
from edgecl.unlearning.audit.attack import (
    MOST_RELEARN_STEPS,
    RowMemory,
    ShadowSettings,
    probe_accuracy,
    relearn_steps,
    restored_share,
    shadow_attack,
    shadow_projection,
)
from edgecl.unlearning.audit.measures import (
    activation_distance,
    forget_quality,
    h_mean,
    klom,
    likelihood_ratios,
    margins,
    roc,
    tug_of_war,
    zero_retrain,
)
from edgecl.unlearning.audit.verify import Audit, audit, weights_gap

D = 12
FEW = ShadowSettings(n_pairs=2, n_kept=40, n_class=10)
every_head = pytest.mark.parametrize("name", list(HEADS))


@dataclasses.dataclass
class Case:
    """A class that was unlearned, and what an audit wants to know."""

    config: HeadConfig
    memory: build.ListMemory
    before: Scorer
    served: Scorer
    names: dict[int, str]
    forgotten: np.ndarray

    def audit(self, **changes: object) -> Audit:
        values: dict[str, object] = {
            "memory": self.memory,
            "served": self.served,
            "names": self.names,
            "forgotten": self.forgotten,
            "statistic": self.memory.statistic,
            "before": self.before,
            "shadows": FEW,
        }
        return audit(self.config, **(values | changes))  # type: ignore[arg-type]


def case(name: str, *, n: int = 120, n_classes: int = 4, gone: int = 2) -> Case:
    """Let a head learn clusters and unlearn one."""
    config = HeadConfig(name)
    memory = build.ListMemory(HEADS[name].statistic.name)
    x, y = build.features(n, D, n_classes)
    memory.add(x, y)
    codebook = memory.statistic.keys
    head = make_head_of(config, D, codebook=codebook)
    head.rebuild(memory)
    head.settle(memory)
    names = {uid: f"secret-{uid}" for uid in head.classes}
    before = head.scorer(names)
    head.forget(gone, memory)
    memory.drop(gone)
    head.settle(memory)
    del names[gone]
    return Case(config, memory, before, head.scorer(names), names, quantise(x[y == gone]))


def without_row(scorer: Scorer, label: str) -> LinearScorer:
    """Drop a class's column and nothing else."""
    assert isinstance(scorer, LinearScorer)
    k = scorer.labels.index(label)
    return dataclasses.replace(
        scorer,
        weights=np.delete(scorer.weights, k, axis=1),
        bias=np.delete(scorer.bias, k),
        labels=tuple(other for other in scorer.labels if other != label),
    )


def forget_the_column_only(self: RidgeHead, y: int, memory: Memory) -> None:
    """Forget as many do it: the class's column goes, the Gram matrix and the others stay."""
    k = list(self.classes).index(y)
    self._weights = np.delete(self._weights, k, axis=1)
    self._bias = np.delete(self._bias, k)
    del self._sums[y]


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Digits through 256 random rectified features, as float16 on the grid."""
    from sklearn.datasets import load_digits

    found = load_digits()
    rng = np.random.default_rng(0)
    x = np.maximum(found.data / 16 @ rng.normal(0, 0.5, (64, 256)), 0)
    return quantise(x.astype(np.float32)), found.target.astype(np.int64)


# Measures


def test_measures_have_the_values_of_the_official_code() -> None:
    # Numeric checks of RUM's analysis, of SSD's ZRF (true divergence), of the unlearning bench's
    # margin, of the comparator's attack and of GS-LoRA's H-mean.
    assert tug_of_war((0.02, 0.97, 0.95), (0.0, 0.98, 0.96)) == pytest.approx(0.960498, abs=1e-6)
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
    q = np.array([[1 / 3, 1 / 3, 1 / 3], [0.2, 0.2, 0.6]])
    assert zero_retrain(p, q) == pytest.approx(0.860633, abs=1e-6)
    margin = margins(np.array([[2.0, 1.0, 0.0]]), np.array([0]))
    assert margin == pytest.approx([0.686738], abs=1e-6)
    assert forget_quality(0.2, 0.3) == pytest.approx((0.980817, 0.506693), abs=1e-6)
    assert h_mean(74.5, 72.0) == pytest.approx(73.228669, abs=1e-5)
    assert activation_distance(p, p[::-1]) == pytest.approx(np.sqrt(0.72))


def test_extremes_of_measures_are_finite_where_they_can_be() -> None:
    assert forget_quality(0.5, 0.5)[0] == 0
    assert forget_quality(0.0, 0.0) == (float("inf"), 0.0)
    assert forget_quality(1.0, 0.0)[1] == 1
    assert h_mean(0.0, 0.0) == 0
    one = np.array([[1.0, 0.0]])
    assert zero_retrain(one, one) == 1
    assert zero_retrain(one, one[:, ::-1]) == pytest.approx(1 - np.log(2))


def test_margins_over_models_tell_apart_what_differs() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(0, 1, (64, 5))
    assert klom(a, a) == pytest.approx(np.zeros(5), abs=1e-12)
    assert (klom(a + 3, a) > 1).all()
    assert np.isfinite(klom(np.full((4, 2), 1e9), np.full((4, 2), -1e9))).all()


def test_area_counts_ties_half_and_over_forgetting_is_seen() -> None:
    member = np.array([True, True, False, False])
    assert roc(np.array([3.0, 2.0, 1.0, 0.0]), member) == (1.0, 1.0)
    assert roc(np.array([0.0, 1.0, 2.0, 3.0]), member) == (0.0, 0.0)
    assert roc(np.zeros(4), member) == (0.5, 0.0)
    assert roc(np.array([3.0, 1.0, 1.0, 0.0]), member) == (0.875, 0.5)


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40).filter(
        lambda pairs: len({m for _, m in pairs}) == 2
    )
)
def test_area_of_the_opposite_is_the_rest(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([s for s, _ in pairs], dtype=np.float64)
    member = np.array([m for _, m in pairs])
    wins = np.sign(scores[member][:, None] - scores[~member]) / 2 + 0.5
    assert roc(scores, member)[0] == pytest.approx(wins.mean())
    assert roc(-scores, member)[0] == pytest.approx(1 - wins.mean())


def test_a_statistic_that_never_moves_betrays_nobody() -> None:
    is_in = np.zeros((6, 2, 10), bool)
    is_in[:, 0] = True
    ratios = likelihood_ratios(np.full((6, 2, 10), 3.0), is_in)
    assert np.isfinite(ratios).all()
    assert roc(ratios.ravel(), is_in.ravel())[0] == 0.5


def test_shadow_models_that_move_give_members_away_to_either_side() -> None:
    rng = np.random.default_rng(0)
    is_in = rng.random((32, 2, 10)) < 0.5
    is_in[:, 1] = ~is_in[:, 0]
    for shift in (3, -3):
        ratios = likelihood_ratios(rng.normal(0, 1, is_in.shape) + shift * is_in, is_in)
        assert roc(ratios.ravel(), is_in.ravel())[0] > 0.95


# Attacks


def test_membership_survives_a_dropped_row_and_not_an_exact_unlearning(
    digits: tuple[np.ndarray, np.ndarray],
) -> None:
    x, y = digits
    rows = x[y == 3]
    found = shadow_attack(
        lambda: make_head("ridge", 256), Gram(256), (x[y != 3], y[y != 3]), rows, ShadowSettings()
    )
    assert found["row_drop"]["auc"] > 0.9
    assert found["row_drop"]["tpr_1_fpr"] > 0.3
    assert abs(found["forget"]["auc"] - 0.5) <= 0.07
    assert found["forget"]["tpr_1_fpr"] <= 0.02
    assert found["forget"] == found["retrained"]
    assert found["klom_95"] == 0
    assert found["quality"] == 1


def test_membership_is_found_in_a_head_that_drops_only_the_column(
    digits: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = (part[:600] for part in digits)
    monkeypatch.setattr(RidgeHead, "forget", forget_the_column_only)
    kept = RowMemory(x[y != 3], y[y != 3], Gram(x.shape[1]))
    full = RowMemory(x, y, Gram(x.shape[1]))
    names = {uid: str(uid) for uid in kept.all_moments()}
    head = make_head("ridge", 256)
    head.rebuild(full)
    head.forget(3, full)
    served = head.scorer(names)
    found = audit(HeadConfig("ridge"), kept, served, names, x[y == 3], statistic=Gram(x.shape[1]))
    assert found.metrics["membership"]["forget"]["auc"] > 0.9
    assert any("membership AUC" in fault for fault in found.faults)
    assert any("weights' distance" in fault for fault in found.faults)


def test_projection_is_orthonormal_fixed_and_only_for_wide_features() -> None:
    assert shadow_projection(256) is None
    a, b = shadow_projection(300), shadow_projection(300)
    assert a is not None
    assert b is not None
    assert np.array_equal(a, b)
    np.testing.assert_allclose(a.T @ a, np.eye(256), atol=1e-5)


def test_probe_sees_a_class_where_there_is_one() -> None:
    rng = np.random.default_rng(0)
    kept = rng.normal(0, 1, (200, 8))
    assert probe_accuracy(rng.normal(3, 1, (40, 8)), kept) > 0.95
    assert abs(probe_accuracy(rng.normal(0, 1, (200, 8)), kept) - 0.5) < 0.15


def test_a_class_is_learned_again_sooner_where_the_others_make_room_for_it() -> None:
    rng = np.random.default_rng(0)
    kept, rows = rng.normal(0, 1, (200, 8)), rng.normal(2, 1, (40, 8))
    sure, unsure = np.log(np.full((240, 2), 0.5)), np.log(np.full((240, 2), 0.01))

    def steps(logs: np.ndarray, target: float = 0.9) -> int:
        return relearn_steps((rows, logs[:40]), (kept, logs[40:]), n_shots=4, target=target, seed=0)

    assert 0 < steps(unsure) < steps(sure) < MOST_RELEARN_STEPS
    assert steps(sure, 1.1) == MOST_RELEARN_STEPS
    assert steps(sure, 0.0) == 0


def test_old_row_wins_where_it_has_the_largest_score() -> None:
    after = np.array([[0.1, 0.2], [0.9, 0.0]])
    assert restored_share(after, np.array([0.3, 0.3])) == 0.5


# The audit


@every_head
def test_an_unlearned_class_passes_under_every_head(name: str) -> None:
    found = case(name).audit()
    assert found.faults == ()
    metrics = found.metrics
    assert metrics["missing"] == {}
    assert metrics["weights_gap"] == 0
    assert metrics["agreement_kept"] == metrics["agreement_forgotten"] == 1
    assert metrics["tug_of_war"] == 1
    assert sum(metrics["destinations"].values()) == pytest.approx(1)
    assert set(metrics["destinations"]) <= {"1", "3", "4"}
    assert metrics["restored_row"] == metrics["restored_row_retrained"]
    assert metrics["relearn_ratio"]["16"] == 1
    assert metrics["membership"]["forget"] == metrics["membership"]["retrained"]
    assert (metrics["noise_floor_kept"] > 0) == (name == "uer")
    assert "secret" not in json.dumps(metrics, allow_nan=False)


def test_a_dropped_row_is_not_an_unlearning() -> None:
    ours = case("ridge")
    found = ours.audit(served=without_row(ours.before, "secret-2"))
    text = "\n".join(found.faults)
    assert "weights' distance from a head built anew" in text
    assert "distance from a retrained model on forgotten pictures" in text
    assert found.metrics["activation_distance_forgotten"] > 0.01


def test_a_class_that_is_still_served_is_a_fault() -> None:
    ours = case("ridge")
    found = ours.audit(served=ours.before)
    assert len(found.faults) == 1
    assert "knows 4 classes, one built from what remains 3" in found.faults[0]


def test_an_audit_without_pictures_of_the_class_says_what_it_lacks() -> None:
    ours = case("ridge")
    found = ours.audit(forgotten=ours.forgotten[:0])
    assert found.faults == ()
    metrics, missing = found.metrics, found.metrics["missing"]
    for key in ("destinations", "membership", "probe", "relearn_ratio", "restored_row", "zrf"):
        assert metrics[key] is None, key
        assert "needs" in missing[key] or "no forgotten picture" in missing[key], key
    assert metrics["agreement_kept"] == 1
    assert ours.audit(
        forgotten=ours.forgotten[:0], served=without_row(ours.before, "secret-2")
    ).faults
    assert ours.audit(before=None).metrics["missing"].keys() >= {"restored_row"}


def test_an_audit_without_kept_pictures_compares_weights() -> None:
    ours = case("ridge")
    memory = Evicted(ours.memory)
    found = ours.audit(memory=memory)
    assert found.faults == ()
    assert found.metrics["agreement_kept"] is None
    assert found.metrics["agreement_forgotten"] == 1
    assert ours.audit(memory=memory, served=without_row(ours.before, "secret-2")).faults


class Evicted:
    """A memory whose pictures are all gone."""

    def __init__(self, memory: build.ListMemory) -> None:
        self.moments, self.all_moments = memory.moments, memory.all_moments

    def stored_rows(self) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((0, D), np.float16), np.zeros(0, np.int64)


@pytest.mark.parametrize("name", ["ridge", "prototype"])
def test_one_class_left_and_none_left(name: str) -> None:
    ours = case(name, n_classes=2)
    assert ours.audit().faults == ()
    memory = build.ListMemory(HEADS[name].statistic.name)
    nothing = ours.audit(memory=memory, names={})
    assert nothing.faults == ()
    assert nothing.metrics["missing"] == {"all": "no class is left: the home is as new"}


def test_two_audits_give_the_same_numbers() -> None:
    ours = case("ridge")
    a, b = (ours.audit().metrics for _ in range(2))
    assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_the_store_is_a_memory(tmp_path: Path) -> None:
    x, y = build.features(90, D, 3)
    with build.store(tmp_path / "store.db", D) as store:
        head: Head = make_head("ridge", D)
        learner = Learner(store, head)
        for i, row in enumerate(x):
            learner.learn_one(build.frame(f"part-{y[i]}", i), row)
        learner.settle()
        uid = store.class_uid("part-2")
        before = head.scorer(store.names)
        rows, labels = store.stored_rows()
        with store.transaction():
            head.forget(uid, store)
            erase(store, Kind.CLASS, uid)
        found = audit(
            HeadConfig("ridge"),
            store,
            head.scorer(store.names),
            store.names,
            rows[labels == uid],
            statistic=store.statistic,
            before=before,
            shadows=FEW,
        )
    assert found.faults == ()
    assert found.metrics["accuracy_before"] > 0.9


# Approximate unlearnings of adapters: judged against the map that never saw the class


def test_weights_of_another_shape_are_infinitely_far() -> None:
    ours = case("ridge")
    assert weights_gap(ours.before, ours.served) == float("inf")
    broken = dataclasses.replace(ours.served, weights=ours.served.weights * np.nan)
    assert weights_gap(broken, ours.served) == float("inf")
    smaller = dataclasses.replace(
        ours.served, weights=ours.served.weights[:-1], bias=ours.served.bias
    )
    assert weights_gap(smaller, ours.served) == float("inf")


def test_memory_of_rows_counts_what_it_holds() -> None:
    x, y = build.features(20, D, 3)
    memory = RowMemory(quantise(x), y, Gram(x.shape[1]))
    expected = Gram(x.shape[1]).of(quantise(x[y == 2]))
    assert np.array_equal(memory.moments(2).second, expected.second)
    assert list(memory.all_moments()) == list(dict.fromkeys(y.tolist()))


def test_members_that_look_like_strangers_are_a_fault_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An AUC below a guess tells members apart as well: forgotten too much."""
    way = {"auc": 0.5, "tpr_1_fpr": 0.0}
    found = {"statistic": "phi", "forget": way | {"auc": 0.4}, "retrained": way, "klom_95": 0.0}
    monkeypatch.setattr("edgecl.unlearning.audit.verify.shadow_attack", lambda *_: dict(found))
    assert any("membership AUC" in fault for fault in case("ridge").audit().faults)
