"""The same picture under two names: a slip that no accuracy shows at once.

What is learned is compared with what the home keeps, and with what this run just learned. Of many
rows a sketch of few fixed directions says which may be near (Johnson and Lindenstrauss 1984); only
these are compared in full, so that a frame costs some tens of microseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.types import Float32

# Above what re-encoding a picture changes, and far below what two frames of one thing differ in.
COSINE = 0.999
_MOST_ROWS = 4096
_WIDTH = 16
# Squared length of a difference of unit vectors at that cosine, with room for the sketch's error.
_NEAR = 4 * 2 * (1 - COSINE)


class SamePictures:
    """Finds learned pictures that a class has and that another one gets.

    Args:
        store: The open store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._x: Float32 | None = None
        self._sketches: Float32
        self._squares: Float32
        self._labels: list[str]
        self._n = 0
        rng = np.random.default_rng(0)
        size = (store.num_features, _WIDTH)
        self._directions = (rng.normal(size=size) / np.sqrt(_WIDTH)).astype(np.float32)
        self.found: Counter[tuple[str, str]] = Counter()
        """How often a class got a picture that another one has, by both names."""

    def note(self, labels: Sequence[str], x: Float32) -> list[str | None]:
        """Take features (N, D) that are learned under names; returns another class that has it."""
        if self._x is None and labels:
            self._load()
        units = x / _norms(x)
        rows = zip(labels, units, units @ self._directions, strict=True)
        return [self._note(*row) for row in rows]

    def _note(self, label: str, unit: Float32, sketch: Float32) -> str | None:
        assert self._x is not None
        n = min(self._n, _MOST_ROWS)
        # The squared distance of two sketches, but for the new one's own square.
        apart = self._squares[:n] - 2 * (self._sketches[:n] @ sketch)
        near = np.flatnonzero(apart < _NEAR - sketch @ sketch)
        near = near[self._x[near] @ unit > COSINE]
        labels = {self._labels[i] for i in near}
        if label not in labels:
            self._add(label, unit, sketch)
        others = sorted(labels - {label})
        if others:
            self.found[label, others[0]] += 1
        return others[0] if others else None

    def forget(self) -> None:
        """Read all rows from the store anew, after it lost some."""
        self._x = None

    def _add(self, label: str, unit: Float32, sketch: Float32) -> None:
        assert self._x is not None
        i = self._n % _MOST_ROWS
        if i == len(self._labels):
            self._labels.append(label)
            if i == len(self._x):  # twice as many rows, as far as there may be
                more = min(_MOST_ROWS, max(64, 2 * i)) - i
                # `np.resize` would keep twice the memory alive.
                self._x = np.pad(self._x, ((0, more), (0, 0)))
                self._sketches = np.pad(self._sketches, ((0, more), (0, 0)))
                self._squares = np.pad(self._squares, (0, more))
        self._x[i], self._sketches[i], self._labels[i] = unit, sketch, label
        self._squares[i] = sketch @ sketch
        self._n += 1

    def _load(self) -> None:
        store = self._store
        held = store.rows(Role.HELD_OUT, newest=_MOST_ROWS // 2)
        kept = store.rows(Role.REPLAY, newest=_MOST_ROWS - len(held.uids))
        classes = np.concatenate([kept.classes, held.classes])
        self._x = np.concatenate([kept.x, held.x], dtype=np.float32)
        self._x /= _norms(self._x)  # in place: a copy is as large again
        self._sketches = self._x @ self._directions
        self._squares = np.einsum("nd,nd->n", self._sketches, self._sketches)
        self._labels = [store.names[c] for c in classes.tolist()]
        self._n = len(self._labels)


def _norms(x: Float32) -> Float32:
    """Return the lengths (N, 1) of rows (N, D), none of them zero."""
    norms: Float32 = np.sqrt(np.einsum("nd,nd->n", x, x))[:, None]
    return np.maximum(norms, np.float32(1e-12))
