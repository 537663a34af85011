"""Whether a feature looks like anything that was learned, from a store's kept rows and its head.

A head always names one of its classes. The distance to what is near can tell that none fits (Y. Sun
et al., Out-of-distribution detection with deep nearest neighbors, 2022, arXiv:2204.06507), and so
can a low best score, if one knows how low it is for samples that the head has not learned: those
that were left out in closed form. Here both count (docs/decisions/0019-unknown-from-the-head.md).
Features are compared by the roots of their values, with a few centres of each class instead of its
rows, and in units of the class's own spread. All of it is a function of kept rows and head.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgecl.calibration import bursts_of, left_out_of
from edgecl.errors import RequestError
from edgecl.heads.base import Head
from edgecl.heads.leave_one_out import members
from edgecl.runtime.novelty import Novelty, apart, directions, surprise
from edgecl.runtime.scoring import MaskedScorer, Scorer
from edgecl.store.store import Store
from edgecl.types import Float16, Float32, Float64, Labels

MIN_ROWS = 10
SHARE = 0.95
N_CENTRES = 16
# A centre is a mean of at least so many rows, where a class has them.
_FEWEST = 3
_ROUNDS = 10
_TINY = 1e-6


def open_novelty(store: Store, head: Head | None = None, *, share: float = SHARE) -> Novelty:
    """Read a store's kept rows and find the threshold; nothing is written.

    It does not follow the store: open it anew after samples were learned or unlearned.

    Args:
        store: Open store.
        head: Its head; None, or one that has no leave-one-out, takes the distance alone.
        share: Share of the left-out samples that the threshold takes for known, above 0, below 1.

    Raises:
        RequestError: Fewer than `MIN_ROWS` rows are kept, or of one class only: there is nothing
            from which a threshold could be taken.
    """
    blocked = store.blocked_classes()
    uids, x, classes = store.open_rows()
    n_classes = len(np.unique(classes))
    if len(x) < MIN_ROWS or n_classes < 2:
        raise RequestError(
            f"to tell what is unknown, edgecl compares with kept samples; {len(x)} of {n_classes} "
            f"classes are kept, at least {MIN_ROWS} of 2 classes are needed: learn more first"
        )
    left_out = None if head is None else left_out_of(store, head, blocked, by_burst=True)
    if head is None or left_out is None:
        return novelty_of(x, classes, store.names, share=share)
    hidden = tuple(store.names[uid] for uid in blocked)
    scorer: Scorer = head.scorer(store.names)
    scorer = MaskedScorer(scorer, hidden) if hidden else scorer
    best = np.full(len(uids), np.nan)
    best[np.isin(uids, left_out.uids)] = left_out.scores.max(axis=1)
    return novelty_of(x, classes, store.names, best, scorer, share=share)


def novelty_of(
    x: Float16,
    classes: Labels,
    names: Mapping[int, str],
    best: Float64 | None = None,
    scorer: Scorer | None = None,
    *,
    share: float = SHARE,
) -> Novelty:
    """Return what scores features by how unlike they are to rows.

    Args:
        x: Rows (N, D), oldest first, N at least 2.
        classes: Their class uids (N,).
        names: Names of the classes by uid.
        best: The head's best score of each, left out (N,), NaN of those that were not; None takes
            the distance alone.
        scorer: That head.
        share: See `open_novelty`.
    """
    rows = directions(x)
    uids = np.unique(classes)
    parts = [_centres(rows[classes == uid]) for uid in uids]
    owners = np.repeat(np.arange(len(uids)), [part.max() + 1 for part in parts])
    member = np.empty(len(rows), np.int64)  # number of each row's centre
    for k, (uid, part) in enumerate(zip(uids, parts, strict=True)):
        member[classes == uid] = part + np.flatnonzero(owners == k)[0]
    sums = np.zeros((len(owners), rows.shape[1]))
    np.add.at(sums, member, rows)
    sizes = np.bincount(member)
    # As a bundle keeps them, so that it says the same.
    centres = (sums / sizes[:, None]).astype(np.float16).astype(np.float32)
    distances = _left_out(rows, centres, sums, sizes, member, bursts_of(rows, classes))
    is_own = uids[owners] == classes[:, None]
    own = np.where(is_own, distances, np.inf).min(axis=1)
    medians = np.array([_median(own[classes == uid]) for uid in uids])
    # The geometric mean with that of all classes: one of a few rows is not taken at its word.
    units = np.sqrt(medians * medians.mean()).astype(np.float32)[owners]
    far = (distances / units).min(axis=1)
    usual = np.sort(far)
    found = surprise(usual, far)
    low = np.zeros(0)
    if best is not None:
        was_left = np.isfinite(best)
        low = np.sort(best[was_left])
        found = found[was_left] + surprise(-low[::-1], -best[was_left])
    labels = tuple(names[int(uid)] for uid in uids)
    threshold = float(np.quantile(found, share))
    return Novelty(centres, owners, units, labels, usual, low, threshold, scorer)


def _centres(rows: Float32) -> Labels:
    """Return the centre (N,) of each row of a class: k-means, from rows spread over its time."""
    k = max(1, min(N_CENTRES, len(rows) // _FEWEST))
    centres = rows[np.linspace(0, len(rows) - 1, k).astype(np.int64)]
    for _ in range(_ROUNDS):
        part = _nearest(rows, centres)
        found, part = np.unique(part, return_inverse=True)
        centres = np.array([rows[part == j].mean(axis=0) for j in range(len(found))])
    sizes = np.bincount(part)
    # The rows of a centre of one or two go to others: what leaves the device is no single sample.
    if (sizes >= _FEWEST).any():
        part = _nearest(rows, centres[sizes >= _FEWEST])
    return np.unique(part, return_inverse=True)[1]


def _nearest(rows: Float32, centres: Float32) -> Labels:
    norms = np.einsum("cd,cd->c", centres, centres)
    found: Labels = (norms - 2 * (rows @ centres.T)).argmin(axis=1)
    return found


def _left_out(
    rows: Float32,
    centres: Float32,
    sums: Float64,
    sizes: Labels,
    member: Labels,
    groups: Labels,
) -> Float64:
    """Return distances (N, C) of rows to centres that hold neither them nor their burst."""
    found = apart(rows, centres)
    for burst in members(groups, len(rows)):
        for c in np.unique(member[burst]):
            own = burst[member[burst] == c]
            n_left = sizes[c] - len(own)
            if n_left:
                centre = (sums[c] - rows[own].sum(axis=0)) / n_left
                found[burst, c] = np.linalg.norm(rows[burst] - centre, axis=1)
            else:
                found[burst, c] = np.inf
    return found


def _median(distances: Float64) -> float:
    """Return the median of those that are finite; of a class of one sample none is."""
    finite = distances[np.isfinite(distances)]
    return max(float(np.median(finite)), _TINY) if len(finite) else 1.0
