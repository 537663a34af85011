"""Unlearning a class, a sample or a source: recorded, then carried out phase by phase.

    lookup    what the request means, found once, or the receipt of an earlier one (lookup.py)
    PENDING   the request is in the store (journal.py); predictions do not name the class any more
    MODEL     head and adapters without it are made, and commit together with
    STORE     rows, statistics, tombstone and receipt: a half-state is never on the disk
    EXPORT    key destroyed, file rewritten, snapshots deleted, exports revoked or out of reach
    VERIFIED  what the check found is a receipt of its own, the request is closed

`forget` and `carry_out` tell this story, the functions after them are its phases in their order.
Each phase can be run again after a crash; every command that writes finishes what it finds
(`writing`, `finish_requests`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from edgecl.calibration import save_scorer
from edgecl.errors import EdgeclError, MissingPackageError, RequestError, StoreError
from edgecl.governor.record import is_recorded, note_forgotten, noting
from edgecl.governor.verdicts import NOBODY, held_out_verdicts
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.lending import holding, lent
from edgecl.runtime.engines.base import AS_SET, EngineOptions
from edgecl.session import Session, open_learner
from edgecl.store.exports import (
    exports_of,
    finish_exports,
    is_stale_by,
    mark_stale,
    note_erased,
)
from edgecl.store.moves import merged_into
from edgecl.store.published import revoke_all
from edgecl.store.receipts import add_tombstones, move_tombstones
from edgecl.store.requests import (
    PENDING,
    STORE,
    Request,
    advance,
    ask_again,
    open_requests,
    record,
    request_of,
    withdraw,
)
from edgecl.store.scrub import scrub
from edgecl.store.snapshots import drop_snapshots
from edgecl.store.store import Store
from edgecl.types import ForgetRequest, Mode, Receipt, Say
from edgecl.unlearning.approximate.changed import changed_adapters
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.erase import remove_left_copies, remove_unlisted_snapshots
from edgecl.unlearning.evidence import Evidence, gather
from edgecl.unlearning.lookup import find, look_up_again
from edgecl.unlearning.plan import Plan, Target, make_plan
from edgecl.unlearning.receipt import Erased, Refused, Verified
from edgecl.unlearning.removal import Changed, check_all, entry_of, fingerprint, take_out


@dataclass(frozen=True, slots=True)
class Unlearned:
    """What an unlearning did.

    Args:
        receipt: The receipt, already in the chain.
        mode: The receipt's mode, or `already_forgotten`.
        erasure: What the rewrite of the store reported; None if nothing had to be done.
        verified: Whether the checks passed; None when none was asked for.
        faults: What the checks found.
        metrics: What the audit measured; empty when none was asked for.
        seconds: Time of the whole request.
        head_seconds: Time of the head's part.
        is_open: Whether a reader prevented the erasure, which is tried again.
    """

    receipt: Receipt
    mode: Mode
    erasure: Erased | None = None
    verified: bool | None = None
    faults: tuple[str, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    head_seconds: float = 0.0
    is_open: bool = False


def forget(
    home: Home,
    learner: Learner,
    request: ForgetRequest,
    *,
    verify: bool = False,
    weights: str | None = None,
    say: Say = lambda what, done, of: None,
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
        UnknownClassError: No such class; nothing was changed but an entry in the chain.
        RequestError: No such sample or source, or it cannot be told apart, or an approximate
            method cannot be run; nothing was changed.
        IntegrityError: The chain of receipts is broken; nothing was changed.
    """
    begin = time.perf_counter()
    chain = Chain(home, learner.store)
    finish_exports(learner.store)
    found = find(chain, request)
    done = forget_found(chain, learner, found, request, verify=verify, weights=weights, say=say)
    return replace(done, seconds=time.perf_counter() - begin)


def forget_found(
    chain: Chain,
    learner: Learner,
    found: Target | Receipt,
    asked: ForgetRequest,
    *,
    verify: bool = False,
    weights: str | None = None,
    say: Say = lambda what, done, of: None,
) -> Unlearned:
    """Do what `forget` does with what a request was found to mean."""
    store = chain.store
    if isinstance(found, Receipt):
        is_open = any(other.receipt == found.receipt_id for other in open_requests(store))
        return Unlearned(found, Mode.ALREADY_FORGOTTEN, is_open=is_open)
    number = record(store, found, asked, verify=verify, weights=weights)
    request = request_of(store, number)
    assert request is not None  # nobody else carries it out while the home is locked
    try:
        return carry_out(chain, learner, request, found, say=say)
    except StoreError:
        raise  # the request stays and is finished when there is room, or the reader is gone
    except EdgeclError:
        with store.transaction(changes_head=False):
            withdraw(store, number, phase=PENDING)
        raise


def carry_out(
    chain: Chain,
    learner: Learner,
    request: Request,
    found: Target | Receipt | None = None,
    *,
    say: Say = lambda what, done, of: None,
) -> Unlearned:
    """Bring a request from its phase to the end.

    Args:
        chain: The chain of the home, whose lock the caller holds.
        learner: Its learner.
        request: The request.
        found: What it means, if it was just looked up.
        say: Told about progress.
    """
    begin = time.perf_counter()
    evidence, receipt_id = Evidence(), request.receipt
    if request.phase == PENDING:
        found = found or look_up_again(chain, request)
        if isinstance(found, Receipt):
            with chain.store.transaction(changes_head=False):
                withdraw(chain.store, request.number)
            seconds = time.perf_counter() - begin
            return Unlearned(found, Mode.ALREADY_FORGOTTEN, seconds=seconds)
        plan = make_plan(chain.store, learner.head, found, request.adapter_method)
        if request.verify:
            evidence = gather(learner, found)
        receipt_id = _unlearn(chain, learner, request, found, plan, evidence, say)
    assert receipt_id is not None  # from the phase STORE on there is one
    say("erasing", 0, 1)
    erased = _erase(chain, receipt_id)
    faults = check_all(chain, learner, request, evidence, erased, say) if request.verify else ()
    if not erased.busy:
        _close(chain, request, receipt_id, evidence, faults)
    chain.settle()
    receipt = chain.find(receipt_id)
    is_checked = request.verify and request.phase == PENDING
    return Unlearned(
        receipt=receipt,
        mode=Mode(receipt.body["mode"]),
        erasure=erased,
        verified=not faults if is_checked else None,
        faults=faults,
        metrics=evidence.metrics,
        seconds=time.perf_counter() - begin,
        head_seconds=evidence.head_seconds,
        is_open=bool(erased.busy),
    )


def _unlearn(
    chain: Chain,
    learner: Learner,
    request: Request,
    target: Target,
    plan: Plan,
    evidence: Evidence,
    say: Say,
) -> str:
    """Phases MODEL and STORE: head, adapters, rows, tombstone and receipt in one transaction.

    Returns:
        The receipt's id.
    """
    store = chain.store
    begin, before, known = time.time(), fingerprint(learner), set(store.names)
    merged = merged_into(store)
    answers = held_out_verdicts(learner) if is_recorded(chain.home) else NOBODY
    changed: Changed = ()
    if not plan.mode.is_exact:
        changed = changed_adapters(chain.home, store, target, plan, request.weights, say)
        evidence.weights = {task.uid: done.report for task, done in changed}
    try:
        with store.transaction():
            rows_erased = take_out(learner, target, plan, changed, evidence)
            drop_snapshots(store, plan.snapshots)
            if store.names:
                save_scorer(store, learner.head)
                learner.save_state(at_end=True)
            else:
                store.reset()
            gone = known - set(store.names)
            gone |= {uid for uid, owner in merged.items() if owner in gone}
            entry = entry_of(
                chain.home, learner, request, target, plan, evidence, rows_erased, gone, before
            )
            receipt_id = chain.append(entry)
            if entry.tombstones:
                add_tombstones(store, entry.tombstones, receipt_id)
            else:  # unlearned once more, exactly now; its names are known from the first time
                move_tombstones(store, target.kind, target.uid, receipt_id)
            mark_stale(store, plan.exports, receipt_id)
            advance(store, request, phase=STORE, receipt=receipt_id)
            if is_recorded(chain.home):
                note_forgotten(learner, receipt_id, answers, held_out_verdicts(learner), begin)
    except BaseException:
        learner.reload()
        raise
    chain.settle()
    return receipt_id


def _erase(chain: Chain, receipt_id: str) -> Erased:
    """Phase EXPORT: nothing of it in any file; returns what was done. Can be run again."""
    home, store = chain.home, chain.store
    receipt = chain.find(receipt_id).body
    for uid in receipt["classes_gone"]:
        store.destroy_key(uid)
    removed = remove_unlisted_snapshots(home, store)
    copies = remove_left_copies(home)
    stale = [export for export in exports_of(store) if is_stale_by(export, receipt_id)]
    exports = revoke_all(store, stale, receipt_id, receipt)
    erased = Erased(
        of=receipt_id,
        time=time.time(),
        snapshot_files=removed,
        copies=copies,
        exports=exports,
        keys_destroyed=store.is_sealed,
        **scrub(store),
    )
    with store.transaction(changes_head=False):
        chain.append(erased)
        for export in stale:
            if exports[str(export.uid)] in ("erased", "republished"):
                note_erased(store, export, receipt_id)
    return erased


def _close(
    chain: Chain, request: Request, receipt_id: str, evidence: Evidence, faults: Sequence[str]
) -> None:
    """Phase VERIFIED: write what the check found and take the request off the list."""
    with chain.store.transaction(changes_head=False):
        if request.verify:
            is_exact = Mode(chain.find(receipt_id).body["mode"]).is_exact
            failed = "failed" if is_exact else "approximate_failed"
            passed = "incomplete" if evidence.metrics.get("resumed") else "verified"
            status = failed if faults else passed
            n_faults = len(faults)
            chain.append(Verified(receipt_id, time.time(), status, n_faults, evidence.metrics))
        withdraw(chain.store, request.number)


# What was cut off, and what other processes asked for


@contextmanager
def writing(home: Home, options: EngineOptions = AS_SET) -> Iterator[Session]:
    """Lock a home and open it to write, after finishing what is open in it.

    Inside a process that holds the home already, its own session is given (edgecl/lending.py).

    An older copy of the store gets the receipts that it lacks and unlearns again what they name;
    requests that were cut off, or were asked for by another process meanwhile, are carried out:
    before the caller's work and after it.

    Raises:
        HomeLockedError: Another process writes.
        StoreError: The store cannot be written.
        IntegrityError: The chain of receipts is broken.
    """
    with writing_chain(home) as chain, noting(home, chain.store):
        yield lent(home) or Session(home, chain.store, options)


@contextmanager
def writing_chain(home: Home) -> Iterator[Chain]:
    """Do what `writing` does; yields the chain, which was checked, and holds home and store."""
    with holding(home) as (store, learner):
        chain = Chain(home, store)
        _finish(chain, learner)
        yield chain
        if store.has_requests():
            finish_requests(home, store, learner)


def finish_requests(home: Home, store: Store, learner: Learner | None = None) -> list[Unlearned]:
    """Carry out every open request, also those that an older copy of the store has lost.

    Args:
        home: The home, whose lock the caller holds.
        store: Its store.
        learner: The learner that works on it, if there is one; its head is kept up to date.

    Returns:
        What was done; empty when nothing was open. An erasure that a reader prevents stays open.
    """
    return _finish(Chain(home, store), learner)


def _finish(chain: Chain, learner: Learner | None = None) -> list[Unlearned]:
    store = chain.store
    if chain.lost:
        with store.transaction():
            ask_again(store, chain.take_over())
    chain.settle()
    requests = open_requests(store)
    if not requests:
        return []
    finish_exports(store)
    learner = learner or open_learner(chain.home, store)
    done = [_resume(chain, learner, request) for request in requests]
    return [part for part in done if part is not None]


def _resume(chain: Chain, learner: Learner, request: Request) -> Unlearned | None:
    """Carry out a request that nobody waits for; it must not keep others from writing."""
    store, number = chain.store, request.number
    try:
        return carry_out(chain, learner, request)
    except StoreError:
        raise
    except EdgeclError as error:
        left = request_of(store, number)
        if left is None or left.phase != PENDING:
            raise  # the class is gone already; what is left of the request must not be lost
        if request.is_approximate:
            # Not in place after all: no torch, other weights, no picture. Dropping needs none.
            exact = replace(request, adapter_method="drop")
            with store.transaction(changes_head=False):
                advance(store, exact)
            return carry_out(chain, learner, exact)
        if isinstance(error, MissingPackageError) or not isinstance(error, RequestError):
            raise  # it can be carried out, only not now
        why = f"{request.kind} cannot be told apart"
        with store.transaction(changes_head=False):
            chain.append(Refused(why, time.time(), request.uid, number))
            withdraw(store, number)
        chain.settle()
        return None
