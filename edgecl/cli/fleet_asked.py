"""`--fleet` of `edgecl forget class`: what is unlearned here, all devices are asked to forget."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli.output import show

if TYPE_CHECKING:
    from edgecl.fleet.member import Device
    from edgecl.types import ForgetRequest

AskFleetOption = Annotated[
    bool,
    typer.Option("--fleet", help="Also ask this device's fleet to have all devices forget it."),
]
TO_ALL = "All devices of the fleet are asked to forget it, too."


def device_at(home: Path) -> Device:
    """Return a home as a device of its fleet; refused where it is in none."""
    from edgecl.fleet.asking import member_of
    from edgecl.home import Home

    return member_of(Home(home))


def asked_of(stack: ExitStack, device: Device, asked: ForgetRequest) -> dict[str, Any]:
    """Ask a fleet before anything is unlearned; returns what was asked, as JSON values."""
    from edgecl.fleet.asking import asking

    request, is_new = stack.enter_context(asking(device, asked))
    return {
        "digest": None if request is None else request.digest,
        "ids": 0 if request is None else len(request.ids),
        "is_new": is_new,
    }


def print_asked(to_all: dict[str, Any] | None) -> None:
    """Say what a fleet was asked for; nothing where it was not."""
    if to_all is None:
        return
    if to_all["digest"] is None:
        show("an order had all devices forget it already; nothing was asked")
        return
    was = "is" if to_all["is_new"] else "was before"
    show(
        f"the fleet's admin {was} asked to have all devices forget it (request "
        f"{to_all['digest'][:16]}); `edgecl fleet sync --carrier DIR` carries that"
    )
