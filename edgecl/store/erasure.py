"""What an unlearning deletes, counts and looks for in the store: loops over `TABLES`.

A request names a class, a sample or a source. With the last of its samples a class goes as a whole,
so the rows that go are those of the target and those of the classes that it empties.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from edgecl.errors import KeyDestroyedError, UnknownSampleError
from edgecl.heads.statistics import Moments
from edgecl.store.retention import classes_emptied, has_older, take_off_older
from edgecl.store.store import Store
from edgecl.store.table import Role, Table
from edgecl.store.tables import TABLES
from edgecl.store.text import folded, holds_name
from edgecl.types import Float16, Kind

# How receipts and plans call the samples of each role.
_COUNTED = {Role.REPLAY: "samples", Role.HELD_OUT: "probes", Role.REVIEW: "novel"}
_BY_NAME = {table.name: table for table in TABLES}
# Classes of which samples were learned from a source (?1).
_LEARNED_FROM = (
    "SELECT class_uid FROM replay WHERE source_uid = ?1 UNION "
    "SELECT class_uid FROM class_stats WHERE source_uid = ?1"
)
# Whether a sample (?1) is all that a row of statistics `o` was made of.
_IS_ALL = (
    "o.n = 1 AND (o.class_uid, o.source_uid) IN "
    "(SELECT class_uid, source_uid FROM samples WHERE uid = ?1 AND is_folded)"
)


def classes_lost(store: Store, kind: Kind, uid: int) -> set[int]:
    """Return the classes of the store of which a target is all that was learned."""
    if kind is Kind.CLASS:
        return {uid} & set(store.names)
    if kind is Kind.AGE:
        return classes_emptied(store, uid)
    others = f"SELECT 1 FROM replay o WHERE o.class_uid = c.class_uid AND NOT (o.{kind.condition})"
    statistics = "SELECT 1 FROM class_stats o WHERE o.class_uid = c.class_uid AND"
    if kind is Kind.SAMPLE:
        # A sample that is not folded is in no statistics; of one that is, they may be all.
        of_target, rest = "SELECT class_uid FROM replay WHERE uid = ?1", f"NOT ({_IS_ALL})"
    else:
        of_target, rest = _LEARNED_FROM, "o.source_uid != ?1"
    rows = store.connection.execute(
        f"SELECT class_uid FROM ({of_target}) c "
        f"WHERE NOT EXISTS ({others}) AND NOT EXISTS ({statistics} {rest})",
        (uid,),
    )
    return {int(class_uid) for (class_uid,) in rows}


def is_there(store: Store, kind: Kind, uid: int) -> bool:
    """Whether the store has a class, sample or source of this uid."""
    if kind is Kind.AGE:
        return has_older(store, uid)
    query = f"SELECT 1 FROM {kind.table} WHERE uid = ?"
    return store.connection.execute(query, (uid,)).fetchone() is not None


def sample_of(store: Store, uid: int) -> tuple[int, Role]:
    """Return class and role of a sample.

    Raises:
        RequestError: No row is of it.
    """
    row = store.connection.execute(
        "SELECT class_uid, role FROM samples WHERE uid = ?", (uid,)
    ).fetchone()
    if row is None:
        raise unknown_sample(uid)
    return int(row[0]), Role(row[1])


def classes_of_source(store: Store, uid: int) -> set[int]:
    """Return the classes of which samples were learned from a source."""
    rows = store.connection.execute(_LEARNED_FROM, (uid,))
    return {int(class_uid) for (class_uid,) in rows}


def newest_sample(store: Store, kind: Kind, uid: int) -> int:
    """Return the uid of the newest sample of a `class`, `source` or `age`, 0 if there is none."""
    (newest,) = store.connection.execute(
        f"SELECT coalesce(max(uid), 0) FROM replay WHERE {kind.condition}", (uid,)
    ).fetchone()
    return int(newest)


def statistics_bytes(store: Store, classes: Sequence[int]) -> int:
    """Return how many bytes the statistics of some classes have."""
    (n_bytes,) = store.connection.execute(
        "SELECT coalesce(sum(length(total) + length(second)), 0) FROM class_stats "
        "WHERE class_uid IN (SELECT value FROM json_each(?))",
        (json.dumps(list(classes)),),
    ).fetchone()
    return int(n_bytes)


def count(store: Store, kind: Kind, uid: int) -> dict[str, int]:
    """Return how many rows each table would lose; writes nothing.

    Args:
        store: The store.
        kind: What the target is.
        uid: Its uid.
    """
    return _each(store, kind, uid, "SELECT count(*) FROM")


def erase(store: Store, kind: Kind, uid: int) -> dict[str, int]:
    """Delete a class, sample or source, also from statistics; returns the rows each table lost.

    Where other samples came from may name a class that goes (`cups.csv`); such a text is emptied.
    Inside a transaction.

    Args:
        store: The store.
        kind: What the target is.
        uid: Its uid.

    Raises:
        RequestError: No row is of this sample: it was never learned, or evicted after its feature
            was added to its class's statistics, from which it cannot be told apart any more.
    """
    folded = _folded_sample(store, uid) if kind is Kind.SAMPLE else None
    of_run = folded is not None and store.is_of_run(uid)
    if kind is Kind.CLASS:  # also of a class that was emptied and that only snapshots hold
        store.connection.execute("DELETE FROM former_names WHERE uid = ?", (uid,))
    if kind is Kind.CLASS and uid in store.names:
        for name in store.names_of(uid):
            _empty_texts(store, uid, name)
    learned = take_off_older(store, uid) if kind is Kind.AGE else _learned(store, kind, uid)
    if kind is Kind.AGE and learned:
        drop_run(store)  # what its sums lost is not known apart
    numbers = _each(store, kind, uid, "DELETE FROM")
    if folded is not None:
        store.take_off_statistics(*folded, of_run=of_run)
    store.connection.executemany(
        "UPDATE classes SET n_seen = n_seen - ? WHERE uid = ?",
        [(n, class_uid) for class_uid, n in learned],
    )
    drop_unused(store)
    return numbers


def take_back(store: Store, uid: int, class_uid: int, source: str, x: Float16) -> None:
    """Delete one learned sample, also if only the statistics hold it any more.

    Args:
        store: The store.
        uid: The sample.
        class_uid: Its class.
        source: Where it came from, as the store keeps it.
        x: Its quantised feature (D,), under the store's map.

    Raises:
        RequestError: It is not there; the caller answers for what no row shows.
    """
    execute = store.connection.execute
    if is_there(store, Kind.SAMPLE, uid):
        erase(store, Kind.SAMPLE, uid)
        return
    known = {text: source_uid for source_uid, text in store.sources().items()}
    source_uid = known.get(source, 0)
    of = (class_uid, source_uid)
    query = "SELECT 1 FROM class_stats WHERE class_uid = ? AND source_uid = ?"
    if execute(query, of).fetchone() is None:
        raise unknown_sample(uid)
    # Who takes back one without a row has just learned it.
    store.take_off_statistics(*of, store.statistic.of(x[None]), of_run=True)
    execute("UPDATE classes SET n_seen = n_seen - 1 WHERE uid = ?", (class_uid,))
    drop_classes_of_nothing(store)
    drop_unused(store)


def drop_run(store: Store) -> None:
    """Forget how it was before the last run; inside a transaction."""
    for table in ("last_run", "run_stats", "former_names"):
        store.connection.execute(f"DELETE FROM {table}")
    store.connection.execute("DELETE FROM head WHERE kind = 'before'")
    store.begin_run_at(None)


def drop_classes_of_nothing(store: Store) -> None:
    """Delete classes of which no learned sample is left; inside a transaction."""
    rows = store.connection.execute(
        "SELECT uid FROM classes c "
        "WHERE NOT EXISTS (SELECT 1 FROM replay r WHERE r.class_uid = c.uid) "
        "AND NOT EXISTS (SELECT 1 FROM class_stats o WHERE o.class_uid = c.uid)"
    )
    for (uid,) in rows.fetchall():
        _each(store, Kind.CLASS, uid, "DELETE FROM")


def delete_held_out(store: Store, uids: Sequence[int]) -> None:
    """Delete samples that were held out, where they are there; inside a transaction."""
    if uids:
        store.connection.executemany(
            "DELETE FROM samples WHERE role = 'held_out' AND uid = ?", [(uid,) for uid in uids]
        )
        drop_unused(store)


def unknown_sample(uid: int) -> UnknownSampleError:
    """Return the error for a sample of which no row is there."""
    return UnknownSampleError(
        f"sample {uid} is not in the store; if it was learned, it is part of its class's "
        "statistics and cannot be told apart: forget its source or its class"
    )


def drop_unused(store: Store, *, is_unlearned: bool = True, is_moved: bool = False) -> None:
    """Drop what nothing needs any more: sources of nothing, empty scores, the kept head.

    Args:
        store: The store.
        is_unlearned: Whether nothing that learned it may stay, also not for an undo.
        is_moved: Whether all that was learned still is, and the total of it with that.
    """
    execute = store.connection.execute
    if not is_moved:
        store.drop_total()
    used = " UNION ".join(f"SELECT {t.source} FROM {t.name}" for t in TABLES if t.source)
    execute(f"DELETE FROM sources WHERE uid NOT IN ({used})")
    execute("DELETE FROM evaluations WHERE uid NOT IN (SELECT evaluation FROM class_scores)")
    # A change that taught nothing but what is gone.
    execute(
        "DELETE FROM changes WHERE state != 'open' AND taught "
        "AND uid NOT IN (SELECT change_uid FROM change_classes WHERE learned)"
    )
    # What was last said of each sample, a head said that learned what is gone.
    execute("UPDATE samples SET score = NULL WHERE role != 'review' AND score IS NOT NULL")
    execute("DELETE FROM head WHERE kind != 'before' OR ?", (is_unlearned,))
    store.reload_classes()


def traces(
    store: Store, kind: Kind, uid: int, most: int
) -> Iterator[tuple[str, tuple[bytes, ...]]]:
    """Yield what the pictures of a target are called, and all forms in which a file may hold each.

    In a sealed store that is as it is and sealed, or sealed only if the class's key was destroyed.

    Args:
        store: The store.
        kind: What the target is.
        uid: Its uid.
        most: Most pictures of each role.
    """
    where = _condition(_BY_NAME["samples"], kind)
    for role in Role:
        rows = store.connection.execute(
            f"SELECT uid, class_uid, data FROM pictures JOIN {role.value} USING (uid) "
            f"WHERE {where} ORDER BY uid LIMIT {int(most)}",
            _values(store, kind, uid),
        ).fetchall()
        called = "" if role is Role.REPLAY else f"{role.value.replace('_', '-')} "
        for row, class_uid, data in rows:
            forms: tuple[bytes, ...] = (data,) if store.is_sealed else ()
            with suppress(KeyDestroyedError):
                forms = (store.unseal(class_uid, "pictures.data", row, data), *forms)
            yield f"picture of {called}sample {row}", forms


def is_held(store: Store, needle: bytes, *, of_class: bool) -> bool:
    """Whether bytes of what was unlearned are rightly there, as those of something else.

    Args:
        store: The store.
        needle: The bytes.
        of_class: Whether a class was unlearned: no text may say its name then, but names may.
    """
    columns = [("pictures", "data")]
    for table in TABLES:
        columns += [(table.name, c) for c in table.names + (() if of_class else table.texts)]
    found = " OR ".join(
        f"EXISTS (SELECT 1 FROM {table} WHERE instr(CAST({column} AS BLOB), ?1))"
        for table, column in columns
    )
    return bool(store.connection.execute(f"SELECT {found}", (needle,)).fetchone()[0])


def _each(store: Store, kind: Kind, uid: int, verb: str) -> dict[str, int]:
    """Run one statement on every table that may hold rows of a target; returns their numbers."""
    values = _values(store, kind, uid)
    numbers = {}
    for table in reversed(TABLES):  # parts before what they are parts of
        where = _condition(table, kind)
        if not where:
            continue
        parts = {table.name: ""}
        if table.name == "samples":
            parts = {name: f"role = '{role.value}' AND " for role, name in _COUNTED.items()}
        for name, only in parts.items():
            cursor = store.connection.execute(
                f"{verb} {table.name} AS o WHERE {only}({where})", values[: 1 + ("?2" in where)]
            )
            row = cursor.fetchone()
            if not table.is_counted:
                continue
            numbers[name] = cursor.rowcount if row is None else int(row[0])
    return numbers


def _condition(table: Table, kind: Kind) -> str:
    """Return which rows of a table go with a target (?1) and the classes that it empties (?2).

    '' for a table that holds nothing of any class or source.
    """
    if table.part_of:
        parent = _condition(_BY_NAME[table.part_of], kind)
        return f"uid IN (SELECT uid FROM {table.part_of} WHERE {parent})"
    ways = []
    if table.owner:
        owner = f"{table.owner} IN (SELECT value FROM json_each(?2))"
        ways.append(f"({owner} AND {table.found_by})")
    if kind is Kind.SOURCE and table.source:
        ways.append(f"{table.source} = ?1")
    if kind in (Kind.SAMPLE, Kind.AGE) and table.name == "samples":
        ways.append(kind.condition)
    if kind is Kind.SAMPLE and table.name == "class_stats":
        ways.append(_IS_ALL)
    return " OR ".join(ways)


def _values(store: Store, kind: Kind, uid: int) -> tuple[int, str]:
    return uid, json.dumps(sorted(classes_lost(store, kind, uid)))


def _learned(store: Store, kind: Kind, uid: int) -> list[tuple[int, int]]:
    """Return how many samples of each class a sample or source is, by class uid."""
    if kind is Kind.CLASS:
        return []
    query = "SELECT class_uid, 1 FROM replay WHERE uid = ?1"
    if kind is Kind.SOURCE:
        query = (
            "SELECT class_uid, n FROM class_stats WHERE source_uid = ?1 UNION ALL "
            "SELECT class_uid, count(*) FROM replay WHERE source_uid = ?1 AND NOT is_folded "
            "GROUP BY class_uid"
        )
    return store.connection.execute(query, (uid,)).fetchall()


def _folded_sample(store: Store, uid: int) -> tuple[int, int, Moments] | None:
    """Return class, source and moments of a sample; None if it is in no statistics."""
    row = store.connection.execute(
        "SELECT class_uid, source_uid, is_folded, x FROM samples JOIN features USING (uid) "
        "WHERE uid = ?",
        (uid,),
    ).fetchone()
    if row is None:
        raise unknown_sample(uid)
    class_uid, source_uid, is_folded, x = row
    if not is_folded:
        return None
    x = store.opened([(uid, class_uid, x)])
    return class_uid, source_uid, store.statistic.of(x)


def _empty_texts(store: Store, class_uid: int, name: str) -> None:
    """Empty texts beside what is the class's own that hold a name of it."""

    def says(text: Any) -> bool:
        return holds_name(text or "", name)

    store.connection.create_function("says", 1, says)
    for table in TABLES:
        others = f"{table.owner} != ?1" if table.owner else "?1"
        for text in table.texts:
            # Of a million plain texts SQLite itself finds those that may say it.
            may_say = f"(instr(lower({text}), ?2) OR {text} GLOB '*[^ -~]*' OR instr({text}, '%'))"
            # NULL, since '' is a text as well: that of what has no source.
            store.connection.execute(
                f"UPDATE {table.name} SET {text} = NULL WHERE {others} AND {may_say} "
                f"AND says({text})",
                (class_uid, folded(name)),
            )
