"""How far a source was learned: where a run begins, and under which key that is kept."""

from __future__ import annotations

import os

from edgecl.errors import RequestError
from edgecl.home import Home
from edgecl.learner import Learner, chain, position_key
from edgecl.runtime.options import split_options
from edgecl.runtime.sources import is_address
from edgecl.runtime.sources.base import Source
from edgecl.store.progress import Position


def start_position(
    home: Home, learner: Learner, source: Source, key: str, *, resume: bool
) -> Position:
    """Return where a run begins.

    Raises:
        RequestError: The source no longer begins with the frames that were learned.
    """
    beginning = Position(0, b"", False)
    if not resume:
        return beginning
    kept = learner.store.position(key) or beginning
    digest = b""
    n = 0
    for frame_id in source.ids(kept.n):
        digest = chain(home.key, digest, frame_id)
        n += 1
    if n != kept.n or digest != kept.digest:
        raise RequestError(
            f"source {source.name} no longer begins with the {kept.n} frames that were learned "
            "from it; name only the new pictures, or learn all again with --no-resume"
        )
    return kept


def source_key(
    home: Home,
    spec: str,
    label: str | None,
    shuffle_seed: int | None,
    every_s: float | None = None,
) -> str:
    """Return the key of a source's position; however a path is spelled, the key is the same."""
    base, options = split_options(spec)
    place = base if options else spec
    if place != "-" and not is_address(place):
        place = ",".join(os.path.realpath(part) for part in place.split(","))
    # What moves in a picture, or how often one is looked at, does not make it another source.
    place += f"?{options.region}" if options.region else ""
    every = () if every_s is None else (every_s,)
    return position_key(home, "position", place, label, shuffle_seed, *every)
