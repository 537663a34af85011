"""The head for an int8 engine, whose features are not those that the home's head learned.

Three candidates, and the one is taken that decides most often as the home does on pictures that it
was not made with:

- resolved: built anew from the kept pictures as the int8 engine sees them. Right where all that was
  learned is kept; where not, it knows less than the home.
- corrected: the home's head plus a linear term that brings its scores on int8 features to those on
  float32 features, fitted on the kept pictures by ridge regression. It keeps what the home learned
  from pictures that are gone. Heads of the linear form only.
- learned: the home's head as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgecl.consolidation import Rows, Without
from edgecl.heads import make_head_of
from edgecl.heads.base import Memory
from edgecl.heads.ridge import LAMBDA_PER_FEATURE
from edgecl.home import Home
from edgecl.replay.store import Store
from edgecl.runtime.scoring import LinearScorer, Scorer
from edgecl.types import Float16, Float32, Float64

from .parity import best_labels

RESOLVED, CORRECTED, LEARNED = "resolved", "corrected", "learned"
# As in heads/ridge.py: a feature that hardly varies is not blown up.
_VARIANCE_FLOOR = 1e-3
Features = Mapping[int, Float16]
Sample = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Judge:
    """Pictures that no compared head was made with, and what is expected for them.

    Args:
        kept: uid and class uid of the samples that the compared heads are made with.
        held_out: Those that judge.
        reference: The home's head, made without those.
        reference_features: Of the judging pictures, held out ones first, under the home's engine.
    """

    kept: list[Sample]
    held_out: list[Sample]
    reference: Scorer
    reference_features: Float32


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which head was best, and how good it was.

    Args:
        head: `resolved`, `corrected` or `learned`.
        agreement: Share of the judging pictures that it gives the class that the reference gives.
        accuracy: Share of the held out pictures that are right: `fp32` (the reference), `before`
            (the same head on int8 features), `after` (the head that was taken); and their number.
    """

    head: str
    agreement: float
    accuracy: dict[str, float]


def judge_of(
    home: Home, store: Store, held_out: list[Sample], features: Features, judging: Float32
) -> Judge:
    """Make a judge.

    Args:
        home: The home.
        store: Its store.
        held_out: uid and class uid of kept samples.
        features: Of all kept samples under the home's engine.
        judging: Features of the judging pictures under the home's engine, held out ones first.
    """
    uids = {uid for uid, _ in held_out}
    kept = [sample for sample in store.stored_samples() if sample[0] not in uids]
    reference = _built(home, store, Without(store, features, held_out))
    return Judge(kept, held_out, reference, judging)


def choose(
    home: Home, store: Store, judge: Judge, theirs: Features, ours: Features, judging: Float32
) -> Verdict:
    """Choose the head for another engine.

    Args:
        home: The home.
        store: Its store.
        judge: What judges.
        theirs: Features of all kept samples under the home's engine.
        ours: And under the other engine.
        judging: Features of the judging pictures under the other engine.
    """
    heads = candidates(home, store, judge.kept, judge.reference, theirs, ours)
    wanted = best_labels(judge.reference, judge.reference_features)
    truth = np.array([store.names[c] for _, c in judge.held_out])
    named = {kind: best_labels(head, judging) for kind, head in heads.items()}
    agreements = {kind: float((names == wanted).mean()) for kind, names in named.items()}
    best = max(agreements, key=lambda kind: agreements[kind])  # the first of several
    shown = {"fp32": wanted, "before": named[LEARNED], "after": named[best]}
    accuracy = {way: float((x[: len(truth)] == truth).mean()) for way, x in shown.items()}
    return Verdict(best, agreements[best], accuracy | {"n": float(len(truth))})


def candidates(
    home: Home,
    store: Store,
    rows: Sequence[Sample],
    learned: Scorer,
    theirs: Features,
    ours: Features,
) -> dict[str, Scorer]:
    """Return the heads that another engine may be given, by what they are called.

    Args:
        home: The home.
        store: Its store.
        rows: uid and class uid of the kept samples to use.
        learned: The head for the home's engine.
        theirs: Features under the home's engine.
        ours: Features under the other engine.
    """
    memory = Rows(store.statistic, ours, list(rows))
    heads: dict[str, Scorer] = {RESOLVED: _built(home, store, memory)}
    if isinstance(learned, LinearScorer):
        wanted = learned.scores(_stack(theirs, rows))
        heads[CORRECTED] = corrected(learned, _stack(ours, rows), wanted)
    return heads | {LEARNED: learned}


def corrected(scorer: LinearScorer, x: Float32, wanted: Float64) -> LinearScorer:
    """Return a linear head whose scores of features x (N, D) are nearer to those wanted (N, K).

    What is missing is regressed on the scaled features with the penalty of the ridge head, so with
    few pictures the head stays as it was.
    """
    z = x.astype(np.float64)
    centre, variance = z.mean(axis=0), z.var(axis=0)
    scale = np.sqrt(np.maximum(variance, max(_VARIANCE_FLOOR * variance.mean(), 1e-12)))
    z = (z - centre) / scale
    rest = wanted - scorer.scores(x)
    shift = rest.mean(axis=0)
    penalty = LAMBDA_PER_FEATURE * z.shape[1]
    gram: Any = z.T @ z if len(z) > z.shape[1] else z @ z.T
    gram[np.diag_indices_from(gram)] += penalty
    if len(z) > z.shape[1]:
        added = np.linalg.solve(gram, z.T @ (rest - shift))
    else:
        added = z.T @ np.linalg.solve(gram, rest - shift)
    added /= scale[:, None]
    return LinearScorer(
        scorer.weights + added, scorer.bias + shift - centre @ added, scorer.labels, scorer.kind
    )


def _built(home: Home, store: Store, memory: Memory) -> Scorer:
    head = make_head_of(home.config.head, store.num_features, codebook=store.codebook)
    head.rebuild(memory)
    head.settle(memory)
    return head.scorer(store.names)


def _stack(features: Features, rows: Sequence[Sample]) -> Float32:
    return np.array([features[uid] for uid, _ in rows], dtype=np.float32)
