"""The list of requests in the store: what was asked for and how far it has come."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from edgecl.store.adapters import adapter_rows
from edgecl.store.erasure import is_there
from edgecl.store.store import Store
from edgecl.store.text import dump_json
from edgecl.types import APPROXIMATE, ForgetRequest, Kind, Receipt

PENDING, STORE = "PENDING", "STORE"


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is on the list: what was asked for, by uid.

    Args:
        number: Its number.
        kind: Class, sample or source.
        uid: Of what is to be unlearned.
        phase: `PENDING` until its store has committed, then `STORE`.
        created: When it was made, seconds since the epoch.
        reason: For the receipt.
        adapter_method: What happens to adapters that saw it.
        verify: Whether the result is audited.
        weights: The file that the backbone was made from, if it was a file.
        again: The receipt of what an older store brought back, or None.
        receipt: Its own receipt, from the phase `STORE` on.
    """

    number: int
    kind: Kind
    uid: int
    phase: str
    created: float
    reason: str
    adapter_method: str
    verify: bool
    weights: str | None = None
    again: str | None = None
    receipt: str | None = None

    @property
    def is_approximate(self) -> bool:
        """Whether adapters that saw it are to be changed in place."""
        return self.adapter_method in APPROXIMATE


class _Target(Protocol):
    """What is asked for: edgecl/unlearning/plan.py knows more of it."""

    @property
    def kind(self) -> Kind: ...
    @property
    def uid(self) -> int: ...


_COLUMNS = "number, kind, target, phase, created, body"


def open_requests(store: Store) -> list[Request]:
    """Return the requests on the list, oldest first."""
    rows = store.connection.execute(f"SELECT {_COLUMNS} FROM requests ORDER BY number").fetchall()
    return [
        Request(number, Kind(kind), uid, phase, created, **json.loads(body))
        for number, kind, uid, phase, created, body in rows
    ]


def request_of(store: Store, number: int) -> Request | None:
    """Return one request, or None when it is not on the list any more."""
    return next((request for request in open_requests(store) if request.number == number), None)


def record(
    store: Store,
    target: _Target,
    request: ForgetRequest,
    *,
    verify: bool,
    weights: str | None = None,
) -> int:
    """Write a request into the store: from here on it will be carried out; returns its number.

    Does not need the home's lock: the process that writes finds it.
    """
    is_checked = verify or request.adapter_method in APPROXIMATE
    # No transaction of the store: the counters that it writes are those of the process that learns.
    with store.errors():
        for other in open_requests(store):
            if (other.kind, other.uid, other.phase) == (target.kind, target.uid, PENDING):
                # Two who ask for the same get one receipt.
                if is_checked and not other.verify:
                    store.connection.execute(
                        "UPDATE requests SET body = ? WHERE number = ? AND phase = ?",
                        (_body(replace(other, verify=True)), other.number, PENDING),
                    )
                return other.number
        return _insert(
            store,
            Request(
                0,
                target.kind,
                target.uid,
                PENDING,
                time.time(),
                request.reason,
                request.adapter_method,
                is_checked,
                # The process that carries it out may stand in another folder.
                None if weights is None else os.path.abspath(weights),
            ),
        )


def ask_again(store: Store, lost: Iterable[Receipt]) -> None:
    """Record anew what lost receipts had unlearned and this older store still holds."""
    for receipt in lost:
        body = receipt.body
        for kind, uid in {(Kind(kind), uid) for kind, uid, _ in body.get("tombstones", ())}:
            # Of a class perhaps only an adapter that saw it is left.
            if is_there(store, kind, uid) or (kind is Kind.CLASS and _saw(store, uid)):
                again = Request(
                    0, kind, uid, PENDING, time.time(), body["reason"], "drop", verify=False,
                    again=receipt.receipt_id,
                )  # fmt: skip
                _insert(store, again)


def advance(store: Store, request: Request, **changes: Any) -> None:
    """Note how far a request has come; inside the transaction of that phase.

    Args:
        store: The store.
        request: The request.
        changes: Fields that have other values from now on.
    """
    now = replace(request, **changes)
    store.connection.execute(
        "UPDATE requests SET phase = ?, body = ? WHERE number = ?",
        (now.phase, _body(now), now.number),
    )


def withdraw(store: Store, number: int, *, phase: str | None = None) -> None:
    """Take a request off the list; with a phase, only while it is in that one."""
    store.connection.execute(
        "DELETE FROM requests WHERE number = ? AND phase = coalesce(?, phase)", (number, phase)
    )


def _saw(store: Store, class_uid: int) -> bool:
    return any(class_uid in row.saw for row in adapter_rows(store))


def _insert(store: Store, request: Request) -> int:
    cursor = store.connection.execute(
        "INSERT INTO requests(kind, target, phase, created, body) VALUES (?, ?, ?, ?, ?)",
        (request.kind, request.uid, request.phase, request.created, _body(request)),
    )
    return int(cursor.lastrowid or 0)


def _body(request: Request) -> str:
    """Return what stands in no column of its own, JSON."""
    body = {
        "reason": request.reason,
        "adapter_method": request.adapter_method,
        "verify": request.verify,
        "weights": request.weights,
    }
    later = {"again": request.again, "receipt": request.receipt}
    return dump_json(body | {name: value for name, value in later.items() if value is not None})
