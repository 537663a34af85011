"""Keys of a key-value head from pictures that the user names.

A key must not depend on a sample that may have to be forgotten, and a class-incremental stream
begins with one class; so keys are made with the home, before anything is learned, from pictures set
apart for it, or from no data at all (heads/codebook.default_codebook).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from edgecl.errors import RequestError
from edgecl.heads.codebook import make_codebook
from edgecl.runtime.codebook import Codebook
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
    *,
    max_pixels: int,
    tell_skipped: Callable[[Sequence[Skipped]], None] = lambda skipped: None,
) -> Codebook:
    """Make keys from pictures whose labels are ignored; at most 2,000 are read.

    Args:
        frames: The pictures.
        manifest: Says how a picture becomes the engine's input.
        engine: The frozen backbone.
        max_pixels: Limit for decoding a picture.
        tell_skipped: Told which pictures could not be used, if any.

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
    found = [item.feature for item in items if isinstance(item, Embedded)]
    rows = np.array([x for x in found if np.isfinite(x).all()])
    # Equal pictures have no spread to divide by, and all keys would fall into one place.
    n_different = len(np.unique(quantise(rows), axis=0)) if len(rows) else 0
    if n_different < FEWEST_PICTURES:
        raise too_few(n_different, f" that can be used and differ, of {len(items)},")
    return make_codebook(rows)


def too_few(n: int, which: str = "") -> RequestError:
    """Return the error that says that so many pictures make no keys."""
    return RequestError(
        f"{n} picture{'' if n == 1 else 's'}{which} are too few for keys; name a source of at "
        f"least {FEWEST_PICTURES}, or leave --keys out"
    )
