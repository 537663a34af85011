"""What was served of live frames that somebody named, before they were learned; the newest ones.

They go with their class; what was answered is emptied with that class, and still counts as wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgecl.store.store import Store

MOST = 100
"""Answers of each class that are kept."""


class Live(NamedTuple):
    """Answers to the newest live frames of a class.

    Args:
        n: Frames.
        right: Of them, those that were called by their class.
        outdated: Called by a class that had samples which are this one's now.
        last: Time of the newest, seconds since the epoch.
    """

    n: int
    right: int
    outdated: int
    last: float


LiveAnswer = tuple[str, "str | None", float]
"""The class of a frame, what was answered, None for nothing, and its time."""


def note_answers(store: Store, answers: Sequence[LiveAnswer]) -> None:
    """Note answers to frames whose classes are there; inside a transaction."""
    uids = {name: uid for uid, name in store.names.items()}
    rows = [
        (uids[store.canonical(name)], uids.get(answer or ""), time)
        for name, answer, time in answers
    ]
    execute = store.connection.execute
    store.connection.executemany(
        "INSERT INTO live_answers(class_uid, named, time) VALUES (?, ?, ?)", rows
    )
    for class_uid in {class_uid for class_uid, _, _ in rows}:
        execute(
            "DELETE FROM live_answers WHERE class_uid = ? AND uid NOT IN (SELECT uid FROM "
            "live_answers WHERE class_uid = ? ORDER BY uid DESC LIMIT ?)",
            (class_uid, class_uid, MOST),
        )


def live_answers(store: Store) -> dict[int, Live]:
    """Return the answers to live frames by class uid, of classes that have some."""
    rows = store.connection.execute(
        "SELECT class_uid, count(*), sum(named IS class_uid), "
        "sum(named IS NOT NULL AND named != class_uid AND EXISTS (SELECT 1 FROM moves "
        "WHERE from_uid = named AND to_uid = class_uid)), max(time) "
        "FROM live_answers GROUP BY class_uid"
    )
    return {uid: Live(*counts) for uid, *counts in rows}
