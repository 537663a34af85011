"""Adapters in the store, each with the head trained with it, and T(c): who saw which class.

What is served is a pure function of these rows and of the frozen head (`heard`). A training that is
under way is a row as well, with the epoch from which it goes on: it holds what it saw like any
other, and goes with it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from edgecl.errors import IntegrityError
from edgecl.paired import Pairs
from edgecl.runtime.adapters import Adapter, mean_of, scaled
from edgecl.runtime.bank import BankScorer
from edgecl.runtime.mixture import MixedScorer, Opinion
from edgecl.runtime.scoring import LinearScorer, Scorer, load_scorer
from edgecl.store.store import Store
from edgecl.types import Float64

Arrays = dict[str, npt.NDArray[Any]]
_HEAD = "head."
_CLASSES = "classes"
_KEY = "key"


@dataclass(frozen=True, slots=True)
class Shadowed:
    """How a candidate answered live frames beside what is served (edgecl/stream/shadow.py).

    Args:
        frames: Frames that both answered.
        agreed: Of them, answered alike.
        named: That somebody named.
        lost: Of those, right by what is served and wrong by the candidate.
        won: Wrong by what is served and right by the candidate.
    """

    frames: int = 0
    agreed: int = 0
    named: int = 0
    lost: int = 0
    won: int = 0

    def plus(self, served: str, new: str, truth: str | None) -> Shadowed:
        """Return the same with one frame more, and what it shows if that is known."""
        is_named = truth is not None
        return Shadowed(
            self.frames + 1,
            self.agreed + (served == new),
            self.named + is_named,
            self.lost + (is_named and served == truth != new),
            self.won + (is_named and new == truth != served),
        )

    @property
    def pairs(self) -> Pairs:
        """The frames that were named, as pairs of answers."""
        return Pairs(self.named, self.lost, self.won)

    def in_words(self) -> str:
        """Say how the answers went."""
        return (
            f"{self.agreed} of {self.frames} live frames answered alike; of {self.named} that "
            f"somebody named {self.lost} lost and {self.won} won"
        )


@dataclass(frozen=True)
class Row:
    """What is known of an adapter without reading its arrays.

    Args:
        uid: Its number.
        epoch: Of a training that is under way; None once it is done.
        saw: Pictures of each class uid in its training; 0 for one that only judged it.
        task: Class uids that were new, or new to the session, when it was trained.
        body: How it was trained, JSON values; `parents` are the uids of those it came from.
    """

    uid: int
    epoch: int | None
    saw: dict[int, int]
    task: tuple[int, ...]
    body: dict[str, Any]

    @property
    def shadow(self) -> Shadowed | None:
        """How far it is as a candidate, which is not heard yet; None of one that is none."""
        found = self.body.get("shadow")
        return None if found is None else Shadowed(**found)

    @property
    def has_gate(self) -> bool:
        """Whether its rows choose themselves by picture (edgecl/adapters/atoms.py)."""
        return bool(self.body.get("active"))

    @property
    def is_served(self) -> bool:
        """Whether it is trained, and no candidate."""
        return self.epoch is None and self.shadow is None


@dataclass(frozen=True)
class TaskAdapter(Row):
    """An adapter with its head.

    Args:
        adapter: Its arrays.
        head: Arrays of the head on adapted features, as `Scorer.arrays` gives them.
        classes: Uids of the head's classes.
        key: See `Opinion`.
    """

    adapter: Adapter
    head: Arrays
    classes: tuple[int, ...]
    key: Float64 | None = None

    @property
    def served(self) -> Adapter:
        """The arrays as the engine takes them; those of the row are what was trained."""
        return scaled(self.adapter, self.body.get("depths", {}))

    def taken(self) -> TaskAdapter:
        """Return it as if it were no candidate."""
        return replace(self, body={k: v for k, v in self.body.items() if k != "shadow"})


def adapter_rows(store: Store) -> list[Row]:
    """Return all rows, oldest first, a training that is under way among them."""
    saw: dict[int, dict[int, int]] = {}
    tasks: dict[int, list[int]] = {}
    for adapter, c, n, is_task in store.connection.execute(
        "SELECT adapter_uid, class_uid, n, is_task FROM adapter_classes ORDER BY class_uid"
    ):
        saw.setdefault(adapter, {})[c] = n
        if is_task:
            tasks.setdefault(adapter, []).append(c)
    found = store.connection.execute("SELECT uid, epoch, body FROM adapters ORDER BY uid")
    return [
        Row(uid, epoch, saw.get(uid, {}), tuple(tasks.get(uid, ())), json.loads(body))
        for uid, epoch, body in found.fetchall()
    ]


def task_adapters(store: Store) -> list[TaskAdapter]:
    """Return all finished adapters, oldest first.

    Raises:
        IntegrityError: One was changed.
    """
    found = []
    for row in adapter_rows(store):
        if row.epoch is None:
            arrays = _arrays(store, row.uid)
            parts = {k.removeprefix(_HEAD): a for k, a in arrays.items() if k.startswith(_HEAD)}
            classes = tuple(int(c) for c in parts.pop(_CLASSES))
            key = parts.pop(_KEY, None)
            adapter = {k: a for k, a in arrays.items() if not k.startswith(_HEAD)}
            found.append(
                TaskAdapter(**vars(row), adapter=adapter, head=parts, classes=classes, key=key)
            )
    return found


def served_digests(store: Store) -> list[str]:
    """Return the hashes of what is served of adapters, oldest first."""
    served = {row.uid for row in adapter_rows(store) if row.is_served}
    rows = store.connection.execute("SELECT uid, digest FROM adapters ORDER BY uid")
    return [digest for uid, digest in rows.fetchall() if uid in served]


def head_of(task: TaskAdapter, names: Mapping[int, str]) -> Scorer:
    """Return the head of an adapter, its classes called by `names`."""
    return load_scorer(task.head, tuple(names[c] for c in task.classes))


def heard(bank: Sequence[TaskAdapter]) -> list[TaskAdapter]:
    """Return the adapters whose heads are heard: the newest whole one, then those that stand alone.

    One that stands alone and is older than the newest whole one is not: that one knows its classes.
    Nor is a candidate.
    """
    bank = [task for task in bank if task.shadow is None]
    whole = [i for i, task in enumerate(bank) if task.body["blend"] == "newest"]
    return list(bank[whole[-1] if whole else 0 :])


def maps_of(kind: str, adapters: Sequence[Adapter]) -> tuple[Adapter, ...]:
    """Return the adapters whose features the head of the newest one takes.

    Args:
        kind: `last`, `mean`, `two` (the first and the mean) or `all`; `ConsolidationConfig.bank`.
        adapters: All up to that one, oldest first.
    """
    if kind == "all":
        return tuple(adapters)
    if kind == "last":
        return (adapters[-1],)
    return (mean_of(adapters),) if kind == "mean" else (adapters[0], mean_of(adapters))


def served_adapters(bank: Sequence[TaskAdapter]) -> tuple[Adapter, ...]:
    """Return the adapters whose features stand beside the plain ones, in the order of the heads."""
    return tuple(
        adapter
        for task in heard(bank)
        for adapter in maps_of(task.body["bank"], [t.served for t in bank if t.uid <= task.uid])
    )


def mixed_with(
    frozen: Scorer, bank: Sequence[TaskAdapter], names: Mapping[int, str]
) -> tuple[Scorer, tuple[Adapter, ...]]:
    """Return what is served beside a frozen head, and the adapters that make its features.

    Args:
        frozen: The exact head.
        bank: All finished adapters; without any the frozen head is served alone.
        names: Names of the classes.
    """
    speakers = heard(bank)
    if not speakers:
        return frozen, ()
    opinions = tuple(
        Opinion(head_of(task, names), task.body["share"], task.key) for task in speakers
    )
    scorer = MixedScorer(frozen, speakers[-1].body["temperature"], opinions)
    return scorer, served_adapters(bank)


def add_adapter(
    store: Store,
    adapter: Adapter,
    head: Scorer,
    classes: Sequence[int],
    *,
    saw: Mapping[int, int],
    task: Sequence[int],
    body: Mapping[str, Any],
    key: Float64 | None = None,
) -> int:
    """Write a finished adapter with its head, inside a transaction; returns its uid."""
    arrays = {f"{_HEAD}{name}": array for name, array in head.arrays().items()}
    arrays[_HEAD + _CLASSES] = np.array(classes, dtype=np.int64)
    if key is not None:
        arrays[_HEAD + _KEY] = key
    return _insert(store, None, adapter | arrays, saw=saw, task=task, body=body)


def save_training(
    store: Store,
    epoch: int,
    state: Arrays,
    *,
    saw: Mapping[int, int],
    task: Sequence[int],
    body: Mapping[str, Any],
) -> None:
    """Write where a training stands, in place of where it stood; inside a transaction."""
    end_training(store)
    _insert(store, epoch, state, saw=saw, task=task, body=body)


def end_training(store: Store) -> None:
    """Delete a training that is under way, if there is one; inside a transaction."""
    store.connection.execute("DELETE FROM adapters WHERE epoch IS NOT NULL")


def training_under_way(store: Store) -> Row | None:
    """Return a training that was cut off, or None."""
    return next((row for row in adapter_rows(store) if row.epoch is not None), None)


def training_state(store: Store, row: Row) -> Arrays | None:
    """Return the arrays that a training goes on from, or None if they were damaged."""
    try:
        return _arrays(store, row.uid)
    except IntegrityError:
        return None


def note_shadow(store: Store, uid: int, shadow: Shadowed | None) -> None:
    """Write how far a candidate is, None for one that is taken; inside a transaction."""
    (text,) = store.connection.execute("SELECT body FROM adapters WHERE uid = ?", (uid,)).fetchone()
    body = {key: value for key, value in json.loads(text).items() if key != "shadow"}
    if shadow is not None:
        body["shadow"] = asdict(shadow)
    store.connection.execute("UPDATE adapters SET body = ? WHERE uid = ?", (json.dumps(body), uid))


def replace_adapter(
    store: Store, task: TaskAdapter, adapter: Adapter, *, without: int, note: Any
) -> None:
    """Write a changed adapter over an old one, and its head without a class; in a transaction.

    Args:
        store: The store.
        task: The old one.
        adapter: Its changed arrays.
        without: Uid of the class that its head names no more.
        note: JSON value that is added to what was `unlearned` in its body.
    """
    left = [i for i, c in enumerate(task.classes) if c != without]
    if not left:
        drop_adapters(store, descending(adapter_rows(store), [task.uid]))
        return
    classes = [task.classes[i] for i in left]
    head = head_of(task, {c: str(c) for c in task.classes})
    assert isinstance(head, LinearScorer | BankScorer)
    # Without the key, which is a mean of pictures of that class as well, and what was said before.
    store.connection.execute("DELETE FROM opinions WHERE adapter = ?", (task.uid,))
    arrays = {f"{_HEAD}{name}": array for name, array in head.only(left).arrays().items()}
    arrays[_HEAD + _CLASSES] = np.array(classes, dtype=np.int64)
    data = save_arrays({**adapter, **arrays})
    body = task.body | {"unlearned": [*task.body.get("unlearned", []), note]}
    store.connection.execute(
        "UPDATE adapters SET digest = ?, body = ?, data = ? WHERE uid = ?",
        (hashlib.sha256(data).hexdigest(), json.dumps(body), data, task.uid),
    )


def descending(all_rows: Sequence[Row], uids: Iterable[int]) -> list[int]:
    """Return adapters and all that were trained on from them, oldest first."""
    gone = set(uids)
    for row in all_rows:
        if gone & set(row.body["parents"]):
            gone.add(row.uid)
    return sorted(gone)


def drop_adapters(store: Store, uids: Sequence[int]) -> None:
    """Delete adapters; inside a transaction. What they were trained on waits for another."""
    execute = store.connection.execute
    store.connection.executemany("DELETE FROM adapters WHERE uid = ?", [(uid,) for uid in uids])
    (newest,) = execute("SELECT coalesce(max(class_uid), 0) FROM adapter_classes").fetchone()
    store.note_attempt(int(newest))


def trained_until(all_rows: Sequence[Row]) -> dict[int, int]:
    """Return for every class uid the newest sample uid that a finished adapter may have seen."""
    until: dict[int, int] = {}
    for row in all_rows:
        if row.epoch is None:
            for c, n in row.saw.items():
                if n:
                    until[c] = max(until.get(c, 0), int(row.body["newest_sample"]))
    return until


def _insert(
    store: Store,
    epoch: int | None,
    arrays: Arrays,
    *,
    saw: Mapping[int, int],
    task: Sequence[int],
    body: Mapping[str, Any],
) -> int:
    data = save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    cursor = store.connection.execute(
        "INSERT INTO adapters(digest, created, epoch, body, data) VALUES (?, ?, ?, ?, ?)",
        (hashlib.sha256(data).hexdigest(), time.time(), epoch, json.dumps(dict(body)), data),
    )
    uid = int(cursor.lastrowid or 0)
    store.connection.executemany(
        "INSERT INTO adapter_classes VALUES (?, ?, ?, ?)",
        [(uid, c, n, c in task) for c, n in sorted(saw.items())],
    )
    return uid


def _arrays(store: Store, uid: int) -> Arrays:
    digest, data = store.connection.execute(
        "SELECT digest, data FROM adapters WHERE uid = ?", (uid,)
    ).fetchone()
    if hashlib.sha256(data).hexdigest() != digest:
        raise IntegrityError(f"adapter {uid} was changed; restore the home from a backup")
    try:
        return dict(load_arrays(data))
    except SafetensorError as error:
        raise IntegrityError(
            f"adapter {uid} is damaged ({error}); restore the home from a backup"
        ) from error
