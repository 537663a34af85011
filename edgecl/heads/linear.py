"""What a linear head is made of: the scale of features, the penalty, and a ridge solve by rows."""

from __future__ import annotations

from typing import cast

import numpy as np

from edgecl.types import Float64

# Penalty per feature, on features of unit variance: measured on two data sets, with 100 to 12,000
# samples (docs/decisions/0002). It acts like a prior variance of 5 / D for every weight.
LAMBDA_PER_FEATURE = 0.2
# A feature whose variance is below a thousandth of the mean one is scaled as if it had that much.
VARIANCE_FLOOR = 1e-3


def scale_of(variance: Float64) -> Float64:
    """Return standard deviations (D,) with a floor; ones while there is no variance at all."""
    variance = np.maximum(variance, 0.0)
    average = variance.mean()
    if average < 1e-12:
        return np.ones_like(variance)
    out: Float64 = np.sqrt(variance + VARIANCE_FLOOR * average)
    return out


def on_each_column(mean: Float64, weights: Float64) -> Float64:
    """Return the products (K,) of a centre (D,) with the columns of weights (D, K).

    One dot product of contiguous numbers for each: in one product of a vector and a matrix BLAS
    rounds a column by where it stands, and the order of classes must not change a bit.
    """
    return np.array([mean.dot(np.ascontiguousarray(column)) for column in weights.T])


def ridge(z: Float64, targets: Float64) -> Float64:
    """Return weights (D, K) of scaled, centred rows (N, D) for targets (N, K), penalised as a head.

    Solved over the rows when they are fewer than the features.
    """
    n, d = z.shape
    gram: Float64 = z.T @ z if n > d else z @ z.T
    gram[np.diag_indices_from(gram)] += LAMBDA_PER_FEATURE * d
    if n > d:
        return cast(Float64, np.linalg.solve(gram, z.T @ targets))
    return cast(Float64, z.T @ np.linalg.solve(gram, targets))
