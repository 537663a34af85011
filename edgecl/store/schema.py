"""Tables of the store, their version, and the steps from older versions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from edgecl.errors import IntegrityError

SCHEMA_VERSION = 5

TABLES = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE classes (
    uid INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    created REAL NOT NULL,
    n_seen INTEGER NOT NULL DEFAULT 0
);

-- Other names of a class.
CREATE TABLE aliases (
    name TEXT PRIMARY KEY,
    class_uid INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE
) WITHOUT ROWID;

-- Where samples came from. Statistics are kept by class and source, so that a source can be
-- unlearned; the text may be emptied, the uid stays.
CREATE TABLE sources (
    uid INTEGER PRIMARY KEY AUTOINCREMENT,
    text TEXT NOT NULL
);

-- One row a sample that is kept for replay (is_stored) or whose feature is not yet part of its
-- class's statistics (not is_folded). A row that is neither is deleted.
CREATE TABLE samples (
    uid INTEGER PRIMARY KEY AUTOINCREMENT,
    class_uid INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE,
    source_uid INTEGER NOT NULL REFERENCES sources(uid),
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
-- Which kept sample's rest is over (view-batch replay).
CREATE INDEX samples_by_due ON samples(due_step, uid) WHERE is_stored;

CREATE TABLE features (
    uid INTEGER PRIMARY KEY REFERENCES samples(uid) ON DELETE CASCADE,
    x BLOB NOT NULL
);

CREATE TABLE pictures (
    uid INTEGER PRIMARY KEY REFERENCES samples(uid) ON DELETE CASCADE,
    data BLOB NOT NULL
);

CREATE TABLE class_stats (
    class_uid INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE,
    source_uid INTEGER NOT NULL,
    n INTEGER NOT NULL,
    total BLOB NOT NULL,
    second BLOB NOT NULL,
    PRIMARY KEY (class_uid, source_uid)
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

-- What was unlearned: `tag` is a keyed hash, `target` the uid of a class, sample or source.
CREATE TABLE tombstones (
    kind TEXT NOT NULL,
    target INTEGER NOT NULL,
    tag TEXT NOT NULL,
    receipt_id TEXT NOT NULL,
    PRIMARY KEY (kind, target, tag)
) WITHOUT ROWID;
CREATE INDEX tombstones_by_tag ON tombstones(tag);

CREATE TABLE receipts (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    body TEXT NOT NULL,
    previous TEXT NOT NULL,
    digest TEXT NOT NULL UNIQUE,
    signature TEXT NOT NULL DEFAULT ''
);

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

-- Adapters, each with the head that was trained with it; `body` says how (JSON). With an `epoch`
-- it is a training that goes on from there.
CREATE TABLE adapters (
    uid INTEGER PRIMARY KEY AUTOINCREMENT,
    digest TEXT NOT NULL,
    created REAL NOT NULL,
    epoch INTEGER,
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

# From version N to N + 1, run in one transaction each; the key is N.
MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {}


def check_version(connection: sqlite3.Connection) -> int:
    """Return the store's schema version.

    Raises:
        IntegrityError: It is newer than this edgecl, or older than what it can bring up.
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
    if any(older not in MIGRATIONS for older in range(version, SCHEMA_VERSION)):
        raise IntegrityError(
            f"the store has schema {version}, which this edgecl cannot bring to {SCHEMA_VERSION}; "
            "use the edgecl that made it, or learn anew in another home (`edgecl init --home DIR`)"
        )
    return int(version)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring an older store to this version, one committed step after the other.

    Raises:
        IntegrityError: See `check_version`.
    """
    version = check_version(connection)
    while version < SCHEMA_VERSION:
        connection.execute("BEGIN IMMEDIATE")
        try:
            MIGRATIONS[version](connection)
            connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        version += 1
