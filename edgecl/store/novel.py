"""The review queue: unlabelled frames that look like nothing known, for a person to name.

Frames that a candidate answers differently wait behind those (edgecl/stream/shadow.py).

It keeps the most novel ones, each once: of frames that are nearly equal only the most novel stays.
A frame belongs to the class that it looks most like, with whose key it is sealed and with which it
goes when that class is unlearned: it may well show it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgecl.errors import UnknownSampleError
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.store.text import dump_json, plain_text
from edgecl.types import Float16

CAPACITY = 200
CAPACITY_BYTES = 50_000_000
# Frames of one thing that is held still are this alike (cosine of their features).
SAME = 0.98
# Of a snapshot: its newest entry, and the classes as which some of its entries were learned since.
NEWEST_ENTRY, REVIEWED = "newest_entry", "reviewed"


@dataclass(frozen=True, slots=True)
class Entry:
    """One frame that waits for its name.

    Args:
        uid: Its uid, among all samples.
        guess: Uid of the class that it looks most like.
        source: Where it came from.
        frame: Its name there.
        time: Wall clock when it was taken, seconds since the epoch.
        score: How novel it is; see `edgecl.novelty`.
    """

    uid: int
    guess: int
    source: str
    frame: str
    time: float
    score: float


def offer(
    store: Store,
    *,
    picture: bytes,
    x: Float16,
    guess: int,
    score: float,
    source: str,
    frame: str,
    time: float,
    capacity: int = CAPACITY,
    capacity_bytes: int = CAPACITY_BYTES,
) -> bool:
    """Put a frame into the queue if it is novel enough; inside a transaction.

    Args:
        store: The store.
        picture: The encoded picture, as it is to be kept.
        x: Its quantised feature (D,), under the store's feature map.
        guess: Uid of the class that it looks most like.
        score: How novel it is.
        source: Where it came from.
        frame: Its name there.
        time: Wall clock when it was taken, seconds since the epoch.
        capacity: Most entries; the least novel ones go.
        capacity_bytes: Most bytes of their pictures.

    Returns:
        Whether it is in the queue now. It is not if entries nearly equal to it (cosine above
        `SAME`) are there and one is as novel; if it is more novel than they are, they go.

    Raises:
        ShapeError: x is not (D,) float16.
    """
    kept = entries(store)
    is_full = len(kept) >= capacity
    if len(picture) > capacity_bytes or (is_full and score <= kept[capacity - 1].score):
        return False
    _, rows, _ = queued = store.rows(Role.REVIEW)
    alike = {uid for uid, row in zip(queued.uids.tolist(), rows, strict=True) if _is_same(row, x)}
    same = [entry for entry in kept if entry.uid in alike]
    if any(entry.score >= score for entry in same):
        return False
    drop(store, [entry.uid for entry in same])
    uid = store.add_aside(
        Role.REVIEW, guess, x, picture, source=source, frame=frame, time=time, score=score
    )
    execute = store.connection.execute
    # The least novel ones go until the rest fits, of equal ones the newest.
    execute(
        "DELETE FROM samples WHERE uid IN (SELECT uid FROM ("
        "SELECT uid, row_number() OVER best AS n, sum(size_bytes) OVER best AS size FROM review "
        "WINDOW best AS (ORDER BY score DESC, uid ROWS UNBOUNDED PRECEDING)) "
        "WHERE n > ? OR size > ?)",
        (capacity, capacity_bytes),
    )
    return execute("SELECT 1 FROM samples WHERE uid = ?", (uid,)).fetchone() is not None


def entries(store: Store) -> list[Entry]:
    """Return what waits, the most novel first, of equal ones the oldest.

    Left out is what looks like a class that is being unlearned, or that nobody can read any more.
    """
    gone = {*store.blocked_classes(), *store.lost_classes()}
    found = [
        Entry(o.uid, o.class_uid, o.source, o.frame, o.time, o.score or 0.0)
        for o in store.origins(Role.REVIEW)
        if o.class_uid not in gone
    ]
    return sorted(found, key=lambda entry: (-entry.score, entry.uid))


def n_waiting(store: Store) -> int:
    """Return how many frames wait for a name."""
    (n,) = store.connection.execute("SELECT count(*) FROM review").fetchone()
    return int(n)


def entry_of(store: Store, uid: int) -> Entry:
    """Return an entry.

    Raises:
        RequestError: No entry has this uid.
    """
    for entry in entries(store):
        if entry.uid == uid:
            return entry
    raise _no_entry(uid)


def feature(store: Store, uid: int) -> Float16:
    """Return the quantised feature (D,) of an entry.

    Raises:
        RequestError: No entry has this uid.
    """
    row = store.connection.execute(
        "SELECT uid, class_uid, x FROM review JOIN features USING (uid) WHERE uid = ?", (uid,)
    ).fetchone()
    if row is None:
        raise _no_entry(uid)
    x: Float16 = store.opened([row])[0]
    return x


def drop(store: Store, uids: Sequence[int]) -> None:
    """Delete entries; inside a transaction.

    Raises:
        RequestError: No entry has one of the uids.
    """
    for uid in uids:
        query = "DELETE FROM samples WHERE role = 'review' AND uid = ?"
        if not store.connection.execute(query, (uid,)).rowcount:
            raise _no_entry(uid)


def entry_of_frame(store: Store, source: str, frame: str, time: float) -> int:
    """Return the uid of the entry that a frame became, 0 if it waits no more or never did.

    Args:
        store: The store.
        source: Where the frame came from.
        frame: Its id.
        time: Its wall clock, or 0 if it has none.
    """
    row = store.connection.execute(
        "SELECT r.uid FROM review r JOIN sources ON source_uid = sources.uid "
        "WHERE frame = ?1 AND text = ?2 AND (time = ?3 OR ?3 = 0)",
        (plain_text(frame), plain_text(source), time),
    ).fetchone()
    return 0 if row is None else int(row[0])


def take(store: Store, uid: int, class_uid: int) -> None:
    """Delete an entry that was learned as a sample of a class; inside a transaction.

    Snapshots in which it still waits are noted as holding that class, so that they go with it.

    Raises:
        RequestError: No entry has this uid.
    """
    drop(store, [uid])
    execute = store.connection.execute
    for snapshot, text in execute("SELECT uid, body FROM snapshots").fetchall():
        body = json.loads(text)
        if uid <= body.get(NEWEST_ENTRY, 0):
            body[REVIEWED] = sorted({*body.get(REVIEWED, ()), class_uid})
            execute("UPDATE snapshots SET body = ? WHERE uid = ?", (dump_json(body), snapshot))


def newest(store: Store) -> int:
    """Return the uid of the newest entry, 0 if there is none."""
    (uid,) = store.connection.execute("SELECT coalesce(max(uid), 0) FROM review").fetchone()
    return int(uid)


def _no_entry(uid: int) -> UnknownSampleError:
    return UnknownSampleError(
        f"entry {uid} is not in the review queue; `edgecl review list` shows what is"
    )


def _is_same(a: Float16, b: Float16) -> bool:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return float(x @ y) > SAME * float(np.linalg.norm(x) * np.linalg.norm(y))
