"""The list of snapshots, and what is copied into their files and back.

A file is a compact copy of the store; `edgecl/snapshots.py` says when one is taken, and looks after
the files.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgecl.errors import IntegrityError
from edgecl.runtime.files import private
from edgecl.store.adapters import adapter_rows
from edgecl.store.moves import may_hold
from edgecl.store.novel import NEWEST_ENTRY, REVIEWED, newest
from edgecl.store.schema import OLDEST_COPY, SCHEMA_VERSION
from edgecl.store.store import Store
from edgecl.store.tables import TABLES
from edgecl.store.text import dump_json


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of what was learned.

    Args:
        uid: Its number.
        created: Wall clock, seconds since the epoch.
        size_bytes: Size of its file.
        classes: Uids of its classes.
        adapters: Uids of its adapters.
        samples: Samples that were learned by then.
        digest: SHA-256 of its file, hex.
    """

    uid: int
    created: float
    size_bytes: int
    classes: tuple[int, ...]
    adapters: tuple[int, ...]
    samples: int
    digest: str


def snapshots_of(store: Store) -> list[Snapshot]:
    """Return the snapshots of a home, oldest first."""
    rows = store.connection.execute(
        "SELECT uid, created, size_bytes, classes, adapters, body, digest FROM snapshots "
        "ORDER BY uid"
    )
    return [
        Snapshot(
            uid,
            created,
            size,
            tuple(json.loads(classes)),
            tuple(json.loads(adapters)),
            int(json.loads(body)["samples"]),
            digest,
        )
        for uid, created, size, classes, adapters, body, digest in rows
    ]


def snapshots_with(
    store: Store, classes: Collection[int], adapters: Collection[int]
) -> tuple[int, ...]:
    """Return the uids of the snapshots that hold one of some classes or adapters.

    One in which a frame still waits that was learned as one of the classes holds it, too, and so
    does one from before samples of one were moved to another.
    """
    until = may_hold(store, classes, "snapshot")
    rows = store.connection.execute("SELECT uid, classes, adapters, body FROM snapshots")
    return tuple(
        int(uid)
        for uid, held, used, body in rows
        if any(uid <= until.get(c, -1) for c in json.loads(held))
        or set(json.loads(body).get(REVIEWED, ())) & set(classes)
        or set(json.loads(used)) & set(adapters)
    )


def write_copy(store: Store, path: Path) -> None:
    """Write a compact copy of a store into a new file; outside of a transaction.

    Raises:
        StoreError: The disk is full.
    """
    open(path, "wb", opener=private).close()
    with store.errors():
        store.connection.execute("VACUUM INTO ?", (str(path),))


def add_snapshot(store: Store, *, digest: str, size_bytes: int) -> int:
    """Put a copy of the store as it is now on the list, inside a transaction; returns its uid."""
    cursor = store.connection.execute(
        "INSERT INTO snapshots(created, digest, size_bytes, classes, adapters, body) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (
            time.time(),
            digest,
            size_bytes,
            dump_json(list(store.names)),
            dump_json([row.uid for row in adapter_rows(store)]),
            dump_json({"samples": sum(store.n_seen().values()), NEWEST_ENTRY: newest(store)}),
        ),
    )
    return int(cursor.lastrowid or 0)


def drop_snapshots(store: Store, uids: Sequence[int]) -> None:
    """Take snapshots off the list; inside a transaction."""
    store.connection.executemany("DELETE FROM snapshots WHERE uid = ?", [(uid,) for uid in uids])


@contextmanager
def attached(store: Store, path: Path) -> Iterator[None]:
    """Have the file of a snapshot at hand for `check_fits` and `bring_back`."""
    with store.errors():
        store.connection.execute("ATTACH ? AS old", (str(path),))
    try:
        yield
    finally:
        store.connection.execute("DETACH old")


def check_fits(store: Store, uid: int) -> None:
    """Check that the snapshot that is attached may be brought back.

    Raises:
        IntegrityError: It is of another schema or backbone, or holds what was unlearned.
    """
    execute = store.connection.execute
    (version,) = execute("PRAGMA old.user_version").fetchone()
    if not OLDEST_COPY <= version <= SCHEMA_VERSION:
        raise IntegrityError(
            f"snapshot s{uid} has schema {version}, the store {SCHEMA_VERSION}; it was taken by "
            "another edgecl and cannot be brought back by this one"
        )
    meta = dict(execute("SELECT key, value FROM old.meta"))
    if (meta["feature_map"], meta["second_moment"]) != (store.feature_map, store.second_moment):
        raise IntegrityError(
            f"snapshot s{uid} was taken with another backbone or head; it cannot be brought back"
        )
    held = {c for (c,) in execute("SELECT uid FROM old.classes")}
    unlearned = {c for (c,) in execute("SELECT target FROM tombstones WHERE kind = 'class'")}
    if held & unlearned:
        raise IntegrityError(
            f"snapshot s{uid} holds a class that was unlearned; delete its file and run "
            "`edgecl forget pending`"
        )


def bring_back(store: Store) -> None:
    """Replace what was learned by that of the snapshot that is attached; inside a transaction."""
    execute = store.connection.execute
    execute("PRAGMA defer_foreign_keys = ON")
    learned = [table.name for table in TABLES if table.is_learned]
    for table in reversed(learned):
        execute(f"DELETE FROM main.{table}")
    there = {name for (name,) in execute("SELECT name FROM old.sqlite_master")}
    for table in (table for table in learned if table in there):
        execute(f"INSERT INTO main.{table} SELECT * FROM old.{table}")
    # The kept head is that of the copy's version; it goes on as that of this one.
    (version,) = execute("SELECT value FROM old.meta WHERE key = 'version'").fetchone()
    execute("DELETE FROM main.head WHERE version != ?", (int(version),))
    execute("UPDATE main.head SET version = ?", (store.version + 1,))
    store.set_meta("version", store.version)
    # What was counted of a class goes with it; what changes did to others is history.
    execute("DELETE FROM change_classes WHERE class_uid NOT IN (SELECT uid FROM classes)")
    store.load()
