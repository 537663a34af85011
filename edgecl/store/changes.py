"""Rows of the changes of a home; what is made of them is edgecl/governor's.

A change is opened before something is learned, and closed behind it, each in a transaction of its
own. What it says of a class stands in a row of the class, and goes with that class.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgecl.paired import Pairs
from edgecl.store.store import Store
from edgecl.store.text import dump_json
from edgecl.types import Labels

OPEN, SERVING, ROLLED_BACK, REFUSED = "open", "serving", "rolled_back", "refused"
CANDIDATE = "candidate"
"""State of a consolidation whose adapter live frames judge before it is heard."""
BASE = "base"
"""State of the row that says with which settings recording began; it is no change."""


class Verdicts(NamedTuple):
    """Which pictures a head answers rightly, that never taught it.

    Args:
        uids: Their samples (N,).
        classes: Uids of their classes (N,).
        right: Whether each was right (N,).
    """

    uids: Labels
    classes: Labels
    right: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class OfClass:
    """What a change did to one class.

    Args:
        uid: The class.
        learned: Samples of it that the change taught.
        pairs: How its pictures were answered before and after.
    """

    uid: int
    learned: int
    pairs: Pairs


@dataclass(frozen=True, slots=True)
class Change:
    """One change.

    Args:
        uid: Its number.
        kind: What was done.
        state: `open`, `candidate`, `serving`, `rolled_back` or `refused`.
        opened: Wall clock, seconds since the epoch.
        closed: When it was judged, or None.
        taught: Whether it taught something.
        samples: Uids of its samples are above the first and up to the second.
        snapshot: Number of the snapshot that was taken before it, or None.
        body: What else is known of it, JSON values without a name.
        receipt: Its receipt, or None.
        classes: What it did to each class that is still there.
    """

    uid: int
    kind: str
    state: str
    opened: float
    closed: float | None
    taught: bool
    samples: tuple[int, int]
    snapshot: int | None
    body: dict[str, Any]
    receipt: str | None
    classes: tuple[OfClass, ...]

    @property
    def name(self) -> str:
        """What people call it."""
        return f"c{self.uid}"


def changes_of(store: Store) -> list[Change]:
    """Return all changes, oldest first."""
    classes: dict[int, list[OfClass]] = {}
    for change, uid, learned, *counts in store.connection.execute(
        "SELECT change_uid, class_uid, learned, n, lost, won FROM change_classes "
        "ORDER BY change_uid, class_uid"
    ):
        classes.setdefault(change, []).append(OfClass(uid, learned, Pairs(*counts)))
    rows = store.connection.execute(
        "SELECT uid, kind, state, opened, closed, taught, sample_from, sample_to, "
        f"snapshot, body, receipt FROM changes WHERE state != '{BASE}' ORDER BY uid"
    )
    return [
        Change(
            uid, kind, state, opened, closed, bool(taught), (a, b), snapshot, json.loads(body),
            receipt, () if state == OPEN else tuple(classes.get(uid, ())),
        )
        for uid, kind, state, opened, closed, taught, a, b, snapshot, body, receipt in rows
    ]  # fmt: skip


def change_of_adapter(store: Store, adapter: int) -> Change | None:
    """Return the consolidation that brought an adapter, if it is on record."""
    found = (c for c in changes_of(store) if c.body.get("adapter") == adapter)
    return next((c for c in found if c.kind == "consolidate"), None)


def add_change(
    store: Store,
    kind: str,
    *,
    state: str = SERVING,
    body: Mapping[str, Any] | None = None,
    snapshot: int | None = None,
    receipt: str | None = None,
    opened: float | None = None,
    classes: Sequence[OfClass] = (),
) -> int:
    """Write a change as of now, inside a transaction; returns its uid.

    One that is not open is over.

    Args:
        store: The store.
        kind: What was done.
        state: What became of it.
        body: What else is known of it.
        snapshot: Taken before it.
        receipt: Its receipt.
        opened: When it began; None is now.
        classes: What it did to classes.
    """
    now, newest = time.time(), newest_sample(store)
    cursor = store.connection.execute(
        "INSERT INTO changes(kind, state, opened, closed, taught, sample_from, sample_to, "
        "snapshot, body, receipt) VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?, ?)",
        (
            kind, state, opened or now, None if state == OPEN else now, newest, newest,
            snapshot, dump_json(dict(body or {})), receipt,
        ),
    )  # fmt: skip
    uid = int(cursor.lastrowid or 0)
    _write_classes(store, uid, classes)
    return uid


def note_before(store: Store, uid: int, verdicts: Verdicts) -> None:
    """Note how a change that opens finds the classes; inside a transaction."""
    seen = store.n_seen()
    answers = {
        int(c): (2 * verdicts.uids[own] + verdicts.right[own]).astype("<i8").tobytes()
        for c in np.unique(verdicts.classes)
        for own in (verdicts.classes == c,)
    }
    store.connection.executemany(
        "INSERT INTO change_classes VALUES (?, ?, ?, 0, 0, 0, ?)",
        [(uid, c, seen.get(c, 0), answers.get(c)) for c in store.names],
    )


def noted_before(store: Store, uid: int) -> tuple[dict[int, int], Verdicts]:
    """Return what `note_before` wrote: samples by class, and the answers."""
    rows = store.connection.execute(
        "SELECT class_uid, learned, coalesce(before, x'') FROM change_classes "
        "WHERE change_uid = ? ORDER BY class_uid",
        (uid,),
    ).fetchall()
    codes = [np.frombuffer(before, "<i8").astype(np.int64) for _, _, before in rows]
    flat = np.concatenate([*codes, np.zeros(0, np.int64)])
    classes = np.repeat([c for c, _, _ in rows], [len(code) for code in codes]).astype(np.int64)
    return {c: n for c, n, _ in rows}, Verdicts(flat // 2, classes, flat % 2 == 1)


def close_change(store: Store, change: Change, classes: Sequence[OfClass]) -> None:
    """Write what became of a change, and up to which sample it went; inside a transaction."""
    store.connection.execute(
        "UPDATE changes SET state = ?, closed = ?, taught = ?, sample_to = ?, snapshot = ?, "
        "body = ?, receipt = ? WHERE uid = ?",
        (
            change.state, change.closed, change.taught, change.samples[1], change.snapshot,
            dump_json(change.body), change.receipt, change.uid,
        ),
    )  # fmt: skip
    _write_classes(store, change.uid, classes)


def set_state(store: Store, uids: Iterable[int], state: str, receipt: str | None = None) -> None:
    """Say that changes are served, or not any more; inside a transaction."""
    store.connection.executemany(
        "UPDATE changes SET state = ?, receipt = coalesce(?, receipt) WHERE uid = ?",
        [(state, receipt, uid) for uid in uids],
    )


def drop_changes(store: Store, uids: Sequence[int]) -> None:
    """Delete changes; inside a transaction."""
    store.connection.executemany("DELETE FROM changes WHERE uid = ?", [(uid,) for uid in uids])


def thin_changes(store: Store, most: int) -> None:
    """Delete the oldest changes of more than so many; inside a transaction."""
    store.connection.execute(
        f"DELETE FROM changes WHERE state NOT IN ('{OPEN}', '{BASE}') AND uid NOT IN "
        "(SELECT uid FROM changes ORDER BY uid DESC LIMIT ?)",
        (most,),
    )


def settings_known(store: Store) -> dict[str, Any] | None:
    """Return the settings that were noted last, None before the first time."""
    row = store.connection.execute("SELECT body FROM changes WHERE uid = 0").fetchone()
    return None if row is None else dict(json.loads(row[0]))


def note_settings(store: Store, settings: Mapping[str, Any]) -> None:
    """Note the settings of now in a row that is no change; inside a transaction."""
    store.connection.execute(
        "INSERT OR REPLACE INTO changes VALUES (0, 'settings', ?, ?, NULL, 0, 0, 0, NULL, ?, NULL)",
        (BASE, time.time(), dump_json(dict(settings))),
    )


def newest_sample(store: Store) -> int:
    """Return the highest uid that a sample ever had."""
    row = store.connection.execute(
        "SELECT seq FROM sqlite_sequence WHERE name = 'samples'"
    ).fetchone()
    return 0 if row is None else int(row[0])


def positions(store: Store) -> dict[str, list[Any]]:
    """Return how far each source was learned, JSON values by its keyed hash."""
    rows = store.connection.execute("SELECT key, n, digest, is_finished FROM positions")
    return {key: [n, bytes(digest).hex(), done] for key, n, digest, done in rows}


def put_positions(store: Store, before: Mapping[str, list[Any] | None]) -> None:
    """Set back how far sources were learned, None for not at all; inside a transaction."""
    for key, row in before.items():
        store.connection.execute("DELETE FROM positions WHERE key = ?", (key,))
        if row is not None:
            n, digest, done = row
            store.connection.execute(
                "INSERT INTO positions VALUES (?, ?, ?, ?)", (key, n, bytes.fromhex(digest), done)
            )


def lessons_of(store: Store, first: int, last: int) -> list[tuple[int, int, str, bytes, bool]]:
    """Return what is there of samples with uids above `first` and up to `last`, oldest first.

    Returns:
        Uid, class uid, source, sealed feature, and whether it was held out.
    """
    rows = store.connection.execute(
        "SELECT s.uid, class_uid, coalesce(text, ''), x, role = 'held_out' FROM samples s "
        "JOIN features USING (uid) JOIN sources o ON o.uid = source_uid "
        "WHERE s.uid > ? AND s.uid <= ? AND role != 'review' ORDER BY s.uid",
        (first, last),
    )
    return [(uid, c, text, x, bool(held)) for uid, c, text, x, held in rows]


def _write_classes(store: Store, uid: int, classes: Sequence[OfClass]) -> None:
    store.connection.execute("DELETE FROM change_classes WHERE change_uid = ?", (uid,))
    store.connection.executemany(
        "INSERT INTO change_classes VALUES (?, ?, ?, ?, ?, ?, NULL)",
        [(uid, c.uid, c.learned, c.pairs.n, c.pairs.lost, c.pairs.won) for c in classes],
    )
