"""Samples go from one class to another: rows, sums and seals, and what older copies hold of them.

Or they are held out from now on, which is a move out of the sums.

A row that moves is sealed anew with the key of its new class. Its feature leaves the sums of the
old one, exactly, and is a row of the new one: the statistics are, bit for bit, those of a store
that learned it under the new name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from typing import Literal

from edgecl.heads.statistics import Moments
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.types import Float16

_BLOBS = (("features", "x"), ("pictures", "data"))


def move_samples(store: Store, uids: Sequence[int], to: int, *, is_whole: bool = False) -> None:
    """Give samples to another class, inside a transaction; rebuild the head after it.

    Args:
        store: The store.
        uids: Samples of any role.
        to: Uid of the class.
        is_whole: Whether their folded sums go another way (`merge_sums`), since all of their class
            moves; else they leave the sums of their class.
    """
    execute = store.connection.execute
    for uid in uids:
        row = execute(
            "SELECT class_uid, source_uid, role, is_folded FROM samples WHERE uid = ?", (uid,)
        ).fetchone()
        of, source_uid, role, is_folded = row
        if is_folded and not is_whole:
            moments = store.statistic.of(feature_of(store, uid)[None])
            store.take_off_statistics(of, source_uid, moments, is_moved=True)
        if role == Role.REPLAY.value:
            store.move_in_total(uid, feature_of(store, uid), of, to)
        _seal_anew(store, uid, of, to)
        execute(
            "UPDATE samples SET class_uid = ?, is_folded = is_folded AND ?, "
            "score = CASE role WHEN 'review' THEN score END WHERE uid = ?",
            (to, is_whole, uid),
        )
        if role == Role.REPLAY.value and not (is_folded and is_whole):
            execute("UPDATE classes SET n_seen = n_seen - 1 WHERE uid = ?", (of,))
            execute("UPDATE classes SET n_seen = n_seen + 1 WHERE uid = ?", (to,))
    # Nothing is folded here: what an undo moves back must have its row.
    store.reload_classes()


def set_role(store: Store, uids: Sequence[int], role: Role) -> None:
    """Hold learned samples out, or learn them again; inside a transaction, rebuild the head after.

    Args:
        store: The store.
        uids: Kept samples, learned or held out.
        role: `HELD_OUT`, or `REPLAY` for those that were held out like this.
    """
    execute, n = store.connection.execute, 1 if role is Role.REPLAY else -1
    for uid in uids:
        class_uid, source_uid, is_folded = execute(
            "SELECT class_uid, source_uid, is_folded FROM samples WHERE uid = ?", (uid,)
        ).fetchone()
        if is_folded:
            moments = store.statistic.of(feature_of(store, uid)[None])
            store.take_off_statistics(class_uid, source_uid, moments)
        execute(
            "UPDATE samples SET role = ?, is_folded = 0, score = NULL WHERE uid = ?",
            (role.value, uid),
        )
        execute("UPDATE classes SET n_seen = n_seen + ? WHERE uid = ?", (n, class_uid))
    store.reload_classes()


def move_all(store: Store, of: int, to: int) -> None:
    """Give all of a class to another one and delete it, inside a transaction; its names too.

    Its sums stand in `run_stats` as the part of the last run.
    """
    execute = store.connection.execute
    move_samples(store, samples_of(store, of), to, is_whole=True)
    for source_uid, moments in _sums_of(store, "class_stats", of):
        merge_sums(store, to, source_uid, moments)
        store.write_folded(to, source_uid, moments, "run_stats")
        execute("UPDATE classes SET n_seen = n_seen + ? WHERE uid = ?", (moments.n, to))
    keep_names(store, of, to)
    execute("DELETE FROM class_stats WHERE class_uid = ?", (of,))
    names = store.names_of(of)
    execute("DELETE FROM classes WHERE uid = ?", (of,))
    store.connection.executemany(
        "INSERT INTO aliases VALUES (?, ?)", [(name, to) for name in names]
    )
    store.reload_classes()


def merge_sums(store: Store, class_uid: int, source_uid: int, moments: Moments) -> None:
    """Add folded sums to those of a class and source."""
    there = store.folded(class_uid, source_uid)
    store.write_folded(class_uid, source_uid, there.plus(moments) if there.n else moments)


def keep_names(store: Store, of: int, to: int) -> None:
    """Keep for an undo what a class is called that goes, and for good which one has its samples."""
    execute = store.connection.execute
    store.connection.executemany(
        "INSERT INTO former_names VALUES (?, ?, ?, ?)",
        [(name, of, to, i > 0) for i, name in enumerate(store.names_of(of))],
    )
    execute("UPDATE merged SET class_uid = ? WHERE class_uid = ?", (to, of))
    execute("INSERT OR REPLACE INTO merged VALUES (?, ?)", (of, to))


def samples_of(store: Store, class_uid: int) -> list[int]:
    """Return the uids of all samples of a class that have a row, oldest first."""
    rows = store.connection.execute(
        "SELECT uid FROM samples WHERE class_uid = ? ORDER BY uid", (class_uid,)
    )
    return [int(uid) for (uid,) in rows]


def classes_with(store: Store, uids: Sequence[int]) -> dict[int, tuple[int, Role]]:
    """Return class and role of samples by uid; of those that are there."""
    rows = store.connection.execute(
        "SELECT uid, class_uid, role FROM samples WHERE uid IN (SELECT value FROM json_each(?))",
        (json.dumps(list(uids)),),
    )
    return {uid: (class_uid, Role(role)) for uid, class_uid, role in rows}


def created_of(store: Store, class_uids: Collection[int]) -> dict[int, float]:
    """Return when classes were made, by uid."""
    rows = store.connection.execute("SELECT uid, created FROM classes").fetchall()
    return {uid: created for uid, created in rows if uid in class_uids}


def feature_of(store: Store, uid: int) -> Float16:
    """Return the quantised feature (D,) of a sample of any role."""
    row = store.connection.execute(
        "SELECT uid, class_uid, x FROM samples JOIN features USING (uid) WHERE uid = ?", (uid,)
    ).fetchone()
    x: Float16 = store.opened([row])[0]
    return x


def sums_of_run(store: Store) -> list[tuple[int, int, Moments]]:
    """Return class, source and folded sums of the last run."""
    rows = store.connection.execute("SELECT class_uid, source_uid FROM run_stats ORDER BY 1, 2")
    return [(c, source, store.folded(c, source, "run_stats")) for c, source in rows.fetchall()]


def merged_into(store: Store) -> dict[int, int]:
    """Return which class has the samples of each class that was emptied, both by uid."""
    return dict(store.connection.execute("SELECT uid, class_uid FROM merged"))


def note_move(store: Store, of: int, to: int, uids: Sequence[int] = ()) -> None:
    """Note that what older snapshots and exports hold of a class may be another's now.

    Args:
        store: The store.
        of: Uid of the class that samples leave.
        to: Uid of the one that gets them.
        uids: The samples, of which a dataset may hold the pictures.
    """
    execute = store.connection.execute
    (newest_snapshot,) = execute("SELECT coalesce(max(uid), 0) FROM snapshots").fetchone()
    (newest_export,) = execute("SELECT coalesce(max(uid), 0) FROM exports").fetchone()
    execute(
        "INSERT INTO moves(from_uid, to_uid, newest_snapshot, newest_export) VALUES (?, ?, ?, ?)",
        (of, to, newest_snapshot, newest_export),
    )
    for export, text in execute("SELECT uid, body FROM exports WHERE kind = 'dataset'").fetchall():
        body = json.loads(text)
        moved = [*body.get("moved", ()), *([uid, to] for uid in uids)]
        execute(
            "UPDATE exports SET body = ? WHERE uid = ?",
            (json.dumps(body | {"moved": moved}), export),
        )


def note_moved_back(store: Store, snapshot: int) -> None:
    """Note that a rollback brought samples back to the classes that they were of at a snapshot."""
    rows = store.connection.execute(
        "SELECT from_uid, to_uid FROM moves WHERE newest_snapshot >= ? ORDER BY uid DESC",
        (snapshot,),
    )
    for of, to in rows.fetchall():
        note_move(store, to, of)


def may_hold(
    store: Store, classes: Collection[int], of: Literal["snapshot", "export"]
) -> dict[int, float]:
    """Return as which classes an older copy may hold what is now of some classes.

    Args:
        store: The store.
        classes: Uids of the classes.
        of: What the copies are.

    Returns:
        For each class the uid up to which copies of it count; infinite for the classes themselves.
    """
    until: dict[int, float] = dict.fromkeys(classes, math.inf)
    rows = store.connection.execute(
        f"SELECT from_uid, to_uid, newest_{of} FROM moves ORDER BY uid DESC"
    )
    for from_uid, to_uid, newest in rows:
        if to_uid in until:
            until[from_uid] = max(until.get(from_uid, -1), min(until[to_uid], newest))
    return until


def _seal_anew(store: Store, uid: int, of: int, to: int) -> None:
    """Seal what is kept of a sample with the key of another class."""
    if not store.is_sealed:
        return
    execute = store.connection.execute
    for table, column in _BLOBS:
        row = execute(f"SELECT {column} FROM {table} WHERE uid = ?", (uid,)).fetchone()
        if row is not None:
            data = store.unseal(of, f"{table}.{column}", uid, row[0])
            sealed = store.seal(to, f"{table}.{column}", uid, data)
            execute(f"UPDATE {table} SET {column} = ? WHERE uid = ?", (sealed, uid))
    views = execute("SELECT view, x FROM views WHERE uid = ?", (uid,)).fetchall()
    for view, x in views:
        place = f"{uid}, view {view}"
        sealed = store.seal(to, "views.x", place, store.unseal(of, "views.x", place, x))
        execute("UPDATE views SET x = ? WHERE uid = ? AND view = ?", (sealed, uid, view))


def _sums_of(store: Store, table: str, class_uid: int) -> list[tuple[int, Moments]]:
    rows = store.connection.execute(
        f"SELECT source_uid FROM {table} WHERE class_uid = ? ORDER BY source_uid", (class_uid,)
    )
    return [(s, store.folded(class_uid, s, table)) for (s,) in rows.fetchall()]
