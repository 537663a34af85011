"""Snapshots: versions of what was learned, for `edgecl rollback`.

A snapshot is a compact copy of the store in the home's folder `snapshots/`. Rolling back replaces
classes, samples, statistics, head and adapters by those of the copy, in one transaction; receipts,
tombstones and uids go on. An unlearning deletes every snapshot that holds what it unlearns, so
there is nothing to roll back to.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from edgecl.errors import IntegrityError, RequestError
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.runtime.manifest import flush
from edgecl.store.adapters import adapter_rows
from edgecl.store.novel import NEWEST_ENTRY, newest
from edgecl.store.schema import SCHEMA_VERSION
from edgecl.store.store import Store, dump_json
from edgecl.unlearning.erase import remove_unlisted_snapshots
from edgecl.unlearning.receipt import append_receipt, check_ledger

# What a snapshot brings back, parents first; all else (receipts, tombstones, requests, exports,
# snapshots) is the history of the home and stays.
_LEARNED = (
    "classes",
    "aliases",
    "sources",
    "samples",
    "features",
    "pictures",
    "views",
    "class_stats",
    "fixed",
    "adapters",
    "adapter_classes",
    "positions",
    "head",
    "probes",
    "evaluations",
    "class_scores",
    "class_latency",
    "novel",
)


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


def take(home: Home, store: Store) -> Snapshot:
    """Copy what was learned; of more than `store.snapshots` copies the oldest go.

    Args:
        home: The home, whose lock the caller holds.
        store: Its store.

    Raises:
        RequestError: Nothing was learned, or no snapshots are to be kept.
        StoreError: The disk is full; nothing was changed.
    """
    most = home.config.store.snapshots
    if most == 0:
        raise RequestError("store.snapshots is 0 in edgecl.toml; set how many are to be kept")
    if not store.names:
        raise RequestError("there is nothing to keep: the home learned nothing yet")
    home.snapshots.mkdir(exist_ok=True)
    remove_unlisted_snapshots(home, store)
    part = home.snapshots / ".part"
    with store.errors():
        try:
            store.connection.execute("VACUUM INTO ?", (str(part),))
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    digest, size = _digest(part), part.stat().st_size
    flush(part)
    with store.transaction(changes_head=False):
        cursor = store.connection.execute(
            "INSERT INTO snapshots(created, digest, size_bytes, classes, adapters, body) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                time.time(),
                digest,
                size,
                dump_json(list(store.names)),
                dump_json([row.uid for row in adapter_rows(store)]),
                dump_json({"samples": sum(store.n_seen().values()), NEWEST_ENTRY: newest(store)}),
            ),
        )
        uid = int(cursor.lastrowid or 0)
        # Named before the commit: a listed snapshot always has its file.
        part.replace(home.snapshot(uid))
        flush(home.snapshots)
        store.connection.execute(
            "DELETE FROM snapshots WHERE uid NOT IN "
            "(SELECT uid FROM snapshots ORDER BY uid DESC LIMIT ?)",
            (most,),
        )
    remove_unlisted_snapshots(home, store)
    return next(s for s in snapshots_of(store) if s.uid == uid)


def snapshots_of(store: Store) -> list[Snapshot]:
    """Return the snapshots of a home, oldest first."""
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
        for uid, created, size, classes, adapters, body, digest in store.connection.execute(
            "SELECT uid, created, size_bytes, classes, adapters, body, digest FROM snapshots "
            "ORDER BY uid"
        )
    ]


def rollback(home: Home, learner: Learner, uid: int) -> Snapshot:
    """Bring back what was learned at a snapshot; what was learned since is deleted.

    Args:
        home: The home, whose lock the caller holds.
        learner: Its learner.
        uid: Number of the snapshot.

    Raises:
        RequestError: There is no such snapshot; one that held a class that was unlearned since
            is gone.
        IntegrityError: Its file was changed, is of another schema or of another backbone.
    """
    store = learner.store
    known = snapshots_of(store)
    snapshot = next((s for s in known if s.uid == uid), None)
    if snapshot is None:
        named = ", ".join(f"s{s.uid}" for s in known) or "there is none"
        raise RequestError(
            f"snapshot s{uid} is unknown, or was deleted with a class that was unlearned; "
            f"snapshots: {named}"
        )
    path = home.snapshot(uid)
    if not path.exists() or _digest(path) != snapshot.digest:
        raise IntegrityError(
            f"the file of snapshot s{uid}, {path}, is missing or was changed; take another snapshot"
        )
    execute = store.connection.execute
    with store.errors():
        execute("ATTACH ? AS old", (str(path),))
    try:
        _check_fits(home, store, uid)
        with store.transaction():
            execute("PRAGMA defer_foreign_keys = ON")
            _copy_back(store)
            append_receipt(home, store, {"kind": "rollback", "snapshot": uid, "time": time.time()})
    finally:
        execute("DETACH old")
        learner.reload()
    check_ledger(home, store)
    return snapshot


def _check_fits(home: Home, store: Store, uid: int) -> None:
    execute = store.connection.execute
    (version,) = execute("PRAGMA old.user_version").fetchone()
    if version != SCHEMA_VERSION:
        raise IntegrityError(
            f"snapshot s{uid} has schema {version}, the store {SCHEMA_VERSION}; it was taken by "
            "another edgecl and cannot be brought back by this one"
        )
    meta = dict(execute("SELECT key, value FROM old.meta"))
    if (
        meta["feature_map"] != home.manifest.feature_map
        or meta["second_moment"] != store.second_moment
    ):
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


def _copy_back(store: Store) -> None:
    execute = store.connection.execute
    for table in reversed(_LEARNED):
        execute(f"DELETE FROM main.{table}")
    for table in _LEARNED:
        execute(f"INSERT INTO main.{table} SELECT * FROM old.{table}")
    # The kept head is that of the copy's version; it goes on as that of this one.
    (version,) = execute("SELECT value FROM old.meta WHERE key = 'version'").fetchone()
    execute("DELETE FROM main.head WHERE version != ?", (int(version),))
    execute("UPDATE main.head SET version = ?", (store.version + 1,))
    execute("DELETE FROM main.meta WHERE key != 'version'")
    execute("INSERT INTO main.meta SELECT * FROM old.meta WHERE key != 'version'")
    store.reload()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
