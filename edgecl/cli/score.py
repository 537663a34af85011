"""`edgecl predict`, and what it shares with `edgecl evaluate`."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli.check import tell_notes
from edgecl.cli.observe import LogOption, MetricsOption, observing
from edgecl.cli.options import (
    DEFAULT,
    BundleOption,
    EventFormatOption,
    EventsHeaderOption,
    EventsOption,
    EveryOption,
    FallbackOption,
    HeaderOption,
    HomeOption,
    MinScoreOption,
    ProviderOption,
    ThreadsOption,
    VoteOption,
    headers_of,
)
from edgecl.cli.outcome import is_home_named
from edgecl.cli.output import print_json, printable, say
from edgecl.cli.running import To
from edgecl.cli.tally import Tally

if TYPE_CHECKING:
    from edgecl.answers import Answers
    from edgecl.config import Config
    from edgecl.home import Home
    from edgecl.runtime.engines.base import EngineOptions
    from edgecl.runtime.pipeline import Embedded
    from edgecl.runtime.predictor import Predictor
    from edgecl.runtime.sinks import Sink
    from edgecl.runtime.sources import Source
    from edgecl.types import Frame, Skipped


def predict(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(help="Pictures, or sources as train-stream takes.")],
    home: HomeOption = DEFAULT,
    bundle: BundleOption = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="How many classes to name (1; with --json 3)."),
    ] = None,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Say `unknown` of what looks like nothing learned.")
    ] = False,
    level: Annotated[
        float | None,
        typer.Option(
            "--set",
            min=0.5,
            max=0.99,
            metavar="SHARE",
            help="Also give a set of labels that holds the truth with this share, like 0.9.",
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Name the kept samples that are nearest, and why.")
    ] = False,
    hint: Annotated[
        bool,
        typer.Option(
            "--hint", help="Say what it looks like to the weights' own classifier, never taught."
        ),
    ] = False,
    every: EveryOption = None,
    events: EventsOption = None,
    event_format: EventFormatOption = "json",
    events_header_file: EventsHeaderOption = None,
    vote: VoteOption = None,
    min_score: MinScoreOption = None,
    header_file: HeaderOption = None,
    log_json: LogOption = None,
    metrics: MetricsOption = None,
    provider: ProviderOption = None,
    allow_fallback: FallbackOption = False,
    threads: ThreadsOption = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a picture, a line each.")
    ] = False,
) -> None:
    """Predict pictures; nothing is learned."""
    import numpy as np

    from edgecl.answers import open_answers
    from edgecl.cli.times import seconds_of
    from edgecl.errors import DecodeError
    from edgecl.runtime.engines.base import EngineOptions
    from edgecl.stream.told import Told

    observer = context.with_resource(observing(log_json, metrics, command="predict"))
    top = top or (3 if json else 1)
    device, config = device_of(home, bundle)
    headers = headers_of(header_file)
    sources = _sources(paths, config.picture.max_bytes, headers)
    if every is not None:
        for source in sources:
            source.take_every(seconds_of(every))
    options = EngineOptions(provider, threads, allow_fallback)
    least = config.live.min_score if min_score is None else min_score
    if device is not None:
        answers = open_answers(
            device, options, unknown=unknown, hint=hint, explain=explain, min_score=least
        )
    else:
        predictor = predictor_of(device, bundle, config, options)
        answers = _of_bundle(predictor, unknown, least, needs_home=hint or explain)
    is_over = False
    groups = _groups(answers.predictor, sources, config.engine.batch_size)
    tally = Tally(observer, sources, len(answers.predictor.scorer.labels))
    # A live source ends when somebody stops it, and that is no error.
    with ExitStack() as stack, suppress(KeyboardInterrupt), closing(groups):
        told = None
        sink = _sink(To(events, event_format, events_header_file), sources, device)
        if sink is not None:
            stack.callback(sink.close)
            told = Told(sink, answers.predictor, sources, vote or config.live.vote, least)
        for group in groups:
            usable = tally.take(group)
            if told is not None:
                told.stand()
            if not usable:
                continue
            x = np.array([item.feature for item in usable])
            names = [_path(item.frame) for item in usable]
            for item, line in zip(usable, answers.of(names, x, top=top, level=level), strict=True):
                if told is not None:
                    told.add(item.frame, line)
                if events != "-":  # what changes is there, and nothing between it
                    _print_prediction(line, json=json)
        is_over = True
    if is_over and not tally.n_usable:
        raise DecodeError(tally.nothing())


def _groups(
    predictor: Predictor, sources: Sequence[Source], batch_size: int
) -> Generator[list[Embedded | Skipped]]:
    """Embed the frames of sources, one source after the other."""
    from edgecl.runtime.pipeline import embed

    def frames() -> Iterator[Frame | Skipped]:
        for source in sources:
            yield from source.frames()

    def close_all() -> None:
        for source in sources:
            source.close()

    return embed(
        frames(),
        predictor.preprocessing,
        predictor.engine,
        batch_size=batch_size,
        max_pixels=predictor.max_pixels,
        is_live=any(source.is_live for source in sources),
        wake=close_all,
    )


def _sink(to: To, sources: Sequence[Source], device: Home | None) -> Sink | None:
    """Open what hears events; a home notes where its classes' names are kept."""
    import edgecl
    from edgecl.runtime.discovery import About
    from edgecl.runtime.sinks import open_sinks
    from edgecl.session import open_store
    from edgecl.store.published import note_published
    from edgecl.stream.standing import about

    version = edgecl.__version__
    what = About("bundle", version) if device is None else about(device, version)
    sink = open_sinks(to.spec, sources, what, headers_of(to.header_file), to.format)
    if device is not None and sink is not None and sink.address is not None:
        with open_store(device) as store:
            note_published(store, sink.address)
    return sink


def _sources(paths: list[str], max_bytes: int, headers: Mapping[str, str] | None) -> list[Source]:
    from edgecl.errors import SourceError
    from edgecl.runtime.sources import open_source
    from edgecl.runtime.sources.folder import PictureSource

    sources: list[Source] = []
    for path in paths:
        try:
            sources.append(
                open_source(path, max_bytes=max_bytes, wants_classes=False, headers=headers)
            )
        except SourceError:
            if len(paths) == 1 or not Path(path).is_file():
                raise
            sources.append(PictureSource(Path(path), max_bytes=max_bytes))  # named when it is read
    for source in sources:
        tell_notes(source)
        source.on_news = say
    return sources


def device_of(home: Path, bundle: Path | None) -> tuple[Home | None, Config]:
    """Return the home, unless there is a bundle, and the settings."""
    from edgecl.config import Config

    if bundle is not None:
        if is_home_named():
            say("--bundle is asked; the home that --home names is not looked at")
        return None, Config()
    from edgecl.home import Home

    device = Home(home)
    return device, device.config


def predictor_of(
    device: Home | None,
    bundle: Path | None,
    config: Config,
    options: EngineOptions,
) -> Predictor:
    """Open what predicts in a home, or in a bundle: then neither SQLite nor a home is touched."""
    if bundle is not None:
        from edgecl.runtime import Predictor

        return Predictor(
            bundle,
            provider=options.provider or config.engine.provider,
            threads=options.threads or config.engine.threads,
            allow_fallback=options.allow_fallback,
            max_pixels=config.picture.max_pixels,
        )
    from edgecl.session import open_predictor

    assert device is not None
    return open_predictor(device, options)


def _of_bundle(
    predictor: Predictor, unknown: bool, min_score: float, *, needs_home: bool
) -> Answers:
    """Return what a bundle can answer."""
    from edgecl.answers import Answers
    from edgecl.errors import RequestError

    if needs_home:
        raise RequestError(
            "a bundle holds no kept samples and no classifier of the weights; --explain and --hint "
            "need a home, leave out --bundle"
        )
    if unknown and predictor.novelty is None:
        raise RequestError(
            "this bundle does not say what is unknown: it is of an older edgecl, or of a home "
            "that kept fewer than 10 samples of 2 classes; export it anew, or use --home"
        )
    novelty = predictor.novelty if unknown else None
    return Answers(predictor, novelty=novelty, min_score=min_score)


def _print_prediction(line: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(line)
        return
    ranked = ", ".join(f"{entry['label']} {entry['score']:.2f}" for entry in line["top"])
    what = f"unknown, most like {ranked}" if line.get("unknown") else ranked
    if line.get("taught") is False:
        what = f"{line['label']} {line['score']:.2f}, never taught; most like {ranked}"
    elif line["state"] == "unsure":
        what = f"unsure, most like {ranked}"
    if "hint" in line and line.get("taught") is not False:
        what += f"; looks like {line['hint'][0]['label']}, never taught"
    if "set" in line:
        what += f"; one of {', '.join(line['set']) or 'none of the labels'}"
    print(printable(f"{line['path']}: {what}"), flush=True)
    for text in _reasons(line.get("why")):
        print(printable(f"    {text}"), flush=True)


def _reasons(why: dict[str, Any] | None) -> Iterator[str]:
    """Say in lines why a picture is taken for what it is."""
    if why is None:
        return
    labels = list(why["nearest"])
    for label, nearest in why["nearest"].items():
        named = [f"{one['uid']} ({one['similarity']:.2f}, {one['frame']})" for one in nearest]
        yield f"nearest of {label}: {', '.join(named) or 'no sample is kept'}"
    if why["speaks"] is not None:
        part, by = why["speaks"]["part"], why["speaks"]["by"]
        yield f"more like {labels[0]} than {labels[1]} above all in the {part}, by {by:.2f}"


def _path(frame: Frame) -> str:
    """Return a path that opens the picture from here; a folder's ids are relative to it."""
    folder = Path(frame.source)
    return str(folder / frame.id) if frame.source and folder.is_dir() else frame.id
