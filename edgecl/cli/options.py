"""Options that several commands share."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from edgecl.cli import complete
from edgecl.cli.outcome import name_home
from edgecl.cli.output import say
from edgecl.config import DEFAULT_HOME


def home_above(name: str = DEFAULT_HOME) -> Path | None:
    """Return the nearest home of this name in a folder above, as git finds a repository.

    Not on another file system, and none of another user: what lies in /tmp must not be taken for
    one's own. That is said.
    """
    here = Path.cwd()
    device = here.stat().st_dev
    for folder in here.parents:
        if folder.stat().st_dev != device:
            return None
        found = folder / name
        if not (found / "edgecl.toml").is_file():
            continue
        if found.stat().st_uid != os.geteuid():
            say(
                f"the home {found} belongs to another user; "
                f"--home {shlex.quote(str(found))} takes it"
            )
            return None
        return Path(os.path.relpath(found))
    return None


def _searched(context: typer.Context, parameter: Any, value: Path) -> Path:
    """Take a home in a folder above if none is named and none is here; `init` makes one here."""
    source = context.get_parameter_source(parameter.name)
    is_typed = source is not None and source.name == "COMMANDLINE"
    if not value.exists():
        value = Path(os.path.expanduser(value))  # in a file of variables no shell does it
    name_home(f"--home {shlex.quote(str(value))}" if is_typed else "")
    if source is None or source.name != "DEFAULT" or value.exists() or context.info_name == "init":
        return value
    found = home_above()
    if found is None:
        return value
    if not context.resilient_parsing:
        say(f"home {found}")
    return found


HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="EDGECL_HOME",
        callback=_searched,
        help=f"The device home; else {DEFAULT_HOME} here or in a folder above.",
        show_default=False,
    ),
]
ClassArgument = Annotated[
    str, typer.Argument(help="The class's name, or an alias.", autocompletion=complete.classes)
]
LabelOption = Annotated[
    str | None,
    typer.Option(
        help="Class of all frames, instead of what the source says.",
        autocompletion=complete.classes,
    ),
]
LimitOption = Annotated[int | None, typer.Option(min=1, max=2**62, help="Most frames to take.")]
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
HeaderOption = Annotated[
    Path | None,
    typer.Option(
        "--header-file",
        envvar="EDGECL_HEADER_FILE",
        help="Lines `Name: value` sent to an http:// source, as a token's Authorization: Bearer.",
    ),
]
EveryOption = Annotated[
    str | None,
    typer.Option(help="Of a film or camera, take a frame every so often: 0.5s, 500ms, 2m."),
]
EventsOption = Annotated[
    str | None,
    typer.Option(
        help="Tell what is seen when it changes: -, mqtt://host/topic, a webhook, or "
        "homeassistant://host/name.",
        envvar="EDGECL_EVENTS",
    ),
]
EventsHeaderOption = Annotated[
    Path | None,
    typer.Option(
        "--events-header-file",
        envvar="EDGECL_EVENTS_HEADER_FILE",
        help="Lines `Name: value` sent with every event to a webhook, never to a source.",
    ),
]
EventFormatOption = Annotated[
    str,
    typer.Option(
        metavar="FORMAT", help="json, or frigate: on a topic, the bare name of a class it knows."
    ),
]
VoteOption = Annotated[
    int | None, typer.Option(min=1, help="Last frames that vote on what --events tells (5).")
]
MinScoreOption = Annotated[
    float | None,
    typer.Option(
        min=0, max=0.999, metavar="SHARE", help="Tell an answer that is less sure as `unsure`."
    ),
]
DEFAULT = Path(DEFAULT_HOME)


def headers_of(path: Path | None) -> dict[str, str] | None:
    """Read a file of headers that an option names; says so if everybody can read it."""
    if path is None:
        return None
    from edgecl.runtime.password import is_readable_by_all
    from edgecl.runtime.sources.headers import read_headers

    headers = read_headers(path)
    if is_readable_by_all(path):
        say(f"every user of this machine can read {path}; `chmod 600 {path}` keeps it to yours")
    return headers
