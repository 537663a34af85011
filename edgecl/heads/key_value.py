"""Discrete key-value bottleneck: frozen keys, and values that only the keys in reach change.

A feature takes the nearest key in each of C codebooks (runtime/codebook.py), and the values at
these keys vote for a class. Two kinds of values:

- `counts` (default): how often samples of each class took a key. One pass, no order, mergeable by
  addition, and exactly forgettable: the counts of a class are its statistic in the store. A class
  scores the mean over codebooks of log((count + a) / (all counts + a K)), each class's counts over
  its size, read from the nearest keys until they hold 8 samples, the farther the lighter: one key
  when rows are many (docs/decisions/0006).
- `sgd` (the paper): a vector of values a key, zero at first, trained by gradient steps on the
  cross-entropy of their mean over codebooks, labels smoothed by 0.1, gradient norm cut to 1. One
  column of values is trained as the class that never comes; a new class starts as its copy.

A key that no sample took yet is not used in prediction: the nearest used key is taken.

Reference: Traeuble et al. 2023, "Discrete Key-Value Bottleneck", ICML, arXiv:2207.11240.
Departures: counts as values; features are centred and scaled, or whitened, before the projection;
the released code trains the columns of all classes to come from the first sample on, for which the
column that is not seen yet stands here. Without it the softmax of a first class is 1, which has no
gradient, and a later class was never pushed down at the keys of the earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgecl.heads.base import Head, Replay, State
from edgecl.heads.codebook import default_codebook
from edgecl.heads.leave_one_out import LeftOut, members
from edgecl.heads.memory import Memory
from edgecl.heads.statistics import KeyCounts, Moments
from edgecl.runtime.codebook import Addresses, Codebook
from edgecl.runtime.key_value import KeyValueScorer
from edgecl.runtime.scoring import softmax
from edgecl.types import Float16, Float32, Labels

COUNTS_PRIOR = 0.5
LEARNING_RATE = 0.3
LABEL_SMOOTHING = 0.1
MOST_GRADIENT = 1.0
RELEARN_PASSES = 1


class KeyValueHead(Head):
    """Key-value head.

    Args:
        num_features: Width D of the features.
        seed: Seed of the order in which survivors are learned anew (`sgd`).
        values: `counts` or `sgd`.
        codebook: Frozen keys; None takes keys that no data made, for tests and trials.
    """

    name = "key-value"
    batch_size = 10
    most_left_out = 300

    def __init__(
        self,
        num_features: int,
        *,
        seed: int = 0,
        values: str = "counts",
        codebook: Codebook | None = None,
    ) -> None:
        self.codebook = codebook or default_codebook(num_features)
        super().__init__(KeyCounts(num_features, self.codebook))
        self._seed = seed
        self._is_sgd = values == "sgd"
        if self._is_sgd:
            self.unlearns_exactly = False
            self.learned_parts = ("trained values of all keys",)
        self._moments: dict[int, Moments] = {}
        self._size = self.codebook.n_codebooks * self.codebook.n_keys
        self._table = np.zeros((0, self._size))  # counts (K, C * J)
        self._values = np.zeros((1, self._size))  # of sgd (K + 1, C * J), the last is not seen yet

    @property
    def classes(self) -> tuple[int, ...]:
        """Uids of the classes, in the order in which they came."""
        return tuple(self._moments)

    def learn_many(self, x: Float32 | Float16, y: Labels, replay: Replay | None = None) -> None:
        """Learn features (N, D) of classes (N,); replay is not needed."""
        rows, y = self.checked(x, y)
        flat = self._flat(rows)
        for uid in dict.fromkeys(y.tolist()):
            of = y == uid
            counts = np.bincount(flat[of].ravel(), minlength=self._size).astype(np.float64)
            total = rows[of].astype(np.float64).sum(axis=0)
            self._add(uid, Moments(int(of.sum()), total, counts))
        if self._is_sgd:
            self._step(flat, y)

    def rebuild(self, memory: Memory) -> None:
        """Learn what a store holds, from nothing."""
        self._take(memory.all_moments())
        if self._is_sgd:
            self._relearn(*memory.stored_rows())

    def restore(self, moments: Mapping[int, Moments], state: State | None) -> None:
        """Take over the statistics of a store, and with `sgd` the values of the last commit."""
        self._take(moments)
        if not self._is_sgd or not self._moments:
            return
        places = np.zeros(0, np.int64) if state is None else state["places"]
        values = np.zeros((1, 0)) if state is None else state["values"]
        self.check_state(len(values) - 1, len(self._moments))
        self._values[:, places] = values

    def state(self) -> State | None:
        """Return None for counts, which are the store's statistics; else the values, sparse."""
        if not self._is_sgd:
            return None
        places = np.flatnonzero(self._values.any(axis=0))
        return {"places": places, "values": self._values[:, places]}

    def left_out(self, x: Float16, y: Labels, groups: Labels | None = None) -> LeftOut | None:
        """Return scores by counts without the rows' own; None with `sgd`. See `Head.left_out`."""
        if self._is_sgd:
            return None
        self.check_learned(x)
        place = {uid: k for k, uid in enumerate(self._moments)}
        own, flat = np.array([place[uid] for uid in y.tolist()]), self._flat(x)
        scores = np.zeros((len(x), len(place)))
        scorer = self.scorer({uid: str(uid) for uid in place})  # reads the table that changes here
        for rows in members(groups, len(x)):
            if len(rows) < sum(part.n for part in self._moments.values()):
                np.subtract.at(self._table, (own[rows, None], flat[rows]), 1)
                scores[rows] = scorer.scores(x[rows].astype(np.float32))
                np.add.at(self._table, (own[rows, None], flat[rows]), 1)
        return LeftOut(scores, np.array([1 / self._moments[uid].n for uid in y.tolist()]))

    @property
    def left_out_cost(self) -> int | None:
        """What `most_left_out` says of 1,752 features, counted so; None with `sgd`."""
        return None if self._is_sgd else 45_000 * self.num_features

    def scorer(self, names: Mapping[int, str]) -> KeyValueScorer:
        """Return the head as keys and tables."""
        return KeyValueScorer(
            codebook=self.codebook,
            counts=self._table,
            values=self._values[:-1] if self._is_sgd else None,
            prior=COUNTS_PRIOR,
            labels=tuple(names[uid] for uid in self.classes),
        )

    def _flat(self, rows: Float16) -> Addresses:
        """Return places in the tables (N, C) of quantised rows."""
        steps = np.arange(self.codebook.n_codebooks) * self.codebook.n_keys
        flat: Addresses = self.codebook.addresses(rows) + steps
        return flat

    def _add(self, uid: int, part: Moments) -> None:
        if uid not in self._moments:
            self._moments[uid] = part
            self._table = np.concatenate([self._table, np.zeros((1, self._size))])
            self._values = np.concatenate([self._values, self._values[-1:]])
        else:
            self._moments[uid] = self._moments[uid].plus(part)
        self._table[list(self._moments).index(uid)] = self._moments[uid].second

    def _take(self, moments: Mapping[int, Moments]) -> None:
        self._moments = {}
        self._table = np.zeros((0, self._size))
        self._values = np.zeros((1, self._size))
        for uid, part in moments.items():
            self._add(uid, part)

    def _step(self, flat: Addresses, y: Labels) -> None:
        """Make one gradient step on the values of samples at places (N, C)."""
        place = {uid: k for k, uid in enumerate(self._moments)}
        k, n, c = len(place) + 1, len(flat), flat.shape[1]
        target = np.full((n, k), LABEL_SMOOTHING / k)
        target[np.arange(n), [place[uid] for uid in y.tolist()]] += 1 - LABEL_SMOOTHING
        logits = self._values[:, flat].mean(axis=2).T  # (N, K + 1)
        error = (softmax(logits) - target) / (n * c)  # (N, K + 1)
        gradient = np.zeros((self._size, k))
        np.add.at(gradient, flat, error[:, None, :])
        norm = float(np.linalg.norm(gradient))
        rate = LEARNING_RATE * min(1.0, MOST_GRADIENT / max(norm, 1e-12))
        self._values -= rate * gradient.T

    def _relearn(self, x: Float16, labels: Labels) -> None:
        self._values[:] = 0
        rng = np.random.default_rng([self._seed, 12])
        for _ in range(RELEARN_PASSES):
            order = rng.permutation(len(labels))
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                self._step(self._flat(x[batch]), labels[batch])
