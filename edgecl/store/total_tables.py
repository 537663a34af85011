"""Tables of what all learned samples add up to, so that a home opens without adding them up."""

from __future__ import annotations

from edgecl.store.table import Table

_PLAIN = "a sum that is kept in homes that are not sealed only"

TOTAL_TABLES: tuple[Table, ...] = (
    Table(
        "totals",
        """
        -- At most one row: statistics of all that is folded, and of all other learned samples up to
        -- the uid `newest`.
        CREATE TABLE totals (
            newest INTEGER PRIMARY KEY,
            n INTEGER NOT NULL,
            total BLOB NOT NULL,
            second BLOB NOT NULL
        );
        """,
        is_learned=True,
        exempt={
            "total": f"of all classes at once; every unlearning drops it, and {_PLAIN}",
            "second": f"of all classes at once; every unlearning drops it, and {_PLAIN}",
        },
    ),
    Table(
        "class_totals",
        """
        -- Count and sum of the samples of each class that are in `totals`.
        CREATE TABLE class_totals (
            class_uid INTEGER PRIMARY KEY REFERENCES classes(uid) ON DELETE CASCADE,
            n INTEGER NOT NULL,
            total BLOB NOT NULL
        );
        """,
        is_learned=True,
        is_counted=False,
        owner="class_uid",
        exempt={"total": _PLAIN},
    ),
)
