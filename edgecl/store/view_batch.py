"""View-batch replay: a stored sample comes rarely, but then in several views at once.

An update has B slots for stored features. Plain replay fills them with B samples; view-batch replay
takes B / V samples in V views each, so that the same number of features is learned and a sample
rests V times as long. Time is counted in learned samples (`Store.step`), the only clock that a
resumed stream shares with one that was never stopped.

Reference: "Do Your Best and Get Enough Rest for Continual Learning", CVPR 2025.
Departures: the released code deals out epochs; a stream has none, so every sample
carries its own due step. Nothing is drawn before it is due, not even to fill an update: an update
with fewer rows does less harm than a sample that gets no rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgecl.runtime.augment import strong_view
from edgecl.runtime.preprocess import decode

if TYPE_CHECKING:
    from PIL import Image

    from edgecl.store.store import Store

# The paper's gain is an inverted U over V: at 16 a sample rests too long.
LONGEST_REST = 16


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


def views_of(
    store: Store,
    uids: Sequence[int],
    *,
    n_views: int,
    seed: int,
    max_pixels: int = 50_000_000,
    least_side: int = 0,
) -> Iterator[tuple[int, int, Image.Image]]:
    """Draw the views of stored pictures anew, a pure function of picture, seed, uid and view.

    Args:
        store: Open store.
        uids: Samples that are kept for replay.
        n_views: Views V of each.
        seed: Seed of the home.
        max_pixels: Limit for decoding a picture.
        least_side: As `decode` has it.

    Yields:
        Uid, number of the view (0 is the picture itself) and the RGB picture.
    """
    for uid in uids:
        image = decode(store.picture(uid), max_pixels=max_pixels, least_side=least_side)
        for view in range(n_views):
            yield uid, view, strong_view(image, seed=seed, uid=uid, view=view)
