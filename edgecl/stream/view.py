"""What a stream shows besides what it is taught: predictions, votes on them, and the unknown."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from edgecl.figures import percent
from edgecl.learner import Learner
from edgecl.runtime.novelty import UNKNOWN
from edgecl.runtime.options import Part
from edgecl.runtime.pipeline import Embedded
from edgecl.runtime.pretrained import Guess, Pretrained, hint_json
from edgecl.stream.recent import RecentFrames
from edgecl.stream.served import Served
from edgecl.stream.unknown import Unknowns
from edgecl.stream.votes import Votes
from edgecl.types import Frame, Prediction, state_of

_UNTAUGHT = {"taught": False}
_TOP = 3


def _nothing(sight: Sight) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Sight:
    """A frame, and what was said of it.

    Args:
        frame: The frame.
        label: The class, or `unknown`; empty while nothing is known.
        score: Its score, 0 to 1.
        state: `known`, `unsure`, `unknown`, or `nothing` while nothing was learned.
        top: The best classes with their scores.
        voted: What the vote over the last frames says, empty before there is one.
    """

    frame: Frame
    label: str = ""
    score: float = 0.0
    state: str = "nothing"
    top: tuple[tuple[str, float], ...] = ()
    voted: str = ""

    @property
    def source(self) -> str:
        """Name of its source."""
        return self.frame.source

    def as_json(self) -> dict[str, Any]:
        """Return all but the picture, JSON values."""
        return {
            "frame": self.frame.id,
            "source": self.frame.source,
            "time": self.frame.time,
            "taught": self.frame.label,
            "label": self.label,
            "score": round(self.score, 4),
            "state": self.state,
            "top": [[name, round(score, 4)] for name, score in self.top],
            "voted": self.voted,
        }


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
        show: Shown every frame with what was said of it, or None.
        recent: Keeps frames without a label, since that may still come; None keeps none.
        pretrained: Guesses what a frame shows that is unknown; None guesses nothing.
        takes_guess: The guess is what is told of it, marked as never taught.
        illustrate: Gets the frame of an event just before the event, or None.
        parts: The sources that are read together: each votes for itself, and events name it.
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
        show: Callable[[Sight], None] | None = None,
        recent: RecentFrames | None = None,
        pretrained: Pretrained | None = None,
        takes_guess: bool = False,
        illustrate: Callable[[Frame], None] | None = None,
        parts: Mapping[str, Part] = MappingProxyType({}),
    ) -> None:
        self.served, self.recent = served, recent
        self._pretrained, self._takes_guess = pretrained, takes_guess
        self._learner = learner
        self._emit, self._illustrate = emit, illustrate
        self._is_shown = is_shown
        self._show = show if show is not None else _nothing
        self._is_looked_at = emit is not None or is_shown or show is not None
        self.sight = ""
        """What the newest frame looks like, for a person."""
        self._vote, self._min_score, self._parts = vote, min_score, parts
        self._votes: dict[str, Votes] = {}  # by source
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
        if not self._is_looked_at or not self._learner.head.classes:
            self.sight = ""
            self._show(Sight(frame))
            return is_unknown
        found = self.served.predict(frame.id, x, top=_TOP)
        top = tuple((name, score) for name, score in found.top)
        hint: tuple[Guess, ...] = ()
        if is_unknown:
            found = Prediction(frame.id, UNKNOWN, 1.0 - found.score, ())
            hint = () if self._pretrained is None else self._pretrained.guesses(plain[None])[0]
        looks = "".join(f", looks like {name}" for name, _ in hint)
        more = hint_json(hint)
        if hint and self._takes_guess:
            ((name, share),) = hint
            found, looks, more = Prediction(frame.id, name, share, ()), ", never taught", _UNTAUGHT
        votes = self._votes_of(frame.source)
        state = state_of(found.probability, votes.min_score, is_unknown=is_unknown)
        doubt = ", unsure" if state == "unsure" else ""
        self.sight = f"sees {found.label} {percent(found.score)}{looks}{doubt}"
        of = {"source": frame.source} if self._parts else {}
        if of:
            self.sight = f"{frame.source} {self.sight}"
        vote = votes.add(found, is_unknown=is_unknown, thing=frame.thing)
        self._show(Sight(frame, found.label, found.score, state, top, votes.told))
        if vote is not None and self._emit is not None:
            if self._illustrate is not None:
                self._illustrate(frame)
            self._emit(vote.as_event(frame) | of | (more if vote.label == found.label else {}))
        return is_unknown

    def _votes_of(self, source: str) -> Votes:
        """Return the last predictions of one of several sources, or of the only one."""
        part = self._parts.get(source)
        name = source if part is not None else ""
        if name not in self._votes:
            least = None if part is None else part.threshold
            self._votes[name] = Votes(
                (part and part.vote) or self._vote, self._min_score if least is None else least
            )
        return self._votes[name]

    def forget(self) -> None:
        """Drop what was kept of the store, and take its adapters anew: it lost some."""
        if self._unknowns is not None:
            self._unknowns.forget()
        for votes in self._votes.values():
            votes.forget()
        self.served.adapters_changed()  # a class that is gone may have taken some along
