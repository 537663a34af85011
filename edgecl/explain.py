"""Why a picture is taken for what it is: kept samples that are near it, and the part that decides.

Nothing is approximated after the fact: what is shown are rows of the store, by the cosine of
features, so nothing of a class that was unlearned can appear. The part of the feature that speaks
for the first label is the block (a stage of the backbone, pooled one way) in which the nearest
samples of the first are more similar to the picture than those of the second, by most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgecl.runtime.manifest import CATAVGMAX, Manifest
from edgecl.session import Session
from edgecl.store.samples import Rows
from edgecl.store.table import Role
from edgecl.types import Float16, Float32

N_NEAREST = 3
"""Kept samples of each label that are named."""


class Explainer:
    """The kept rows of a home, as of when it was made; blocked classes are left out.

    Args:
        session: An open home, in one state of its store.

    Memory: N * D * 4 bytes (18 MB for 2,000 rows of 2,224 features).
    """

    def __init__(self, session: Session) -> None:
        store = session.store
        self._uids, x, classes = store.open_rows()
        self._x = x.astype(np.float32)
        self._labels = np.array([store.names[uid] for uid in classes.tolist()], object)
        self._origins = {origin.uid: origin for origin in store.origins(Role.REPLAY)}
        self._blocks = _blocks(session.home.manifest)

    def explain(self, x: Float32, labels: Sequence[str]) -> dict[str, Any]:
        """Return JSON values that say why a feature (D,) is taken for the first of some labels.

        Returns:
            `nearest`: by label the kept samples nearest to it, with uid, source, frame and
            similarity (cosine); empty where none is kept. `speaks`: the part of the feature that
            is more like the first label than like the second, and by how much, or None.
        """
        similar = _cosines(self._x, x)
        best = {label: self._best(similar, label) for label in labels[:2]}
        nearest = {
            label: [self._named(place, float(similar[place])) for place in places]
            for label, places in best.items()
        }
        return {"nearest": nearest, "speaks": self._speaks(x, list(best.values()))}

    def _best(self, similar: Float32, label: str) -> list[int]:
        places = np.flatnonzero(self._labels == label)
        order = np.argsort(-similar[places], kind="stable")[:N_NEAREST]
        found: list[int] = places[order].tolist()
        return found

    def _named(self, place: int, similarity: float) -> dict[str, Any]:
        origin = self._origins[int(self._uids[place])]
        return {
            "uid": origin.uid,
            "source": origin.source,
            "frame": origin.frame,
            "similarity": round(similarity, 4),
        }

    def _speaks(self, x: Float32, best: list[list[int]]) -> dict[str, Any] | None:
        if len(best) < 2 or not all(best):
            return None
        ahead = {
            name: float(
                _cosines(self._x[best[0]][:, part], x[part]).mean()
                - _cosines(self._x[best[1]][:, part], x[part]).mean()
            )
            for name, part in self._blocks.items()
        }
        name = max(ahead, key=lambda name: ahead[name])
        if ahead[name] <= 0:
            return None
        return {"part": name, "by": round(ahead[name], 4)}


def _cosines(rows: Float32, x: Float32) -> Float32:
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(x)
    found: Float32 = (rows @ x) / np.maximum(norms, np.float32(1e-6))
    return found


def _blocks(manifest: Manifest) -> dict[str, slice]:
    """Return the blocks of the feature by what they are called."""
    pools = ("mean", "largest") if manifest.tap_pool == CATAVGMAX else ("mean",)
    names = [f"stage {tap} ({pool})" for tap in manifest.taps for pool in pools] + ["last stage"]
    if len(names) != len(manifest.stages):  # on directions there is one block
        names = [f"part {i + 1}" for i in range(len(manifest.stages))]
    ends = np.cumsum(manifest.stages).tolist()
    return {
        name: slice(end - width, end)
        for name, end, width in zip(names, ends, manifest.stages, strict=True)
    }


def nearest_of(kept: Rows, x: Float16 | Float32, class_uid: int) -> int | None:
    """Return the uid of the kept sample of a class that is most like a feature (D,), or None."""
    own = np.flatnonzero(kept.classes == class_uid)
    if not len(own):
        return None
    similar = _cosines(kept.x[own].astype(np.float32), x.astype(np.float32))
    return int(kept.uids[own[similar.argmax()]])
