"""A device of a fleet: what it keeps of it, what it sends, and how it does what was ordered.

    HOME/fleet/fleet.json      the fleet, as its admin signed it
    HOME/fleet/orders/         the orders, as on every carrier
    HOME/fleet/requests/       what it asks all to forget, as there, while no order answers it
    HOME/fleet/device.json     the last order that was applied, its receipt, what was sent
    HOME/fleet/mask.json       its secret in a round of masks (masking.py)
    HOME/fleet/merged/         the merged head: its description, and `bundle/` for `predict -b`

The generation is the store's `version`, which the transaction that changes a statistic raises and
no rollback lowers, plus a number of its own that an applied order or `join --again` raises. So a
home that was put back from a backup sends a smaller one, and is found out.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from edgecl.errors import IntegrityError, RequestError
from edgecl.fleet.carriers.folder import (
    CONTRIBUTIONS,
    FLEET,
    MERGED,
    MOST_HEAD_BYTES,
    Folder,
    number_of,
)
from edgecl.fleet.collect import base_of, collect, export
from edgecl.fleet.contribution import Contribution, digest, encode, outline
from edgecl.fleet.identity import DeviceKeys, unseal
from edgecl.fleet.kept import Kept, Synced
from edgecl.fleet.merged import Merged, arrays_file, install, newest_merged
from edgecl.fleet.merger import orders_in, put_orders
from edgecl.fleet.orders import CLASS, DEVICE, Order
from edgecl.fleet.plant import Fleet, Member
from edgecl.fleet.requests import carry
from edgecl.home import Home
from edgecl.lending import is_lending, lending
from edgecl.runtime.faults import telling
from edgecl.runtime.files import loads, read_own, wipe, write_whole
from edgecl.session import Session
from edgecl.store.exports import FRESH, REPLACED, STALE, exports_of, set_status
from edgecl.store.text import dump_json
from edgecl.types import ForgetRequest, Kind
from edgecl.unlearning.ask import unlearn
from edgecl.unlearning.request import Unlearned, writing

_STATE = "device.json"
MASK_STATE = "mask.json"
_BUNDLE = "bundle"
_MOST_STATE = 65536


class Device:
    """A home that joined a fleet.

    Args:
        home: The home.

    Raises:
        RequestError: It joined none.
        IntegrityError: What it keeps of it is damaged.
    """

    def __init__(self, home: Home) -> None:
        self.home, self.keys = home, DeviceKeys.of(home)
        path = home.fleet / FLEET
        if not path.exists():
            raise RequestError(
                f"the home {home.path} is in no fleet; `edgecl fleet join CARRIER/fleet.json` "
                "joins one"
            )
        self.folder = Folder(home.fleet)
        with telling(f"{path} cannot be read"):
            self.fleet = Fleet.read(self.folder.fleet() or b"", str(path))
        self.orders = orders_in(self.folder, self.fleet)
        self.kept = self._read_kept()

    @property
    def bundle(self) -> Path:
        """Folder of the merged head."""
        return self.home.fleet / MERGED / _BUNDLE

    @property
    def is_masked(self) -> bool:
        """Whether it took part in a round of masks, so that it sends nothing in the clear."""
        return (self.home.fleet / MASK_STATE).exists()

    @property
    def member(self) -> Member | None:
        """This device on the list of the fleet; None while it is not there."""
        return self.fleet.of_key(self.keys.key)

    @property
    def key(self) -> bytes:
        """The fleet's key.

        Raises:
            RequestError: The admin has not added this device yet.
        """
        member = self.member
        sealed = self.kept.sealed if member is None else member.sealed
        if not sealed:
            raise RequestError(
                "this device is not on the fleet's list yet; have its admin run `edgecl fleet add "
                f"NAME {self.keys.public}`, and bring the carrier back"
            )
        if sealed != self.kept.sealed:
            self._keep(sealed=sealed)
        return unseal(sealed, self.keys.box, self.fleet.id)

    def merged(self) -> Merged | None:
        """Return the description of the merged head that is here."""
        found = newest_merged(self.folder, self.fleet)
        return None if found is None or not self.bundle.is_dir() else found[0]

    def take_orders(self, carrier: Folder) -> None:
        """Take fleet.json and the orders from a carrier, checked, and keep them.

        Raises:
            IntegrityError: They are not of this fleet, or an order was changed.
        """
        data = carrier.fleet()
        if data is not None:
            found = Fleet.read(data, str(carrier.path / FLEET), self.fleet.id)
            if found.revision > self.fleet.revision:
                self.folder.put_fleet(data)
                self.fleet = found
        self.orders = orders_in(carrier, self.fleet, self.orders)
        put_orders(self.folder, self.orders)

    def apply(self, session: Session) -> list[tuple[int, str]]:
        """Do what was ordered and is not done yet, oldest first; returns numbers and receipts.

        Each is noted when its unlearning is over; one that was cut off is done again, which finds
        nothing left to do.
        """
        done: list[tuple[int, str]] = []
        for order in self.orders.entries[self.kept.order :]:
            receipts = []
            for kind, name in self._meant(session, order):
                asked = ForgetRequest(name, f"fleet order {order.number}", kind)
                found = unlearn(self.home, asked)
                assert isinstance(found, Unlearned)  # the home is held here
                receipts.append(found.receipt)
            self._drop_merged(order)
            digest_ = receipts[-1].digest if receipts else ""
            self._keep(order=order.number, receipt=digest_, base=self.kept.base + 1)
            done.append((order.number, receipts[-1].receipt_id if receipts else ""))
        return done

    def export(
        self, session: Session, output: Path, *, total: bool = False, is_plain: bool = False
    ) -> tuple[Path, int]:
        """Write the newest contribution into a folder, as `DEVICE-gN.efc`.

        Raises:
            RequestError: The device is not a member, its head does not add up, or its store is
                sealed and `is_plain` is off.
        """
        if self.is_masked:
            raise RequestError(
                "this device takes part in rounds of masks, and what it writes in the clear would "
                "count twice; `edgecl fleet mask` sends what it knows"
            )
        found, bodies = self.collected(session, total=total)
        path = output / f"{found.device}-g{found.generation}.efc"
        export(session, path, found, bodies, is_plain=is_plain)
        return path, found.generation

    def send(
        self, session: Session, carrier: Folder, *, total: bool = False, is_plain: bool = False
    ) -> int | None:
        """Put the newest contribution on a carrier and wipe older ones; returns its generation.

        What lies there already is not sent again: see `base_of`.

        Returns:
            None if the carrier has it already.

        Raises:
            RequestError: As of `export`.
        """
        before = self.kept.sent
        found, bodies = self.collected(session, total=total)
        here = list(carrier.files(CONTRIBUTIONS, found.device, suffix="efc"))
        said, newest = digest(replace(found, generation=0)), max(map(number_of, here), default=-1)
        merged = newest_merged(carrier, self.fleet)
        counted = -1 if merged is None else merged[0].generations.get(self.keys.key, -1)
        base = base_of(session, here, found, counted)
        if here and said == before and newest <= found.generation:
            # There, and not as half of what nobody has.
            if base or any(outline(path) for path in here if number_of(path) == newest):
                return None
        pieces = encode(found, bodies, self.keys.sign, () if base is None else base.spans)
        whole = hashlib.sha256()
        for piece in pieces:
            whole.update(piece)
        stem = f"g{found.generation}"
        path = carrier.place(stem, whole.hexdigest(), CONTRIBUTIONS, found.device, suffix="efc")
        if path not in here:
            export(session, path, found, bodies, is_plain=is_plain, since=base)
        for old in here:  # also the half of this generation of which nobody has the rest
            is_base = base is not None and old == base.path
            if number_of(old) <= found.generation and old != path and not is_base:
                carrier.wipe(old)
        self._keep(sent=said)
        return found.generation

    def collected(
        self, session: Session, *, total: bool, min_rows: int = 0
    ) -> tuple[Contribution, dict[str, bytes]]:
        """Return what this device learned itself, and its bytes; see `collect`."""
        key, member, orders = self.key, self.member, self.orders.until(self.kept.order)
        if member is None:
            raise RequestError("an order took this device out of the fleet; it sends nothing more")
        return collect(
            session,
            id_of=lambda name: orders.id_of(key, name),
            fleet=self.fleet.id,
            device=member.name,
            generation=session.store.version + self.kept.base,
            order=self.kept.order,
            receipt=self.kept.receipt,
            total=total,
            min_rows=max(min_rows, self.fleet.policy.min_rows),
        )

    def take_merged(self, carrier: Folder) -> bool:
        """Take the newest merged head from a carrier; returns whether one was taken.

        Raises:
            IntegrityError: It is damaged, or not signed by the fleet's merger.
        """
        found, own = newest_merged(carrier, self.fleet), self.merged()
        if found is None or not found[0].head:
            return False
        merged = found[0]
        is_known = own is not None and own.version >= merged.version
        if is_known or merged.order < self.kept.order:  # it may hold what was forgotten here
            return False
        arrays = arrays_file(carrier, merged)
        if arrays is None:
            return False
        data = carrier.read(arrays, MOST_HEAD_BYTES)
        (self.home.fleet / MERGED).mkdir(exist_ok=True)
        install(self.home, merged, data, self.bundle)
        for path in list(self.folder.files(MERGED, suffix="json")):
            self.folder.wipe(path)
        self.folder.put(f"v{merged.version}", found[1], MERGED, suffix="json")
        return True

    def sync(self, carrier: Folder, *, total: bool = False, is_plain: bool = False) -> Synced:
        """Exchange everything with a carrier: orders first, so that nothing forgotten is sent."""
        with held(self.home) as session:
            if self.member is not None:
                _ = self.key  # which is kept, should the next list lack this device
            self.take_orders(carrier)
            applied = tuple(self.apply(session))
            if self.keys.key in self.orders.out:
                return Synced(applied, None, None, False, True)
            is_new = self.take_merged(carrier)  # also where nothing may be sent
            # Beside masked sums, what was sent in the clear would count twice.
            sent = None
            if not self.is_masked:
                sent = self.send(session, carrier, total=total, is_plain=is_plain)
            if self.member is not None:
                _note_gone(session, carrier.path / CONTRIBUTIONS / self.member.name)
            asked = carry(self.folder, carrier, self.fleet, self.orders)
        return Synced(applied, sent, self.merged(), is_new, False, *asked)

    def go_on_behind(self, carrier: Folder) -> None:
        """Have the next generation be larger than any that a carrier or the merger knows."""
        known, found = [], newest_merged(carrier, self.fleet)
        if found is not None:
            known.append(found[0].generations.get(self.keys.key, 0))
        if self.member is not None:
            files = carrier.files(CONTRIBUTIONS, self.member.name, suffix="efc")
            known += map(number_of, files)
        with held(self.home) as session:
            missing = max(known, default=0) + 1 - (session.store.version + self.kept.base)
        self._keep(base=self.kept.base + max(0, missing), sent="")

    def _meant(self, session: Session, order: Order) -> list[tuple[Kind, str]]:
        """Return what of this home an order is about."""
        store = session.store
        if order.kind == DEVICE:
            source = f"fleet:{order.body['name']}"
            return [(Kind.SOURCE, source)] if source in store.sources().values() else []
        if order.kind != CLASS:
            return []
        key, before = self.key, self.orders.until(order.number - 1)
        return [
            (Kind.CLASS, name)
            for uid, name in store.names.items()
            if any(before.id_of(key, known) in order.ids for known in store.names_of(uid))
        ]

    def _drop_merged(self, order: Order) -> None:
        """Wipe the merged head if it holds what an order is about; a newer one comes."""
        found = newest_merged(self.folder, self.fleet)
        names = set() if found is None else {class_ for class_, _, _ in found[0].classes}
        if order.kind == DEVICE or names & order.ids:
            folder = self.home.fleet / MERGED
            if folder.exists():
                wipe(folder)

    def _read_kept(self) -> Kept:
        path = self.home.fleet / _STATE
        try:
            return Kept(**loads(read_own(path, _MOST_STATE)))
        except FileNotFoundError:
            return Kept()
        except (ValueError, TypeError) as error:
            raise IntegrityError(
                f"{path} is damaged ({error}); delete it and run `edgecl fleet join --again`"
            ) from error

    def _keep(self, **changes: object) -> None:
        self.kept = replace(self.kept, **changes)  # type: ignore[arg-type]
        write_whole(self.home.fleet / _STATE, dump_json(asdict(self.kept)).encode(), mode=0o600)


def _note_gone(session: Session, folder: Path) -> None:
    """Note which contributions are no longer on a carrier: nothing of them is left to be erased.

    This device wiped them as newer ones came, or the merger did, which takes out what is forgotten.
    """
    store, place = session.store, Path(os.path.realpath(folder))
    with store.transaction(changes_head=False):
        for each in exports_of(store):
            if each.path.parent == place and each.status in (FRESH, STALE):
                if not os.path.lexists(each.path):
                    set_status(store, each, REPLACED, each.body)


@contextmanager
def held(home: Home) -> Iterator[Session]:
    """Hold a home, so that what unlearns in it works on the same session.

    Raises:
        HomeLockedError: Another process writes.
    """
    with ExitStack() as stack:
        session = stack.enter_context(writing(home))
        if not is_lending():
            stack.enter_context(lending(session))
        yield session


def join(home: Home, path: Path, *, again: bool = False) -> Device:
    """Let a home join the fleet of a fleet.json, or another one than before.

    Args:
        home: The home.
        path: The file, on a carrier or as the admin gave it.
        again: After a backup was put back: go on behind the generation that the merger knows.

    Raises:
        RequestError: The home has another feature map or head.
        IntegrityError: The file is none.
    """
    folder = Folder(path.parent)
    with telling(f"{path} cannot be read"):
        data = read_own(path, _MOST_STATE * 256)
    fleet = Fleet.read(data, str(path))
    if home.manifest.feature_map != fleet.feature_map:
        raise RequestError(
            f"this home has the feature map {home.manifest.feature_map[:12]}, the fleet "
            f"{fleet.feature_map[:12]}: their sums are of different things; make a home as the "
            "fleet's was made (`edgecl init --home DIR`), or a fleet of its own for this map"
        )
    if home.config.head.name != fleet.head["name"]:
        raise RequestError(
            f"this home has the head {home.config.head.name}, the fleet {fleet.head['name']}; make "
            f"a home with it (`edgecl init --home DIR --head {fleet.head['name']}`)"
        )
    home.fleet.mkdir(exist_ok=True)
    own = home.fleet / FLEET
    if own.exists() and Fleet.read(read_own(own, _MOST_STATE * 256), str(own)).id != fleet.id:
        wipe(home.fleet)  # what is known of the fleet before
        home.fleet.mkdir()
    Folder(home.fleet).put_fleet(data)
    device = Device(home)
    if again:
        device.go_on_behind(folder)
    return device
