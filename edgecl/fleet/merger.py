"""The merger: takes contributions in, lets them count or holds them, and ships one head.

Its folder has the form of a carrier beside the secrets (plant.py). Everything is found again from
files: `pull` copies what is new from a carrier, `merge` says what counts and solves, `push` gives
fleet.json, orders and the merged head out. A class that was ordered to be forgotten is taken out of
every file, here and on the carrier: what is left is a contribution of the same generation that the
merger signed, the device's own file is overwritten and deleted.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgecl.errors import EdgeclError, IntegrityError
from edgecl.fleet import requests
from edgecl.fleet.carriers.folder import (
    CONTRIBUTIONS,
    MERGED,
    ORDERS,
    Folder,
    number_of,
)
from edgecl.fleet.checks import Judge, fault_of
from edgecl.fleet.contribution import (
    Contribution,
    bodies,
    completed,
    digest,
    lent_by,
    outline,
    read,
    write,
    write_pieces,
)
from edgecl.fleet.identity import public_hex, signed
from edgecl.fleet.merge import add_up
from edgecl.fleet.merged import Merged, arrays_file, head_bytes, newest_merged
from edgecl.fleet.orders import Order, Orders, read_order
from edgecl.fleet.plant import FLEET_NAME, Fleet, Plant
from edgecl.fleet.probes import forget_probes
from edgecl.fleet.state import Offer, State, settle
from edgecl.heads import make_head_of

_DAY_S = 86400


class Merger:
    """A plant at work.

    Args:
        plant: The folder of the fleet.
    """

    def __init__(self, plant: Plant) -> None:
        self.plant, self.store = plant, Folder(plant.path)
        self.orders = orders_in(self.store, plant.fleet)
        self.faults: dict[str, str] = {}
        """What was passed over, by file, and why."""
        self._files: dict[Path, Contribution] = {}
        # On a carrier, what `push` may wipe there: of one that leaves parts out its digest, and the
        # names of the files that have them.
        self._seen: dict[Path, tuple[str, frozenset[str]]] = {}
        self._judge = Judge(plant)

    def again(self, plant: Plant) -> Merger:
        """Return one that reads the folder anew, but not what was checked already."""
        other = Merger(plant)
        other._files, other._judge = self._files, Judge(plant, self._judge)
        return other

    def contributions(self) -> dict[Path, Contribution]:
        """Return the contributions that are here, each checked once."""
        found: dict[Path, Contribution] = {}
        for device in self.store.devices():
            for path in self.store.files(CONTRIBUTIONS, device, suffix="efc"):
                if path not in self._files:
                    try:
                        self._files[path] = read(path)
                    except EdgeclError as error:
                        self.faults[str(path)] = str(error)
                        continue
                found[path] = self._files[path]
        self._files = found
        return dict(found)

    def give(self, body: dict[str, Any]) -> int:
        """Add an order to the chain; returns its number."""
        self.orders = self.orders.add(body, self.plant.admin)
        self._keep_orders()
        return self.orders.last

    def pull(self, carrier: Folder) -> int:
        """Take in what a carrier has; returns how many contributions are new.

        What is damaged, or of no member, is left where it is and named in `faults`.
        """
        self.orders = orders_in(carrier, self.plant.fleet, self.orders)
        self._keep_orders()
        self._take_merged(carrier)
        requests.take_in(self.store, carrier, self.plant.fleet, self.orders, self.faults)
        self.contributions()
        n_new = 0
        for device in carrier.devices():
            files = list(carrier.files(CONTRIBUTIONS, device, suffix="efc"))
            for path in sorted(files, key=number_of, reverse=True):
                try:
                    # What lends parts to a newer one lies there for that alone.
                    if not any(path.name in lent for _, lent in self._seen.values()):
                        n_new += self.take(path, carrier)
                    self._seen.setdefault(path, ("", frozenset()))
                except EdgeclError as error:
                    self.faults[str(path)] = str(error)
        self.clean()
        return n_new

    def take(self, path: Path, carrier: Folder | None = None) -> bool:
        """Take one contribution in; returns whether it was new.

        Raises:
            IntegrityError: It is damaged, or not signed by a member under its name.
        """
        if not self._files:
            self.contributions()
        if carrier is not None:
            if (self.plant.path / CONTRIBUTIONS / path.parent.name / path.name).exists():
                return False
            carrier.check(path)
        found = read(path, *self._earlier(path, carrier))
        if found.key in self.orders.out:
            self._wipe(path, carrier)
            return False
        self._check_member(found, path)
        if found.key != self.plant.fleet.merger and self._is_replaced(found):
            return False
        have = set(self.store.files(CONTRIBUTIONS, found.device, suffix="efc"))
        put = self._put_whole(found, path)
        if put.name == path.name:  # the same bytes, checked already
            self._files.setdefault(put, replace(found, path=put))
        else:
            self._seen[path] = digest(found), frozenset(each.name for each in lent_by(found))
        return put not in have

    def clean(self) -> None:
        """Take classes that were ordered to be forgotten, and devices, out of all files."""
        closed, members = self.orders.closed, {m.name for m in self.plant.fleet.members}
        for path, found in self.contributions().items():
            gone = [part for part in found.parts if part.id in closed]
            if found.device not in members:
                self._wipe(path)
            elif gone:
                if not found.total:  # of that form the merger alone can take nothing out
                    self._put_reduced(found, {part.id for part in gone})
                self._wipe(path)
        forget_probes(self.plant, self.orders)

    def state(self) -> State:
        """Say what counts and what is held."""
        newest = self.merged()
        offers = self.offers()
        self._judge.know({offer.digest: c for c, offer in offers}, self.orders)
        return settle(
            [offer for _, offer in offers],
            members={member.key for member in self.plant.fleet.members},
            orders=self.orders,
            before=None if newest is None else newest.generations,
            doubt=self._judge.doubt,
        )

    def offers(self) -> list[tuple[Contribution, Offer]]:
        """Return the contributions that are here with what decides whether they count."""
        fleet, found = self.plant.fleet, []
        for each in self.contributions().values():
            member = fleet.named(each.device)
            offer = Offer(
                device=member.key,
                generation=each.generation,
                digest=digest(each),
                order=each.order,
                ids=frozenset(part.id for part in each.parts),
                fault=fault_of(each, fleet, self.orders),
                is_reduced=each.key == fleet.merger,
            )
            found.append((each, offer))
        return found

    def merged(self) -> Merged | None:
        """Return what was merged last."""
        found = newest_merged(self.store, self.plant.fleet)
        return None if found is None else found[0]

    def merge(self, now: float | None = None) -> tuple[Merged, bool]:
        """Take out what was ordered away, and add up what counts.

        The head is written if it is another, or its lease is half over.

        Returns:
            The newest description, and whether it is new.

        Raises:
            RequestError: A sum is out of range; it names the class.
        """
        self.orders = requests.obey(self.store, self.plant, self.orders, self.faults)
        self._keep_orders()
        self.clean()
        now = int(time.time() if now is None else now)
        state, before = self.state(), self.merged()
        if before is not None and self._is_up_to_date(before, state, now):
            return before, False
        if before is not None and before.order < self.orders.last:
            self._wipe_merged()  # nobody shall take it while the next one is made
        by_digest = {digest(each): each for each in self.contributions().values()}
        counting = [by_digest[offer.digest] for _, offer in sorted(state.accepted.items())]
        fleet = self.plant.fleet
        head = make_head_of(fleet.head_config, fleet.dim, codebook=self.plant.keys)
        summed = add_up(counting, self.orders, head.statistic)
        data = head_bytes(summed.scorer(head)) if summed.classes else b""
        days = fleet.policy.serve_days
        generations = sum(n for _, n in state.version)
        merged = Merged(
            fleet=fleet.id,
            version=max(self.orders.last + generations, before.version + 1 if before else 1),
            order=self.orders.last,
            time=now,
            serve_until=int(now + days * _DAY_S) if days else 0,
            devices=tuple(state.version),
            classes=tuple((i, summed.names[i], c.count) for i, c in summed.classes.items()),
            state=summed.digest,
            head=hashlib.sha256(data).hexdigest() if data else "",
        )
        self._write(merged, data)
        for path, each in self.contributions().items():
            if digest(each) in state.old:
                self._wipe(path)
        return merged, True

    def push(self, carrier: Folder) -> None:
        """Give out what devices need, and take off the carrier what is no longer true.

        A contribution that `pull` did not take in came since, so it stays for the next one.
        """
        carrier.put_fleet((self.plant.path / FLEET_NAME).read_bytes())
        put_orders(carrier, self.orders)
        newest = self.merged()
        if newest is not None:
            copy_merged(self.store, carrier, newest)
        for suffix in ("efb", "json"):
            for path in list(carrier.files(MERGED, suffix=suffix)):
                if newest is None or number_of(path) != newest.version:
                    self._wipe(path, carrier)
        own = {path.name: path for path in self.contributions()}
        known = {digest(each) for each in self.contributions().values()}
        for device in carrier.devices():
            files = list(carrier.files(CONTRIBUTIONS, device, suffix="efc"))
            seen = {path: self._seen[path] for path in files if path in self._seen}
            parts = {path: lent for path, (of, lent) in seen.items() if of in known}
            needed = set(own).union(*parts.values())  # without them a lost merger has half of it
            for path in files:
                if path.name in needed or path in parts or path not in seen:
                    continue
                self._wipe(path, carrier)  # a newer one counts, or it holds what was forgotten
                stem = f"g{number_of(path)}"
                for name, here in own.items():
                    if name.startswith(f"{stem}-") and here.parent.name == device:
                        carrier.put(stem, here, CONTRIBUTIONS, device, suffix="efc")

    def _is_up_to_date(self, before: Merged, state: State, now: int) -> bool:
        lease = before.serve_until - before.time
        return (
            before.order == self.orders.last
            and list(before.devices) == state.version
            and (not before.head or arrays_file(self.store, before) is not None)
            and (not before.serve_until or now - before.time < lease / 2)
        )

    def _write(self, merged: Merged, data: bytes) -> None:
        stem = f"v{merged.version}"
        if data:
            self.store.put(stem, data, MERGED, suffix="efb")
        self.store.put(stem, signed(merged.body(), self.plant.merger), MERGED, suffix="json")
        self._wipe_merged(but=merged.version)

    def _wipe_merged(self, but: int = -1) -> None:
        for suffix in ("efb", "json"):
            for path in list(self.store.files(MERGED, suffix=suffix)):
                if number_of(path) != but:
                    self._wipe(path)

    def _take_merged(self, carrier: Folder) -> None:
        """Take in what a lost merger had merged: it says what counted."""
        try:
            theirs = newest_merged(carrier, self.plant.fleet)
        except IntegrityError as error:
            self.faults[str(carrier.path / MERGED)] = str(error)
            return
        own = self.merged()
        if theirs is not None and (own is None or own.version < theirs[0].version):
            copy_merged(carrier, self.store, theirs[0])

    def _earlier(self, path: Path, carrier: Folder | None) -> list[Contribution]:
        """Return what may have parts that a device's file leaves out: its files here and there."""
        device = path.parent.name
        found = [each for each in self._files.values() if each.device == device]
        if carrier is not None:
            others = carrier.files(CONTRIBUTIONS, device, suffix="efc")
            found += [each for other in others if other != path and (each := outline(other))]
        return found

    def _put_whole(self, found: Contribution, path: Path) -> Path:
        """Keep a contribution, with the parts that its file leaves out; returns its place."""
        stem, device = f"g{found.generation}", found.device
        if not lent_by(found):
            return self.store.put(stem, path, CONTRIBUTIONS, device, suffix="efc")
        with tempfile.TemporaryDirectory(dir=self.plant.path, prefix=".whole-") as folder:
            whole = Path(folder) / "whole.efc"
            write_pieces(whole, completed(found))
            return self.store.put(stem, whole, CONTRIBUTIONS, device, suffix="efc")

    def _check_member(self, found: Contribution, path: Path) -> None:
        fleet = self.plant.fleet
        member = next((m for m in fleet.members if m.name == found.device), None)
        if found.fleet != fleet.id or member is None or found.key not in (member.key, fleet.merger):
            raise IntegrityError(
                f"{path} is not signed by a member of this fleet called {found.device!r}; it is "
                "left; `edgecl fleet add` takes a device in"
            )

    def _is_replaced(self, found: Contribution) -> bool:
        """Whether the merger's own file, without closed classes, stands for this one."""
        return any(
            each.key == self.plant.fleet.merger and each.generation >= found.generation
            for path in self.store.files(CONTRIBUTIONS, found.device, suffix="efc")
            if (each := self._files.get(path)) is not None
        )

    def _put_reduced(self, found: Contribution, gone: set[str]) -> None:
        parts = tuple(part for part in found.parts if part.id not in gone)
        reduced = replace(
            found, parts=parts, key=public_hex(self.plant.merger), path=None, spans={}
        )
        with tempfile.TemporaryDirectory(dir=self.plant.path, prefix=".reduced-") as folder:
            path = Path(folder) / "reduced.efc"
            write(path, reduced, bodies(found, [part.digest for part in parts]), self.plant.merger)
            stem, seen = f"g{found.generation}", found.path and found.path.stat()
            put = self.store.put(stem, path, CONTRIBUTIONS, found.device, suffix="efc")
        if seen:  # the file's time says when the device was last seen
            os.utime(put, (seen.st_atime, seen.st_mtime))

    def _keep_orders(self) -> None:
        put_orders(self.store, self.orders)

    def _wipe(self, path: Path, folder: Folder | None = None) -> None:
        self._files.pop(path, None)
        if not (folder or self.store).wipe(path):
            self.faults[str(path)] = (
                f"{path} holds what was replaced or forgotten and cannot be written; delete it"
            )


def orders_in(folder: Folder, fleet: Fleet, known: Orders | None = None) -> Orders:
    """Return the orders that are known, with what a folder has of the chain.

    Raises:
        IntegrityError: See `Orders.extended`.
    """
    known, found = known or Orders(), []
    have = {_stem(order) for order in known.entries}
    for path in folder.files(ORDERS, suffix="json"):
        if path.stem not in have:
            found.append(read_order(folder.read(path), str(path)))
    return known.extended(found, fleet.admin)


def put_orders(folder: Folder, orders: Orders) -> None:
    """Write the orders that a folder has not."""
    have = {path.stem for path in folder.files(ORDERS, suffix="json")}
    for order in orders.entries:
        if _stem(order) not in have:
            folder.put(f"{order.number:06}", order.line(), ORDERS, suffix="json")


def _stem(order: Order) -> str:
    """Return what an order's file is called, without the suffix."""
    return f"{order.number:06}-{hashlib.sha256(order.line()).hexdigest()[:16]}"


def copy_merged(source: Folder, target: Folder, merged: Merged) -> None:
    """Copy the newest merged head from one folder to another, its arrays first."""
    files = [p for p in source.files(MERGED, suffix="json") if number_of(p) == merged.version]
    arrays = arrays_file(source, merged)
    if not files or (merged.head and arrays is None):
        return
    if arrays is not None:
        target.put(f"v{merged.version}", arrays, MERGED, suffix="efb")
    target.put(f"v{merged.version}", files[0], MERGED, suffix="json")
