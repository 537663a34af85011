"""The chain of receipts: append-only and signed, in the store and once more in the ledger.

Every entry's digest covers the entry before it and is signed with the device's key, so a changed,
removed, reordered or invented receipt is found and named. The signing key (Ed25519) is derived from
the device key, which `edgecl init` draws; whoever holds the public key can check receipts without
the device.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Iterator, Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from edgecl.errors import IntegrityError, RequestError
from edgecl.home import Home
from edgecl.store import ledger
from edgecl.store.receipts import (
    add_receipt,
    add_tombstones,
    n_given,
    newest_digest,
    receipt_rows,
)
from edgecl.store.store import Store
from edgecl.store.text import dump_json
from edgecl.types import Kind, Receipt
from edgecl.unlearning.receipt import E, Entry

START = "0" * 64
"""What stands for the digest before the first entry."""
# Receipts that one request commits before the ledger is brought up (EXPORT and VERIFIED).
_MOST_BEHIND = 2


class Chain:
    """All receipts of a home: checked when it is opened, extended by `append` and `settle`.

    Args:
        home: The home.
        store: Its open store.

    Raises:
        IntegrityError: An entry, of the store or of the ledger, was changed, removed, moved or
            invented; the message names it.
    """

    def __init__(self, home: Home, store: Store) -> None:
        self.home, self.store = home, store
        self._key = signing_key(home)
        self._public = self._key.public_key()
        # Read first: another process may add a receipt meanwhile, and none goes.
        n_ever = n_given(store)
        self._receipts = self._checked(_rows(store), [], "the chain")
        if n_ever > len(self._receipts):
            raise IntegrityError(
                f"receipt r{len(self._receipts) + 1} is missing from the end of the chain"
            )
        known = [of_line(entry) for entry in ledger.read_ledger(home.ledger)]
        self.lost = self._beyond(known)
        self._n_in_ledger = len(known)

    @property
    def receipts(self) -> Sequence[Receipt]:
        """The whole chain, oldest first."""
        return self._receipts

    @property
    def public_key(self) -> str:
        """The key that checks this device's signatures, Ed25519, hex."""
        return self._public.public_bytes_raw().hex()

    def of(self, kind: type[E]) -> Iterator[tuple[Receipt, E]]:
        """Go through the receipts of a kind, oldest first, with what they say."""
        for receipt in self._receipts:
            if receipt.body["kind"] == kind.kind:
                yield receipt, kind.from_json(receipt.body)

    def find(self, receipt_id: str) -> Receipt:
        """Return one receipt.

        Raises:
            RequestError: There is none of this name.
        """
        for receipt in self._receipts:
            if receipt.receipt_id == receipt_id:
                return receipt
        known = ", ".join(r.receipt_id for r in self._receipts[-5:]) or "there is none yet"
        raise RequestError(f"receipt {receipt_id!r} is unknown; newest: {known}")

    def append(self, entry: Entry) -> str:
        """Add an entry, inside a transaction; `settle` after it. Returns the receipt's id."""
        previous, body = newest_digest(self.store) or START, dump_json(entry.as_json())
        digest = digest_of(previous, body)
        signature = self._key.sign(digest.encode()).hex()
        return f"r{add_receipt(self.store, body, previous, digest, signature)}"

    def settle(self) -> None:
        """Take in what was committed since the opening, and bring the ledger up to it.

        What a process that died between its two writes left out of the ledger is written, too.
        """
        new = _rows(self.store, after=len(self._receipts))
        self._receipts += self._checked(new, self._receipts, "the chain")
        last = ledger.last_entry(self.home.ledger)
        missing = self._receipts[last["number"] if last else 0 :]
        if missing:
            ledger.append_ledger(self.home.ledger, map(line_of, missing))

    def take_over(self) -> list[Receipt]:
        """Write the receipts that an older copy of the store lacks, with their tombstones.

        In a transaction. Uids that they name are never given to anything else.
        """
        lost, self.lost = self.lost, []
        for receipt in lost:
            number, body = line_of(receipt)["number"], receipt.body
            add_receipt(
                self.store,
                dump_json(body),
                receipt.previous,
                receipt.digest,
                receipt.signature,
                number=number,
            )
            tombstones = [(Kind(kind), uid, tag) for kind, uid, tag in body.get("tombstones", ())]
            add_tombstones(self.store, tombstones, receipt.receipt_id)
            for kind, uid, _ in tombstones:
                if kind is not Kind.AGE:  # whose uid is a time
                    self.store.keep_clear(kind.table, uid)
            self.store.keep_clear("requests", body.get("request", 0))
        return lost

    def check_ledger(self) -> None:
        """Check that the ledger is up to the chain, as the last process that wrote left it.

        Raises:
            IntegrityError: It lacks more receipts than a process that died between its two writes
                leaves.
        """
        if len(self._receipts) - self._n_in_ledger > _MOST_BEHIND:
            raise IntegrityError(
                f"{self.home.ledger} lacks receipts from r{self._n_in_ledger + 1} on, so an older "
                "copy of the store would not be noticed; run `edgecl forget pending`, which writes "
                "them anew"
            )

    def _beyond(self, known: list[Receipt]) -> list[Receipt]:
        """Return the entries of the ledger that the store lacks; the others must be alike."""
        where = str(self.home.ledger)
        both = min(len(known), len(self._receipts))
        if known[:both] != self._receipts[:both]:
            self._checked(known, [], where)  # names the entry if it was the ledger's
            pairs = zip(known, self._receipts, strict=False)
            other = next(ours.receipt_id for theirs, ours in pairs if theirs != ours)
            raise IntegrityError(
                f"receipt {other} of the store is not that of {where}; restore the home as a whole "
                "from a backup"
            )
        return self._checked(known[both:], self._receipts, where)

    def _checked(
        self, found: Iterable[Receipt], before: Sequence[Receipt], where: str
    ) -> list[Receipt]:
        """Return receipts when numbers, digests and signatures go on from those before."""
        previous = before[-1].digest if before else START
        checked: list[Receipt] = []
        for number, receipt in enumerate(found, len(before) + 1):
            name = f"r{number}"
            if receipt.receipt_id != name:
                raise IntegrityError(f"receipt {name} is missing from {where}")
            if receipt.previous != previous or not has_its_digest(receipt):
                raise IntegrityError(
                    f"receipt {name} does not fit {where}: it, or the one before it, was changed"
                )
            if not is_signed_by(receipt, self._public):
                raise IntegrityError(
                    f"the signature of receipt {name} in {where} is not that of this device: it "
                    "was changed, or the device key was"
                )
            checked.append(receipt)
            previous = receipt.digest
        return checked


def _rows(store: Store, *, after: int = 0) -> Iterator[Receipt]:
    """Go through the rows of the chain, unchecked but that their text is as it was written."""
    for number, text, *rest in receipt_rows(store, after=after):
        try:
            body = json.loads(text)
        except ValueError:
            body = None
        if body is None or dump_json(body) != text:
            raise IntegrityError(f"receipt r{number} does not fit the chain: its text was changed")
        yield Receipt(f"r{number}", body, *rest)


def of_line(entry: ledger.Entry) -> Receipt:
    """Return a line of the ledger as a receipt."""
    values = (entry[key] for key in ("body", "previous", "digest", "signature"))
    return Receipt(f"r{entry['number']}", *values)


def line_of(receipt: Receipt) -> ledger.Entry:
    """Return a receipt as a line of the ledger."""
    return {
        "number": int(receipt.receipt_id[1:]),
        "body": receipt.body,
        "previous": receipt.previous,
        "digest": receipt.digest,
        "signature": receipt.signature,
    }


def signing_key(home: Home) -> Ed25519PrivateKey:
    """Return the key with which a home signs what it says."""
    seed = hmac.new(home.key, b"receipts, ed25519", hashlib.sha256).digest()
    return Ed25519PrivateKey.from_private_bytes(seed)


def digest_of(previous: str, body: str) -> str:
    """Return the digest of an entry: of the one before it, and of its body as `dump_json` says."""
    return hashlib.sha256(f"{previous}\n{body}".encode("utf-8", "surrogatepass")).hexdigest()


def has_its_digest(receipt: Receipt) -> bool:
    """Whether a receipt's digest is that of its body and of the digest before it."""
    return receipt.digest == digest_of(receipt.previous, dump_json(receipt.body))


def is_signed_by(receipt: Receipt, public: Ed25519PublicKey) -> bool:
    """Whether a receipt's digest was signed with the key of this public one."""
    try:
        public.verify(bytes.fromhex(receipt.signature), receipt.digest.encode())
    except (InvalidSignature, ValueError, TypeError, AttributeError):
        return False
    return True
