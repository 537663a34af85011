"""Unlearning a class: plan, head, store, erasure, check, receipt."""

from __future__ import annotations

import hashlib
import time
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np

import edgecl
from edgecl.heads import make_head_of
from edgecl.home import Home
from edgecl.learner import Learner, change_map, embed_stored, save_scorer
from edgecl.replay.adapters import chosen_adapter, drop_adapters, first_that_saw, task_adapters
from edgecl.replay.schema import TABLES
from edgecl.replay.store import Store
from edgecl.runtime.adapters import digest_of
from edgecl.runtime.scoring import Scorer
from edgecl.types import Float16, ForgetRequest, Receipt, check_reason
from edgecl.unlearning.erase import find_bytes, scrub
from edgecl.unlearning.receipt import (
    add_tombstone,
    all_receipts,
    append_receipt,
    open_erasures,
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
        erasure: What the rewrite of the store reported.
        verified: Whether the checks passed; None when none was asked for.
        faults: What the checks found.
        seconds: Time of the whole request.
        head_seconds: Time of the head's part.
    """

    receipt: Receipt
    erasure: dict[str, Any]
    verified: bool | None
    faults: tuple[str, ...]
    seconds: float
    head_seconds: float


def forget_class(
    home: Home, learner: Learner, request: ForgetRequest, *, verify: bool = False
) -> Unlearned:
    """Remove a class from head, statistics and store for good, and write a receipt.

    Adapters that were trained on the class, and those trained on from them, are dropped: the kept
    pictures are embedded under the map that remains, and the head learns them anew. Head, rows,
    adapters, tombstone and receipt change in one transaction; the rewrite of the file follows, and
    its outcome is a second entry of the chain. A request that was killed in between is finished by
    `finish_erasures`.

    Args:
        home: The home, whose lock the caller holds.
        learner: Its learner.
        request: Which class, and why.
        verify: Compare the head with one built anew from the store, and look for the class's
            bytes in every file of the home.

    Raises:
        UnknownClassError: No such class; nothing was changed.
    """
    begin = time.perf_counter()
    store, head = learner.store, learner.head
    uid = store.class_uid(request.name)
    all_receipts(store)  # a broken chain is refused before anything is changed
    for name in store.names.values():
        check_reason(request.reason, name)
    needles = _needles(learner, uid, request.name) if verify else {}
    before = _fingerprint(head.scorer(store.names))
    first = first_that_saw(store, uid)
    plan = None if first is None else _without_adapters(home, store, first, uid)
    dropped: list[int] = []
    try:
        with store.transaction():
            head_begin = time.perf_counter()
            if plan is None:
                head.forget(uid, store)
                head_seconds = time.perf_counter() - head_begin
            rows_erased = store.delete_class(uid)
            if plan is not None and first is not None:
                dropped = drop_adapters(store, first)
                kept = {sample: plan.features[sample] for sample, _ in store.stored_samples()}
                change_map(home, learner, plan.adapter, kept)
                head_seconds = time.perf_counter() - head_begin
            head.settle(store)
            if store.names:
                save_scorer(store, head)
                learner.save_state()
            else:
                store.reset()
            receipt = append_receipt(
                store,
                {
                    "kind": "forget",
                    "mode": "exact_retrain" if dropped else head.forget_mode,
                    "class_uid": uid,
                    "reason": request.reason,
                    "time": time.time(),
                    "rows_erased": rows_erased,
                    "adapters": dropped,
                    "exports_stale": [],
                    "head": head.name,
                    "bit_exact": head.is_exact and not dropped,
                    "head_before": before,
                    "head_after": _fingerprint(head.scorer(store.names)),
                    "feature_map": store.feature_map,
                    "edgecl": edgecl.__version__,
                },
            )
            add_tombstone(home, store, uid, request.name, receipt.receipt_id)
    except BaseException:
        learner.reload()
        raise
    erasure = finish_erasures(store)[-1]
    faults = _faults(home, learner, needles, erasure) if verify else ()
    return Unlearned(
        receipt=receipt,
        erasure=erasure,
        verified=not faults if verify else None,
        faults=tuple(faults),
        seconds=time.perf_counter() - begin,
        head_seconds=head_seconds,
    )


@dataclass(frozen=True)
class _Plan:
    """The map under which a home goes on when its later adapters are dropped."""

    adapter: str | None
    features: dict[int, Float16]


def _without_adapters(home: Home, store: Store, first: int, class_uid: int) -> _Plan:
    """Embed the kept pictures of all other classes under the map of the adapters before one."""
    left = [task for task in task_adapters(store) if task.uid < first]
    adapter = chosen_adapter(left, home.config.consolidation.bank)
    engine = home.engine()
    if adapter is not None:
        engine = engine.with_adapters(adapter)
    others = [uid for uid, c in store.stored_samples() if c != class_uid]
    features = embed_stored(home, store, engine, uids=others)
    return _Plan(None if adapter is None else digest_of(adapter), features)


def finish_erasures(store: Store) -> list[dict[str, Any]]:
    """Rewrite the store for every receipt whose erasure is not confirmed yet.

    Returns:
        One report a receipt; empty when nothing was open.
    """
    open_ = open_erasures(all_receipts(store))
    if not open_:
        return []
    report = scrub(store)
    with store.transaction(changes_head=False):
        for receipt in open_:
            body = {"kind": "erasure", "of": receipt.receipt_id, "time": time.time(), **report}
            append_receipt(store, body)
    return [report] * len(open_)


def _needles(learner: Learner, uid: int, name: str) -> dict[str, bytes]:
    """Return byte strings that only this class has: its name, and pieces of its pictures."""
    needles = {}
    for form in ("NFC", "NFD"):
        encoded = unicodedata.normalize(form, name).encode()
        # A word of the schema is in every database file.
        if len(encoded) >= _MIN_NAME_BYTES and encoded not in TABLES.encode():
            needles[f"class name ({form})"] = encoded
    rows = learner.store.connection.execute(
        "SELECT p.uid, p.data FROM pictures p JOIN samples s USING (uid) WHERE s.class_uid = ? "
        "ORDER BY p.uid LIMIT ?",
        (uid, _MOST_SLICES),
    )
    for sample, data in rows:
        # Headers and tables are alike in all pictures, and in a small file reach beyond its
        # middle; what is farther back is not, unless the picture is flat.
        piece = data[3 * len(data) // 4 :][:_PICTURE_SLICE]
        if len(set(piece)) >= _PICTURE_SLICE // 2:
            needles[f"picture of sample {sample}"] = piece
    return needles


def _faults(
    home: Home, learner: Learner, needles: dict[str, bytes], erasure: dict[str, Any]
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
    kept = _kept_copies(learner, needles)
    for what, files in find_bytes(home.path, needles, but_not=("engine", "edgecl.toml")).items():
        if what not in kept:
            faults.append(f"bytes of the {what} are still in {', '.join(files)}")
    return faults


def _kept_copies(learner: Learner, needles: dict[str, bytes]) -> set[str]:
    """Return the needles that a sample of another class legitimately holds."""
    kept = set()
    for what, needle in needles.items():
        row = learner.store.connection.execute(
            "SELECT EXISTS(SELECT 1 FROM pictures WHERE instr(data, ?)) OR "
            "EXISTS(SELECT 1 FROM classes WHERE instr(CAST(name AS BLOB), ?))",
            (needle, needle),
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
