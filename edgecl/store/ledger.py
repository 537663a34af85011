"""The ledger: a copy of all receipts in a file of its own beside the store.

When the store is put back from an older copy, the ledger still knows what was unlearned since. One
line a receipt, appended after the store has committed it. A store that lacks the ledger's last
receipt is an older copy; a ledger that lacks the store's last ones was cut off between the two
writes and is brought up.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgecl.errors import IntegrityError, StoreError
from edgecl.runtime.faults import telling
from edgecl.runtime.files import flush, loads, open_own, read_own
from edgecl.store.store import Store
from edgecl.store.text import dump_json

Entry = dict[str, Any]
_TAIL = 1 << 16
_MOST_BYTES = 2**30


def read_ledger(path: Path) -> list[Entry]:
    """Return the entries of a ledger, oldest first; a half-written last line does not count.

    Raises:
        IntegrityError: A line is damaged; the message names it.
    """
    if not path.exists():
        return []
    lines = read_own(path, _MOST_BYTES).split(b"\n")[:-1]
    return [_entry(path, number, line) for number, line in enumerate(lines, 1)]


def append_ledger(path: Path, entries: Iterable[Entry]) -> None:
    """Append entries and have them written to the disk.

    Raises:
        StoreError: The file cannot be written.
    """
    is_new = not path.exists()
    with (
        telling(f"{path} cannot be written", StoreError),
        open(open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as file,
    ):
        file.truncate(_whole_bytes(path))
        for entry in entries:
            file.write(dump_json(entry).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        flush(path.parent)


def check_not_older(path: Path, store: Store) -> None:
    """Check that a store is not an older copy than its ledger.

    Raises:
        IntegrityError: It is, or its receipts are not the ledger's.
    """
    last = last_entry(path)
    if last is None:
        return
    row = store.connection.execute(
        "SELECT digest FROM receipts WHERE number = ?", (last["number"],)
    ).fetchone()
    if row is None:
        raise IntegrityError(
            f"the store is older than its receipts: it lacks r{last['number']}, so it may hold "
            "what was unlearned; run `edgecl forget pending`, which unlearns it again"
        )
    if row[0] != last["digest"]:
        raise IntegrityError(
            f"receipt r{last['number']} of the store is not that of {path}; restore the home as a "
            "whole from a backup"
        )


def last_entry(path: Path) -> Entry | None:
    """Return the last whole entry, if there is one, without reading the file from its beginning."""
    if not path.exists():
        return None
    with open(open_own(path, os.O_RDONLY), "rb") as file:
        size = file.seek(0, os.SEEK_END)
        tail, start = b"", size
        while start and tail.rstrip(b"\n").count(b"\n") < 2:
            step = min(_TAIL, start)
            start -= step
            file.seek(start)
            tail = file.read(step) + tail
    lines = tail.split(b"\n")[:-1]
    return _entry(path, 0, lines[-1]) if lines else None


def _whole_bytes(path: Path) -> int:
    """Return how many bytes of a file are whole lines."""
    return read_own(path, _MOST_BYTES).rfind(b"\n") + 1


def _entry(path: Path, number: int, line: bytes) -> Entry:
    where = f"line {number}" if number else "the last line"
    try:
        entry = loads(line)
        if not {"number", "body", "previous", "digest", "signature"} <= set(entry):
            raise ValueError("a key is missing")
        if dump_json(entry).encode() != line:
            raise ValueError("it was changed")
    except (ValueError, TypeError) as error:
        raise IntegrityError(
            f"{where} of {path} is damaged ({error}); restore the file from a backup"
        ) from error
    return dict(entry)
