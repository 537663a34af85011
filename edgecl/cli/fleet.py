"""`edgecl fleet`: many devices, one head, and orders to forget that reach all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli.commands import Command
from edgecl.cli.options import DEFAULT, HomeOption, JsonOption
from edgecl.cli.outcome import print_outcome
from edgecl.cli.output import print_json, say, show, working
from edgecl.figures import counted

if TYPE_CHECKING:
    from edgecl.fleet.kept import Synced
    from edgecl.fleet.merged import Merged
    from edgecl.fleet.merger import Merger

fleet_app = typer.Typer(
    help="Have many devices know one head, exactly, and forget for all of them.",
    no_args_is_help=True,
)

FleetOption = Annotated[
    Path,
    typer.Option("--fleet", envvar="EDGECL_FLEET", help="The fleet's folder, with its secrets."),
]
CarrierOption = Annotated[
    Path, typer.Option("--carrier", help="A folder that both sides reach: a stick, NFS, a bucket.")
]
TotalOption = Annotated[
    bool,
    typer.Option("--total", help="The small form, which only new files can take classes from."),
]
PlainOption = Annotated[
    bool, typer.Option("--plain", help="Of a sealed home: write features unencrypted.")
]
PLANT = Path("plant")


@fleet_app.command("init", cls=Command)
def init(
    model: Annotated[Path, typer.Option("--feature-map-of", help="A home as all members have it.")],
    fleet: FleetOption = PLANT,
    min_rows: Annotated[int, typer.Option(min=1, help="Fewest samples of a class.")] = 1,
    most_distance: Annotated[
        float,
        typer.Option(
            min=0, max=1e6, help="Hold a class so many spreads from the others'; 0: none."
        ),
    ] = 0.6,
    serve_days: Annotated[
        float,
        typer.Option(min=0, max=36_500, help="For how long a merged head predicts; 0: for ever."),
    ] = 0.0,
    members_may_order: Annotated[
        bool,
        typer.Option("--members-may-order", help="`forget class --fleet` of any device orders."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Make a fleet: its keys, the list of its devices, and what they must have in common."""
    from edgecl.fleet.plant import Policy, make_plant
    from edgecl.home import Home
    from edgecl.session import open_store

    home = Home(model)
    with open_store(home, read_only=True) as store:
        keys = store.codebook
    policy = Policy(min_rows, most_distance, serve_days, members_may_order)
    made = make_plant(fleet, home, keys, policy)
    result = {"fleet": made.fleet.id, "path": str(fleet), "feature_map": made.fleet.feature_map}
    if json:
        print_json(result)
        return
    print_outcome(
        f"the fleet {made.fleet.id[:16]} is made in {fleet}; keep its secret/ safe", result
    )
    say(f"give {fleet}/fleet.json to its devices: `edgecl fleet join` takes it")


@fleet_app.command("join", cls=Command)
def join(
    path: Annotated[Path, typer.Argument(help="fleet.json, on a carrier or as the admin gave it.")],
    again: Annotated[
        bool, typer.Option("--again", help="After a backup was put back: number on behind it.")
    ] = False,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Let a home be part of a fleet; prints the key that the fleet's admin adds."""
    from edgecl.fleet.member import join as joined
    from edgecl.home import Home

    device = joined(Home(home), path, again=again)
    member = device.member
    result = {
        "fleet": device.fleet.id,
        "name": None if member is None else member.name,
        "key": device.keys.public,
    }
    if json:
        print_json(result)
        return
    print_outcome(
        f"joined the fleet {device.fleet.id[:16]}; ask its admin whether that is its id", result
    )
    if member is None:
        show(f"key {device.keys.public}")
        say("next, at its admin's: `edgecl fleet add NAME KEY`")


@fleet_app.command("add", cls=Command)
def add(
    name: Annotated[str, typer.Argument(help="What the device is called; also a folder's name.")],
    key: Annotated[str, typer.Argument(help="What `fleet join` printed there, or a file of it.")],
    fleet: FleetOption = PLANT,
    json: JsonOption = False,
) -> None:
    """Take a device into the fleet; only it can read the fleet's key in fleet.json."""
    from edgecl.errors import RequestError

    if len(key) < 128 and Path(key).is_file():
        with open(key, encoding="ascii", errors="replace") as file:
            key = file.read(1000)
    if name.casefold() == "masked":
        raise RequestError("'masked' is the name of the sum under masks; choose another")
    with at_work(fleet) as merger:
        if key.strip()[:64].lower() in merger.orders.out:
            raise RequestError("this device was forgotten by an order; it joins with another home")
        member = merger.plant.add(name, key)
        n = len(merger.plant.fleet.members)
    result = {"name": member.name, "key": member.key, "devices": n}
    if json:
        print_json(result)
    else:
        print_outcome(f"{name} is one of {counted(n, 'device')}", result)


@fleet_app.command("export", cls=Command)
def export(
    output: Annotated[Path, typer.Option("--output", help="A folder, as of a stick.")],
    total: TotalOption = False,
    plain: PlainOption = False,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Write what this device learned itself, for `fleet merge` elsewhere."""
    from edgecl.fleet.carriers.folder import Folder
    from edgecl.fleet.member import Device, held
    from edgecl.home import Home

    device = Device(Home(home))
    with held(device.home) as session:
        path, n = device.export(session, Folder(output).path, total=total, is_plain=plain)
    result = {"generation": n, "path": str(path)}
    if json:
        print_json(result)
    else:
        print_outcome(f"generation {n} is in {path}", result)


@fleet_app.command("sync", cls=Command)
def sync(
    carrier: CarrierOption,
    total: TotalOption = False,
    plain: PlainOption = False,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Do what was ordered, send what is new, and take what all know."""
    from edgecl.fleet.carriers.folder import Folder
    from edgecl.fleet.member import Device
    from edgecl.home import Home

    device = Device(Home(home))
    with working("exchanging"):
        done = device.sync(Folder(carrier), total=total, is_plain=plain)
    merged = done.merged
    result: dict[str, Any] = {
        "orders": {str(n): receipt or None for n, receipt in done.orders},
        "sent": done.sent,
        "merged": None if merged is None else merged.version,
        "is_new": done.is_new,
        "is_out": done.is_out,
        "requests": done.waiting,
        "refused": done.refused,
        "bundle": None if merged is None else str(device.bundle),
    }
    if json:
        print_json(result)
        return
    for n, receipt in done.orders:
        show(
            f"order {n}: done" + (f", receipt {receipt}" if receipt else "; nothing of it was here")
        )
    if done.is_out:
        show("an order took this device out of the fleet")
    _tell_requests(done)
    sent = "nothing new to send" if done.sent is None else f"generation {done.sent} sent"
    came = "no merged head yet"
    if merged is not None:
        came = f"merged head v{merged.version}, {counted(len(merged.classes), 'class')}"
        came += " (new)" if done.is_new else ""
    print_outcome(f"{sent}; {came}", result)
    if merged is not None:
        say(f"next: `edgecl predict -b {quote(str(device.bundle))} PICTURE`")


def _tell_requests(done: Synced) -> None:
    """Say what became of what this device asked for."""
    if done.refused:
        show(f"the fleet's admin refused {counted(done.refused, 'request')} to forget a class")
    if done.waiting:
        wait = "waits" if done.waiting == 1 else "wait"
        asked = counted(done.waiting, "request")
        show(f"{asked} to forget a class {wait} for the fleet's admin")


@fleet_app.command("merge", cls=Command)
def merge(
    files: Annotated[
        list[Path], typer.Argument(help="Contributions, as `fleet export` wrote them.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", help="A folder that goes back to the devices.")
    ] = None,
    fleet: FleetOption = PLANT,
    json: JsonOption = False,
) -> None:
    """Take files in and merge once; `fleet serve` does it beside a carrier."""
    from edgecl.errors import EdgeclError
    from edgecl.fleet.carriers.folder import Folder

    with at_work(fleet) as merger:
        failed = []
        for path in files:
            try:
                merger.take(path)
            except EdgeclError as error:
                merger.faults[str(path)] = str(error)
                failed.append(error)
        if len(failed) == len(files):
            for why in failed[1:]:
                say(f"passed over: {why}")
            raise failed[0]
        _merged(merger, None if output is None else Folder(output, is_made=True), json=json)


@fleet_app.command("serve", cls=Command)
def serve(
    carrier: CarrierOption,
    fleet: FleetOption = PLANT,
    once: Annotated[bool, typer.Option("--once", help="Merge once and end.")] = False,
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks.")] = 60.0,
    json: JsonOption = False,
) -> None:
    """Merge what comes on a carrier and give out what all know, until it is stopped."""
    from edgecl.errors import EdgeclError
    from edgecl.fleet.carriers.folder import Folder

    before = None
    while True:
        try:
            with at_work(fleet, before) as merger:
                before = merger
                _merged(merger, Folder(carrier), json=json, pulls=True, is_once=once)
        except EdgeclError as error:
            if once:
                raise
            say(f"{error}; trying again in {every:g} s")
        if once:
            return
        time.sleep(every)


@fleet_app.command("status", cls=Command)
def status(
    fleet: Annotated[
        Path | None,
        typer.Option("--fleet", envvar="EDGECL_FLEET", help="The fleet's folder; else of a home."),
    ] = None,
    carrier: Annotated[
        Path | None, typer.Option("--carrier", help="Look also for damaged files there.")
    ] = None,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Say which devices count, what is held, and which orders are confirmed."""
    from edgecl.fleet import status as of
    from edgecl.fleet.carriers.folder import Folder
    from edgecl.fleet.member import Device
    from edgecl.home import Home

    if fleet is None:
        values = of.status_of_device(Device(Home(home)))
        lines = of.in_words_of_device(values)
    else:
        with at_work(fleet) as merger:
            if carrier is not None:
                merger.pull(Folder(carrier))
            values = of.status_of(merger)
        lines = of.in_words(values, time.time())
    if json:
        print_json(values)
        return
    for line in lines:
        show(line)


@contextmanager
def at_work(fleet: Path, before: Merger | None = None) -> Iterator[Merger]:
    """Open a fleet's folder and be the one process at work on it.

    What another one added there is read anew, what was checked by `before` is not.
    """
    from edgecl.fleet.merger import Merger
    from edgecl.fleet.plant import Plant

    with Plant.lock(fleet):
        yield Merger(Plant(fleet)) if before is None else before.again(Plant(fleet))


def _merged(
    merger: Merger, carrier: Any, *, json: bool, pulls: bool = False, is_once: bool = True
) -> None:
    """Merge and give out; one that goes on says only what is new."""
    n_new = merger.pull(carrier) if pulls else 0
    n_orders = merger.orders.last
    with working("merging") if is_once else nullcontext():
        merged, is_new = merger.merge()
    if carrier is not None:
        merger.push(carrier)
    for why in merger.faults.values():
        say(f"passed over: {why}")
    for order in merger.orders.entries[n_orders:]:
        say(f"order {order.number} is signed: {order.body['reason']}")
    if is_new or is_once:
        _say_merged(merger, merged, {"new": n_new, "is_new": is_new}, json=json)


def _say_merged(merger: Merger, merged: Merged, more: dict[str, Any], *, json: bool) -> None:
    from edgecl.fleet.status import asked_at

    n_held = len(merger.state().held)
    n_asked = len(asked_at(merger))
    result = {
        "version": merged.version,
        "devices": len(merged.devices),
        "classes": len(merged.classes),
        "state": merged.state,
        "held": n_held,
        "requests": n_asked,
        "passed_over": len(merger.faults),
        **more,
    }
    if json:
        print_json(result)
        return
    print_outcome(
        f"merged head v{merged.version}: {counted(len(merged.classes), 'class')} of "
        f"{counted(len(merged.devices), 'device')}"
        + (f"; {n_held} held" if n_held else "")
        + (f"; {counted(n_asked, 'request')} to forget a class" if n_asked else "")
        + (", see `edgecl fleet status`" if n_held or n_asked else ""),
        result,
    )
