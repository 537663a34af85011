"""Rows of the chain of receipts and of tombstones; what they say is edgecl/unlearning/receipt.py's.

A tombstone stands for something that was unlearned: its kind, its uid, a keyed hash of its name,
and the receipt.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from edgecl.store.store import Store
from edgecl.types import Kind

Tombstone = tuple[str, int, str]


class Row(NamedTuple):
    """A receipt as it is kept.

    Args:
        number: Its number, from 1 on.
        body: Its text, JSON.
        previous: Digest of the one before it.
        digest: Its own.
        signature: Over that.
    """

    number: int
    body: str
    previous: str
    digest: str
    signature: str


def receipt_rows(store: Store, *, after: int = 0) -> list[Row]:
    """Return the receipts behind a number, oldest first, unchecked."""
    rows = store.connection.execute(
        "SELECT number, body, previous, digest, signature FROM receipts WHERE number > ? "
        "ORDER BY number",
        (after,),
    )
    return [Row(*row) for row in rows]


def newest_digest(store: Store) -> str | None:
    """Return the digest of the newest receipt, None if there is none."""
    row = store.connection.execute(
        "SELECT digest FROM receipts ORDER BY number DESC LIMIT 1"
    ).fetchone()
    return None if row is None else str(row[0])


def n_given(store: Store) -> int:
    """Return the highest number that a receipt ever had, whether or not it is still there."""
    row = store.connection.execute(
        "SELECT seq FROM sqlite_sequence WHERE name = 'receipts'"
    ).fetchone()
    return 0 if row is None else int(row[0])


def add_receipt(
    store: Store,
    body: str,
    previous: str,
    digest: str,
    signature: str,
    *,
    number: int | None = None,
) -> int:
    """Write a receipt, inside a transaction; returns its number, the next one if none is given."""
    cursor = store.connection.execute(
        "INSERT INTO receipts(number, body, previous, digest, signature) VALUES (?, ?, ?, ?, ?)",
        (number, body, previous, digest, signature),
    )
    return int(cursor.lastrowid or 0)


def add_tombstones(store: Store, tombstones: Iterable[Tombstone], receipt_id: str) -> None:
    """Remember that something was unlearned, by keyed hashes of its names; in a transaction."""
    store.connection.executemany(
        "INSERT OR REPLACE INTO tombstones VALUES (?, ?, ?, ?)",
        [(*tombstone, receipt_id) for tombstone in tombstones],
    )


def move_tombstones(store: Store, kind: Kind, uid: int, receipt_id: str) -> None:
    """Put what was unlearned once more under its new receipt; in a transaction."""
    store.connection.execute(
        "UPDATE tombstones SET receipt_id = ? WHERE kind = ? AND target = ?",
        (receipt_id, kind, uid),
    )


def tombstone_with(store: Store, tag: str) -> tuple[int, str] | None:
    """Return uid and receipt of the last unlearning of what had a name of this hash, or None."""
    row = store.connection.execute(
        "SELECT target, receipt_id FROM tombstones WHERE tag = ? ORDER BY target DESC LIMIT 1",
        (tag,),
    ).fetchone()
    return None if row is None else (int(row[0]), str(row[1]))


def receipt_for(store: Store, kind: str, uid: int) -> str | None:
    """Return the receipt under which what has this uid was unlearned, or None."""
    row = store.connection.execute(
        "SELECT receipt_id FROM tombstones WHERE kind = ? AND target = ?", (kind, uid)
    ).fetchone()
    return None if row is None else str(row[0])
