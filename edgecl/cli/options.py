"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecl.config import DEFAULT_HOME

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="EDGECL_HOME", help="The device home.", show_default=False)
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")
]
ProviderOption = Annotated[
    str | None,
    typer.Option(
        "--provider", help="auto, cpu, cuda or tensorrt; what is named must really be in use."
    ),
]
FallbackOption = Annotated[
    bool, typer.Option("--allow-fallback", help="Use the CPU when the named provider fails.")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads of the engine.")
]
NewOption = Annotated[
    bool,
    typer.Option("--new", help="A class name that looks like a known one is meant as another."),
]
WeightsOption = Annotated[
    str | None,
    typer.Option("--weights", help="The file that the home was made from, if it was a file."),
]
BundleOption = Annotated[
    Path | None,
    typer.Option("--bundle", help="A folder that `edgecl export` wrote, instead of a home."),
]
DEFAULT = Path(DEFAULT_HOME)
