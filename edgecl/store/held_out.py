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

Where nothing is held out, a head in closed form is asked for kept samples instead (left_out.py).

Reference: De Lange et al. 2023, "Continual evaluation for lifelong learning", arXiv:2205.13452.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from itertools import repeat

import numpy as np

from edgecl.heads.base import Head
from edgecl.runtime.scoring import best_of
from edgecl.store.left_out import affordable, score_left_out
from edgecl.store.probes import (
    BUCKETS_PER_OCTAVE,
    ClassLatency,
    extremes,
    history,
    latency_of_classes,
)
from edgecl.store.progress import PROBES
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.types import Float16, Float32, Float64, Frame, Labels

EVERY = 10
"""One of so many labelled samples of a class is held out."""
STEPS_AFTER_NEW = 50
"""Steps behind a new class of which each is scored."""
STEPS_BETWEEN = 10
"""Steps from one score to the next otherwise."""
LEAST_FRAMES = 4
"""Frames from one score to the next: a step of a single frame is too short for one of its own."""
MOST_EVALUATIONS = 2000
# A score may cost so many multiply-adds for each frame since the last: some four probes of 1,752
# features. A value costs as much as 100 of them beside its products, to be converted and scaled.
# Measured: docs/benchmarks.md, Continual evaluation.
_BUDGET, _PER_VALUE = 750_000, 100
# Squared distance over squared length; neighbours of 16-bit values are up to 1e-7 apart.
_SAME_PICTURE = 1e-6
# Probes that are converted, and predicted, at once.
_AT_ONCE = 1024


class Probes:
    """What the learner asks and tells about probes; all of it inside its transaction.

    What is kept in memory is read anew when the store was. Features are not: those that are asked
    for are read, a few a frame.

    Args:
        store: Open store.
        most: Probes of a class; with 0 kept samples are scored as if they had not been learned.
    """

    def __init__(self, store: Store, most: int) -> None:
        self._store = store
        self._most = most
        self._seen = -1
        self._pending: Counter[tuple[str, int]] = Counter()
        # Probes: uids, classes, whether each was right when it was last predicted (NaN: a head said
        # that learned what is gone), and squared lengths of their features (N,).
        self._uids: Labels
        self._classes: Labels
        self._right: Float64
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
        if not self._most:
            return [False] * len(names)
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
        self._pending[stage, int(BUCKETS_PER_OCTAVE * octaves)] += 1

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
        most = 0 if self._most or not is_due else affordable(head, self._frames)
        is_due = bool(is_due and (self._most or most))
        if is_due:
            if most:
                self._last, is_scored = score_left_out(self._store, head, most, self._last)
                self._count(is_scored)
            else:
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
        places = np.flatnonzero(near)
        for i, row in zip(places, self._features(places), strict=True):
            if _is_copy(x, row):
                return int(self._uids[i])
        return 0

    def _features(self, places: Labels) -> Float16:
        """Return the features (M, D) of the probes at some places, which ascend."""
        uids, classes = self._uids[places].tolist(), self._classes[places].tolist()
        return self._store.features_at(list(zip(uids, classes, strict=True)))

    def _evaluate(self, head: Head) -> None:
        """Predict the next probes and write the scores of every class that has some."""
        n = len(self._uids)
        if not n or not head.classes:
            return
        cost = head.num_features * (len(head.classes) + _PER_VALUE)
        most = n if np.isnan(self._right).any() else max(1, self._frames * _BUDGET // cost)
        if most >= n:
            turn, last = np.arange(n), n - 1
        else:
            first = int(np.searchsorted(self._uids, self._last, side="right"))
            turn, last = np.sort(np.arange(first, first + most) % n), (first + most - 1) % n
        parts = np.split(turn, range(_AT_ONCE, len(turn), _AT_ONCE))
        best = [best_of(head.predict_many, self._features(part)) for part in parts]
        said = np.array(head.classes)[np.concatenate(best)]
        right_now = (said == self._classes[turn]).astype(np.float64)
        changed = self._right[turn] != right_now
        self._right[turn] = right_now
        self._last = int(self._uids[last])
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
        self._count(True)

    def _count(self, is_scored: bool) -> None:
        """Thin the scores if one more is one too many."""
        self._n_evaluations += is_scored
        if self._n_evaluations >= MOST_EVALUATIONS:
            self._thin()

    def _thin(self) -> None:
        """Drop every second of the older half of the scores, but no class's lowest and highest.

        Only where these are more than half of what would go, with hundreds of classes, they go.
        """
        execute = self._store.connection.execute
        uids = [uid for (uid,) in execute("SELECT uid FROM evaluations ORDER BY uid")]
        kept = extremes(history(self._store))
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
        said = {o.uid: o.score for o in store.origins(Role.HELD_OUT)}
        uids: list[int] = []
        classes: list[int] = []
        sizes = [np.zeros(0, np.float32)]
        for part in store.parts(Role.HELD_OUT):
            sizes.append(_size_of(part.x))
            uids += part.uids.tolist()
            classes += part.classes.tolist()
        self._uids, self._classes = (
            np.array(uids, dtype=np.int64),
            np.array(classes, dtype=np.int64),
        )
        self._right = np.array([said[uid] for uid in uids], dtype=np.float64)
        self._sizes = np.concatenate(sizes)
        self._groups = None
        self._n_held = Counter(classes)
        self._latency = latency_of_classes(store)
        self._changed = set()
        execute = store.connection.execute
        (self._n_evaluations,) = execute("SELECT count(*) FROM evaluations").fetchone()
        row = execute("SELECT value FROM meta WHERE key = ?", (PROBES,)).fetchone()
        counters = row[0].split() if row else (0, 0, 0, 0)
        self._fast, self._steps, self._frames, self._last = map(int, counters)


def _size_of(x: Float16) -> Float32:
    """Return squared lengths (N,) of features (N, D)."""
    rows = x.astype(np.float32)
    sizes: Float32 = np.einsum("nd,nd->n", rows, rows)
    return sizes


def _is_copy(a: Float16, b: Float16) -> bool:
    """Whether two features are of one picture: alike but for how an engine rounds in a batch."""
    x = a.astype(np.float32)
    apart = x - b.astype(np.float32)
    return bool(apart @ apart <= _SAME_PICTURE * (x @ x))
