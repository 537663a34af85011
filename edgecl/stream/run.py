"""The training loop: frames of a source are predicted, learned and committed.

Test-then-train: every frame is predicted before it is learned. One flat loop serves files and live
sources; what differs is in `pending.py`.

Reference: Gama, Sebastiao and Rodrigues 2013, "On evaluating stream learning algorithms".
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np

from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.runtime.discovery import Facts
from edgecl.runtime.engines.base import Engine
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.pipeline import Embedded, embed
from edgecl.runtime.sources.base import Source
from edgecl.store.progress import Position
from edgecl.stream.commands import Command, Consolidate, FinishRequests
from edgecl.stream.labeller import Labeller
from edgecl.stream.progress import Progress
from edgecl.stream.served import StreamEngine
from edgecl.stream.standing import Standing
from edgecl.stream.state import Stream, label_of, labelled
from edgecl.stream.view import Sight
from edgecl.types import Frame, Skipped


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What a run does beside learning what the source names.

    Args:
        labeller: Names frames and tells what to do, or None: then the source alone does.
        emit: Gets an event whenever the vote over the last frames changes, or None.
        illustrate: Gets the frame of an event before it, or None.
        follow: Told how it stands with the device, or None.
        vote: How many frames vote.
        min_score: What is less sure is told as `unsure`.
        finds_unknown: Answer frames that look like nothing learned with `unknown`, and put the
            most novel into the review queue.
        takes_alike: Learn new classes whose names look like known ones.
        meant: Names of new classes that may, and of unlearned ones that are to be learned again;
            may change while it runs.
        consolidate: Done before the first frame of a new class, all before being committed, and at
            the end; None trains no adapter.
    """

    labeller: Labeller | None = None
    emit: Callable[[dict[str, Any]], None] | None = None
    illustrate: Callable[[Frame], None] | None = None
    follow: Callable[[Facts], None] | None = None
    vote: int = 5
    min_score: float = 0.0
    finds_unknown: bool = False
    takes_alike: bool = False
    meant: set[str] = field(default_factory=set)
    consolidate: Consolidate | None = None
    asked: Callable[[], Command | None] = lambda: None
    """Gives the next command of another thread, until there is none."""
    show: Callable[[Sight], None] | None = None
    """Shown every frame with what was said of it, or None."""


_PLAIN = StreamOptions()


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
    open_adapted: Callable[[], OnnxEngine] | None = None,
    options: StreamOptions = _PLAIN,
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
        open_adapted: Opens the engine that takes adapters, if somebody looks and there are some;
            None opens it with the settings of the home.
        options: Who labels frames while the stream runs, and who is told what is seen.
    """
    labeller = options.labeller
    engines = StreamEngine(engine, open_adapted or (lambda: home.engine(takes_adapters=True)))
    stream = Stream(
        home,
        learner,
        engines,
        source,
        key=key,
        start=start,
        has_feed=labeller is not None and labeller.has_feed,
        status=labeller.status if labeller is not None and labeller.has_keyboard else None,
        emit=options.emit,
        illustrate=options.illustrate,
        vote=options.vote,
        min_score=options.min_score,
        finds_unknown=options.finds_unknown,
        takes_alike=options.takes_alike,
        meant=options.meant,
        show=options.show,
    )
    if options.follow is not None:
        teaching = (lambda: None) if labeller is None else labeller.teaching
        stream.standing = Standing(home, learner, source, teaching, options.follow)
    preprocessing = home.manifest.preprocessing
    learner.embed_views = lambda pictures: engine.run(
        np.stack([preprocessing.tensor(picture) for picture in pictures])
    )
    groups = embed(
        islice(source.frames(start.n), limit),
        preprocessing,
        engines,
        batch_size=home.config.engine.batch_size,
        max_pixels=home.max_pixels,
        is_live=source.is_live,
        # The one frame that waits may be decoded; the many of a file are better packed.
        pixels_above=learner.shrink_to if source.is_live else None,
        wake=source.close,
    )
    return _learn(stream, groups, limit, should_stop, options)


def _learn(
    stream: Stream,
    groups: Generator[list[Embedded | Skipped]],
    limit: int | None,
    should_stop: Callable[[], bool],
    options: StreamOptions,
) -> Generator[Progress]:
    with closing(groups):
        for group in groups:
            yield from _obey(stream, iter(options.asked, None))
            yield from _listen(stream, options.labeller)
            if not stream.is_stopped:
                yield from _take(stream, group, options)
            if should_stop():
                stream.is_stopped = True
            if stream.is_stopped:
                break
            if stream.source.is_live:  # as a rule the next frame is in the engine now
                stream.learner.head.prepare()
    yield from _listen(stream, options.labeller)  # to a label for the last frames
    if stream.is_stopped:
        stream.pending.leave()
    else:
        # A limit ends the run, not the stream: what it cut is consolidated when it is whole.
        is_finished = limit is None or stream.pending.n_taken == len(stream.source)
        stream.commit(is_finished=is_finished)
        if options.consolidate is not None and is_finished:
            yield from _obey(stream, [replace(options.consolidate, label=None)])
    stream.pending.release()
    stream.learner.settle()
    yield stream.tell(is_interrupted=stream.is_stopped)


def _take(
    stream: Stream, group: Sequence[Embedded | Skipped], options: StreamOptions
) -> Iterator[Progress]:
    """Take in what came together."""
    for item in _named(group, options.labeller):
        if options.consolidate is not None and stream.is_new(item):
            yield from _obey(stream, [replace(options.consolidate, label=label_of(item))])
        stream.take(item)
        if stream.pending.is_full:
            yield from _commit(stream)
    if stream.pending.is_due(group):
        yield from _commit(stream)
    # Where every frame is skipped nothing is committed, and requests still come.
    elif group and not stream.pending.items:
        yield from _obey(stream, _requests(stream))
    if stream.has_to_tell:
        yield stream.tell()


def _listen(stream: Stream, labeller: Labeller | None) -> Iterator[Progress]:
    """Do what a labeller says; what it named late is learned at once, where that grows old."""
    if labeller is None:
        return
    yield from _obey(stream, labeller.poll())
    stream.events.extend(labeller.events())
    if stream.pending.items and stream.source.is_live:
        stream.commit()
        yield stream.tell()


def _obey(stream: Stream, commands: Iterable[Command]) -> Iterator[Progress]:
    for command in commands:
        if command.commits_first and stream.pending.items:
            stream.commit()
            yield stream.tell()
        command.run(stream)
        yield stream.tell()


def _commit(stream: Stream) -> Iterator[Progress]:
    stream.commit()
    yield stream.tell()
    yield from _obey(stream, _requests(stream))


def _requests(stream: Stream) -> list[Command]:
    """Return what another process asked for."""
    return [FinishRequests()] if stream.learner.store.has_requests() else []


def _named(
    group: Iterable[Embedded | Skipped], labeller: Labeller | None
) -> Iterator[Embedded | Skipped]:
    """Yield frames under the labels that a labeller gives them."""
    for item in group:
        if labeller is None or isinstance(item, Skipped):
            yield item
        else:
            yield labelled(item, labeller.label_of(item.frame))
