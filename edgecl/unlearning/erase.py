"""Physical erasure: nothing of a deleted row stays in the files of the home.

With `secure_delete` the database overwrites deleted content, but only a checkpoint brings that to
the main file and empties the log: delete, commit, checkpoint, VACUUM, checkpoint. A reader that is
open makes a checkpoint answer "busy" instead of failing, so the answer is read.

Statistics of the query planner (`ANALYZE`) hold sample values; if another program made some, they
are dropped.

Flash wear levelling and copy-on-write file systems keep old blocks below what a file shows; that is
beyond this module and said in docs/unlearning.md.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

from edgecl.errors import StoreError
from edgecl.home import Home, unfinished_homes
from edgecl.runtime.files import flush, wipe
from edgecl.store.store import Store

_PATIENCE_S = 5.0
_CHUNK = 8 * 2**20
# What `snapshots.take` and SQLite name files in that folder.
_SNAPSHOT = re.compile(r"(s[0-9]+\.db|\.part)(-wal|-shm|-journal)?")


def scrub(store: Store) -> dict[str, Any]:
    """Rewrite the store without what was deleted.

    Returns:
        `busy` (0, or 1 when a reader was in the way for 5 seconds and the log could not be
        emptied), `vacuumed`, the pragmas `secure_delete` and `journal_mode` as read back, and the
        size of the file before and after.
    """
    execute = store.connection.execute
    (secure_delete,) = execute("PRAGMA secure_delete").fetchone()
    (journal,) = execute("PRAGMA journal_mode").fetchone()
    for (table,) in execute(
        "SELECT name FROM sqlite_master WHERE name IN ('sqlite_stat1', 'sqlite_stat4')"
    ).fetchall():
        execute(f"DROP TABLE {table}")
    size_before = store.path.stat().st_size
    busy = _truncate_log(store)
    vacuumed = False
    if not busy:
        # VACUUM needs about as much room again; without it the deleted pages are zeroed anyway.
        free = shutil.disk_usage(store.path.parent).free
        if free > 2.5 * store.path.stat().st_size:
            try:
                execute("VACUUM")
                vacuumed = True
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise StoreError(
                        f"the store {store.path} could not be compacted ({error}); deleted rows "
                        "are overwritten; free disk space, the next `edgecl train-stream` or "
                        "`edgecl forget` tries again"
                    ) from error
                busy = 1
        busy = busy or _truncate_log(store)
    return {
        "busy": busy,
        "vacuumed": vacuumed,
        "secure_delete": int(secure_delete),
        "journal_mode": journal,
        "bytes_before": size_before,
        "bytes_after": store.path.stat().st_size,
    }


def find_bytes(
    folder: Path, needles: dict[str, bytes], *, but_not: tuple[str, ...] = ()
) -> dict[str, list[str]]:
    """Look for byte strings in every file below a folder.

    Args:
        folder: Where to look.
        needles: What to look for, by the name under which it is reported.
        but_not: Entries of the folder to leave out: files that never hold learned data.

    Returns:
        For each needle that was found, the files that hold it.
    """
    found: dict[str, list[str]] = {}
    if not needles:
        return found
    overlap = max(len(n) for n in needles.values()) - 1
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.relative_to(folder).parts[0] in but_not:
            continue
        tail = b""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            continue  # a reader of the store that ended took its files along
        with file:
            while chunk := file.read(_CHUNK):
                window = tail + chunk
                for name, needle in needles.items():
                    if needle in window and str(path) not in found.get(name, []):
                        found.setdefault(name, []).append(str(path))
                tail = window[-overlap:] if overlap else b""
    return found


def remove_unlisted_snapshots(home: Home, store: Store) -> int:
    """Overwrite and delete files of snapshots that are on the list no more; returns how many.

    What has no name that edgecl gives stays: a note, or what a disk that is mounted here brings.

    Raises:
        StoreError: A file cannot be written or deleted.
    """
    if not home.snapshots.is_dir():
        return 0
    listed = {
        home.snapshot(uid) for (uid,) in store.connection.execute("SELECT uid FROM snapshots")
    }
    gone = [
        path
        for folder, _, names in os.walk(home.snapshots)  # which follows no link
        for path in (Path(folder) / name for name in sorted(names) if _SNAPSHOT.fullmatch(name))
        if path not in listed
    ]
    for path in gone:
        try:
            wipe(path)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be erased ({error.strerror}); make it writable, then run "
                "`edgecl forget pending`"
            ) from error
    flush(home.snapshots)
    return len(gone)


def remove_left_copies(home: Home) -> int:
    """Overwrite and delete what a killed `bench` or `init` left beside the home; returns how many.

    The caller holds the home's lock, which a running `bench` would hold; a running `init` holds
    that of what it makes.
    """
    left = sorted(home.path.parent.glob(f"{glob.escape(home.copies)}*"))
    left += unfinished_homes(home.path)
    for path in left:
        wipe(path)
    return len(left)


def _truncate_log(store: Store) -> int:
    """Bring the log into the main file and empty it; returns 1 when a reader kept it busy."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        busy, _, _ = store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy or time.monotonic() > deadline:
            return int(busy)
        time.sleep(0.05)
