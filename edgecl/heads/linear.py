"""What a linear head is made of: the scale of features, the penalty, and a ridge solve by rows."""

from __future__ import annotations

from typing import Any

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


def ridge(z: Float64, targets: Float64) -> Float64:
    """Return weights (D, K) of scaled, centred rows (N, D) for targets (N, K), penalised as a head.

    Solved over the rows when they are fewer than the features.
    """
    n, d = z.shape
    gram: Any = z.T @ z if n > d else z @ z.T
    gram[np.diag_indices_from(gram)] += LAMBDA_PER_FEATURE * d
    weights: Float64 = (
        np.linalg.solve(gram, z.T @ targets) if n > d else z.T @ np.linalg.solve(gram, targets)
    )
    return weights
