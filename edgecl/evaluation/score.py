"""Accuracy on a source, of which nothing is learned."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from itertools import islice
from types import MappingProxyType

import numpy as np

from edgecl.evaluation.metrics import Evaluation, evaluate
from edgecl.runtime.pipeline import Embedded, embed
from edgecl.runtime.predictor import Predictor
from edgecl.runtime.sources.base import Source
from edgecl.types import Skipped


def evaluate_stream(
    predictor: Predictor,
    source: Source,
    *,
    batch_size: int = 8,
    aliases: Mapping[str, str] = MappingProxyType({}),
    limit: int | None = None,
) -> Evaluation:
    """Score a source's labelled frames, of a live one until Ctrl-C; nothing is learned.

    Args:
        predictor: What is scored.
        source: Labelled frames.
        batch_size: Pictures in one call of the engine.
        aliases: Names of classes by the other names that labels may use.
        limit: Most frames to take, skipped ones too; None takes all.
    """
    pairs: list[tuple[str, str]] = []
    skipped: list[Skipped] = []
    groups = embed(
        islice(source.frames(), limit),
        predictor.preprocessing,
        predictor.engine,
        batch_size=batch_size,
        max_pixels=predictor.max_pixels,
        is_live=source.is_live,
        wake=source.close,
    )
    # A live source ends when somebody stops it, and that is no error.
    ends = (KeyboardInterrupt,) if source.is_live else ()
    with suppress(*ends), closing(groups):
        for group in groups:
            usable = [item for item in group if isinstance(item, Embedded) and item.frame.label]
            for item in group:
                if isinstance(item, Skipped):
                    skipped.append(item)
                elif not item.frame.label:
                    skipped.append(Skipped(item.frame.id, "it has no label"))
            if not usable:
                continue
            x = np.array([item.feature for item in usable])
            guesses = predictor.predict_features([item.frame.id for item in usable], x, top=1)
            for item, guess in zip(usable, guesses, strict=True):
                label = item.frame.label or ""
                pairs.append((aliases.get(label, label), guess.label))
    return evaluate(pairs, skipped=skipped)
