"""The store's file without what was deleted from it.

With `secure_delete` the database overwrites deleted content, but only a checkpoint brings that to
the main file and empties the log: delete, commit, checkpoint, VACUUM, checkpoint. A reader that is
open makes a checkpoint answer "busy" instead of failing, so the answer is read.

Statistics of the query planner (`ANALYZE`) hold sample values; if another program made some, they
are dropped.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from edgecl.errors import StoreError
from edgecl.store.store import Store

_PATIENCE_S = 5.0


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
                with _beside(store):
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


@contextmanager
def _beside(store: Store) -> Iterator[None]:
    """Have SQLite rewrite the store by a file beside it, which has no name and holds what stays.

    In memory it would need as much as the whole store: 4.4 GB for a million rows.
    """
    execute, folder = store.connection.execute, str(store.path.parent.resolve())
    with suppress(UnicodeEncodeError):  # a name that SQLite cannot be told
        execute(f"PRAGMA temp_store_directory = '{folder.replace(chr(39), 2 * chr(39))}'")
    if execute("PRAGMA temp_store_directory").fetchone() == (folder,):
        execute("PRAGMA temp_store = FILE")
    try:
        yield
    finally:
        execute("PRAGMA temp_store = MEMORY")
        execute("PRAGMA temp_store_directory = ''")


def _truncate_log(store: Store) -> int:
    """Bring the log into the main file and empty it; returns 1 when a reader kept it busy."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        busy, _, _ = store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy or time.monotonic() > deadline:
            return int(busy)
        time.sleep(0.05)
