"""What the phases of a request do to head, adapters and rows, and what they say of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict

import edgecl
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.store.adapters import TaskAdapter, drop_adapters, end_training, replace_adapter
from edgecl.store.erasure import erase
from edgecl.store.requests import PENDING, Request
from edgecl.types import Kind, Mode, Say
from edgecl.unlearning.approximate.report import UnlearnedAdapter
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.evidence import Evidence, check
from edgecl.unlearning.plan import Plan, Target
from edgecl.unlearning.receipt import Erased, Forgotten, tombstone_tag

Changed = Sequence[tuple[TaskAdapter, UnlearnedAdapter]]


def take_out(
    learner: Learner, target: Target, plan: Plan, changed: Changed, evidence: Evidence
) -> dict[str, int]:
    """Take a target out of head, adapters and rows; returns the rows that each table lost."""
    store, head = learner.store, learner.head
    begin = time.perf_counter()
    if target.kind is Kind.CLASS and target.uid in head.classes:
        head.forget(target.uid, store)
    evidence.head_seconds = time.perf_counter() - begin
    gone = None
    if target.kind is Kind.SAMPLE:
        gone = store.whole_of_sample(target.uid)
    elif target.kind is Kind.SOURCE:
        gone = store.whole_of_source(target.uid)
    rows_erased = erase(store, target.kind, target.uid)
    begin = time.perf_counter()
    if not plan.mode.is_exact:
        note = {"class": target.uid, "method": plan.adapter_method}
        for task, done in changed:
            replace_adapter(store, task, done.adapter, without=target.uid, note=note)
        end_training(store)  # what was broken off saw it, and cannot go on without
    elif plan.adapters:
        drop_adapters(store, [*plan.adapters, *plan.adapters_later])
    if target.kind is not Kind.CLASS and plan.mode is not Mode.STORE_ONLY:
        head.rebuild(store) if gone is None else head.take_off(gone, store, store.n_seen())
    head.settle(store)
    evidence.head_seconds += time.perf_counter() - begin
    return rows_erased


def entry_of(
    home: Home,
    learner: Learner,
    request: Request,
    target: Target,
    plan: Plan,
    evidence: Evidence,
    rows_erased: dict[str, int],
    gone: set[int],
    head_before: str,
) -> Forgotten:
    """Return what the receipt says of a target that was just taken out.

    Args:
        home: The home.
        learner: Its learner.
        request: The request.
        target: What it meant.
        plan: What was planned.
        evidence: What was done to adapters.
        rows_erased: Rows that each table lost.
        gone: Uids of the classes that the store lost.
        head_before: Fingerprint of the head before it.
    """
    store, head = learner.store, learner.head
    # Under every uid that it had: its keys go, and no snapshot brings one back.
    uids = target.classes if target.kind is Kind.CLASS else (target.uid,)
    weights = tuple({"adapter": uid, **asdict(done)} for uid, done in evidence.weights.items())
    dropped = (*plan.adapters, *plan.adapters_later) if plan.mode.is_exact else ()
    return Forgotten(
        what=target.kind,
        uid=target.uid,
        mode=plan.mode,
        reason=request.reason,
        request=request.number,
        requested=request.created,
        time=time.time(),
        rows_erased=rows_erased,
        classes_gone=tuple(sorted(gone.union(uids if target.kind is Kind.CLASS else ()))),
        adapters=dropped or tuple(evidence.weights),
        adapter_method=plan.adapter_method,
        exports_stale=plan.exports,
        snapshots_purged=plan.snapshots,
        head=head.name,
        bit_exact=head.is_exact and plan.mode.is_exact,
        head_before=head_before,
        head_after=fingerprint(learner),
        feature_map=store.feature_map,
        config=hashlib.sha256((home.path / "edgecl.toml").read_bytes()).hexdigest(),
        edgecl=edgecl.__version__,
        tombstones=tuple(
            (target.kind, uid, tombstone_tag(home, target.kind, name))
            for uid in uids
            for name in target.names
        ),
        again=request.again,
        weights=weights or None,
    )


def fingerprint(learner: Learner) -> str:
    """Return a hash over the arrays that the head predicts with."""
    digest = hashlib.sha256()
    for name, array in sorted(learner.head.scorer(learner.store.names).arrays().items()):
        digest.update(name.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def check_all(
    chain: Chain,
    learner: Learner,
    request: Request,
    evidence: Evidence,
    erased: Erased,
    say: Say,
) -> tuple[str, ...]:
    """Audit what is served and search the files; returns a line for each fault."""
    say("checking", 0, 1)
    faults = check(chain.home, learner, evidence)
    if erased.busy:
        faults.append("the store's log could not be emptied, another process was reading")
    if request.phase != PENDING:
        # What was to be searched for went with the process that was cut off.
        evidence.metrics["resumed"] = True
        if request.is_approximate:
            faults.append(
                "the command was cut off, and with it went what its gates compare with; "
                "unlearn the class again with --adapter-method drop"
            )
    return tuple(faults)
