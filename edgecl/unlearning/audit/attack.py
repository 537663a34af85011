"""What somebody who holds the served model can still find out about an unlearned class.

- `shadow_attack`: was a picture of the class among those that were learned? (U-LiRA)
- `probe_accuracy`: do the features still tell the class from the others?
- `relearn_steps`: how fast is the class learned again from a few shots?
- `restored_share`: does the old row, kept in an old export, still work?

A frozen backbone always lets a probe and a new row find the class, so the last three mean something
only beside the same numbers of a retrained model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecl.heads.base import Head
from edgecl.heads.memory import RowMemory
from edgecl.heads.statistics import Moments, Statistic
from edgecl.runtime.grid import quantise
from edgecl.runtime.scoring import Scorer
from edgecl.types import Float16, Float32, Float64, Labels
from edgecl.unlearning.audit.measures import (
    forget_quality,
    klom,
    likelihood_ratios,
    margins,
    roc,
)

SHADOW_FEATURES = 256
"""Most features of the shadow heads; wider ones are projected."""
N_TARGETS = 40
_TINY = 1e-12
_PROBE_PENALTY = 1e-2
_RELEARN_RATE = 0.5
# A new row starts with a score that loses to every kept class.
_START = -7.0
MOST_RELEARN_STEPS = 400
# By way of unlearning, pair and side: statistics of the targets, by name.
_Found = dict[str, list[list[dict[str, Float64]]]]


class _WithClass:
    """A memory with one class more."""

    def __init__(self, kept: RowMemory, uid: int, x: Float16, statistic: Statistic) -> None:
        self._kept, self._uid, self._x = kept, uid, x
        self._added = statistic.of(x)

    def moments(self, y: int) -> Moments:
        return self._added if y == self._uid else self._kept.moments(y)

    def all_moments(self) -> Mapping[int, Moments]:
        return {**self._kept.all_moments(), self._uid: self._added}

    def stored_rows(self) -> tuple[Float16, Labels]:
        y = np.concatenate([self._kept.y, np.full(len(self._x), self._uid)])
        return np.concatenate([self._kept.x, self._x]), y


def shadow_projection(num_features: int, seed: int = 0) -> Float32 | None:
    """Return a fixed random orthonormal map (D, `SHADOW_FEATURES`), or None when D is no larger."""
    if num_features <= SHADOW_FEATURES:
        return None
    rng = np.random.default_rng([seed, 20])
    q, _ = np.linalg.qr(rng.standard_normal((num_features, SHADOW_FEATURES)))
    return q.astype(np.float32)


@dataclass(frozen=True, slots=True)
class ShadowSettings:
    """How much a membership attack does.

    Args:
        n_pairs: Pairs of shadow heads, each learning half of the class.
        n_kept: Most kept rows to draw from; each pair learns a random half of them.
        n_class: Most rows of the class, of which each pair deals a half to either head.
        seed: Seed of all draws.
    """

    n_pairs: int = 64
    n_kept: int = 400
    n_class: int = 40
    seed: int = 0


def shadow_attack(
    make: Callable[[], Head],
    statistic: Statistic,
    kept: tuple[Float16, Labels],
    forgotten: Float16,
    settings: ShadowSettings,
) -> dict[str, Any]:
    """Attack a head's `forget`: which rows of the class had been learned?

    Every pair of shadow heads learns the same half of the kept rows, one head half of the class's
    rows, the other the rest. Then the class is unlearned in four ways: by the head's `forget`, by
    learning without it, by dropping only its column, and not at all. The attacker sees scores over
    the kept classes only (the last way shows the class's own probability). Of several statistics
    the one is used that is strongest against the dropped column; it is chosen there and nowhere
    else.

    Args:
        make: Makes an empty head of the width of the rows.
        statistic: What the head's memory holds.
        kept: Rows (M, D) and classes (M,) of the other classes, of at least one.
        forgotten: Rows (N, D) of the class, at least 4.
        settings: How much is done.

    Returns:
        For `forget`, `retrained`, `row_drop` and `not_at_all` the keys `auc` and `tpr_1_fpr`;
        `statistic`, its name; `quality`, the forget quality of the attack on `forget` (1 is a
        guess); `klom_95`, the 95th percentile over kept rows of the margins' divergence (None with
        a single kept class).
    """
    rng = np.random.default_rng([settings.seed, 21])
    x = forgotten[rng.permutation(len(forgotten))[: settings.n_class]]
    chosen = np.sort(rng.permutation(len(kept[0]))[: settings.n_kept])
    kept_x, kept_y = kept[0][chosen], kept[1][chosen]
    uid = int(kept_y.max()) + 1
    n_targets = min(N_TARGETS, len(x))
    targets = x[:n_targets].astype(np.float32)
    beside = rng.permutation(len(kept_x))[:N_TARGETS]
    found: _Found = {way: [] for way in ("forget", "retrained", "row_drop", "not_at_all")}
    kept_margins: dict[str, list[Float64]] = {"forget": [], "retrained": []}
    is_in = np.zeros((settings.n_pairs, 2, n_targets), bool)
    for pair in range(settings.n_pairs):
        half = _half_of_each(kept_y, rng)
        memory = RowMemory(kept_x[half], kept_y[half], statistic, keeps=True)
        fresh = _taught(make, memory)
        retrained = _scorer_of(fresh)
        seen = kept_x[beside].astype(np.float32)
        columns = np.searchsorted(np.sort(fresh.classes), kept_y[beside])
        columns = np.argsort(fresh.classes)[columns]
        for way in found:
            found[way].append([])
        order = rng.permutation(len(x))
        for side, members in enumerate((order[: len(x) // 2], order[len(x) // 2 :])):
            is_in[pair, side] = np.isin(np.arange(n_targets), members)
            full = _WithClass(memory, uid, x[members], statistic)
            head = _taught(make, full)
            before = _scorer_of(head)
            z = before.scores(targets)
            found["row_drop"][pair].append(_statistics(before, z[:, :-1]))
            found["not_at_all"][pair].append({"phi": _phi(before.probabilities(z)[:, -1])})
            head.forget(uid, full)
            head.settle(memory)
            for way, scorer in (("forget", _scorer_of(head)), ("retrained", retrained)):
                found[way][pair].append(_statistics(scorer, scorer.scores(targets)))
                if len(retrained.labels) > 1:
                    kept_margins[way].append(margins(scorer.scores(seen), columns))
    return _summed_up(found, is_in) | {"klom_95": _klom_95(**kept_margins)}


def _taught(make: Callable[[], Head], memory: RowMemory | _WithClass) -> Head:
    head = make()
    head.rebuild(memory)
    head.settle(memory)
    return head


def _summed_up(found: _Found, is_in: Any) -> dict[str, Any]:
    """Judge every way by the statistic that is strongest against the dropped column."""
    judged = {
        way: {
            name: _judge(np.array([[s[name] for s in pair] for pair in pairs]), is_in)
            for name in pairs[0][0]
        }
        for way, pairs in found.items()
    }
    best = max(judged["row_drop"], key=lambda name: judged["row_drop"][name][0])
    out: dict[str, Any] = {"statistic": best}
    for way, by_name in judged.items():
        auc, tpr, quality = by_name["phi" if way == "not_at_all" else best]
        out[way] = {"auc": auc, "tpr_1_fpr": tpr}
        if way == "forget":
            out["quality"] = quality
    return out


def _klom_95(forget: list[Float64], retrained: list[Float64]) -> float | None:
    if not forget:
        return None
    return float(np.percentile(klom(np.array(forget), np.array(retrained)), 95))


def _half_of_each(y: Labels, rng: np.random.Generator) -> Labels:
    """Draw half of every class's places, at least one, in their order."""
    parts = [np.flatnonzero(y == uid) for uid in dict.fromkeys(y.tolist())]
    drawn = [rng.permutation(part)[: max(1, len(part) // 2)] for part in parts]
    return np.sort(np.concatenate(drawn))


def _scorer_of(head: Head) -> Scorer:
    return head.scorer({uid: str(uid) for uid in head.classes})


def _phi(p: Float64) -> Float64:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    phi: Float64 = np.log(p / (1 - p))
    return phi


def _statistics(scorer: Scorer, z: Float64) -> dict[str, Float64]:
    """Return what is left to look at when the class has no column, each (N,)."""
    p = scorer.probabilities(z)
    return {
        "energy": np.log(np.square(z).sum(axis=1) + _TINY),
        "top": z.max(axis=1),
        "entropy": -(p * np.log(p + _TINY)).sum(axis=1),
        "phi": _phi(p.max(axis=1)),
    }


def _judge(statistic: Float64, is_in: Any) -> tuple[float, float, float]:
    """Return AUC, TPR at 1 % FPR and forget quality of the attack by one statistic (P, 2, N)."""
    ratios = likelihood_ratios(statistic, is_in)
    auc, tpr = roc(ratios.ravel(), is_in.ravel())
    called = ratios > 0
    _, quality = forget_quality(float(called[~is_in].mean()), float((~called[is_in]).mean()))
    return auc, tpr, quality


def probe_accuracy(forgotten: Float64, kept: Float64, *, seed: int = 0) -> float:
    """Return how well a linear probe on features tells a class from the others, balanced, 0 to 1.

    Ridge regression on a half of either, judged on the other half.

    Args:
        forgotten: Features (N, D) of the class, N at least 2.
        kept: Features (M, D) of the others, M at least 2.
        seed: Seed of the halves.
    """
    rng = np.random.default_rng([seed, 22])
    halves = [np.array_split(x[rng.permutation(len(x))], 2) for x in (forgotten, kept)]
    (f, f_test), (k, k_test) = halves
    x = np.concatenate([f, k])
    weight = np.concatenate([np.full(len(f), 0.5 / len(f)), np.full(len(k), 0.5 / len(k))])
    target = np.concatenate([np.ones(len(f)), -np.ones(len(k))])
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    z = (x - mean) / scale
    a = (z * weight[:, None]).T @ z + _PROBE_PENALTY * np.eye(z.shape[1])
    w = np.linalg.solve(a, (z * weight[:, None]).T @ target)
    right = [((t - mean) / scale @ w > 0).mean() for t in (f_test, k_test)]
    return float((right[0] + 1 - right[1]) / 2)


def relearn_steps(
    forgotten: tuple[Float64, Float64],
    kept: tuple[Float64, Float64],
    *,
    n_shots: int,
    target: float,
    seed: int = 0,
) -> int:
    """Return how many gradient steps on a new row bring the class's accuracy back.

    The row starts without weights beside the frozen scores of the kept classes; every step is plain
    gradient descent on the logistic loss of `n_shots` rows of the class and 64 or more kept ones
    of the same weight in sum. Accuracy is taken on the class's other rows.

    Args:
        forgotten: Features (N, D) of the class and log probabilities (N, K) of the kept classes.
        kept: The same of kept rows.
        n_shots: Rows to learn from.
        target: Accuracy to reach, 0 to 1.
        seed: Seed of the shots.

    Returns:
        Steps, `MOST_RELEARN_STEPS` when it was not reached.

    Reference: Chundawat et al. 2023, arXiv:2201.05629 (anamnesis index: the ratio of two of these).
    """
    rng = np.random.default_rng([seed, 23, n_shots])
    order, others = rng.permutation(len(forgotten[0])), rng.permutation(len(kept[0]))
    shots, unseen = order[:n_shots], order[n_shots:]
    others = others[: max(n_shots, 64)]
    mean = kept[0].mean(axis=0)
    scale = (kept[0].std(axis=0) + 1e-6) * np.sqrt(kept[0].shape[1])
    z, test = (
        np.column_stack([(x - mean) / scale, np.ones(len(x))])
        for x in (np.concatenate([forgotten[0][shots], kept[0][others]]), forgotten[0][unseen])
    )
    rest = _log_sum(np.concatenate([forgotten[1][shots], kept[1][others]]))
    y = np.r_[np.ones(len(shots)), np.zeros(len(others))]
    weight = np.r_[np.full(len(shots), 0.5 / len(shots)), np.full(len(others), 0.5 / len(others))]
    best = forgotten[1][unseen].max(axis=1)
    w = np.zeros(z.shape[1])
    w[-1] = _START
    for step in range(MOST_RELEARN_STEPS):
        if (test @ w > best).mean() >= target:
            return step
        p = 1 / (1 + np.exp(np.clip(rest - z @ w, -50, 50)))
        w -= _RELEARN_RATE * z.T @ (weight * (p - y))
    return MOST_RELEARN_STEPS


def _log_sum(z: Float64) -> Float64:
    top = z.max(axis=1)
    out: Float64 = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
    return out


def restored_share(after: Float64, old: Float64) -> float:
    """Return the share of rows that go to the old row when it is put back.

    Args:
        after: Scores (N, K) of the served model.
        old: Scores (N,) of the row that an old export holds.
    """
    return float((old > after.max(axis=1)).mean())


def projected(x: Float16, projection: Float32 | None) -> Float16:
    """Return rows (N, D) as the shadow heads see them, on the features' grid."""
    return x if projection is None else quantise(x.astype(np.float32) @ projection)
