"""Ridge regression between two exact solves: weights and inverse in float32, and what came since.

A sample is one rank-one term of both (recursive least squares, Plackett 1950). With the scaled
sample z, its gain g = R z and its error e, R loses g g' / (1 + z'g) and the weights gain
g e' / (1 + z'g): one factor U holds the gains of both, V the errors. They collect beside R (D, D)
and W (K, D), and go into them 64 at a time in one product. So a step reads R once, and W once: a
prediction and the update that follows it share their scores. float32 moves scores by less than 1e-5
between solves (measured over 4,000 updates).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgecl.heads import blas
from edgecl.types import Float32, Float64

_BLOCK = 64
_FEWEST_CLASSES = 16


class Recursion:
    """Weights and inverse of the scaled, centred problem with its intercept, one term a sample.

    Args:
        inverse: Lower triangle of the inverse (D, D), Fortran order; taken over.
        corner: Its entry of the intercept.
        weights: Weights (D, K) of scaled features.
        bias: The intercepts (K,).
    """

    def __init__(self, inverse: Float32, corner: float, weights: Float64, bias: Float64) -> None:
        d, k = weights.shape
        self._r = inverse
        # The intercept is one more feature, always 1 and not penalised: its row of the inverse is
        # kept apart, so that the other D x D part stays the plain block that the solve gives.
        self._border = np.zeros(d, np.float32)
        self._corner = corner
        self._n_classes = k
        # Zeros that nothing has touched take no memory.
        self._w = np.zeros((max(_FEWEST_CLASSES, 2 * k), d), np.float32)
        self._w[:k] = weights.T
        self._bias = np.zeros(len(self._w))
        self._bias[:k] = bias
        self._u = np.zeros((d, _BLOCK), np.float32, order="F")
        self._v = np.zeros((_BLOCK, len(self._w)), np.float32)
        self._n_block = 0
        # Of rows that come next, by their bytes: what R and W give, without the terms beside them.
        self._ahead: dict[bytes, tuple[Float32, Float32]] = {}

    def grow(self, n_classes: int) -> None:
        """Have room for classes that no sample has had: their weights are zeros."""
        if n_classes > len(self._w):
            more = max(n_classes - len(self._w), len(self._w))
            self._w = np.concatenate([self._w, np.zeros((more, self._w.shape[1]), np.float32)])
            self._bias = np.concatenate([self._bias, np.zeros(more)])
            self._v = np.concatenate([self._v, np.zeros((_BLOCK, more), np.float32)], axis=1)
        self._n_classes = n_classes

    def scores(self, z: Float32) -> Float64:
        """Return scores (N, K) of scaled features (N, D)."""
        j, k = self._n_block, self._n_classes
        scores: Float64 = self._product(z) + self._bias[:k]
        if j:
            scores += (z @ self._u[:, :j]) @ self._v[:j, :k]
        return scores

    def expect(self, z: Float32) -> None:
        """Read R and W once for features (N, D) that are asked and learned next, each alone."""
        z = np.ascontiguousarray(z[:_BLOCK])
        if self._n_block + len(z) > _BLOCK:
            self._flush()
        gains, plain = blas.symmetric_product(self._r, z.T), self._product(z)
        self._ahead = {
            row.tobytes(): (gain, said) for row, gain, said in zip(z, gains.T, plain, strict=True)
        }

    def learn(self, z: Float32, columns: Sequence[int], said: Float64 | None = None) -> None:
        """Learn scaled features (N, D) of the classes in columns (N,), one after the other.

        Args:
            z: The features.
            columns: Columns of their classes.
            said: What `scores` says of a single one as it stands, (1, K), if that is known; classes
                that came since may be missing.
        """
        k, first = self._n_classes, 0
        while first < len(z):
            part = z[first : first + _BLOCK - self._n_block]
            if len(part) == 1:
                ahead = self._ahead.get(part.tobytes())
                gain = blas.symmetric_vector(self._r, part[0]) if ahead is None else ahead[0]
                gains = gain[:, None]
            else:
                gains = blas.symmetric_product(self._r, part.T)  # (D, n)
            plain = self._product(part) if said is None else None
            for i, row in enumerate(part):
                j = self._n_block
                u = self._u[:, :j]
                a = row @ u
                if plain is None:
                    error = np.zeros(k)
                    error[: said.shape[1]] -= said[0]  # type: ignore[union-attr,index]
                else:
                    error = -(plain[i] + self._bias[:k])
                    error -= a @ self._v[:j, :k]
                error[columns[first + i]] += 1.0
                self._add(row, gains[:, i] - u @ a, error)
            first += len(part)

    def left_out(self, z: Float32) -> Float64:
        """Return the leverages (N,) of learned samples, by the inverse as it stands."""
        z = np.asfortranarray(z.T)
        u = self._u[:, : self._n_block]
        product = blas.symmetric_product(self._r, z) - u @ (u.T @ z)  # (D, N)
        leverage = np.einsum("dn,dn->n", z, product + 2 * self._border[:, None])
        out: Float64 = leverage.astype(np.float64) + self._corner
        return out

    def weights(self) -> tuple[Float64, Float64]:
        """Return weights (D, K) of scaled features, and intercepts (K,)."""
        self._flush()
        k = self._n_classes
        return self._w[:k].T.astype(np.float64, order="F"), self._bias[:k].copy()

    def _product(self, z: Float32) -> Float32:
        """Return what the weights alone say (N, K), without the terms beside them."""
        w = self._w[: self._n_classes]
        ahead = self._ahead.get(z.tobytes()) if len(z) == 1 else None
        if ahead is not None:  # of classes that came since, W has zeros
            return np.pad(ahead[1], (0, len(w) - len(ahead[1])))[None]
        product: Float32 = (w @ z[0])[None] if len(z) == 1 else z @ w.T
        return product

    def _add(self, z: Float32, gain: Float32, error: Float64) -> None:
        """Add the term of a sample with its gain, but for the intercept's part, and its error."""
        j, k = self._n_block, self._n_classes
        gain += self._border
        edge = float(z @ self._border) + self._corner
        denominator = 1.0 + float(z @ gain) + edge
        root = math.sqrt(denominator)
        self._u[:, j] = gain / root
        self._v[j, :k] = error / root
        self._bias[:k] += edge / denominator * error
        self._border -= np.float32(edge / root) * self._u[:, j]
        self._corner -= edge * edge / denominator
        self._n_block += 1
        if self._n_block == _BLOCK:
            self._flush()

    def _flush(self) -> None:
        """Take the collected terms into R and W, in place."""
        j, k = self._n_block, self._n_classes
        if j:
            u, v = self._u[:, :j], np.asfortranarray(self._v[:j, :k])
            blas.add_square_into(-1.0, u, self._r)
            blas.add_product_into(u, v, self._w[:k].T)
            self._n_block, self._ahead = 0, {}
