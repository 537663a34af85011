"""Telling a sink what sources show where nothing is learned: the votes of `edgecl predict`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgecl.runtime.discovery import Facts
from edgecl.runtime.predictor import Predictor
from edgecl.runtime.sinks import Sink
from edgecl.runtime.sources.base import Source
from edgecl.stream.votes import Votes
from edgecl.types import Frame, Prediction


class Told:
    """Votes on answers, those of each source by themselves, and emits what changes.

    Args:
        sink: Told.
        predictor: What gives the answers.
        sources: Where the frames come from; of several each event says which.
        vote: How many frames vote.
        min_score: What is less sure is told as `unsure`.
    """

    def __init__(
        self,
        sink: Sink,
        predictor: Predictor,
        sources: Sequence[Source],
        vote: int,
        min_score: float,
    ) -> None:
        self._sink, self._predictor, self._sources = sink, predictor, sources
        self._votes = {source.name: Votes(vote, min_score) for source in sources}

    def add(self, frame: Frame, answer: dict[str, Any]) -> None:
        """Take in one frame and what `Answers.of` said of it."""
        is_unknown = answer.get("unknown", False)
        score = answer["score"]
        chances: tuple[float, ...] = ()
        if is_unknown and answer.get("taught", True):
            score = 1.0 - score  # as a stream tells it
        elif self._predictor.calibration is not None and not is_unknown:
            chances = (answer["probability"],)
        found = Prediction(frame.id, answer["label"], score, (), chances)
        votes = self._votes.get(frame.source, next(iter(self._votes.values())))
        vote = votes.add(found, is_unknown=is_unknown, thing=frame.thing)
        if vote is None:
            return
        event = vote.as_event(frame)
        if len(self._sources) > 1:
            event["source"] = frame.source
        if vote.label == found.label:
            event |= {key: answer[key] for key in ("taught", "hint") if key in answer}
        self._sink.show(frame)
        self._sink.emit(event)

    def stand(self) -> None:
        """Tell how it stands with the sources."""
        names = tuple(s.name for s in self._sources) if len(self._sources) > 1 else ("",)
        lost = {name for name, s in zip(names, self._sources, strict=True) if s.lost}
        classes = tuple(self._predictor.scorer.labels)
        self._sink.follow(Facts(classes, sources=names, lost=frozenset(lost)))
