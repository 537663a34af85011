"""`edgecl merge`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli.options import DEFAULT, HomeOption, JsonOption, NewOption
from edgecl.cli.outcome import print_outcome, time_text
from edgecl.cli.output import print_json, say, working
from edgecl.figures import counted

if TYPE_CHECKING:
    from edgecl.fleet.take import Report


def merge(
    files: Annotated[
        list[Path],
        typer.Argument(help="Contributions (.efc) of other devices; one before those since it."),
    ],
    new: NewOption = False,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Take in what other devices learned, exactly, each as a source `fleet:DEVICE`."""
    import time

    from edgecl.cli.check import check_new_name
    from edgecl.fleet.contribution import read_all
    from edgecl.fleet.take import take
    from edgecl.governed import governed
    from edgecl.home import Home
    from edgecl.unlearning.request import writing

    begin, device = time.perf_counter(), Home(home)
    with working("reading") as tell:
        tell(counted(len(files), "file"))
        found = read_all(files)
    with (
        writing(device) as session,
        governed(session, "merge", tell=say) as change,
        working("merging") as tell,
    ):
        for name in sorted({part.name for c in found for part in c.parts}):
            if not session.store.has_class(name):
                check_new_name(session.store, name, is_new=new)
        report = take(session, found, say=lambda what, n, of: tell(f"{what} {n} of {of}"))
    result = asdict(report) | {
        "seconds": round(time.perf_counter() - begin, 3),
        "change": None if change.uid is None else f"c{change.uid}",
        "state": change.state,
    }
    _say_doubts(report)
    if json:
        print_json(result)
    else:
        _show(report, result)


def _say_doubts(report: Report) -> None:
    if report.again:
        say(f"unlearned here before, and back: {', '.join(report.again)}")
    if not report.is_exact:
        say("the sums are beyond what float64 adds exactly (2^29); the head is near, not exact")
    if report.known:
        say(f"there already, or newer: {', '.join(report.known)}")


def _show(report: Report, result: dict[str, Any]) -> None:
    from edgecl.fleet.take import SOURCE

    if not report.taken:
        print_outcome("nothing is new in these files, so nothing was changed", result)
        return
    n = sum(report.taken.values())
    text = (
        f"took in {counted(n, 'sample')} of {counted(len(report.classes), 'class')} from "
        f"{counted(len(report.taken), 'device')} in {time_text(result['seconds'])}"
    )
    if report.replaced:
        text += f", {len(report.replaced)} of them in a newer generation"
    last = list(report.taken)[-1]
    print_outcome(text, result, then=f"edgecl predict PICTURE, edgecl forget source {SOURCE}{last}")
