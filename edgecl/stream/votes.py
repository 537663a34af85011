"""A vote over the last frames: what is told changes only when most of them agree, or cannot."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from typing import Any

from edgecl.types import Frame, Prediction, state_of

# Of which the votes are remembered at once.
_MOST_THINGS = 64


@dataclass(frozen=True, slots=True)
class Vote:
    """What the last frames show, told when its label or state is another than before.

    Args:
        label: The class, or `unknown`.
        score: Mean score of the frames that voted for it, 0 to 1.
        n: How many they were.
        of: Over how many frames is voted.
        state: `known`, `unsure` or `unknown`; see `Votes`.
        probability: Mean probability of these frames; None where nothing calibrates scores.
    """

    label: str
    score: float
    n: int
    of: int
    state: str = "known"
    probability: float | None = None

    def as_event(self, frame: Frame) -> dict[str, Any]:
        """Return the event that is emitted when this vote came with a frame."""
        event = {
            "event": "class",
            "label": self.label,
            "state": self.state,
            "score": round(self.score, 4),
            "frame": frame.id,
            "time": frame.time,
            "votes": self.n,
            "of": self.of,
        } | ({"object": frame.thing} if frame.thing else {})
        if self.probability is not None:
            event["probability"] = round(self.probability, 4)
        return event


class Votes:
    """The last k predictions.

    The state is `unknown` if most of them look like nothing learned, else `known` if more than
    half agree and are sure enough together. It is `unsure` if they are not, and also if k frames
    have no majority; then the label is what most are for, the one told last if it is among those.

    Args:
        k: How many vote; more than half of them must agree.
        min_score: Least mean probability (where nothing calibrates scores: score) of what is sure.
        is_of_thing: Whether all frames show one thing: then fewer than k may vote.
    """

    def __init__(self, k: int, min_score: float = 0.0, *, is_of_thing: bool = False) -> None:
        self.k, self.min_score = k, min_score
        self._is_of_thing = is_of_thing
        self._things: OrderedDict[str, Votes] = OrderedDict()
        self._last: deque[tuple[Prediction, bool]] = deque(maxlen=k)
        self._told = ("", "")

    def add(
        self, prediction: Prediction, *, is_unknown: bool = False, thing: str = ""
    ) -> Vote | None:
        """Take in one prediction; returns what is to be told, if it is another than before.

        Frames of a thing are voted on by themselves, so that a thing is told though the one before
        it was of the same class.
        """
        if thing:
            own = self._things.pop(thing, None) or Votes(self.k, self.min_score, is_of_thing=True)
            self._things[thing] = own
            if len(self._things) > _MOST_THINGS:
                self._things.popitem(last=False)
            return own.add(prediction, is_unknown=is_unknown)
        return self._add(prediction, is_unknown)

    def _add(self, prediction: Prediction, is_unknown: bool) -> Vote | None:
        self._last.append((prediction, is_unknown))
        counts = Counter((p.label, is_unknown) for p, is_unknown in self._last)
        told, was = self._told
        kind, n = max(counts.items(), key=lambda item: (item[1], item[0][0] == told))
        label, is_unknown = kind
        of = len(self._last) if self._is_of_thing else self.k
        is_agreed = 2 * n > of
        if not is_agreed and len(self._last) < of:
            return None
        own = [p for p, other in self._last if (p.label, other) == kind]
        is_calibrated = all(p.probabilities for p in own)
        sure = sum(p.probability for p in own) / n
        state = state_of(sure, self.min_score, is_unknown=is_unknown) if is_agreed else "unsure"
        # Without a majority the label changes with every frame; that they disagree is told once.
        if state == was and (label == told or not is_agreed):
            return None
        self._told = (label, state)
        score = sum(p.score for p in own) / n
        return Vote(label, score, n, of, state, sure if is_calibrated else None)

    @property
    def told(self) -> str:
        """The label that was told last, empty before there is one."""
        return self._told[0]

    def forget(self) -> None:
        """Drop all votes: one may be for a class that is gone."""
        self._last.clear()
        self._things.clear()
        self._told = ("", "")
