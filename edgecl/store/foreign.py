"""What came from other devices, and what is this home's own.

The contribution of a device is what came from a source of its own: features without pictures while
they are few, which are folded like any others, and sums. So forgetting, moving, rolling back and
counting need know nothing of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from edgecl.heads.statistics import Moments
from edgecl.store.store import Store
from edgecl.types import Float16

_OWN = "NOT IN (SELECT source_uid FROM contributions)"


@dataclass(frozen=True, slots=True)
class Foreign:
    """The contribution of a device that was taken in.

    Args:
        source_uid: The source that stands for it.
        key: Its public key, hex.
        generation: Its generation.
        digest: Hash of it.
    """

    source_uid: int
    key: str
    generation: int
    digest: str


def foreign(store: Store, device: str) -> Foreign | None:
    """Return what was taken in of a device, or None."""
    row = store.connection.execute(
        "SELECT source_uid, key, generation, digest FROM contributions WHERE device = ?",
        (_tag(device),),
    ).fetchone()
    return None if row is None else Foreign(*row)


def new_source(store: Store, device: str, text: str, key: str, generation: int, digest: str) -> int:
    """Let a device's contribution come from a new source; inside a transaction.

    What an earlier one left keeps its source, which has no text any more, until it is erased.

    Returns:
        The uid of the new source.
    """
    execute, before = store.connection.execute, foreign(store, device)
    if before is not None:
        execute("DELETE FROM contributions WHERE source_uid = ?", (before.source_uid,))
        execute("UPDATE sources SET text = NULL WHERE uid = ?", (before.source_uid,))
        store.reload_classes()
    uid = store.source_uid(text)
    execute(
        "INSERT INTO contributions VALUES (?, ?, ?, ?, ?)",
        (uid, _tag(device), key, generation, digest),
    )
    return uid


def own_rows(store: Store, class_uid: int) -> Float16:
    """Return the features (N, D) that this home learned itself of a class and has not folded."""
    rows = store.connection.execute(
        "SELECT s.uid, f.x FROM replay s JOIN features f USING (uid) WHERE s.class_uid = ? "
        f"AND NOT s.is_folded AND s.source_uid {_OWN} ORDER BY s.uid",
        (class_uid,),
    ).fetchall()
    return store.opened([(uid, class_uid, x) for uid, x in rows])


def own_folded(store: Store, class_uid: int) -> Moments:
    """Return the folded sums of what this home learned itself of a class."""
    found = store.statistic.empty()
    for (source_uid,) in store.connection.execute(
        f"SELECT source_uid FROM class_stats WHERE class_uid = ? AND source_uid {_OWN}",
        (class_uid,),
    ).fetchall():
        found = found.plus(store.folded(class_uid, source_uid))
    return found


def _tag(device: str) -> str:
    """Return what stands for a device: its name may say a class, and must be found for ever."""
    return hashlib.sha256(f"device\0{device}".encode()).hexdigest()
