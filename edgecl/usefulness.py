"""Which waiting frame to name next: the one whose label would tell most about all that wait.

A frame counts for as much as it is in doubt: the entropy of its calibrated answer and how novel it
is among the others. Naming one settles those that are like it, so the gain of a frame is the doubt
of all frames times how alike they are, as far as no learned sample and no frame chosen before is
as much like them. Taking the largest gain again and again is within 1 - 1/e of the best choice
(Nemhauser et al. 1978; Wei, Iyer and Bilmes 2015, "Submodularity in data subset selection and
active learning"). Measured: docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgecl.errors import RequestError
from edgecl.novelty import open_novelty
from edgecl.runtime.novelty import apart, directions
from edgecl.session import Session
from edgecl.store.novel import Entry, feature
from edgecl.types import Float16, Float32, Float64, Labels

# Weights of doubt and novelty, and of the median distance between frames how near is alike; chosen
# on other draws than those that are reported.
DOUBT, NOVELTY = 1.0, 1.0
NEAR = 0.7
_TINY = 1e-9
_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Useful:
    """Frames in the order in which to name them.

    Args:
        order: Places of the frames (n,).
        gain: How much of the doubt of all frames each would settle (n,), 0 to 1, never rising.
    """

    order: Labels
    gain: Float64


def by_usefulness(
    x: Float16 | Float32,
    probabilities: Float64 | None,
    novelty: Float64,
    learned: Float16 | Float32,
    *,
    n: int | None = None,
) -> Useful:
    """Order frames by what their labels would tell.

    Args:
        x: Their features (N, D).
        probabilities: Calibrated probabilities (N, K) of the head; None without, all are in doubt.
        novelty: How novel each is (N,); only their order counts.
        learned: Features of learned samples (M, D), M may be 0.
        n: How many are wanted; None orders all.
    """
    rows = directions(x)
    squares = apart(rows, rows).astype(np.float32) ** 2
    others = squares[~np.eye(len(rows), dtype=np.bool_)]
    near = max(float(NEAR**2 * np.median(others)) if len(others) else 1.0, _TINY)
    alike = np.exp(-squares / near)
    settled = np.zeros(len(rows), np.float32)
    for start in range(0, len(learned), _CHUNK):
        distances = apart(rows, directions(learned[start : start + _CHUNK]))
        np.maximum(settled, np.exp(-(distances.min(axis=1) ** 2) / near), out=settled)
    value = _value(probabilities, novelty).astype(np.float32)
    order: list[int] = []
    gain: list[float] = []
    is_free = np.ones(len(rows), np.bool_)
    for _ in range(len(rows) if n is None else min(n, len(rows))):
        gains = np.maximum(alike - settled, 0) @ value
        best = int(np.where(is_free, gains, -1).argmax())
        order.append(best)
        gain.append(float(gains[best] / value.sum()))
        is_free[best] = False
        np.maximum(settled, alike[best], out=settled)
    return Useful(np.array(order, np.int64), np.array(gain))


def useful_entries(session: Session, waiting: Sequence[Entry]) -> list[tuple[Entry, float]]:
    """Return entries of the review queue and their gain, the most useful first.

    Classes that are being unlearned are asked in nothing. Where too little is learned to say
    what is novel, it counts what was when the frames came.

    Args:
        session: An open home, in one state of its store.
        waiting: What waits, as `edgecl.store.novel.entries` returns it.
    """
    if not waiting:
        return []
    store = session.store
    x = np.array([feature(store, entry.uid) for entry in waiting])
    novelty = np.array([entry.score for entry in waiting])
    probabilities: Float64 | None = None
    learned = store.open_rows().x
    if len(learned):
        wide = x.astype(np.float32)
        scorer, known = session.exact_scorer(), session.calibration(is_exact=True)
        scores = scorer.scores(wide)
        by = scorer.probabilities if known is None else known.probabilities
        probabilities = by(scores)
        try:
            novelty = open_novelty(store, session.learner.head).scores(wide)
        except RequestError:
            pass
    found = by_usefulness(x, probabilities, novelty, learned)
    return [
        (waiting[i], gain)
        for i, gain in zip(found.order.tolist(), found.gain.tolist(), strict=True)
    ]


def _value(probabilities: Float64 | None, novelty: Float64) -> Float64:
    """Return how much each frame (N,) is in doubt, above 0."""
    doubt = np.ones(len(novelty))
    if probabilities is not None and probabilities.shape[1] > 1:
        inside = np.maximum(probabilities, _TINY)
        doubt = -(inside * np.log(inside)).sum(axis=1) / np.log(inside.shape[1])
    rank = np.searchsorted(np.sort(novelty), novelty, side="right") / max(1, len(novelty))
    value: Float64 = DOUBT * np.maximum(doubt, 0) + NOVELTY * rank + _TINY
    return value
