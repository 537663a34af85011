"""BLAS and LAPACK without the interpreter's lock: engine and decoder go on while a head solves.

scipy's wrappers hold the lock until a routine returns; these call the very same routines, so all
bits are theirs, at the addresses that scipy gives to compiled code (`scipy.linalg.cython_blas`).
Matrices are in Fortran order, of symmetric ones and factors the lower triangle counts, and a name
that ends in `_into` says that the last argument is overwritten.

An integer is passed as 64 bits: in little-endian order that is one of 32 bits, too, whichever of
the two a build of scipy takes.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from scipy.linalg import cython_blas, cython_lapack

from edgecl.types import Float32, Float64

Real = Float32 | Float64
if sys.byteorder != "little":
    raise ImportError("edgecl runs on little-endian processors only: integers are passed as such")

_PREFIX = {
    np.dtype(np.float32): ("s", ctypes.c_float),
    np.dtype(np.float64): ("d", ctypes.c_double),
}


def symmetric_vector(a: Float32, x: Float32) -> Float32:
    """Return the product (D,) of a symmetric matrix (D, D) and a vector (D,)."""
    y = np.zeros_like(x)
    _call("symv", a, b"L", len(a), 1.0, a, len(a), x, 1, 0.0, y, 1)
    return y


def symmetric_product(a: Float32, b: Float32) -> Float32:
    """Return the product (D, N) of a symmetric matrix (D, D) and a matrix (D, N)."""
    (d, n), c = b.shape, np.zeros_like(b, order="F")
    _call("symm", a, b"L", b"L", d, n, 1.0, a, d, b, d, 0.0, c, d)
    return c


def add_square_into(alpha: float, u: Float32, c: Float32) -> None:
    """Add `alpha` times U U' of a matrix (D, N) to a symmetric matrix (D, D)."""
    d, n = u.shape
    _call("syrk", c, b"L", b"N", d, n, alpha, u, d, 1.0, c, d)


def add_product_into(u: Float32, v: Float32, c: Float32) -> None:
    """Add the product of matrices (D, N) and (N, K) to a matrix (D, K)."""
    (d, n), k = u.shape, v.shape[1]
    _call("gemm", c, b"N", b"N", d, k, n, 1.0, u, d, v, n, 1.0, c, d)


def add_outer_into(alpha: float, x: Float64, a: Float64) -> None:
    """Add `alpha` times x x' of a vector (D,) to a symmetric matrix (D, D)."""
    _call("syr", a, b"L", len(x), alpha, x, 1, a, len(a))


def factor_into(a: Float64) -> bool:
    """Turn a symmetric matrix (D, D) into its Cholesky factor; False if it is not positive."""
    info = ctypes.c_int64()
    _call("potrf", a, b"L", len(a), a, len(a), info)
    return not info.value


def inverse_into(factor: Float32) -> None:
    """Turn a Cholesky factor (D, D) into the inverse of what it is the factor of."""
    _call("potri", factor, b"L", len(factor), factor, len(factor), ctypes.c_int64())


def solve_lower(factor: Float64, b: Float64) -> Float64:
    """Return X (D, N) with L X = B for a lower factor L (D, D) and B (D, N)."""
    x = np.array(b, order="F")
    d, n = x.shape
    _call("trsm", factor, b"L", b"L", b"N", b"N", d, n, 1.0, factor, d, x, d)
    return x


def solve_factored(factor: Float64, b: Float64) -> Float64:
    """Return X (D, N) with L L' X = B for a Cholesky factor L (D, D) and B (D, N)."""
    x = np.array(b, order="F")
    d, n = x.shape
    _call("potrs", factor, b"L", d, n, factor, d, x, d, ctypes.c_int64())
    return x


def _call(name: str, like: Real, *arguments: object) -> None:
    """Call a routine in the precision of `like`; the lock is let go meanwhile."""
    prefix, real = _PREFIX[like.dtype]
    given = [_address(each, like.dtype, real) for each in arguments]
    _routine(prefix + name, len(given))(*given)


def _address(argument: Any, dtype: np.dtype[Any], real: Any) -> Any:
    """Return an argument as Fortran takes it, by its address."""
    if isinstance(argument, np.ndarray):
        if argument.dtype != dtype or not argument.flags.f_contiguous:
            raise TypeError(f"{argument.dtype} {argument.strides} where {dtype} in order is meant")
        return argument.ctypes.data
    if isinstance(argument, bytes):
        return argument
    if isinstance(argument, ctypes.c_int64):
        return ctypes.byref(argument)
    return ctypes.byref(real(argument) if isinstance(argument, float) else ctypes.c_int64(argument))


@cache
def _routine(name: str, n_arguments: int) -> Callable[..., None]:
    blas, lapack = cython_blas.__pyx_capi__, cython_lapack.__pyx_capi__
    capsule = blas[name] if name in blas else lapack[name]
    signature, pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    signature.restype, signature.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * n_arguments)
    return kind(pointer(capsule, signature(capsule)))
