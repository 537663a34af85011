"""The audit of an unlearning: is what is served like a model that never learned the class?

`audit` is called when the class is gone. It builds the head anew from what remains, compares what
is served with it, attacks the head's `forget` on shadow heads, and holds the numbers against gates.
It measures; it does not prove: only that a procedure was run can be shown, not what weights forgot
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
from edgecl.heads import HEADS, make_head_of
from edgecl.heads.base import Head, Labels, Memory
from edgecl.heads.codebook import make_codebook
from edgecl.heads.statistics import COUNTS, Kind
from edgecl.runtime.codebook import Codebook
from edgecl.runtime.scoring import Scorer, softmax
from edgecl.types import Float16, Float32, Float64
from edgecl.unlearning.attack import (
    MOST_RELEARN_STEPS,
    RowMemory,
    ShadowSettings,
    probe_accuracy,
    projected,
    relearn_steps,
    restored_share,
    shadow_attack,
    shadow_projection,
)
from edgecl.unlearning.measures import activation_distance, tug_of_war, zero_retrain

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
_MOST_ROWS = 2000
_FEWEST_ROWS = 8
# Heads by gradient take a second for what a closed form does in milliseconds.
_GRADIENT = ShadowSettings(n_pairs=8, n_kept=100)


@dataclass(frozen=True, slots=True)
class Reference:
    """The same pictures under the exact alternative: the map that never saw the class.

    Args:
        forgotten: Features (N, D) of the forgotten pictures, in the order of those audited.
        kept: Features (M, D) of the kept pictures, in the order of the memory's rows.
    """

    forgotten: Float16
    kept: Float16


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
    kind: Kind,
    before: Scorer | None = None,
    reference: Reference | None = None,
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
        kind: The memory's statistic (`Store.statistic`).
        before: What predicted before, for the attack that puts the old row back.
        reference: Given for an approximate unlearning of adapters: the features under the exact
            alternative. The gates of approximate unlearnings apply then.
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
        "mode": "exact" if reference is None else "approximate",
        "n_forgotten": len(forgotten),
        "n_classes": len(names),
        "missing": missing,
    }
    if not names:
        missing["all"] = "no class is left: the home is as new"
        return Audit(metrics, ())
    x, y = memory.stored_rows()
    codebook = kind if isinstance(kind, Codebook) else None
    basis: Memory = memory
    if reference is not None:
        if reference.kept.shape != x.shape or reference.forgotten.shape != forgotten.shape:
            raise ShapeError(
                f"reference features are {reference.kept.shape} and {reference.forgotten.shape}; "
                f"expected {x.shape} and {forgotten.shape}"
            )
        basis = RowMemory(reference.kept, y, kind)

    def built(of: HeadConfig, source: Memory) -> Head:
        head = make_head_of(of, d, codebook=codebook)
        head.rebuild(source)
        head.settle(source)
        return head

    retrained_head = built(config, basis)
    retrained = retrained_head.scorer(names)
    if set(served.labels) != set(retrained.labels):
        fault = (
            f"the served head knows {len(served.labels)} classes, one built from what remains "
            f"{len(retrained.labels)} or others"
        )
        return Audit(metrics, (fault,))
    is_gradient = retrained_head.forget_mode != "exact_head"
    if reference is None:
        metrics["weights_gap"] = weights_gap(served, retrained)

    rivals: list[Scorer] = []
    if is_gradient:
        rivals.append(built(replace(config, seed=config.seed + 1), basis).scorer(names))
    if reference is not None and len(x):
        drawn = _drawn_again(y)
        again = RowMemory(reference.kept[drawn], y[drawn], kind)
        rivals.append(built(config, again).scorer(names))

    place = np.sort(np.random.default_rng(config.seed).permutation(len(x))[:_MOST_ROWS])
    x, y = x[place], y[place]
    old = (
        Rows(forgotten, x)
        if reference is None
        else Rows(reference.forgotten, reference.kept[place])
    )
    new = Rows(forgotten, x)
    columns = [served.labels.index(label) for label in retrained.labels]
    uid_of = {name: uid for uid, name in names.items()}
    uids = np.array([uid_of[label] for label in retrained.labels])

    _compare(metrics, served, retrained, rivals, new, old, y, columns, uids)
    _attack(metrics, served, retrained, before, new, old)
    metrics["membership"] = None
    if len(forgotten) < _FEWEST_ROWS or len(x) < _FEWEST_ROWS:
        missing["membership"] = f"needs {_FEWEST_ROWS} rows of the class and of the others"
    else:
        size = shadows or (_GRADIENT if is_gradient else ShadowSettings())
        metrics["membership"] = _membership(config, x, y, forgotten, size)
    metrics["seconds"] = round(time.perf_counter() - begin, 3)
    return Audit(metrics, tuple(_faults(metrics, is_gradient=is_gradient)))


@dataclass(frozen=True, slots=True)
class Rows:
    """Features of the forgotten (N, D) and of kept pictures (M, D) under one map."""

    forgotten: Float16
    kept: Float16


def weights_gap(ours: Scorer, theirs: Scorer) -> float:
    """Return the largest difference of any array, as a share of the array's largest value."""
    a, b = ours.arrays(), theirs.arrays()
    if a.keys() != b.keys() or any(a[part].shape != b[part].shape for part in b):
        return float("inf")
    gaps = [0.0]
    for part, wanted in b.items():
        gap = np.abs(a[part].astype(np.float64) - wanted).max(initial=0.0)
        if gap:
            gaps.append(float(gap / max(float(np.abs(wanted).max()), 1e-300)))
    return max(gaps)


def _drawn_again(y: Labels) -> Labels:
    """Draw as many rows of every class with replacement: another sample of the same kind."""
    rng = np.random.default_rng(24)
    return np.concatenate([rng.choice(part, len(part)) for part in _parts(y)])


def _parts(y: Labels) -> list[Labels]:
    return [np.flatnonzero(y == uid) for uid in dict.fromkeys(y.tolist())]


def _compare(
    metrics: dict[str, Any],
    served: Scorer,
    retrained: Scorer,
    rivals: list[Scorer],
    new: Rows,
    old: Rows,
    y: Labels,
    columns: list[int],
    uids: Labels,
) -> None:
    """Add what both models make of the kept and of the forgotten rows."""
    missing = metrics["missing"]
    for part in ("kept", "forgotten"):
        keys = [f"agreement_{part}", f"activation_distance_{part}", f"noise_floor_{part}"]
        keys += ["accuracy_kept", "accuracy_kept_retrained", "tug_of_war"] if part == "kept" else [
            "destinations", "destinations_retrained", "zrf", "zrf_retrained"]  # fmt: skip
        metrics.update(dict.fromkeys(keys))
        x, at = getattr(new, part).astype(np.float32), getattr(old, part).astype(np.float32)
        if not len(x):
            missing.update(dict.fromkeys(keys, f"no {part} picture was stored"))
            continue
        p = served.probabilities(served.scores(x))[:, columns]
        q = retrained.probabilities(retrained.scores(at))
        ours, theirs = served.scores(x)[:, columns].argmax(1), retrained.scores(at).argmax(1)
        metrics[keys[0]] = float((ours == theirs).mean())
        metrics[keys[1]] = activation_distance(p, q)
        others = [r.probabilities(r.scores(at)) for r in rivals]
        metrics[keys[2]] = max([0.0, *(activation_distance(r, q) for r in others)])
        if part == "kept":
            right = [float((uids[guess] == y).mean()) for guess in (ours, theirs)]
            metrics["accuracy_kept"], metrics["accuracy_kept_retrained"] = right
            # Of the forgotten class both have 0: neither has its column.
            metrics["tug_of_war"] = tug_of_war((0.0, right[0]), (0.0, right[1]))
        else:
            rng = np.random.default_rng(25)
            teacher = softmax(
                at @ rng.standard_normal((at.shape[1], len(uids))) / len(at[0]) ** 0.5
            )
            for key, guess, shares in (("", ours, p), ("_retrained", theirs, q)):
                metrics[f"destinations{key}"] = _destinations(guess, uids)
                metrics[f"zrf{key}"] = zero_retrain(shares, teacher)


def _destinations(guess: Labels, uids: Labels) -> dict[str, float]:
    """Return the share of rows that goes to each class, largest first, by uid."""
    counts = np.bincount(guess, minlength=len(uids))
    order = np.argsort(-counts, kind="stable")
    return {str(uids[k]): float(counts[k] / len(guess)) for k in order if counts[k]}


def _attack(
    metrics: dict[str, Any],
    served: Scorer,
    retrained: Scorer,
    before: Scorer | None,
    new: Rows,
    old: Rows,
) -> None:
    """Add probe, relearning and the old row, for both models."""
    missing = metrics["missing"]
    keys = ["restored_row", "restored_row_retrained"]
    keys += ["probe", "probe_retrained", "relearn_ratio", "relearn_steps"]
    metrics.update(dict.fromkeys(keys))
    n = len(new.forgotten)
    projection = shadow_projection(new.forgotten.shape[1])
    models = (("", served, new), ("_retrained", retrained, old))

    known = 1.0
    gone = [] if before is None else [k for k in before.labels if k not in served.labels]
    if before is None or len(gone) != 1 or before.n_maps != 1 or not n:
        missing[keys[0]] = "needs rows of the class and the head that was served before"
    else:
        k = before.labels.index(gone[0])
        rows = new.forgotten.astype(np.float32)
        known = float((before.scores(rows).argmax(axis=1) == k).mean())
        metrics["accuracy_before"] = known
        for key, model, of in models:
            x = of.forgotten.astype(np.float32)
            share = restored_share(model.scores(x), before.scores(x)[:, k])
            metrics[f"restored_row{key}"] = share

    if n < _FEWEST_ROWS or len(new.kept) < _FEWEST_ROWS:
        missing.update(dict.fromkeys(keys[2:], f"needs {_FEWEST_ROWS} rows of both kinds"))
        return
    steps: dict[str, list[int]] = {}
    for key, model, of in models:
        seen = [_seen(rows, projection) for rows in (of.forgotten, of.kept)]
        metrics[f"probe{key}"] = probe_accuracy(seen[0], seen[1])
        pairs = [
            (z, _log_shares(model, rows))
            for z, rows in zip(seen, (of.forgotten, of.kept), strict=True)
        ]
        steps[key] = [
            relearn_steps(pairs[0], pairs[1], n_shots=k, target=_SHARE_BACK * known)
            for k in SHOTS
            if k < n
        ]
    metrics["relearn_steps"] = {"served": steps[""], "retrained": steps["_retrained"]}
    # One more on either side: a class that is there at once has no ratio of zeros.
    metrics["relearn_ratio"] = {
        str(k): None if b == MOST_RELEARN_STEPS else (a + 1) / (b + 1)
        for k, a, b in zip(SHOTS, steps[""], steps["_retrained"], strict=False)
    }


def _seen(rows: Float16, projection: Float32 | None) -> Float64:
    return projected(rows, projection).astype(np.float64)


def _log_shares(model: Scorer, rows: Float16) -> Float64:
    shares = model.probabilities(model.scores(rows.astype(np.float32)))
    logs: Float64 = np.log(np.maximum(shares, 1e-3))
    return logs


def _membership(
    config: HeadConfig, x: Float16, y: Labels, forgotten: Float16, size: ShadowSettings
) -> dict[str, Any]:
    projection = shadow_projection(x.shape[1])
    kept, rows = projected(x, projection), projected(forgotten, projection)
    width = kept.shape[1]
    kind: Kind = HEADS[config.name].second_moment
    codebook = None
    if kind == COUNTS:
        # Small keys of the projected features; no row of the class made them.
        kind = codebook = make_codebook(kept[:512], n_codebooks=16, n_keys=64, epochs=2)
    found = shadow_attack(
        lambda: make_head_of(config, width, codebook=codebook), kind, (kept, y), rows, size
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

    is_exact = metrics["mode"] == "exact"
    if is_exact:
        limit = MOST_WEIGHT_GAP_GRADIENT if is_gradient else MOST_WEIGHT_GAP
        gate("the weights' distance from a head built anew", metrics["weights_gap"], limit)
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
        gate(
            "membership AUC's gap to a retrained model",
            abs(ours["auc"] - theirs["auc"]),
            MOST_AUC_GAP,
        )
        gate("membership found at 1 % false alarms", ours["tpr_1_fpr"], MOST_TPR)
    return faults
