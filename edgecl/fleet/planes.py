"""Sums as integers of value x 2^24, and arrays as compressed byte planes.

Features are multiples of 2^-12 and their products of 2^-24 (heads/statistics.py), so every sum is a
whole number of 2^-24. As int64 such numbers add exactly up to 2^38, 512 times what float64 can;
they are rounded once, when a head is solved. The bytes of equal rank lie together (a plane), since
the high ones are nearly all zero: that compresses twice as well as the numbers one after the other.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.errors import IntegrityError, RequestError
from edgecl.types import Float64

Int64 = npt.NDArray[np.int64]

SCALE = 2**24
MOST = 2**62
"""Numbers stay below it, so that two add without leaving int64."""
_EXACT = 2.0**53
_LEVEL = 1


def to_grid(values: Float64) -> Int64:
    """Return sums as whole numbers of 2^-24.

    Raises:
        RequestError: One is so large that float64 may have rounded it.
        IntegrityError: One is no multiple of 2^-24.
    """
    with np.errstate(over="ignore"):
        scaled = np.asarray(values, dtype=np.float64) * SCALE
    if not np.isfinite(scaled).all():
        raise IntegrityError("a sum is not finite; expected sums of features on the grid of 2^-12")
    if np.abs(scaled).max(initial=0.0) >= _EXACT:
        raise RequestError(
            "a sum reaches 2^29, from where on float64 rounds; split the samples over more devices "
            "or shards"
        )
    whole = scaled.astype(np.int64)
    if not np.array_equal(whole, scaled):
        raise IntegrityError(
            "a sum is no multiple of 2^-24; expected sums of features on the grid of 2^-12"
        )
    return whole


def from_grid(whole: Int64) -> Float64:
    """Return whole numbers of 2^-24 as float64, each rounded once."""
    return np.asarray(whole.astype(np.float64) / SCALE)


def added(a: Int64, b: Int64) -> Int64:
    """Return the sums of numbers below `MOST`, which are below it, too.

    Raises:
        RequestError: One is not.
    """
    total = a + b
    check_range(total)
    return total


def check_range(whole: Int64) -> None:
    """Check that numbers are below `MOST`.

    Raises:
        RequestError: One is not.
    """
    if len(whole) and (whole.max() >= MOST or whole.min() <= -MOST):
        raise RequestError("a sum reaches 2^38, more than can be added exactly; merge fewer")


def pack(array: npt.NDArray[Any]) -> bytes:
    """Return an array of int64 or float16 as compressed byte planes; its length is not in it."""
    if array.dtype == np.int64:  # signs to the lowest bit, so that high bytes are zero
        array = ((array << 1) ^ (array >> 63)).astype("<i8")
    else:
        array = array.astype("<f2")
    planes = array.reshape(-1, 1).view(np.uint8).T
    return zlib.compress(np.ascontiguousarray(planes).tobytes(), _LEVEL)


def most_packed(n_bytes: int) -> int:
    """Return how long what `pack` makes of so many bytes is at most."""
    return n_bytes + n_bytes // 1000 + 64


def unpack_sums(data: bytes, n: int) -> Int64:
    """Read n whole numbers; see `_planes`.

    Raises:
        RequestError: One is out of range.
    """
    mixed = _planes(data, n, 8).view("<u8")[:, 0]
    whole = (mixed >> np.uint64(1)).astype(np.int64) ^ -(mixed & np.uint64(1)).astype(np.int64)
    check_range(whole)
    return np.asarray(whole)


def unpack_rows(data: bytes, n: int, width: int) -> npt.NDArray[np.float16]:
    """Read rows (n, width) of float16; see `_planes`."""
    return np.asarray(_planes(data, n * width, 2).view("<f2").reshape(n, width).astype(np.float16))


def _planes(data: bytes, n: int, size: int) -> npt.NDArray[np.uint8]:
    """Return the bytes (n, size) of n numbers; never makes more than that, whatever is in `data`.

    Raises:
        IntegrityError: It is not what `pack` made of n numbers.
    """
    expander = zlib.decompressobj()
    try:
        found = expander.decompress(data, n * size + 1)
    except zlib.error as error:
        raise IntegrityError(f"packed numbers are damaged ({error})") from None
    if len(found) != n * size or not expander.eof or expander.unused_data:
        raise IntegrityError(f"packed numbers are not {n} of {size} bytes, as they say")
    planes = np.frombuffer(found, np.uint8).reshape(size, n)
    return np.ascontiguousarray(planes.T)
