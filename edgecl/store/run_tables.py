"""Tables of what can be taken back: the last run, and which classes samples went from and to."""

from __future__ import annotations

from edgecl.store.table import Table

RUN_TABLES: tuple[Table, ...] = (
    Table(
        "last_run",
        """
        -- The last command that learned or mended: what came since has a larger uid than
        -- `first_sample`; `body` is what no row shows of how it was before (JSON).
        CREATE TABLE last_run (
            uid INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL,
            time REAL NOT NULL,
            first_sample INTEGER NOT NULL,
            body TEXT NOT NULL
        );
        """,
        is_learned=True,
        exempt={"kind": "one of a few words of edgecl's own", "body": "uids, numbers and hashes"},
    ),
    Table(
        "run_stats",
        """
        -- The part of `class_stats` that came with the last run.
        CREATE TABLE run_stats (
            class_uid INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE,
            source_uid INTEGER NOT NULL REFERENCES sources(uid),
            n INTEGER NOT NULL,
            total BLOB NOT NULL,
            second BLOB NOT NULL,
            PRIMARY KEY (class_uid, source_uid)
        );
        """,
        is_learned=True,
        is_counted=False,
        owner="class_uid",
        source="source_uid",
        sealed=("total", "second"),
    ),
    Table(
        "merged",
        """
        -- A class that is no more (`uid`), and the one that has its samples: that one's unlearning
        -- destroys its key, too.
        CREATE TABLE merged (
            uid INTEGER PRIMARY KEY,
            class_uid INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE
        );
        """,
        is_learned=True,
        is_counted=False,
        owner="class_uid",
    ),
    Table(
        "former_names",
        """
        -- What a class that the last run emptied was called, by `uid`, and which class has its
        -- samples; for `edgecl undo`.
        CREATE TABLE former_names (
            name TEXT PRIMARY KEY,
            uid INTEGER NOT NULL,
            class_uid INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE,
            is_alias INTEGER NOT NULL
        ) WITHOUT ROWID;
        """,
        is_learned=True,
        is_counted=False,
        owner="class_uid",
        names=("name",),
    ),
    Table(
        "confirmed",
        """
        -- Kept samples that a person said are of class `class_uid`, whatever others say.
        CREATE TABLE confirmed (
            uid INTEGER PRIMARY KEY REFERENCES samples(uid) ON DELETE CASCADE,
            class_uid INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE
        );
        """,
        is_learned=True,
        is_counted=False,
        owner="class_uid",
        part_of="samples",
    ),
    Table(
        "moves",
        """
        -- That samples went from one class to another; a snapshot or export up to these uids may
        -- hold, as the one's, what is the other's now.
        CREATE TABLE moves (
            uid INTEGER PRIMARY KEY AUTOINCREMENT,
            from_uid INTEGER NOT NULL,
            to_uid INTEGER NOT NULL,
            newest_snapshot INTEGER NOT NULL,
            newest_export INTEGER NOT NULL
        );
        """,
        is_learned=False,
    ),
)
