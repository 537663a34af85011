"""Scores over time where nothing is held out: kept samples, each as if it had not been learned.

What a head says of a frame before it learns it is its first answer, at no cost. Later some are
asked anew in turn, in closed form (edgecl/heads/leave_one_out.py), and the others count with what
was last said of them, as of many held-out ones. What an unlearning or a relabelling made void is
asked first, and there is no score until all of it is known again.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from edgecl.heads.base import Head
from edgecl.store.store import Store

# A score may cost so many multiply-adds for each frame since the last, a twentieth of a step at
# most, and has a fixed price: the inverse of ridge is read whole, and all rows are counted, which
# takes as long as some 24 rows. Measured: docs/benchmarks.md, Continual evaluation.
_BUDGET, _FEWEST, _WORTH_IT = 3_000_000, 24, 150_000_000
Row = tuple[int, int, bytes, float | None]
Counts = dict[int, list[Any]]
_COUNTED = (
    "SELECT class_uid, count(*), sum(score), count(score) FROM replay WHERE is_stored "
    "GROUP BY +class_uid ORDER BY class_uid"
)


def affordable(head: Head, n_frames: int) -> int:
    """Return how many samples may be asked after so many frames; 0 while that is not worth it."""
    cost = head.left_out_cost
    if not cost or n_frames * _BUDGET < min(_FEWEST * cost, _WORTH_IT):
        return 0
    return n_frames * _BUDGET // cost


def score_left_out(store: Store, head: Head, most: int, last: int) -> tuple[int, bool]:
    """Ask the next kept samples, and write the scores of every class that has two or more.

    The only sample of a class says nothing: without it the head does not know the class.

    Args:
        store: The store, in a transaction.
        head: The head, after what was learned.
        most: Samples to ask.
        last: Uid of the sample that was asked last.

    Returns:
        The new `last`, and whether there is a score.
    """
    execute, lost = store.connection.execute, store.lost_classes()
    counts = {uid: [n, right, known] for uid, n, right, known in execute(_COUNTED)}
    rows = [row for row in _turn(store, counts, most, last) if row[1] not in lost]
    if not rows or sum(store.n_seen().values()) < 2:
        return last, False
    y = np.array([class_uid for _, class_uid, *_ in rows], dtype=np.int64)
    scores = head.left_out_now(store.opened([row[:3] for row in rows]), y)
    if scores is None:
        return last, False
    right = (np.array(head.classes)[scores.argmax(axis=1)] == y).tolist()
    for now, (_, class_uid, _, was) in zip(right, rows, strict=True):
        of_class = counts[class_uid]
        of_class[1] = (of_class[1] or 0) + now - (was or 0)
        of_class[2] += was is None
    store.connection.executemany(
        "UPDATE samples SET score = ? WHERE uid = ?",
        [(float(now), uid) for now, (uid, *_, was) in zip(right, rows, strict=True) if now != was],
    )
    usual = {uid: row for uid, row in counts.items() if row[0] > 1 and uid not in lost}
    if not usual or any(n != known for n, _, known in usual.values()):
        return rows[-1][0], False
    cursor = execute("INSERT INTO evaluations(step, time) VALUES (?, ?)", (store.step, time.time()))
    store.connection.executemany(
        "INSERT INTO class_scores VALUES (?, ?, ?, ?)",
        [(cursor.lastrowid, uid, n, int(n_right)) for uid, (n, n_right, _) in usual.items()],
    )
    return rows[-1][0], True


def _turn(store: Store, counts: Counts, most: int, last: int) -> list[Row]:
    """Return uid, class, feature and score of what is asked next: first what is not known."""
    # `+` goes through what is kept by its index, not through all that was learned by uid.
    query = (
        "SELECT uid, class_uid, x, score FROM (SELECT uid, class_uid, score FROM replay "
        "WHERE is_stored AND {} ORDER BY +uid LIMIT ?) JOIN features USING (uid) ORDER BY uid"
    )
    execute, rows = store.connection.execute, []
    if any(n != known for n, _, known in counts.values()):
        rows = execute(query.format("score IS NULL"), (most,)).fetchall()
    for where in ("+uid > ?", "+uid <= ?"):
        rest = most - len(rows)
        if rest:
            rows += execute(query.format(f"score IS NOT NULL AND {where}"), (last, rest)).fetchall()
    return rows
