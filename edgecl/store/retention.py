"""What is older than a time: of rows that is known, of sums it is not.

A learned sample that was evicted, and whose feature was added to its class's statistics, has no row
and no time any more. So that nothing old can stay, all such samples of a class go with its old ones
when the class was there before that time, has a row from before it, or took another one in; what is
kept of newer samples is summed anew. A class that came later keeps its sums.
"""

from __future__ import annotations

from collections import Counter

from edgecl.store.store import Store
from edgecl.types import Float16

# Classes of which something may be older than ?1.
_MAY_BE_OLDER = (
    "SELECT uid FROM classes c WHERE c.created < ?1 OR "
    "EXISTS (SELECT 1 FROM merged m WHERE m.class_uid = c.uid) OR "
    "EXISTS (SELECT 1 FROM replay o WHERE o.class_uid = c.uid AND o.time < ?1)"
)
# Of these: class, source, how many are in the sums, and how many of them have a newer row.
_SUMS = (
    "SELECT t.class_uid, t.source_uid, t.n, coalesce(sum(s.time >= ?1), 0) "
    "FROM class_stats t LEFT JOIN replay s ON s.class_uid = t.class_uid "
    "AND s.source_uid = t.source_uid AND s.is_folded "
    f"WHERE t.class_uid IN ({_MAY_BE_OLDER}) GROUP BY t.class_uid, t.source_uid"
)


def classes_older(store: Store, before: int) -> set[int]:
    """Return the classes of which something, learned or held out, is or may be older than a time.

    Args:
        store: The store.
        before: The time, seconds since the epoch.
    """
    rows = store.connection.execute(
        "SELECT DISTINCT class_uid FROM samples WHERE role != 'review' AND time < ?", (before,)
    )
    return {int(uid) for (uid,) in rows} | {
        uid for uid, _, n, newer in _sums(store, before) if n > newer
    }


def classes_emptied(store: Store, before: int) -> set[int]:
    """Return the classes of which nothing that was learned is left without what is older."""
    rows = store.connection.execute(
        f"{_MAY_BE_OLDER} EXCEPT SELECT class_uid FROM replay WHERE time >= ?1", (before,)
    )
    return {int(uid) for (uid,) in rows}


def has_older(store: Store, before: int) -> bool:
    """Whether the store holds anything, also what waits for a name, that is or may be older."""
    query = "SELECT EXISTS (SELECT 1 FROM samples WHERE time < ?)"
    (has_row,) = store.connection.execute(query, (before,)).fetchone()
    return bool(has_row) or bool(classes_older(store, before))


def take_off_older(store: Store, before: int) -> list[tuple[int, int]]:
    """Take what is older off the sums of every class; inside a transaction, before rows go.

    Returns:
        How many learned samples of each class go, in sums and in rows, by class uid.
    """
    lost: Counter[int] = Counter()
    rows = store.connection.execute(
        "SELECT class_uid, count(*) FROM replay WHERE time < ? AND NOT is_folded GROUP BY 1",
        (before,),
    )
    lost.update(dict(rows.fetchall()))
    emptied = classes_emptied(store, before)
    for class_uid, source_uid, n, n_newer in _sums(store, before):
        lost[class_uid] += n - n_newer
        if n > n_newer and class_uid not in emptied:
            folded = store.folded(class_uid, source_uid)
            if n_newer:
                newer = store.statistic.of(_newer(store, class_uid, source_uid, before))
                folded = folded.minus(newer)
            store.take_off_statistics(class_uid, source_uid, folded)
    return list(lost.items())


def _sums(store: Store, before: int) -> list[tuple[int, int, int, int]]:
    return store.connection.execute(_SUMS, (before,)).fetchall()


def _newer(store: Store, class_uid: int, source_uid: int, before: int) -> Float16:
    rows = store.connection.execute(
        "SELECT uid, x FROM features JOIN replay USING (uid) WHERE class_uid = ? "
        "AND source_uid = ? AND is_folded AND time >= ? ORDER BY uid",
        (class_uid, source_uid, before),
    ).fetchall()
    return store.opened([(uid, class_uid, x) for uid, x in rows])
