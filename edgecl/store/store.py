"""The store: samples, statistics, head, stream position and receipts in one SQLite file.

Everything that one step changes is written inside `transaction()`, so it is all there or not at
all. `Store` is what its parts are together, each of which owns its tables and what it keeps of them
in memory:

    database.py     the file, transactions
    seal.py         keys of classes
    classes.py      names, counters, sources
    statistics.py   sums by class and source
    reservoir.py    what is kept for replay
    samples.py      rows, features and pictures of all roles
    progress.py     positions, the kept head

What only reads it, or belongs to one use of it, is functions in modules of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.numpy import save as save_arrays

from edgecl.runtime.codebook import Keys
from edgecl.runtime.files import private
from edgecl.store.database import connect
from edgecl.store.progress import Progress
from edgecl.store.samples import Samples
from edgecl.store.schema import create_tables
from edgecl.store.statistics import CODEBOOK
from edgecl.store.table import Role


class Store(Samples, Progress):
    """An open store; see `Reservoir` for how it is opened."""


def create_store(
    path: Path | str,
    *,
    feature_map: str,
    num_features: int,
    second_moment: str,
    codebook: Keys | None = None,
    sealed: bool = False,
) -> None:
    """Make an empty store.

    Args:
        path: A file that does not exist.
        feature_map: Hash of the frozen map.
        num_features: Width D of its features.
        second_moment: `full`, `diagonal` or `counts`, the statistic kept for every class.
        codebook: Keys that `counts` counts, or a map before sums; frozen from here on.
        sealed: Keep pictures, features and statistics encrypted; see `Store`.
    """
    from sqlite_utils import Database

    if str(path) != ":memory:":  # its log takes over the rights
        open(path, "wb", opener=private).close()
    connection = connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        create_tables(connection)
        db = Database(connection)
        db.table("meta").insert_all(
            {"key": key, "value": value}
            for key, value in {
                "feature_map": feature_map,
                "num_features": str(num_features),
                "second_moment": second_moment,
                "step": "0",
                "version": "0",
                "sealed": str(int(sealed)),
            }.items()
        )
        if codebook is not None:
            db.table("fixed").insert(
                {
                    "name": CODEBOOK,
                    "digest": codebook.digest,
                    "data": save_arrays(codebook.arrays()),
                }
            )
    finally:
        connection.close()


def describe(store: Store) -> dict[str, Any]:
    """Return what `edgecl status` says about a store, JSON values only.

    A class whose unlearning was asked for is not named any more.
    """
    seen, stored = store.n_seen(), store.n_stored()
    parts = bytes_by_part(store)
    # Of requests; the erasure and the check of one, refusals and rollbacks are entries, too.
    (n_receipts,) = store.connection.execute(
        "SELECT count(*) FROM receipts WHERE json_extract(body, '$.kind') = 'forget'"
    ).fetchone()
    (n_review,) = store.connection.execute("SELECT count(*) FROM review").fetchone()
    (n_pending,) = store.connection.execute("SELECT count(*) FROM requests").fetchone()
    hidden = store.blocked_classes()
    return {
        "classes": {
            name: {"seen": seen[uid], "stored": stored[uid]}
            for uid, name in store.names.items()
            if uid not in hidden
        },
        "pending": int(n_pending),
        "samples": sum(seen.values()),
        "stored": sum(stored.values()),
        "stored_bytes": store.stored_bytes,
        "statistics_bytes": parts["features"] + parts["statistics"],
        "capacity_samples": store.capacity_samples,
        "capacity_bytes": store.capacity_bytes,
        "sources": store.n_by_source(),
        "receipts": int(n_receipts),
        "probes_bytes": parts["probes"],
        "review": int(n_review),
        "encrypted": store.is_sealed,
    }


def why_empty(said: dict[str, Any]) -> str:
    """Return why a home without classes has none; `said` is what `describe` says of its store."""
    if not said["receipts"]:
        return "has learned nothing yet"
    requests = "1 request" if said["receipts"] == 1 else f"{said['receipts']:,} requests"
    return f"knows nothing any more: all that it had learned was unlearned, on {requests}"


def bytes_by_part(store: Store) -> dict[str, int]:
    """Return how many bytes each part of what was learned has."""
    blobs = {
        part: f"SELECT {{}} FROM {role.value} JOIN features USING (uid) JOIN pictures USING (uid)"
        for part, role in (("probes", Role.HELD_OUT), ("review queue", Role.REVIEW))
    }
    # Features have one length, and each is on a page of its own: no row of them is read but one.
    queries = {
        "kept pictures": "SELECT sum(length(data)) FROM pictures CROSS JOIN replay USING (uid)",
        "features": "SELECT n * (SELECT length(x) FROM features LIMIT 1) + of_views FROM "
        "(SELECT count(*) AS n FROM replay), "
        "(SELECT coalesce(sum(length(x)), 0) AS of_views FROM views)",
        "statistics": "SELECT sum(length(total) + length(second)) FROM class_stats",
        "head": "SELECT sum(length(data)) FROM head",
        "adapters": "SELECT sum(length(data)) FROM adapters",
    } | {part: query.format("sum(length(x) + length(data))") for part, query in blobs.items()}
    execute = store.connection.execute
    return {part: int(execute(query).fetchone()[0] or 0) for part, query in queries.items()}
