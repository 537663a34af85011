"""`edgecl train-stream`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli.check import check_labels, check_names, tell_notes
from edgecl.cli.learned import print_learned, taught_since
from edgecl.cli.observe import LogOption, MetricsOption, Observer, observing
from edgecl.cli.options import (
    DEFAULT,
    EventFormatOption,
    EventsHeaderOption,
    EventsOption,
    EveryOption,
    FallbackOption,
    HeaderOption,
    HomeOption,
    JsonOption,
    LabelOption,
    LimitOption,
    MinScoreOption,
    NewOption,
    ProviderOption,
    ThreadsOption,
    VoteOption,
    WeightsOption,
    headers_of,
)
from edgecl.cli.output import print_json, say, say_step
from edgecl.cli.running import (
    To,
    change_of,
    followed,
    listening,
    opened_sink,
    result_of,
    stop_flag,
    tell_same,
    tell_start,
)

if TYPE_CHECKING:
    from edgecl.home import Home
    from edgecl.learning import Given
    from edgecl.runtime.engines.base import EngineOptions
    from edgecl.runtime.sources import Source
    from edgecl.session import Session
    from edgecl.store.store import Store
    from edgecl.stream.run import StreamOptions


def train_stream(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            help="Folder, .csv, .jsonl, IDX pair, picture, film, - (JSON lines), camera:N, "
            "rtsp://, http://, gst:PIPELINE, mqtt://host/topic, watch:DIR, or synthetic: for a "
            "test pattern; else the sources that the home's settings name.",
            envvar="EDGECL_SOURCE",
        ),
    ] = None,
    home: HomeOption = DEFAULT,
    label: LabelOption = None,
    new: NewOption = False,
    head: Annotated[str | None, typer.Option(help="Head of a home that learned nothing.")] = None,
    limit: LimitOption = None,
    every: EveryOption = None,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Visit them in random order.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of that order.")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on where the last run stopped.")
    ] = False,
    consolidate_every: Annotated[
        int | None,
        typer.Option(min=2, help="Train an adapter whenever so many new classes were learned."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="Labels and commands while it runs: -, mqtt://host/topic or a file.",
            envvar="EDGECL_LABELS",
        ),
    ] = None,
    events: EventsOption = None,
    events_header_file: EventsHeaderOption = None,
    event_format: EventFormatOption = "json",
    vote: VoteOption = None,
    min_score: MinScoreOption = None,
    unknown: Annotated[
        bool,
        typer.Option(
            "--unknown", help="Tell what looks like nothing learned; keep it for `edgecl review`."
        ),
    ] = False,
    header_file: HeaderOption = None,
    log_json: LogOption = None,
    metrics: MetricsOption = None,
    weights: WeightsOption = None,
    provider: ProviderOption = None,
    allow_fallback: FallbackOption = False,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Learn a source in one pass; every frame is predicted before it is learned."""
    from edgecl.cli.times import seconds_of
    from edgecl.exporters.setup import Setup, open_or_set_up
    from edgecl.learning import Given
    from edgecl.runtime.engines.base import EngineOptions
    from edgecl.types import clean_label

    observer = context.with_resource(observing(log_json, metrics, command="train-stream"))
    given = Given(
        source,
        label=None if label is None else clean_label(label),
        shuffle_seed=seed if shuffle else None,
        every_s=None if every is None else seconds_of(every),
        headers=headers_of(header_file),
    )
    device = open_or_set_up(
        home,
        Setup(head=head or "ridge"),
        # What cannot be learned is told before the time that making a home takes.
        check=lambda: check_labels(given.open()),
        tell=say_step,
    )
    frames = given.open(device)
    check_labels(frames)
    tell_notes(frames)
    asked = _Asked(
        labels,
        To(events, event_format, events_header_file),
        vote,
        min_score,
        unknown,
        new,
        consolidate_every,
        weights,
    )
    engines = EngineOptions(provider, threads, allow_fallback)
    result, taught = _learned(
        device, given, frames, asked, engines, observer, head=head, limit=limit, resume=resume
    )
    if json:
        print_json(result)
    else:
        print_learned(result, taught, frames.notes)
    _check_some(result, frames)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a run does beside learning, as the options say."""

    labels: str | None
    to: To
    vote: int | None
    min_score: float | None
    unknown: bool
    new: bool
    consolidate_every: int | None
    weights: str | None


def _learned(
    device: Home,
    given: Given,
    frames: Source,
    asked: _Asked,
    engines: EngineOptions,
    observer: Observer,
    *,
    head: str | None,
    limit: int | None,
    resume: bool,
) -> tuple[dict[str, Any], dict[str, int]]:
    """Learn a source to its end; returns what is printed of it, and the classes it taught."""
    from edgecl.learning import learning
    from edgecl.session import open_learner
    from edgecl.stream.position import start_position
    from edgecl.unlearning.request import writing

    with writing(device, engines) as session, stop_flag() as flag, ExitStack() as stack:
        store = session.store
        if head is not None:
            session.learner = open_learner(device, store, head=head)
        check_names(store, frames, given.label, is_new=asked.new)
        options = _options(session, frames, stack, asked)
        key = given.key(device)
        start = start_position(device, session.learner, frames, key, resume=resume)
        before = store.n_seen()
        _tell_how(store, frames, given, options, key, resume=resume)
        run, change = stack.enter_context(
            learning(
                session,
                frames,
                key=key,
                start=start,
                limit=limit,
                should_stop=lambda: bool(flag),
                options=options,
                queue=stack.enter_context(listening(device)),
                tell=say,
            )
        )
        total = len(frames) if limit is None else min(len(frames) or limit, start.n + limit)
        progress = followed(run, observer, store, stack, total=total, done=start.n)
        taught = taught_since(store, before)
    if progress.is_interrupted and not frames.is_live:
        say("stopped; go on with --resume")
    tell_same(progress)
    result = result_of(progress, frames) | change_of(change)
    if options.consolidate is not None:
        result["consolidations"] = options.consolidate.accepted
    return result, taught


def _tell_how(
    store: Store, frames: Source, given: Given, options: StreamOptions, key: str, *, resume: bool
) -> None:
    """Say how a run begins, and what will not be learned."""
    if not frames.is_live:
        tell_start(store.position(key), resume=resume)
        return
    if resume:
        say(f"{frames.name} is live: nothing to go on from, it begins with what comes now")
    if options.labeller is None and given.label is None:
        say(
            "frames that come without a label are predicted only; "
            "--label NAME, --labels or keys in a terminal name them"
        )


def _check_some(result: Mapping[str, Any], frames: Source) -> None:
    """Check that not all frames had to be skipped.

    Raises:
        SourceError: They had.
    """
    from edgecl.errors import SourceError

    n = result["skipped"]
    if n and n == result["seen"] - sum(frames.passed_over.values()):
        raise SourceError(f"none of the {n} frames of {frames.name} could be learned; see above")


def _options(session: Session, source: Source, stack: ExitStack, asked: _Asked) -> StreamOptions:
    """Open who labels frames and who hears of them; the stack closes them."""
    from edgecl.cli.consolidate import consolidator
    from edgecl.runtime.options import overruled
    from edgecl.runtime.sources.labels import open_feed
    from edgecl.stream.commands import Consolidate
    from edgecl.stream.keys import Keyboard, has_keyboard
    from edgecl.stream.labeller import Labeller
    from edgecl.stream.run import StreamOptions

    source.parts = overruled(source.parts, vote=asked.vote, threshold=asked.min_score)
    sink = opened_sink(session, source, asked.to, stack)
    feed = open_feed(asked.labels, source, None if sink is None else sink.feed)
    if feed is not None:
        stack.callback(feed.close)
    keyboard = None
    if source.is_live and asked.labels != "-" and has_keyboard():
        keyboard = stack.enter_context(Keyboard(sys.stdin.fileno()))
    labeller = None
    if feed is not None or keyboard is not None:
        labeller = Labeller(
            lambda: session.learner.labels,
            read_keys=None if keyboard is None else keyboard.read,
            feed=feed,
            sources=[*source.parts] or [source.name],
        )
    consolidate = None
    if asked.consolidate_every is not None:
        train = consolidator(session, asked.weights)
        consolidate = Consolidate(asked.consolidate_every, lambda: train(lambda what: None))
    settings = session.home.config.live
    return StreamOptions(
        labeller=labeller,
        emit=None if sink is None else sink.emit,
        illustrate=None if sink is None else sink.show,
        follow=None if sink is None else sink.follow,
        vote=settings.vote if asked.vote is None else asked.vote,
        min_score=settings.min_score if asked.min_score is None else asked.min_score,
        finds_unknown=asked.unknown,
        takes_alike=asked.new,
        consolidate=consolidate,
    )
