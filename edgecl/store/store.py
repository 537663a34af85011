"""The store: samples, statistics, head, stream position and receipts in one SQLite file.

Everything that one step changes is written inside `transaction()`, so it is all there or not at
all. The file is in WAL mode with `secure_delete` on (read back, and refused when it is not) and
`synchronous=FULL`: a committed sample survives a pulled plug, and a deleted one leaves no bytes.

A sample's feature counts in two ways, as replay and as statistics. Its row lives as long as one of
the two needs it: an evicted sample keeps its feature until that was folded into its class's
statistics, which happens once the folded form is smaller.

This module is long because it holds every SQL statement on samples; one place for all of them.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from edgecl.errors import (
    IntegrityError,
    RequestError,
    ShapeError,
    StoreError,
    UnknownClassError,
)
from edgecl.heads.statistics import COUNTS, Kind, Moments, fold_limit
from edgecl.runtime.codebook import Keys, load_keys
from edgecl.runtime.whitening import Whitening
from edgecl.store.sampling import class_to_evict
from edgecl.store.schema import SCHEMA_VERSION, check_version, create_tables, migrate
from edgecl.store.tables import Role
from edgecl.store.vault import Vault
from edgecl.types import Float16

Labels = npt.NDArray[np.int64]
_BUSY_TIMEOUT_MS = 5000
_CODEBOOK = "codebook"
# Entry of `meta` with the counters of probes.py.
PROBES = "probes"
# One or two letters stand in every path.
_MIN_NAME_IN_TEXT = 3


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

    connection = _connect(path)
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
                    "name": _CODEBOOK,
                    "digest": codebook.digest,
                    "data": save_arrays(codebook.arrays()),
                }
            )
    finally:
        connection.close()


class Store:
    """An open store.

    Args:
        path: The SQLite file.
        capacity_samples: Most pictures kept for replay.
        capacity_bytes: Most bytes of kept pictures.
        read_only: Open without the right to change anything.
        vault: Keys of a sealed store.

    Raises:
        StoreError: It cannot be opened.
        IntegrityError: Not a store of this schema, or `secure_delete` cannot be switched on; or it
            is sealed and a key is missing.
    """

    def __init__(
        self,
        path: Path,
        *,
        capacity_samples: int = 2000,
        capacity_bytes: int = 200_000_000,
        read_only: bool = False,
        vault: Vault | None = None,
    ) -> None:
        self.path = path
        self._vault = vault
        self.loads = 0
        """How often names and counters were read anew: what others keep in memory is then old."""
        self.step: int
        self.version: int
        self.capacity_samples = capacity_samples
        self.capacity_bytes = capacity_bytes
        if not path.is_file():
            raise StoreError(f"the store {path} is missing; restore it or run `edgecl init` anew")
        with _sqlite_errors(path):
            self.connection = _connect(path, read_only=read_only)
            try:
                version = check_version(self.connection)
                if not read_only:
                    _use_log(self.connection)
                    migrate(self.connection)
                elif version < SCHEMA_VERSION:
                    raise StoreError(
                        f"the store {path} has schema {version} and must be brought to "
                        f"{SCHEMA_VERSION} first; run `edgecl forget pending` once"
                    )
                meta = dict(self.connection.execute("SELECT key, value FROM meta"))
                self.feature_map = str(meta["feature_map"])
                self.num_features = int(meta["num_features"])
                self.second_moment = str(meta["second_moment"])
                self.codebook = self._read_codebook()
                self._load()
                self._check_keys(meta.get("sealed") == "1")
            except KeyError as error:
                raise IntegrityError(f"the store {path} lacks the entry {error}") from error
            except BaseException:
                self.connection.close()
                raise

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.close()
        # A read that fails, whoever made it, is told like a failing transaction.
        if isinstance(error, sqlite3.DatabaseError):
            with _sqlite_errors(self.path):
                raise error

    @contextmanager
    def transaction(self, *, changes_head: bool = True) -> Iterator[None]:
        """Commit all that happens inside, or nothing.

        Args:
            changes_head: Whether a kept head becomes out of date unless it is saved inside.

        Raises:
            StoreError: SQLite refused (disk full, locked, read-only); nothing was changed.
        """
        with _sqlite_errors(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            self._head_version = self.version + changes_head
            try:
                yield
                self.version = self._head_version
                self.set_meta("step", self.step)
                self.set_meta("version", self.version)
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                self._load()
                raise

    @property
    def is_writing(self) -> bool:
        """Whether a transaction of this store is under way."""
        return self.connection.in_transaction

    def copy_to(self, path: Path) -> None:
        """Write a copy of the database into a new file, page by page."""
        with closing(sqlite3.connect(path)) as target:
            self.connection.backup(target)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn SQLite's errors into one line each, outside of a transaction."""
        with _sqlite_errors(self.path):
            yield

    def reload(self) -> None:
        """Read anew what is kept in memory, after its rows were replaced inside a transaction."""
        self._load()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read one state of the store, whatever another process commits meanwhile."""
        with _sqlite_errors(self.path):
            self.connection.execute("BEGIN")
            try:
                self._load()
                yield
            finally:
                self.connection.execute("COMMIT")

    @property
    def statistic(self) -> Kind:
        """What is kept for every class.

        Raises:
            IntegrityError: Keys are counted, and there are none.
        """
        if self.second_moment != COUNTS and not isinstance(self.codebook, Whitening):
            return self.second_moment
        if self.codebook is None:
            raise IntegrityError(
                f"the store {self.path} counts keys and has none; restore the home from a backup"
            )
        return self.codebook

    # Classes

    @property
    def names(self) -> Mapping[int, str]:
        """Names of the classes by uid, oldest first."""
        return self._names

    def class_uid(self, name: str) -> int:
        """Return the uid of the class with this name or alias.

        Raises:
            UnknownClassError: No class has this name.
        """
        if name not in self._uids:
            names = list(self._names.values())
            known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise UnknownClassError(
                f"class {name!r} is unknown; "
                + (f"known: {known}" if known else "nothing was learned yet")
            )
        return self._uids[name]

    def canonical(self, name: str) -> str:
        """Return the name of the class that has this name or alias; a new name stays itself."""
        return self._names.get(self._uids.get(name, 0), name)

    def has_class(self, name: str) -> bool:
        """Whether a class has this name or alias."""
        return name in self._uids

    def add_class(self, name: str) -> int:
        """Return the uid of the class with this name or alias; a new one if there is none."""
        if name in self._uids:
            return self._uids[name]
        # In an old copy of the database the next uid may be that of a class unlearned since.
        cursor = self.connection.execute(
            "INSERT INTO classes(uid, name, created) VALUES (?, ?, ?)",
            (self._unspent_uid(), name, time.time()),
        )
        uid = int(cursor.lastrowid or 0)
        if self._vault is not None:
            self._vault.create(uid)  # on the disk before what it seals can be committed
        self._names[uid] = name
        self._uids[name] = uid
        self._n_seen[uid] = 0
        return uid

    def add_alias(self, alias: str, name: str) -> None:
        """Let a class be called by another name, which is free; inside a transaction."""
        uid = self.class_uid(name)
        self.connection.execute("INSERT INTO aliases VALUES (?, ?)", (alias, uid))
        self.reload_classes()

    def rename_class(self, old: str, new: str) -> int:
        """Give a class another name; the old one stays as its alias. Inside a transaction.

        Raises:
            UnknownClassError: No class has the old name.
            RequestError: The new name is another class's.
        """
        uid = self.class_uid(old)
        if self._uids.get(new, uid) != uid:
            raise RequestError(
                f"the name {new!r} is that of another class; choose one that is free"
            )
        before = self._names[uid]
        self.connection.execute("DELETE FROM aliases WHERE name = ?", (new,))
        if before != new:
            self.connection.execute("INSERT INTO aliases VALUES (?, ?)", (before, uid))
        self.connection.execute("UPDATE classes SET name = ? WHERE uid = ?", (new, uid))
        self.reload_classes()
        return uid

    def aliases(self) -> dict[str, str]:
        """Return the names of classes by their other names."""
        return {name: self._names[uid] for name, uid in self._uids.items()}

    def names_of(self, uid: int) -> tuple[str, ...]:
        """Return a class's name and its aliases."""
        rows = self.connection.execute(
            "SELECT name FROM aliases WHERE class_uid = ? ORDER BY name", (uid,)
        )
        return (self._names[uid], *(name for (name,) in rows))

    def n_seen(self) -> dict[int, int]:
        """Return how many samples of each class were learned."""
        return dict(self._n_seen)

    def n_stored(self) -> dict[int, int]:
        """Return how many samples of each class are kept for replay."""
        return {uid: len(self._stored.get(uid, ())) for uid in self._names}

    @property
    def n_stored_samples(self) -> int:
        """How many samples are kept for replay."""
        return self._n_stored_samples

    def is_stored(self, uid: int) -> bool:
        """Whether a sample is kept for replay."""
        return uid in self._sizes

    @property
    def stored_bytes(self) -> int:
        """Bytes of all kept pictures."""
        return self._stored_bytes

    # Samples

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

        Returns:
            Its uid, and whether it is kept for replay.

        Raises:
            ShapeError: x is not (D,) float16.
        """
        self._check_feature(x)
        self.step += 1
        self._n_seen[class_uid] += 1
        source_uid = self.source_uid(source)
        data = self._make_room(class_uid, picture, rng)
        uid = self._insert(
            Role.REPLAY, class_uid, x, data, source_uid=source_uid, frame=frame, time=time
        )
        if data is not None:
            self._stored.setdefault(class_uid, []).append(uid)
            self._n_stored_samples += 1
            self._stored_bytes += len(data)
            self._sizes[uid] = len(data)
        self.connection.execute(
            "UPDATE classes SET n_seen = n_seen + 1 WHERE uid = ?", (class_uid,)
        )
        shard = (class_uid, source_uid)
        self._n_unfolded[shard] = self._n_unfolded.get(shard, 0) + 1
        if self._n_unfolded[shard] >= fold_limit(self.num_features, self.statistic):
            self._fold(*shard)
        return uid, data is not None

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

    def draw(self, n: int, rng: np.random.Generator) -> tuple[Float16, Labels] | None:
        """Draw kept samples without repetition, each equally likely, and note the replay.

        Returns:
            Features (M, D) and class uids (M,), M = min(n, kept); None when nothing is kept.
        """
        total = self._n_stored_samples
        if n == 0 or total == 0:
            return None
        chosen = rng.choice(total, size=min(n, total), replace=False)
        # By uid, not as they came: a reopened store must draw what this one draws.
        classes = sorted(self._stored)
        lengths = np.array([len(self._stored[c]) for c in classes])
        ends = np.cumsum(lengths)
        starts = ends - lengths
        which = np.searchsorted(ends, chosen, side="right")
        owner = {
            self._stored[classes[c]][int(i - starts[c])]: classes[c]
            for c, i in zip(which.tolist(), chosen.tolist(), strict=True)
        }
        marks = ",".join("?" * len(owner))
        rows = self.connection.execute(
            f"SELECT uid, x FROM features WHERE uid IN ({marks}) ORDER BY uid", tuple(owner)
        ).fetchall()
        self.connection.execute(
            f"UPDATE samples SET last_step = ?, n_replays = n_replays + 1 WHERE uid IN ({marks})",
            (self.step, *owner),
        )
        x = self.features_of([self.unseal(owner[uid], "feature", uid, x) for uid, x in rows])
        return x, np.array([owner[uid] for uid, _ in rows], dtype=np.int64)

    def draw_due(self, n: int, *, rest: int, n_views: int) -> tuple[Float16, Labels] | None:
        """Take the kept samples whose rest is over, the longest overdue first, and note the replay.

        Args:
            n: Most samples to take.
            rest: Learned samples until one that is taken is due again.
            n_views: Views V of each; a sample without views comes as its own feature V times.

        Returns:
            Features (M, V, D) and class uids (M,), M <= n; None when nothing is due.
        """
        rows = self.connection.execute(
            "SELECT uid, class_uid, x FROM replay JOIN features USING (uid) "
            "WHERE is_stored AND due_step <= ? ORDER BY due_step, uid LIMIT ?",
            (self.step, n),
        ).fetchall()
        if not rows:
            return None
        uids = [uid for uid, _, _ in rows]
        marks = ",".join("?" * len(uids))
        owner = {uid: class_uid for uid, class_uid, _ in rows}
        views = {
            (uid, view): self.unseal(owner[uid], f"view {view}", uid, x)
            for uid, view, x in self.connection.execute(
                f"SELECT uid, view, x FROM views WHERE uid IN ({marks})", uids
            )
        }
        own = {uid: self.unseal(c, "feature", uid, x) for uid, c, x in rows}
        blobs = [views.get((uid, v), own[uid]) for uid in uids for v in range(n_views)]
        self.connection.execute(
            "UPDATE samples SET last_step = ?, due_step = ?, n_replays = n_replays + 1 "
            f"WHERE uid IN ({marks})",
            (self.step, self.step + rest, *uids),
        )
        x = self.features_of(blobs).reshape(len(rows), n_views, self.num_features)
        return x, np.array([c for _, c, _ in rows], dtype=np.int64)

    def add_views(self, uid: int, x: Float16) -> None:
        """Keep features (V - 1, D) of further views of a sample, view 1 on.

        The sample must be kept (`is_stored`).
        """
        (class_uid,) = self.connection.execute(
            "SELECT class_uid FROM samples WHERE uid = ?", (uid,)
        ).fetchone()
        self.connection.executemany(
            "INSERT INTO views VALUES (?, ?, ?)",
            [
                (uid, view, self.seal(class_uid, f"view {view}", uid, row.tobytes()))
                for view, row in enumerate(x, 1)
            ],
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
        return self.unseal(row[0], "picture", uid, row[1])

    def rows(self, role: Role) -> Rows:
        """Return the kept samples of a role that can be read, oldest first."""
        lost = self.lost_classes()
        found = [
            (uid, class_uid, self.unseal(class_uid, "feature", uid, x))
            for uid, class_uid, x in self.connection.execute(
                f"SELECT uid, class_uid, x FROM {role.value} JOIN features USING (uid) "
                "WHERE is_stored ORDER BY uid"
            )
            if class_uid not in lost
        ]
        return Rows(
            np.array([uid for uid, _, _ in found], dtype=np.int64),
            self.features_of([x for _, _, x in found]),
            np.array([class_uid for _, class_uid, _ in found], dtype=np.int64),
        )

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
                "SELECT uid, class_uid FROM replay WHERE is_stored ORDER BY uid"
            )
            if class_uid not in lost
        ]

    def origins(self, role: Role) -> list[Origin]:
        """Return where all kept samples of a role came from, oldest first."""
        rows = self.connection.execute(
            "SELECT s.uid, class_uid, source_uid, coalesce(text, ''), coalesce(frame, ''), time, "
            f"step, score FROM {role.value} s JOIN sources o ON o.uid = source_uid "
            "WHERE is_stored ORDER BY s.uid"
        )
        return [Origin(*row) for row in rows]

    def class_rows(self, class_uid: int) -> Float16:
        """Return the features (N, D) of a class that are still there, kept or not yet folded."""
        rows = self.connection.execute(
            "SELECT uid, x FROM features JOIN replay USING (uid) WHERE class_uid = ? ORDER BY uid",
            (class_uid,),
        ).fetchall()
        return self.features_of([self.unseal(class_uid, "feature", uid, x) for uid, x in rows])

    def sources_of(self, uids: Sequence[int], *roles: Role) -> list[int]:
        """Return the uids of the sources of some samples, and of all of some roles."""
        rows = self.connection.execute(
            "SELECT DISTINCT source_uid FROM samples WHERE uid IN (SELECT value FROM json_each(?)) "
            "OR role IN (SELECT value FROM json_each(?)) ORDER BY source_uid",
            (json.dumps(list(uids)), json.dumps([role.value for role in roles])),
        )
        return [int(uid) for (uid,) in rows]

    def note_attempt(self, class_uid: int) -> None:
        """Note until which class one was tried, taken or not; inside a transaction."""
        self.attempted_class = class_uid
        self.set_meta("attempted_class", class_uid)

    # Statistics

    def moments(self, y: int) -> Moments:
        """Return the statistics of all samples of class y that were learned."""
        folded = self._folded(y)
        rows = self._unfolded(y)
        if not len(rows):
            return folded
        fresh = Moments.of(rows, self.statistic)
        return fresh if folded.n == 0 else folded.plus(fresh)

    def all_moments(self) -> Mapping[int, Moments]:
        """Return the statistics of every class; each is read when it is asked for."""
        return _LazyMoments(self)

    # Position, head

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

    def set_second_moment(self, kind: str) -> None:
        """Change the statistic that is kept, without keys; only while no class is there."""
        if self._names:
            raise StoreError("the statistics of a store that holds classes cannot be changed")
        self.connection.execute("DELETE FROM fixed WHERE name = ?", (_CODEBOOK,))
        self.codebook = None
        self.set_meta("second_moment", kind)
        self.second_moment = kind

    def newest_rows(self, name: str, n: int) -> Float16:
        """Return the features (M, D) of the newest samples of a class that are there, newest last.

        Args:
            name: Name or alias of the class; of an unknown one there are none.
            n: Most of them.
        """
        class_uid = self._uids.get(name, 0)
        rows = self.connection.execute(
            "SELECT uid, x FROM features JOIN replay USING (uid) WHERE class_uid = ? "
            "ORDER BY uid DESC LIMIT ?",
            (class_uid, n),
        ).fetchall()
        return self.features_of(
            [self.unseal(class_uid, "feature", uid, x) for uid, x in rows[::-1]]
        )

    # Keys

    @property
    def is_sealed(self) -> bool:
        """Whether pictures, features and statistics are encrypted."""
        return self._vault is not None

    def destroy_key(self, class_uid: int) -> None:
        """Make what is left anywhere of a class unreadable; after its deletion was committed.

        May be repeated; does nothing in a plain store.

        Raises:
            StoreError: The key file cannot be written.
        """
        if self._vault is not None:
            self._vault.destroy(class_uid)

    def lost_classes(self) -> tuple[int, ...]:
        """Return the uids of classes that nobody can read any more, in an old copy of a store.

        Their key was destroyed. `stored_rows`, `stored_samples` and `all_moments` leave them out;
        `delete_class` deletes what is left of them.
        """
        if self._vault is None:
            return ()
        destroyed = self._vault.destroyed
        return tuple(uid for uid in self._names if uid in destroyed)

    def revived_keys(self) -> tuple[int, ...]:
        """Return the uids of unlearned classes whose key is there, as in an old key file."""
        if self._vault is None:
            return ()
        rows = self.connection.execute("SELECT target FROM tombstones WHERE kind = 'class'")
        return tuple(sorted({uid for (uid,) in rows} & self._vault.living - set(self._names)))

    def _check_keys(self, is_sealed: bool) -> None:
        """Check that a sealed store comes with its keys, and a plain one with none."""
        if is_sealed != (self._vault is not None):
            raise IntegrityError(
                f"the store {self.path} is encrypted and its key file is missing; restore "
                "class.keys"
                if is_sealed
                else f"the store {self.path} is not encrypted, its home has a key file; restore "
                "the database that belongs to it"
            )
        if self._vault is not None:
            self._vault.refresh()  # after the classes were read, so that a key is not behind
            missing = set(self._names) - self._vault.living - self._vault.destroyed
            if missing:
                names = ", ".join(self._names[uid] for uid in sorted(missing))
                raise IntegrityError(
                    f"{self._vault.path} lacks the key of {names}; restore the newest class.keys"
                )

    def _unspent_uid(self) -> int | None:
        """Return the uid of a new class, or None to let the database choose the next."""
        if self._vault is None:
            return None
        (uid,) = self.connection.execute(
            "SELECT coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'classes'"
        ).fetchone()
        while uid in self._vault.destroyed:
            uid += 1
        return int(uid)

    def seal(self, class_uid: int, what: str, row: int, data: bytes) -> bytes:
        """Return data as it is kept; every blob of a class's samples goes through here.

        Args:
            class_uid: The class whose key seals it.
            what: Kind of the data; each column that holds some has its own.
            row: Uid of its row.
            data: The bytes.
        """
        if self._vault is None:
            return data
        return self._vault.seal(class_uid, f"{what} of row {row}".encode(), data)

    def unseal(self, class_uid: int, what: str, row: int, data: bytes) -> bytes:
        """Return data that `seal` gave for the same class, kind and row.

        Raises:
            KeyDestroyedError: The class was unlearned.
            IntegrityError: The data were changed, or are another row's.
        """
        if self._vault is None:
            return data
        return self._vault.open(class_uid, f"{what} of row {row}".encode(), data)

    def sources(self) -> dict[int, str]:
        """Return where samples came from, by uid; a text that was emptied is left out."""
        rows = self.connection.execute(
            "SELECT uid, text FROM sources WHERE text IS NOT NULL ORDER BY uid"
        )
        return dict(rows)

    def source_uid(self, text: str) -> int:
        """Return the uid of a source, which is new if its text is; inside a transaction."""
        text = plain_text(text)
        if text not in self._sources:
            cursor = self.connection.execute("INSERT INTO sources(text) VALUES (?)", (text,))
            self._sources[text] = int(cursor.lastrowid or 0)
        return self._sources[text]

    def n_by_source(self) -> dict[str, int]:
        """Return how many samples there are rows of, by where they came from, oldest first."""
        return dict(
            self.connection.execute(
                "SELECT coalesce(text, '') AS said, count(*) FROM sources "
                "JOIN replay ON source_uid = sources.uid GROUP BY said ORDER BY min(sources.uid)"
            )
        )

    def keep_clear(self, table: str, uid: int) -> None:
        """Have a table never give a uid to a new row; inside a transaction."""
        execute = self.connection.execute
        if not execute("SELECT 1 FROM sqlite_sequence WHERE name = ?", (table,)).fetchone():
            execute("INSERT INTO sqlite_sequence(name, seq) VALUES (?, 0)", (table,))
        execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (uid, table))

    def blocked_classes(self) -> frozenset[int]:
        """Return the classes whose unlearning was asked for and is not done: never to be named."""
        rows = self.connection.execute(
            "SELECT target FROM requests WHERE kind = 'class' AND phase = 'PENDING'"
        )
        return frozenset(int(uid) for (uid,) in rows)

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

    def reset(self) -> None:
        """Forget positions and counters, as after `init`; no uid is ever given twice.

        A tombstone names a uid: one that was given again would look as if it was unlearned.
        """
        for table in ("positions", "evaluations", "latencies"):
            self.connection.execute(f"DELETE FROM {table}")
        self.connection.execute("DELETE FROM meta WHERE key = ?", (PROBES,))
        self.step = 0
        self.note_attempt(0)

    # Inside

    def _load(self) -> None:
        """Read what is kept in memory: counters, names and the list of kept samples."""
        meta = dict(self.connection.execute("SELECT key, value FROM meta"))
        self.step, self.version = int(meta["step"]), int(meta["version"])
        self.attempted_class = int(meta.get("attempted_class", 0))
        self.reload_classes()

    def reload_classes(self) -> None:
        """Read classes, sources and what is kept of them anew; inside a transaction."""
        self.loads += 1
        rows = self.connection.execute("SELECT uid, name, n_seen FROM classes ORDER BY uid")
        self._names: dict[int, str] = {}
        self._n_seen: dict[int, int] = {}
        for uid, name, n_seen in rows:
            self._names[uid], self._n_seen[uid] = name, n_seen
        self._uids = {name: uid for uid, name in self._names.items()}
        self._uids |= dict(self.connection.execute("SELECT name, class_uid FROM aliases"))
        self._sources = {text: uid for uid, text in self.sources().items()}
        self._n_unfolded: dict[tuple[int, int], int] = {
            (class_uid, source_uid): n
            for class_uid, source_uid, n in self.connection.execute(
                "SELECT class_uid, source_uid, count(*) FROM replay WHERE NOT is_folded "
                "GROUP BY class_uid, source_uid"
            )
        }
        self._stored: dict[int, list[int]] = {}
        self._sizes: dict[int, int] = {}
        for uid, class_uid, size in self.connection.execute(
            "SELECT uid, class_uid, size_bytes FROM replay WHERE is_stored ORDER BY uid"
        ):
            self._stored.setdefault(class_uid, []).append(uid)
            self._sizes[uid] = size
        self._n_stored_samples = len(self._sizes)
        self._stored_bytes = sum(self._sizes.values())

    def _read_codebook(self) -> Keys | None:
        row = self.connection.execute(
            "SELECT digest, data FROM fixed WHERE name = ?", (_CODEBOOK,)
        ).fetchone()
        if row is None:
            return None
        try:
            codebook = load_keys(load_arrays(row[1]))
        except SafetensorError as error:
            raise IntegrityError(
                f"the keys are damaged ({error}); restore the home from a backup"
            ) from error
        if codebook.digest != row[0]:
            raise IntegrityError("the keys were changed; restore the home from a backup")
        return codebook

    def set_meta(self, key: str, value: object) -> None:
        """Write an entry that stands for the whole store; inside a transaction."""
        self.connection.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT(key) DO UPDATE SET value = excluded.value",
            (key, str(value)),
        )

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
        sealed = self.seal(class_uid, "feature", uid, x.tobytes())
        execute("INSERT INTO features VALUES (?, ?)", (uid, sealed))
        if picture is not None:
            sealed = self.seal(class_uid, "picture", uid, picture)
            execute("INSERT INTO pictures VALUES (?, ?)", (uid, sealed))
        return uid

    def _make_room(
        self, class_uid: int, picture: Callable[[], bytes], rng: np.random.Generator
    ) -> bytes | None:
        """Return the picture if it is to be kept, after evicting what it displaces."""
        is_crowded = self._n_stored_samples >= self.capacity_samples
        victim = self._victim(class_uid, rng) if is_crowded else None
        if is_crowded and victim is None:
            return None
        data = picture()
        if len(data) > self.capacity_bytes:
            return None
        if not is_crowded and not self._fits(len(data)):
            victim = self._victim(class_uid, rng)
            if victim is None:
                return None
        while victim is not None and not self._fits(len(data)):
            self._evict(victim, rng)
            victim = min(self._stored, key=lambda c: (-len(self._stored[c]), c))
        return data

    def _fits(self, size: int) -> bool:
        """Whether one more picture of this size has room."""
        return (
            self._n_stored_samples < self.capacity_samples
            and self._stored_bytes + size <= self.capacity_bytes
        )

    def _victim(self, class_uid: int, rng: np.random.Generator) -> int | None:
        kept = {c: len(uids) for c, uids in self._stored.items() if uids}
        return class_to_evict(kept, class_uid, self._n_seen[class_uid], rng)

    def _evict(self, class_uid: int, rng: np.random.Generator) -> None:
        """Drop a random kept picture of a class, and its row unless the statistics need it."""
        uids = self._stored[class_uid]
        uid = uids.pop(int(rng.integers(len(uids))))
        deleted = self.connection.execute(
            "DELETE FROM samples WHERE uid = ? AND is_folded", (uid,)
        ).rowcount
        if not deleted:
            self.connection.execute("DELETE FROM pictures WHERE uid = ?", (uid,))
            self.connection.execute("DELETE FROM views WHERE uid = ?", (uid,))
            self.connection.execute(
                "UPDATE samples SET is_stored = 0, size_bytes = 0 WHERE uid = ?", (uid,)
            )
        self._n_stored_samples -= 1
        self._stored_bytes -= self._sizes.pop(uid)

    def _fold(self, class_uid: int, source_uid: int) -> None:
        """Add a class's rows of a source to its statistics, drop those that nothing else needs."""
        shard = (class_uid, source_uid)
        fresh = Moments.of(self._unfolded(class_uid, source_uid), self.statistic)
        folded = self._folded(class_uid, source_uid)
        self._write_folded(class_uid, source_uid, folded.plus(fresh) if folded.n else fresh)
        self.connection.execute(
            "DELETE FROM samples "
            "WHERE role = 'replay' AND class_uid = ? AND source_uid = ? AND NOT is_stored",
            shard,
        )
        self.connection.execute(
            "UPDATE samples SET is_folded = 1 "
            "WHERE role = 'replay' AND class_uid = ? AND source_uid = ? AND NOT is_folded",
            shard,
        )
        self._n_unfolded[shard] = 0

    def take_off_statistics(self, class_uid: int, source_uid: int, moments: Moments) -> None:
        """Take samples off the folded statistics of a class and source, where there are some."""
        folded = self._folded(class_uid, source_uid)
        if folded.n:
            self._write_folded(class_uid, source_uid, folded.minus(moments))

    def _write_folded(self, class_uid: int, source_uid: int, moments: Moments) -> None:
        if not moments.n:
            self.connection.execute(
                "DELETE FROM class_stats WHERE class_uid = ? AND source_uid = ?",
                (class_uid, source_uid),
            )
            return
        total, second = moments.pack(self.statistic)
        self.connection.execute(
            "INSERT INTO class_stats VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "n = excluded.n, total = excluded.total, second = excluded.second",
            (
                class_uid,
                source_uid,
                moments.n,
                self.seal(class_uid, "total", source_uid, total),
                self.seal(class_uid, "second", source_uid, second),
            ),
        )

    def _folded(self, y: int, source_uid: int | None = None) -> Moments:
        """Return the folded statistics of a class, of one source or of all."""
        found = Moments.empty(self.num_features, self.statistic)
        for source, n, total, second in self.connection.execute(
            "SELECT source_uid, n, total, second FROM class_stats "
            "WHERE class_uid = ? AND source_uid = coalesce(?, source_uid) ORDER BY source_uid",
            (y, source_uid),
        ):
            total = self.unseal(y, "total", source, total)
            second = self.unseal(y, "second", source, second)
            moments = Moments.unpack(n, total, second, self.statistic)
            found = found.plus(moments) if found.n else moments
        return found

    def _unfolded(self, y: int, source_uid: int | None = None) -> Float16:
        rows = self.connection.execute(
            "SELECT s.uid, f.x FROM replay s JOIN features f USING (uid) WHERE s.class_uid = ? "
            "AND s.source_uid = coalesce(?, s.source_uid) AND NOT s.is_folded ORDER BY s.uid",
            (y, source_uid),
        ).fetchall()
        return self.features_of([self.unseal(y, "feature", uid, x) for uid, x in rows])

    def features_of(self, blobs: list[bytes]) -> Float16:
        """Return features (N, D) from their bytes.

        Raises:
            IntegrityError: One is of another width.
        """
        data = np.frombuffer(b"".join(blobs), np.float16)
        if data.size != len(blobs) * self.num_features:
            raise IntegrityError(
                f"a stored feature does not have {self.num_features} values; restore the home "
                "from a backup"
            )
        return data.reshape(len(blobs), self.num_features)


class _LazyMoments(Mapping[int, Moments]):
    def __init__(self, store: Store) -> None:
        self._store = store

    def __getitem__(self, uid: int) -> Moments:
        return self._store.moments(uid)

    def __iter__(self) -> Iterator[int]:
        lost = self._store.lost_classes()
        return (uid for uid in self._store.names if uid not in lost)

    def __len__(self) -> int:
        return len(self._store.names) - len(self._store.lost_classes())


def _connect(path: Path | str, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a connection with the pragmas that the promises rest on, read back."""
    if read_only:
        uri = f"{Path(path).resolve().as_uri()}?mode=ro"
        if os.statvfs(path).f_flag & os.ST_RDONLY and not os.path.exists(f"{path}-wal"):
            # SQLite would make a log, even to read; here nobody can write, so none is needed.
            uri += "&immutable=1"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    else:
        connection = sqlite3.connect(path, isolation_level=None)
    try:
        execute = connection.execute
        execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        execute("PRAGMA foreign_keys = ON")
        execute("PRAGMA temp_store = MEMORY")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA secure_delete = ON")
        # VACUUM would renumber nothing (explicit keys), and a trusted schema runs no foreign code.
        execute("PRAGMA trusted_schema = OFF")
        wanted = {"secure_delete": 1, "foreign_keys": 1, "synchronous": 2}
        for pragma, value in wanted.items():
            (found,) = execute(f"PRAGMA {pragma}").fetchone()
            if found != value:
                raise IntegrityError(
                    f"SQLite {sqlite3.sqlite_version} answers {pragma} = {found}; edgecl needs "
                    f"{value}; install an SQLite that has it"
                )
    except BaseException:
        connection.close()
        raise
    return connection


def _use_log(connection: sqlite3.Connection) -> None:
    """Have the file in WAL mode, whatever somebody has set: other journals keep deleted pages."""
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise IntegrityError(
            f"SQLite keeps the store's journal_mode at {mode!r}; edgecl needs WAL: put the home on "
            "a local file system, and stop other programs that use it"
        )


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into one line that says what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError):
            raise
        if isinstance(error, sqlite3.OperationalError) and "no such" not in str(error):
            remedy = {
                "locked": "another process holds it; wait for it or stop it",
                "full": "free some disk space; nothing of this step was kept",
                "readonly": "make the home writable",
                "unable to open": "check that the home can be read, and written: SQLite needs a "
                "log beside the store, even to read",
            }
            hint = next(
                (h for word, h in remedy.items() if word in str(error)),
                "check the disk and its free space; nothing of this step was kept",
            )
            raise StoreError(f"the store {path} cannot be used ({error}); {hint}") from error
        raise IntegrityError(
            f"the store {path} is damaged ({error}); restore the home from a backup"
        ) from error


def holds_name(text: str, name: str) -> bool:
    """Whether a text says a class's name; very short names stand in every path and do not count."""
    return len(name) >= _MIN_NAME_IN_TEXT and name in unicodedata.normalize("NFC", text)


def plain_text(name: str) -> str:
    """Return a file name as the store keeps it; bytes that are not UTF-8 become escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def describe(store: Store) -> dict[str, Any]:
    """Return what `edgecl status` says about a store, JSON values only."""
    seen, stored = store.n_seen(), store.n_stored()
    parts = bytes_by_part(store)
    (n_receipts,) = store.connection.execute("SELECT count(*) FROM receipts").fetchone()
    (n_review,) = store.connection.execute("SELECT count(*) FROM review").fetchone()
    return {
        "classes": {
            name: {"seen": seen[uid], "stored": stored[uid]} for uid, name in store.names.items()
        },
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


def bytes_by_part(store: Store) -> dict[str, int]:
    """Return how many bytes each part of what was learned has."""
    blobs = {
        part: f"SELECT {{}} FROM {role.value} JOIN features USING (uid) JOIN pictures USING (uid)"
        for part, role in (("probes", Role.HELD_OUT), ("review queue", Role.REVIEW))
    }
    queries = {
        "kept pictures": "SELECT sum(length(data)) FROM pictures JOIN replay USING (uid)",
        "features": "SELECT sum(length(x)) FROM (SELECT x FROM features JOIN replay USING (uid) "
        "UNION ALL SELECT x FROM views)",
        "statistics": "SELECT sum(length(total) + length(second)) FROM class_stats",
        "head": "SELECT sum(length(data)) FROM head",
        "adapters": "SELECT sum(length(data)) FROM adapters",
    } | {part: query.format("sum(length(x) + length(data))") for part, query in blobs.items()}
    execute = store.connection.execute
    return {part: int(execute(query).fetchone()[0] or 0) for part, query in queries.items()}


def dump_json(value: object) -> str:
    """Write JSON as receipts hash it: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
