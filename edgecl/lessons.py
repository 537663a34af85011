"""Samples that were learned, as what a head can subtract: read from the store, and taken back."""

from __future__ import annotations

from collections.abc import Sequence

from edgecl.learner import Learner, Lesson
from edgecl.store.changes import lessons_of
from edgecl.store.erasure import unknown_sample
from edgecl.store.store import Store


def lessons_between(store: Store, first: int, last: int) -> list[Lesson]:
    """Return what is there of samples with uids above `first` and up to `last`, oldest first."""
    return [
        Lesson(uid, class_uid, source, store.opened([(uid, class_uid, x)])[0], is_held_out)
        for uid, class_uid, source, x, is_held_out in lessons_of(store, first, last)
    ]


def unteach(learner: Learner, uids: Sequence[int]) -> int:
    """Take back samples, as if they had never been learned; returns how many.

    Raises:
        RequestError: One is not there, or waits for review; nothing was changed.
    """
    store, wanted = learner.store, set(map(int, uids))
    if not wanted:
        return 0
    found = [x for x in lessons_between(store, min(wanted) - 1, max(wanted)) if x.uid in wanted]
    for uid in sorted(wanted - {lesson.uid for lesson in found}):
        raise unknown_sample(uid)
    learner.undo(found)
    return len(found)
