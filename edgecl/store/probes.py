"""Continual evaluation: a few labelled samples of each class that are never learned, and scores.

Every tenth sample of a class that arrives is held out until the class has its probes. They are
scored as the stream runs: after every step for 50 steps behind a new class (every fourth one where
a step is one frame), else after every tenth.
A step is one commit of the learner, and what it notes here commits with it: scores, counters, and
which probe is next. A run that was killed and resumed holds out the same frames, and has the scores
of one that was not, as far as its head predicts the same (the ridge head solves when it is opened).

A score must cost a small part of a step, however many classes there are. So there is a budget for
each frame that was learned: of many probes only the next few are predicted anew, in turn, and the
others count with what was last said of them.

Reference: De Lange et al. 2023, "Continual evaluation for lifelong learning", arXiv:2205.13452.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np

from edgecl.heads.base import Head
from edgecl.store.store import PROBES, Labels, Store
from edgecl.store.tables import Role
from edgecl.types import Float16, Float32, Float64, Frame

EVERY = 10
"""One of so many labelled samples of a class is held out."""
STEPS_AFTER_NEW = 50
"""Steps behind a new class of which each is scored."""
STEPS_BETWEEN = 10
"""Steps from one score to the next otherwise."""
LEAST_FRAMES = 4
"""Frames from one score to the next: a step of a single frame is too short for one of its own."""
MOST_EVALUATIONS = 2000
FEW_PROBES = 5
"""Below so many probes an accuracy is a rough guess, and counts for no minimum and no maximum."""
# A score may cost so many multiply-adds for each frame since the last: some four probes of 1,752
# features. A value costs as much as 100 of them beside its products, to be converted and scaled.
# Measured: docs/benchmarks.md, Continual evaluation.
_BUDGET, _PER_VALUE = 750_000, 100
# Squared distance over squared length; neighbours of 16-bit values are up to 1e-7 apart.
_SAME_PICTURE = 1e-6
_RECENT, _WANTED = 10, 9
_BUCKETS_PER_OCTAVE = 4


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
    # One query: another process may be learning.
    rows = store.connection.execute(
        "SELECT uid, step, time, class_uid, n, n_right FROM evaluations "
        "LEFT JOIN class_scores ON evaluation = uid ORDER BY uid"
    ).fetchall()
    evaluations = {uid: (step, seconds) for uid, step, seconds, *_ in rows}
    scores = [(uid, *score) for uid, _, _, *score in rows if score[0] is not None]
    at = {uid: i for i, uid in enumerate(evaluations)}
    classes = sorted({class_uid for _, class_uid, _, _ in scores})
    column = {class_uid: i for i, class_uid in enumerate(classes)}
    accuracy = np.full((len(evaluations), len(classes)), np.nan)
    n_probes = np.zeros((len(evaluations), len(classes)), np.int64)
    for uid, class_uid, n, n_right in scores:
        accuracy[at[uid], column[class_uid]] = n_right / n
        n_probes[at[uid], column[class_uid]] = n
    return History(
        np.array([step for step, _ in evaluations.values()], dtype=np.int64),
        np.array([seconds for _, seconds in evaluations.values()], dtype=np.float64),
        np.array(classes, dtype=np.int64),
        accuracy,
        n_probes,
    )


def last_accuracy(store: Store) -> float | None:
    """Return the mean over classes of their newest scores, None before the first."""
    (mean,) = store.connection.execute(
        "SELECT avg(1.0 * n_right / n) FROM class_scores "
        "WHERE evaluation = (SELECT max(evaluation) FROM class_scores)"
    ).fetchone()
    return mean if mean is None else float(mean)


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
        np.array([1e-6 * 2 ** (b / _BUCKETS_PER_OCTAVE) for b, _ in rows], dtype=np.float64),
        np.array([n for _, n in rows], dtype=np.int64),
    )


def held_out(store: Store) -> dict[int, int]:
    """Return how many probes each class has."""
    rows = store.connection.execute("SELECT class_uid, count(*) FROM held_out GROUP BY class_uid")
    return dict.fromkeys(store.names, 0) | {int(c): int(n) for c, n in rows}


class Probes:
    """What the learner asks and tells about probes; all of it inside its transaction.

    What is kept in memory (the features too: 4 D bytes a probe) is read anew when the store was.

    Args:
        store: Open store.
        most: Probes of a class.
    """

    def __init__(self, store: Store, most: int) -> None:
        self._store = store
        self._most = most
        self._seen = -1
        self._pending: Counter[tuple[str, int]] = Counter()
        # Probes: uids, classes, whether each was right when it was last predicted (NaN: a head said
        # that learned what is gone), squared lengths of their features (N,), and in the first N
        # rows of `x` the features (M, D), M >= N.
        self._n: int
        self._uids: Labels
        self._classes: Labels
        self._right: Float64
        self._x: Float32
        self._sizes: Float32
        self._n_held: Counter[int]
        # Uids of the classes with probes, which of them each probe is of, and how many each has.
        self._groups: tuple[list[int], Labels, list[int]] | None
        # Steps that are left behind a new class, steps and frames since the last score, and the uid
        # of the probe that was predicted last.
        self._fast: int
        self._steps: int
        self._frames: int
        self._last: int
        self._n_evaluations: int
        self._latency: dict[int, ClassLatency]
        self._changed: set[int]

    def choose(self, names: Sequence[str], x: Float16) -> list[bool]:
        """Return which of the next labelled frames are held out; a function of what is committed.

        A copy of a probe of its class is one of them, so that a source that is learned again does
        not teach what is tested; it does not count as an arrival.

        Args:
            names: Classes of the frames, in their order.
            x: Their quantised features (N, D).
        """
        self._refresh()
        n_seen = self._store.n_seen()
        arrived: dict[str, int] = {}
        held: dict[str, int] = {}
        taken: dict[str, list[Float16]] = {}
        chosen = []
        for name, row in zip(names, x, strict=True):
            uid = self._store.class_uid(name) if self._store.has_class(name) else 0
            if name not in arrived:
                held[name] = self._n_held[uid]
                arrived[name] = n_seen.get(uid, 0) + held[name]
                taken[name] = []
            if self._copied(uid, row) or any(_is_copy(row, other) for other in taken[name]):
                chosen.append(True)
                continue
            arrived[name] += 1
            is_held = arrived[name] % EVERY == 0 and held[name] < self._most
            held[name] += is_held
            if is_held:
                taken[name].append(row)
            chosen.append(is_held)
        return chosen

    def add(
        self, class_uid: int, x: Float16, picture: bytes, frame: Frame, *, is_right: bool
    ) -> int:
        """Hold a frame out; returns the uid of its probe, which may be there already.

        Args:
            class_uid: Its class, which is there.
            x: Its quantised feature (D,).
            picture: Its picture as it is kept.
            frame: Where it came from.
            is_right: Whether it was predicted rightly: what counts until it is its turn.
        """
        self._refresh()
        if copied := self._copied(class_uid, x):
            return copied
        store = self._store
        uid = store.add_aside(
            Role.HELD_OUT,
            class_uid,
            x,
            picture,
            source=frame.source,
            frame=frame.id,
            time=frame.time or time.time(),
            score=float(is_right),
        )
        n = self._n
        if n == len(self._x):
            grown = np.empty((max(64, 2 * n), store.num_features), np.float32)
            grown[:n] = self._x
            self._x = grown
        self._x[n] = x
        self._n += 1
        self._sizes = np.append(self._sizes, _size_of(x[None]))
        self._uids = np.append(self._uids, uid)
        self._classes = np.append(self._classes, class_uid)
        self._right = np.append(self._right, float(is_right))
        self._n_held[class_uid] += 1
        self._groups = None
        return uid

    def note_prediction(self, class_uid: int, *, is_right: bool, is_new: bool = False) -> None:
        """Note what was predicted of a frame before it was learned, or held out.

        Args:
            class_uid: Its class.
            is_right: Whether the prediction was that.
            is_new: Whether the class came with it.
        """
        self._refresh()
        if is_new:
            self._latency[class_uid] = ClassLatency(self._store.step)
            self._fast = STEPS_AFTER_NEW
        latency = self._latency.get(class_uid)
        if latency is not None and latency.nine_of_ten is None:
            self._latency[class_uid] = latency.plus(is_right)
            self._changed.add(class_uid)

    def note_latency(self, stage: str, seconds: float) -> None:
        """Count how long a stage took; it is written with the next score, or by `flush`."""
        octaves = math.log2(max(seconds * 1e6, 1.0))
        self._pending[stage, int(_BUCKETS_PER_OCTAVE * octaves)] += 1

    def end_step(self, head: Head, n_frames: int) -> None:
        """Score if it is time to, and write what was noted.

        Args:
            head: The head after the step.
            n_frames: Labelled frames of the step.
        """
        self._refresh()
        self._steps += 1
        self._frames += n_frames
        is_due = self._steps >= STEPS_BETWEEN or (self._fast and self._frames >= LEAST_FRAMES)
        self._fast = max(0, self._fast - 1)
        if is_due:
            self._evaluate(head)
            self._steps = self._frames = 0
        execute = self._store.connection.execute
        for uid in sorted(self._changed):
            execute(
                "INSERT INTO class_latency VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT(class_uid) DO UPDATE SET n_frames = excluded.n_frames, "
                "first_right = excluded.first_right, nine_of_ten = excluded.nine_of_ten, "
                "recent = excluded.recent",
                (uid, *self._latency[uid]),
            )
        self._changed.clear()
        counters = (self._fast, self._steps, self._frames, self._last)
        self._store.set_meta(PROBES, " ".join(map(str, counters)))
        if is_due:
            self.flush()

    def flush(self) -> None:
        """Write the latencies that were noted; inside a transaction."""
        self._store.connection.executemany(
            "INSERT INTO latencies VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
            [(stage, bucket, n) for (stage, bucket), n in self._pending.items()],
        )
        self._pending.clear()

    def _copied(self, class_uid: int, x: Float16) -> int:
        """Return the uid of the class's probe that a feature (D,) is a copy of, 0 if of none."""
        size = _size_of(x[None])
        # Lengths tell most apart, and cost little; those of copies differ by 0.002 at most.
        near = (self._classes == class_uid) & (np.abs(self._sizes - size) <= 0.003 * size)
        for i in np.flatnonzero(near):
            if _is_copy(x, self._x[i]):
                return int(self._uids[i])
        return 0

    def _evaluate(self, head: Head) -> None:
        """Predict the next probes and write the scores of every class that has some."""
        n = self._n
        if not n or not head.classes:
            return
        cost = head.num_features * (len(head.classes) + _PER_VALUE)
        most = n if np.isnan(self._right).any() else max(1, self._frames * _BUDGET // cost)
        if most >= n:
            turn, x = np.arange(n), self._x[:n]
        else:
            first = int(np.searchsorted(self._uids, self._last, side="right"))
            turn = np.arange(first, first + most) % n
            x = self._x[turn]
        best = head.predict_many(x).argmax(axis=1)
        right_now = (np.array(head.classes)[best] == self._classes[turn]).astype(np.float64)
        changed = self._right[turn] != right_now
        self._right[turn] = right_now
        self._last = int(self._uids[turn[-1]])
        if self._groups is None:
            found, which, sizes = np.unique(self._classes, return_inverse=True, return_counts=True)
            self._groups = found.tolist(), which, sizes.tolist()
        classes, which, counts = self._groups
        right = np.bincount(which, weights=self._right).astype(np.int64)
        store = self._store
        store.connection.executemany(
            "UPDATE samples SET score = ? WHERE uid = ?",
            zip(right_now[changed].tolist(), self._uids[turn[changed]].tolist(), strict=True),
        )
        cursor = store.connection.execute(
            "INSERT INTO evaluations(step, time) VALUES (?, ?)", (store.step, time.time())
        )
        scores = zip(repeat(cursor.lastrowid), classes, counts, right.tolist(), strict=False)
        store.connection.executemany("INSERT INTO class_scores VALUES (?, ?, ?, ?)", scores)
        self._n_evaluations += 1
        if self._n_evaluations >= MOST_EVALUATIONS:
            self._thin()

    def _thin(self) -> None:
        """Drop every second of the older half of the scores, but no class's lowest and highest.

        Only where these are more than half of what would go, with hundreds of classes, they go.
        """
        execute = self._store.connection.execute
        uids = [uid for (uid,) in execute("SELECT uid FROM evaluations ORDER BY uid")]
        kept = _extremes(history(self._store))
        places = range(1, len(uids) // 2, 2)
        dropped = [uids[i] for i in places if i not in kept]
        if 2 * len(dropped) < len(places):
            dropped = [uids[i] for i in places]
        self._store.connection.executemany(
            "DELETE FROM evaluations WHERE uid = ?", [(uid,) for uid in dropped]
        )
        self._n_evaluations -= len(dropped)

    def _refresh(self) -> None:
        """Read what is kept in memory if the store read its own anew."""
        store = self._store
        if self._seen == store.loads:
            return
        self._seen = store.loads
        self._uids, x, self._classes = rows = store.rows(Role.HELD_OUT)
        self._x = x.astype(np.float32)
        said = {o.uid: o.score for o in store.origins(Role.HELD_OUT)}
        self._right = np.array([said[uid] for uid in rows.uids.tolist()], dtype=np.float64)
        self._n = len(rows.uids)
        self._sizes = _size_of(self._x)
        self._groups = None
        self._n_held = Counter(rows.classes.tolist())
        self._latency = latency_of_classes(store)
        self._changed = set()
        execute = store.connection.execute
        (self._n_evaluations,) = execute("SELECT count(*) FROM evaluations").fetchone()
        row = execute("SELECT value FROM meta WHERE key = ?", (PROBES,)).fetchone()
        counters = row[0].split() if row else (0, 0, 0, 0)
        self._fast, self._steps, self._frames, self._last = map(int, counters)


def _size_of(x: Float16 | Float32) -> Float32:
    """Return squared lengths (N,) of features (N, D)."""
    rows = x.astype(np.float32)
    return np.asarray(np.einsum("nd,nd->n", rows, rows))


def _is_copy(a: Float16, b: Float16 | Float32) -> bool:
    """Whether two features are of one picture: alike but for how an engine rounds in a batch."""
    x = a.astype(np.float32)
    apart = x - b
    return bool(apart @ apart <= _SAME_PICTURE * (x @ x))


def newest_scored(past: History) -> Labels:
    """Return the column of the newest class that each evaluation scores, shape (E,)."""
    there = np.isfinite(past.accuracy)
    return np.asarray(there.shape[1] - 1 - there[:, ::-1].argmax(axis=1), np.int64)


def _extremes(past: History) -> set[int]:
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
