"""Which samples are kept, and which of them are replayed.

Kept: a class-balanced reservoir.

While there is room every sample is kept. Then a sample of a small class displaces one of the
largest; a sample of a largest class takes the place of one of its own with the probability that
keeps every sample of the class equally likely.

Reference: Chrysakis and Moens 2020, "Online Continual Learning from Imbalanced Data", ICML
(class-balancing reservoir sampling). Departure: "full" is decided by the present counts, without a
memory of which class was once the largest, so a class that was forgotten leaves no trace.

Replayed: each kept sample alike, or classes by how little they were replayed so far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt


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


def balanced_draw(
    n_kept: Sequence[int], n_replays: Sequence[int], n: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Draw kept samples without repetition so that classes catch up with each other.

    A sample of class c comes with probability in proportion to 1 / ((1 + replays of c) * kept of
    c). The replays are counted since the class came and never decay: a count that does starves the
    classes whose time on the stream has just ended.

    Args:
        n_kept: Kept samples of each class, at least 1.
        n_replays: How often each class's samples were replayed in all.
        n: Samples to draw, at most all.
        rng: Source of randomness.

    Returns:
        Places (n,) in the list of all kept samples, class after class.

    Reference: Efraimidis and Spirakis 2006, weighted sampling without replacement: the n largest
    of log(u) / weight.
    """
    kept = np.asarray(n_kept, dtype=np.float64)
    weight = 1 / ((1 + np.asarray(n_replays, dtype=np.float64)) * kept)
    # Only ratios matter; the logarithm keeps a small weight from overflowing.
    each = np.repeat(np.log(weight), np.asarray(n_kept))
    keys = -np.log(-np.log(rng.random(len(each)))) + each
    chosen: npt.NDArray[np.int64] = np.argsort(-keys, kind="stable")[:n]
    return chosen
