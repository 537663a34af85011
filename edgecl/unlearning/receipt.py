"""Receipts: an append-only, signed chain in the store, and the tombstones of what was unlearned.

Every entry's digest covers the entry before it and is signed with the device's key, so a changed,
removed, reordered or invented receipt is found and named. An entry holds no class name, no picture
and no feature; a tombstone is a keyed hash.

The signing key (Ed25519) is derived from the device key, which `edgecl init` draws; whoever holds
the public key can check receipts without the device.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edgecl.errors import IntegrityError, RequestError
from edgecl.home import Home
from edgecl.store.ledger import Entry, append_ledger, read_ledger
from edgecl.store.store import Store, dump_json
from edgecl.types import Receipt

_START = "0" * 64
TABLE_OF = {"class": "classes", "sample": "samples", "source": "sources"}
"""Table of what a tombstone or request names by uid, by its kind."""
# Receipts that one request commits before the ledger is brought up (EXPORT and VERIFIED).
_MOST_BEHIND = 2


def append_receipt(home: Home, store: Store, body: dict[str, Any]) -> Receipt:
    """Add an entry to the chain; inside a transaction."""
    row = store.connection.execute(
        "SELECT digest FROM receipts ORDER BY number DESC LIMIT 1"
    ).fetchone()
    previous = row[0] if row else _START
    digest = _digest(previous, dump_json(body))
    signature = _key(home).sign(digest.encode()).hex()
    number = store.connection.execute(
        "INSERT INTO receipts(body, previous, digest, signature) VALUES (?, ?, ?, ?)",
        (dump_json(body), previous, digest, signature),
    ).lastrowid
    return Receipt(f"r{number}", body, previous, digest, signature)


def all_receipts(home: Home, store: Store) -> list[Receipt]:
    """Return the whole chain, oldest first, after checking it, its signatures and the ledger.

    Raises:
        IntegrityError: An entry was changed, removed, moved or invented; the message names it.
    """
    entries = _entries(store)
    receipts = _checked(home, entries, "the chain")
    row = store.connection.execute(
        "SELECT seq FROM sqlite_sequence WHERE name = 'receipts'"
    ).fetchone()
    if row is not None and row[0] > len(receipts):
        raise IntegrityError(f"receipt r{len(receipts) + 1} is missing from the end of the chain")
    _check_alike(home, entries, read_ledger(home.ledger))
    return receipts


def check_ledger(home: Home, store: Store) -> list[Entry]:
    """Compare the chain with the ledger; returns the receipts that the store lacks.

    Those that the ledger lacks, from a crash between the two writes, are appended to it. Receipts
    from before they were signed are signed, once: when none is, and there is no ledger yet.

    Raises:
        IntegrityError: One of the two was changed; the message names the receipt.
    """
    entries = _entries(store)
    known = read_ledger(home.ledger)
    if not known and entries and not any(entry["signature"] for entry in entries):
        key = _key(home)
        with store.transaction(changes_head=False):
            for entry in entries:
                entry["signature"] = key.sign(entry["digest"].encode()).hex()
                store.connection.execute(
                    "UPDATE receipts SET signature = ? WHERE number = ?",
                    (entry["signature"], entry["number"]),
                )
    _checked(home, entries, "the chain")
    _check_alike(home, entries, known)
    if len(entries) > len(known):
        append_ledger(home.ledger, entries[len(known) :])
    return known[len(entries) :]


def inspect_ledger(home: Home, store: Store) -> None:
    """Check the ledger against the chain and write nothing.

    Raises:
        IntegrityError: It lacks more receipts than a process that died between its two writes
            leaves, or was changed.
    """
    entries, known = _entries(store), read_ledger(home.ledger)
    if len(entries) - len(known) > _MOST_BEHIND:
        raise IntegrityError(
            f"{home.ledger} lacks receipts from r{len(known) + 1} on, so an older copy of the "
            "store would not be noticed; run `edgecl forget pending`, which writes them anew"
        )
    _check_alike(home, entries, known)


def take_over(store: Store, entries: list[Entry]) -> None:
    """Write receipts of the ledger that the store lacks, with their tombstones; in a transaction.

    Uids that they name are never given to anything else.
    """
    for entry in entries:
        store.connection.execute(
            "INSERT INTO receipts(number, body, previous, digest, signature) "
            "VALUES (?, ?, ?, ?, ?)",
            (
                entry["number"],
                dump_json(entry["body"]),
                entry["previous"],
                entry["digest"],
                entry["signature"],
            ),
        )
        for kind, target, tag in entry["body"].get("tombstones", ()):
            _add_tombstone(store, kind, target, tag, f"r{entry['number']}")
            store.keep_clear(TABLE_OF[kind], target)
        store.keep_clear("requests", entry["body"].get("request", 0))


def receipt_by_id(home: Home, store: Store, receipt_id: str) -> Receipt:
    """Return one receipt of the checked chain.

    Raises:
        RequestError: There is none of this name.
    """
    receipts = all_receipts(home, store)
    for receipt in receipts:
        if receipt.receipt_id == receipt_id:
            return receipt
    known = ", ".join(r.receipt_id for r in receipts[-5:]) or "there is none yet"
    raise RequestError(f"receipt {receipt_id!r} is unknown; newest: {known}")


def public_key(home: Home) -> str:
    """Return the key that checks this device's signatures, Ed25519, hex."""
    return _key(home).public_key().public_bytes_raw().hex()


@lru_cache(maxsize=2**15)
def is_signed(public: str, digest: str, signature: str) -> bool:
    """Whether a signature over a receipt's digest is that of a public key."""
    # A command reads the chain several times, and a signature takes longer than all the rest.
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), digest.encode())
    except (InvalidSignature, ValueError):
        return False
    return True


def add_tombstones(
    home: Home, store: Store, kind: str, target: int, names: tuple[str, ...], receipt_id: str
) -> None:
    """Remember that something was unlearned, by keyed hashes of its names; in a transaction."""
    if not names:
        # Unlearned once more, exactly now; its names are known from the first time.
        store.connection.execute(
            "UPDATE tombstones SET receipt_id = ? WHERE kind = ? AND target = ?",
            (receipt_id, kind, target),
        )
    for name in names:
        _add_tombstone(store, kind, target, tombstone_tag(home, kind, name), receipt_id)


def find_tombstone(home: Home, store: Store, kind: str, name: str) -> tuple[int, str] | None:
    """Return uid and receipt of the last unlearning of what had this name, or None."""
    row = store.connection.execute(
        "SELECT target, receipt_id FROM tombstones WHERE tag = ? ORDER BY target DESC LIMIT 1",
        (tombstone_tag(home, kind, name),),
    ).fetchone()
    return None if row is None else (int(row[0]), str(row[1]))


def receipt_for(store: Store, kind: str, uid: int) -> str | None:
    """Return the receipt under which what has this uid was unlearned, or None."""
    row = store.connection.execute(
        "SELECT receipt_id FROM tombstones WHERE kind = ? AND target = ?", (kind, uid)
    ).fetchone()
    return None if row is None else str(row[0])


def tombstone_tag(home: Home, kind: str, name: str) -> str:
    """Return the keyed hash that stands for a name, hex."""
    text = f"{kind}\0{name}".encode("utf-8", "surrogateescape")
    return hmac.new(home.key, text, hashlib.sha256).hexdigest()


def _add_tombstone(store: Store, kind: str, target: int, tag: str, receipt_id: str) -> None:
    store.connection.execute(
        "INSERT OR REPLACE INTO tombstones VALUES (?, ?, ?, ?)", (kind, target, tag, receipt_id)
    )


def _entries(store: Store) -> list[Entry]:
    """Return the rows of the chain, unchecked."""
    rows = store.connection.execute(
        "SELECT number, body, previous, digest, signature FROM receipts ORDER BY number"
    )
    keys = ("number", "text", "previous", "digest", "signature")
    entries = [dict(zip(keys, row, strict=True)) for row in rows]
    for entry in entries:
        entry["body"] = _parsed(entry)
    return entries


def _parsed(entry: Entry) -> Any:
    text = entry.pop("text")
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if body is None or dump_json(body) != text:
        raise IntegrityError(
            f"receipt r{entry['number']} does not fit the chain: its text was changed"
        )
    return body


def _check_alike(home: Home, entries: list[Entry], known: list[Entry]) -> None:
    """Check the entries of the ledger, and that they are the first of the chain."""
    _checked(home, known, str(home.ledger))
    for ours, theirs in zip(entries, known, strict=False):
        if ours["digest"] != theirs["digest"]:
            raise IntegrityError(
                f"receipt r{ours['number']} of the store is not that of {home.ledger}; restore the "
                "home as a whole from a backup"
            )


def _checked(home: Home, entries: list[Entry], where: str) -> list[Receipt]:
    """Return entries as receipts when numbers, digests and signatures fit."""
    public = public_key(home) if entries else ""
    receipts: list[Receipt] = []
    previous = _START
    for expected, entry in enumerate(entries, 1):
        if entry["number"] != expected:
            raise IntegrityError(f"receipt r{expected} is missing from {where}")
        receipt = Receipt(
            f"r{expected}", entry["body"], entry["previous"], entry["digest"], entry["signature"]
        )
        if receipt.previous != previous or receipt.digest != _digest(
            previous, dump_json(receipt.body)
        ):
            raise IntegrityError(
                f"receipt r{expected} does not fit {where}: it, or the one before it, was changed"
            )
        if not is_signed(public, receipt.digest, receipt.signature):
            raise IntegrityError(
                f"the signature of receipt r{expected} in {where} is not that of this device: it "
                "was changed, or the device key was"
            )
        receipts.append(receipt)
        previous = receipt.digest
    return receipts


def _key(home: Home) -> Ed25519PrivateKey:
    seed = hmac.new(home.key, b"receipts, ed25519", hashlib.sha256).digest()
    return Ed25519PrivateKey.from_private_bytes(seed)


def _digest(previous: str, body: str) -> str:
    return hashlib.sha256(f"{previous}\n{body}".encode()).hexdigest()
