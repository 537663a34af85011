"""Snapshots: versions of what was learned, for `edgecl rollback`.

A snapshot is a compact copy of the store in the home's folder `snapshots/`. Rolling back replaces
classes, samples, statistics, head and adapters by those of the copy, in one transaction; receipts,
tombstones and uids go on. An unlearning deletes every snapshot that holds what it unlearns, so
there is nothing to roll back to.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from edgecl.errors import IntegrityError, RequestError
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.runtime.faults import telling
from edgecl.runtime.files import flush
from edgecl.store.moves import note_moved_back
from edgecl.store.snapshots import (
    Snapshot,
    add_snapshot,
    attached,
    bring_back,
    check_fits,
    drop_snapshots,
    snapshots_of,
    write_copy,
)
from edgecl.store.store import Store
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.erase import remove_unlisted_snapshots
from edgecl.unlearning.receipt import RolledBack


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
    with telling(f"{home.snapshots} cannot be made"):
        home.snapshots.mkdir(mode=0o700, exist_ok=True)
    remove_unlisted_snapshots(home, store)
    part = home.snapshots / ".part"
    try:
        write_copy(store, part)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    digest, size = _digest(part), part.stat().st_size
    flush(part)
    with store.transaction(changes_head=False):
        uid = add_snapshot(store, digest=digest, size_bytes=size)
        # Named before the commit: a listed snapshot always has its file.
        part.replace(home.snapshot(uid))
        flush(home.snapshots)
        drop_snapshots(store, [s.uid for s in snapshots_of(store)[:-most]])
    remove_unlisted_snapshots(home, store)
    return next(s for s in snapshots_of(store) if s.uid == uid)


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
    chain = Chain(home, store)
    try:
        with attached(store, path):
            check_fits(store, uid)
            with store.transaction():
                bring_back(store)
                note_moved_back(store, uid)
                chain.append(RolledBack(uid, time.time()))
    finally:
        learner.reload()
    chain.settle()
    return snapshot


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
