"""`edgecl train-stream`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli.check import check_labels, check_names, tell_notes
from edgecl.cli.learned import print_learned, taught_since
from edgecl.cli.observe import LogOption, MetricsOption, Observer, observing
from edgecl.cli.options import (
    DEFAULT,
    EventFormatOption,
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
from edgecl.cli.output import StreamBar, is_quiet, print_json, say, say_step

if TYPE_CHECKING:
    from edgecl.governed import Governed
    from edgecl.home import Home
    from edgecl.learner import Learner
    from edgecl.runtime.sources import Source
    from edgecl.store.progress import Position
    from edgecl.store.store import Store
    from edgecl.stream.progress import Progress
    from edgecl.stream.run import StreamOptions


def train_stream(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="Folder, .csv, .jsonl, IDX pair, picture, film, - (JSON lines), camera:N, "
            "rtsp://, http://, gst:PIPELINE, mqtt://host/topic, watch:DIR, or synthetic: for a "
            "test pattern.",
            envvar="EDGECL_SOURCE",
        ),
    ],
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
    from edgecl.cli.consolidate import consolidator
    from edgecl.cli.times import seconds_of
    from edgecl.errors import SourceError
    from edgecl.exporters.setup import Setup, open_or_set_up
    from edgecl.governed import governed
    from edgecl.runtime.engines.base import EngineOptions
    from edgecl.runtime.sources import open_source
    from edgecl.session import open_learner
    from edgecl.stream.commands import Consolidate
    from edgecl.stream.position import source_key, start_position
    from edgecl.stream.run import learn_stream
    from edgecl.types import clean_label
    from edgecl.unlearning.request import writing

    observer = context.with_resource(observing(log_json, metrics, command="train-stream"))
    name = None if label is None else clean_label(label)
    headers = headers_of(header_file)
    shuffle_seed = seed if shuffle else None
    device = open_or_set_up(
        home,
        Setup(head=head or "ridge"),
        # What cannot be learned is told before the time that making a home takes.
        check=lambda: check_labels(
            open_source(source, label=name, shuffle_seed=shuffle_seed, headers=headers)
        ),
        tell=say_step,
    )
    frames = open_source(
        source,
        label=name,
        shuffle_seed=shuffle_seed,
        max_bytes=device.max_bytes,
        headers=headers,
    )
    check_labels(frames)
    every_s = None if every is None else seconds_of(every)
    if every_s is not None:
        frames.take_every(every_s)
    tell_notes(frames)

    engines = EngineOptions(provider, threads, allow_fallback)
    with writing(device, engines) as session, stop_flag() as flag, ExitStack() as stack:
        store = session.store
        learner = open_learner(device, store, head=head)
        check_names(store, frames, name, is_new=new)
        consolidate = None
        if consolidate_every is not None:
            train = consolidator(session, weights)
            consolidate = Consolidate(consolidate_every, lambda: train(lambda what: None))
        key = source_key(device, source, name, shuffle_seed, every_s)
        start = start_position(device, learner, frames, key, resume=resume)
        before = store.n_seen()
        if frames.is_live:
            if resume:
                say(f"{frames.name} is live: nothing to go on from, it begins with what comes now")
        else:
            tell_start(store.position(key), resume=resume)
        options = replace(
            _options(
                device, learner, frames, stack, labels=labels, events=events,
                event_format=event_format, vote=vote, min_score=min_score, unknown=unknown,
            ),
            consolidate=consolidate,
            takes_alike=new,
        )  # fmt: skip
        if frames.is_live and options.labeller is None and name is None:
            say(
                "frames that come without a label are predicted only; "
                "--label NAME, --labels or keys in a terminal name them"
            )
        run = learn_stream(
            device,
            learner,
            session.engine,
            frames,
            key=key,
            start=start,
            limit=limit,
            should_stop=lambda: bool(flag),
            open_adapted=lambda: session.adapted_engine,
            options=options,
        )
        total = len(frames) if limit is None else min(len(frames) or limit, start.n + limit)
        change = stack.enter_context(governed(session, "learn", learner=learner, tell=say))
        progress = followed(run, observer, store, stack, total=total, done=start.n)
        taught = taught_since(store, before)
    if progress.is_interrupted and not frames.is_live:
        say("stopped; go on with --resume")
    tell_same(progress)
    result = result_of(progress, frames) | change_of(change)
    if consolidate is not None:
        result["consolidations"] = consolidate.accepted
    if json:
        print_json(result)
    else:
        print_learned(result, taught)
    if progress.skipped and progress.skipped == progress.seen:
        raise SourceError(
            f"none of the {progress.seen} frames of {frames.name} could be learned; see above"
        )


def followed(
    run: Generator[Progress],
    observer: Observer,
    store: Store,
    stack: ExitStack,
    *,
    total: int,
    done: int,
) -> Progress:
    """Show a run to its end; returns where it ended. The stack closes what shows it.

    Args:
        run: What `learn_stream` gives.
        observer: Log and metrics.
        store: The open store that is measured.
        stack: Closed by the caller.
        total: Frames in all, or 0 when that is not known.
        done: Frames that an earlier run took.
    """
    stack.enter_context(observer.watching(store))
    observers: list[Callable[[Progress], None]] = [observer.update]
    if observer.is_for_people and not is_quiet():
        observers.append(stack.enter_context(StreamBar(total, done)).show)
    for progress in stack.enter_context(closing(run)):
        for observe in observers:
            observe(progress)
    return progress


def result_of(progress: Progress, source: Source) -> dict[str, Any]:
    """Return what `train-stream` prints at the end; files that were passed over were seen, too."""
    return {
        "seen": progress.seen + progress.passed_over,
        "learned": progress.learned,
        "skipped": progress.skipped,
        "classes": progress.n_classes,
        "prequential_accuracy": progress.prequential_accuracy,
        "samples_per_second": progress.samples_per_second,
        "seconds": progress.seconds,
        "started_at": progress.start,
        "interrupted": progress.is_interrupted,
        "held_out": progress.held_out,
        "passed_over": dict(source.passed_over),
        "unlabelled": progress.unlabelled,
        "unknown": progress.unknown,
        "duplicates": progress.duplicates,
        "stale": progress.stale,
        "undone": progress.undone,
        "same_as": _same_as(progress),
        "dropped": progress.dropped,
        "reconnects": progress.reconnects,
        "stalls": progress.stalls,
        "repeated": progress.repeated,
        "broken": progress.broken,
        "oversize": progress.oversize,
        "not_pictures": progress.not_pictures,
        "p50_ms": progress.p50_ms,
        "p99_ms": progress.p99_ms,
    }


def change_of(change: Governed) -> dict[str, Any]:
    """Return what a command prints of the change that it made; nothing where none is recorded."""
    if change.uid is None or change.judgement is None:
        return {}
    return {
        "change": f"c{change.uid}",
        "change_state": change.state,
        "verdict": change.judgement.verdict,
    }


def _same_as(progress: Progress) -> dict[str, dict[str, int]]:
    """Return how many pictures of each class another one has, too."""
    found: dict[str, dict[str, int]] = {}
    for label, other, n in progress.same_as:
        found.setdefault(label, {})[other] = n
    return found


def tell_same(progress: Progress) -> None:
    """Say that pictures were taught under another name than before, and how that is mended."""
    for label, other, n in progress.same_as:
        what = f"{n} of the pictures of {label} look" if n > 1 else f"a picture of {label} looks"
        say(
            f"{what} exactly like {other}; if that was a slip, `edgecl undo` takes this run back, "
            f"or `edgecl merge-classes {quote(label)} {quote(other)}` makes one class of both"
        )


def _options(
    device: Home,
    learner: Learner,
    source: Source,
    stack: ExitStack,
    *,
    labels: str | None,
    events: str | None,
    event_format: str,
    vote: int | None,
    min_score: float | None,
    unknown: bool,
) -> StreamOptions:
    """Open who labels frames and who hears of them; the stack closes them."""
    import edgecl
    from edgecl.runtime.sinks import open_sinks
    from edgecl.runtime.sources.labels import open_feed
    from edgecl.store.published import note_published
    from edgecl.stream.keys import Keyboard, has_keyboard
    from edgecl.stream.labeller import Labeller
    from edgecl.stream.run import StreamOptions
    from edgecl.stream.standing import about

    what = about(device, edgecl.__version__, can_teach=source.kind != "finite")
    sink = open_sinks(events, [source], what, event_format)
    if sink is not None:
        stack.callback(sink.close)
        if sink.address is not None:
            note_published(learner.store, sink.address)
    feed = open_feed(labels, source, None if sink is None else sink.feed)
    if feed is not None:
        stack.callback(feed.close)
    keyboard = None
    if source.is_live and labels != "-" and has_keyboard():
        keyboard = stack.enter_context(Keyboard(sys.stdin.fileno()))
    labeller = None
    if feed is not None or keyboard is not None:
        labeller = Labeller(
            lambda: learner.labels,
            read_keys=None if keyboard is None else keyboard.read,
            feed=feed,
        )
    return StreamOptions(
        labeller=labeller,
        emit=None if sink is None else sink.emit,
        show=None if sink is None else sink.show,
        follow=None if sink is None else sink.follow,
        vote=device.config.live.vote if vote is None else vote,
        min_score=device.config.live.min_score if min_score is None else min_score,
        finds_unknown=unknown,
    )


def tell_start(kept: Position | None, *, resume: bool) -> None:
    """Say what an earlier run learned of the source."""
    if kept is None:
        return
    if kept.is_finished:
        say(
            f"this source was learned to its end before, {kept.n} frames; "
            + ("only what is new at its end is learned now" if resume else "learning it again")
        )
    elif not resume:
        say(f"an earlier run stopped at frame {kept.n}; --resume would go on from there")
    else:
        say(f"going on at frame {kept.n}")


@contextmanager
def stop_flag() -> Iterator[list[int]]:
    """Collect the first Ctrl-C or SIGTERM instead of ending; the second one ends."""
    flag: list[int] = []

    def note(number: int, _: object) -> None:
        flag.append(number)
        say("stopping after this step; once more to break off")
        for name, handler in before.items():
            signal.signal(name, _leave if handler is signal.SIG_DFL else handler)

    before = {name: signal.signal(name, note) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _leave(number: int, _: object) -> None:
    """End at once, but restore the terminal."""
    sys.exit(128 + number)
