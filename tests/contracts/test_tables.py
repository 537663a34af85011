"""Every table of a real home says what an unlearning and a rollback must know of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import build
from edgecl.heads import make_head
from edgecl.learner import Learner
from edgecl.runtime.grid import quantise
from edgecl.store.table import Role, Table
from edgecl.store.tables import SEALED, TABLES, schema_of

BY_NAME = {table.name: table for table in TABLES}


def faults(connection: sqlite3.Connection, tables: Sequence[Table]) -> Iterator[str]:
    """Yield what the tables of a database have and their descriptions do not say."""
    declared = {table.name: table for table in tables}
    there = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    )
    found = {name for (name,) in there}
    yield from (f"{name} is not declared" for name in sorted(found - set(declared)))
    yield from (f"{name} is declared and is not there" for name in sorted(set(declared) - found))
    for name in sorted(found & set(declared)):
        yield from (f"{name}.{what}" for what in _faults_of(connection, declared[name]))


def _faults_of(connection: sqlite3.Connection, table: Table) -> Iterator[str]:
    columns = {
        column: kind
        for _, column, kind, *_ in connection.execute(f"PRAGMA table_info({table.name})")
    }
    refers = {
        column: parent
        for _, _, parent, column, *_ in connection.execute(f"PRAGMA foreign_key_list({table.name})")
    }
    goes_with = {table.owner, table.source}
    said = {*table.names, *table.texts, *table.sealed, *table.exempt, *goes_with} - {None}
    yield from (f"{column} is declared and is not there" for column in said - set(columns))
    for column, kind in columns.items():
        if kind == "BLOB" and column not in (*table.sealed, *table.exempt):
            yield f"{column} is a BLOB that is neither sealed nor exempt"
        if kind == "TEXT" and column not in (*table.names, *table.texts, *table.exempt):
            yield f"{column} is a TEXT that may say a name, and is not exempt"
        parent = refers.get(column)
        if parent == "classes" or column.endswith("class_uid"):
            if column != table.owner and column not in table.exempt:
                yield f"{column} is of a class, and is no owner"
        if parent == "sources" or column.endswith("source_uid"):
            if column != table.source and column not in table.exempt:
                yield f"{column} is of a source, and is not declared"
        if parent in BY_NAME and BY_NAME[parent].sealed and parent != table.part_of:
            yield f"{column} is part of a row of {parent}, and is not declared"
    if table.sealed and table.owner is None and table.part_of is None:
        yield "owner is missing: whose key seals it?"
    if not isinstance(table.is_learned, bool):
        yield "is_learned is not said"
    yield from (
        f"{column} is exempt without a reason" for column, why in table.exempt.items() if not why
    )


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The database of a real home."""
    home = build.tiny_home(tmp_path / "home")
    opened = sqlite3.connect(home.database)
    yield opened
    opened.close()


def test_every_table_of_a_home_is_described(connection: sqlite3.Connection) -> None:
    assert list(faults(connection, TABLES)) == []


@pytest.mark.parametrize(
    ("ddl", "fault"),
    [
        ("CREATE TABLE extra (uid INTEGER PRIMARY KEY)", "extra is not declared"),
        ("ALTER TABLE samples ADD COLUMN note TEXT", "samples.note is a TEXT"),
        ("ALTER TABLE samples ADD COLUMN mask BLOB", "samples.mask is a BLOB"),
        ("ALTER TABLE features ADD COLUMN scale BLOB", "features.scale is a BLOB"),
        ("ALTER TABLE positions ADD COLUMN class_uid INTEGER", "positions.class_uid is of a class"),
        (
            "ALTER TABLE latencies ADD COLUMN at INTEGER REFERENCES classes(uid)",
            "latencies.at is of a class",
        ),
        (
            "ALTER TABLE class_latency ADD COLUMN origin INTEGER REFERENCES sources(uid)",
            "class_latency.origin is of a source",
        ),
        ("DROP TABLE views", "views is declared and is not there"),
    ],
)
def test_what_is_added_without_being_described_is_found(
    connection: sqlite3.Connection, ddl: str, fault: str
) -> None:
    connection.execute(ddl)
    (found,) = faults(connection, TABLES)
    assert found.startswith(fault)


def test_a_new_table_with_pictures_must_say_whose_they_are(connection: sqlite3.Connection) -> None:
    ddl = "CREATE TABLE clips (uid INTEGER PRIMARY KEY, class_uid INTEGER, data BLOB, title TEXT)"
    connection.execute(ddl)
    bare = Table("clips", ddl, is_learned=True)
    assert len(list(faults(connection, (*TABLES, bare)))) == 3
    half = replace(bare, sealed=("data",), texts=("title",))
    assert len(list(faults(connection, (*TABLES, half)))) == 2
    assert list(faults(connection, (*TABLES, replace(half, owner="class_uid")))) == []


def test_parents_stand_before_what_refers_to_them(connection: sqlite3.Connection) -> None:
    names = [table.name for table in TABLES]
    for i, name in enumerate(names):
        refers = connection.execute(f"PRAGMA foreign_key_list({name})").fetchall()
        assert {parent for _, _, parent, *_ in refers} <= set(names[:i])


def test_the_schema_is_what_the_tables_say(connection: sqlite3.Connection) -> None:
    other = sqlite3.connect(":memory:")
    other.executescript(schema_of(TABLES))
    query = "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
    assert connection.execute(query).fetchall() == other.execute(query).fetchall()
    other.close()


def test_what_is_declared_sealed_is(tmp_path: Path) -> None:
    d = 6
    x, y = build.features(400, d, 3)
    with build.store(tmp_path / "s.db", d, capacity_samples=30, sealed=True) as store:
        learner = Learner(store, make_head("ridge", d), probes=3)
        frames = [build.frame(f"part-{c}", i) for i, c in enumerate(y)]
        learner.learn_many(frames, x)
        with store.transaction():
            kept = store.origins(Role.REPLAY)[0]
            store.add_views(kept.uid, quantise(x[:2]))
            row = quantise(x[:1])[0]
            where = {"source": "gate", "frame": "f", "time": 0.0, "score": 1.0}
            store.add_aside(Role.REVIEW, 1, row, b"a picture of a queue", **where)
        plain = [store.picture(o.uid)[-40:] for role in Role for o in store.origins(role)]
        plain += [row.tobytes() for role in Role for row in store.rows(role).x]
        for column in sorted(SEALED):
            table, _, name = column.partition(".")
            blobs = [b for (b,) in store.connection.execute(f"SELECT {name} FROM {table}")]
            assert blobs, column
            assert not any(data in blob for blob in blobs for data in plain), column
        with pytest.raises(ValueError, match="not a sealed column"):
            store.seal(1, "samples.frame", 1, b"")
