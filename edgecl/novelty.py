"""Whether a feature looks like anything that was learned: distances to the kept rows.

A softmax cannot answer "none of these": its shares sum to one over the classes that are there. The
distance to the nearest kept samples can (Y. Sun et al., Out-of-distribution detection with deep
nearest neighbors, 2022, arXiv:2204.06507). Here the rows are the store's own, so that nothing but
the store has to be unlearned, and the threshold comes from the store as well: each kept row is
scored against the others, and the threshold is a quantile of these scores
(docs/decisions/0013-unknown.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from edgecl.errors import RequestError, ShapeError
from edgecl.home import Home
from edgecl.learner import open_store, predictor_of, served
from edgecl.replay.store import Store
from edgecl.runtime.predictor import Predictor
from edgecl.types import Float16, Float32, Float64, Prediction

MIN_ROWS = 10
SHARE = 0.95
UNKNOWN = "unknown"
_CHUNK = 256


class Novelty:
    """Scores features by how far they are from the kept rows; float32, no torch.

    Args:
        x: Kept rows (N, D) of the home's feature map, N at least 2.
        classes: Their class uids, N of them.
        names: Names of the classes by uid.
        share: Share of the kept rows that the threshold takes for known, above 0 and below 1.

    Attributes:
        threshold: A score above it is unknown.

    Memory: N * D * 4 bytes for as long as it lives (14 MB for 2,000 rows of 1,752 features).
    """

    threshold: float

    def __init__(
        self,
        x: Float16 | Float32,
        classes: Sequence[int],
        names: Mapping[int, str],
        *,
        share: float = SHARE,
    ) -> None:
        self._rows = _unit(x.astype(np.float32))
        self._classes = np.asarray(classes, dtype=np.int64)
        self._names = dict(names)
        self.threshold = float(np.quantile(self._left_out(), share))

    def scores(self, x: Float32) -> Float64:
        """Return how unknown features (N, D) are, (N,): larger is more unknown.

        Raises:
            ShapeError: x is not (N, D).
        """
        return cast(Float64, 1.0 - self._similar(x).max(axis=1).astype(np.float64))

    def nearest(self, x: Float32) -> list[tuple[int, str]]:
        """Return uid and name of the class of the kept row nearest to each feature (N, D).

        Raises:
            ShapeError: x is not (N, D).
        """
        uids = self._classes[self._similar(x).argmax(axis=1)]
        return [(int(uid), self._names[int(uid)]) for uid in uids]

    def _similar(self, x: Float32) -> Float32:
        if x.ndim != 2 or x.shape[1] != self._rows.shape[1]:
            raise ShapeError(f"features are {x.shape}; expected (N, {self._rows.shape[1]})")
        return cast(Float32, _unit(x.astype(np.float32)) @ self._rows.T)  # (N, R)

    def _left_out(self) -> Float64:
        """Return the score (N,) of each kept row against all others."""
        found = np.empty(len(self._rows))
        for start in range(0, len(self._rows), _CHUNK):
            part = self._rows[start : start + _CHUNK] @ self._rows.T
            part[np.arange(len(part)), np.arange(start, start + len(part))] = -np.inf
            found[start : start + _CHUNK] = 1.0 - part.max(axis=1)
        return found


def open_novelty(store: Store, *, share: float = SHARE) -> Novelty:
    """Read a store's kept rows and find the threshold; nothing is written.

    It does not follow the store: open it anew after samples were learned or unlearned.

    Raises:
        RequestError: Fewer than `MIN_ROWS` rows are kept, or of one class only: there is nothing
            from which a threshold could be taken.
    """
    x, classes = store.stored_rows()
    n_classes = len(np.unique(classes))
    if len(x) < MIN_ROWS or n_classes < 2:
        raise RequestError(
            f"to tell what is unknown, edgecl compares with kept samples; {len(x)} of {n_classes} "
            f"classes are kept, at least {MIN_ROWS} of 2 classes are needed: learn more first"
        )
    return Novelty(x, classes.tolist(), store.names, share=share)


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
        RequestError: Too little is kept, or several feature maps predict.
    """
    with open_store(home, read_only=True) as store, store.snapshot():
        scorer, adapters = served(home, store)
        if scorer.n_maps > 1:
            raise RequestError(
                f"this home predicts with {scorer.n_maps} feature maps, and its kept samples have "
                "one; to tell what is unknown, set consolidation.bank to last or mean and run "
                "`edgecl consolidate`"
            )
        novelty = open_novelty(store)
    engine = home.engine(provider=provider, threads=threads, allow_fallback=allow_fallback)
    return predictor_of(home, engine, scorer, adapters), novelty


def as_json(prediction: Prediction, score: float, threshold: float) -> dict[str, Any]:
    """Return what `edgecl predict --unknown --json` prints of a picture.

    The label is `unknown` if its score is above the threshold; the best classes stay in `top`.
    Whether a class happens to have this name, or the picture is none, says the entry `unknown`.
    """
    is_unknown = score > threshold
    found = prediction.as_json() | {"unknown": is_unknown, "novelty": score}
    return found | {"label": UNKNOWN} if is_unknown else found


def _unit(x: Float32) -> Float32:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return cast(Float32, x / np.maximum(norms, np.float32(1e-12)))
