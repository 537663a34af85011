"""`edgecl fleet probes`: pictures on which the merger tries what comes before it counts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecl.cli.fleet import PLANT, FleetOption, PlainOption, at_work
from edgecl.cli.options import JsonOption
from edgecl.cli.outcome import print_outcome
from edgecl.cli.output import print_json, say, working
from edgecl.figures import counted


def probes(
    home: Annotated[
        Path | None, typer.Argument(help="A home whose held-out pictures are the probes.")
    ] = None,
    none: Annotated[
        bool, typer.Option("--none", help="Wipe the probes: what comes is not tried any more.")
    ] = False,
    plain: PlainOption = False,
    fleet: FleetOption = PLANT,
    json: JsonOption = False,
) -> None:
    """Have the merger try what comes on held-out pictures; what makes it worse is held."""
    from edgecl.errors import UsageError
    from edgecl.fleet.probes import drop_probes
    from edgecl.fleet.probing import take_probes
    from edgecl.home import Home

    if (home is None) != none:
        raise UsageError("name the home whose held-out pictures are the probes, or --none")
    n, k, left_out = 0, 0, tuple[str, ...]()
    text = "no probes: what comes is not tried before it counts"
    with at_work(fleet) as merger, working("reading"):
        if home is None:
            drop_probes(merger.plant)
        else:
            taken = take_probes(merger, Home(home), is_plain=plain)
            n, k, left_out = len(taken.probes.y), len(taken.probes.ids), taken.closed
            text = f"{counted(n, 'probe')} of {counted(k, 'class')} try what comes from now on"
    result = {"samples": n, "classes": k, "left_out": list(left_out)}
    if json:
        print_json(result)
        return
    print_outcome(text, result)
    if left_out:
        say(f"left out, since that home has not done the order to forget: {', '.join(left_out)}")
    if home is not None:
        say(f"{fleet} holds features of that home now; what it forgets is wiped there as well")
