"""View-batch replay: a stored sample comes rarely, but then in several views at once.

An update has B slots for stored features. Plain replay fills them with B samples; view-batch replay
takes B / V samples in V views each, so that the same number of features is learned and a sample
rests V times as long. Time is counted in learned samples (`Store.step`), the only clock that a
resumed stream shares with one that was never stopped.

Reference: "Do Your Best and Get Enough Rest for Continual Learning", CVPR 2025.
Departures: the released code deals out epochs (`epoch_indices`); a stream has none, so every sample
carries its own due step. Nothing is drawn before it is due, not even to fill an update: an update
with fewer rows does less harm than a sample that gets no rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgecl.runtime.augment import strong_view
from edgecl.runtime.preprocess import decode

if TYPE_CHECKING:
    from PIL import Image

    from edgecl.store.store import Store

Indices = npt.NDArray[np.int64]

# The paper's gain is an inverted U over V: at 16 a sample rests too long.
LONGEST_REST = 16
# Multiple to which the released sampler rounds an epoch.
ROUND_TO = 256


def rest_of(n_stored: int, n_new: int, n_replay: int, n_views: int) -> int:
    """Return how long a sample rests after it was replayed, in learned samples.

    Plain replay takes `n_replay` of `n_stored` samples for every `n_new` that are learned, so it
    comes back to each after n_stored * n_new / n_replay learned samples on average; with V views
    it is V times as long.

    Args:
        n_stored: Samples kept for replay.
        n_new: Samples learned by one update.
        n_replay: Slots for stored features in one update.
        n_views: Views V of a sample, at least 1.
    """
    return max(1, math.ceil(min(n_views, LONGEST_REST) * n_stored * n_new / n_replay))


def due_rows(due: Sequence[tuple[int, int]], now: int, n: int) -> list[int]:
    """Return the uids of at most n samples whose rest is over, the longest overdue first.

    Args:
        due: Pairs (due step, uid).
        now: Samples learned so far.
        n: Most samples to take.

    `Store.draw_due` answers the same question with an index.
    """
    return [uid for step, uid in sorted(due) if step <= now][:n]


def epoch_indices(
    n: int,
    n_views: int,
    epoch: int,
    permutation: Callable[[int, int], Indices],
    *,
    batch_size: int = 32,
) -> Indices:
    """Return the samples of one epoch as the released sampler deals them out.

    V epochs in a row walk one permutation, in which every sample stands V times in a row. Below
    `ROUND_TO` samples an epoch is rounded down to whole batches (the released code deals out
    none then), and below one batch it is all of them.

    Args:
        n: Samples.
        n_views: Views V of each.
        epoch: Number of the epoch, from 0.
        permutation: Gives a permutation of n numbers for (seed, n).
        batch_size: Samples of one batch.
    """
    length = n
    for multiple in (ROUND_TO, batch_size):
        if n >= multiple:
            length = n // multiple * multiple
            break
    block, part = divmod(epoch, n_views)
    repeated = np.repeat(permutation(block, n), n_views)
    return repeated[length * part : length * (part + 1)]


def views_of(
    store: Store, uids: Sequence[int], *, n_views: int, seed: int, max_pixels: int = 50_000_000
) -> Iterator[tuple[int, int, Image.Image]]:
    """Draw the views of stored pictures anew, a pure function of picture, seed, uid and view.

    Args:
        store: Open store.
        uids: Samples that are kept for replay.
        n_views: Views V of each.
        seed: Seed of the home.
        max_pixels: Limit for decoding a picture.

    Yields:
        Uid, number of the view (0 is the picture itself) and the RGB picture.
    """
    for uid in uids:
        image = decode(store.picture(uid), max_pixels=max_pixels)
        for view in range(n_views):
            yield uid, view, strong_view(image, seed=seed, uid=uid, view=view)
