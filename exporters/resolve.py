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

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgecl.heads import make_head_of
from edgecl.heads.linear import VARIANCE_FLOOR, ridge
from edgecl.heads.memory import Memory, RowMemory, Without
from edgecl.home import Home
from edgecl.runtime.mixture import MixedScorer
from edgecl.runtime.scoring import LinearScorer, Scorer
from edgecl.store.store import Store
from edgecl.types import Float16, Float32, Float64

from .parity import best_labels
from .pictures import Sample

RESOLVED, CORRECTED, LEARNED = "resolved", "corrected", "learned"


@dataclass(frozen=True, slots=True)
class Judge:
    """Pictures that no compared head was made with, and what is expected for them.

    Args:
        kept: Which kept samples the compared heads are made with (N,).
        held_out: Those that judge.
        reference: The home's head, made without those.
        reference_features: Of the judging pictures, held out ones first, under the home's engine.
    """

    kept: npt.NDArray[np.bool_]
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


def judge_of(home: Home, store: Store, held_out: list[Sample], judging: Float32) -> Judge:
    """Make a judge.

    Args:
        home: The home.
        store: Its store.
        held_out: uid and class uid of kept samples.
        judging: Features of the judging pictures under the home's engine, held out ones first.
    """
    uids = {uid for uid, _ in held_out}
    kept = np.array([uid not in uids for uid, _ in store.stored_samples()])
    without = Without(store, kept, store.statistic, tuple(store.names))
    reference = _built(home, store, without)
    return Judge(kept, held_out, reference, judging)


def choose(
    home: Home,
    store: Store,
    judge: Judge,
    own: Scorer,
    theirs: Float16,
    ours: Float16,
    judging: Float32,
) -> Verdict:
    """Choose the exact head for another engine; what adapters say beside it stays as it is.

    Args:
        home: The home.
        store: Its store.
        judge: What judges.
        own: What the home serves.
        theirs: Plain features (N, D) of all kept samples under the home's engine.
        ours: And under the other engine.
        judging: Features of the judging pictures under the other engine.
    """
    heads = candidates(home, store, judge.kept, judge.reference, theirs, ours)
    heads = {kind: beside_opinions(own, head) for kind, head in heads.items()}
    reference = beside_opinions(own, judge.reference)
    wanted = best_labels(reference, judge.reference_features)
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
    rows: npt.NDArray[np.bool_],
    learned: Scorer,
    theirs: Float16,
    ours: Float16,
) -> dict[str, Scorer]:
    """Return the heads that another engine may be given, by what they are called.

    Args:
        home: The home.
        store: Its store.
        rows: Which kept samples are used (N,).
        learned: The exact head for the home's engine.
        theirs: Plain features (N, D) of all kept samples under the home's engine.
        ours: And under the other engine.
    """
    memory = RowMemory(ours[rows], store.stored_rows()[1][rows], store.statistic)
    heads: dict[str, Scorer] = {RESOLVED: _built(home, store, memory)}
    if isinstance(learned, LinearScorer):
        wanted = learned.scores(theirs[rows].astype(np.float32))
        heads[CORRECTED] = corrected(learned, ours[rows].astype(np.float32), wanted)
    return heads | {LEARNED: learned}


def beside_opinions(own: Scorer, exact: Scorer) -> Scorer:
    """Return an exact head with the opinions that stand beside the one that the home serves."""
    return replace(own, frozen=exact) if isinstance(own, MixedScorer) else exact


def corrected(scorer: LinearScorer, x: Float32, wanted: Float64) -> LinearScorer:
    """Return a linear head whose scores of features x (N, D) are nearer to those wanted (N, K).

    What is missing is regressed on the scaled features with the penalty of the ridge head, so with
    few pictures the head stays as it was.
    """
    z = x.astype(np.float64)
    centre, variance = z.mean(axis=0), z.var(axis=0)
    scale = np.sqrt(np.maximum(variance, max(VARIANCE_FLOOR * variance.mean(), 1e-12)))
    rest = wanted - scorer.scores(x)
    shift = rest.mean(axis=0)
    added = ridge((z - centre) / scale, rest - shift)
    added /= scale[:, None]
    return LinearScorer(
        scorer.weights + added, scorer.bias + shift - centre @ added, scorer.labels, scorer.kind
    )


def _built(home: Home, store: Store, memory: Memory) -> Scorer:
    head = make_head_of(home.config.head, store.num_features, codebook=store.codebook)
    head.rebuild(memory)
    head.settle(memory)
    return head.scorer(store.names)
