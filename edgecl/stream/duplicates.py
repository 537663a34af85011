"""Near-duplicates of a live stream: frames that show nothing which was not just learned.

A camera in front of one thing gives thirty frames a second of it. They would fill the store with
copies and make the class's statistics a single point (docs/decisions/0012).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgecl.types import Float16, Float32

N_NEWEST = 64
# 570 KB each at 2,224 features; a class that comes back after so many others is read again.
_MOST_CLASSES = 64


class Duplicates:
    """The newest rows of each class, of length one.

    Args:
        cosine: A frame whose feature is nearer to one of them is a duplicate; 1 switches it off.
        newest: Gives the newest rows (M, D) of a class by name that a store holds, newest last.
        n: Rows of a class that are compared.
    """

    def __init__(
        self, cosine: float, newest: Callable[[str, int], Float16], n: int = N_NEWEST
    ) -> None:
        self._cosine = cosine
        self._newest = newest
        self._n = n
        # By class and source: what one camera shows is no copy of what another one does.
        self._rows: dict[tuple[str, str], Float32] = {}
        self._n_rows: dict[tuple[str, str], int] = {}

    def is_near(self, label: str, x: Float32, source: str = "") -> bool:
        """Whether a feature (D,) is a near-duplicate of its class; if not, it is one of the rows.

        The caller learns what is none.
        """
        if self._cosine >= 1:
            return False
        unit = _unit(x[None])[0]
        key = (label, source)
        if key not in self._rows:
            self._load(key, len(x))
        rows, n = self._rows[key], self._n_rows[key]
        if n and float((rows[: min(n, self._n)] @ unit).max()) > self._cosine:
            return True
        rows[n % self._n] = unit
        self._n_rows[key] = n + 1
        return False

    def forget(self) -> None:
        """Read all rows from the store anew, after it lost some."""
        self._rows.clear()
        self._n_rows.clear()

    def _load(self, key: tuple[str, str], width: int) -> None:
        if len(self._rows) >= _MOST_CLASSES:
            oldest = next(iter(self._rows))
            del self._rows[oldest], self._n_rows[oldest]
        rows = np.zeros((self._n, width), np.float32)
        kept = self._newest(key[0], self._n)
        rows[: len(kept)] = _unit(kept.astype(np.float32))
        self._rows[key], self._n_rows[key] = rows, len(kept)


def _unit(x: Float32) -> Float32:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    unit: Float32 = x / np.maximum(norms, np.float32(1e-12))
    return unit
