"""`edgecl report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecl.cli.options import DEFAULT, HomeOption, JsonOption
from edgecl.cli.output import print_json, say, working


def report(
    output: Annotated[
        Path, typer.Option(help="The HTML file; its charts are put beside it as PNG files.")
    ] = Path("edgecl-report.html"),
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Write what a home knows, and whether it still does, as a page for the browser."""
    from edgecl.evaluation.report import write_report
    from edgecl.home import Home

    device = Home(home)
    with working("drawing"):
        done = write_report(device, output)
    if json:
        print_json({"path": str(done.path), "pictures": [str(path) for path in done.pictures]})
    else:
        print(done.path)
    say(
        "it holds class names and pictures: after `edgecl forget`, delete it and its copies by hand"
    )
