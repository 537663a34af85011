"""Probes of a merger: features of labelled pictures that nobody learned, which it tries heads on.

`probes.safetensors` in the merger's folder, and nowhere else: features (N, D) as float16, the class
of each, and what they are of, all under one hash. Classes are ids (identity.py), no name is in it.
It goes on no carrier, so a merger that is made again of one has no probes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from edgecl.errors import EdgeclError, IntegrityError, RequestError
from edgecl.fleet.identity import is_hex
from edgecl.fleet.orders import Orders
from edgecl.fleet.plant import Plant
from edgecl.fleet.sums import rows_of
from edgecl.runtime.files import loads, open_own, overwrite, read_own, wipe, write_whole
from edgecl.store.text import dump_json
from edgecl.types import Float16, Labels

PROBES = "probes.safetensors"
MOST_BYTES = 512 * 2**20
"""Of the file: 150,000 pictures of lite0."""
_MEND = "`edgecl fleet probes HOME` takes new ones, `edgecl fleet probes --none` goes on without"


@dataclass(frozen=True, eq=False)
class Probes:
    """Labelled features that nobody learned.

    Args:
        ids: Ids of their classes.
        x: Features (N, D), float16 on the grid of 2^-12.
        y: Place of each one's class in `ids` (N,).
        giver: Public key of the home that they were taken from, hex.
    """

    ids: tuple[str, ...]
    x: Float16
    y: Labels
    giver: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all of it, hex."""
        found = hashlib.sha256(dump_json([self.ids, self.giver]).encode())
        for array in (self.x, self.y):
            found.update(f"{array.dtype.str}{array.shape}".encode())
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def without(self, ids: Collection[str]) -> Probes:
        """Return them without some classes."""
        stay = [i for i, class_ in enumerate(self.ids) if class_ not in ids]
        is_left = np.isin(self.y, stay)
        y = np.searchsorted(stay, self.y[is_left]) if stay else self.y[:0]
        return Probes(
            tuple(self.ids[i] for i in stay), self.x[is_left], y.astype(np.int64), self.giver
        )


def probes_of(plant: Plant) -> Probes | None:
    """Return the probes of a merger; None if it has none.

    Raises:
        IntegrityError: The file is damaged, of another fleet, or none that edgecl wrote.
        RequestError: It cannot be read.
    """
    path = plant.path / PROBES
    try:
        data = read_own(path, MOST_BYTES)
    except FileNotFoundError:
        return None
    try:
        arrays = load_arrays(data)
        about = loads(arrays["about"].tobytes())
        found = Probes(tuple(about["ids"]), arrays["x"], arrays["y"], about["giver"])
        expected = _about(plant, found)
        if about["of"] != expected["of"]:
            raise ValueError("they are of another fleet or feature map")
        if about != expected:
            raise ValueError("it was changed")
        _check(found, plant)
    except (SafetensorError, EdgeclError, ValueError, TypeError, LookupError) as error:
        why = str(error).replace("\n", " ")[:200]
        raise IntegrityError(
            f"{path} is damaged or holds no probes of this fleet ({why}); {_MEND}"
        ) from error
    return found


def probes_file(plant: Plant, probes: Probes) -> bytes:
    """Return probes as a file.

    Raises:
        RequestError: There are too many.
    """
    about = np.frombuffer(dump_json(_about(plant, probes)).encode(), np.uint8)
    data = save_arrays({"about": about, "x": np.ascontiguousarray(probes.x), "y": probes.y})
    if len(data) > MOST_BYTES:
        raise RequestError(
            f"{len(probes.y)} probes are {len(data)} bytes, at most {MOST_BYTES} are kept; take "
            "them from a home that holds fewer pictures out"
        )
    return data


def put_probes(plant: Plant, probes: Probes) -> None:
    """Keep probes instead of those that are there; see `probes_file` and `put_file`."""
    put_file(plant, probes_file(plant, probes))


def put_file(plant: Plant, data: bytes) -> None:
    """Keep what `probes_file` made instead of what is there, whose bytes are overwritten.

    Raises:
        IntegrityError: What is there is a link or no plain file.
        StoreError: It cannot be written; what was there is as it was.
    """
    _wipe_part(plant)
    path = plant.path / PROBES
    with ExitStack() as stack:
        before = None
        if os.path.lexists(path):
            before = stack.enter_context(open(open_own(path, os.O_RDWR), "r+b"))
        write_whole(path, data, mode=0o600)
        if before is not None:
            overwrite(before)


def drop_probes(plant: Plant) -> bool:
    """Wipe the probes of a merger, whatever is there; returns whether there was something."""
    _wipe_part(plant)
    path = plant.path / PROBES
    if not os.path.lexists(path):
        return False
    wipe(path)
    return True


def forget_probes(plant: Plant, orders: Orders) -> None:
    """Wipe probes of classes that were ordered to be forgotten, and all that such a device gave.

    Raises:
        IntegrityError: See `probes_of`.
    """
    _wipe_part(plant)
    found = probes_of(plant)
    if found is None:
        return
    left = found.without(orders.closed)
    if found.giver in orders.out or not left.ids:
        drop_probes(plant)
    elif left.ids != found.ids:
        put_probes(plant, left)


def _wipe_part(plant: Plant) -> None:
    """Wipe what a process that was killed while it wrote has left."""
    part = plant.path / f".{PROBES}.part"
    if os.path.lexists(part):
        wipe(part)


def _about(plant: Plant, probes: Probes) -> dict[str, Any]:
    """Return what the file says beside the numbers."""
    fleet = plant.fleet
    return {
        "of": {"fleet": fleet.id, "feature_map": fleet.feature_map, "keys": fleet.keys},
        "ids": list(probes.ids),
        "giver": probes.giver,
        "digest": probes.digest,
    }


def _check(probes: Probes, plant: Plant) -> None:
    x, y, k = rows_of(probes.x), probes.y, len(probes.ids)
    is_right = x.dtype == np.float16 and x.shape == (len(y), plant.fleet.dim)
    is_right &= y.dtype == np.int64 and y.shape == (len(x),) and len(set(probes.ids)) == k
    if not is_right or y.min(initial=0) < 0 or y.max(initial=-1) >= k:
        raise ValueError("its numbers are not features and their classes")
    if not all(is_hex(i, 64) for i in (*probes.ids, probes.giver)):
        raise ValueError("an id is none")
