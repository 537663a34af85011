"""Asking the fleet before a class is unlearned here, so that no request is lost in between."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from edgecl.errors import (
    EdgeclError,
    HomeLockedError,
    RequestError,
    StoreError,
    UnknownClassError,
    UsageError,
)
from edgecl.fleet.carriers.folder import FLEET
from edgecl.fleet.member import Device
from edgecl.fleet.requests import (
    MOST_IDS,
    MOST_OPEN,
    REQUESTS,
    Request,
    open_ids,
    request_bytes,
    waiting,
)
from edgecl.home import Home
from edgecl.runtime.files import flush
from edgecl.session import open_store
from edgecl.types import ForgetRequest, Receipt
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.lookup import look_up


def member_of(home: Home) -> Device:
    """Return a home as a device of its fleet, which may ask.

    Raises:
        UsageError: It joined none.
        RequestError: It is not a member, or no longer.
    """
    if not (home.fleet / FLEET).exists():
        raise UsageError(
            f"the home {home.path} is in no fleet, so nobody else can be asked; forget without "
            "--fleet, or `edgecl fleet join CARRIER/fleet.json` first"
        )
    device = Device(home)
    if device.keys.key in device.orders.out:
        raise RequestError(
            "an order took this device out of the fleet, so it can ask for nothing; without "
            "--fleet it forgets here"
        )
    if device.member is None:
        raise RequestError("this device is not on the fleet's list; forget without --fleet")
    return device


def names_here(home: Home, asked: ForgetRequest) -> tuple[tuple[str, ...], bool]:
    """Return what a class is called in a home, and whether it is there.

    One that was unlearned before has the name that it was asked by, what was never learned none.
    """
    with open_store(home, read_only=True) as store, store.snapshot():
        try:
            found = look_up(Chain(home, store), asked)
        except UnknownClassError:
            return (), False
    return ((asked.name,), False) if isinstance(found, Receipt) else (found.names, True)


def ask(
    device: Device, names: Iterable[str], *, is_here: bool = True
) -> tuple[Request | None, bool]:
    """Write a request into a home: that all forget what has these names here.

    Args:
        device: Who asks.
        names: All that the class is called here.
        is_here: Whether the home has it. Of one that it has not, which an order had all forget, it
            cannot mean what was taught elsewhere since.

    Returns:
        The request, and whether it is new; None if orders have closed all of it already.

    Raises:
        RequestError: Too much of what the device asked waits.
    """
    key, member = device.key, device.member
    assert member is not None  # see `member_of`
    # As it holds them: the epoch after an order that it has not applied may be taught elsewhere.
    applied = device.orders.until(device.kept.order)
    meant = [name for name in names if is_here or not applied.epoch(key, name)]
    ids = open_ids([applied.id_of(key, name) for name in meant], device.orders)
    if not ids:
        return None, False
    asked = waiting(device.folder, device.fleet, device.orders)
    for each in asked:
        if set(ids) <= set(each.ids):
            return each, False
    if len(ids) > MOST_IDS or len(asked) >= MOST_OPEN:
        raise RequestError(
            f"the class has {len(ids)} ids in the fleet and {len(asked)} requests of this device "
            f"wait, at most {MOST_IDS} and {MOST_OPEN} can be; have the admin order it "
            "(`edgecl fleet forget class`)"
        )
    now = int(time.time())
    data = request_bytes(device.fleet, ids, now, device.keys.sign)
    path = device.folder.put(f"r{now}", data, REQUESTS, member.name, suffix="json")
    for folder in (path.parents[1], path.parents[2]):  # which may be new
        flush(folder)
    return Request(member.name, tuple(ids), now, hashlib.sha256(data).hexdigest(), path), True


@contextmanager
def asking(device: Device, asked: ForgetRequest) -> Iterator[tuple[Request | None, bool]]:
    """Ask a fleet to forget what is unlearned in the home inside of this; see `ask`.

    The request is on the disk before anything is unlearned: who dies in between has asked, and to
    ask again is harmless. It is taken back if the unlearning is refused and the class is here as
    before. What was never learned is not asked for.
    """
    home = device.home
    names, is_here = names_here(home, asked)
    request, is_new = ask(device, names, is_here=is_here) if names else (None, False)
    try:
        yield request, is_new
    except (StoreError, HomeLockedError):  # the store has it on its list, and so has the fleet
        raise
    except EdgeclError:
        if request is not None and is_new and names_here(home, asked)[1]:
            device.folder.wipe(request.path)
        raise
