"""Statistics by class and source: folded sums, and features that are not yet part of them.

A sample's feature counts in two ways, as replay and as statistics. Its row lives as long as one of
the two needs it: an evicted sample keeps its feature until that was folded into its class's
statistics, which happens once the folded form is smaller.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from edgecl.errors import IntegrityError, StoreError
from edgecl.heads.memory import ByClass, Sums, Whole
from edgecl.heads.statistics import Moments, Statistic, statistic_of
from edgecl.runtime.codebook import Keys, load_keys
from edgecl.store.classes import Classes
from edgecl.types import Float16, Float64

CODEBOOK = "codebook"


class Statistics(Classes):
    """The sums of every class, and what they are taken of."""

    def prepare(self) -> None:
        """Read what the sums are taken of."""
        meta = self.meta()
        self.feature_map = meta["feature_map"]
        self.num_features = int(meta["num_features"])
        self.second_moment = meta["second_moment"]
        self.codebook = self._read_codebook()

    def reload_classes(self) -> None:
        """Read also where the last run begins; features that are not folded are counted later."""
        super().reload_classes()
        self._n_unfolded: dict[tuple[int, int], int] = {}
        row = self.connection.execute("SELECT first_sample FROM last_run").fetchone()
        self._run_begin = None if row is None else int(row[0])

    def begin_run_at(self, newest_sample: int | None) -> None:
        """Take samples with larger uids as those of a run; None while no run can be taken back."""
        self._run_begin = newest_sample

    def is_of_run(self, uid: int) -> bool:
        """Whether a sample came with the last run, so that `run_stats` counts it if it is folded.

        What a merge moved did, too: it is all of its source that is in `run_stats`.
        """
        if self._run_begin is None:
            return False
        if uid > self._run_begin:
            return True
        (is_moved,) = self.connection.execute(
            "SELECT EXISTS (SELECT 1 FROM last_run, json_each(body, '$.moved') m "
            "WHERE kind = 'merge' AND json_extract(m.value, '$[0]') = ?)",
            (uid,),
        ).fetchone()
        return bool(is_moved)

    @property
    def statistic(self) -> Statistic:
        """What is kept for every class.

        Raises:
            IntegrityError: Keys are counted, and there are none.
        """
        return statistic_of(self.second_moment, self.num_features, self.codebook)

    def set_second_moment(self, kind: str) -> None:
        """Change the statistic that is kept, without keys; only while no class is there."""
        if self._names:
            raise StoreError("the statistics of a store that holds classes cannot be changed")
        self.connection.execute("DELETE FROM fixed WHERE name = ?", (CODEBOOK,))
        self.codebook = None
        self.set_meta("second_moment", kind)
        self.second_moment = kind

    def moments(self, y: int) -> Moments:
        """Return the statistics of all samples of class y that were learned."""
        folded = self.folded(y)
        rows = self._unfolded(y)
        if not len(rows):
            return folded
        fresh = self.statistic.of(rows)
        return fresh if folded.n == 0 else folded.plus(fresh)

    def all_moments(self) -> Mapping[int, Moments]:
        """Return the statistics of every class; each is read when it is asked for."""
        return _LazyMoments(self)

    @abstractmethod
    def whole(self) -> Whole:
        """Return the statistics of all learned samples, and the sums of each class."""

    @abstractmethod
    def class_sums(self) -> Sums:
        """Return each class's count and sum of features, without the Gram matrix of all."""

    @abstractmethod
    def drop_total(self) -> None:
        """Keep the total of what was learned no longer; inside a transaction."""

    def sums_of(self, y: int) -> tuple[int, Float64, Float64] | None:
        """Return count, sum and sum of squares of every feature (D,) of a class's samples.

        As `moments` has them, without the products of features. None where no such sums are kept.
        """
        folded = self.folded(y)
        squares = folded.second.diagonal() if folded.second.ndim == 2 else folded.second
        if not folded.total.shape == squares.shape == (self.num_features,):
            return None
        x = self._unfolded(y).astype(np.float64)
        total: Float64 = folded.total + x.sum(axis=0)
        return folded.n + len(x), total, squares + np.einsum("nd,nd->d", x, x)

    def classes_with_sums(self) -> frozenset[int]:
        """Return the classes of which samples were folded into sums."""
        rows = self.connection.execute("SELECT DISTINCT class_uid FROM class_stats")
        return frozenset(int(uid) for (uid,) in rows)

    def class_rows(self, class_uid: int) -> Float16:
        """Return the features (N, D) of a class that are still there, kept or not yet folded."""
        rows = self.connection.execute(
            "SELECT uid, x FROM features JOIN replay USING (uid) WHERE class_uid = ? ORDER BY uid",
            (class_uid,),
        ).fetchall()
        return self.opened([(uid, class_uid, x) for uid, x in rows])

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
        return self.opened([(uid, class_uid, x) for uid, x in rows[::-1]])

    def opened(self, rows: Iterable[tuple[int, int, bytes]]) -> Float16:
        """Return features (N, D) of rows of uid, class uid and bytes as they are kept."""
        return self.features_of(self.unseal(c, "features.x", uid, x) for uid, c, x in rows)

    def features_of(self, blobs: Iterable[bytes]) -> Float16:
        """Return features (N, D) from their bytes, which are there only once.

        Raises:
            IntegrityError: One is of another width.
        """
        data, width = bytearray(), 2 * self.num_features
        for blob in blobs:
            data += blob
            if len(blob) != width:
                raise IntegrityError(
                    f"a stored feature does not have {self.num_features} values; restore the home "
                    "from a backup"
                )
        return np.frombuffer(data, np.float16).reshape(len(data) // width, self.num_features)

    def take_off_statistics(
        self,
        class_uid: int,
        source_uid: int,
        moments: Moments,
        *,
        of_run: bool = False,
        is_moved: bool = False,
    ) -> None:
        """Take samples off the folded statistics of a class and source, where there are some.

        Args:
            class_uid: The class.
            source_uid: The source.
            moments: Statistics of the samples.
            of_run: Whether they came with the last run.
            is_moved: Whether they stay learned, and so in the total that is kept.
        """
        for table in ("class_stats", "run_stats")[: 1 + of_run]:
            folded = self.folded(class_uid, source_uid, table)
            if folded.n:
                left = folded.minus(moments)
                self.write_folded(class_uid, source_uid, left, table, is_moved=is_moved)

    def write_folded(
        self,
        class_uid: int,
        source_uid: int,
        moments: Moments,
        table: str = "class_stats",
        *,
        is_moved: bool = False,
    ) -> None:
        """Write the folded statistics of a class and source; of no sample, no row.

        The total that is kept goes with what it was made of, unless samples were only moved.
        """
        if table == "class_stats" and not is_moved:
            self.drop_total()
        if not moments.n:
            self.connection.execute(
                f"DELETE FROM {table} WHERE class_uid = ? AND source_uid = ?",
                (class_uid, source_uid),
            )
            return
        total, second = self.statistic.pack(moments)
        self.connection.execute(
            f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "n = excluded.n, total = excluded.total, second = excluded.second",
            (
                class_uid,
                source_uid,
                moments.n,
                self.seal(class_uid, f"{table}.total", source_uid, total),
                self.seal(class_uid, f"{table}.second", source_uid, second),
            ),
        )

    def folded(self, y: int, source_uid: int | None = None, table: str = "class_stats") -> Moments:
        """Return the folded statistics of a class, of one source or of all."""
        found = self.statistic.empty()
        for source, n, total, second in self.connection.execute(
            f"SELECT source_uid, n, total, second FROM {table} "
            "WHERE class_uid = ? AND source_uid = coalesce(?, source_uid) ORDER BY source_uid",
            (y, source_uid),
        ):
            total = self.unseal(y, f"{table}.total", source, total)
            second = self.unseal(y, f"{table}.second", source, second)
            moments = self.statistic.unpack(n, total, second)
            found = found.plus(moments) if found.n else moments
        return found

    def _unfolded(self, y: int) -> Float16:
        rows = self.connection.execute(
            "SELECT s.uid, f.x FROM replay s JOIN features f USING (uid) "
            "WHERE s.class_uid = ? AND NOT s.is_folded ORDER BY s.uid",
            (y,),
        ).fetchall()
        return self.opened([(uid, y, x) for uid, x in rows])

    def _count_unfolded(self, class_uid: int, source_uid: int, n: int = 1) -> None:
        """Count new features, and fold those of their class and source once that is smaller."""
        shard, limit = (class_uid, source_uid), self.statistic.fold_limit
        if self._n_seen[class_uid] < limit:
            return  # none of its sources has as many
        if shard in self._n_unfolded:
            self._n_unfolded[shard] += n
        else:
            (self._n_unfolded[shard],) = self.connection.execute(
                "SELECT count(*) FROM replay WHERE class_uid = ? AND source_uid = ? "
                "AND NOT is_folded",
                shard,
            ).fetchone()
        if self._n_unfolded[shard] >= limit:
            self._fold(*shard)

    def _fold(self, class_uid: int, source_uid: int) -> None:
        """Add a class's rows of a source to its statistics, drop those that nothing else needs."""
        shard = (class_uid, source_uid)
        rows = self.connection.execute(
            "SELECT s.uid, f.x FROM replay s JOIN features f USING (uid) WHERE s.class_uid = ? "
            "AND s.source_uid = ? AND NOT s.is_folded ORDER BY s.uid",
            shard,
        ).fetchall()
        x = self.opened([(uid, class_uid, data) for uid, data in rows])
        fresh = self.statistic.of(x)
        self._add_folded(*shard, fresh)
        if self._run_begin is not None and rows[-1][0] > self._run_begin:
            n_before = sum(uid <= self._run_begin for uid, _ in rows)
            part = self.statistic.of(x[n_before:]) if n_before else fresh
            self._add_folded(*shard, part, "run_stats")
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

    def _add_folded(
        self, class_uid: int, source_uid: int, fresh: Moments, table: str = "class_stats"
    ) -> None:
        folded = self.folded(class_uid, source_uid, table)
        sums = folded.plus(fresh) if folded.n else fresh
        self.write_folded(class_uid, source_uid, sums, table)

    def _read_codebook(self) -> Keys | None:
        row = self.connection.execute(
            "SELECT digest, data FROM fixed WHERE name = ?", (CODEBOOK,)
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


class _LazyMoments(ByClass):
    def __init__(self, store: Statistics) -> None:
        self._store = store

    def __getitem__(self, uid: int) -> Moments:
        return self._store.moments(uid)

    def __iter__(self) -> Iterator[int]:
        lost = self._store.lost_classes()
        return (uid for uid in self._store.names if uid not in lost)

    def __len__(self) -> int:
        return len(self._store.names) - len(self._store.lost_classes())

    def whole(self) -> Whole:
        return self._store.whole()

    def class_sums(self) -> Sums:
        return self._store.class_sums()
