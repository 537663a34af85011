"""How far sources were learned, the head as it was saved, and what was asked for meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from edgecl.errors import IntegrityError
from edgecl.store.database import Database

# Entry of `meta` with the counters of probes.py.
PROBES = "probes"


@dataclass(frozen=True, slots=True)
class Position:
    """How far a source was learned.

    Args:
        n: Frames that were learned or skipped.
        digest: Hash chain over their ids.
        is_finished: Whether the source ended there.
    """

    n: int
    digest: bytes
    is_finished: bool


class Progress(Database):
    """Positions, the kept head, and requests that wait."""

    def load(self) -> None:
        """Read also until which class an adapter was tried."""
        super().load()
        self.attempted_class = int(self.meta().get("attempted_class", 0))

    def position(self, key: str) -> Position | None:
        """Return how far the source of this key was learned, or None."""
        row = self.connection.execute(
            "SELECT n, digest, is_finished FROM positions WHERE key = ?", (key,)
        ).fetchone()
        return None if row is None else Position(row[0], row[1], bool(row[2]))

    def set_position(self, key: str, position: Position) -> None:
        """Note how far a source was learned; inside the transaction of the step."""
        self.connection.execute(
            "INSERT INTO positions VALUES (?, ?, ?, ?) ON CONFLICT(key) DO UPDATE SET "
            "n = excluded.n, digest = excluded.digest, is_finished = excluded.is_finished",
            (key, position.n, position.digest, position.is_finished),
        )

    def save_head(self, kind: str, name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write a head's `state` or `scorer`, valid for what this transaction commits."""
        data = save_arrays({k: np.ascontiguousarray(v) for k, v in arrays.items()})
        self.connection.execute(
            "INSERT INTO head VALUES (?, ?, ?, ?) ON CONFLICT(kind) DO UPDATE SET "
            "name = excluded.name, version = excluded.version, data = excluded.data",
            (kind, name, self._head_version, data),
        )

    def load_head(self, kind: str, name: str) -> dict[str, npt.NDArray[Any]] | None:
        """Read what `save_head` wrote; None when it is missing, another head's or out of date."""
        row = self.connection.execute(
            "SELECT data FROM head WHERE kind = ? AND name = ? AND version = ?",
            (kind, name, self.version),
        ).fetchone()
        if row is None:
            return None
        try:
            arrays: dict[str, npt.NDArray[Any]] = load_arrays(row[0])
        except SafetensorError as error:
            raise IntegrityError(
                f"the stored head is damaged ({error}); restore the home from a backup"
            ) from error
        return arrays

    def note_attempt(self, class_uid: int) -> None:
        """Note until which class one was tried, taken or not; inside a transaction."""
        self.attempted_class = class_uid
        self.set_meta("attempted_class", class_uid)

    def reset(self) -> None:
        """Forget positions and counters, as after `init`; no uid is ever given twice.

        A tombstone names a uid: one that was given again would look as if it was unlearned.
        """
        for table in ("positions", "evaluations", "latencies", "last_run"):
            self.connection.execute(f"DELETE FROM {table}")
        self.connection.execute("DELETE FROM meta WHERE key = ?", (PROBES,))
        self.step = 0
        self.note_attempt(0)

    def has_requests(self) -> bool:
        """Whether an unlearning was asked for, perhaps by another process, and is not done."""
        return self.connection.execute("SELECT 1 FROM requests LIMIT 1").fetchone() is not None

    def receipt_of_request(self, number: int) -> str | None:
        """Return the receipt of a request that is done, or None."""
        if self.connection.execute("SELECT 1 FROM requests WHERE number = ?", (number,)).fetchone():
            return None
        row = self.connection.execute(
            "SELECT 'r' || number FROM receipts WHERE json_extract(body, '$.request') = ?",
            (number,),
        ).fetchone()
        return None if row is None else str(row[0])
