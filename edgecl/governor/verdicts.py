"""Witnesses: pictures whose answers are compared before and after a change.

A witness is a sample that the head did not learn from, or whose answer is what the head would give
had it not: held-out samples, and kept ones by leave-one-out. Both kinds share one space of uids,
so that a change is judged on those that were witnesses before and after it, whichever kind. Where
adapters are mixed into the head it is the mixture that is judged, on those of both kinds that no
adapter was trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from weakref import WeakKeyDictionary

import numpy as np

from edgecl.calibration import left_out_in_parts, mixture_key, mixture_of
from edgecl.learner import Learner
from edgecl.paired import Pairs
from edgecl.runtime.cores import on_cores
from edgecl.runtime.scoring import chooser
from edgecl.store.changes import OfClass, Verdicts
from edgecl.store.samples import Rows
from edgecl.store.table import Role

NOBODY = Verdicts(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, bool))


def held_out_verdicts(learner: Learner) -> Verdicts:
    """Return how a learner's head answers the held-out samples; they were never learned."""
    head, known = learner.head, np.array(learner.head.classes)
    if not len(known):
        return NOBODY
    best = chooser(head.scorer(learner.store.names))

    def asked(part: Rows) -> Verdicts:
        return Verdicts(part.uids, part.classes, known[best(part.x)] == part.classes)

    found = [NOBODY, *on_cores(asked, learner.store.parts(Role.HELD_OUT))]
    return Verdicts(*map(np.concatenate, zip(*found, strict=True)))


def kept_verdicts(learner: Learner) -> Verdicts:
    """Return how a learner's head would answer each kept sample, had it not learned that one.

    Nobody where the head has no closed form of it.
    """
    if not learner.head.classes:
        return NOBODY
    parts = left_out_in_parts(learner.store, learner.head, learner.store.blocked_classes())
    found = [NOBODY, *(Verdicts(part.uids, part.classes, part.verdicts) for part in parts)]
    return Verdicts(*map(np.concatenate, zip(*found, strict=True)))


_kept: WeakKeyDictionary[Learner, tuple[object, Verdicts]] = WeakKeyDictionary()
WITNESSES: tuple[Callable[[Learner], Verdicts], ...] = (
    held_out_verdicts,
    kept_verdicts,
)
"""Every kind of witness, asked in turn."""


def verdicts_of(learner: Learner) -> Verdicts:
    """Return the answers of all witnesses; asked once for a state of the store."""
    store = learner.store
    of = tuple(mixture_key(store).tolist())
    key = (store.version, store.loads, store.blocked_classes(), of)
    kept = _kept.get(learner)
    if kept is None or kept[0] != key:
        mixed = mixture_of(store, learner.head, store.blocked_classes())
        if mixed is not None:
            found = Verdicts(mixed.uids, mixed.classes, mixed.verdicts)
        else:
            parts = [kind(learner) for kind in WITNESSES]
            found = Verdicts(*map(np.concatenate, zip(*parts, strict=True)))
        kept = _kept[learner] = key, found
    return kept[1]


def paired(
    before: Verdicts, after: Verdicts, had: Mapping[int, int], has: Mapping[int, int]
) -> tuple[OfClass, ...]:
    """Return what a change did to each class that is there.

    A witness that is new, gone, or of another class by now is no pair.

    Args:
        before: Answers before it.
        after: And after.
        had: Samples that each class had learned before.
        has: And after.
    """
    _, i, j = np.intersect1d(before.uids, after.uids, assume_unique=True, return_indices=True)
    stays = before.classes[i] == after.classes[j]
    i, j = i[stays], j[stays]
    found = []
    for uid in has:
        own = before.classes[i] == uid
        was, now = before.right[i][own], after.right[j][own]
        pairs = Pairs(int(own.sum()), int((was & ~now).sum()), int((~was & now).sum()))
        learned = has[uid] - had.get(uid, 0)
        if learned or pairs.n:
            found.append(OfClass(uid, learned, pairs))
    return tuple(found)
