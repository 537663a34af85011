"""Tables of what was done to the home, and what that did to the answers (edgecl/governor)."""

from __future__ import annotations

from edgecl.store.table import Table

CHANGE_TABLES: tuple[Table, ...] = (
    Table(
        "changes",
        """
        -- What was done to the home, one row each (edgecl/governor). Samples of a change have uids
        -- above `sample_from` and up to `sample_to`; one that taught goes with the last class that
        -- it taught.
        CREATE TABLE changes (
            uid INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL,
            state TEXT NOT NULL,
            opened REAL NOT NULL,
            closed REAL,
            taught INTEGER NOT NULL,
            sample_from INTEGER NOT NULL,
            sample_to INTEGER NOT NULL,
            snapshot INTEGER,
            body TEXT NOT NULL,
            receipt TEXT
        );
        """,
        is_learned=False,
        exempt={
            "kind": "one of a few words of edgecl's own",
            "state": "one of a few words of edgecl's own",
            "body": "settings, hashes, numbers and uids",
            "receipt": "a number",
        },
    ),
    Table(
        "change_classes",
        """
        -- What a change did to a class: samples learned, and how the same pictures were answered
        -- before and after. While it is open `learned` is what the class had, and `before` holds
        -- the answers. No reference to the class: a rollback exchanges those, and this stays.
        CREATE TABLE change_classes (
            change_uid INTEGER NOT NULL REFERENCES changes(uid) ON DELETE CASCADE,
            class_uid INTEGER NOT NULL,
            learned INTEGER NOT NULL,
            n INTEGER NOT NULL,
            lost INTEGER NOT NULL,
            won INTEGER NOT NULL,
            before BLOB,
            PRIMARY KEY (change_uid, class_uid)
        ) WITHOUT ROWID;
        """,
        is_learned=False,
        is_counted=False,
        owner="class_uid",
        exempt={"before": "uids and whether each was right, while a change is open"},
    ),
)
