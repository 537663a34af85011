"""Answers that are kept: of adapters about pictures they never learned, and of live frames."""

from __future__ import annotations

from edgecl.store.table import Table

WITNESS_TABLES: tuple[Table, ...] = (
    Table(
        "opinions",
        """
        -- What an adapter's head says of a picture that neither it nor the exact head learned, or
        -- that this one can leave out: float32 shares of the adapter's classes. Of these the
        -- served mixture is calibrated and judged (edgecl/calibration.py).
        CREATE TABLE opinions (
            uid INTEGER NOT NULL REFERENCES samples(uid) ON DELETE CASCADE,
            adapter INTEGER NOT NULL REFERENCES adapters(uid) ON DELETE CASCADE,
            shares BLOB NOT NULL,
            PRIMARY KEY (uid, adapter)
        ) WITHOUT ROWID;
        CREATE INDEX opinions_by_adapter ON opinions(adapter);
        """,
        is_learned=True,
        is_counted=False,
        part_of="samples",
        exempt={"shares": "shares of classes; go with their sample, and with their adapter"},
    ),
    Table(
        "live_answers",
        """
        -- What was served of the newest live frames that somebody named: `named` is the class that
        -- was answered, NULL for none and for one that is gone.
        CREATE TABLE live_answers (
            uid INTEGER PRIMARY KEY AUTOINCREMENT,
            class_uid INTEGER NOT NULL REFERENCES classes(uid) ON DELETE CASCADE,
            named INTEGER REFERENCES classes(uid) ON DELETE SET NULL,
            time REAL NOT NULL
        );
        CREATE INDEX live_answers_by_class ON live_answers(class_uid);
        CREATE INDEX live_answers_by_named ON live_answers(named);
        """,
        is_learned=True,
        is_counted=False,
        owner="class_uid",
        exempt={"named": "of another class: emptied with that one, the row stays its owner's"},
    ),
)
