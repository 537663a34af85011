"""Receipts checked without a device: from a file, with the public key.

The file has lines as the ledger does (docs/unlearning.md says them to the byte): all of
`receipts.jsonl`, or those of one request, as `edgecl receipt ID --output FILE.jsonl` writes them;
or it is what `edgecl receipt ID --json` printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edgecl.errors import IntegrityError, UsageError
from edgecl.runtime.files import loads
from edgecl.types import Receipt
from edgecl.unlearning.chain import START, has_its_digest, is_signed_by, of_line

_MOST_BYTES = 2**30
_LINE = {"number": int, "body": dict, "previous": str, "digest": str, "signature": str}


@dataclass(frozen=True, slots=True)
class Checked:
    """Receipts whose digests and signatures are right.

    Args:
        receipts: In their order.
        gaps: Receipts before which others are missing from the file, so that nothing says what
            came between; the first one too, unless it begins the chain.
    """

    receipts: tuple[Receipt, ...]
    gaps: tuple[str, ...]


def check_file(path: Path, key: str) -> Checked:
    """Check every receipt of a file: digest, signature, and that each follows the one before it.

    Args:
        path: The file.
        key: The device's public key, 64 hex digits, or a file that holds them.

    Raises:
        UsageError: The key is none, or the file cannot be read or holds no receipt.
        IntegrityError: A receipt was changed, moved or invented, or the key is another device's;
            the message names it.
    """
    public = _public_key(key)
    receipts = _read(path)
    gaps: list[str] = []
    before: tuple[int, str] | None = None
    for receipt in receipts:
        number = int(receipt.receipt_id[1:])
        if before is not None and number <= before[0]:
            raise IntegrityError(f"receipt {receipt.receipt_id} of {path} is not in its place")
        if not has_its_digest(receipt):
            raise IntegrityError(
                f"receipt {receipt.receipt_id} of {path} was changed: its digest is another's"
            )
        if not is_signed_by(receipt, public):
            raise IntegrityError(
                f"the signature of receipt {receipt.receipt_id} of {path} is not of the key "
                f"{public.public_bytes_raw().hex()[:16]}...: it was changed, or it is another "
                "device's"
            )
        previous = START if number == 1 else None
        if before is not None:
            previous = before[1] if number == before[0] + 1 else None
        if previous is None:
            gaps.append(receipt.receipt_id)
        elif receipt.previous != previous:
            raise IntegrityError(
                f"receipt {receipt.receipt_id} of {path} does not follow the one before it: one of "
                "them is of another chain"
            )
        before = (number, receipt.digest)
    return Checked(tuple(receipts), tuple(gaps))


def _public_key(key: str) -> Ed25519PublicKey:
    text = key.strip()
    try:
        if len(text) != 64 and Path(text).is_file():
            with open(text, "rb") as file:
                text = file.read(200).decode("ascii").strip()
        data = bytes.fromhex(text)
        if len(data) != 32:
            raise ValueError
        return Ed25519PublicKey.from_public_bytes(data)
    except (OSError, ValueError):
        raise UsageError(
            f"{key[:80]!r} is no public key; expected 64 hex digits, as `edgecl receipts` prints "
            "them, or a file that holds them"
        ) from None


def _read(path: Path) -> list[Receipt]:
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}); name a file of receipts"
        ) from error
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{path} has more than {_MOST_BYTES} bytes; that is no file of receipts")
    lines: list[Any] = []
    try:
        for line in data.splitlines():
            if line.strip():
                lines.append(loads(line))
    except ValueError as error:
        raise UsageError(
            f"{path} holds no receipts ({error}); expected lines as `edgecl receipt ID --output "
            "FILE.jsonl` writes them"
        ) from None
    if len(lines) == 1 and isinstance(lines[0], dict) and isinstance(lines[0].get("entries"), list):
        lines = lines[0]["entries"]
    for number, line in enumerate(lines, 1):
        if not isinstance(line, dict) or any(
            type(line.get(name)) is not kind for name, kind in _LINE.items()
        ):
            raise UsageError(
                f"entry {number} of {path} is no receipt; expected {', '.join(_LINE)} in it"
            )
    if not lines:
        raise UsageError(f"{path} holds no receipt")
    return [of_line({name: line[name] for name in _LINE}) for line in lines]
