"""Unlearning a class, a sample or a source: recorded, then carried out phase by phase.

    PENDING   the request is in the store; a class is not named any more by predictions
    MODEL     head and adapters without it are made, and commit together with
    STORE     rows, statistics, tombstone and receipt: a half-state is never on the disk
    EXPORT    key destroyed, file rewritten, snapshots deleted, exports revoked or out of reach
    VERIFIED  what the check found is a receipt of its own, the request is closed

Each phase can be run again after a crash; every command that writes finishes what it finds.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import edgecl
from edgecl.errors import (
    EdgeclError,
    MissingPackageError,
    RequestError,
    StoreError,
    UnknownClassError,
)
from edgecl.home import Home
from edgecl.learner import (
    Learner,
    Say,
    open_learner,
    open_store,
    save_scorer,
)
from edgecl.runtime.redact import redacted
from edgecl.runtime.scoring import Scorer
from edgecl.store.adapters import drop_adapters, end_training, replace_adapter
from edgecl.store.erasure import erase
from edgecl.store.exports import (
    exports_of,
    finish_exports,
    is_stale_by,
    mark_stale,
    note_erased,
    revoke,
)
from edgecl.store.store import Store
from edgecl.types import APPROXIMATE, ForgetRequest, Receipt, check_reason
from edgecl.unlearning.changed import changed_adapters
from edgecl.unlearning.erase import remove_left_copies, remove_unlisted_snapshots, scrub
from edgecl.unlearning.evidence import Evidence, check, gather
from edgecl.unlearning.journal import advance, created, insert, record, withdraw
from edgecl.unlearning.plan import Plan, Target, make_plan, resolve, target_of
from edgecl.unlearning.receipt import (
    TABLE_OF,
    add_tombstones,
    all_receipts,
    append_receipt,
    check_ledger,
    find_tombstone,
    receipt_by_id,
    receipt_for,
    take_over,
    tombstone_tag,
)


def _silent(what: str, done: int, of: int) -> None:
    del what, done, of


@dataclass(frozen=True, slots=True)
class Unlearned:
    """What an unlearning did.

    Args:
        receipt: The receipt, already in the chain.
        mode: The receipt's mode, or `already_forgotten`.
        erasure: What the rewrite of the store reported; empty if nothing had to be done.
        verified: Whether the checks passed; None when none was asked for.
        faults: What the checks found.
        metrics: What the audit measured; empty when none was asked for.
        seconds: Time of the whole request.
        head_seconds: Time of the head's part.
        is_open: Whether a reader prevented the erasure, which is tried again.
    """

    receipt: Receipt
    mode: str
    erasure: dict[str, Any]
    verified: bool | None
    faults: tuple[str, ...]
    metrics: dict[str, Any]
    seconds: float
    head_seconds: float
    is_open: bool = False


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
    done = [_resume(home, learner, number) for number in numbers]
    return [part for part in done if part is not None]


def _resume(home: Home, learner: Learner, number: int) -> Unlearned | None:
    """Carry out a request that nobody waits for; it must not keep others from writing."""
    store = learner.store
    try:
        return carry_out(home, learner, number)
    except StoreError:
        raise
    except EdgeclError as error:
        row = store.connection.execute(
            "SELECT kind, target, body FROM requests WHERE number = ? AND phase = 'PENDING'",
            (number,),
        ).fetchone()
        if row is None:
            raise  # the class is gone already; what is left of the request must not be lost
        kind, uid, text = row
        body = json.loads(text)
        if body["adapter_method"] in APPROXIMATE:
            # Not in place after all: no torch, other weights, no picture. Dropping needs none.
            with store.transaction(changes_head=False):
                advance(store, number, "PENDING", body | {"adapter_method": "drop"})
            return carry_out(home, learner, number)
        if isinstance(error, MissingPackageError) or not isinstance(error, RequestError):
            raise  # it can be carried out, only not now
        with store.transaction(changes_head=False):
            entry = {"kind": "refused", "why": f"{kind} cannot be told apart", "uid": uid}
            append_receipt(home, store, entry | {"request": number, "time": time.time()})
            withdraw(store, number)
        check_ledger(home, store)
        return None


def forget(
    home: Home,
    learner: Learner,
    request: ForgetRequest,
    *,
    verify: bool = False,
    weights: str | None = None,
    say: Say = _silent,
) -> Unlearned:
    """Remove a class, a sample or a source for good, and write a receipt.

    Adapters that were trained on it, and those trained on from them, are dropped with their heads;
    what is left is the exact head, which learned of it by itself.

    Args:
        home: The home, whose lock the caller holds.
        learner: Its learner.
        request: What, why, and what happens to adapters.
        verify: Audit the result against a model that never learned it, and look for its bytes in
            every file of the home. An approximate method is audited always.
        weights: The file that the backbone was made from, if it was a file; only approximate
            methods need the backbone.
        say: Told about progress.

    Returns:
        What was done. What was unlearned before is not unlearned twice: its first receipt, with
        the mode `already_forgotten`.

    Raises:
        UnknownClassError: No such class; nothing was changed but an entry in the audit.
        RequestError: No such sample or source, or it cannot be told apart, or an approximate
            method cannot be run; nothing was changed.
    """
    begin = time.perf_counter()
    store = learner.store
    target = find(home, store, request)
    if isinstance(target, Receipt):
        seconds = time.perf_counter() - begin
        bodies = [json.loads(b) for (b,) in store.connection.execute("SELECT body FROM requests")]
        is_open = any(body.get("receipt") == target.receipt_id for body in bodies)
        return Unlearned(target, "already_forgotten", {}, None, (), {}, seconds, 0.0, is_open)
    number = record(store, target, request, verify=verify, weights=weights)
    try:
        done = carry_out(home, learner, number, say=say)
    except StoreError:
        raise  # the request stays and is finished when there is room, or the reader is gone
    except EdgeclError:
        with store.transaction(changes_head=False):
            withdraw(store, number, phase="PENDING")
        raise
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
    try:
        return look_up(home, store, request)
    except UnknownClassError:
        with store.transaction(changes_head=False):
            body = {"kind": "refused", "why": "unknown class", "time": time.time()}
            append_receipt(home, store, body)
        check_ledger(home, store)
        raise


def look_up(home: Home, store: Store, request: ForgetRequest) -> Target | Receipt:
    """Do what `find` does and write nothing.

    Raises:
        UnknownClassError: No such class.
        RequestError: No such sample or source.
        UsageError: The reason names a class.
    """
    for name in (*store.names.values(), *store.aliases()):
        check_reason(request.reason, name)
    try:
        target = resolve(store, request)
    except RequestError:
        before = find_tombstone(home, store, request.kind, request.name)
        if before is None:
            # What a camera's address is kept as, without its account.
            kept_as = redacted(request.name)
            if request.kind == "source" and kept_as != request.name:
                return look_up(home, store, replace(request, name=kept_as))
            raise
        receipt = receipt_by_id(home, store, before[1])
        is_exact = not str(receipt.body["mode"]).startswith("approximate")
        if is_exact or request.adapter_method in APPROXIMATE:
            return receipt
        # What was only approximate is made exact: the adapters that saw it are still there.
        return target_of(store, request.kind, before[0])
    for name in target.names:
        check_reason(request.reason, name)
    return target


def carry_out(home: Home, learner: Learner, number: int, *, say: Say = _silent) -> Unlearned:
    """Bring a request from its phase to the end.

    Args:
        home: The home, whose lock the caller holds.
        learner: Its learner.
        number: Number of the request.
        say: Told about progress.
    """
    begin = time.perf_counter()
    store = learner.store
    kind, uid, phase, text = store.connection.execute(
        "SELECT kind, target, phase, body FROM requests WHERE number = ?", (number,)
    ).fetchone()
    body: dict[str, Any] = json.loads(text)
    evidence = Evidence()
    if phase == "PENDING":
        if (before := _done_before(home, store, kind, uid, body)) is not None:
            with store.transaction(changes_head=False):
                withdraw(store, number)
            seconds = time.perf_counter() - begin
            return Unlearned(before, "already_forgotten", {}, None, (), {}, seconds, 0.0)
        finish_exports(store)
        target = target_of(store, kind, uid)
        plan = make_plan(store, learner.head, target, body["adapter_method"])
        if body["verify"]:
            evidence = gather(learner, target)
        body["receipt"] = _unlearn(home, learner, number, target, plan, body, evidence, say)
    say("erasing", 0, 1)
    erasure = _erase(home, store, body["receipt"])
    faults: list[str] = []
    if body["verify"]:
        say("checking", 0, 1)
        faults = check(home, learner, evidence)
        if erasure["busy"]:
            faults.append("the store's log could not be emptied, another process was reading")
        if phase != "PENDING":
            # What was to be searched for went with the process that was cut off.
            evidence.metrics["resumed"] = True
            if body.get("adapter_method") in APPROXIMATE:
                faults.append(
                    "the command was cut off, and with it went what its gates compare with; "
                    "unlearn the class again with --adapter-method drop"
                )
    if not erasure["busy"]:
        _close(home, store, number, body, evidence, faults)
    check_ledger(home, store)
    receipt = receipt_by_id(home, store, body["receipt"])
    return Unlearned(
        receipt=receipt,
        mode=receipt.body["mode"],
        erasure=erasure,
        verified=(not faults if phase == "PENDING" else None) if body["verify"] else None,
        faults=tuple(faults),
        metrics=evidence.metrics,
        seconds=time.perf_counter() - begin,
        head_seconds=evidence.head_seconds,
        is_open=bool(erasure["busy"]),
    )


def receipt_of(store: Store, number: int, target: Target) -> str | None:
    """Return the receipt of a request that is done, or None.

    Of one that another had made superfluous, that one's; of one that was refused, the refusal.
    """
    with store.errors():
        open_ = store.connection.execute("SELECT 1 FROM requests WHERE number = ?", (number,))
        if open_.fetchone():
            return None
    return store.receipt_of_request(number) or receipt_for(store, target.kind, target.uid)


def _done_before(
    home: Home, store: Store, kind: str, uid: int, body: dict[str, Any]
) -> Receipt | None:
    """Return the receipt of an earlier request for the same, if nothing is left for this one."""
    execute = store.connection.execute
    if execute(f"SELECT 1 FROM {TABLE_OF[kind]} WHERE uid = ?", (uid,)).fetchone():
        return None
    receipt_id = receipt_for(store, kind, uid)
    if receipt_id is None:
        return None
    receipt = receipt_by_id(home, store, receipt_id)
    is_approximate = str(receipt.body["mode"]).startswith("approximate")
    return None if is_approximate and body["adapter_method"] not in APPROXIMATE else receipt


def _unlearn(
    home: Home,
    learner: Learner,
    number: int,
    target: Target,
    plan: Plan,
    asked: dict[str, Any],
    evidence: Evidence,
    say: Say,
) -> str:
    """Phases MODEL and STORE: head, adapters, rows, tombstone and receipt in one transaction.

    Returns:
        The receipt's id.
    """
    store, head = learner.store, learner.head
    before = _fingerprint(head.scorer(store.names))
    is_approximate = plan.mode.startswith("approximate")
    changed = []
    if is_approximate:
        changed = changed_adapters(home, store, target, plan, asked["weights"], evidence, say)
    dropped = [] if is_approximate else [*plan.adapters, *plan.adapters_later]
    try:
        with store.transaction():
            begin = time.perf_counter()
            is_known = target.kind == "class" and target.uid in head.classes
            if is_known:
                head.forget(target.uid, store)
            evidence.head_seconds = time.perf_counter() - begin
            known = set(store.names)
            rows_erased = erase(store, target.kind, target.uid)
            classes_gone = known - set(store.names)
            # Under every uid that it had: its keys go, and no snapshot brings one back.
            uids = target.classes if target.kind == "class" else (target.uid,)
            begin = time.perf_counter()
            note = {"class": target.uid, "method": plan.adapter_method}
            for task, adapter in changed:
                replace_adapter(store, task, adapter, without=target.uid, note=note)
            if dropped:
                drop_adapters(store, dropped)
            elif is_approximate:
                end_training(store)  # what was broken off saw it, and cannot go on without
            if target.kind != "class" and plan.mode != "store_only":
                head.rebuild(store)
            head.settle(store)
            evidence.head_seconds += time.perf_counter() - begin
            store.drop_snapshots(plan.snapshots)
            if store.names:
                save_scorer(store, head)
                learner.save_state()
            else:
                store.reset()
            body = {
                "kind": "forget",
                "what": target.kind,
                "mode": plan.mode,
                f"{target.kind}_uid": target.uid,
                "reason": asked["reason"],
                "request": number,
                "requested": created(store, number),
                "time": time.time(),
                "rows_erased": rows_erased,
                "classes_gone": sorted(classes_gone | set(uids if target.kind == "class" else ())),
                "adapters": dropped or list(evidence.weights),
                "adapter_method": plan.adapter_method,
                "exports_stale": list(plan.exports),
                "snapshots_purged": list(plan.snapshots),
                "head": head.name,
                "bit_exact": head.is_exact and not is_approximate,
                "head_before": before,
                "head_after": _fingerprint(head.scorer(store.names)),
                "feature_map": store.feature_map,
                "config": hashlib.sha256((home.path / "edgecl.toml").read_bytes()).hexdigest(),
                "edgecl": edgecl.__version__,
                "tombstones": [
                    [target.kind, uid, tombstone_tag(home, target.kind, name)]
                    for uid in uids
                    for name in target.names
                ],
            }
            if "again" in asked:
                body["again"] = asked["again"]
            if evidence.weights:
                body["weights"] = [
                    {"adapter": uid, **asdict(report)} for uid, report in evidence.weights.items()
                ]
            receipt = append_receipt(home, store, body)
            for uid in uids:
                add_tombstones(home, store, target.kind, uid, target.names, receipt.receipt_id)
            mark_stale(store, plan.exports, receipt.receipt_id)
            advance(store, number, "STORE", asked | {"receipt": receipt.receipt_id})
    except BaseException:
        learner.reload()
        raise
    check_ledger(home, store)
    return receipt.receipt_id


def _erase(home: Home, store: Store, receipt_id: str) -> dict[str, Any]:
    """Phase EXPORT: nothing of it in any file; returns what was done. Can be run again."""
    receipt = receipt_by_id(home, store, receipt_id).body
    for uid in receipt.get("classes_gone", ()):
        store.destroy_key(uid)
    removed = remove_unlisted_snapshots(home, store)
    copies = remove_left_copies(home)
    stale = [export for export in exports_of(store) if is_stale_by(export, receipt_id)]
    exports = {
        str(export.uid): revoke(export, receipt_id, receipt, store.sources()) for export in stale
    }
    report = scrub(store) | {
        "snapshot_files": removed,
        "copies": copies,
        "exports": exports,
        "keys_destroyed": store.is_sealed,
    }
    with store.transaction(changes_head=False):
        entry = {"kind": "erasure", "of": receipt_id, "time": time.time(), **report}
        append_receipt(home, store, entry)
        for export in stale:
            if exports[str(export.uid)] == "erased":
                note_erased(store, export, receipt_id)
    return report


def _close(
    home: Home,
    store: Store,
    number: int,
    body: dict[str, Any],
    evidence: Evidence,
    faults: list[str],
) -> None:
    """Phase VERIFIED: write what the check found and take the request off the list."""
    with store.transaction(changes_head=False):
        if body["verify"]:
            mode = str(receipt_by_id(home, store, body["receipt"]).body["mode"])
            failed = "approximate_failed" if mode.startswith("approximate") else "failed"
            passed = "incomplete" if evidence.metrics.get("resumed") else "verified"
            entry = {
                "kind": "verification",
                "of": body["receipt"],
                "time": time.time(),
                "status": failed if faults else passed,
                "faults": len(faults),
                "metrics": evidence.metrics,
            }
            append_receipt(home, store, entry)
        withdraw(store, number)


def _ask_again(home: Home, store: Store, body: dict[str, Any], receipt_id: str) -> None:
    """Record anew what a lost receipt had unlearned and this older store still holds."""
    for kind, uid in {(kind, uid) for kind, uid, _ in body.get("tombstones", ())}:
        query = f"SELECT 1 FROM {TABLE_OF[kind]} WHERE uid = ?1"
        if kind == "class":  # perhaps only an adapter that saw it is left
            query += " UNION SELECT 1 FROM adapter_classes WHERE class_uid = ?1"
        if store.connection.execute(query, (uid,)).fetchone() is not None:
            again = {
                "reason": body["reason"],
                "adapter_method": "drop",
                "verify": False,
                "weights": None,
                "again": receipt_id,
            }
            insert(store, kind, uid, again)


def _fingerprint(scorer: Scorer) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(scorer.arrays().items()):
        digest.update(name.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
