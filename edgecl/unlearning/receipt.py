"""What receipts say: one frozen dataclass for each kind of entry in their chain, and tombstones.

An entry holds no class name, no picture and no feature; a tombstone is a keyed hash. How entries
follow each other, signed, is chain.py.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from edgecl.home import Home
from edgecl.store.receipts import Tombstone, tombstone_with
from edgecl.store.store import Store
from edgecl.types import Kind, Mode

E = TypeVar("E", bound="Entry")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the chain; what is None does not stand in it."""

    kind: ClassVar[str]

    def as_json(self) -> dict[str, Any]:
        """Return the entry's body, JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"kind": self.kind} | {k: v for k, v in values.items() if v is not None}

    @classmethod
    def from_json(cls: type[E], body: Mapping[str, Any]) -> E:
        """Return the entry of a body; what only a later edgecl knows is not in it."""
        known = {field.name: body[field.name] for field in fields(cls) if field.name in body}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in known.items()})


@dataclass(frozen=True, slots=True)
class Forgotten(Entry):
    """Something was unlearned.

    Args:
        what: Its kind.
        uid: Its uid; under `class_uid`, `sample_uid` or `source_uid` in the body.
        mode: How.
        reason: Why, as the user said it.
        request: Number of the request.
        requested: When it was asked for, seconds since the epoch.
        time: When it was done.
        rows_erased: Rows that each table lost.
        classes_gone: Uids of the classes that went, also those that only snapshots knew.
        adapters: Uids of the adapters that were dropped or changed.
        adapter_method: What happened to them.
        exports_stale: Uids of the exports that held it.
        snapshots_purged: Uids of the snapshots that held it.
        head: Name of the head.
        bit_exact: Whether the head has the bits of one that never learned it.
        head_before: Fingerprint of the head's arrays.
        head_after: And afterwards.
        feature_map: Hash of the frozen map.
        config: Hash of the home's settings.
        edgecl: Version.
        tombstones: Kind, uid and keyed hash of each of its names.
        again: The receipt under which it was unlearned before an older store was put back.
        weights: What an approximate method did to each adapter.
    """

    kind: ClassVar[str] = "forget"
    what: Kind
    uid: int
    mode: Mode
    reason: str
    request: int
    requested: float
    time: float
    rows_erased: dict[str, int]
    classes_gone: tuple[int, ...]
    adapters: tuple[int, ...]
    adapter_method: str
    exports_stale: tuple[int, ...]
    snapshots_purged: tuple[int, ...]
    head: str
    bit_exact: bool
    head_before: str
    head_after: str
    feature_map: str
    config: str
    edgecl: str
    tombstones: tuple[Tombstone, ...]
    again: str | None = None
    weights: tuple[dict[str, Any], ...] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the entry's body, JSON values."""
        body = Entry.as_json(self)
        body[self.what.key] = body.pop("uid")
        return body

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Forgotten:
        """Return the entry of a body."""
        what = Kind(body["what"])
        typed = {"what": what, "mode": Mode(body["mode"]), "uid": body[what.key]}
        typed["tombstones"] = [tuple(tombstone) for tombstone in body["tombstones"]]
        return super(Forgotten, cls).from_json({**body, **typed})


@dataclass(frozen=True, slots=True)
class Erased(Entry):
    """The files of the home were rewritten without it.

    Args:
        of: Receipt of the unlearning.
        time: Seconds since the epoch.
        busy: 1 when a reader was in the way and the log could not be emptied; tried again.
        vacuumed: Whether the store was compacted.
        secure_delete: That pragma, as read back.
        journal_mode: That one, too.
        bytes_before: Size of the store.
        bytes_after: And afterwards.
        snapshot_files: Files of snapshots that were deleted.
        copies: Copies of the home that a killed `bench` had left.
        exports: What became of each stale export, by uid; see `Account.exports`.
        keys_destroyed: Whether keys went; False in a home without.
    """

    kind: ClassVar[str] = "erasure"
    of: str
    time: float
    busy: int
    vacuumed: bool
    secure_delete: int
    journal_mode: str
    bytes_before: int
    bytes_after: int
    snapshot_files: int
    copies: int
    exports: dict[str, str]
    keys_destroyed: bool


@dataclass(frozen=True, slots=True)
class Verified(Entry):
    """A check was made; also when it failed.

    Args:
        of: Receipt of the unlearning.
        time: Seconds since the epoch.
        status: `verified`, `incomplete` when what it would have searched for was lost with a
            process that was cut off, `failed` or `approximate_failed`.
        faults: How many gates were missed and traces found.
        metrics: What the audit measured.
    """

    kind: ClassVar[str] = "verification"
    of: str
    time: float
    status: str
    faults: int
    metrics: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Refused(Entry):
    """A request was refused; nothing was changed.

    Args:
        why: In a few words.
        time: Seconds since the epoch.
        uid: Of what was asked for by another process, so that it may ask what became of it.
        request: And the request's number.
    """

    kind: ClassVar[str] = "refused"
    why: str
    time: float
    uid: int | None = None
    request: int | None = None


@dataclass(frozen=True, slots=True)
class RolledBack(Entry):
    """What was learned at a snapshot was brought back.

    Args:
        snapshot: Its number.
        time: Seconds since the epoch.
    """

    kind: ClassVar[str] = "rollback"
    snapshot: int
    time: float


@dataclass(frozen=True, slots=True)
class Changed(Entry):
    """A change was judged, or taken back (edgecl/governed.py).

    Args:
        change: Its number.
        what: Its kind.
        state: What became of it.
        time: Seconds since the epoch.
        n: Pictures that were answered before and after it.
        lost: Of them, right before and wrong after.
        won: Wrong before and right after.
        p: That so many were lost by chance.
        policy: Hash of the rules by which it was judged.
        worst: Uid of the class that speaks most against it.
        snapshot: Number of the snapshot that was taken before it.
    """

    kind: ClassVar[str] = "change"
    change: int
    what: str
    state: str
    time: float
    n: int
    lost: int
    won: int
    p: float
    policy: str
    worst: int | None = None
    snapshot: int | None = None


@dataclass(frozen=True, slots=True)
class Mended(Entry):
    """Samples were given to another class, or held out, or a run was taken back.

    Args:
        how: `relabel`, `merge`, `hold-out` or `undo`.
        time: Seconds since the epoch.
        samples: Samples that were moved, or taken back, each class's by its uid.
        to: Uid of the class that got them; None if none did.
        run: Kind of the run that was taken back.
    """

    kind: ClassVar[str] = "mended"
    how: str
    time: float
    samples: dict[str, int]
    to: int | None = None
    run: str | None = None


def find_tombstone(home: Home, store: Store, kind: str, name: str) -> tuple[int, str] | None:
    """Return uid and receipt of the last unlearning of what had this name, or None."""
    return tombstone_with(store, tombstone_tag(home, kind, name))


def tombstone_tag(home: Home, kind: str, name: str) -> str:
    """Return the keyed hash that stands for a name, hex."""
    text = f"{kind}\0{name}".encode("utf-8", "surrogateescape")
    return hmac.new(home.key, text, hashlib.sha256).hexdigest()
