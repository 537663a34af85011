"""Keys of a key-value head, or the map of class means, from pictures that the user names.

Neither may depend on a sample that may have to be forgotten, and a class-incremental stream begins
with one class; so they are made with the home, before anything is learned, from pictures set apart
for it, or from no data at all (heads/codebook.default_codebook). The manifest names the pictures by
their hashes, so that learning one of them can be noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from edgecl.errors import RequestError
from edgecl.heads import HEADS
from edgecl.heads.codebook import N_FOR_KEYS, N_FOR_MEANS, make_codebook, make_whitening
from edgecl.runtime.codebook import Keys
from edgecl.runtime.engines.base import Engine
from edgecl.runtime.grid import quantise
from edgecl.runtime.manifest import Manifest
from edgecl.runtime.pipeline import Embedded, embed
from edgecl.types import Frame, Skipped

MOST_PICTURES = 2000
FEWEST_PICTURES = 64


def keys_of(
    frames: Iterator[Frame | Skipped],
    manifest: Manifest,
    engine: Engine,
    head: str,
    *,
    max_pixels: int,
    tell_skipped: Callable[[Sequence[Skipped]], None] = lambda skipped: None,
) -> tuple[Keys, tuple[str, ...]]:
    """Make keys or a map from pictures whose labels are ignored; at most 2,000 are read.

    Args:
        frames: The pictures.
        manifest: Says how a picture becomes the engine's input.
        engine: The frozen backbone.
        head: Name of the head: one that counts gets keys behind a map, another a map alone.
        max_pixels: Limit for decoding a picture.
        tell_skipped: Told which pictures could not be used, if any.

    Returns:
        The keys or the map, and the sorted hashes of the pictures (`picture_hash`).

    Raises:
        RequestError: Fewer than 64 of them can be used, or look different to the backbone.
    """
    groups = embed(
        islice(frames, MOST_PICTURES), manifest.preprocessing, engine, max_pixels=max_pixels
    )
    items = [item for group in groups for item in group]
    skipped = [item for item in items if isinstance(item, Skipped)]
    if skipped:
        tell_skipped(skipped)
    used = [i for i in items if isinstance(i, Embedded) and np.isfinite(i.feature).all()]
    rows = np.array([item.feature for item in used])
    # Equal pictures have no spread to divide by, and all keys would fall into one place.
    n_different = len(np.unique(quantise(rows), axis=0)) if len(rows) else 0
    if n_different < FEWEST_PICTURES:
        raise too_few(n_different, f" that can be used and differ, of {len(items)},")
    stages = manifest.stages or (manifest.num_features,)
    made_of = tuple(sorted({picture_hash(item.frame) for item in used}))
    if not HEADS[head].statistic.needs_keys:
        return make_whitening(rows, stages, N_FOR_MEANS), made_of
    return make_codebook(rows, whitening=make_whitening(rows, stages, N_FOR_KEYS)), made_of


def picture_hash(frame: Frame) -> str:
    """Return the SHA-256, hex, of a picture as it came: of its file, or of its shape and pixels."""
    if frame.pixels is None:
        return hashlib.sha256(frame.encoded or b"").hexdigest()
    digest = hashlib.sha256(repr(frame.pixels.shape).encode())
    digest.update(np.ascontiguousarray(frame.pixels).tobytes())
    return digest.hexdigest()


def too_few(n: int, which: str = "") -> RequestError:
    """Return the error that says that so many pictures make no keys."""
    return RequestError(
        f"{n} picture{'' if n == 1 else 's'}{which} are too few for keys; name a source of at "
        f"least {FEWEST_PICTURES}, or leave --keys out"
    )
