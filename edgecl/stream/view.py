"""What a stream shows besides what it is taught: predictions, votes on them, and the unknown."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from edgecl.learner import Learner
from edgecl.runtime.novelty import UNKNOWN
from edgecl.runtime.pipeline import Embedded
from edgecl.runtime.pretrained import Guess, Pretrained, hint_json
from edgecl.stream.recent import RecentFrames
from edgecl.stream.served import Served
from edgecl.stream.unknown import Unknowns
from edgecl.stream.votes import Votes
from edgecl.types import Frame, Prediction

_UNTAUGHT = {"taught": False}


class View:
    """Predicts frames for whom it concerns, with what was learned by then.

    Args:
        learner: Whose store is looked at for what is unknown.
        served: What predicts.
        emit: Gets an event whenever the vote over the last frames changes, or None.
        vote: How many frames vote.
        min_score: What is less sure is told as `unsure`.
        finds_unknown: Tell what looks like nothing learned, and offer it for review.
        is_shown: Whether somebody looks at `sight`.
        recent: Keeps frames without a label, since that may still come; None keeps none.
        pretrained: Guesses what a frame shows that is unknown; None guesses nothing.
        takes_guess: The guess is what is told of it, marked as never taught.
        show: Gets the frame of an event just before the event, or None.
    """

    def __init__(
        self,
        learner: Learner,
        served: Served,
        emit: Callable[[dict[str, Any]], None] | None,
        vote: int,
        *,
        finds_unknown: bool,
        min_score: float = 0.0,
        is_shown: bool = False,
        recent: RecentFrames | None = None,
        pretrained: Pretrained | None = None,
        takes_guess: bool = False,
        show: Callable[[Frame], None] | None = None,
    ) -> None:
        self.served, self.recent = served, recent
        self._pretrained, self._takes_guess = pretrained, takes_guess
        self._learner = learner
        self._emit, self._show = emit, show
        self._is_shown = is_shown
        self.sight = ""
        """What the newest frame looks like, for a person."""
        self._votes = Votes(vote, min_score)
        self._unknowns = Unknowns(learner.store, learner.encoded) if finds_unknown else None

    def look(self, item: Embedded) -> bool:
        """Predict a frame if anybody wants to know, and keep it, if its label may still come.

        Returns:
            Whether it is unknown; a frame that somebody named is not.
        """
        is_unknown = self._see(item)
        frame = item.frame
        if self.recent is not None and frame.label is None:
            # Pixels would fill it in seconds.
            small = frame if frame.pixels is None else self._learner.small(frame)
            # Its age when it is learned is the labeller's, so nothing measures it.
            small = replace(small, monotonic=0.0)
            self.recent.add(replace(item, frame=small), frame.time or time.time())
        return is_unknown

    def _see(self, item: Embedded) -> bool:
        frame, x = item.frame, item.feature
        plain = x[: self._learner.head.num_features]
        is_unknown = False
        if self._unknowns is not None and frame.label is None:
            is_unknown = self._unknowns.look(frame, plain)
        if (self._emit is None and not self._is_shown) or not self._learner.head.classes:
            self.sight = ""
            return is_unknown
        found = self.served.predict(frame.id, x)
        hint: tuple[Guess, ...] = ()
        if is_unknown:
            found = Prediction(frame.id, UNKNOWN, 1.0 - found.score, ())
            hint = () if self._pretrained is None else self._pretrained.guesses(plain[None])[0]
        looks = "".join(f", looks like {name}" for name, _ in hint)
        more = hint_json(hint)
        if hint and self._takes_guess:
            ((name, share),) = hint
            found, looks, more = Prediction(frame.id, name, share, ()), ", never taught", _UNTAUGHT
        is_unsure = not is_unknown and found.probability < self._votes.min_score
        self.sight = f"sees {found.label} {found.score:.0%}{looks}" + ", unsure" * is_unsure
        vote = self._votes.add(found, is_unknown=is_unknown, thing=frame.thing)
        if vote is not None and self._emit is not None:
            if self._show is not None:
                self._show(frame)
            self._emit(vote.as_event(frame) | (more if vote.label == found.label else {}))
        return is_unknown

    def forget(self) -> None:
        """Drop what was kept of the store, and take its adapters anew: it lost some."""
        if self._unknowns is not None:
            self._unknowns.forget()
        self._votes.forget()
        self.served.adapters_changed()  # a class that is gone may have taken some along
