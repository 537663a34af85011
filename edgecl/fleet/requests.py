"""Requests: a member asks that all forget a class; the admin makes an order of it, or does not.

    requests/DEVICE/rTIME-DIGEST.json    on a carrier, at the merger, and in HOME/fleet of who asks

A request lists ids as an order does, no name, and is signed with the key that signs the device's
contributions. It is answered when orders closed all its ids, or refused its digest: then it is
wiped wherever it lies, and one that comes again is answered already. Nobody has to have the class
for it to be closed: a device that is away may bring it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgecl.errors import EdgeclError, IntegrityError
from edgecl.fleet.carriers.folder import Folder
from edgecl.fleet.identity import is_hex, opened, signed
from edgecl.fleet.orders import CLASS, DEVICE, Orders
from edgecl.fleet.plant import Fleet, Member, Plant

REQUESTS = "requests"
# No order, seat or contribution that the same key signs says this.
_KIND = "request: forget class"
_MOST_BYTES = 2**17
MOST_IDS = 1_000
"""Ids of one request."""
MOST_OPEN = 100
"""Requests of one member that are taken in while none is answered."""


@dataclass(frozen=True)
class Request:
    """What a member asks for.

    Args:
        device: The member's name.
        ids: What is to be closed, sorted.
        time: When it was asked, seconds since the epoch.
        digest: SHA-256 of the file, hex; an order that refuses it names this.
        path: The file.
    """

    device: str
    ids: tuple[str, ...]
    time: int
    digest: str
    path: Path

    def left(self, orders: Orders) -> list[str]:
        """Return the ids that an order has to close, as `open_ids`; none when it is answered."""
        return [] if self.digest in orders.refused else open_ids(self.ids, orders)


def open_ids(ids: Iterable[str], orders: Orders) -> list[str]:
    """Return those of some ids that are not closed, and those that count as the same, sorted.

    What was closed brings none along: an old request reaches nothing that was taught since.
    """
    left = set(ids) - orders.closed
    return sorted({same for class_ in left for same in orders.all_of(class_)})


def requests_in(
    folder: Folder, fleet: Fleet, member: Member, faults: dict[str, str] | None = None
) -> Iterator[Request]:
    """Go through the requests of a member in a folder, checked.

    Args:
        folder: A carrier, or a folder of its form.
        fleet: The fleet.
        member: Who signed them.
        faults: Takes what is damaged or not the member's, by file, and why; without it that raises.
    """
    for path in folder.files(REQUESTS, member.name, suffix="json"):
        try:
            yield _read(folder, path, fleet, member)
        except EdgeclError as error:
            if faults is None:
                raise
            faults[str(path)] = str(error)


def _read(folder: Folder, path: Path, fleet: Fleet, member: Member) -> Request:
    data = folder.read(path, _MOST_BYTES)
    body = opened(data, member.key, str(path))
    ids: Any = body.get("ids")
    is_one = (
        set(body) == {"kind", "fleet", "ids", "time"}
        and body["kind"] == _KIND
        and isinstance(ids, list)
        and 0 < len(ids) <= MOST_IDS
        and all(is_hex(class_, 64) for class_ in ids)
        and ids == sorted(set(ids))
        and type(body["time"]) is int
        and 0 <= body["time"] < 2**53
    )
    if not is_one:
        raise IntegrityError(f"{path} says of a request what is not to be; delete it")
    if body["fleet"] != fleet.id:
        raise IntegrityError(f"{path} is a request of another fleet; delete it")
    digest = hashlib.sha256(data).hexdigest()
    return Request(member.name, tuple(ids), body["time"], digest, path)


def request_bytes(fleet: Fleet, ids: list[str], now: int, key: Ed25519PrivateKey) -> bytes:
    """Return a request as a file, signed with a device's key."""
    return signed({"kind": _KIND, "fleet": fleet.id, "ids": ids, "time": now}, key)


def waiting(
    folder: Folder, fleet: Fleet, orders: Orders, faults: dict[str, str] | None = None
) -> list[Request]:
    """Return the requests in a folder that no order answers, the oldest first."""
    found = [
        each
        for member in fleet.members
        for each in requests_in(folder, fleet, member, faults)
        if each.left(orders)
    ]
    return sorted(found, key=lambda each: (each.time, each.digest))


def carry(own: Folder, carrier: Folder, fleet: Fleet, orders: Orders) -> tuple[int, int]:
    """Bring what a device asks for to a carrier, and wipe what is answered, there and in its home.

    Returns:
        How many requests wait, and how many were refused now.
    """
    n_waiting = n_refused = 0
    for each in [r for member in fleet.members for r in requests_in(own, fleet, member)]:
        if each.left(orders):
            _put(each, carrier)
            n_waiting += 1
            continue
        n_refused += each.digest in orders.refused
        for path in carrier.files(REQUESTS, each.device, suffix="json"):
            if path.name == each.path.name:
                carrier.wipe(path)
        own.wipe(each.path)
    return n_waiting, n_refused


def take_in(
    store: Folder, carrier: Folder, fleet: Fleet, orders: Orders, faults: dict[str, str]
) -> None:
    """Take in at the merger what members ask for on a carrier, and wipe what is answered, in both.

    What is damaged, or not of a member, is left where it is and named in `faults`.
    """
    out = {(o.body["name"], o.body["key"]) for o in orders.entries if o.kind == DEVICE}
    for name, key in out:  # the name may be another device's by now
        former = Member(name, key, "", "")
        for folder in (store, carrier):
            for each in requests_in(folder, fleet, former, {}):
                folder.wipe(each.path)
    for member in fleet.members:
        for each in requests_in(store, fleet, member, faults):
            if not each.left(orders):
                store.wipe(each.path)
        here = {path.name for path in store.files(REQUESTS, member.name, suffix="json")}
        for each in requests_in(carrier, fleet, member, faults):
            if not each.left(orders):
                carrier.wipe(each.path)
            elif each.path.name not in here and len(here) >= MOST_OPEN:
                faults[str(each.path)] = (
                    f"{member.name} has more than {MOST_OPEN} requests that wait; the others stay "
                    "on the carrier until these are answered"
                )
                break
            else:
                _put(each, store)
                here.add(each.path.name)
    for path in _of_no_member(carrier, fleet):
        if path.parent.name in {name for name, _ in out}:
            carrier.wipe(path)
        else:
            faults[str(path)] = f"{path} is of no member of this fleet; it is left"
    for path in _of_no_member(store, fleet):
        store.wipe(path)


def obey(store: Folder, plant: Plant, orders: Orders, faults: dict[str, str]) -> Orders:
    """Return the orders with those that members may make, where the admin's key lies.

    None is made twice: what an order closed is answered.
    """
    if plant.fleet.policy.members_may_order and plant.has_admin:
        for each in waiting(store, plant.fleet, orders, faults):
            ids = each.left(orders)  # which the one before may have closed
            if ids:
                orders = orders.add(order_of(each, ids), plant.admin)
    return orders


def order_of(request: Request, ids: list[str], reason: str = "") -> dict[str, Any]:
    """Return the body of the order that a request asks for."""
    said = f"asked by {request.device}" + (f": {reason}" if reason else "")
    return {"kind": CLASS, "ids": ids, "time": int(time.time()), "reason": said}


def _put(request: Request, folder: Folder) -> None:
    folder.put(f"r{request.time}", request.path, REQUESTS, request.device, suffix="json")


def _of_no_member(folder: Folder, fleet: Fleet) -> list[Path]:
    members = {member.name for member in fleet.members}
    others = [name for name in folder.devices(REQUESTS) if name not in members]
    return [path for name in others for path in folder.files(REQUESTS, name, suffix="json")]
