"""How good a home is now: its head's answers to the pictures that were held out.

Where none is (`evaluation.probes = 0`), an exact head is asked for each picture that it keeps, as
if it had not learned that one (docs/decisions/0021-no-picture-wasted.md). Where adapters are mixed
into the head, the mixture is asked, for those of either kind that no adapter was trained on.

*Accuracy* means one thing in edgecl: right answers divided by pictures asked (docs/evaluation.md).
`status`, `report` and whatever else says how good a home is take it from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgecl.calibration import mixture_of
from edgecl.heads.leave_one_out import LeaveOneOut
from edgecl.home import Home
from edgecl.runtime.scoring import best_of
from edgecl.session import Session
from edgecl.store.adapters import adapter_rows
from edgecl.store.samples import Rows
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.types import Labels


@dataclass(frozen=True, slots=True)
class Tested:
    """Answers to test pictures of some classes: held-out ones, or kept ones that were left out.

    Args:
        probes: The pictures' samples; `classes` are places in the list of classes that was asked.
        guesses: What each is taken for, a place too, shape (N,).
        confusion: Pictures by class and by answer, shape (K, K).
        is_left_out: Whether they were learned, and left out in closed form.
    """

    probes: Rows
    guesses: Labels
    confusion: Labels
    is_left_out: bool = False

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
    """Ask what is served for the test pictures of some classes; inside a snapshot.

    Args:
        home: The home.
        store: Its store, open to read.
        uids: Classes, none of which is being unlearned.
    """
    places = {uid: place for place, uid in enumerate(uids)}
    session, is_kept = Session(home, store), home.config.evaluation.probes == 0
    has_adapters = any(row.is_served for row in adapter_rows(store))
    mixed = None
    if uids and has_adapters:
        mixed = mixture_of(store, session.learner.head, store.blocked_classes())
    if is_kept and uids:
        left_out = mixed or session.leave_one_out()
        if left_out is not None:
            return _of_answers(store.rows(Role.REPLAY), left_out, places, is_left_out=True)
    if mixed is not None:
        return _of_answers(store.rows(Role.HELD_OUT), mixed, places)
    probes = _of(store.rows(Role.HELD_OUT), places)
    guesses = np.zeros(0, np.int64)
    if len(probes.uids):
        # Of the exact head: held-out samples keep plain features.
        scorer = session.exact_scorer()
        by_name = {store.names[uid]: place for uid, place in places.items()}
        answers = np.array([by_name[label] for label in scorer.labels], dtype=np.int64)
        guesses = answers[best_of(scorer, probes.x)]
    return Tested(probes, guesses, _confusion(probes.classes, guesses, len(uids)))


def _of_answers(
    rows: Rows, said: LeaveOneOut, places: Mapping[int, int], *, is_left_out: bool = False
) -> Tested:
    """Return the answers to those of some pictures of which something was said.

    The only picture of a class left out says nothing: without it the head does not know the class.
    """
    classes, counts = np.unique(said.classes, return_counts=True)
    usual = set(classes[counts > is_left_out].tolist())
    columns = np.array([uid in places for uid in said.columns.tolist()], dtype=bool)
    answers = np.array([places[uid] for uid in said.columns[columns].tolist()], np.int64)
    named = answers[said.scores[:, columns].argmax(axis=1)]
    by_uid = dict(zip(said.uids.tolist(), named.tolist(), strict=True))
    known = np.isin(rows.uids, said.uids)
    rows = Rows(rows.uids[known], rows.x[known], rows.classes[known])
    probes = _of(rows, {u: p for u, p in places.items() if u in usual})
    guesses = np.array([by_uid[uid] for uid in probes.uids.tolist()], dtype=np.int64)
    confusion = _confusion(probes.classes, guesses, len(places))
    return Tested(probes, guesses, confusion, is_left_out)


def _of(rows: Rows, places: Mapping[int, int]) -> Rows:
    """Return the samples of some classes, with the places of these instead of their uids."""
    shown = np.array([uid in places for uid in rows.classes.tolist()], dtype=bool)
    at = np.array([places[uid] for uid in rows.classes[shown].tolist()], dtype=np.int64)
    return Rows(rows.uids[shown], rows.x[shown], at)


def _confusion(at: Labels, guesses: Labels, n: int) -> Labels:
    confusion = np.zeros((n, n), np.int64)
    np.add.at(confusion, (at, guesses), 1)
    return confusion
