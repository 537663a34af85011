"""How good a home is now: its head's answers to the pictures that were held out.

*Accuracy* means one thing in edgecl: right answers divided by pictures asked (docs/evaluation.md).
`status`, `report` and whatever else says how good a home is take it from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgecl.home import Home
from edgecl.session import Session
from edgecl.store.samples import Rows
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.types import Labels


@dataclass(frozen=True, slots=True)
class Tested:
    """Answers to the held-out pictures of some classes.

    Args:
        probes: The pictures' samples; `classes` are places in the list of classes that was asked.
        guesses: What each is taken for, a place too, shape (N,).
        confusion: Pictures by class and by answer, shape (K, K).
    """

    probes: Rows
    guesses: Labels
    confusion: Labels

    @property
    def n(self) -> Labels:
        """Return the pictures of each class, shape (K,)."""
        return np.asarray(self.confusion.sum(axis=1))

    @property
    def right(self) -> Labels:
        """Return how many of them are answered rightly, shape (K,)."""
        return np.asarray(np.diagonal(self.confusion))

    @property
    def accuracy(self) -> float | None:
        """Return right answers divided by pictures, None without a picture."""
        n = int(self.confusion.sum())
        return int(self.right.sum()) / n if n else None


def shown_classes(store: Store) -> list[int]:
    """Return the uids of the classes that may be named: of which no unlearning was asked for."""
    hidden = store.blocked_classes() | set(store.lost_classes())
    return [uid for uid in store.names if uid not in hidden]


def tested_now(home: Home, store: Store, uids: Sequence[int]) -> Tested:
    """Ask the exact head for all held-out pictures of some classes; inside a snapshot.

    Args:
        home: The home.
        store: Its store, open to read.
        uids: Classes, none of which is being unlearned.
    """
    places = {uid: place for place, uid in enumerate(uids)}
    rows = store.rows(Role.HELD_OUT)
    shown = np.array([uid in places for uid in rows.classes.tolist()], dtype=bool)
    at = np.array([places[uid] for uid in rows.classes[shown].tolist()], dtype=np.int64)
    probes = Rows(rows.uids[shown], rows.x[shown], at)
    confusion = np.zeros((len(uids), len(uids)), np.int64)
    guesses = np.zeros(0, np.int64)
    if len(at):
        # Of the exact head: held-out samples keep plain features.
        scorer = Session(home, store).exact_scorer()
        by_name = {store.names[uid]: place for uid, place in places.items()}
        answers = np.array([by_name[label] for label in scorer.labels], dtype=np.int64)
        guesses = answers[scorer.scores(probes.x.astype(np.float32)).argmax(axis=1)]
        np.add.at(confusion, (at, guesses), 1)
    return Tested(probes, guesses, confusion)
