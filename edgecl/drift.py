"""Whether frames have moved away from what was learned: darker, out of focus, another view.

A frame's residual is its feature less the mean of the class that it is taken for, in units of the
spread within classes; both come from the exact sums, so that an unlearning needs nothing here. Of
32 residuals the mean is near zero while nothing has moved, whatever mix of classes comes. What is
told is T, the mean over features of 32 times its square: 1 for independent frames. The threshold is
one and a half times what blocks of 32 kept rows nearly never exceed, as they came or class by
class, compared with what the head would be without them. Frames of a camera are alike for minutes:
it is asked about one a second.

Measured: docs/benchmarks.md (Drift), docs/decisions/0020.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgecl.calibration import left_out_of
from edgecl.heads.linear import scale_of
from edgecl.learner import Learner
from edgecl.store.table import Role
from edgecl.types import Float32, Float64, Labels

WINDOW = 32
_QUANTILE, _SPREADS, _MARGIN = 0.999, 4.0, 1.5
_FEWEST_ROWS = 4 * WINDOW
_STEP = 4
_TOP = 10


@dataclass(frozen=True, slots=True)
class Moved:
    """How far the last frames are from what was learned.

    Args:
        ratio: T over its threshold; above 1 they have moved.
        block: Which block of the feature moved most, from 0 on.
        n_blocks: Of how many.
    """

    ratio: float
    block: int
    n_blocks: int

    @property
    def cause(self) -> str:
        """What the block speaks of: first blocks see light and focus, the last what is there."""
        if self.n_blocks == 1:
            return "the whole feature"
        is_low = 2 * self.block < self.n_blocks
        what = "light and focus" if is_low else "content"
        return f"{what}, block {self.block + 1} of {self.n_blocks}"


class Drift:
    """Means of classes, spread and threshold, and a window of residuals.

    Args:
        means: Mean feature (D,) of each class, by uid.
        spread: Standard deviation of every feature within classes (D,).
        threshold: A window whose T is above it has moved.
        stages: Widths of the blocks of the feature; their sum is D.
    """

    def __init__(
        self,
        means: Mapping[int, Float64],
        spread: Float64,
        threshold: float,
        stages: Sequence[int],
    ) -> None:
        self._means, self._spread = means, spread
        self.threshold = threshold
        self._edges = np.cumsum([0, *stages])
        self._window: deque[Float64] = deque(maxlen=WINDOW)

    def add(self, x: Float32, class_uid: int) -> Moved | None:
        """Take in a frame's feature (D,) and the class that it is taken for; None while too few."""
        if class_uid not in self._means:
            return None
        self._window.append((x - self._means[class_uid]) / self._spread)
        if len(self._window) < WINDOW:
            return None
        z = np.sum(self._window, axis=0) / np.sqrt(WINDOW)
        top = np.argsort(-np.abs(z))[:_TOP]
        blocks = np.searchsorted(self._edges, top, side="right") - 1
        block = int(np.bincount(blocks, weights=np.square(z[top])).argmax())
        ratio = float(np.square(z).mean()) / self.threshold
        return Moved(ratio, block, len(self._edges) - 1)

    def followed_by(self, other: Drift | None) -> Drift | None:
        """Return another with the frames of this one, whose means are newer."""
        if other is not None:
            other._window.extend(self._window)
        return other


def open_drift(learner: Learner, stages: Sequence[int]) -> Drift | None:
    """Read means, spread and threshold of a learner's store; nothing is written.

    Returns:
        None where its statistics hold no sum and square of every feature, or fewer than 128 rows
        are kept: no threshold can be taken from them.
    """
    store = learner.store
    uids, x, classes = store.rows(Role.REPLAY)
    blocked = store.blocked_classes()
    shown = ~np.isin(classes, list(blocked))
    uids, x, classes = uids[shown], x[shown], classes[shown]
    if len(x) < _FEWEST_ROWS:
        return None
    totals: dict[int, Float64] = {}
    counts: dict[int, int] = {}
    within = np.zeros(store.num_features)
    for uid in set(store.names) - blocked - set(store.lost_classes()):
        sums = store.sums_of(uid)
        if sums is None:
            return None
        counts[uid], totals[uid], squares = sums
        within += squares - np.square(totals[uid]) / max(1, counts[uid])
    n = sum(counts.values())
    if n <= len(counts):
        return None
    spread = scale_of(within / (n - len(counts)))
    # A frame is compared with the class that it is taken for, so a row is with the one that it
    # would be taken for had it not been learned.
    left_out = left_out_of(store, learner.head, blocked)
    named = classes
    if left_out is not None and np.array_equal(left_out.uids, uids):
        named = left_out.named
    rows, usual = x.astype(np.float64), [1.0]
    # As they came, and class by class: another mix of classes is no drift.
    for order in (np.arange(len(rows)), np.argsort(classes, kind="stable")):
        blocks = _blocks(rows[order], classes[order], named[order], totals, counts, spread)
        found = [float(np.square(mean).mean()) * WINDOW for mean in blocks]
        if found:  # of few blocks the highest is none too high
            usual.append(float(np.quantile(found, _QUANTILE)))
            usual.append(float(np.mean(found) + _SPREADS * np.std(found)))
    threshold = _MARGIN * max(usual)
    means = {uid: totals[uid] / counts[uid] for uid in totals if counts[uid]}
    return Drift(means, spread, threshold, stages)


def _blocks(
    x: Float64,
    classes: Labels,
    named: Labels,
    totals: Mapping[int, Float64],
    counts: Mapping[int, int],
    spread: Float64,
) -> Iterator[Float64]:
    """Yield the mean residual (D,) of blocks of consecutive rows (N, D), of heads without them.

    Args:
        x: Rows, oldest first.
        classes: Their classes (N,).
        named: What each is taken for (N,).
        totals: Sum of each class.
        counts: Samples of each class.
        spread: Standard deviation within classes (D,).
    """
    for start in range(0, len(x) - WINDOW + 1, _STEP):
        part = slice(start, start + WINDOW)
        rows, own = x[part], classes[part]
        means = {}
        for uid in np.unique(named[part]).tolist():
            inside = own == uid
            left = counts[uid] - int(inside.sum())
            if left < max(1, int(inside.sum())):  # what is left would say too little
                break
            means[uid] = (totals[uid] - rows[inside].sum(axis=0)) / left
        else:
            taken = np.array([means[uid] for uid in named[part].tolist()])
            yield (rows - taken).mean(axis=0) / spread
