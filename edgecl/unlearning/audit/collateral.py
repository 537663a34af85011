"""What an unlearning did to the classes that stay, those nearest to what is gone first.

Reference: "Unforgettable Generalization in Language Models" (2024): what is unlearned generalises
to what is near it, so the neighbours are looked at first. Names no class: uids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgecl.runtime.scoring import Scorer
from edgecl.types import Float16, Float64, Labels

_N_NEIGHBOURS = 3


def collateral(
    before: Scorer,
    after: Scorer,
    names: Mapping[int, str],
    rows: tuple[Float16, Labels],
    forgotten: Float16,
) -> dict[str, Any]:
    """Compare what was served before and is now, class by class.

    Args:
        before: What predicted before the unlearning.
        after: What predicts now.
        names: Names of the classes that stay, by uid.
        rows: Features (N, D) of pictures that neither has learned, and uids of their classes.
        forgotten: Features (M, D) of the class that is gone; none gives no neighbours.

    Returns:
        By uid, `collateral` (share that was right before and is now, and of how many pictures);
        `neighbours`, the uids of the three classes whose means are nearest; `forget_gap` and
        `forget_ratio` of the class that is gone (see `forgotten_share`).
    """
    x, y = rows
    called = [_called(scorer, x) for scorer in (before, after)]
    found: dict[str, list[float]] = {}
    means = {}
    for uid in sorted(set(names) & set(y.tolist())):
        own = y == uid
        was, now = (float((guess[own] == names[uid]).mean()) for guess in called)
        found[str(uid)] = [was, now, int(own.sum())]
        means[uid] = x[own].astype(np.float64).mean(axis=0)
    gone = set(before.labels) - set(after.labels)
    if not len(forgotten) or len(gone) != 1:
        return {"collateral": found}
    name = gone.pop()
    right = [
        float((_called(scorer, forgotten) == name).mean()) if name in scorer.labels else 0.0
        for scorer in (before, after)
    ]
    gap, ratio = forgotten_share(right[0], right[1], len(before.labels))
    near = nearest(forgotten.astype(np.float64).mean(axis=0), means)
    return {
        "collateral": found,
        "neighbours": near[:_N_NEIGHBOURS],
        "forget_gap": gap,
        "forget_ratio": ratio,
    }


def forgotten_share(before: float, after: float, n_classes: int) -> tuple[float, float | None]:
    """Return forget gap and forget ratio of the class that is gone.

    Gap: accuracy now less chance, 1 / K. Ratio: what was lost of what was known above chance; above
    1 the class is called less often than by chance, which an exact head always does, since it has
    no name for it. None where nothing was known.

    Args:
        before: Accuracy on the class before.
        after: Accuracy now.
        n_classes: Classes before, K.
    """
    chance = 1 / n_classes
    known = before - chance
    return after - chance, (before - after) / known if abs(known) > 1e-9 else None


def nearest(mean: Float64, means: Mapping[int, Float64]) -> list[int]:
    """Return uids of classes, that with the largest cosine between the means (D,) first."""
    length = float(np.linalg.norm(mean))
    cosines = {
        uid: float(mean @ other) / max(length * float(np.linalg.norm(other)), 1e-12)
        for uid, other in means.items()
    }
    return sorted(cosines, key=lambda uid: (-cosines[uid], uid))


def _called(scorer: Scorer, x: Float16) -> np.ndarray[Any, Any]:
    """Return the names (N,) that rows are called by."""
    labels: np.ndarray[Any, Any] = np.array(scorer.labels, dtype=object)
    best = scorer.scores(x.astype(np.float32)).argmax(axis=1) if len(x) else []
    return labels[np.array(best, dtype=np.int64)]
