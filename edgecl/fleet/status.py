"""How a fleet stands, as JSON values and in words."""

from __future__ import annotations

import time
from pathlib import Path
from shlex import quote
from typing import Any

from edgecl.figures import counted
from edgecl.fleet.contribution import Contribution, digest
from edgecl.fleet.member import Device
from edgecl.fleet.merged import Merged
from edgecl.fleet.merger import Merger
from edgecl.fleet.orders import CLASS, DEVICE, Orders
from edgecl.fleet.plant import Member
from edgecl.fleet.probes import probes_of
from edgecl.fleet.requests import Request, waiting
from edgecl.fleet.state import State
from edgecl.home import Home

_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"))


def status_of(merger: Merger) -> dict[str, Any]:
    """Return how a fleet stands at its merger; of devices what their newest files say."""
    fleet, state, newest = merger.plant.fleet, merger.state(), merger.merged()
    probes = probes_of(merger.plant)
    known: dict[str, list[tuple[Path, Contribution]]] = {}
    for path, each in merger.contributions().items():
        known.setdefault(each.device, []).append((path, each))
    devices = [_device(m, known.get(m.name, []), state.accepted.get(m.key)) for m in fleet.members]
    names = {member.key: member.name for member in fleet.members}
    accepted = accepted_of(merger, state)
    return {
        "fleet": fleet.id,
        "devices": devices,
        "orders": [
            order | _confirmed(order["number"], devices)
            if order["kind"] in (CLASS, DEVICE)
            else order
            for order in _orders(merger.orders)
        ],
        "held": [
            {"device": names[o.device], "generation": o.generation, "digest": o.digest, "why": why}
            for o, why in state.held
        ],
        "requests": [request_values(r, merger.orders, accepted) for r in asked_at(merger)],
        "can_order": merger.plant.has_admin,
        "went_back": {names[key]: n for key, n in sorted(state.went_back.items())},
        "merged": None if newest is None else _merged(newest),
        "faults": dict(merger.faults),
        "probes": {
            "samples": 0 if probes is None else len(probes.y),
            "classes": 0 if probes is None else len(probes.ids),
        },
    }


def accepted_of(merger: Merger, state: State) -> list[Contribution]:
    """Return the contributions that count."""
    counting = {offer.digest for offer in state.accepted.values()}
    return [each for each in merger.contributions().values() if digest(each) in counting]


def asked_at(merger: Merger) -> list[Request]:
    """Return what members ask for at a merger, the oldest first."""
    return waiting(merger.store, merger.plant.fleet, merger.orders, merger.faults)


def request_values(
    request: Request, orders: Orders, accepted: list[Contribution]
) -> dict[str, Any]:
    """Return what a member asks for, and what it is about in the contributions that count."""
    ids = set(request.left(orders))
    found = [(c.device, part) for c in accepted for part in c.parts if part.id in ids]
    return {
        "device": request.device,
        "digest": request.digest,
        "time": request.time,
        "ids": sorted(ids),
        "classes": sorted({part.name for _, part in found}),
        "samples": sum(part.count for _, part in found),
        "devices": len({device for device, _ in found}),
    }


def about(request: dict[str, Any]) -> str:
    """Return what a request is about, in words."""
    if not request["classes"]:
        return "no contribution here has it"
    return (
        f"{', '.join(request['classes'])}, {counted(request['samples'], 'sample')} on "
        f"{counted(request['devices'], 'device')}"
    )


def status_of_device(device: Device) -> dict[str, Any]:
    """Return how a device stands in its fleet."""
    member, newest = device.member, device.merged()
    asked = waiting(device.folder, device.fleet, device.orders)
    return {
        "fleet": device.fleet.id,
        "name": None if member is None else member.name,
        "key": device.keys.public,
        "is_out": device.keys.key in device.orders.out,
        "orders": [
            order | {"is_applied": order["number"] <= device.kept.order}
            for order in _orders(device.orders)
        ],
        "requests": [{"digest": r.digest, "time": r.time} for r in asked],
        "receipt": device.kept.receipt or None,
        "merged": None if newest is None else _merged(newest),
        "bundle": None if newest is None else str(device.bundle),
    }


def in_words(status: dict[str, Any], now: float) -> list[str]:
    """Return what `status_of` found, a sentence a line."""
    lines = [_first(status, len(status["devices"]))]
    for device in status["devices"]:
        if device["generation"] is None:
            lines.append(f"{device['name']}: nothing of it counts yet")
        else:
            lines.append(
                f"{device['name']}: generation {device['generation']}, "
                f"{counted(device['samples'], 'sample')} of {counted(device['classes'], 'class')}, "
                f"last seen {ago(now, device['last_seen'])}"
            )
    n, k = status["probes"]["samples"], status["probes"]["classes"]
    said = f"{counted(n, 'probe')} of {counted(k, 'class')} try" if n else "no probes try"
    lines.append(f"{said} what comes before it counts")
    lines += [_order_words(order, status["devices"], now) for order in status["orders"]]
    lines += [_request_words(asked, status["can_order"], now) for asked in status["requests"]]
    lines += [
        f"{held['device']}, generation {held['generation']}, is held: {held['why']}; `edgecl fleet "
        f"admit {held['device']} --digest {held['digest'][:16]}` or `refuse` decides"
        for held in status["held"]
    ]
    lines += [
        f"{name} went back to generation {n}: it was restored from a backup, or an old file came "
        "again; on a restored device run `edgecl fleet join --again`"
        for name, n in status["went_back"].items()
    ]
    return lines + [f"passed over: {why}" for why in status["faults"].values()]


def in_words_of_device(status: dict[str, Any]) -> list[str]:
    """Return what `status_of_device` found, a sentence a line."""
    lines = [_first(status, None)]
    if status["is_out"]:
        lines.append("an order took this device out of the fleet")
    elif status["name"] is None:
        lines.append(f"not on its list yet: have `edgecl fleet add NAME {status['key']}` run there")
    else:
        lines.append(f"this device is {status['name']}")
    for order in status["orders"]:
        done = "applied" if order["is_applied"] else "not applied yet; run `edgecl fleet sync`"
        lines.append(f"order {order['number']} ({order['kind']}): {done}")
    lines += [
        f"asked on {time.strftime('%Y-%m-%d', time.gmtime(asked['time']))} that all forget a class "
        f"(request {asked['digest'][:16]}): no order has come yet"
        for asked in status["requests"]
    ]
    if status["bundle"]:
        bundle = quote(str(status["bundle"]))
        lines.append(f"what all know predicts with `edgecl predict -b {bundle} PICTURE`")
    return lines


def events_of(home: Home) -> list[dict[str, Any]]:
    """Return the fleet's orders and merged head that a home has, the newest first.

    Empty where it joined none.
    """
    if not home.fleet.is_dir():
        return []
    device = Device(home)
    newest, found = device.merged(), []
    for order in device.orders.entries:
        said = "done here" if order.number <= device.kept.order else "not done here yet"
        what = f"order {order.number}: {order.kind}"
        found.append({"what": what, "time": order.body["time"], "said": said})
    if newest is not None:
        said = f"{len(newest.classes)} classes of {len(newest.devices)} devices"
        found.append({"what": f"merged head v{newest.version}", "time": newest.time, "said": said})
    return sorted(found, key=lambda event: -event["time"])


def ago(now: float, then: float) -> str:
    """Return how long ago something was, as a person says it."""
    for seconds, unit in _UNITS:
        n = int((now - then) // seconds)
        if n >= 1:
            return f"{n} {unit}{'s' * (n > 1)} ago"
    return "just now"


def _first(status: dict[str, Any], n_devices: int | None) -> str:
    merged = status["merged"]
    said = "nothing is merged yet"
    if merged is not None:
        said = (
            f"merged head v{merged['version']} of {counted(len(merged['devices']), 'device')} "
            f"knows {counted(len(merged['classes']), 'class')}"
        )
    of = "" if n_devices is None else f", {counted(n_devices, 'device')}"
    return f"fleet {status['fleet'][:16]}{of}; {said}"


def _order_words(order: dict[str, Any], devices: list[dict[str, Any]], now: float) -> str:
    said = f"order {order['number']} ({order['kind']})"
    if "confirmed" not in order:
        return said
    seen = {device["name"]: device["last_seen"] for device in devices}
    waiting = [
        f"{name} {'never seen' if seen[name] is None else f'last seen {ago(now, seen[name])}'}"
        for name in order["waiting"]
    ]
    of = order["confirmed"] + len(waiting)
    return ", ".join([f"{said}: {order['confirmed']} of {of} confirmed", *waiting])


def _request_words(asked: dict[str, Any], can_order: bool, now: float) -> str:
    who, short = asked["device"], asked["digest"][:16]
    said = (
        f"{who} asked {ago(now, asked['time'])} that all forget a class ({about(asked)}): "
        f"`edgecl fleet forget request {short}` orders it, `edgecl fleet refuse {who} --digest "
        f"{short}` does not"
    )
    if not can_order:
        said += "; its admin has to, where the fleet's secret/admin.key lies"
    return said


def _device(member: Member, files: list[tuple[Path, Contribution]], counts: Any) -> dict[str, Any]:
    accepted = [c for _, c in files if counts is not None and c.generation == counts.generation]
    parts = accepted[0].parts if accepted else ()
    return {
        "name": member.name,
        "key": member.key,
        "generation": None if counts is None else counts.generation,
        "samples": sum(part.count for part in parts),
        "classes": len(parts),
        "order": max((c.order for _, c in files), default=0),
        "receipt": next((c.receipt for c in accepted if c.receipt), None),
        "last_seen": max((path.stat().st_mtime for path, _ in files), default=None),
        "bytes": sum(path.stat().st_size for path, _ in files),
    }


def _confirmed(number: int, devices: list[dict[str, Any]]) -> dict[str, Any]:
    waiting = [device["name"] for device in devices if device["order"] < number]
    return {"confirmed": len(devices) - len(waiting), "waiting": waiting}


def _orders(orders: Orders) -> list[dict[str, Any]]:
    return [{"number": o.number, "kind": o.kind, "time": o.body["time"]} for o in orders.entries]


def _merged(merged: Merged) -> dict[str, Any]:
    return {
        "version": merged.version,
        "order": merged.order,
        "time": merged.time,
        "serve_until": merged.serve_until or None,
        "state": merged.state,
        "devices": dict(merged.devices),
        "classes": {name: n for _, name, n in merged.classes},
    }
