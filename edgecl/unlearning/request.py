"""Unlearning a class, a sample or a source: recorded, then carried out phase by phase.

    PENDING   the request is in the store; a class is not named any more by predictions
    MODEL     head and adapters without it are made, and commit together with
    STORE     rows, statistics, tombstone and receipt: a half-state is never on the disk
    EXPORT    keys destroyed, file rewritten, snapshots and exports gone or listed
    VERIFIED  what the check found is a receipt of its own, the request is closed

Each phase can be run again after a crash; every command that writes finishes what it finds.
"""

from __future__ import annotations

import hashlib
import json
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import edgecl
from edgecl.errors import RequestError, UnknownClassError
from edgecl.heads import make_head_of
from edgecl.home import Home
from edgecl.learner import (
    Learner,
    change_map,
    embed_stored,
    open_learner,
    open_store,
    save_scorer,
)
from edgecl.replay.adapters import chosen_adapter, drop_adapters, task_adapters
from edgecl.replay.schema import TABLES
from edgecl.replay.store import Store, dump_json
from edgecl.runtime.adapters import digest_of
from edgecl.runtime.scoring import Scorer
from edgecl.snapshots import remove_unlisted
from edgecl.types import Float16, ForgetRequest, Receipt, check_reason
from edgecl.unlearning.erase import find_bytes, scrub
from edgecl.unlearning.plan import Plan, Target, make_plan, resolve, target_of
from edgecl.unlearning.receipt import (
    add_tombstones,
    all_receipts,
    append_receipt,
    check_ledger,
    find_tombstone,
    receipt_by_id,
    take_over,
    tombstone_tag,
)

# A shorter name would be found in any binary file by chance.
_MIN_NAME_BYTES = 6
_PICTURE_SLICE = 32
_MOST_SLICES = 200
_WEIGHT_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Unlearned:
    """What an unlearning did.

    Args:
        receipt: The receipt, already in the chain.
        mode: The receipt's mode, or `already_forgotten`.
        erasure: What the rewrite of the store reported; empty if nothing had to be done.
        verified: Whether the checks passed; None when none was asked for.
        faults: What the checks found.
        seconds: Time of the whole request.
        head_seconds: Time of the head's part.
    """

    receipt: Receipt
    mode: str
    erasure: dict[str, Any]
    verified: bool | None
    faults: tuple[str, ...]
    seconds: float
    head_seconds: float


@contextmanager
def writing(home: Home) -> Iterator[Store]:
    """Lock a home and open its store to write, after finishing what is open in it.

    An older copy of the store gets the receipts that it lacks and unlearns again what they name;
    requests that were cut off, or were asked for by another process meanwhile, are carried out:
    before the caller's work and after it.

    Raises:
        HomeLockedError: Another process writes.
        StoreError: The store cannot be written.
        IntegrityError: The chain of receipts is broken.
    """
    with home.lock(), open_store(home, may_be_older=True) as store:
        finish_requests(home, store)
        yield store
        finish_requests(home, store)


def finish_requests(home: Home, store: Store, learner: Learner | None = None) -> list[Unlearned]:
    """Carry out every open request, also those that an older copy of the store has lost.

    Args:
        home: The home, whose lock the caller holds.
        store: Its store.
        learner: The learner that works on it, if there is one; its head is kept up to date.

    Returns:
        What was done; empty when nothing was open. An erasure that a reader prevents stays open.
    """
    lost = check_ledger(home, store)
    if lost:
        with store.transaction():
            take_over(store, lost)
            for entry in lost:
                _ask_again(home, store, entry["body"], f"r{entry['number']}")
    numbers = [n for (n,) in store.connection.execute("SELECT number FROM requests ORDER BY 1")]
    if not numbers:
        return []
    learner = learner or open_learner(home, store)
    return [carry_out(home, learner, number) for number in numbers]


def forget(
    home: Home, learner: Learner, request: ForgetRequest, *, verify: bool = False
) -> Unlearned:
    """Remove a class, a sample or a source for good, and write a receipt.

    Adapters that were trained on it, and those trained on from them, are dropped: the kept
    pictures are embedded under the map that remains, and the head learns them anew.

    Args:
        home: The home, whose lock the caller holds.
        learner: Its learner.
        request: What, why, and what happens to adapters.
        verify: Compare the head with one built anew from the store, and look for the class's
            bytes in every file of the home.

    Returns:
        What was done. What was unlearned before is not unlearned twice: its first receipt, with
        the mode `already_forgotten`.

    Raises:
        UnknownClassError: No such class; nothing was changed but an entry in the audit.
        RequestError: No such sample or source.
    """
    begin = time.perf_counter()
    store = learner.store
    target = find(home, store, request)
    if isinstance(target, Receipt):
        return Unlearned(
            target, "already_forgotten", {}, None, (), time.perf_counter() - begin, 0.0
        )
    number = record(store, target, request, verify=verify)
    done = carry_out(home, learner, number)
    return replace(done, seconds=time.perf_counter() - begin)


def find(home: Home, store: Store, request: ForgetRequest) -> Target | Receipt:
    """Return what a request means, or the receipt under which it was carried out before.

    Raises:
        UnknownClassError: No such class; the audit gets an entry that does not name it.
        RequestError: No such sample or source.
        IntegrityError: The chain of receipts is broken.
        UsageError: The reason names a class.
    """
    all_receipts(home, store)  # a broken chain is refused before anything is changed
    for name in store.names.values():
        check_reason(request.reason, name)
    try:
        return resolve(store, request)
    except RequestError as error:
        before = find_tombstone(home, store, request.kind, request.name)
        if before is not None:
            return receipt_by_id(home, store, before[1])
        if isinstance(error, UnknownClassError):
            with store.transaction(changes_head=False):
                body = {"kind": "refused", "why": "unknown class", "time": time.time()}
                append_receipt(home, store, body)
            check_ledger(home, store)
        raise


def record(store: Store, target: Target, request: ForgetRequest, *, verify: bool) -> int:
    """Write a request into the store: from here on it will be carried out; returns its number.

    Does not need the home's lock: the process that writes finds it.
    """
    body = {
        "reason": request.reason,
        "adapter_method": request.adapter_method,
        "verify": verify,
    }
    # No transaction of the store: the counters that it writes are those of the process that learns.
    with store.errors():
        return _insert(store, target.kind, target.uid, body)


def carry_out(home: Home, learner: Learner, number: int) -> Unlearned:
    """Bring a request from its phase to the end.

    Args:
        home: The home, whose lock the caller holds.
        learner: Its learner.
        number: Number of the request.
    """
    begin = time.perf_counter()
    store = learner.store
    kind, uid, phase, text = store.connection.execute(
        "SELECT kind, target, phase, body FROM requests WHERE number = ?", (number,)
    ).fetchone()
    body: dict[str, Any] = json.loads(text)
    head_seconds = 0.0
    evidence = _Evidence({})
    if phase == "PENDING":
        target = target_of(store, kind, uid)
        if body["verify"]:
            evidence = _Evidence(_needles(store, target))
        plan = make_plan(store, learner.head, target, body["adapter_method"])
        head_seconds = _unlearn(home, learner, number, target, plan, body)
    # The body now names the receipt.
    (text,) = store.connection.execute(
        "SELECT body FROM requests WHERE number = ?", (number,)
    ).fetchone()
    body = json.loads(text)
    erasure = _erase(home, store, kind, uid, body)
    faults = _faults(home, learner, evidence, erasure) if body["verify"] else []
    if not erasure["busy"]:
        _close(home, store, number, body, faults)
    check_ledger(home, store)
    receipt = receipt_by_id(home, store, body["receipt"])
    return Unlearned(
        receipt=receipt,
        mode=receipt.body["mode"],
        erasure=erasure,
        verified=not faults if body["verify"] else None,
        faults=tuple(faults),
        seconds=time.perf_counter() - begin,
        head_seconds=head_seconds,
    )


@dataclass(frozen=True)
class _Evidence:
    """What the check needs of the class, kept in memory only."""

    needles: dict[str, bytes]


@dataclass(frozen=True)
class _Map:
    """The map under which a home goes on when its later adapters are dropped."""

    adapter: str | None
    features: dict[int, Float16]


def _unlearn(
    home: Home, learner: Learner, number: int, target: Target, plan: Plan, asked: dict[str, Any]
) -> float:
    """Phases MODEL and STORE: head, adapters, rows, tombstone and receipt in one transaction.

    Returns:
        Seconds of the head's part.
    """
    store, head = learner.store, learner.head
    before = _fingerprint(head.scorer(store.names))
    new_map = _without_adapters(home, store, plan.adapters[0]) if plan.adapters else None
    dropped: list[int] = []
    try:
        with store.transaction():
            begin = time.perf_counter()
            knows = target.uid in head.classes
            if new_map is None and target.kind == "class" and knows:
                head.forget(target.uid, store)
            head_seconds = time.perf_counter() - begin
            rows_erased = _delete(store, target)
            begin = time.perf_counter()
            if new_map is not None:
                dropped = drop_adapters(store, plan.adapters[0])
                kept = {sample: new_map.features[sample] for sample, _ in store.stored_samples()}
                change_map(home, learner, new_map.adapter, kept)
            elif target.kind != "class":
                head.rebuild(store)
            head.settle(store)
            head_seconds += time.perf_counter() - begin
            if store.names:
                save_scorer(store, head)
                learner.save_state()
            else:
                store.reset()
            _drop_copies(store, plan)
            config = (home.path / "edgecl.toml").read_bytes()
            receipt = append_receipt(
                home,
                store,
                {
                    "kind": "forget",
                    "what": target.kind,
                    "mode": plan.mode,
                    f"{target.kind}_uid": target.uid,
                    "reason": asked["reason"],
                    "request": number,
                    "requested": _created(store, number),
                    "time": time.time(),
                    "rows_erased": rows_erased,
                    "adapters": dropped,
                    "adapter_method": plan.adapter_method,
                    "exports_stale": list(plan.exports),
                    "snapshots_purged": list(plan.snapshots),
                    "head": head.name,
                    "bit_exact": head.is_exact and not dropped,
                    "head_before": before,
                    "head_after": _fingerprint(head.scorer(store.names)),
                    "feature_map": store.feature_map,
                    "config": hashlib.sha256(config).hexdigest(),
                    "edgecl": edgecl.__version__,
                    "tombstones": [
                        [target.kind, target.uid, tombstone_tag(home, target.kind, name)]
                        for name in target.names
                    ],
                    **({"again": asked["again"]} if "again" in asked else {}),
                },
            )
            add_tombstones(home, store, target.kind, target.uid, target.names, receipt.receipt_id)
            _advance(store, number, "STORE", asked | {"receipt": receipt.receipt_id})
    except BaseException:
        learner.reload()
        raise
    check_ledger(home, store)
    return head_seconds


def _delete(store: Store, target: Target) -> dict[str, int]:
    if target.kind == "class":
        return store.delete_class(target.uid)
    if target.kind == "sample":
        return store.delete_sample(target.uid)
    return store.delete_source(target.uid)


def _without_adapters(home: Home, store: Store, first: int) -> _Map:
    """Embed the kept pictures under the map of the adapters before one."""
    left = [task for task in task_adapters(store) if task.uid < first]
    adapter = chosen_adapter(left, home.config.consolidation.bank)
    engine = home.engine()
    if adapter is not None:
        engine = engine.with_adapters(adapter)
    features = embed_stored(home, store, engine)
    return _Map(None if adapter is None else digest_of(adapter), features)


def _drop_copies(store: Store, plan: Plan) -> None:
    """Take snapshots off the list and mark exports stale, in the transaction of the deletion."""
    store.connection.executemany(
        "DELETE FROM snapshots WHERE uid = ?", [(uid,) for uid in plan.snapshots]
    )
    store.connection.executemany(
        "UPDATE exports SET status = 'stale' WHERE uid = ?", [(uid,) for uid in plan.exports]
    )


def _erase(home: Home, store: Store, kind: str, uid: int, body: dict[str, Any]) -> dict[str, Any]:
    """Phase EXPORT: nothing of it in any file; returns what was done. Can be run again."""
    removed = remove_unlisted(home, store)
    report = scrub(store) | {"snapshot_files": removed}
    with store.transaction(changes_head=False):
        entry = {"kind": "erasure", "of": body["receipt"], "time": time.time(), **report}
        append_receipt(home, store, entry)
    return report


def _close(home: Home, store: Store, number: int, body: dict[str, Any], faults: list[str]) -> None:
    """Phase VERIFIED: write what the check found and take the request off the list."""
    with store.transaction(changes_head=False):
        if body["verify"]:
            entry = {
                "kind": "verification",
                "of": body["receipt"],
                "time": time.time(),
                "status": "failed" if faults else "verified",
                "faults": len(faults),
            }
            append_receipt(home, store, entry)
        store.connection.execute("DELETE FROM requests WHERE number = ?", (number,))


def _ask_again(home: Home, store: Store, body: dict[str, Any], receipt_id: str) -> None:
    """Record anew what a lost receipt had unlearned and this older store still holds."""
    for kind, uid in {(kind, uid) for kind, uid, _ in body.get("tombstones", ())}:
        table = {"class": "classes", "sample": "samples", "source": "sources"}[kind]
        found = store.connection.execute(f"SELECT 1 FROM {table} WHERE uid = ?", (uid,)).fetchone()
        if found is not None:
            again = {
                "reason": body["reason"],
                "adapter_method": "drop",
                "verify": False,
                "again": receipt_id,
            }
            _insert(store, kind, uid, again)


def _insert(store: Store, kind: str, uid: int, body: dict[str, Any]) -> int:
    cursor = store.connection.execute(
        "INSERT INTO requests(kind, target, phase, created, body) VALUES (?, ?, 'PENDING', ?, ?)",
        (kind, uid, time.time(), dump_json(body)),
    )
    return int(cursor.lastrowid or 0)


def _advance(store: Store, number: int, phase: str, body: dict[str, Any]) -> None:
    store.connection.execute(
        "UPDATE requests SET phase = ?, body = ? WHERE number = ?", (phase, dump_json(body), number)
    )


def _created(store: Store, number: int) -> float:
    (created,) = store.connection.execute(
        "SELECT created FROM requests WHERE number = ?", (number,)
    ).fetchone()
    return float(created)


def _needles(store: Store, target: Target) -> dict[str, bytes]:
    """Return byte strings that only the target has: its names, and pieces of its pictures."""
    needles = {}
    for name in target.names:
        for form in ("NFC", "NFD"):
            encoded = unicodedata.normalize(form, name).encode("utf-8", "surrogateescape")
            # A word of the schema is in every database file.
            if len(encoded) >= _MIN_NAME_BYTES and encoded not in TABLES.encode():
                needles[f"{target.kind} name ({form}, {len(encoded)} bytes)"] = encoded
    column = {"class": "class_uid", "sample": "uid", "source": "source_uid"}[target.kind]
    rows = store.connection.execute(
        f"SELECT uid FROM pictures JOIN samples s USING (uid) WHERE s.{column} = ? "
        "ORDER BY uid LIMIT ?",
        (target.uid, _MOST_SLICES),
    ).fetchall()
    for (sample,) in rows:
        data = store.picture(sample)
        # Headers and tables are alike in all pictures, and in a small file reach beyond its
        # middle; what is farther back is not, unless the picture is flat.
        piece = data[3 * len(data) // 4 :][:_PICTURE_SLICE]
        if len(set(piece)) >= _PICTURE_SLICE // 2:
            needles[f"picture of sample {sample}"] = piece
    return needles


def _faults(
    home: Home, learner: Learner, evidence: _Evidence, erasure: dict[str, Any]
) -> list[str]:
    faults = []
    if erasure["busy"]:
        faults.append("the store's log could not be emptied, another process was reading")
    store = learner.store
    head = learner.head
    if store.names:
        fresh = make_head_of(home.config.head, store.num_features, codebook=store.codebook)
        fresh.rebuild(store)
        fresh.settle(store)
        ours, theirs = (h.scorer(store.names).arrays() for h in (head, fresh))
        for part, wanted in theirs.items():
            gap = np.abs(ours[part].astype(np.float64) - wanted).max(initial=0.0)
            scale = np.abs(wanted).max(initial=0)
            if gap > _WEIGHT_TOLERANCE * scale:
                faults.append(
                    f"the head's {part} differ from one built anew by {gap:.2g} (largest "
                    f"{scale:.2g})"
                )
    kept = _kept_copies(store, evidence.needles)
    for what, files in find_bytes(
        home.path, evidence.needles, but_not=("engine", "edgecl.toml")
    ).items():
        if what not in kept:
            faults.append(f"bytes of the {what} are still in {', '.join(files)}")
    return faults


def _kept_copies(store: Store, needles: dict[str, bytes]) -> set[str]:
    """Return the needles that another sample, class or source legitimately holds."""
    kept = set()
    for what, needle in needles.items():
        row = store.connection.execute(
            "SELECT EXISTS(SELECT 1 FROM pictures WHERE instr(data, ?1)) OR "
            "EXISTS(SELECT 1 FROM classes WHERE instr(CAST(name AS BLOB), ?1)) OR "
            "EXISTS(SELECT 1 FROM aliases WHERE instr(CAST(name AS BLOB), ?1)) OR "
            "EXISTS(SELECT 1 FROM sources WHERE instr(CAST(text AS BLOB), ?1))",
            (needle,),
        ).fetchone()
        if row[0]:
            kept.add(what)
    return kept


def _fingerprint(scorer: Scorer) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(scorer.arrays().items()):
        digest.update(name.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
