"""A vote over the last frames: what is told changes only when most of them agree."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from edgecl.types import Frame, Prediction


@dataclass(frozen=True, slots=True)
class Vote:
    """A new majority.

    Args:
        label: The class, or `unknown`.
        score: Mean score of the frames that voted for it, 0 to 1.
        n: How many they were.
        of: Over how many frames is voted.
    """

    label: str
    score: float
    n: int
    of: int

    def as_event(self, frame: Frame) -> dict[str, Any]:
        """Return the event that is emitted when this vote came with a frame."""
        return {
            "event": "class",
            "label": self.label,
            "score": round(self.score, 4),
            "frame": frame.id,
            "time": frame.time,
            "votes": self.n,
            "of": self.of,
        }


class Votes:
    """The last k predictions.

    Args:
        k: How many vote; more than half of them must agree.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self._last: deque[Prediction] = deque(maxlen=k)
        self.told: str | None = None
        """What was told last."""

    def add(self, prediction: Prediction) -> Vote | None:
        """Take in one prediction; returns the majority if it is another than the last one told."""
        self._last.append(prediction)
        label, n = Counter(p.label for p in self._last).most_common(1)[0]
        if 2 * n <= self.k or label == self.told:
            return None
        self.told = label
        score = sum(p.score for p in self._last if p.label == label) / n
        return Vote(label, score, n, self.k)
