"""Tables of what other devices taught."""

from __future__ import annotations

from edgecl.store.table import Table

FLEET_TABLES: tuple[Table, ...] = (
    Table(
        "contributions",
        """
        -- What another device taught is what came from this source: rows of `samples` without a
        -- picture, and sums. `device` is a hash of its name, `key` its public key.
        CREATE TABLE contributions (
            source_uid INTEGER PRIMARY KEY REFERENCES sources(uid),
            device TEXT NOT NULL UNIQUE,
            key TEXT NOT NULL,
            generation INTEGER NOT NULL,
            digest TEXT NOT NULL
        );
        """,
        is_learned=True,
        is_counted=False,
        source="source_uid",
        exempt={"device": "a hash", "key": "a public key", "digest": "a hash"},
    ),
)
