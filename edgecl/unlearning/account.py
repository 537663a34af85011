"""Receipts as requests: what was asked, with all entries of the chain that tell of it.

The chain numbers its entries. An unlearning is one of them, and so are the erasure of the files
behind it and the check; a refusal and a rollback are entries too, but no receipts. Here a request
has one number, that of its first entry, and one state.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgecl.types import Kind, Receipt
from edgecl.unlearning.receipt import Erased, Forgotten, Refused, RolledBack, Verified


@dataclass(frozen=True, slots=True)
class Account:
    """One request that was carried out.

    Args:
        receipt: Its receipt, with whose number all of it is named.
        entry: What that says.
        erasures: What became of the files; more than one when a reader was in the way at first.
        check: What the check found, None when none was asked for.
        entries: All entries of the chain that tell of it, oldest first.
    """

    receipt: Receipt
    entry: Forgotten
    erasures: tuple[Erased, ...]
    check: Verified | None
    entries: tuple[Receipt, ...]

    @property
    def receipt_id(self) -> str:
        """The number under which all of it is named."""
        return self.receipt.receipt_id

    @property
    def is_erased(self) -> bool:
        """Whether the files of the home were rewritten without it."""
        return bool(self.erasures) and not self.erasures[-1].busy

    @property
    def has_failed(self) -> bool:
        """Whether a check found something."""
        return self.check is not None and bool(self.check.faults)

    @property
    def exports(self) -> dict[str, str]:
        """What became of each export that held it, by its number.

        A folder is `erased` or `unreachable`, a broker `republished` or `unreached`.
        """
        found: dict[str, str] = {}
        for erased in self.erasures:
            found |= erased.exports
        return found

    @property
    def checked(self) -> str:
        """What the check found, in a word or two."""
        if self.check is None:
            return "not asked for"
        return self.check.status.replace("_", " ")

    def as_json(self) -> dict[str, Any]:
        """Return it as `edgecl receipts --json` lists it."""
        entry = self.entry
        return {
            "receipt_id": self.receipt_id,
            "request": entry.request,
            "requested": entry.requested,
            "done": entry.time,
            "what": entry.what,
            "uid": entry.uid,
            "mode": entry.mode,
            "reason": entry.reason,
            "erasure": "done" if self.is_erased else "pending",
            "check": self.checked,
            "entries": [receipt.receipt_id for receipt in self.entries],
        }


def accounts_of(receipts: Sequence[Receipt]) -> list[Account]:
    """Return the requests that entries of a chain tell of, oldest first."""
    found = []
    for receipt in receipts:
        if receipt.body.get("kind") != Forgotten.kind:
            continue
        of = [r for r in receipts if r.body.get("of") == receipt.receipt_id]
        checks = [Verified.from_json(r.body) for r in of if r.body["kind"] == Verified.kind]
        found.append(
            Account(
                receipt,
                Forgotten.from_json(receipt.body),
                tuple(Erased.from_json(r.body) for r in of if r.body["kind"] == Erased.kind),
                checks[-1] if checks else None,
                (receipt, *of),
            )
        )
    return found


def account_with(receipts: Sequence[Receipt], receipt_id: str) -> Account | None:
    """Return the request that an entry tells of; None for a refusal, a rollback or no entry."""
    for account in accounts_of(receipts):
        if any(entry.receipt_id == receipt_id for entry in account.entries):
            return account
    return None


def log_of(receipts: Iterable[Receipt]) -> list[dict[str, Any]]:
    """Return the entries that are no receipts: refused requests, rollbacks and others."""
    log = []
    for receipt in receipts:
        kind, body = receipt.body.get("kind"), receipt.body
        if kind == Refused.kind:
            what = f"a request was refused: {body['why']}"
        elif kind == RolledBack.kind:
            what = f"rolled back to snapshot s{body['snapshot']}"
        elif kind == Forgotten.kind or "of" in body:
            continue  # a receipt, or a part of one
        else:
            what = " ".join(str(body[key]) for key in ("kind", "how") if key in body)
        log.append({"entry": receipt.receipt_id, "time": body.get("time", 0), "what": what})
    return log


def subject_of(entry: Forgotten) -> str:
    """Return what was unlearned, as people read it; never a name."""
    if entry.what is Kind.AGE:
        return f"what was older than {moment(entry.uid)}"
    return f"{entry.what} {entry.uid}"


def moment(seconds: float) -> str:
    """Return a time as receipts write it for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
