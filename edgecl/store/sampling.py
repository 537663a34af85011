"""Which samples are kept: a class-balanced reservoir.

While there is room every sample is kept. Then a sample of a small class displaces one of the
largest; a sample of a largest class takes the place of one of its own with the probability that
keeps every sample of the class equally likely.

Reference: Chrysakis and Moens 2020, "Online Continual Learning from Imbalanced Data", ICML
(class-balancing reservoir sampling). Departure: "full" is decided by the present counts, without a
memory of which class was once the largest, so a class that was forgotten leaves no trace.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def class_to_evict(
    kept: Mapping[int, int],
    uid: int,
    n_seen: int,
    rng: np.random.Generator,
) -> int | None:
    """Choose the class that gives up a stored sample for a new one when the store is full.

    Args:
        kept: Stored samples of each class; classes without any may be left out.
        uid: Class of the new sample.
        n_seen: Samples of that class seen so far, the new one included, at least 1.
        rng: Source of randomness.

    Returns:
        The class to evict from, or None when the new sample is not kept.
    """
    own = kept.get(uid, 0)
    largest = max(kept.values(), default=0)
    if own < largest:
        # Ties go to the oldest class, so that the choice does not depend on the order of a dict.
        return min(c for c, n in kept.items() if n == largest)
    return uid if own and rng.random() < own / n_seen else None
