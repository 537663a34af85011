"""Tables of the store, their version, and the steps from older versions."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

from edgecl.errors import IntegrityError

SCHEMA_VERSION = 4

TABLES_1 = """
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

_NEW_IN_3 = """
-- Where samples came from. Statistics are kept by class and source, so that a source can be
-- unlearned; the text may be emptied, the uid stays.
CREATE TABLE sources (
    uid INTEGER PRIMARY KEY AUTOINCREMENT,
    text TEXT NOT NULL
);
INSERT INTO sources(text) SELECT DISTINCT source FROM samples ORDER BY source;
ALTER TABLE samples ADD COLUMN source_uid INTEGER REFERENCES sources(uid);
UPDATE samples SET source_uid = (SELECT uid FROM sources WHERE text = samples.source);
ALTER TABLE samples DROP COLUMN source;

-- `source_uid` 0: of several sources, folded before they were kept apart.
ALTER TABLE class_stats RENAME TO class_stats_2;
CREATE TABLE class_stats (
    class_uid INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE,
    source_uid INTEGER NOT NULL,
    n INTEGER NOT NULL,
    total BLOB NOT NULL,
    second BLOB NOT NULL,
    PRIMARY KEY (class_uid, source_uid)
);
INSERT INTO class_stats SELECT class_uid, 0, n, total, second FROM class_stats_2;
DROP TABLE class_stats_2;

-- Other names of a class.
CREATE TABLE aliases (
    name TEXT PRIMARY KEY,
    class_uid INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE
) WITHOUT ROWID;

ALTER TABLE receipts ADD COLUMN signature TEXT NOT NULL DEFAULT '';

-- What was unlearned: `tag` is a keyed hash, `target` the uid of a class, sample or source.
ALTER TABLE tombstones RENAME TO tombstones_2;
CREATE TABLE tombstones (
    kind TEXT NOT NULL,
    target INTEGER NOT NULL,
    tag TEXT NOT NULL,
    receipt_id TEXT NOT NULL,
    PRIMARY KEY (kind, target, tag)
) WITHOUT ROWID;
INSERT INTO tombstones SELECT 'class', class_uid, tag, receipt_id FROM tombstones_2;
DROP TABLE tombstones_2;
CREATE INDEX tombstones_by_tag ON tombstones(tag);

-- Requests to unlearn that are not finished; `phase` is the last one that was committed.
CREATE TABLE requests (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    target INTEGER NOT NULL,
    phase TEXT NOT NULL,
    created REAL NOT NULL,
    body TEXT NOT NULL
);

-- What left the home, or was copied aside in it; `classes` and `adapters` are lists of uids (JSON).
CREATE TABLE exports (
    uid INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    path TEXT NOT NULL,
    created REAL NOT NULL,
    digest TEXT NOT NULL,
    feature_map TEXT NOT NULL,
    classes TEXT NOT NULL,
    adapters TEXT NOT NULL,
    status TEXT NOT NULL,
    body TEXT NOT NULL
);

CREATE TABLE snapshots (
    uid INTEGER PRIMARY KEY AUTOINCREMENT,
    created REAL NOT NULL,
    digest TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    classes TEXT NOT NULL,
    adapters TEXT NOT NULL,
    body TEXT NOT NULL
);
"""

_NEW_IN_4 = """
-- Labelled samples that are never learned: on them each class is scored while the stream runs.
CREATE TABLE probes (
    uid INTEGER PRIMARY KEY AUTOINCREMENT,
    class_uid INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE,
    source_uid INTEGER NOT NULL REFERENCES sources(uid),
    frame TEXT NOT NULL,
    time REAL NOT NULL,
    step INTEGER NOT NULL,
    x BLOB NOT NULL,
    picture BLOB NOT NULL
);
CREATE INDEX probes_by_class ON probes(class_uid);

-- Scores on the probes over time; a class's own go with it. No index by class: it would have every
-- score write one page a class, and a class is only looked for when it is unlearned.
CREATE TABLE evaluations (
    uid INTEGER PRIMARY KEY AUTOINCREMENT,
    step INTEGER NOT NULL,
    time REAL NOT NULL
);
CREATE TABLE class_scores (
    evaluation INTEGER NOT NULL REFERENCES evaluations(uid) ON DELETE CASCADE,
    class_uid INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE,
    n INTEGER NOT NULL,
    n_right INTEGER NOT NULL,
    PRIMARY KEY (evaluation, class_uid)
) WITHOUT ROWID;

-- How many frames of a new class it took until it was right: for the first time, and 9 times of the
-- last 10. `recent` holds those 10 as 0 and 1; `step` is where the class came.
CREATE TABLE class_latency (
    class_uid INTEGER PRIMARY KEY REFERENCES classes(uid) ON DELETE CASCADE,
    step INTEGER NOT NULL,
    n_frames INTEGER NOT NULL,
    first_right INTEGER,
    nine_of_ten INTEGER,
    recent TEXT NOT NULL
);

-- Histogram of how long a step took: `bucket` b counts times from 2^(b/4) us on.
CREATE TABLE latencies (
    stage TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (stage, bucket)
) WITHOUT ROWID;

-- Unlabelled frames that look like nothing known, for a person to name; `guess` is the class they
-- are nearest to, with which they go.
CREATE TABLE novel (
    uid INTEGER PRIMARY KEY AUTOINCREMENT,
    guess INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE,
    source_uid INTEGER NOT NULL REFERENCES sources(uid),
    frame TEXT NOT NULL,
    time REAL NOT NULL,
    score REAL NOT NULL,
    x BLOB NOT NULL,
    picture BLOB NOT NULL
);
"""

TABLES = TABLES_1 + _NEW_IN_2 + _NEW_IN_3 + _NEW_IN_4

# From version N to N + 1, run in one transaction each; the key is N.
MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {
    1: lambda connection: _execute(connection, _NEW_IN_2),
    2: lambda connection: _to_3(connection),
    3: lambda connection: _execute(connection, _NEW_IN_4),
}


def check_version(connection: sqlite3.Connection) -> int:
    """Return the store's schema version.

    Raises:
        IntegrityError: It is newer than this edgecl.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        raise IntegrityError(
            "the store has no schema (version 0): it is no store of edgecl, or was cut off; "
            "restore the home from a backup, or make it anew with `edgecl init --force`"
        )
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


def _to_3(connection: sqlite3.Connection) -> None:
    _execute(connection, _NEW_IN_3)
    bodies = connection.execute("SELECT number, body FROM receipts ORDER BY number").fetchall()
    entries = [(f"r{number}", json.loads(body)) for number, body in bodies]
    erased = {b["of"] for _, b in entries if b["kind"] == "erasure" and not b["busy"]}
    connection.executemany(
        "INSERT INTO requests(kind, target, phase, created, body) "
        "VALUES ('class', ?, 'STORE', ?, ?)",
        [
            (body["class_uid"], body["time"], json.dumps({"receipt": receipt, "verify": False}))
            for receipt, body in entries
            if body["kind"] == "forget" and receipt not in erased
        ],
    )


def _execute(connection: sqlite3.Connection, statements: str) -> None:
    """Run statements inside the open transaction; `executescript` would commit it first."""
    for statement in statements.split(";\n"):
        if statement.strip():
            connection.execute(statement)
