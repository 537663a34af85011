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
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.errors import IntegrityError, NothingLearnedError
from edgecl.heads.base import Labels, Memory, State, checked_pair, checked_rows, unknown_class
from edgecl.heads.codebook import default_codebook
from edgecl.heads.profile import PLAIN
from edgecl.heads.statistics import Moments
from edgecl.runtime.codebook import Addresses, Codebook
from edgecl.runtime.grid import quantise
from edgecl.runtime.scoring import KeyValueScorer, softmax
from edgecl.types import Float16, Float32, Float64

COUNTS_PRIOR = 0.5
LEARNING_RATE = 0.3
LABEL_SMOOTHING = 0.1
MOST_GRADIENT = 1.0
RELEARN_PASSES = 1


class KeyValueHead:
    """Key-value head.

    Args:
        num_features: Width D of the features.
        seed: Seed of the order in which survivors are learned anew (`sgd`).
        values: `counts` or `sgd`.
        codebook: Frozen keys; None takes keys that no data made, for tests and trials.
    """

    name = "key-value"
    batch_size = 10
    n_replay = 0
    profile = PLAIN

    def __init__(
        self,
        num_features: int,
        *,
        seed: int = 0,
        values: str = "counts",
        codebook: Codebook | None = None,
    ) -> None:
        self.num_features = num_features
        self.codebook = codebook or default_codebook(num_features)
        self._seed = seed
        self._is_sgd = values == "sgd"
        self.forget_mode = "exact_retrain" if self._is_sgd else "exact_head"
        self._moments: dict[int, Moments] = {}
        self._size = self.codebook.n_codebooks * self.codebook.n_keys
        self._table = np.zeros((0, self._size))  # counts (K, C * J)
        self._values = np.zeros((1, self._size))  # of sgd (K + 1, C * J), the last is not seen yet

    @property
    def classes(self) -> tuple[int, ...]:
        """Uids of the classes, in the order in which they came."""
        return tuple(self._moments)

    def learn_one(self, x: Float32, y: int) -> None:
        """Learn one feature (D,) of class y; changes the head."""
        self.learn_many(x[None], np.array([y]))

    def learn_many(
        self,
        x: Float32 | Float16,
        y: Labels,
        replay: tuple[Float32 | Float16, Labels] | None = None,
    ) -> None:
        """Learn features (N, D) of classes (N,); replay is not needed."""
        x, y = checked_pair(x, y, self.num_features)
        rows = quantise(x)
        flat = self._flat(rows)
        for uid in dict.fromkeys(y.tolist()):
            of = y == uid
            counts = np.bincount(flat[of].ravel(), minlength=self._size).astype(np.float64)
            total = rows[of].astype(np.float64).sum(axis=0)
            self._add(uid, Moments(int(of.sum()), total, counts))
        if self._is_sgd:
            self._step(flat, y)

    def predict_many(self, x: Float32) -> Float64:
        """Return scores (N, K) of features (N, D)."""
        if not self._moments:
            raise NothingLearnedError("the head knows no class; learn a sample first")
        checked_rows(x, self.num_features)
        return self._scorer(tuple(map(str, self.classes))).scores(x)

    def settle(self, memory: Memory | None = None) -> None:
        """Do nothing: counts are always up to date, and `sgd` learns by gradient."""

    @property
    def is_exact(self) -> bool:
        """Whether an unlearning gives the very bits of never having learned."""
        return not self._is_sgd

    def rebuild(self, memory: Memory) -> None:
        """Learn what a store holds, from nothing."""
        self._take(memory.all_moments())
        if self._is_sgd:
            self._relearn(*memory.stored_rows())

    def forget(self, y: int, memory: Memory) -> None:
        """Unlearn class y: drop its counts; with `sgd` learn the stored rest anew."""
        if y not in self._moments:
            raise unknown_class(y)
        self._take({uid: part for uid, part in self._moments.items() if uid != y})
        if self._is_sgd:
            x, labels = memory.stored_rows()
            self._relearn(x[labels != y], labels[labels != y])

    def state(self) -> State:
        """Return counts and values."""
        moments = list(self._moments.values())
        return {
            "classes": np.array(self.classes, dtype=np.int64),
            "n": np.array([m.n for m in moments], dtype=np.int64),
            "totals": np.array([m.total for m in moments]).reshape(-1, self.num_features),
            "counts": self._table.copy(),
            "values": self._values.copy(),
        }

    def load_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over what `state` returned."""
        self._take(
            {
                int(uid): Moments(int(n), np.array(total), np.array(counts))
                for uid, n, total, counts in zip(
                    state["classes"], state["n"], state["totals"], state["counts"], strict=True
                )
            }
        )
        self._values = np.array(state["values"])

    def restore(self, moments: Mapping[int, Moments], state: State | None) -> None:
        """Take over the statistics of a store, and with `sgd` the values of the last commit."""
        self._take(moments)
        if not self._is_sgd or not self._moments:
            return
        places = np.zeros(0, np.int64) if state is None else state["places"]
        values = np.zeros((1, 0)) if state is None else state["values"]
        if values.shape == (len(self._moments), len(places)):  # of a store before that column
            values = np.concatenate([values, np.zeros((1, len(places)))])
        if values.shape != (len(self._moments) + 1, len(places)):
            raise IntegrityError(
                f"the store has {len(self._moments)} classes and values of {len(values) - 1}; "
                "restore the home from a backup"
            )
        self._values[:, places] = values

    def saved_state(self) -> State | None:
        """Return None for counts, which are the store's statistics; else the values, sparse."""
        if not self._is_sgd:
            return None
        places = np.flatnonzero(self._values.any(axis=0))
        return {"places": places, "values": self._values[:, places]}

    def merged_with(self, other: KeyValueHead) -> KeyValueHead:
        """Return a head that learned what both learned, by adding counts.

        Args:
            other: A head of counts with the same keys.

        Raises:
            IntegrityError: Other keys, or values that cannot be added.
        """
        if self._is_sgd or other._is_sgd or self.codebook.digest != other.codebook.digest:
            raise IntegrityError("only heads of counts with the same keys can be merged")
        out = KeyValueHead(self.num_features, seed=self._seed, codebook=self.codebook)
        for head in (self, other):
            for uid, part in head._moments.items():
                out._add(uid, part)
        return out

    def scorer(self, names: Mapping[int, str]) -> KeyValueScorer:
        """Return the head as keys and tables."""
        return self._scorer(tuple(names[uid] for uid in self.classes))

    def _scorer(self, labels: tuple[str, ...]) -> KeyValueScorer:
        return KeyValueScorer(
            codebook=self.codebook,
            counts=self._table,
            values=self._values[:-1] if self._is_sgd else None,
            prior=COUNTS_PRIOR,
            labels=labels,
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
