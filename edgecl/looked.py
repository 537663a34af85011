"""Labelled pictures of a source as features, of which nothing is learned here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import numpy as np

from edgecl.runtime.pipeline import Embedded, embed
from edgecl.runtime.sources.base import Source
from edgecl.session import Session
from edgecl.types import Skipped


def labelled_features(
    session: Session, source: Source, *, first: int = 0, most: int | None = None
) -> Iterator[Embedded | Skipped]:
    """Look at labelled frames of a source once; what cannot be used is skipped, with the reason.

    Args:
        session: The home whose engine looks; it need not have learned anything.
        source: The frames.
        first: Frames at the beginning that are left out.
        most: Most frames to take; None takes all.
    """
    home = session.home
    groups = embed(
        islice(source.frames(first), most),
        home.manifest.preprocessing,
        session.engine,
        batch_size=home.config.engine.batch_size,
        max_pixels=home.max_pixels,
        is_live=source.is_live,
        wake=source.close,
    )
    with closing(groups):
        for group in groups:
            for item in group:
                why = "" if isinstance(item, Skipped) else _unusable(item, source)
                yield Skipped(item.frame.id, why) if isinstance(item, Embedded) and why else item


def _unusable(item: Embedded, source: Source) -> str:
    if not item.frame.label:
        return source.no_label
    return "" if np.isfinite(item.feature).all() else "its feature is not finite"
