"""Scores over time, and how long things took; held_out.py writes them.

They are of samples that are held out, or of kept ones that are left out (left_out.py).
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import numpy as np

from edgecl.store.store import Store
from edgecl.types import Float64, Labels

FEW_PROBES = 5
"""Below so many probes an accuracy is a rough guess, and counts for no minimum and no maximum."""
BUCKETS_PER_OCTAVE = 4
"""Of the histograms of latencies."""
_RECENT, _WANTED = 10, 9


class ClassLatency(NamedTuple):
    """How long a class took to be right; frames that were held out count as well.

    Args:
        step: Samples that were learned when it came.
        n_frames: Frames of it so far; no longer counted once `nine_of_ten` is known.
        first_right: Number of its first frame that was predicted rightly, or None; 2 at least.
        nine_of_ten: Number of the frame with which 9 of its last 10 were right, or None.
        recent: Its last 10 predictions, `1` for a right one.
    """

    step: int
    n_frames: int = 0
    first_right: int | None = None
    nine_of_ten: int | None = None
    recent: str = ""

    def plus(self, is_right: bool) -> ClassLatency:
        """Return this with one more frame."""
        n = self.n_frames + 1
        recent = (self.recent + str(int(is_right)))[-_RECENT:]
        first = n if is_right and self.first_right is None else self.first_right
        is_done = len(recent) == _RECENT and recent.count("1") >= _WANTED
        return ClassLatency(self.step, n, first, n if is_done else None, recent)


class History(NamedTuple):
    """Scores over time; thinned where it is old.

    Args:
        steps: Samples that were learned by each evaluation (E,), not decreasing.
        times: Wall clock of each, seconds since the epoch (E,).
        classes: Uids of the classes (C,), ascending.
        accuracy: Share of a class's probes that were right (E, C); NaN where it had none.
        n_probes: Probes of each class by then (E, C).
    """

    steps: Labels
    times: Float64
    classes: Labels
    accuracy: Float64
    n_probes: Labels


class Histogram(NamedTuple):
    """How often a stage took how long.

    Args:
        seconds: Lower edges of the buckets that are not empty (B,), ascending; each reaches a
            quarter of an octave (19 %) up, the first down to zero.
        n: Times in each (B,).
    """

    seconds: Float64
    n: Labels


def history(store: Store) -> History:
    """Return the scores of all classes that are there."""
    # One query: another process may be learning. Hundreds of classes have millions of scores.
    cursor = store.connection.execute(
        "SELECT uid, step, time, coalesce(class_uid, 0), coalesce(n, 0), coalesce(n_right, 0) "
        "FROM evaluations LEFT JOIN class_scores ON evaluation = uid ORDER BY uid"
    )
    rows = np.fromiter(chain.from_iterable(cursor), np.float64).reshape(-1, 6)
    _, first, at = np.unique(rows[:, 0], return_index=True, return_inverse=True)
    step, seconds = rows[first, 1:3].T
    is_score = rows[:, 3] > 0
    classes, column = np.unique(rows[is_score, 3], return_inverse=True)
    n, n_right = rows[is_score, 4:].T
    place = (at[is_score], column)
    accuracy = np.full((len(first), len(classes)), np.nan)
    n_probes = np.zeros((len(first), len(classes)), np.int64)
    accuracy[place], n_probes[place] = n_right / n, n
    return History(
        step.astype(np.int64), seconds.copy(), classes.astype(np.int64), accuracy, n_probes
    )


def last_accuracy(store: Store) -> float | None:
    """Return the share of all probes that was right at the last score, None before the first."""
    (share,) = store.connection.execute(
        "SELECT 1.0 * sum(n_right) / sum(n) FROM class_scores "
        "WHERE evaluation = (SELECT max(evaluation) FROM class_scores)"
    ).fetchone()
    return share if share is None else float(share)


def latency_of_classes(store: Store) -> dict[int, ClassLatency]:
    """Return by class uid how long each took to be right."""
    rows = store.connection.execute(
        "SELECT class_uid, step, n_frames, first_right, nine_of_ten, recent FROM class_latency "
        "ORDER BY class_uid"
    )
    return {int(row[0]): ClassLatency(*row[1:]) for row in rows}


def stages_of(store: Store) -> tuple[str, ...]:
    """Return the stages that have a histogram."""
    rows = store.connection.execute("SELECT DISTINCT stage FROM latencies ORDER BY stage")
    return tuple(stage for (stage,) in rows)


def latency_histogram(store: Store, stage: str) -> Histogram:
    """Return how often a stage took how long; empty for one that was never timed."""
    rows = store.connection.execute(
        "SELECT bucket, n FROM latencies WHERE stage = ? ORDER BY bucket", (stage,)
    ).fetchall()
    return Histogram(
        np.array([1e-6 * 2 ** (b / BUCKETS_PER_OCTAVE) for b, _ in rows], dtype=np.float64),
        np.array([n for _, n in rows], dtype=np.int64),
    )


def held_out(store: Store) -> dict[int, int]:
    """Return how many probes each class has."""
    rows = store.connection.execute("SELECT class_uid, count(*) FROM held_out GROUP BY class_uid")
    return dict.fromkeys(store.names, 0) | {int(c): int(n) for c, n in rows}


def newest_scored(past: History) -> Labels:
    """Return the column of the newest class that each evaluation scores, shape (E,)."""
    there = np.isfinite(past.accuracy)
    return np.asarray(there.shape[1] - 1 - there[:, ::-1].argmax(axis=1), np.int64)


def extremes(past: History) -> set[int]:
    """Return places of evaluations that hold each class's lowest and highest score that counts.

    The newest class is the one in training, whose lows do not count.
    """
    found: set[int] = set()
    newest = newest_scored(past)
    for column, (accuracy, n) in enumerate(zip(past.accuracy.T, past.n_probes.T, strict=True)):
        few = np.flatnonzero(n < FEW_PROBES)
        first = few[-1] + 1 if len(few) else 0
        places = np.arange(first, len(accuracy))
        old = places[newest[first:] != column]
        if len(places):
            found.add(int(places[::-1][accuracy[places][::-1].argmax()]))
        if len(old):
            found.add(int(old[::-1][accuracy[old][::-1].argmin()]))
    return found
