"""The list of requests in the store: what was asked for and how far it has come."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from edgecl.store.store import Store, dump_json
from edgecl.types import APPROXIMATE, ForgetRequest
from edgecl.unlearning.plan import Target


def record(
    store: Store,
    target: Target,
    request: ForgetRequest,
    *,
    verify: bool,
    weights: str | None = None,
) -> int:
    """Write a request into the store: from here on it will be carried out; returns its number.

    Does not need the home's lock: the process that writes finds it.
    """
    body = {
        "reason": request.reason,
        "adapter_method": request.adapter_method,
        "verify": verify or request.adapter_method in APPROXIMATE,
        # The process that carries it out may stand in another folder.
        "weights": None if weights is None else os.path.abspath(weights),
    }
    # No transaction of the store: the counters that it writes are those of the process that learns.
    with store.errors():
        row = store.connection.execute(
            "SELECT number, body FROM requests "
            "WHERE kind = ? AND target = ? AND phase = 'PENDING' ORDER BY number",
            (target.kind, target.uid),
        ).fetchone()
        if row is not None:  # two who ask for the same get one receipt
            if body["verify"]:
                store.connection.execute(
                    "UPDATE requests SET body = ? WHERE number = ? AND phase = 'PENDING'",
                    (dump_json(json.loads(row[1]) | {"verify": True}), row[0]),
                )
            return int(row[0])
        return insert(store, target.kind, target.uid, body)


def insert(store: Store, kind: str, uid: int, body: dict[str, Any]) -> int:
    """Add a request in the phase PENDING; returns its number."""
    cursor = store.connection.execute(
        "INSERT INTO requests(kind, target, phase, created, body) VALUES (?, ?, 'PENDING', ?, ?)",
        (kind, uid, time.time(), dump_json(body)),
    )
    return int(cursor.lastrowid or 0)


def advance(store: Store, number: int, phase: str, body: dict[str, Any]) -> None:
    """Note the phase that a request has reached; inside the transaction of that phase."""
    store.connection.execute(
        "UPDATE requests SET phase = ?, body = ? WHERE number = ?", (phase, dump_json(body), number)
    )


def withdraw(store: Store, number: int, *, phase: str | None = None) -> None:
    """Take a request off the list; with a phase, only while it is in that one."""
    store.connection.execute(
        "DELETE FROM requests WHERE number = ? AND phase = coalesce(?, phase)", (number, phase)
    )


def created(store: Store, number: int) -> float:
    """Return when a request was made, seconds since the epoch."""
    (created,) = store.connection.execute(
        "SELECT created FROM requests WHERE number = ?", (number,)
    ).fetchone()
    return float(created)
