"""`edgecl evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecl.cli.check import check_labels, tell_notes
from edgecl.cli.options import (
    DEFAULT,
    BundleOption,
    FallbackOption,
    HeaderOption,
    HomeOption,
    JsonOption,
    LabelOption,
    LimitOption,
    ProviderOption,
    ThreadsOption,
    headers_of,
)
from edgecl.cli.output import print_json, print_table, say, say_skipped
from edgecl.cli.score import device_of, predictor_of
from edgecl.figures import percent

if TYPE_CHECKING:
    from edgecl.evaluation.metrics import Evaluation
    from edgecl.home import Home
    from edgecl.runtime.engines.base import EngineOptions
    from edgecl.runtime.sources import Source

# By the keys of the JSON object.
STREAM_FIGURES = {
    "average": "mean over the ends of tasks",
    "last": "at the end",
    "forgetting": "lost since its best",
    "worst_case": "worst case",
    "weakest": "weakest class at the end",
    "joint": "at the end, the same rows shuffled",
    "unseen": "classes that never came",
    "gap": "tasks until a class comes back",
    "stale": "still the old name after its task",
    "stale_relabelled": "  where relabel told it",
    "rewritten": "the new name after its task",
    "rewritten_relabelled": "  where relabel told it",
}


def evaluate(
    source: Annotated[str, typer.Argument(help="Labelled source, as train-stream takes.")],
    home: HomeOption = DEFAULT,
    bundle: BundleOption = None,
    label: LabelOption = None,
    limit: LimitOption = None,
    header_file: HeaderOption = None,
    provider: ProviderOption = None,
    allow_fallback: FallbackOption = False,
    threads: ThreadsOption = None,
    stream: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Learn the source beside the home, from nothing, in the order of a stream: "
            "recurring, rewriting, blurry or domains.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure accuracy on a labelled source, a live one until Ctrl-C; nothing is learned."""
    from edgecl.errors import SourceError
    from edgecl.evaluation.score import evaluate_stream
    from edgecl.runtime.engines.base import EngineOptions
    from edgecl.runtime.sources import open_source
    from edgecl.types import clean_label

    device, config = device_of(home, bundle)
    if stream is not None:
        _check_stream(stream, bundle)
    frames = open_source(
        source,
        label=None if label is None else clean_label(label),
        max_bytes=config.picture.max_bytes,
        headers=headers_of(header_file),
    )
    check_labels(frames)
    tell_notes(frames)
    frames.on_news = say
    options = EngineOptions(provider, threads, allow_fallback)
    if stream is not None and device is not None:
        return _print_streamed(device, options, frames, stream, limit, json=json)
    predictor = predictor_of(device, bundle, config, options)
    aliases: dict[str, str] = {}
    if device is not None:
        from edgecl.session import open_store

        with open_store(device, read_only=True) as store:
            aliases = store.aliases()
    scores = evaluate_stream(
        predictor, frames, batch_size=config.engine.batch_size, aliases=aliases, limit=limit
    )
    say_skipped(scores.skipped)
    if scores.n == 0:
        raise SourceError(
            f"source {frames.name} holds no labelled picture that can be used "
            f"({len(scores.skipped)} skipped); expected a sub-folder a class, a table, or --label"
        )
    _say_unknown(set(scores.per_class), set(predictor.scorer.labels))
    _print_scores(scores, frames.passed_over, json=json)


def _say_unknown(asked: set[str], known: set[str]) -> None:
    from edgecl.types import meant

    unknown = sorted(asked - known)
    if unknown:
        hints = [
            f"{name} ({near.strip()})" if (near := meant(name, known)) else name for name in unknown
        ]
        say(f"never learned, so counted as wrong: {', '.join(hints)}")


def _check_stream(kind: str, bundle: Path | None) -> None:
    from edgecl.errors import UsageError
    from edgecl.evaluation.streamed import check_kind

    check_kind(kind)
    if bundle is not None:
        raise UsageError(
            "--stream learns with the settings of a home, and a bundle has none; leave --bundle "
            "out, or name the home with --home"
        )


def _print_streamed(
    device: Home,
    options: EngineOptions,
    frames: Source,
    kind: str,
    limit: int | None,
    *,
    json: bool,
) -> None:
    """Learn a source in the order of a stream, beside the home, and print how well."""
    from edgecl.evaluation.streamed import ORDERS, evaluate_on_streams, gathered, summary
    from edgecl.session import reading

    config = device.config
    with reading(device, options) as session:
        of, skipped = gathered(session, frames, limit=limit)
        keys = session.store.codebook
    say_skipped(skipped)
    results = evaluate_on_streams(
        of, kind, config, keys=keys, say=lambda what, n, total: say(f"{what}: {n} of {total}")
    )
    figures, n_tested = summary(results), results[0].tested
    if json:
        print_json(
            {
                "stream": kind,
                "head": config.head.name,
                "backbone": device.manifest.backbone,
                "orders": ORDERS,
                "seen": len(of.y) + len(skipped) + sum(frames.passed_over.values()),
                "learned": results[0].learned,
                "tested": n_tested,
                "skipped": len(skipped),
                "passed_over": dict(frames.passed_over),
                **figures,
            }
        )
        return
    print(
        f"{config.head.name} on a {kind} stream, features of {device.manifest.backbone}\n"
        f"{results[0].learned:,} rows learned, {n_tested:,} pictures test, mean of {ORDERS} orders"
    )
    rows = [
        (STREAM_FIGURES[name], *_cells(name, value, figures[f"{name}_spread"]))
        for name, value in figures.items()
        if name in STREAM_FIGURES
    ]
    print_table("figures", ("figure", "mean", "+-"), rows)


def _cells(name: str, value: float | None, spread: float | None) -> tuple[str, str]:
    if value is None or spread is None:
        return "-", ""
    if name == "gap":
        return f"{value:.1f}", f"{spread:.1f}"
    return percent(value, 1), f"{100 * spread:.1f}"


def _print_scores(scores: Evaluation, passed_over: Mapping[str, int], *, json: bool) -> None:
    if json:
        seen = scores.n + len(scores.skipped) + sum(passed_over.values())
        print_json(
            {
                "seen": seen,
                "accuracy": scores.accuracy,
                "n": scores.n,
                "per_class": scores.per_class,
                "confusion": scores.confusion,
                "skipped": len(scores.skipped),
                "passed_over": dict(passed_over),
            }
        )
        return
    n_right = sum(row.get(label, 0) for label, row in scores.confusion.items())
    skipped = f", {len(scores.skipped):,} skipped" if scores.skipped else ""
    whole = percent(scores.accuracy, 1)
    print(f"accuracy {whole}: {n_right:,} of {scores.n:,} pictures right{skipped}")
    rows = []
    for label, share in scores.per_class.items():
        row = scores.confusion[label]
        wrong = [f"{name} {n}" for name, n in row.items() if name != label][:3]
        n = sum(row.values())
        rows.append((label, f"{row.get(label, 0)} of {n}", percent(share), ", ".join(wrong)))
    print_table("by class", ("class", "right", "share", "taken for"), rows)
