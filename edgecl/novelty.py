"""Whether a feature looks like anything that was learned: its distance to the kept rows.

Shares of classes cannot answer "none of these": they sum to one over the classes that are there.
The distance to the nearest learned row can, whatever the head (Y. Sun et al., Out-of-distribution
detection with deep nearest neighbors, 2022, arXiv:2204.06507). The rows are the store's own, so
that nothing but the store must be unlearned, and the threshold comes from them as well: each row is
scored against the others. Three things differ from the paper: features are compared by the square
roots of their values, a distance counts in units of its class's own spread, and a row is not
scored against those of its class that were learned about the same time, since frames of one thing
are no evidence of how far apart things are (docs/decisions/0013-unknown.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from edgecl.errors import RequestError, ShapeError
from edgecl.home import Home
from edgecl.learner import open_store, served
from edgecl.runtime.predictor import Predictor
from edgecl.store.store import Store
from edgecl.types import Float16, Float32, Float64, Labels, Prediction

MIN_ROWS = 10
SHARE = 0.95
UNKNOWN = "unknown"
_CHUNK = 256
_TINY = 1e-6


class Novelty:
    """Scores features by how far they are from the kept rows; float32, no torch.

    Args:
        x: Rows (N, D) of the home's feature map, oldest first, N at least 2.
        classes: Their class uids (N,).
        names: Names of the classes by uid.
        share: Share of the rows that the threshold takes for known, above 0 and below 1.

    Attributes:
        threshold: A score above it is unknown.

    Memory: N * D * 4 bytes for as long as it lives (18 MB for 2,000 rows of 2,224 features), and
    twice that while it is made.
    """

    threshold: float

    def __init__(
        self,
        x: Float16 | Float32,
        classes: Labels,
        names: Mapping[int, str],
        *,
        share: float = SHARE,
    ) -> None:
        self._rows = _directions(x)
        self._classes = classes
        self._names = dict(names)
        self._spread = np.ones(len(x), np.float32)
        self._spread = _spreads(self._left_out(), classes)
        self.threshold = float(np.quantile(self._left_out(), share))

    def scores(self, x: Float32) -> Float64:
        """Return how unknown features (N, D) are, (N,): larger is more unknown.

        Raises:
            ShapeError: x is not (N, D).
        """
        return cast(Float64, self._distances(x).min(axis=1).astype(np.float64))

    def nearest(self, x: Float32) -> list[tuple[int, str]]:
        """Return uid and name of the class of the row nearest to each feature (N, D).

        Raises:
            ShapeError: x is not (N, D).
        """
        uids = self._classes[self._distances(x).argmin(axis=1)]
        return [(int(uid), self._names[int(uid)]) for uid in uids]

    def _distances(self, x: Float32) -> Float32:
        if x.ndim != 2 or x.shape[1] != self._rows.shape[1]:
            raise ShapeError(f"features are {x.shape}; expected (N, {self._rows.shape[1]})")
        return self._apart(_directions(x))

    def _apart(self, directions: Float32) -> Float32:
        """Return distances (N, R) of directions (N, D) to the rows, in units of their spread."""
        squares = 2 - 2 * (directions @ self._rows.T)
        return cast(Float32, np.sqrt(np.maximum(squares, 0)) / self._spread)

    def _left_out(self) -> Float32:
        """Return the score (N,) of each row against those that were not learned with it."""
        rank, first, last = _neighbours(self._classes)
        found = np.empty(len(self._rows), np.float32)
        for start in range(0, len(self._rows), _CHUNK):
            part = slice(start, start + _CHUNK)
            apart = self._apart(self._rows[part])
            is_near = (rank >= first[part, None]) & (rank < last[part, None])
            apart[is_near & (self._classes == self._classes[part, None])] = np.inf
            found[part] = apart.min(axis=1)
        return found


def open_novelty(store: Store, *, share: float = SHARE) -> Novelty:
    """Read a store's kept rows and find the threshold; nothing is written.

    It does not follow the store: open it anew after samples were learned or unlearned.

    Raises:
        RequestError: Fewer than `MIN_ROWS` rows are kept, or of one class only: there is nothing
            from which a threshold could be taken.
    """
    x, classes = store.stored_rows()
    is_open = ~np.isin(classes, list(store.blocked_classes()))
    x, classes = x[is_open], classes[is_open]
    n_classes = len(np.unique(classes))
    if len(x) < MIN_ROWS or n_classes < 2:
        raise RequestError(
            f"to tell what is unknown, edgecl compares with kept samples; {len(x)} of {n_classes} "
            f"classes are kept, at least {MIN_ROWS} of 2 classes are needed: learn more first"
        )
    return Novelty(x, classes, store.names, share=share)


def open_predictor_and_novelty(
    home: Home,
    *,
    provider: str | None = None,
    threads: int | None = None,
    allow_fallback: bool = False,
) -> tuple[Predictor, Novelty]:
    """Load what predicts in a home and what says "unknown", of one state of its store.

    Raises:
        NothingLearnedError: The home knows no class.
        RequestError: Too little is kept.
    """
    with open_store(home, read_only=True) as store, store.snapshot():
        scorer, adapters = served(home, store)
        novelty = open_novelty(store)
    engine = home.engine(
        adapters, provider=provider, threads=threads, allow_fallback=allow_fallback
    )
    made = Predictor.of(engine, home.manifest.preprocessing, scorer, max_pixels=home.max_pixels)
    return made, novelty


def as_json(prediction: Prediction, score: float, threshold: float) -> dict[str, Any]:
    """Return what `edgecl predict --unknown --json` prints of a picture.

    The label is `unknown` if its score is above the threshold; the best classes stay in `top`.
    Whether a class happens to have this name, or the picture is none, says the entry `unknown`.
    """
    is_unknown = score > threshold
    found = prediction.as_json() | {"unknown": is_unknown, "novelty": score}
    return found | {"label": UNKNOWN} if is_unknown else found


def _directions(x: Float16 | Float32) -> Float32:
    """Return rows (N, D) as unit vectors of the signed roots of their values."""
    # In place: these rows are most of what is in memory.
    roots = x.astype(np.float32)
    np.sqrt(np.abs(roots, out=roots), out=roots)
    np.copysign(roots, x, out=roots)
    norms = np.sqrt(np.einsum("nd,nd->n", roots, roots))[:, None]
    roots /= np.maximum(norms, np.float32(_TINY))
    return roots


def _spreads(distances: Float32, classes: Labels) -> Float32:
    """Return each row's unit (N,): between its class's median distance and that of all classes.

    The geometric mean of the two, so that a class of a few rows is not taken at its word.
    """
    uids, which = np.unique(classes, return_inverse=True)
    medians = np.array([np.median(distances[classes == uid]) for uid in uids])
    medians = np.maximum(medians, _TINY)
    return cast(Float32, np.sqrt(medians * medians.mean())[which].astype(np.float32))


def _neighbours(classes: Labels) -> tuple[Labels, Labels, Labels]:
    """Return each row's number in its class, and the first and last + 1 that are learned with it.

    They are half of its class: the rows that came just before it and just after it, and itself.
    """
    rank, first, last = np.empty_like(classes), np.empty_like(classes), np.empty_like(classes)
    for uid in np.unique(classes):
        own = np.flatnonzero(classes == uid)
        n_near = max(1, len(own) // 2)
        rank[own] = np.arange(len(own))
        first[own] = np.clip(rank[own] - n_near // 2, 0, len(own) - n_near)
        last[own] = first[own] + n_near
    return rank, first, last
