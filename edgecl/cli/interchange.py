"""`edgecl import`."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli.learned import print_learned, taught_since
from edgecl.cli.observe import LogOption, MetricsOption, Observer, observing
from edgecl.cli.options import (
    DEFAULT,
    FallbackOption,
    HomeOption,
    JsonOption,
    NewOption,
    ProviderOption,
    ThreadsOption,
)
from edgecl.cli.outcome import print_outcome
from edgecl.cli.output import print_json, say, say_step
from edgecl.figures import counted

if TYPE_CHECKING:
    from edgecl.runtime.engines.base import EngineOptions
    from edgecl.runtime.sources.datasets import Dataset


def import_(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="Folder, .json or .tm file of another tool.")],
    format: Annotated[
        str,
        typer.Option(
            help="auto, imagefolder, frigate, jetson, teachable-machine, coco, one-hot, "
            "fiftyone or edgecl."
        ),
    ] = "auto",
    pictures: Annotated[
        Path | None, typer.Option(help="Folder of a COCO list's pictures, if they lie elsewhere.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Code page of the names in a zip, such as cp1252.")
    ] = None,
    new: NewOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be learned, and learn nothing.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, max=2**62, help="Most pictures to take.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on where the last run stopped.")
    ] = False,
    log_json: LogOption = None,
    metrics: MetricsOption = None,
    home: HomeOption = DEFAULT,
    provider: ProviderOption = None,
    allow_fallback: FallbackOption = False,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Learn another tool's dataset in one pass; every picture is predicted before it is learned."""
    from edgecl.runtime.sources.datasets import open_dataset

    observer = context.with_resource(observing(log_json, metrics, command="import"))
    how: dict[str, Any] = {"format": format, "pictures": pictures, "encoding": encoding}
    dataset = open_dataset(path, **how)
    _tell(dataset)
    found = {
        "format": dataset.format,
        "classes_found": dataset.classes,
        "left_out": list(dataset.notes),
        "passed_over": dict(dataset.source.passed_over),
    }
    taught: dict[str, int] = {}
    if dry_run:
        result: dict[str, Any] = found | {"pictures": len(dataset.source)}
    else:
        from edgecl.runtime.engines.base import EngineOptions

        options = EngineOptions(provider, threads, allow_fallback)
        learned, taught = _learn(
            path,
            how,
            home,
            observer,
            options,
            read_as=dataset.format,
            limit=limit,
            resume=resume,
            is_new=new,
        )
        result = found | learned
    if json:
        print_json(result)
    elif dry_run:
        print_outcome(
            f"would learn {counted(len(dataset.source), 'picture')} of "
            f"{counted(len(dataset.classes), 'class')}: {', '.join(dataset.classes)}",
            result,
        )
    else:
        print_learned(result, taught, dataset.notes)
    n_frames = 0 if dry_run else result["seen"] - sum(result["passed_over"].values())
    if n_frames and result["skipped"] == n_frames:
        from edgecl.errors import SourceError

        raise SourceError(f"none of the {n_frames} pictures of {path} could be learned; see above")


def _tell(dataset: Dataset) -> None:
    n = len(dataset.classes)
    say(f"read as {dataset.format}: {dataset.why}; {n} classes, {len(dataset.source)} pictures")
    for note in dataset.notes:
        say(note)


def _learn(
    path: Path,
    how: dict[str, Any],
    home: Path,
    observer: Observer,
    options: EngineOptions,
    *,
    read_as: str,
    limit: int | None,
    resume: bool,
    is_new: bool,
) -> tuple[dict[str, Any], dict[str, int]]:
    """Learn a dataset; returns what `train-stream` prints, and the samples of what was taught."""
    from edgecl.cli.check import check_names
    from edgecl.cli.running import (
        change_of,
        followed,
        listening,
        result_of,
        stop_flag,
        tell_same,
        tell_start,
    )
    from edgecl.exporters.setup import Setup, open_or_set_up
    from edgecl.learner import position_key
    from edgecl.learning import learning
    from edgecl.runtime.sources.datasets import open_dataset
    from edgecl.stream.position import start_position
    from edgecl.unlearning.request import writing

    device = open_or_set_up(home, Setup(), tell=say_step)
    source = open_dataset(path, max_bytes=device.max_bytes, **how).source
    with writing(device, options) as session, stop_flag() as flag, ExitStack() as stack:
        store = session.store
        check_names(store, source, None, is_new=is_new)
        key = position_key(device, "position", "import", read_as, os.path.realpath(path))
        start = start_position(device, session.learner, source, key, resume=resume)
        before = store.n_seen()
        tell_start(store.position(key), resume=resume)
        run, change = stack.enter_context(
            learning(
                session,
                source,
                kind="import",
                key=key,
                start=start,
                limit=limit,
                should_stop=lambda: bool(flag),
                queue=stack.enter_context(listening(device)),
                tell=say,
            )
        )
        total = len(source) if limit is None else min(len(source), start.n + limit)
        progress = followed(run, observer, store, stack, total=total, done=start.n)
        taught = taught_since(store, before)
    if progress.is_interrupted:
        say("stopped; go on with --resume")
    tell_same(progress)
    return result_of(progress, source) | change_of(change), taught
