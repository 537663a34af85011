"""`edgecl fleet mask` and `unmask`: what a fleet knows, and of no device what it knows alone."""

from __future__ import annotations

from typing import Annotated

import typer

from edgecl.cli.fleet import PLANT, CarrierOption, FleetOption, at_work
from edgecl.cli.options import DEFAULT, HomeOption, JsonOption
from edgecl.cli.outcome import print_outcome
from edgecl.cli.output import print_json, say, working


def mask(
    carrier: CarrierOption,
    min_rows: Annotated[
        int, typer.Option(min=1, help="Classes of fewer samples here stay out.")
    ] = 1,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Take part in a round of masks: first a seat, the next time masked sums."""
    from edgecl.fleet.carriers.folder import Folder
    from edgecl.fleet.masking import take_part
    from edgecl.fleet.member import Device
    from edgecl.home import Home

    with working("masking"):
        step = take_part(Device(Home(home)), Folder(carrier), min_rows=min_rows)
    result = {"step": step.what, "round": step.round.number, "devices": list(step.devices)}
    if json:
        print_json(result)
        return
    if step.what == "seated":
        print_outcome(f"a seat in round {step.round.number} is taken", result)
        say("next, when its merger has closed the list: the same command")
    else:
        print_outcome(
            f"masked sums for round {step.round.number} are on the carrier, among those of "
            f"{', '.join(step.devices)}",
            result,
        )


def unmask(
    carrier: CarrierOption,
    names: Annotated[
        list[str] | None,
        typer.Option("--open", help="Open a round over this class; repeat for each."),
    ] = None,
    close: Annotated[
        bool, typer.Option("--close", help="Close the list with those that have a seat.")
    ] = False,
    fleet: FleetOption = PLANT,
    json: JsonOption = False,
) -> None:
    """Open a round of masks, close its list, or add up what came; as far as it is."""
    from edgecl.fleet.carriers.folder import Folder
    from edgecl.fleet.masking import advance, open_round
    from edgecl.types import clean_label

    folder = Folder(carrier)
    more: dict[str, int] = {}
    with at_work(fleet) as merger, working("adding up"):
        if names:
            step = open_round(merger, folder, [clean_label(name) for name in names])
        else:
            step = advance(merger, folder, closes=close)
        if step.what == "added":
            merged, _ = merger.merge()
            merger.push(folder)
            more = {"version": merged.version, "classes": len(merged.classes)}
    result = {
        "step": step.what,
        "round": step.round.number,
        "devices": list(step.devices),
        "missing": list(step.missing),
        **more,
    }
    if json:
        print_json(result)
        return
    have, lack = (", ".join(some) or "nobody" for some in (step.devices, step.missing))
    words = {
        "opened": f"round {step.round.number} is open",
        "closed": f"the list is closed: {have}; without {lack}",
        "added": f"the sums of {have} count; merged head v{more.get('version')}",
        "waiting": f"round {step.round.number} has {have} and waits for {lack}",
    }
    print_outcome(words[step.what], result)
