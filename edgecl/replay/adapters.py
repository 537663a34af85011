"""Trained adapters in the store: one row a task, and T(c), which classes each of them saw.

The adapter in use is the last one or the mean of all, a pure function of the rows; the store's
feature map carries its hash.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from edgecl.errors import IntegrityError
from edgecl.replay.store import Store
from edgecl.runtime.adapters import Adapter, digest_of, mean_of


@dataclass(frozen=True)
class TaskAdapter:
    """An adapter and what it was trained on.

    Args:
        uid: Its number.
        adapter: Its arrays.
        saw: Pictures of each class uid in its training.
        task: Class uids that were new, or new to the session, when it was trained.
        body: How it was trained, JSON values.
    """

    uid: int
    adapter: Adapter
    saw: dict[int, int]
    task: tuple[int, ...]
    body: dict[str, Any]


def task_adapters(store: Store) -> list[TaskAdapter]:
    """Return all adapters, oldest first.

    Raises:
        IntegrityError: One was changed.
    """
    found: list[TaskAdapter] = []
    rows = store.connection.execute("SELECT uid, digest, body, data FROM adapters ORDER BY uid")
    for uid, digest, body, data in rows.fetchall():
        try:
            adapter: Adapter = load_arrays(data)
        except SafetensorError as error:
            raise IntegrityError(
                f"adapter {uid} is damaged ({error}); restore the home from a backup"
            ) from error
        if digest_of(adapter) != digest:
            raise IntegrityError(f"adapter {uid} was changed; restore the home from a backup")
        classes = store.connection.execute(
            "SELECT class_uid, n, is_task FROM adapter_classes WHERE adapter_uid = ? "
            "ORDER BY class_uid",
            (uid,),
        ).fetchall()
        found.append(
            TaskAdapter(
                uid,
                adapter,
                {c: n for c, n, _ in classes},
                tuple(c for c, _, is_task in classes if is_task),
                json.loads(body),
            )
        )
    return found


def active_adapter(store: Store) -> Adapter | None:
    """Return the adapter under which the store's features were made, or None.

    Raises:
        IntegrityError: The adapters do not give the one whose hash the store carries.
    """
    if store.adapter is None:
        return None
    bank = task_adapters(store)
    for kind in ("last", "mean"):
        adapter = chosen_adapter(bank, kind)
        if adapter is not None and digest_of(adapter) == store.adapter:
            return adapter
    raise IntegrityError(
        "the store's adapters are not those that made its features; restore the home from a backup"
    )


def chosen_adapter(bank: Sequence[TaskAdapter], kind: str) -> Adapter | None:
    """Return what a bank's features are made with, or None without any adapter.

    Args:
        bank: The adapters, oldest first.
        kind: `last`, or any other word for their mean; see `ConsolidationConfig.bank`.
    """
    return bank[-1].adapter if bank and kind == "last" else mean_adapter(bank)


def mean_adapter(bank: Sequence[TaskAdapter]) -> Adapter | None:
    """Return the mean of adapters, or None without any."""
    return mean_of([task.adapter for task in bank]) if bank else None


def add_adapter(
    store: Store,
    adapter: Adapter,
    *,
    saw: Mapping[int, int],
    task: tuple[int, ...],
    body: Mapping[str, Any],
) -> int:
    """Write one task's adapter, inside a transaction; returns its uid."""
    cursor = store.connection.execute(
        "INSERT INTO adapters(digest, created, body, data) VALUES (?, ?, ?, ?)",
        (digest_of(adapter), time.time(), json.dumps(dict(body)), save_arrays(adapter)),
    )
    uid = int(cursor.lastrowid or 0)
    store.connection.executemany(
        "INSERT INTO adapter_classes VALUES (?, ?, ?, ?)",
        [(uid, c, n, c in task) for c, n in sorted(saw.items())],
    )
    return uid


def replace_adapter(store: Store, task: TaskAdapter) -> None:
    """Write changed arrays and their history over an adapter's; inside a transaction."""
    store.connection.execute(
        "UPDATE adapters SET digest = ?, body = ?, data = ? WHERE uid = ?",
        (digest_of(task.adapter), json.dumps(task.body), save_arrays(task.adapter), task.uid),
    )


def first_that_saw(store: Store, class_uid: int) -> int | None:
    """Return the uid of the first adapter in whose training a class's pictures were, or None."""
    (uid,) = store.connection.execute(
        "SELECT min(adapter_uid) FROM adapter_classes WHERE class_uid = ?", (class_uid,)
    ).fetchone()
    return None if uid is None else int(uid)


def drop_adapters(store: Store, first: int) -> list[int]:
    """Delete an adapter and all later ones, which were trained on from it.

    Inside a transaction, and features must be replaced in the same one. What the first of them was
    trained on waits for a consolidation again.

    Returns:
        Uids of the deleted adapters.
    """
    rows = store.connection.execute(
        "SELECT uid, body FROM adapters WHERE uid >= ? ORDER BY uid", (first,)
    ).fetchall()
    dropped = [int(uid) for uid, _ in rows]
    before = json.loads(rows[0][1])
    store.note_consolidation(int(before["step_before"]))
    store.note_attempt(int(before["class_before"]))
    store.connection.execute("DELETE FROM adapters WHERE uid >= ?", (first,))
    return dropped
