"""Routines that are called past scipy's wrappers give their very bits, and let go of the lock."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from scipy.linalg import blas as of_scipy
from scipy.linalg import lapack

from edgecl.heads import blas
from edgecl.types import Float32, Float64

SHAPES = [(1, 1), (3, 1), (5, 4), (40, 7), (64, 64), (33, 80)]


def matrix(d: int, n: int, seed: int = 0) -> Float32:
    x = np.random.default_rng(seed).normal(size=(d, n)).astype(np.float32)
    return np.asfortranarray(x)


def positive(d: int) -> Float64:
    """A symmetric positive matrix whose upper triangle says something else."""
    x = matrix(d, d + 1).astype(np.float64)
    return np.asfortranarray(np.tril(x @ x.T + np.eye(d)) + np.triu(np.full((d, d), 7.0), 1))


@pytest.mark.parametrize(("d", "n"), SHAPES)
def test_products_are_those_of_scipy(d: int, n: int) -> None:
    a, b = matrix(d, d), matrix(d, n, 1)
    assert np.array_equal(
        blas.symmetric_vector(a, b[:, 0]), of_scipy.ssymv(1.0, a, b[:, 0], lower=1)
    )
    assert np.array_equal(blas.symmetric_product(a, b), of_scipy.ssymm(1.0, a, b, lower=1))
    whole = np.tril(a) + np.tril(a, -1).T
    assert np.allclose(blas.symmetric_product(a, b), whole @ b, atol=1e-3)


@pytest.mark.parametrize(("d", "n"), SHAPES)
def test_sums_in_place_are_those_of_scipy(d: int, n: int) -> None:
    u, c = matrix(d, n), matrix(d, d, 1)
    expected = of_scipy.ssyrk(-0.5, u, beta=1.0, c=c, lower=1)
    blas.add_square_into(-0.5, u, c)
    assert np.array_equal(c, expected)
    v, w = matrix(n, 3, 2), matrix(d, 3, 3)
    expected = of_scipy.sgemm(1.0, u, v, beta=1.0, c=w)
    blas.add_product_into(u, v, w)
    assert np.array_equal(w, expected)
    x, s = matrix(d, 1)[:, 0].astype(np.float64), positive(d)
    expected = of_scipy.dsyr(0.25, x, a=s, lower=1)
    blas.add_outer_into(0.25, x, s)
    assert np.array_equal(s, expected)


@pytest.mark.parametrize(("d", "n"), SHAPES)
def test_factors_and_what_they_solve_are_those_of_scipy(d: int, n: int) -> None:
    a, b = positive(d), matrix(d, n).astype(np.float64)
    _, expected, failed = lapack.dposv(a, b, lower=1)
    assert not failed
    factor = a.copy(order="F")
    assert blas.factor_into(factor)
    assert np.array_equal(np.tril(factor), np.tril(lapack.dpotrf(a, lower=1)[0]))
    assert np.array_equal(blas.solve_factored(factor, b), expected.reshape(b.shape))
    half = blas.solve_lower(factor, b)
    assert np.array_equal(half, of_scipy.dtrsm(1.0, factor, b, lower=1).reshape(b.shape))
    assert np.allclose(np.tril(factor) @ half, b)
    inverse = np.asfortranarray(factor, dtype=np.float32).copy(order="F")
    expected, _ = lapack.spotri(inverse, lower=1)
    blas.inverse_into(inverse)
    assert np.array_equal(np.tril(inverse), np.tril(expected))


def test_what_is_not_positive_has_no_factor() -> None:
    assert not blas.factor_into(np.asfortranarray([[1.0, 0.0], [2.0, 1.0]]))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (matrix(4, 4), np.zeros((4, 2), np.float64, order="F")),
        (matrix(4, 4), np.zeros((4, 2), np.float32)),
        (np.zeros((4, 4), np.float32)[::2, ::2], np.zeros((2, 2), np.float32, order="F")),
    ],
)
def test_what_a_routine_would_misread_is_refused(a: Float32, b: Float32) -> None:
    with pytest.raises(TypeError, match="where float32 in order is meant"):
        blas.symmetric_product(a, b)


def test_other_threads_go_on_meanwhile() -> None:
    """Where the lock is held, nothing of Python runs before a routine has returned."""
    a, b = matrix(1500, 1500), matrix(1500, 1500)

    def beats_within(work: Callable[[], object]) -> int:
        n, is_over = 0, threading.Event()

        def beat() -> None:
            nonlocal n
            while not is_over.is_set():
                n += 1
                time.sleep(0.001)

        thread = threading.Thread(target=beat)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-4)
        try:
            thread.start()
            before = n
            work()
            return n - before
        finally:
            is_over.set()
            thread.join()
            sys.setswitchinterval(interval)

    work = lambda: blas.symmetric_product(a, b)  # noqa: E731
    assert max(beats_within(work) for _ in range(20)) > 5
