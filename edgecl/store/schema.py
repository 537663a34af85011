"""The version of the store's tables, and the steps from older versions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import cache

from edgecl.errors import IntegrityError
from edgecl.store.change_tables import CHANGE_TABLES
from edgecl.store.fleet_tables import FLEET_TABLES
from edgecl.store.run_tables import RUN_TABLES
from edgecl.store.tables import TABLES, schema_of
from edgecl.store.total_tables import TOTAL_TABLES
from edgecl.store.witness_tables import WITNESS_TABLES

SCHEMA_VERSION = 3
# Of which a snapshot can be brought back: later versions only added tables.
OLDEST_COPY = 1
# Tells a store from other SQLite files, and from those that were made before its first version.
APPLICATION_ID = int.from_bytes(b"ecl1", "big")


def _add_runs(connection: sqlite3.Connection) -> None:
    for table in (*CHANGE_TABLES, *RUN_TABLES):
        connection.execute(table.ddl)


def _add_third(connection: sqlite3.Connection) -> None:
    for statement in schema_of((*WITNESS_TABLES, *TOTAL_TABLES, *FLEET_TABLES)).split(";"):
        connection.execute(statement)


# From version N to N + 1, run in one transaction each; the key is N.
MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {1: _add_runs, 2: _add_third}


def create_tables(connection: sqlite3.Connection) -> None:
    """Make the tables of an empty store."""
    connection.executescript(schema_of(TABLES))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def check_version(connection: sqlite3.Connection) -> int:
    """Return the store's schema version.

    Raises:
        IntegrityError: It is newer than this edgecl, or older than what it can bring up.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if version == 0:
        raise IntegrityError(
            "the store has no schema (version 0): it is no store of edgecl, or was cut off; "
            "restore the home from a backup, or make it anew with `edgecl init --force`"
        )
    if application != APPLICATION_ID:
        raise IntegrityError(
            f"the store has a schema ({version}) from before the first one that edgecl keeps up; "
            "use the edgecl that made it, or learn anew in another home (`edgecl init --home DIR`)"
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


def check_objects(connection: sqlite3.Connection) -> None:
    """Check that the file holds edgecl's tables, indices and views as they were made, and no more.

    A trigger or a table of somebody else's could keep what is unlearned.

    Raises:
        IntegrityError: Something is there that edgecl did not make, or is missing or changed.
    """
    found, known = _objects(connection), _known()
    wrong = [f"the {kind} {name} is none of edgecl's" for kind, name, _ in sorted(found - known)]
    wrong += [f"the {kind} {name} is missing or was changed" for kind, name, _ in known - found]
    if wrong:
        raise IntegrityError(
            f"the store is not as edgecl made it: {wrong[0]}"
            + (f", and {len(wrong) - 1} more" if len(wrong) > 1 else "")
            + "; drop what you added with sqlite3, or restore the home from a backup"
        )


def _objects(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    # What SQLite makes itself (sequences, statistics of the planner) says nothing of edgecl.
    rows = connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return {(kind, name, sql or "") for kind, name, sql in rows}


@cache
def _known() -> frozenset[tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema_of(TABLES))
        return frozenset(_objects(connection))


_TYPES = {
    "INTEGER": ("integer",),
    "REAL": ("real", "integer"),
    "TEXT": ("text",),
    "BLOB": ("blob",),
}


# What is read to be shown, and has few rows.
_LISTS = frozenset(
    "meta classes aliases sources class_latency exports snapshots receipts requests".split()
)


def wrong_values(connection: sqlite3.Connection, *, only_lists: bool = False) -> str:
    """Return the first column that holds a value of another type than edgecl writes, or nothing.

    SQLite takes any type in any column; numbers that are infinite are none that edgecl writes.

    Args:
        connection: Of the store.
        only_lists: Look at tables of few rows only, and not for rows whose owner is gone.
    """
    for table in TABLES:
        if only_lists and table.name not in _LISTS:
            continue
        for _, name, declared, not_null, _, in_key in connection.execute(
            f"PRAGMA table_info({table.name})"
        ).fetchall():
            types = _TYPES[declared] + (() if not_null or in_key else ("null",))
            marks = ", ".join("?" * len(types))
            (found,) = connection.execute(
                f"SELECT count(*) FROM {table.name} WHERE typeof({name}) NOT IN ({marks}) "
                f"OR (typeof({name}) = 'real' AND abs({name}) > 1.7976931348623157e308)",
                types,
            ).fetchone()
            if found:
                return f"{found} values of {table.name}.{name} are not {declared}"
    if not only_lists and (row := connection.execute("PRAGMA foreign_key_check").fetchone()):
        return f"a row of {row[0]} is of one in {row[2]} that is not there"
    return ""


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
