"""Held-out pictures of a home as a merger's probes, which are an export of that home."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecl.errors import RequestError
from edgecl.fleet.checks import other_map
from edgecl.fleet.collect import exporting, public_key
from edgecl.fleet.member import Device
from edgecl.fleet.merger import Merger
from edgecl.fleet.orders import Orders
from edgecl.fleet.plant import FLEET_NAME, Plant
from edgecl.fleet.probes import PROBES, Probes, probes_file, put_file
from edgecl.home import Home
from edgecl.store.exports import PROBES as EXPORT
from edgecl.store.exports import finish_exports
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.unlearning.request import writing


@dataclass(frozen=True)
class Taken:
    """What was taken.

    Args:
        probes: The probes.
        closed: Names of classes that were left out: an order to forget them came after them.
    """

    probes: Probes
    closed: tuple[str, ...]


def take_probes(merger: Merger, home: Home, *, is_plain: bool = False) -> Taken:
    """Have the held-out pictures of a home be the probes of a merger, instead of those before.

    Args:
        merger: The merger, whose folder the caller holds.
        home: A home of the fleet's feature map and head, a device or none.
        is_plain: Whether features of a sealed home may be kept unencrypted.

    Raises:
        RequestError: It is of another feature map or head, it holds no picture out, it is sealed
            and that was not asked for, or its device was forgotten; nothing was changed.
    """
    plant, orders, giver = merger.plant, _applied(merger, home), public_key(home)
    if giver in merger.orders.out:
        raise RequestError(
            f"the home {home.path} is of a device that was forgotten by an order; take the probes "
            "of another home"
        )
    with writing(home) as session:
        store = session.store
        finish_exports(store)
        keys = "" if store.codebook is None else store.codebook.digest
        head, dim = home.config.head.name, store.num_features
        if why := other_map(store.feature_map, dim, head, keys, plant.fleet):
            raise RequestError(f"the home {home.path} gives no probes: {why}")
        if store.is_sealed and not is_plain:
            raise RequestError(
                f"the home {home.path} is sealed, and probes are features that lie unencrypted in "
                f"{plant.path}; add --plain if that is meant"
            )
        _, x, classes = store.rows(Role.HELD_OUT)
        hidden = store.blocked_classes()
        ids = {
            uid: orders.id_of(plant.key, store.names[uid])
            for uid in np.unique(classes).tolist()
            if uid not in hidden
        }
        closed = {uid for uid, id in ids.items() if id in merger.orders.closed}
        uids = sorted(ids.keys() - closed, key=lambda uid: ids[uid])
        names = tuple(sorted(store.names[uid] for uid in closed))
        is_taken = np.isin(classes, uids)
        if not is_taken.any():
            raise RequestError(
                f"the home {home.path} holds no picture out that could be a probe; `edgecl samples "
                "hold-out UID` or the setting evaluation.probes has it hold some out"
            )
        places = {uid: i for i, uid in enumerate(uids)}
        y = np.array([places[uid] for uid in classes[is_taken].tolist()], np.int64)
        found = Probes(tuple(ids[uid] for uid in uids), x[is_taken], y, giver)
        _give(store, plant, uids, found)
    return Taken(found, names)


def _give(store: Store, plant: Plant, classes: list[int], probes: Probes) -> None:
    """Write probes, as an export of the home: what it unlearns of them later, it reaches there."""
    place = Path(os.path.realpath(plant.path)) / PROBES
    data = probes_file(plant, probes)
    with exporting(store, EXPORT, place, classes, hashlib.sha256(data).hexdigest()):
        put_file(plant, data)


def _applied(merger: Merger, home: Home) -> Orders:
    """Return the orders that a home has applied: none of one that is no device of the fleet.

    What it holds of a name is then of the time before any order, so that a class which was ordered
    to be forgotten does not come back.
    """
    if not (home.fleet / FLEET_NAME).exists():
        return Orders()
    device = Device(home)
    is_of_it = device.fleet.id == merger.plant.fleet.id
    return merger.orders.until(device.kept.order if is_of_it else 0)
