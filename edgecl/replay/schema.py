"""Tables of the store, their version, and the steps from older versions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from edgecl.errors import IntegrityError

SCHEMA_VERSION = 2

_TABLES_1 = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- The frozen maps under which features were made; rows carry the small number.
CREATE TABLE feature_maps (
    id INTEGER PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE
);

CREATE TABLE classes (
    uid INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    created REAL NOT NULL,
    n_seen INTEGER NOT NULL DEFAULT 0
);

-- One row a sample that is kept for replay (is_stored) or whose feature is not yet part of its
-- class's statistics (not is_folded). A row that is neither is deleted.
CREATE TABLE samples (
    uid INTEGER PRIMARY KEY AUTOINCREMENT,
    class_uid INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE,
    feature_map INTEGER NOT NULL REFERENCES feature_maps(id),
    source TEXT NOT NULL,
    frame TEXT NOT NULL,
    time REAL NOT NULL,
    step INTEGER NOT NULL,
    is_stored INTEGER NOT NULL,
    is_folded INTEGER NOT NULL DEFAULT 0,
    size_bytes INTEGER NOT NULL,
    last_step INTEGER,
    due_step INTEGER,
    n_replays INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX samples_by_class ON samples(class_uid, is_folded);

CREATE TABLE features (
    uid INTEGER PRIMARY KEY REFERENCES samples(uid) ON DELETE CASCADE,
    x BLOB NOT NULL
);

CREATE TABLE pictures (
    uid INTEGER PRIMARY KEY REFERENCES samples(uid) ON DELETE CASCADE,
    data BLOB NOT NULL
);

CREATE TABLE class_stats (
    class_uid INTEGER PRIMARY KEY REFERENCES classes(uid) ON DELETE CASCADE,
    n INTEGER NOT NULL,
    total BLOB NOT NULL,
    second BLOB NOT NULL
);

-- `state`: arrays of the head at this version; `scorer`: its weights, a pure function of the rest.
CREATE TABLE head (
    kind TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    data BLOB NOT NULL
) WITHOUT ROWID;

-- How far a source was learned; the key is a keyed hash, since a path may name a class.
CREATE TABLE positions (
    key TEXT PRIMARY KEY,
    n INTEGER NOT NULL,
    digest BLOB NOT NULL,
    is_finished INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE tombstones (
    class_uid INTEGER PRIMARY KEY,
    tag TEXT NOT NULL,
    receipt_id TEXT NOT NULL
);
CREATE INDEX tombstones_by_tag ON tombstones(tag);

CREATE TABLE receipts (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    body TEXT NOT NULL,
    previous TEXT NOT NULL,
    digest TEXT NOT NULL UNIQUE
);
"""

_NEW_IN_2 = """
-- Which kept sample's rest is over (view-batch replay).
CREATE INDEX samples_by_due ON samples(due_step, uid) WHERE is_stored;

-- Features of further views of a kept sample (view-batch replay), view 1 on; view 0 is the
-- feature itself.
CREATE TABLE views (
    uid INTEGER NOT NULL REFERENCES samples(uid) ON DELETE CASCADE,
    view INTEGER NOT NULL,
    x BLOB NOT NULL,
    PRIMARY KEY (uid, view)
) WITHOUT ROWID;

-- Arrays that never change while classes are there, and that statistics depend on (keys of a
-- key-value head); no class's samples made them.
CREATE TABLE fixed (
    name TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    data BLOB NOT NULL
) WITHOUT ROWID;

-- Trained adapters; `body` says how (JSON).
CREATE TABLE adapters (
    uid INTEGER PRIMARY KEY AUTOINCREMENT,
    digest TEXT NOT NULL,
    created REAL NOT NULL,
    body TEXT NOT NULL,
    data BLOB NOT NULL
);

-- T(c): every class whose pictures an adapter saw; outlives the class, so that a later request
-- knows what is left of it.
CREATE TABLE adapter_classes (
    adapter_uid INTEGER NOT NULL REFERENCES adapters(uid) ON DELETE CASCADE,
    class_uid INTEGER NOT NULL,
    n INTEGER NOT NULL,
    is_task INTEGER NOT NULL,
    PRIMARY KEY (adapter_uid, class_uid)
) WITHOUT ROWID;
"""

TABLES = _TABLES_1 + _NEW_IN_2

# From version N to N + 1, run in one transaction each; the key is N.
MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {
    1: lambda connection: _execute(connection, _NEW_IN_2),
}


def check_version(connection: sqlite3.Connection) -> int:
    """Return the store's schema version.

    Raises:
        IntegrityError: It is newer than this edgecl.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise IntegrityError(
            f"the store has schema {version}, this edgecl reads up to {SCHEMA_VERSION}; "
            "upgrade edgecl"
        )
    return int(version)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring an older store to this version, one committed step after the other.

    Raises:
        IntegrityError: A newer store, or an older one without a step.
    """
    version = check_version(connection)
    while version < SCHEMA_VERSION:
        step = MIGRATIONS.get(version)
        if step is None:
            raise IntegrityError(
                f"the store has schema {version}, which this edgecl cannot bring to "
                f"{SCHEMA_VERSION}; make the home anew with `edgecl init --force`"
            )
        connection.execute("BEGIN IMMEDIATE")
        try:
            step(connection)
            connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        version += 1


def _execute(connection: sqlite3.Connection, statements: str) -> None:
    """Run statements inside the open transaction; `executescript` would commit it first."""
    for statement in statements.split(";\n"):
        if statement.strip():
            connection.execute(statement)
