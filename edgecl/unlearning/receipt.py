"""Receipts: an append-only chain in the store, and the tombstones of unlearned classes.

Every entry's digest covers the entry before it, so a changed, removed or reordered receipt is found
and named. An entry holds no class name, no picture and no feature; a tombstone is a keyed hash.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from edgecl.errors import IntegrityError, RequestError
from edgecl.home import Home
from edgecl.replay.store import Store, dump_json
from edgecl.types import Receipt

_START = "0" * 64


def append_receipt(store: Store, body: dict[str, Any]) -> Receipt:
    """Add an entry to the chain; inside a transaction."""
    row = store.connection.execute(
        "SELECT digest FROM receipts ORDER BY number DESC LIMIT 1"
    ).fetchone()
    previous = row[0] if row else _START
    digest = _digest(previous, dump_json(body))
    number = store.connection.execute(
        "INSERT INTO receipts(body, previous, digest) VALUES (?, ?, ?)",
        (dump_json(body), previous, digest),
    ).lastrowid
    return Receipt(f"r{number}", body, previous, digest)


def all_receipts(store: Store) -> list[Receipt]:
    """Return the whole chain, oldest first, after checking it.

    Raises:
        IntegrityError: An entry was changed, removed or moved; the message names it.
    """
    receipts: list[Receipt] = []
    previous, expected = _START, 1
    for number, body, before, digest in store.connection.execute(
        "SELECT number, body, previous, digest FROM receipts ORDER BY number"
    ):
        if number != expected:
            raise IntegrityError(f"receipt r{expected} is missing from the chain")
        if before != previous or digest != _digest(previous, body):
            raise IntegrityError(
                f"receipt r{number} does not fit the chain: it, or the one before it, was changed"
            )
        receipts.append(Receipt(f"r{number}", json.loads(body), before, digest))
        previous, expected = digest, number + 1
    row = store.connection.execute(
        "SELECT seq FROM sqlite_sequence WHERE name = 'receipts'"
    ).fetchone()
    if row is not None and row[0] >= expected:
        raise IntegrityError(f"receipt r{expected} is missing from the end of the chain")
    return receipts


def open_erasures(receipts: list[Receipt]) -> list[Receipt]:
    """Return the unlearnings whose physical erasure is not confirmed yet."""
    done = {r.body["of"] for r in receipts if r.body["kind"] == "erasure" and not r.body["busy"]}
    return [r for r in receipts if r.body["kind"] == "forget" and r.receipt_id not in done]


def receipt_by_id(store: Store, receipt_id: str) -> Receipt:
    """Return one receipt of the checked chain.

    Raises:
        RequestError: There is none of this name.
    """
    receipts = all_receipts(store)
    for receipt in receipts:
        if receipt.receipt_id == receipt_id:
            return receipt
    known = ", ".join(r.receipt_id for r in receipts[-5:]) or "there is none yet"
    raise RequestError(f"receipt {receipt_id!r} is unknown; newest: {known}")


def add_tombstone(home: Home, store: Store, class_uid: int, name: str, receipt_id: str) -> None:
    """Remember that a class was unlearned, by a keyed hash of its name."""
    store.connection.execute(
        "INSERT INTO tombstones(class_uid, tag, receipt_id) VALUES (?, ?, ?)",
        (class_uid, tombstone_tag(home, name), receipt_id),
    )


def find_tombstone(home: Home, store: Store, name: str) -> str | None:
    """Return the receipt under which a class of this name was unlearned, or None."""
    row = store.connection.execute(
        "SELECT receipt_id FROM tombstones WHERE tag = ? ORDER BY class_uid DESC LIMIT 1",
        (tombstone_tag(home, name),),
    ).fetchone()
    return None if row is None else str(row[0])


def tombstone_tag(home: Home, name: str) -> str:
    """Return the keyed hash that stands for a class name, hex."""
    return hmac.new(home.key, f"class\0{name}".encode(), hashlib.sha256).hexdigest()


def _digest(previous: str, body: str) -> str:
    return hashlib.sha256(f"{previous}\n{body}".encode()).hexdigest()
