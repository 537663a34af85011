"""The audit of an unlearning: is the exact head like one that never learned the class?

`audit` is called when the class is gone. It builds the head anew from what remains, compares the
one that is served with it, attacks the head's `forget` on shadow heads, and holds the numbers
against gates. What adapters say beside it is measured where they are changed (weights.py). It
measures; it does not prove: only that a procedure was run can be shown, not what weights forgot
(Thudi et al. 2022, arXiv:2110.11891).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgecl.config import HeadConfig
from edgecl.errors import ShapeError
from edgecl.heads import make_head_of
from edgecl.heads.base import Head
from edgecl.heads.memory import Memory
from edgecl.heads.statistics import Statistic
from edgecl.runtime.scoring import Scorer, softmax
from edgecl.types import Float16, Float64, Labels
from edgecl.unlearning.audit.attack import (
    MOST_RELEARN_STEPS,
    ShadowSettings,
    probe_accuracy,
    projected,
    relearn_steps,
    restored_share,
    shadow_attack,
    shadow_projection,
)
from edgecl.unlearning.audit.measures import activation_distance, tug_of_war, zero_retrain

# Gates. A float64 solve from equal sums is equal to some 1e-12 of the largest weight; a head by
# gradient is a chain of float32 steps.
MOST_WEIGHT_GAP = 1e-8
MOST_WEIGHT_GAP_GRADIENT = 1e-6
# Half a point: what two runs on another order of the same pictures differ by (docs/benchmarks.md).
MOST_KEPT_DROP = 0.005
# 64 pairs by 40 targets scatter by some 0.02 around a guess.
MOST_AUC_GAP = 0.05
# Twice what a guess has.
MOST_TPR = 0.02
# A fifth slower, a fourth faster than a model that never knew the class.
RELEARN_RATIOS = (0.8, 1.25)
MOST_PROBE_GAP = 0.02
# Of the distance between two retrained models.
MOST_OF_NOISE = 1.5
_ROUNDING = 1e-6

SHOTS = (1, 4, 16)
_SHARE_BACK = 0.9
_LEAST_SHARE = 1e-3
_MOST_ROWS = 2000
_FEWEST_ROWS = 8
_KEYS = {
    part: [f"{name}_{part}" for name in ("agreement", "activation_distance", "noise_floor")] + more
    for part, more in {
        "kept": ["accuracy_kept", "accuracy_kept_retrained", "tug_of_war"],
        "forgotten": ["destinations", "destinations_retrained", "zrf", "zrf_retrained"],
    }.items()
}
_OLD_ROW = ("accuracy_before", "restored_row", "restored_row_retrained")
_FEATURES = ("probe", "probe_retrained", "relearn_steps", "relearn_ratio")
# Heads by gradient take a second for what a closed form does in milliseconds.
_GRADIENT = ShadowSettings(n_pairs=8, n_kept=100)


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found.

    Args:
        metrics: Numbers as JSON; classes by uid, no name, picture or feature. What could not be
            taken is None and named with its reason under `missing`.
        faults: One line for every gate that was missed; none is a pass.
    """

    metrics: dict[str, Any]
    faults: tuple[str, ...]


def audit(
    config: HeadConfig,
    memory: Memory,
    served: Scorer,
    names: Mapping[int, str],
    forgotten: Float16,
    *,
    statistic: Statistic,
    before: Scorer | None = None,
    shadows: ShadowSettings | None = None,
) -> Audit:
    """Compare what is served after an unlearning with a model that never learned the class.

    Args:
        config: Settings of the home's head.
        memory: Statistics and kept rows of the other classes, the store as it is now.
        served: What predicts now.
        names: Names of the classes that remain, by uid, oldest first.
        forgotten: Features (N, D) of the class under the map that is served; (0, D) when all its
            pictures had been dropped already, and what needs them is then missing.
        statistic: The memory's (`Store.statistic`).
        before: What predicted before under the same map, for the attack that puts the old row
            back.
        shadows: Size of the membership attack; None is the default for the head.

    Raises:
        ShapeError: Features that do not fit each other.
    """
    begin = time.perf_counter()
    if forgotten.ndim != 2:
        raise ShapeError(f"forgotten features are {forgotten.shape}; expected (N, D)")
    d = forgotten.shape[1]
    missing: dict[str, str] = {}
    metrics: dict[str, Any] = {
        "n_forgotten": len(forgotten),
        "n_classes": len(names),
        "missing": missing,
    }
    if not names:
        missing["all"] = "no class is left: the home is as new"
        return Audit(metrics, ())
    retrained_head = _built(config, d, statistic, memory)
    retrained = retrained_head.scorer(names)
    if set(served.labels) != set(retrained.labels):
        fault = (
            f"the served head knows {len(served.labels)} classes, one built from what remains "
            f"{len(retrained.labels)} or others"
        )
        return Audit(metrics, (fault,))
    is_gradient = not retrained_head.unlearns_exactly
    _compare_weights(metrics, served, retrained)
    rivals: list[Scorer] = []
    if is_gradient:
        other = replace(config, seed=config.seed + 1)
        rivals.append(_built(other, d, statistic, memory).scorer(names))
    x, y = _some(memory, config.seed)
    rows = {"forgotten": forgotten, "kept": x}
    ours = _View(served, rows, retrained.labels)
    theirs = _View(retrained, rows, retrained.labels)
    uid_of = {name: uid for uid, name in names.items()}
    uids = np.array([uid_of[label] for label in retrained.labels])
    _compare(metrics, ours, theirs, [_View(r, rows, r.labels) for r in rivals], y, uids)
    _attack(metrics, ours, theirs, before)
    size = shadows or (_GRADIENT if is_gradient else ShadowSettings())
    metrics["membership"] = _membership(config, statistic, (x, y), forgotten, size, missing)
    metrics["seconds"] = round(time.perf_counter() - begin, 3)
    return Audit(metrics, tuple(_faults(metrics, is_gradient=is_gradient)))


def _built(config: HeadConfig, width: int, statistic: Statistic, memory: Memory) -> Head:
    """Return a head that learned what a memory holds, and nothing else."""
    head = make_head_of(config, width, codebook=statistic.keys)
    head.rebuild(memory)
    head.settle(memory)
    return head


def _some(memory: Memory, seed: int) -> tuple[Float16, Labels]:
    """Draw kept rows (M, D) and their classes, in their order."""
    x, y = memory.stored_rows()
    place = np.sort(np.random.default_rng(seed).permutation(len(x))[:_MOST_ROWS])
    return x[place], y[place]


class _View:
    """What a model makes of the forgotten and of kept rows, in the columns of `labels`."""

    def __init__(self, model: Scorer, rows: Mapping[str, Float16], labels: tuple[str, ...]) -> None:
        columns = [model.labels.index(label) for label in labels]
        self.rows, self.labels = rows, labels
        self.scores: dict[str, Float64] = {}
        self.shares: dict[str, Float64] = {}
        self.called: dict[str, Labels] = {}
        for part, x in rows.items():
            if len(x):
                z = model.scores(x.astype(np.float32))
                self.scores[part] = z[:, columns]
                self.shares[part] = model.probabilities(z)[:, columns]
                self.called[part] = self.scores[part].argmax(axis=1)


def weights_gap(ours: Scorer, theirs: Scorer) -> float:
    """Return the largest difference of any array, as a share of the array's largest value.

    Infinite where arrays have other shapes or a value is not finite.
    """
    a, b = ours.arrays(), theirs.arrays()
    if a.keys() != b.keys() or any(a[part].shape != b[part].shape for part in b):
        return float("inf")
    gaps = [0.0]
    for part, wanted in b.items():
        gap = float(np.abs(a[part].astype(np.float64) - wanted).max(initial=0.0))
        if not np.isfinite(gap):
            return float("inf")
        if gap:
            gaps.append(gap / max(float(np.abs(wanted).max()), 1e-300))
    return max(gaps)


def _compare_weights(metrics: dict[str, Any], served: Scorer, retrained: Scorer) -> None:
    gap = weights_gap(served, retrained)
    metrics["weights_gap"] = gap if np.isfinite(gap) else None
    if not np.isfinite(gap):
        metrics["missing"]["weights_gap"] = "arrays of other shapes, or not finite"


def _compare(
    metrics: dict[str, Any],
    ours: _View,
    theirs: _View,
    rivals: list[_View],
    y: Labels,
    uids: Labels,
) -> None:
    """Add what both models make of the kept and of the forgotten rows."""
    views = (("", ours), ("_retrained", theirs))
    for part in ("kept", "forgotten"):
        found: dict[str, Any] = dict.fromkeys(_KEYS[part])
        metrics.update(found)
        if part not in ours.scores:
            metrics["missing"].update(dict.fromkeys(found, f"no {part} picture was stored"))
            continue
        p, q = ours.shares[part], theirs.shares[part]
        metrics[f"agreement_{part}"] = float((ours.called[part] == theirs.called[part]).mean())
        metrics[f"activation_distance_{part}"] = activation_distance(p, q)
        noise = [activation_distance(rival.shares[part], q) for rival in rivals]
        metrics[f"noise_floor_{part}"] = max([0.0, *noise])
        if part == "kept":
            right = [float((uids[view.called[part]] == y).mean()) for _, view in views]
            metrics["accuracy_kept"], metrics["accuracy_kept_retrained"] = right
            # Of the forgotten class both have 0: neither has its column.
            metrics["tug_of_war"] = tug_of_war((0.0, right[0]), (0.0, right[1]))
        else:
            x = theirs.rows[part].astype(np.float64)
            teacher = np.random.default_rng(25).standard_normal((x.shape[1], len(uids)))
            random = softmax(x @ teacher / x.shape[1] ** 0.5)
            for key, view in views:
                metrics[f"destinations{key}"] = _destinations(view.called[part], uids)
                metrics[f"zrf{key}"] = zero_retrain(view.shares[part], random)


def _destinations(guess: Labels, uids: Labels) -> dict[str, float]:
    """Return the share of rows that goes to each class, largest first, by uid."""
    counts = np.bincount(guess, minlength=len(uids))
    order = np.argsort(-counts, kind="stable")
    return {str(uids[k]): float(counts[k] / len(guess)) for k in order if counts[k]}


def _attack(metrics: dict[str, Any], ours: _View, theirs: _View, before: Scorer | None) -> None:
    """Add probe, relearning and the old row, for both models."""
    missing = metrics["missing"]
    metrics.update(dict.fromkeys((*_OLD_ROW, *_FEATURES)))
    views = (("", ours), ("_retrained", theirs))
    known = 1.0
    gone = set() if before is None else set(before.labels) - set(ours.labels)
    n, n_kept = len(ours.rows["forgotten"]), len(ours.rows["kept"])
    if before is None or len(gone) != 1 or before.n_maps != 1 or not n:
        reason = "needs rows of the class, and the head of one map that was served before"
        missing.update(dict.fromkeys(_OLD_ROW, reason))
    else:
        k = before.labels.index(gone.pop())
        for key, view in views:
            old = before.scores(view.rows["forgotten"].astype(np.float32))
            metrics[f"restored_row{key}"] = restored_share(view.scores["forgotten"], old[:, k])
            if not key:
                known = metrics["accuracy_before"] = float((old.argmax(axis=1) == k).mean())
    if n < _FEWEST_ROWS or n_kept < _FEWEST_ROWS:
        missing.update(dict.fromkeys(_FEATURES, f"needs {_FEWEST_ROWS} rows of both kinds"))
        return
    projection = shadow_projection(ours.rows["kept"].shape[1])
    steps: dict[str, list[int]] = {}
    shots = [k for k in SHOTS if k < n]
    for key, view in views:
        x = {part: projected(view.rows[part], projection).astype(np.float64) for part in view.rows}
        logs = {part: np.log(np.maximum(view.shares[part], _LEAST_SHARE)) for part in x}
        metrics[f"probe{key}"] = probe_accuracy(x["forgotten"], x["kept"])
        class_rows, others = ((x[part], logs[part]) for part in ("forgotten", "kept"))
        target = _SHARE_BACK * known
        steps[key] = [relearn_steps(class_rows, others, n_shots=k, target=target) for k in shots]
    metrics["relearn_steps"] = {
        str(k): list(both) for k, *both in zip(shots, steps[""], steps["_retrained"], strict=True)
    }
    # One more on either side: a class that is there at once has no ratio of zeros. Where neither
    # model gets there, there is nothing to compare.
    metrics["relearn_ratio"] = {
        k: None if a == b == MOST_RELEARN_STEPS else (a + 1) / (b + 1)
        for k, (a, b) in metrics["relearn_steps"].items()
    }


def _membership(
    config: HeadConfig,
    of: Statistic,
    others: tuple[Float16, Labels],
    forgotten: Float16,
    size: ShadowSettings,
    missing: dict[str, str],
) -> dict[str, Any] | None:
    """Return what the shadow attack found; None, said why in `missing`, of too few rows."""
    x, y = others
    if len(forgotten) < _FEWEST_ROWS or len(x) < _FEWEST_ROWS:
        missing["membership"] = f"needs {_FEWEST_ROWS} rows of the class and of the others"
        return None
    projection = shadow_projection(x.shape[1])
    kept, rows = projected(x, projection), projected(forgotten, projection)
    width = kept.shape[1]
    shadow = of.shadow(kept)
    found = shadow_attack(
        lambda: make_head_of(config, width, codebook=shadow.keys), shadow, (kept, y), rows, size
    )
    return found | {
        "num_features": width,
        "projection": "none" if projection is None else "random orthonormal, seed 0",
        "n_pairs": size.n_pairs,
    }


def _faults(metrics: dict[str, Any], *, is_gradient: bool) -> list[str]:
    """Hold the metrics against the gates; a missing one has none."""
    faults = []

    def gate(what: str, value: float | None, limit: float) -> None:
        # A number that is none at all fails, too.
        if value is not None and not value <= limit:
            faults.append(f"{what} is {value:.3g}; at most {limit:.3g} is allowed")

    def gap(a: str, b: str) -> float | None:
        return None if metrics[a] is None else metrics[a] - metrics[b]

    limit = MOST_WEIGHT_GAP_GRADIENT if is_gradient else MOST_WEIGHT_GAP
    # Arrays that cannot be compared are as far as can be.
    apart = float("inf") if metrics["weights_gap"] is None else metrics["weights_gap"]
    gate("the weights' distance from a head built anew", apart, limit)
    agreement = metrics["agreement_kept"]
    changed = None if agreement is None else 1 - agreement
    gate("the share of kept pictures called otherwise than by a head built anew", changed, 0.0)
    dropped = gap("accuracy_kept_retrained", "accuracy_kept")
    gate("the loss of accuracy on kept pictures", dropped, MOST_KEPT_DROP)
    for part in ("kept", "forgotten"):
        distance = metrics[f"activation_distance_{part}"]
        noise = metrics[f"noise_floor_{part}"] or 0.0
        what = f"the distance from a retrained model on {part} pictures"
        gate(what, distance, MOST_OF_NOISE * noise + _ROUNDING)
    probe = gap("probe", "probe_retrained")
    gate("the probe's gain over a retrained model", probe, MOST_PROBE_GAP)
    low, high = RELEARN_RATIOS
    for shots, ratio in (metrics["relearn_ratio"] or {}).items():
        if ratio is not None and not low <= ratio <= high:
            faults.append(
                f"the class is learned again from {shots} pictures in {ratio:.2f} of the steps of "
                f"a retrained model; {low} to {high} is allowed"
            )
    if (found := metrics["membership"]) is not None:
        ours, theirs = found["forget"], found["retrained"]
        apart = abs(ours["auc"] - theirs["auc"])
        gate("membership AUC's gap to a retrained model", apart, MOST_AUC_GAP)
        gate("membership found at 1 % false alarms", ours["tpr_1_fpr"], MOST_TPR)
    return faults
