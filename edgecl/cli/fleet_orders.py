"""Orders of a fleet's admin: `edgecl fleet forget`, `alias`, `admit` and `refuse`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli.commands import Command
from edgecl.cli.confirm import YesOption, confirm
from edgecl.cli.fleet import PLANT, FleetOption, at_work
from edgecl.cli.options import JsonOption
from edgecl.cli.outcome import print_outcome
from edgecl.cli.output import print_json, say
from edgecl.figures import counted

if TYPE_CHECKING:
    from edgecl.fleet.merger import Merger

forget_app = typer.Typer(help="Order all devices to forget.", no_args_is_help=True)
ReasonOption = Annotated[str, typer.Option(help="For the order; must not name what is forgotten.")]


@forget_app.command("class", cls=Command)
def forget_class(
    name: Annotated[str, typer.Argument(help="The class's name; its aliases go, too.")],
    reason: ReasonOption = "",
    yes: YesOption = False,
    fleet: FleetOption = PLANT,
    json: JsonOption = False,
) -> None:
    """Order all devices to forget a class; it cannot come back from one that was away."""
    from edgecl.fleet.orders import CLASS
    from edgecl.types import check_reason, clean_label

    label = clean_label(name)
    check_reason(reason, label)
    with at_work(fleet) as merger:
        ids = merger.orders.all_of(merger.orders.id_of(merger.plant.key, label))
        known = merger.contributions().values()
        n = sum(1 for each in known if {part.id for part in each.parts} & set(ids))
        _confirm(f"{counted(n, 'device')} of this fleet learned {label!r}; all will forget it", yes)
        if not n:
            say("no contribution here has this class; the order stands for what still comes")
        _order(merger, {"kind": CLASS, "ids": ids, "reason": reason}, json=json)


@forget_app.command("request", cls=Command)
def forget_request(
    digest: Annotated[str, typer.Argument(help="The beginning of its digest.")],
    reason: ReasonOption = "",
    yes: YesOption = False,
    fleet: FleetOption = PLANT,
    json: JsonOption = False,
) -> None:
    """Order all devices to forget the class that a device asks for, as `fleet status` names it."""
    from edgecl.errors import RequestError
    from edgecl.fleet.requests import order_of
    from edgecl.fleet.status import about, accepted_of, asked_at, request_values
    from edgecl.types import check_reason

    with at_work(fleet) as merger:
        asked = asked_at(merger)
        found = [each for each in asked if digest and each.digest.startswith(digest)]
        if len(found) != 1:
            known = ", ".join(f"{r.digest[:16]} of {r.device}" for r in asked)
            raise RequestError(
                f"{len(found)} requests here begin with {digest[:64]!r}; waiting: "
                f"{known or 'none'}; `edgecl fleet status --carrier DIR` takes them in"
            )
        values = request_values(found[0], merger.orders, accepted_of(merger, merger.state()))
        for name in values["classes"]:
            check_reason(reason, name)
        _confirm(f"{found[0].device} asks for a class ({about(values)}); all will forget it", yes)
        _order(merger, order_of(found[0], values["ids"], reason), json=json)


@forget_app.command("device", cls=Command)
def forget_device(
    name: Annotated[str, typer.Argument(help="The device's name.")],
    reason: ReasonOption = "",
    yes: YesOption = False,
    fleet: FleetOption = PLANT,
    json: JsonOption = False,
) -> None:
    """Order that nothing which a device learned counts any more; it is a member no longer."""
    from edgecl.fleet.orders import DEVICE

    with at_work(fleet) as merger:
        key = merger.plant.fleet.named(name).key
        _confirm(f"nothing that {name} learned will count any more", yes)
        number = merger.give(
            {"kind": DEVICE, "key": key, "name": name, "time": int(time.time()), "reason": reason}
        )
        merger.plant.remove(name)
        _ordered(merger, number, json=json)


def alias(
    other: Annotated[str, typer.Argument(help="The other name.")],
    name: Annotated[str, typer.Argument(help="The name of the same thing that stays.")],
    fleet: FleetOption = PLANT,
    json: JsonOption = False,
) -> None:
    """Let two names mean one class in the merged head; homes stay as they are."""
    from edgecl.errors import RequestError
    from edgecl.fleet.orders import ALIAS
    from edgecl.types import clean_label

    with at_work(fleet) as merger:
        orders, key = merger.orders, merger.plant.key
        a, b = (orders.canonical(orders.id_of(key, clean_label(n))) for n in (other, name))
        if a == b:
            raise RequestError(f"{other!r} and {name!r} mean one class already")
        known = {part.id for each in merger.contributions().values() for part in each.parts}
        for what, class_ in ((other, a), (name, b)):
            if not known & set(orders.all_of(class_)):
                say(f"no contribution here has {what!r} yet; the order stands for what still comes")
        _order(merger, {"kind": ALIAS, "ids": [a], "to": b, "reason": ""}, json=json)


DigestOption = Annotated[
    str, typer.Option("--digest", help="Which one, by the beginning of its digest; else the only.")
]


def admit(
    device: Annotated[str, typer.Argument(help="The device's name.")],
    digest: DigestOption = "",
    fleet: FleetOption = PLANT,
    json: JsonOption = False,
) -> None:
    """Let a contribution count that is held, as `fleet status` says."""
    _decide("admit", device, digest, fleet, json=json)


def refuse(
    device: Annotated[str, typer.Argument(help="The device's name.")],
    digest: DigestOption = "",
    fleet: FleetOption = PLANT,
    json: JsonOption = False,
) -> None:
    """Have a contribution that is held never count, or by `--digest` end what a device asks for.

    The contribution before it stays.
    """
    _decide("refuse", device, digest, fleet, json=json)


def _confirm(text: str, yes: bool) -> None:
    confirm(lambda: [f"{text}."], yes=yes)


def _order(merger: Merger, body: dict[str, Any], *, json: bool) -> None:
    _ordered(merger, merger.give(body | {"time": int(time.time())}), json=json)


def _ordered(merger: Merger, number: int, *, json: bool) -> None:
    merged, _ = merger.merge()
    result = {"order": number, "version": merged.version}
    if json:
        print_json(result)
        return
    print_outcome(f"order {number} is signed; merged head v{merged.version} obeys it", result)
    say("next: `edgecl fleet serve --carrier DIR --once` gives it out")


def _decide(kind: str, device: str, digest: str, fleet: Path, *, json: bool) -> None:
    from edgecl.errors import RequestError
    from edgecl.fleet.status import asked_at

    with at_work(fleet) as merger:
        key = merger.plant.fleet.named(device).key
        held = [offer for offer, _ in merger.state().held if offer.device == key]
        asked = [each.digest for each in asked_at(merger) if each.device == device]
        fit = [offer for offer in held if offer.digest.startswith(digest)]
        found = [offer.digest for offer in fit]
        if kind == "refuse" and digest:
            found += [each for each in asked if each.startswith(digest)]
        if len(found) != 1:
            known = ", ".join(f"{o.digest[:16]} (generation {o.generation})" for o in held)
            also = f"; asked for: {', '.join(d[:16] for d in asked)}" if asked else ""
            raise RequestError(
                f"{len(found)} contributions of {device} that are held fit; held: "
                f"{known or 'none'}{also}; name one with --digest"
            )
        if kind == "admit" and fit[0].fault:
            raise RequestError(f"this one cannot count: {fit[0].fault}")
        body = {"kind": kind, "key": key, "digest": found[0], "reason": ""}
        _order(merger, body, json=json)
