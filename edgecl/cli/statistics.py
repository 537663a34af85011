"""`edgecl statistics`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from edgecl.cli.options import (
    DEFAULT,
    FallbackOption,
    HomeOption,
    JsonOption,
    LabelOption,
    LimitOption,
    ProviderOption,
    ThreadsOption,
)
from edgecl.cli.outcome import print_outcome, size_text, time_text
from edgecl.cli.output import print_json, say_skipped, working
from edgecl.figures import counted


def statistics(
    source: Annotated[str, typer.Argument(help="Labelled pictures of a known number: a folder.")],
    output: Annotated[Path, typer.Option(help="The file, .efc; an earlier one is replaced.")],
    shard: Annotated[
        str, typer.Option(help="Only this part of the source: 17/512 is the 17th of 512.")
    ] = "1/1",
    label: LabelOption = None,
    limit: LimitOption = None,
    home: HomeOption = DEFAULT,
    provider: ProviderOption = None,
    allow_fallback: FallbackOption = False,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Write what a head needs of a source, or of a part of it; `edgecl merge` takes all parts in.

    The home gives the backbone and the kind of head, and is only read.
    """
    import time

    from edgecl.fleet.contribution import write
    from edgecl.fleet.shards import parsed_shard, statistics_of
    from edgecl.home import Home
    from edgecl.runtime.engines.base import EngineOptions
    from edgecl.runtime.sources import open_source
    from edgecl.session import reading
    from edgecl.types import clean_label
    from edgecl.unlearning.chain import signing_key

    number, count = parsed_shard(shard)
    begin, device = time.perf_counter(), Home(home)
    options = EngineOptions(provider, threads, allow_fallback)
    with reading(device, options) as session, working("embedding") as tell:
        name = None if label is None else clean_label(label)
        opened = open_source(source, label=name, max_bytes=device.max_bytes)
        made = statistics_of(
            session,
            opened,
            number,
            count,
            limit=limit,
            say=lambda what, n, of: tell(f"{what} {n} of {of}"),
        )
    write(output, made.contribution, made.bodies, signing_key(device))
    found = made.contribution
    say_skipped(made.skipped)
    result: dict[str, Any] = {
        "path": str(output),
        "bytes": output.stat().st_size,
        "device": found.device,
        "samples": found.count,
        "classes": {part.name: part.count for part in found.parts},
        "skipped": len(made.skipped),
        "feature_map": found.feature_map,
        "seconds": round(time.perf_counter() - begin, 3),
    }
    if json:
        print_json(result)
    else:
        _show(result)


def _show(result: dict[str, Any]) -> None:
    text = (
        f"{result['path']}: {counted(result['samples'], 'picture')} of "
        f"{counted(len(result['classes']), 'class')} in {time_text(result['seconds'])}, "
        f"{size_text(result['bytes'])}"
    )
    if result["skipped"]:
        text += f"; {result['skipped']} could not be used"
    print_outcome(text, result, then=f"edgecl merge {shlex.quote(result['path'])}")
