"""Every table of the store, once: schema, unlearnings and rollbacks are loops over `TABLES`.

One that does not say enough fails tests/contracts/test_tables.py.
"""

from __future__ import annotations

from edgecl.store.change_tables import CHANGE_TABLES
from edgecl.store.fleet_tables import FLEET_TABLES
from edgecl.store.run_tables import RUN_TABLES
from edgecl.store.table import Role, Table
from edgecl.store.total_tables import TOTAL_TABLES
from edgecl.store.witness_tables import WITNESS_TABLES

_WORD = "one of a few words of edgecl's own"
_HASH, _UIDS = "a hash", "uids as JSON"
_SAID = "uids, numbers and what was asked for; a reason that names a class is refused"
_WEIGHTS = "arrays of all classes at once; every unlearning makes them anew or deletes them"

TABLES: tuple[Table, ...] = (  # parents come first
    Table(
        "meta",
        """
        CREATE TABLE meta (
            key TEXT PRIMARY KEY,
            value TEXT NOT NULL
        ) WITHOUT ROWID;
        """,
        is_learned=True,  # but its `version`, which only grows
        exempt={"key": _WORD, "value": "numbers and hashes"},
    ),
    Table(
        "classes",
        """
        CREATE TABLE classes (
            uid INTEGER PRIMARY KEY AUTOINCREMENT,
            name TEXT NOT NULL UNIQUE,
            created REAL NOT NULL,
            n_seen INTEGER NOT NULL DEFAULT 0
        );
        """,
        is_learned=True,
        owner="uid",
        names=("name",),
    ),
    Table(
        "aliases",
        """
        CREATE TABLE aliases (
            name TEXT PRIMARY KEY,
            class_uid INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE
        ) WITHOUT ROWID;
        """,
        is_learned=True,
        owner="class_uid",
        names=("name",),
    ),
    Table(
        "sources",
        """
        -- Where samples came from; '' is "not said", NULL an emptied text. A row goes when nothing
        -- is left that came from it.
        CREATE TABLE sources (
            uid INTEGER PRIMARY KEY AUTOINCREMENT,
            text TEXT
        );
        """,
        is_learned=True,
        texts=("text",),
    ),
    Table(
        "samples",
        f"""
        -- Every frame that the home keeps something of; read through the views of its role. One for
        -- replay is there while it is kept (is_stored) or its feature is not yet part of its
        -- class's statistics (not is_folded). `score` is how novel one to review is, and whether
        -- another was right when it was last predicted, not having been learned.
        CREATE TABLE samples (
            uid INTEGER PRIMARY KEY AUTOINCREMENT,
            role TEXT NOT NULL CHECK (role IN ({", ".join(f"'{role.value}'" for role in Role)})),
            class_uid INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE,
            source_uid INTEGER NOT NULL REFERENCES sources(uid),
            frame TEXT,
            time REAL NOT NULL,
            step INTEGER NOT NULL,
            is_stored INTEGER NOT NULL,
            is_folded INTEGER NOT NULL DEFAULT 0,
            size_bytes INTEGER NOT NULL,
            last_step INTEGER,
            due_step INTEGER,
            n_replays INTEGER NOT NULL DEFAULT 0,
            score REAL,
            -- What is not learned is in no statistics.
            CHECK (role = 'replay' OR (is_stored AND NOT is_folded))
        );
        CREATE INDEX samples_by_class ON samples(class_uid, role, is_folded);
        -- Which kept sample's rest is over (view-batch replay).
        CREATE INDEX samples_by_due ON samples(due_step, uid) WHERE role = 'replay' AND is_stored;
        CREATE INDEX held_out_by_class ON samples(class_uid) WHERE role = 'held_out';
        CREATE INDEX review_by_score ON samples(score) WHERE role = 'review';
        """
        + "".join(
            f"CREATE VIEW {role.value} AS SELECT * FROM samples WHERE role = '{role.value}';\n"
            for role in Role
        ),
        is_learned=True,
        owner="class_uid",
        source="source_uid",
        texts=("frame",),
        exempt={"role": _WORD},
    ),
    Table(
        "features",
        """
        CREATE TABLE features (
            uid INTEGER PRIMARY KEY REFERENCES samples(uid) ON DELETE CASCADE,
            x BLOB NOT NULL
        );
        """,
        is_learned=True,
        part_of="samples",
        sealed=("x",),
    ),
    Table(
        "pictures",
        """
        CREATE TABLE pictures (
            uid INTEGER PRIMARY KEY REFERENCES samples(uid) ON DELETE CASCADE,
            data BLOB NOT NULL
        );
        """,
        is_learned=True,
        part_of="samples",
        sealed=("data",),
    ),
    Table(
        "views",
        """
        -- Features of further views of a kept sample, view 1 on; view 0 is the feature itself.
        CREATE TABLE views (
            uid INTEGER NOT NULL REFERENCES samples(uid) ON DELETE CASCADE,
            view INTEGER NOT NULL,
            x BLOB NOT NULL,
            PRIMARY KEY (uid, view)
        ) WITHOUT ROWID;
        """,
        is_learned=True,
        part_of="samples",
        sealed=("x",),
    ),
    Table(
        "class_stats",
        """
        CREATE TABLE class_stats (
            class_uid INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE,
            source_uid INTEGER NOT NULL REFERENCES sources(uid),
            n INTEGER NOT NULL,
            total BLOB NOT NULL,
            second BLOB NOT NULL,
            PRIMARY KEY (class_uid, source_uid)
        );
        """,
        is_learned=True,
        owner="class_uid",
        source="source_uid",
        sealed=("total", "second"),
    ),
    Table(
        "fixed",
        """
        -- Arrays that never change while classes are there (keys); no class's samples made them.
        CREATE TABLE fixed (
            name TEXT PRIMARY KEY,
            digest TEXT NOT NULL,
            data BLOB NOT NULL
        ) WITHOUT ROWID;
        """,
        is_learned=True,
        exempt={"name": _WORD, "digest": _HASH, "data": "made of no class's samples"},
    ),
    Table(
        "head",
        """
        -- `state`: arrays of the head; `scorer`: its weights, a pure function of the rest.
        CREATE TABLE head (
            kind TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            version INTEGER NOT NULL,
            data BLOB NOT NULL
        ) WITHOUT ROWID;
        """,
        is_learned=True,
        exempt={"kind": _WORD, "name": _WORD, "data": _WEIGHTS},
    ),
    Table(
        "positions",
        """
        -- How far a source was learned, by a keyed hash: a path may name a class.
        CREATE TABLE positions (
            key TEXT PRIMARY KEY,
            n INTEGER NOT NULL,
            digest BLOB NOT NULL,
            is_finished INTEGER NOT NULL
        ) WITHOUT ROWID;
        """,
        is_learned=True,
        exempt={"key": _HASH, "digest": _HASH},
    ),
    Table(
        "adapters",
        """
        -- Adapters, each with the head that was trained with it; `body` says how (JSON). With an
        -- `epoch` it is a training that goes on from there.
        CREATE TABLE adapters (
            uid INTEGER PRIMARY KEY AUTOINCREMENT,
            digest TEXT NOT NULL,
            created REAL NOT NULL,
            epoch INTEGER,
            body TEXT NOT NULL,
            data BLOB NOT NULL
        );
        """,
        is_learned=True,
        exempt={"digest": _HASH, "body": "settings, numbers and uids", "data": _WEIGHTS},
    ),
    Table(
        "adapter_classes",
        """
        -- T(c): every class whose pictures an adapter saw; a later request asks for it.
        CREATE TABLE adapter_classes (
            adapter_uid INTEGER NOT NULL REFERENCES adapters(uid) ON DELETE CASCADE,
            class_uid INTEGER NOT NULL,
            n INTEGER NOT NULL,
            is_task INTEGER NOT NULL,
            PRIMARY KEY (adapter_uid, class_uid)
        ) WITHOUT ROWID;
        """,
        is_learned=True,
        exempt={"class_uid": "outlives the class; a row goes with its adapter"},
    ),
    Table(
        "evaluations",
        """
        -- When samples were scored.
        CREATE TABLE evaluations (
            uid INTEGER PRIMARY KEY AUTOINCREMENT,
            step INTEGER NOT NULL,
            time REAL NOT NULL
        );
        """,
        is_learned=True,
    ),
    Table(
        "class_scores",
        """
        -- No index by class: every score would write one page a class.
        CREATE TABLE class_scores (
            evaluation INTEGER NOT NULL REFERENCES evaluations(uid) ON DELETE CASCADE,
            class_uid INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE,
            n INTEGER NOT NULL,
            n_right INTEGER NOT NULL,
            PRIMARY KEY (evaluation, class_uid)
        ) WITHOUT ROWID;
        """,
        is_learned=True,
        owner="class_uid",
        found_by="evaluation IN (SELECT uid FROM evaluations)",
    ),
    Table(
        "class_latency",
        """
        -- Frames of a new class until it was right for the first time, and 9 times of the last 10;
        -- `recent` holds those 10 as 0 and 1, `step` is where the class came.
        CREATE TABLE class_latency (
            class_uid INTEGER PRIMARY KEY REFERENCES classes(uid) ON DELETE CASCADE,
            step INTEGER NOT NULL,
            n_frames INTEGER NOT NULL,
            first_right INTEGER,
            nine_of_ten INTEGER,
            recent TEXT NOT NULL
        );
        """,
        is_learned=True,
        owner="class_uid",
        exempt={"recent": "0 and 1"},
    ),
    Table(
        "latencies",
        """
        -- How long a step took: `bucket` b counts times from 2^(b/4) us on.
        CREATE TABLE latencies (
            stage TEXT NOT NULL,
            bucket INTEGER NOT NULL,
            n INTEGER NOT NULL,
            PRIMARY KEY (stage, bucket)
        ) WITHOUT ROWID;
        """,
        is_learned=False,
        exempt={"stage": _WORD},
    ),
    Table(
        "tombstones",
        """
        -- What was unlearned: `tag` is a keyed hash, `target` the uid of a class, sample or source.
        CREATE TABLE tombstones (
            kind TEXT NOT NULL,
            target INTEGER NOT NULL,
            tag TEXT NOT NULL,
            receipt_id TEXT NOT NULL,
            PRIMARY KEY (kind, target, tag)
        ) WITHOUT ROWID;
        CREATE INDEX tombstones_by_tag ON tombstones(tag);
        """,
        is_learned=False,
        exempt={"kind": _WORD, "tag": "a keyed hash", "receipt_id": "a number"},
    ),
    Table(
        "receipts",
        """
        CREATE TABLE receipts (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            body TEXT NOT NULL,
            previous TEXT NOT NULL,
            digest TEXT NOT NULL UNIQUE,
            signature TEXT NOT NULL
        );
        """,
        is_learned=False,
        exempt={"body": _SAID, "previous": _HASH, "digest": _HASH, "signature": "a signature"},
    ),
    Table(
        "requests",
        """
        -- Requests to unlearn that are not finished; `phase` is the last one that was committed.
        CREATE TABLE requests (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL,
            target INTEGER NOT NULL,
            phase TEXT NOT NULL,
            created REAL NOT NULL,
            body TEXT NOT NULL
        );
        """,
        is_learned=False,
        exempt={"kind": _WORD, "phase": _WORD, "body": _SAID},
    ),
    Table(
        "exports",
        """
        -- What left the home, or was copied aside in it; `classes` and `adapters` are lists.
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
        """,
        is_learned=False,
        names=("path",),
        exempt={
            "kind": _WORD,
            "digest": _HASH,
            "feature_map": _HASH,
            "classes": _UIDS,
            "adapters": _UIDS,
            "status": _WORD,
            "body": "options of edgecl's own, numbers and receipts",
        },
    ),
    Table(
        "snapshots",
        """
        CREATE TABLE snapshots (
            uid INTEGER PRIMARY KEY AUTOINCREMENT,
            created REAL NOT NULL,
            digest TEXT NOT NULL,
            size_bytes INTEGER NOT NULL,
            classes TEXT NOT NULL,
            adapters TEXT NOT NULL,
            body TEXT NOT NULL
        );
        """,
        is_learned=False,
        exempt={"digest": _HASH, "classes": _UIDS, "adapters": _UIDS, "body": "numbers and uids"},
    ),
    *(*CHANGE_TABLES, *RUN_TABLES, *WITNESS_TABLES, *TOTAL_TABLES, *FLEET_TABLES),
)

SEALED = frozenset(f"{table.name}.{column}" for table in TABLES for column in table.sealed)


def schema_of(tables: tuple[Table, ...]) -> str:
    """Return the SQL that makes some tables."""
    return "".join(table.ddl for table in tables)
