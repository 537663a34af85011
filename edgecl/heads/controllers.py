"""How much a head replays, and which of the drawn rows: plain functions of what was measured."""

from __future__ import annotations

import numpy as np

from edgecl.types import Float64, Labels

# Of the loss of replayed rows, above its base; chosen on digits (docs/benchmarks.md).
THRESHOLD = 0.2
LEAST_SHARE = 4
N_CANDIDATES = 4
_KEEP = 0.9
_RISE = 1.002


def forgetting_of(loss: float, before: Float64) -> Float64:
    """Return mean and base (2,) of the loss of replayed rows after one update more.

    e <- 0.9 e + 0.1 loss, base <- min(1.002 base, e); what was forgotten is e - base. NaN before
    the first. A new class starts with a high loss, so that replay opens by itself.

    Reference: TRC2 (2026), replay from measured forgetting; the rule is ours, since only an
    abstract of it could be had.
    """
    mean, base = before
    if np.isnan(mean):
        return np.array([loss, loss])
    mean = _KEEP * mean + (1 - _KEEP) * loss
    return np.array([mean, min(_RISE * base, mean)])


def rows_wanted(most: int, state: Float64) -> int:
    """Return how many rows the next update replays: all, or a quarter while nothing is forgotten.

    Never none, so that the loss stays measured.
    """
    forgotten = 0.0 if np.isnan(state[0]) else float(state[0] - state[1])
    return most if forgotten > THRESHOLD else max(1, most // LEAST_SHARE)


def ranked(losses: Float64, n: int, rng: np.random.Generator) -> Labels:
    """Return the places, sorted, of n of N candidates: half of the largest loss, half at random.

    The core of MemSifter (2026), whose small proxy ranks memories by how much they helped; a proxy
    of five features was no better here than the loss itself, and would have to be forgotten.
    """
    if len(losses) <= n:
        return np.arange(len(losses))
    order = np.argsort(-losses, kind="stable")
    best, rest = order[: n // 2], order[n // 2 :]
    return np.sort(np.append(best, rng.choice(rest, n - len(best), replace=False)))


def row_losses(logits: Float64, y: Labels) -> Float64:
    """Return the cross-entropy (M,) of logits (M, K) of samples of classes (M,)."""
    high = logits - logits.max(axis=1, keepdims=True)
    losses: Float64 = np.log(np.exp(high).sum(axis=1)) - high[np.arange(len(y)), y]
    return losses
