"""What proves an unlearning: read before the deletion, kept in memory, checked after it."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.runtime.scoring import Scorer
from edgecl.store.erasure import is_held, traces
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.store.tables import TABLES, schema_of
from edgecl.types import Float16, Kind
from edgecl.unlearning.approximate.report import WeightsReport
from edgecl.unlearning.audit.collateral import collateral
from edgecl.unlearning.audit.verify import Audit, audit
from edgecl.unlearning.erase import find_bytes
from edgecl.unlearning.plan import Target

# A shorter name would be found in any binary file by chance.
_MIN_NAME_BYTES = 6
_PICTURE_SLICE = 32
_MOST_SLICES = 200


@dataclass
class Evidence:
    """What the check needs of what is gone, kept in memory only; and what it measured.

    Args:
        needles: Byte strings that only the target had, by what they are.
        is_of_class: Whether the target is a class.
        forgotten: Features (N, D) of a class's rows, or None.
        unseen: Features of those that were held out of learning, likewise.
        before: What the exact head predicted with before.
        weights: What that did to each adapter, by uid.
        metrics: What the check measured.
        head_seconds: Time of the head's part of the unlearning.
    """

    needles: dict[str, bytes] = field(default_factory=dict)
    is_of_class: bool = False
    forgotten: Float16 | None = None
    unseen: Float16 | None = None
    before: Scorer | None = None
    weights: dict[int, WeightsReport] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    head_seconds: float = 0.0


def gather(learner: Learner, target: Target) -> Evidence:
    """Read what the check needs, before it is deleted."""
    store = learner.store
    found = Evidence(_needles(store, target), is_of_class=target.kind == "class")
    readable = set(store.names) - set(store.lost_classes())
    if target.kind == "class" and target.uid in readable:
        found.forgotten = store.class_rows(target.uid)
        found.before = learner.head.scorer(store.names)
        held = store.rows(Role.HELD_OUT)
        found.unseen = held.x[held.classes == target.uid]
    return found


def check(home: Home, learner: Learner, evidence: Evidence) -> list[str]:
    """Audit what is served and search the files; notes the metrics in the evidence.

    Returns:
        One line for every gate that was missed and every trace that was found.
    """
    store = learner.store
    faults = [fault for report in evidence.weights.values() for fault in report.faults()]
    empty = np.zeros((0, store.num_features), np.float16)
    done: Audit = audit(
        home.config.head,
        store,
        learner.head.scorer(store.names),
        store.names,
        empty if evidence.forgotten is None else evidence.forgotten,
        statistic=store.statistic,
        before=evidence.before,
    )
    faults += done.faults
    of_class = evidence.is_of_class
    kept = {w for w, n in evidence.needles.items() if is_held(store, n, of_class=of_class)}
    but_not = ("engine", "edgecl.toml")
    found = find_bytes(home.path, evidence.needles, but_not=but_not)
    for what, files in found.items():
        if what not in kept:
            faults.append(f"bytes of the {what} are still in {', '.join(files)}")
    mode = {"mode": "approximate" if evidence.weights else "exact"}
    searched = {"searched_for": len(evidence.needles), "found": len(found)}
    evidence.metrics = mode | done.metrics | _collateral(learner, evidence) | searched
    return faults


def _collateral(learner: Learner, evidence: Evidence) -> dict[str, Any]:
    """Return what was done to the other classes, on pictures that nobody learned; {} without."""
    store = learner.store
    held = store.rows(Role.HELD_OUT)
    if evidence.before is None or evidence.unseen is None or not (len(held.x) and store.names):
        return {}
    after, rows = learner.head.scorer(store.names), (held.x, held.classes)
    return collateral(evidence.before, after, store.names, rows, evidence.unseen)


def _needles(store: Store, target: Target) -> dict[str, bytes]:
    """Return byte strings that only the target has: its names, and pieces of its pictures."""
    needles = {}
    for name in target.names if target.kind is not Kind.AGE else ():  # a time, in every receipt
        for form in ("NFC", "NFD"):
            encoded = unicodedata.normalize(form, name).encode("utf-8", "surrogateescape")
            # A word of the schema is in every database file.
            if len(encoded) >= _MIN_NAME_BYTES and encoded not in schema_of(TABLES).encode():
                needles[f"{target.kind} name ({form}, {len(encoded)} bytes)"] = encoded
    for what, forms in traces(store, target.kind, target.uid, _MOST_SLICES):
        for sealed, data in enumerate(forms):
            # Headers and tables are alike in all pictures, and in a small file reach beyond its
            # middle; what is farther back is not, unless the picture is flat.
            piece = data[3 * len(data) // 4 :][:_PICTURE_SLICE]
            if len(set(piece)) >= _PICTURE_SLICE // 2:
                needles[f"{what}{', sealed' if sealed else ''}"] = piece
    return needles
