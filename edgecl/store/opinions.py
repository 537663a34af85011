"""What adapters say of pictures that they were not trained on, kept beside those pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgecl.store.store import Store
from edgecl.types import Float32, Float64, Labels


def add_opinions(store: Store, adapter: int, uids: Sequence[int], shares: Float32) -> None:
    """Keep an adapter's shares (N, J) of its own classes for N pictures; inside a transaction."""
    store.connection.executemany(
        "INSERT OR REPLACE INTO opinions VALUES (?, ?, ?)",
        [
            (uid, adapter, np.ascontiguousarray(row, "<f4").tobytes())
            for uid, row in zip(uids, shares, strict=True)
        ],
    )


def asked(store: Store, adapter: int) -> frozenset[int]:
    """Return the uids of the pictures that an adapter was asked for."""
    query = "SELECT uid FROM opinions WHERE adapter = ?"
    return frozenset(uid for (uid,) in store.connection.execute(query, (adapter,)))


def opinions_of(store: Store, widths: dict[int, int]) -> tuple[Labels, tuple[Float64, ...]]:
    """Return the pictures (N,) that all of some adapters were asked for, and what each said.

    Args:
        store: The store.
        widths: Number of classes J of each adapter's head, by uid.

    Returns:
        Uids, ascending, and for each adapter its shares (N, J).
    """
    found: list[dict[int, bytes]] = []
    for adapter in widths:
        rows = store.connection.execute(
            "SELECT uid, shares FROM opinions WHERE adapter = ?", (adapter,)
        )
        found.append(dict(rows.fetchall()))
    uids = sorted(set.intersection(*(set(rows) for rows in found))) if found else []
    shares = tuple(
        np.frombuffer(b"".join(rows[uid] for uid in uids), "<f4")
        .astype(np.float64)
        .reshape(len(uids), width)
        for rows, width in zip(found, widths.values(), strict=True)
    )
    return np.array(uids, np.int64), shares


def n_opinions(store: Store) -> int:
    """Return how many are kept."""
    return int(store.connection.execute("SELECT count(*) FROM opinions").fetchone()[0])
