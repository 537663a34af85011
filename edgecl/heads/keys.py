"""Keys of a key-value head from pictures that the user names.

A key must not depend on a sample that may have to be forgotten, and a class-incremental stream
begins with one class; so keys are made with the home, before anything is learned, from pictures set
apart for it, or from no data at all (heads/codebook.default_codebook).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from edgecl.errors import RequestError
from edgecl.heads.codebook import make_codebook
from edgecl.runtime.codebook import Codebook
from edgecl.runtime.engines.base import Engine
from edgecl.runtime.manifest import Manifest
from edgecl.runtime.pipeline import Embedded, embed
from edgecl.types import Frame, Skipped

MOST_PICTURES = 2000
_FEWEST_PICTURES = 64


def keys_of(
    frames: Iterator[Frame | Skipped], manifest: Manifest, engine: Engine, *, max_pixels: int
) -> Codebook:
    """Make keys from pictures whose labels are ignored; at most 2,000 are read.

    Raises:
        RequestError: Fewer than 64 of them can be used.
    """
    groups = embed(
        islice(frames, MOST_PICTURES), manifest.preprocessing, engine, max_pixels=max_pixels
    )
    rows = [item.feature for group in groups for item in group if isinstance(item, Embedded)]
    if len(rows) < _FEWEST_PICTURES:
        raise RequestError(
            f"{len(rows)} pictures are too few for keys; name a source of at least "
            f"{_FEWEST_PICTURES}, or leave --keys out"
        )
    return make_codebook(np.array(rows))
