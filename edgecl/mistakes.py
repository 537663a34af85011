"""Kept samples that the rest of the store contradicts: wrong labels, mostly.

Two things are looked for. Twins: pictures that are nearly the same and were taught as different
classes, of which one must be wrong. And samples of which the head, had it not learned them, would
say something else (`Session.leave_one_out`; Northcutt et al. 2021, "Confident Learning", rank by
the same margin of the out-of-sample score). A person relabels, forgets or confirms them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgecl.session import Session
from edgecl.store.confirmed import confirmed_samples
from edgecl.store.table import Role
from edgecl.types import Float32, Labels

TWIN = 0.99
"""Cosine from which two features are of one picture, as on live streams (decision 0012)."""
_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Mistake:
    """A kept sample that is perhaps taught as the wrong class.

    Args:
        uid: Its uid.
        label: The class that it was taught as.
        guess: The class that the others name; of a twin that of the other picture.
        suspicion: How far the guess is ahead of its class, in scores of the head; at most 0 where
            the others agree with the label. 0 if the head has no closed form of it.
        twin: Uid of a sample of the class `guess` that shows nearly the same, or None.
        source: Where it came from.
        frame: Its name there.
        time: Wall clock when it was taken, seconds since the epoch.
    """

    uid: int
    label: str
    guess: str
    suspicion: float
    twin: int | None
    source: str
    frame: str
    time: float

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Mistakes:
    """What was found.

    Args:
        found: Twins first, then by suspicion, the largest first.
        n_kept: Samples that were looked at.
        n_confirmed: Of them, those that a person confirmed; they are not asked again.
        is_ranked: Whether the head has leave-one-out scores; without, twins are all there is.
    """

    found: tuple[Mistake, ...]
    n_kept: int
    n_confirmed: int
    is_ranked: bool


def find_mistakes(session: Session, *, label: str | None = None, is_all: bool = False) -> Mistakes:
    """Rank the kept samples that the rest of the store contradicts; nothing is changed.

    Args:
        session: An open home, in one state of its store.
        label: Only samples of the class with this name or alias.
        is_all: Also those with which the others agree, the least sure ones first.

    Raises:
        UnknownClassError: There is no such class.
    """
    store = session.store
    wanted = None if label is None else store.class_uid(label)
    uids, x, classes = store.open_rows()
    twins = _twins(x.astype(np.float32), classes)
    suspicion, named = np.zeros(len(uids)), classes.copy()
    left_out = session.leave_one_out()
    if left_out is not None:
        place = {int(uid): i for i, uid in enumerate(left_out.uids)}
        rows = np.array([place[uid] for uid in uids.tolist()], dtype=np.int64)
        suspicion, named = left_out.suspicion[rows], left_out.named[rows]
    confirmed = confirmed_samples(store)
    origins = {origin.uid: origin for origin in store.origins(Role.REPLAY)}
    names, found = store.names, []
    for i in np.lexsort(
        (-suspicion, np.array([i not in twins for i in range(len(uids))]))
    ).tolist():
        uid, twin = int(uids[i]), twins.get(i)
        if uid in confirmed or wanted not in (None, int(classes[i])):
            continue
        if twin is None and suspicion[i] <= 0 and not (is_all and left_out is not None):
            continue
        guess = int(named[i] if twin is None else classes[twin])
        origin = origins[uid]
        found.append(
            Mistake(
                uid,
                names[int(classes[i])],
                names[guess],
                float(suspicion[i]),
                None if twin is None else int(uids[twin]),
                origin.source,
                origin.frame,
                origin.time,
            )
        )
    n_confirmed = sum(int(uid) in confirmed for uid in uids)
    return Mistakes(tuple(found), len(uids), n_confirmed, left_out is not None)


def _twins(x: Float32, classes: Labels) -> dict[int, int]:
    """Return, by place, the place of the nearest row of another class that shows the same."""
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.float32(1e-6))
    found: dict[int, int] = {}
    for start in range(0, len(unit), _CHUNK):
        part = slice(start, start + _CHUNK)
        cosine = unit[part] @ unit.T
        cosine[classes[part, None] == classes] = -1
        nearest = cosine.argmax(axis=1) if len(unit) else np.zeros(0, np.int64)
        for i in np.flatnonzero(cosine.max(axis=1, initial=-1) > TWIN).tolist():
            found[start + i] = int(nearest[i])
    return found
