"""Samples of all roles: their rows, features and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from edgecl.errors import ShapeError, StoreError
from edgecl.heads.statistics import Moments
from edgecl.store.reservoir import Reservoir
from edgecl.store.table import Role
from edgecl.store.text import plain_text
from edgecl.types import Float16, Labels

_AT_ONCE = 1024
_IN_A_QUERY = 500


class Rows(NamedTuple):
    """Samples of one role, oldest first.

    Args:
        uids: Their uids (N,).
        x: Their quantised features (N, D).
        classes: Uids of their classes (N,).
    """

    uids: Labels
    x: Float16
    classes: Labels


class Origin(NamedTuple):
    """Where a sample came from.

    Args:
        uid: Its uid.
        class_uid: Its class.
        source_uid: Its source.
        source: Text of that; '' if it was emptied.
        frame: Its name there; '' if it was emptied.
        time: Wall clock, seconds since the epoch.
        step: Samples that were learned by then, itself among them if it was.
        score: What its role says of it; see tables.py.
    """

    uid: int
    class_uid: int
    source_uid: int
    source: str
    frame: str
    time: float
    step: int
    score: float | None


class Samples(Reservoir):
    """The rows of samples."""

    def add_sample(
        self,
        class_uid: int,
        x: Float16,
        picture: Callable[[], bytes],
        *,
        source: str,
        frame: str,
        time: float,
        rng: np.random.Generator,
        score: float | None = None,
    ) -> tuple[int, bool]:
        """Write one learned sample, evicting another if the store is full.

        Args:
            class_uid: Its class.
            x: Its quantised feature (D,).
            picture: Gives the encoded picture; called only if the sample is kept.
            source: Where it came from.
            frame: Its name there.
            time: Wall clock, seconds since the epoch.
            rng: Decides what is kept.
            score: Whether the head was right before it learned it, where that is kept.

        Returns:
            Its uid, and whether it is kept for replay.

        Raises:
            ShapeError: x is not (D,) float16.
        """
        self._check_feature(x)
        self.step += 1
        self._learn_more(class_uid, 1)
        source_uid = self.source_uid(source)
        data = self._make_room(class_uid, picture, rng)
        uid = self._insert(
            Role.REPLAY,
            class_uid,
            x,
            data,
            source_uid=source_uid,
            frame=frame,
            time=time,
            score=score,
        )
        if data is not None:
            self._keep(uid, class_uid, len(data))
        self._count_unfolded(class_uid, source_uid)
        return uid, data is not None

    def add_rows(self, class_uid: int, x: Float16, *, source_uid: int, time: float) -> None:
        """Write learned samples of which nothing is there but quantised features (N, D).

        Args:
            class_uid: Their class.
            x: Their features.
            source_uid: Where they came from.
            time: Wall clock, seconds since the epoch.

        Raises:
            ShapeError: x is not (N, D) float16.
        """
        for row in x:
            self._check_feature(row)
            self._insert(
                Role.REPLAY, class_uid, row, None, source_uid=source_uid, frame="", time=time
            )
        self._learn_more(class_uid, len(x))
        self._count_unfolded(class_uid, source_uid, len(x))

    def add_sums(self, class_uid: int, moments: Moments, *, source_uid: int) -> None:
        """Write the statistics of learned samples of which nothing else is there."""
        self._add_folded(class_uid, source_uid, moments)
        self._learn_more(class_uid, moments.n)

    def _learn_more(self, class_uid: int, n: int) -> None:
        self._n_seen[class_uid] += n
        self._n_since += n
        self.connection.execute(
            "UPDATE classes SET n_seen = n_seen + ? WHERE uid = ?", (n, class_uid)
        )

    def add_aside(
        self,
        role: Role,
        class_uid: int,
        x: Float16,
        picture: bytes,
        *,
        source: str,
        frame: str,
        time: float,
        score: float,
    ) -> int:
        """Write a sample that is not learned; returns its uid.

        Args:
            role: What it is there for.
            class_uid: Its class.
            x: Its quantised feature (D,).
            picture: The encoded picture.
            source: Where it came from.
            frame: Its name there.
            time: Wall clock, seconds since the epoch.
            score: What its role says of it; see tables.py.

        Raises:
            ShapeError: x is not (D,) float16.
        """
        self._check_feature(x)
        source_uid = self.source_uid(source)
        return self._insert(
            role, class_uid, x, picture, source_uid=source_uid, frame=frame, time=time, score=score
        )

    def picture(self, uid: int) -> bytes:
        """Return the encoded picture of a sample, whatever its role.

        Raises:
            StoreError: No sample that is kept has this uid.
        """
        row = self.connection.execute(
            "SELECT class_uid, data FROM pictures JOIN samples USING (uid) WHERE uid = ?", (uid,)
        ).fetchone()
        if row is None:
            raise StoreError(f"sample {uid} is not kept; only kept samples have a picture")
        return self.unseal(row[0], "pictures.data", uid, row[1])

    def rows(self, role: Role, *, newest: int | None = None) -> Rows:
        """Return the kept samples of a role that can be read, oldest first.

        Args:
            role: The role.
            newest: Only so many of them.
        """
        found = self._listed(role)
        return self._read(found if newest is None else found[max(0, len(found) - newest) :])

    def parts(self, role: Role) -> Iterator[Rows]:
        """Yield what `rows` returns a thousand at a time: never are all features in memory."""
        found = self._listed(role)
        for first in range(0, len(found), _AT_ONCE):
            yield self._read(found[first : first + _AT_ONCE])

    def _listed(self, role: Role) -> list[tuple[int, int]]:
        """Return uid and class of the kept samples of a role that can be read, oldest first."""
        lost = self.lost_classes()
        # `+` takes the index of what few samples are: by uid all would be gone through.
        query = f"SELECT uid, class_uid FROM {role.value} WHERE is_stored ORDER BY +uid"
        return [row for row in self.connection.execute(query) if row[1] not in lost]

    def _read(self, found: list[tuple[int, int]]) -> Rows:
        """Return samples, by uid, with their features: some at a time, no sorting holds all."""
        owners = np.array(found, dtype=np.int64).reshape(-1, 2)
        return Rows(owners[:, 0], self.features_at(found), owners[:, 1])

    def features_at(self, found: list[tuple[int, int]]) -> Float16:
        """Return the features (N, D) of samples that are kept, of ascending uid and class."""
        return self.opened(self._sealed(found))

    def _sealed(self, found: list[tuple[int, int]]) -> Iterator[tuple[int, int, bytes]]:
        for first in range(0, len(found), _IN_A_QUERY):
            part = dict(found[first : first + _IN_A_QUERY])
            places = ",".join("?" * len(part))
            query = f"SELECT uid, x FROM features WHERE uid IN ({places}) ORDER BY uid"
            for uid, x in self.connection.execute(query, list(part)):
                yield uid, part[uid], x

    def open_rows(self) -> Rows:
        """Return the samples kept for replay whose class is not being unlearned, oldest first."""
        uids, x, classes = self.rows(Role.REPLAY)
        is_open = ~np.isin(classes, list(self.blocked_classes()))
        return Rows(uids[is_open], x[is_open], classes[is_open])

    def stored_rows(self) -> tuple[Float16, Labels]:
        """Return features (N, D) and class uids (N,) of all samples kept for replay."""
        _, x, classes = self.rows(Role.REPLAY)
        return x, classes

    def stored_samples(self) -> list[tuple[int, int]]:
        """Return uid and class uid of all samples kept for replay, oldest first."""
        lost = self.lost_classes()
        return [
            (int(uid), int(class_uid))
            for uid, class_uid in self.connection.execute(
                "SELECT uid, class_uid FROM replay WHERE is_stored ORDER BY +uid"
            )
            if class_uid not in lost
        ]

    def origins(self, role: Role) -> list[Origin]:
        """Return where all kept samples of a role came from, oldest first."""
        rows = self.connection.execute(
            "SELECT s.uid, class_uid, source_uid, coalesce(text, ''), coalesce(frame, ''), time, "
            f"step, score FROM {role.value} s JOIN sources o ON o.uid = source_uid "
            "WHERE is_stored ORDER BY +s.uid"  # as in `rows`
        )
        return [Origin(*row) for row in rows]

    def sources_of(self, uids: Sequence[int], *roles: Role) -> list[int]:
        """Return the uids of the sources of some samples, and of all of some roles."""
        rows = self.connection.execute(
            "SELECT DISTINCT source_uid FROM samples WHERE uid IN (SELECT value FROM json_each(?)) "
            "OR role IN (SELECT value FROM json_each(?)) ORDER BY source_uid",
            (json.dumps(list(uids)), json.dumps([role.value for role in roles])),
        )
        return [int(uid) for (uid,) in rows]

    def _check_feature(self, x: Float16) -> None:
        if x.shape != (self.num_features,) or x.dtype != np.float16:
            raise ShapeError(
                f"feature is {x.shape} {x.dtype}; the store keeps ({self.num_features},) float16"
            )

    def _insert(
        self,
        role: Role,
        class_uid: int,
        x: Float16,
        picture: bytes | None,
        *,
        source_uid: int,
        frame: str,
        time: float,
        score: float | None = None,
    ) -> int:
        """Write the rows of one sample; returns its uid."""
        execute = self.connection.execute
        cursor = execute(
            "INSERT INTO samples(role, class_uid, source_uid, frame, time, step, is_stored, "
            "size_bytes, due_step, score) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                role.value,
                class_uid,
                source_uid,
                plain_text(frame),
                time,
                self.step,
                picture is not None,
                0 if picture is None else len(picture),
                self.step if role is Role.REPLAY else None,
                score,
            ),
        )
        uid = int(cursor.lastrowid or 0)
        sealed = self.seal(class_uid, "features.x", uid, x.tobytes())
        execute("INSERT INTO features VALUES (?, ?)", (uid, sealed))
        if picture is not None:
            sealed = self.seal(class_uid, "pictures.data", uid, picture)
            execute("INSERT INTO pictures VALUES (?, ?)", (uid, sealed))
        return uid
