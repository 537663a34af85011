"""Whether frames have moved away from what was learned: darker, out of focus, noisy.

A frame's residual is its feature less the mean of the class that it is taken for, in units of the
spread within classes; both come from the exact sums, so that an unlearning needs nothing here. Of
32 residuals the mean is near zero while nothing has moved, whatever mix of classes comes. What is
asked is T, 32 times its mean square over the features of a block, over what is expected of it: the
sum over classes of v n / 32 for n frames of a class whose variance is v times the usual one and,
since means of few samples are uncertain themselves, of v n^2 / (32 N) for one of N samples. Each
block is asked for itself, since light shows in the first ones only, which are few of all features.
A threshold is 1.4 times what blocks of 32 kept rows nearly never exceed, as they came, class by
class (half a class where it has fewer than 64) or shuffled, compared with what the head would be
without them. Frames of a camera are alike for minutes: it is asked about one a second.

Measured: docs/benchmarks.md (Drift), docs/decisions/0020.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from edgecl.calibration import left_out_in_parts
from edgecl.heads.linear import scale_of
from edgecl.learner import Learner
from edgecl.types import Float32, Float64, Labels

WINDOW = 32
# Chosen on Fashion-MNIST's training pictures. Frames are a little further off than kept rows, of
# which the spread is taken.
_SPREADS, _MARGIN, _SHUFFLED = 5.0, 1.4, 2400
_FEWEST_ROWS = 4 * WINDOW
_STEP = 4
_PRIOR = 10.0


@dataclass(frozen=True, slots=True)
class Moved:
    """How far the last frames are from what was learned.

    Args:
        ratio: Highest T over its threshold; above 1 they have moved.
        block: The block of the feature of which it is, from 0 on.
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
    """Means of classes, spread and thresholds, and a window of residuals.

    Args:
        sums: Count and sum of every feature (D,) of each class, by uid.
        spread: Standard deviation of every feature within classes (D,).
        thresholds: A window whose T of a block is above that of the block has moved.
        stages: Widths of the blocks of the feature; their sum is D.
        widths: Mean variance of each class in each block, in units of the spread's, by uid.
    """

    def __init__(
        self,
        sums: Mapping[int, tuple[int, Float64]],
        spread: Float64,
        thresholds: Float64,
        stages: Sequence[int],
        widths: Mapping[int, Float64],
    ) -> None:
        self._widths = dict(widths)
        self._counts = {uid: n for uid, (n, _) in sums.items()}
        self._means = {uid: total / n for uid, (n, total) in sums.items()}
        self._spread, self.thresholds = spread, thresholds
        self._stages = tuple(stages)
        self._window: deque[tuple[int, Float64]] = deque(maxlen=WINDOW)

    def add(self, x: Float32, class_uid: int) -> Moved | None:
        """Take in a frame's feature (D,) and the class that it is taken for; None while too few."""
        if class_uid not in self._means:
            return None
        self._window.append((class_uid, (x - self._means[class_uid]) / self._spread))
        if len(self._window) < WINDOW:
            return None
        named, residuals = zip(*self._window, strict=True)
        mean = np.sum(residuals, axis=0) / WINDOW
        found = _statistic(mean, named, self._counts, self._widths, self._stages)
        ratios = found / self.thresholds
        return Moved(float(ratios.max()), int(ratios.argmax()), len(ratios))

    def followed_by(self, other: Drift | None) -> Drift | None:
        """Return another with the frames of this one, whose means are newer."""
        if other is not None:
            other._window.extend(f for f in self._window if f[0] in other._means)
        return other


def open_drift(learner: Learner, stages: Sequence[int]) -> Drift | None:
    """Read means, spread and thresholds of a learner's store; nothing is written.

    Returns:
        None where its statistics hold no sum and square of every feature, or fewer than 128 rows
        are kept: no threshold can be taken from them.
    """
    store = learner.store
    uids, x, classes = store.open_rows()
    blocked = store.blocked_classes()
    if len(x) < _FEWEST_ROWS:
        return None
    sums: dict[int, tuple[int, Float64]] = {}
    own: dict[int, Float64] = {}
    for uid in set(store.names) - blocked - set(store.lost_classes()):
        moments = store.sums_of(uid)
        if moments is None:
            return None
        n, total, squares = moments
        if n:
            sums[uid] = n, total
            own[uid] = squares - np.square(total) / n
    degrees = sum(n for n, _ in sums.values()) - len(sums)
    if degrees <= 0:
        return None
    spread = scale_of(np.sum(list(own.values()), axis=0) / degrees)
    # Of few samples a class's own spread is uncertain: as if _PRIOR more had the usual one.
    widths = {
        uid: (_by_block(part / np.square(spread), stages) + _PRIOR) / (sums[uid][0] - 1 + _PRIOR)
        for uid, part in own.items()
    }
    # A frame is compared with the class that it is taken for, so a row is with the one that it
    # would be taken for had it not been learned.
    left_out = left_out_in_parts(store, learner.head, blocked)
    said = [np.array([part.uids, part.named]) for part in left_out]
    named = classes
    if said and np.array_equal((both := np.concatenate(said, axis=1))[0], uids):
        named = both[1]
    parts = x.astype(np.float64), classes, named
    thresholds = _thresholds(*parts, sums, spread, stages, widths)
    return Drift(sums, spread, thresholds, stages, widths)


def _thresholds(
    x: Float64,
    classes: Labels,
    named: Labels,
    sums: Mapping[int, tuple[int, Float64]],
    spread: Float64,
    stages: Sequence[int],
    widths: Mapping[int, Float64],
) -> Float64:
    """Return the threshold of each block; arguments as those of `_of_blocks`."""
    rng = np.random.default_rng(0)
    # As they came; class by class, since another mix of classes is no drift; and shuffled, since
    # the two are few blocks.
    shuffled = [rng.permutation(len(x)) for _ in range(-(-_SHUFFLED // len(x)))]
    alone = [np.flatnonzero(classes == uid) for uid in np.unique(classes)]
    highest = [np.ones(len(stages))]
    for orders in ([np.arange(len(x))], alone, shuffled):
        found = [
            t
            for o in orders
            for t in _of_blocks(x[o], classes[o], named[o], sums, spread, stages, widths)
        ]
        if found:  # the cube root of T is nearly normal (Wilson & Hilferty 1931)
            roots = np.cbrt(found)
            highest.append((roots.mean(axis=0) + _SPREADS * roots.std(axis=0)) ** 3)
    return cast(Float64, _MARGIN * np.max(highest, axis=0))


def _by_block(values: Float64, stages: Sequence[int]) -> Float64:
    """Return the mean of values (D,) over each block."""
    found: Float64 = np.add.reduceat(values, np.cumsum([0, *stages[:-1]])) / np.array(stages)
    return found


def _statistic(
    mean: Float64,
    named: Sequence[int],
    counts: Mapping[int, int],
    widths: Mapping[int, Float64],
    stages: Sequence[int],
) -> Float64:
    """Return T of each block of a window.

    Args:
        mean: Mean residual (D,) of its frames.
        named: What each frame is taken for.
        counts: Samples that the mean of each class is of.
        widths: Mean variance of each class in each block.
        stages: Widths of the blocks.
    """
    expected = np.sum(
        [widths[uid] * (n + n * n / counts[uid]) for uid, n in Counter(named).items()], axis=0
    )
    return cast(Float64, _by_block(np.square(mean), stages) * len(named) ** 2 / expected)


def _of_blocks(
    x: Float64,
    classes: Labels,
    named: Labels,
    sums: Mapping[int, tuple[int, Float64]],
    spread: Float64,
    stages: Sequence[int],
    widths: Mapping[int, Float64],
) -> Iterator[Float64]:
    """Yield T of blocks of consecutive rows (N, D), of heads without them.

    Args:
        x: Rows, oldest first.
        classes: Their classes (N,).
        named: What each is taken for (N,).
        sums: Count and sum of each class.
        spread: Standard deviation within classes (D,).
        stages: Widths of the blocks of the feature.
        widths: Mean variance of each class in each block.
    """
    # Of a class alone so many must be left that its mean is no more uncertain than the block's.
    width = min(WINDOW, len(x) // 2) if len(np.unique(classes)) == 1 else WINDOW
    for start in range(0, len(x) - width + 1 if width >= _STEP else 0, _STEP):
        part = slice(start, start + width)
        rows, own, taken = x[part], classes[part], named[part].tolist()
        means, counts = {}, {}
        for uid in set(taken):
            inside = own == uid
            n, total = sums[uid]
            counts[uid] = n - int(inside.sum())
            if counts[uid] < max(1, int(inside.sum())):  # what is left would say too little
                break
            means[uid] = (total - rows[inside].sum(axis=0)) / counts[uid]
        else:
            mean = (rows - np.array([means[uid] for uid in taken])).mean(axis=0) / spread
            yield _statistic(mean, taken, counts, widths, stages)
