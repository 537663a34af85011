"""Telling a sink what a source shows where nothing is learned: the votes of `edgecl predict`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgecl.stream.votes import Votes
from edgecl.types import Frame, Prediction


class Told:
    """Votes on answers, those of each source by themselves, and emits what changes.

    Args:
        emit: Gets an event and the frame with which it came.
        vote: How many frames vote.
        min_score: What is less sure is told as `unsure`.
        is_calibrated: Whether the probabilities of answers are more than their scores.
        n_sources: How many sources there are; of several each event says which.
    """

    def __init__(
        self,
        emit: Callable[[dict[str, Any], Frame], None],
        vote: int,
        min_score: float,
        *,
        is_calibrated: bool,
        n_sources: int = 1,
    ) -> None:
        self._emit, self._vote, self._min_score = emit, vote, min_score
        self._is_calibrated, self._n_sources = is_calibrated, n_sources
        self._votes: dict[str, Votes] = {}

    def add(self, frame: Frame, answer: dict[str, Any]) -> None:
        """Take in one frame and what `Answers.of` said of it."""
        is_unknown = answer.get("unknown", False)
        score, chances = answer["score"], (answer.get("probability"),)
        if is_unknown and answer.get("taught", True):
            score = 1.0 - score  # as a stream tells it
        if is_unknown or not self._is_calibrated or chances == (None,):
            chances = ()
        found = Prediction(frame.id, answer["label"], score, (), chances)
        votes = self._votes.setdefault(frame.source, Votes(self._vote, self._min_score))
        vote = votes.add(found, is_unknown=is_unknown)
        if vote is not None:
            where = {"source": frame.source} if self._n_sources > 1 else {}
            more = {key: answer[key] for key in ("taught", "hint") if key in answer}
            self._emit(
                vote.as_event(frame) | where | (more if vote.label == found.label else {}), frame
            )
