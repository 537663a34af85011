"""The grid of float16 multiples of 2^-12, on which features are learned.

It makes sums of features and of their products exact (edgecl/heads/statistics.py,
runtime/codebook.py).
"""

from __future__ import annotations

from typing import cast

import numpy as np

from edgecl.types import Float16, Float32

GRID = 2.0**-12


def quantise(x: Float32 | Float16) -> Float16:
    """Round features to float16 on the grid of 2^-12; values beyond float16 are cut to its range.

    The error is at most 2^-13 below 0.5 and half a float16 step above. float16 is taken to be
    rounded already.
    """
    if x.dtype == np.float16:
        return cast(Float16, x)
    limit = np.float32(np.finfo(np.float16).max)
    half = np.clip(x, -limit, limit).astype(np.float16).astype(np.float32)
    return (np.round(half / np.float32(GRID)) * np.float32(GRID)).astype(np.float16)
