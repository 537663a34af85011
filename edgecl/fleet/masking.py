"""What a device and the merger do in a round of masks; rounds.py says what lies on the carrier.

A device comes twice, for a seat and with its sums (`take_part`); the merger opens the round, closes
the list and adds up (`open_round`, `advance`). The sum counts from then on as the contribution of a
member called `masked`, so merged heads, orders and leases are as ever. Whoever takes part sends
nothing else (member.py): it would count twice.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from edgecl.errors import IntegrityError, RequestError
from edgecl.fleet.carriers.folder import CONTRIBUTIONS, Folder, number_of
from edgecl.fleet.contribution import sums_part, total_body, write
from edgecl.fleet.header import Contribution
from edgecl.fleet.identity import DeviceKeys, signed
from edgecl.fleet.masks import Seat, Turn, UInt64, check_seats, new_round, sit, unmask
from edgecl.fleet.member import MASK_STATE, Device, held
from edgecl.fleet.merger import Merger
from edgecl.fleet.planes import Int64, check_range, unpack_sums
from edgecl.fleet.rounds import (
    MASKED,
    MASKS,
    MEMBER,
    MOST_STATE,
    SEATS,
    Round,
    list_on,
    masked_on,
    members_of,
    round_on,
    sealed,
    seats_on,
    wipe_round,
)
from edgecl.fleet.sums import ClassSums, Layout
from edgecl.heads import make_head_of
from edgecl.runtime.files import loads, read_own, write_whole
from edgecl.session import Session
from edgecl.store.text import dump_json

_MOST_COUNT = 2**40


@dataclass(frozen=True)
class Step:
    """How far a round is.

    Args:
        what: `opened`, `seated`, `waiting`, `closed`, `masked` or `added`.
        round: The round.
        devices: Who has done what it waits for.
        missing: Who has not.
    """

    what: str
    round: Round
    devices: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def take_part(device: Device, carrier: Folder, *, min_rows: int = 0) -> Step:
    """Do what the round on a carrier waits for from this device: take a seat, or send masked sums.

    Args:
        device: The device.
        carrier: The carrier.
        min_rows: Classes of fewer samples here stay out of the sums.

    Raises:
        RequestError: There is no round, it does not sum a class that is known here, or the head of
            this home does not add up so.
        IntegrityError: The round or its list is not as the merger signed it.
    """
    with held(device.home) as session:
        device.take_orders(carrier)
        device.apply(session)
        found = round_on(carrier, device.fleet)
        if found is None:
            raise RequestError(
                f"no round of masks is open on {carrier.path}; its merger opens one with "
                "`edgecl fleet unmask --open CLASS`"
            )
        values = _values(device, session, found, min_rows)
        turn, member = _turn_of(device), device.member
        assert member is not None  # or there was no key
        if turn is None or turn.seat.round != found.id:
            turn = sit(
                found.fleet, found.id, member.name, found.about, found.n_values, device.keys.sign
            )
            _keep(device, turn)
        text = dump_json(asdict(turn.seat)).encode()
        carrier.put(f"s{found.number}", text, MASKS, SEATS, member.name, suffix="json")
        seats = list_on(carrier, device.fleet, found)
        if seats is None:
            return Step("seated", found, (member.name,))
        turn, masked = turn.mask(seats, members_of(device.fleet), values)
        _keep(device, turn)
        data = sealed(found, member.name, masked, device.keys.sign)
        carrier.put(f"m{found.number}", data, MASKS, MASKED, member.name, suffix="efc")
        return Step("masked", found, tuple(sorted(s.device for s in seats)))


def open_round(merger: Merger, carrier: Folder, names: Sequence[str]) -> Step:
    """Open a round over some classes; one that is open is given up.

    Raises:
        RequestError: The head of this fleet does not add up so, or a device is called `masked`.
    """
    plant, fleet = merger.plant, merger.plant.fleet
    merger.pull(carrier)
    keys = _own_keys(merger)
    if fleet.of_key(keys.key) is None:
        plant.add(MEMBER, keys.public)
    head = make_head_of(fleet.head_config, fleet.dim, codebook=plant.keys)
    layout = Layout.of(head.statistic)
    if layout.statistic != "full":
        raise RequestError(f"the head {fleet.head['name']} has no `total` form; masks need ridge")
    ids = {merger.orders.id_of(plant.key, name): name for name in names}
    made = Round(
        new_round(),
        _last_number(merger) + 1,
        fleet.id,
        merger.orders.last,
        tuple(sorted(ids.items())),
        fleet.feature_map,
        fleet.head["name"],
        layout,
    )
    wipe_round(carrier, fleet)
    wipe_round(merger.store, fleet)
    data = signed(asdict(made) | {"classes": [list(c) for c in made.classes]}, plant.merger)
    merger.push(carrier)
    for folder in (merger.store, carrier):
        folder.put(f"r{made.number}", data, MASKS, suffix="json")
    return Step("opened", made, (), tuple(m.name for m in plant.fleet.members if m.name != MEMBER))


def advance(merger: Merger, carrier: Folder, *, closes: bool = False) -> Step:
    """Do what the round waits for from the merger: close the list, or add up.

    Args:
        merger: The merger.
        carrier: The carrier.
        closes: Whether the list is closed now, with those that have a seat.

    Raises:
        RequestError: No round is open, too few take part, or a member counts already with what it
            sent unmasked.
        IntegrityError: What a member sent is not what it signed, or no samples have these sums.
    """
    fleet = merger.plant.fleet
    merger.pull(carrier)  # who sent in the clear would count twice
    found = round_on(merger.store, fleet)
    if found is None:
        raise RequestError(
            "no round of masks is open; `edgecl fleet unmask --open CLASS` opens one"
        )
    seats = list_on(merger.store, fleet, found)
    if seats is None:
        seats = seats_on(carrier, fleet, found)
        taken = tuple(sorted(s.device for s in seats))
        others = tuple(m.name for m in fleet.members if m.name not in {*taken, MEMBER})
        if not closes:
            return Step("waiting", found, taken, others)
        _check_unmasked(merger, taken)
        check_seats(seats, members_of(fleet))
        body = {"round": found.id, "seats": [asdict(s) for s in seats]}
        for folder in (merger.store, carrier):
            folder.put(f"l{found.number}", signed(body, merger.plant.merger), MASKS, suffix="json")
        return Step("closed", found, taken, others)
    masked = masked_on(carrier, fleet, found, seats)
    missing = tuple(sorted({s.device for s in seats} - set(masked)))
    if missing:
        return Step("waiting", found, tuple(sorted(masked)), missing)
    _count(merger, found, unmask(seats, masked))
    wipe_round(carrier, fleet)
    wipe_round(merger.store, fleet)
    return Step("added", found, tuple(sorted(masked)))


def _values(device: Device, session: Session, found: Round, min_rows: int) -> UInt64:
    """Return the sums of this device as the round wants them, (n_values,), uint64."""
    own, bodies = device.collected(session, total=True, min_rows=min_rows)
    if (own.feature_map, own.head, own.layout) != (found.feature_map, found.head, found.layout):
        raise RequestError("this home has another feature map or head than the round sums")
    ids, layout = {i: at for at, (i, _) in enumerate(found.classes)}, found.layout
    more = sorted(part.name for part in own.parts if part.id not in ids)
    if more:
        raise RequestError(
            f"the round sums {', '.join(n for _, n in found.classes)}; this home knows also "
            f"{', '.join(more)}; have its merger open a round with all of them"
        )
    counts = np.zeros(len(ids), np.int64)
    totals = np.zeros((len(ids), layout.width), np.int64)
    second = np.zeros(layout.n_second, np.int64)
    for part in own.parts:
        counts[ids[part.id]] = part.count
        totals[ids[part.id]] = unpack_sums(bodies[part.digest], layout.width)
    if own.total:
        second = unpack_sums(bodies[own.total], layout.n_second)
    return np.concatenate([counts, totals.ravel(), second]).view(np.uint64)


def _count(merger: Merger, found: Round, sums: Int64) -> None:
    """Let a sum count, as the contribution of the member `masked`."""
    layout, k = found.layout, len(found.classes)
    counts, rest = sums[:k], sums[k:]
    totals, second = rest[: k * layout.width].reshape(k, -1), rest[k * layout.width :]
    if counts.min(initial=0) < 0 or counts.max(initial=0) > _MOST_COUNT:
        raise IntegrityError(
            "the sums of the round are noise: a device masked for another list; open a new round"
        )
    check_range(totals)
    check_range(second)
    ClassSums(int(counts.sum()), totals.sum(axis=0), second).check(layout)
    nothing = np.zeros(0, np.int64)
    made = [
        sums_part(i, name, ClassSums(int(n), total, nothing), "sum")
        for (i, name), n, total in zip(found.classes, counts, totals, strict=True)
        if n
    ]
    bodies, (digest, body) = {part.digest: data for part, data in made}, total_body(second)
    keys = _own_keys(merger)
    contribution = Contribution(
        fleet=found.fleet,
        device=MEMBER,
        key=keys.key,
        generation=found.number,
        order=found.order,
        receipt="",
        feature_map=found.feature_map,
        head=found.head,
        layout=layout,
        parts=tuple(part for part, _ in made),
        total=digest,
    )
    with tempfile.TemporaryDirectory(dir=merger.plant.path, prefix=".masked-") as folder:
        path = Path(folder) / "sum.efc"
        write(path, contribution, bodies | {digest: body}, keys.sign)
        merger.store.put(f"g{found.number}", path, CONTRIBUTIONS, MEMBER, suffix="efc")


def _own_keys(merger: Merger) -> DeviceKeys:
    """Return the keys of the member `masked`: only the merger can derive them."""
    seed = b"edgecl fleet masked\0" + merger.plant.merger.private_bytes_raw()
    sign, box = (hashlib.sha256(what + seed).digest() for what in (b"sign", b"box"))
    return DeviceKeys(
        Ed25519PrivateKey.from_private_bytes(sign), X25519PrivateKey.from_private_bytes(box)
    )


def _check_unmasked(merger: Merger, names: Sequence[str]) -> None:
    """Check that nobody counts twice."""
    twice = sorted({c.device for c in merger.contributions().values()} & set(names))
    if twice:
        raise RequestError(
            f"{', '.join(twice)} would count twice: also with what it sent unmasked; "
            "`edgecl fleet forget device` takes that out, and with another home it joins anew"
        )


def _last_number(merger: Merger) -> int:
    known = [c.generation for c in merger.contributions().values() if c.device == MEMBER]
    known += [number_of(path) for path in merger.store.files(MASKS, suffix="json")]
    return max(known, default=0)


def _turn_of(device: Device) -> Turn | None:
    path = device.home.fleet / MASK_STATE
    if not path.exists():
        return None
    try:
        body = loads(read_own(path, MOST_STATE))
        return Turn(Seat.from_json(body["seat"]), str(body["secret"]), str(body["used"]))
    except (TypeError, ValueError, LookupError) as error:
        raise IntegrityError(
            f"{path} is damaged; delete it and take part in a new round"
        ) from error


def _keep(device: Device, turn: Turn) -> None:
    """Write a turn down; before anything masked leaves the device."""
    write_whole(device.home.fleet / MASK_STATE, dump_json(asdict(turn)).encode(), mode=0o600)
