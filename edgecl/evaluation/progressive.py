"""Test-then-train over a source: every frame is predicted before it is learned.

Reference: Gama, Sebastiao and Rodrigues 2013, "On evaluating stream learning algorithms".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from types import MappingProxyType

import numpy as np

from edgecl.errors import RequestError
from edgecl.evaluation.metrics import Evaluation, evaluate
from edgecl.home import Home
from edgecl.learner import Learner, chain, position_key
from edgecl.runtime.engines.base import Engine
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.pipeline import Embedded, embed
from edgecl.runtime.predictor import Predictor
from edgecl.runtime.sources import is_address
from edgecl.runtime.sources.base import Source, close_source
from edgecl.store.progress import Position
from edgecl.stream.progress import Progress as Progress
from edgecl.stream.run import Live, Run
from edgecl.types import Skipped

_NOT_LIVE = Live()


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


def source_key(home: Home, spec: str, label: str | None, shuffle_seed: int | None) -> str:
    """Return the key of a source's position; however a path is spelled, the key is the same."""
    place = spec
    if spec != "-" and not is_address(spec):
        place = ",".join(os.path.realpath(part) for part in spec.split(","))
    return position_key(home, "position", place, label, shuffle_seed)


def learn_stream(
    home: Home,
    learner: Learner,
    engine: Engine,
    source: Source,
    *,
    key: str,
    start: Position,
    limit: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    renew: Callable[[str | None], bool] | None = None,
    open_adapted: Callable[[], OnnxEngine] | None = None,
    live: Live = _NOT_LIVE,
) -> Generator[Progress]:
    """Learn a source from a position on; yields after every commit, the last time at the end.

    An unlearning that another process asks for meanwhile is carried out between two commits; later
    frames of such a class or source are skipped, since the request came after they were on their
    way.

    Of a live source each frame is committed as it comes; one that is older than two frame times by
    then, or nearly equal to what its class just learned, is left out and counted. Frames without a
    label are predicted only, where the source may have some (live ones and standard input). Such
    a run also yields a few times a second while nothing is learned. The source is closed at the
    end.

    Args:
        home: The home, whose lock the caller holds.
        learner: Its learner.
        engine: Its engine, without adapters.
        source: Frames.
        key: Key of the source's position.
        start: Where to begin; of a live source it does not count.
        limit: Most frames to take.
        should_stop: Asked after every group of frames. Frames since the last commit are left to
            the run that resumes, so that a stopped stream ends in the head of one that was not.
        renew: Called before the first frame of a new class, with its name, and with None at the
            end; all before is committed. Returns whether the home has other adapters now.
        open_adapted: Opens the engine that takes adapters, if somebody looks and there are some;
            None opens it with the settings of the home.
        live: Who labels frames while the stream runs, and who is told what is seen.
    """
    run = Run(
        home,
        learner,
        engine,
        source,
        key=key,
        start=start,
        limit=limit,
        should_stop=should_stop,
        renew=renew,
        open_adapted=open_adapted,
        live=live,
    )
    return run.steps()


def evaluate_stream(
    predictor: Predictor,
    source: Source,
    *,
    batch_size: int = 8,
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> Evaluation:
    """Score a source's labelled frames, of a live one until Ctrl-C; nothing is learned.

    Args:
        predictor: What is scored.
        source: Labelled frames.
        batch_size: Pictures in one call of the engine.
        aliases: Names of classes by the other names that labels may use.
    """
    pairs: list[tuple[str, str]] = []
    skipped: list[Skipped] = []
    groups = embed(
        source.frames(),
        predictor.preprocessing,
        predictor.engine,
        batch_size=batch_size,
        max_pixels=predictor.max_pixels,
        is_live=source.is_live,
        wake=lambda: close_source(source),
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
