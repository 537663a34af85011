"""A new adapter beside what is served, on live frames, before it is taken.

A consolidation is judged on kept pictures, which are old by the time. With `governor.shadow_frames`
an adapter that passed is a candidate first: one live frame a second is answered with it as well,
until there are so many. Where somebody named the frame, both answers are right or wrong, and the
same exact test that judges changes says whether the candidate is worse (edgecl/paired.py); it is
taken unless it is. Frames that nobody named and that are answered differently wait for review.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from edgecl.governor.record import note_shadowed
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.paired import mcnemar
from edgecl.runtime.engines.base import Engine
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.grid import quantise
from edgecl.runtime.pipeline import Embedded
from edgecl.runtime.preprocess import picture_of
from edgecl.store.adapters import (
    Shadowed,
    TaskAdapter,
    adapter_rows,
    drop_adapters,
    mixed_with,
    note_shadow,
    task_adapters,
)
from edgecl.store.novel import offer
from edgecl.stream.events import Event, ShadowEnded

_EVERY_S = 1.0
# Frames between two commits of how far it is; a killed run asks so many again.
_COMMIT_EVERY = 10


class Shadow:
    """Asks the candidate, if there is one, for a live frame a second.

    Args:
        home: The home, whose settings say for how many frames.
        learner: Its exact head.
        open_adapted: Opens the engine that takes adapters.
        events: Where the outcome is told.
    """

    def __init__(
        self,
        home: Home,
        learner: Learner,
        open_adapted: Callable[[], OnnxEngine],
        events: deque[Event],
    ) -> None:
        self._home, self._learner, self._events = home, learner, events
        self._open_adapted = open_adapted
        self._next_at = 0.0
        self.forget()

    def forget(self) -> None:
        """Look anew whether there is a candidate: one came, or the store lost some."""
        store = self._learner.store
        is_there = any(row.shadow is not None for row in adapter_rows(store))
        bank = task_adapters(store) if is_there else []
        self._candidate = next((task for task in bank if task.shadow is not None), None)
        self._bank = [task for task in bank if task.shadow is None]
        self._seen = self._candidate.shadow if self._candidate is not None else None
        self._engines: dict[int, Engine] = {}

    def look(self, item: Embedded) -> bool:
        """Take in a live frame, before it is learned; returns whether other adapters serve now."""
        at, store = item.frame.time or time.time(), self._learner.store
        if self._candidate is None or self._seen is None:
            return False
        if at < self._next_at or not self._learner.head.classes:
            return False
        self._next_at = at + _EVERY_S
        (served, _), (new, share) = self._answers(item, self._candidate)
        label = item.frame.label
        truth = store.canonical(label) if label is not None and store.has_class(label) else None
        self._seen = self._seen.plus(served, new, truth)
        if served != new and label is None:
            self._offer(item, served, share)
        if self._seen.frames >= self._home.config.governor.shadow_frames:
            return self._end(self._candidate, self._seen)
        if self._seen.frames % _COMMIT_EVERY == 0:
            with store.transaction(changes_head=False):
                note_shadow(store, self._candidate.uid, self._seen)
        return False

    def _answers(self, item: Embedded, candidate: TaskAdapter) -> list[tuple[str, float]]:
        """Return what is served of a frame, and what would be, each with its share."""
        store, head = self._learner.store, self._learner.head
        frozen, said = head.scorer(store.names), []
        for n, bank in enumerate((self._bank, [*self._bank, candidate.taken()])):
            scorer, adapters = mixed_with(frozen, bank, store.names)
            x = item.feature[None, : head.num_features]
            if adapters:
                if n not in self._engines:
                    self._engines[n] = self._open_adapted().with_adapters(*adapters)
                how, most = self._home.manifest.preprocessing, self._home.max_pixels
                image = picture_of(item.frame, max_pixels=most, least_side=how.least_side)
                x = self._engines[n].run(how.tensor(image)[None])
            scores = scorer.scores(x)
            best = int(scores[0].argmax())
            said.append((scorer.labels[best], float(scorer.probabilities(scores)[0, best])))
        return said

    def _offer(self, item: Embedded, served: str, share: float) -> None:
        """Let a frame wait for its name, behind those that are unknown."""
        store, frame = self._learner.store, item.frame
        x = quantise(item.feature[None, : self._learner.head.num_features])[0]
        with store.transaction(changes_head=False):
            offer(
                store,
                picture=self._learner.encoded(frame),
                x=x,
                guess=store.class_uid(served),
                score=share,
                source=frame.source,
                frame=frame.id,
                time=frame.time or time.time(),
            )

    def _end(self, candidate: TaskAdapter, seen: Shadowed) -> bool:
        """Take the candidate, or not; returns whether it is taken."""
        store, policy = self._learner.store, self._home.config.governor
        is_worse = mcnemar(seen.pairs) <= policy.alpha and seen.pairs.drop > policy.mean_drop
        with store.transaction(changes_head=False):
            if is_worse:
                drop_adapters(store, [candidate.uid])
            else:
                note_shadow(store, candidate.uid, None)
            note_shadowed(store, candidate.uid, seen, is_taken=not is_worse)
        self._events.append(ShadowEnded(candidate.uid, not is_worse, seen.in_words()))
        self.forget()
        return not is_worse
