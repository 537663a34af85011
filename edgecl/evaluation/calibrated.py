"""Whether answers are as sure as they say: what `edgecl status` tells of probabilities and sets."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgecl.calibration import FEWEST
from edgecl.session import Session
from edgecl.store.table import Role

LEVEL = 0.9
# Samples that are asked at once: a thousand classes have as many probabilities of each.
_AT_ONCE = 1024


def calibration_summary(session: Session) -> dict[str, Any] | None:
    """Return how answers are calibrated, JSON values; None where nothing calibrates them.

    How often sets hold the truth is measured on held-out samples, which were never learned, where
    10 are there and did not make the sets; else on the samples that made them, each against the
    others, which comes out near the level by construction.
    """
    if not session.store.names:
        return None
    known = session.calibration()
    if known is None:
        return None
    targets, shares, n_labels = known.targets, known.shares, None
    _, x, classes = session.store.rows(Role.HELD_OUT)
    place = {session.store.class_uid(label): k for k, label in enumerate(known.labels)}
    is_known = np.isin(classes, list(place))
    is_apart = known.is_left_out and int(is_known.sum()) >= FEWEST
    if is_apart:
        x, scorer, shares, n_labels = x[is_known], session.exact_scorer(), np.zeros(0), 0.0
        targets = np.array([place[uid] for uid in classes[is_known].tolist()], dtype=np.int64)
        for first in range(0, len(x), _AT_ONCE):
            rows = x[first : first + _AT_ONCE].astype(np.float32)
            found = known.probabilities(scorer.scores(rows))
            own = found[np.arange(len(rows)), targets[first : first + _AT_ONCE]]
            shares = np.append(shares, own)
            n_labels += float(known.sets(found, LEVEL).sum()) / len(x)
    return {
        "by": "mixed" if known.of_shares else "left out" if known.is_left_out else "held out",
        "samples": len(known.targets),
        "temperature": known.temperature,
        "accuracy": float(known.right.mean()),
        "sets": {
            "level": LEVEL,
            "coverage": float((shares >= known.least(LEVEL)[targets]).mean()),
            "mean_size": n_labels,
            "measured_on": "held out" if is_apart else "themselves",
            "n": len(targets),
        },
        "classes": {
            known.labels[k]: float(known.right[known.targets == k].mean())
            for k in np.unique(known.targets).tolist()
        },
    }
