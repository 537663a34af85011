"""Rounds of masks on a carrier: what all devices know together, and of none what it knows alone.

    masks/rN-DIGEST.json              the N-th round: which classes are summed; signed by the merger
    masks/seats/DEVICE/sN-DIGEST.json    who takes part
    masks/lN-DIGEST.json              the list of all who do; signed by the merger
    masks/masked/DEVICE/mN-DIGEST.efc    the masked sums of one of them; signed by it

What is summed is the `total` form (contribution.py): count and sum of every class, and one Gram
matrix. masking.py says who does what.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgecl.errors import IntegrityError
from edgecl.fleet.carriers.folder import Folder, number_of
from edgecl.fleet.identity import opened, signed
from edgecl.fleet.masks import Seat, UInt64
from edgecl.fleet.plant import Fleet
from edgecl.fleet.sums import Layout
from edgecl.runtime.files import loads
from edgecl.store.text import dump_json

MEMBER = "masked"
"""The member that the sum counts as."""
MASKS, SEATS, MASKED = "masks", "seats", "masked"
MOST_STATE = 4096
_MOST_LIST = 2**20


@dataclass(frozen=True)
class Round:
    """What is summed.

    Args:
        id: 32 hex digits.
        number: Of this fleet; it is the generation of the sum.
        fleet: Id of the fleet.
        order: The last order that the ids are of.
        classes: Ids and names, by id.
        feature_map: Hash of the frozen map.
        head: Name of the head.
        layout: What is summed of each.
    """

    id: str
    number: int
    fleet: str
    order: int
    classes: tuple[tuple[str, str], ...]
    feature_map: str
    head: str
    layout: Layout

    @property
    def n_values(self) -> int:
        """Count and sum of every class, and what they have together."""
        return len(self.classes) * (1 + self.layout.width) + self.layout.n_second

    @property
    def about(self) -> str:
        """What every member signs that its values are of."""
        return hashlib.sha256(dump_json(asdict(self)).encode()).hexdigest()

    @classmethod
    def read(cls, data: bytes, fleet: Fleet, what: str) -> Round:
        """Read one that the merger signed.

        Raises:
            IntegrityError: It is none, or of another fleet.
        """
        body = opened(data, fleet.merger, what)
        try:
            layout = Layout(**body.pop("layout"))
            layout.check()
            classes = tuple((str(i), str(name)) for i, name in body.pop("classes"))
            found = cls(classes=classes, layout=layout, **body)
        except (TypeError, ValueError, LookupError) as error:
            raise IntegrityError(f"{what} says of a round what is not to be ({error})") from error
        if found.fleet != fleet.id or list(classes) != sorted(set(classes)):
            raise IntegrityError(f"{what} is of another fleet, or its classes are not in order")
        return found


def members_of(fleet: Fleet) -> dict[str, str]:
    """Return the public keys of all devices, by name."""
    return {member.name: member.key for member in fleet.members if member.name != MEMBER}


def round_on(folder: Folder, fleet: Fleet) -> Round | None:
    """Return the newest round on a carrier."""
    paths = [p for p in folder.files(MASKS, suffix="json") if p.name[0] == "r"]
    if not paths:
        return None
    newest = max(paths, key=number_of)
    return Round.read(folder.read(newest), fleet, str(newest))


def list_on(folder: Folder, fleet: Fleet, found: Round) -> list[Seat] | None:
    """Return the list of a round, which `Turn.mask` checks; None if it is not closed."""
    for path in folder.files(MASKS, suffix="json"):
        if path.name.startswith(f"l{found.number}-"):
            body = opened(folder.read(path, _MOST_LIST), fleet.merger, str(path))
            if body.get("round") == found.id:
                return [Seat.from_json(each) for each in body["seats"]]
    return None


def seats_on(folder: Folder, fleet: Fleet, found: Round) -> list[Seat]:
    """Return the seats that were taken in a round, checked one by one."""
    seats = []
    for name in members_of(fleet):
        for path in folder.files(MASKS, SEATS, name, suffix="json"):
            if number_of(path) == found.number:
                seat = Seat.from_json(loads(folder.read(path, MOST_STATE)))
                if (seat.round, seat.device) != (found.id, name):
                    raise IntegrityError(f"{path} is a seat of another device or round; delete it")
                seats.append(seat)
    return seats


def sealed(found: Round, name: str, masked: UInt64, key: Ed25519PrivateKey) -> bytes:
    """Return masked values as a file: a signed line, and the values."""
    data = masked.astype("<u8").tobytes()
    digest = hashlib.sha256(data).hexdigest()
    return signed({"round": found.id, "device": name, "digest": digest}, key) + data


def masked_on(
    folder: Folder, fleet: Fleet, found: Round, seats: Sequence[Seat]
) -> dict[str, UInt64]:
    """Return what the members on the list sent, each signed by it."""
    sent, keys = {}, members_of(fleet)
    for name in [seat.device for seat in seats if seat.device in keys]:
        for path in folder.files(MASKS, MASKED, name, suffix="efc"):
            if number_of(path) != found.number:
                continue
            line, _, data = folder.read(path, found.n_values * 8 + MOST_STATE).partition(b"\n")
            body = opened(line + b"\n", keys[name], str(path))
            said = {"round": found.id, "device": name, "digest": hashlib.sha256(data).hexdigest()}
            if body != said or len(data) != found.n_values * 8:
                raise IntegrityError(f"{path} is not what {name} signed; have it sent again")
            sent[name] = np.frombuffer(data, "<u8").astype(np.uint64)
    return sent


def wipe_round(folder: Folder, fleet: Fleet) -> None:
    """Take rounds off a carrier, so that nobody answers them any more."""
    paths = list(folder.files(MASKS, suffix="json"))
    for name in members_of(fleet):
        paths += folder.files(MASKS, SEATS, name, suffix="json")
        paths += folder.files(MASKS, MASKED, name, suffix="efc")
    for path in paths:
        folder.wipe(path)
