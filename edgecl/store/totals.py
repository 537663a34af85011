"""What all learned samples add up to: a matrix that is kept, and the rows since.

Sums are exact (heads/statistics.py), so it does not matter in what order they are added, and the
total that is kept is, bit for bit, the one that the classes add up to. Whoever changes what was
learned by another way than learning more drops it, or says in `class_totals` what moved. A sealed
home keeps none: with the statistics of the other classes it would tell those of one whose key was
destroyed (docs/decisions/0027).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from edgecl.heads.memory import Sums, Whole, add_rows, whole_of_rows
from edgecl.heads.statistics import Gram, Moments
from edgecl.store.statistics import Statistics
from edgecl.store.table import Role
from edgecl.types import Float16, Labels

# Rows of lite0 that are added up in a fifth of a second; writing the total then costs less a row
# than the rows themselves.
_MOST_SINCE = 2048
_MOST_SINCE_PER_CLASS = 4
# At the end of a run it pays for fewer.
_MOST_SINCE_AT_END = 256


class Totals(Statistics):
    """The total of the statistics."""

    def reload_classes(self) -> None:
        """Read also how many learned samples are not in the total that is kept."""
        super().reload_classes()
        (newest,) = self.connection.execute("SELECT max(newest) FROM totals").fetchone()
        self._n_since = sum(self._n_seen.values())
        if newest is not None:
            (self._n_since,) = self.connection.execute(
                "SELECT count(*) FROM replay WHERE uid > ?", (newest,)
            ).fetchone()

    def total_is_due(self, *, at_end: bool = False) -> bool:
        """Whether it pays to keep the total anew.

        Args:
            at_end: Whether nothing more is learned for now.
        """
        most = max(_MOST_SINCE, _MOST_SINCE_PER_CLASS * len(self._names))
        limit = _MOST_SINCE_AT_END if at_end else most
        return self._n_since >= limit and not self.is_sealed and self.second_moment == Gram.name

    def save_total(self, whole: Whole) -> None:
        """Keep the total of all that was learned, inside a transaction; nothing if it is not exact.

        Args:
            whole: Of all learned samples.
        """
        if not whole.moments.is_exact:
            return
        execute = self.connection.execute
        there = dict(execute("SELECT class_uid, n FROM class_totals"))
        self.connection.executemany(
            "INSERT OR REPLACE INTO class_totals VALUES (?, ?, ?)",
            [
                (uid, n, total.astype("<f8").tobytes())
                for uid, (n, total) in whole.sums.items()
                if there.get(uid) != n
            ],
        )
        (newest,) = execute("SELECT coalesce(max(uid), 0) FROM samples").fetchone()
        execute("DELETE FROM totals")
        row = (newest, whole.moments.n, *self.statistic.pack(whole.moments))
        execute("INSERT INTO totals VALUES (?, ?, ?, ?)", row)
        self._n_since = 0

    def drop_total(self) -> None:
        """Keep the total no longer, since it may not be that of what is there; in a transaction."""
        self.connection.execute("DELETE FROM totals")
        self.connection.execute("DELETE FROM class_totals")
        self._n_since = sum(self._n_seen.values())

    def move_in_total(self, uid: int, x: Float16, of: int, to: int) -> None:
        """Note that a learned sample goes from one class to another; inside a transaction.

        Args:
            uid: The sample.
            x: Its quantised feature (D,).
            of: Uid of its class.
            to: Uid of the other.
        """
        execute = self.connection.execute
        if not execute("SELECT 1 FROM totals WHERE newest >= ?", (uid,)).fetchone():
            return
        for class_uid, sign in ((of, -1), (to, 1)):
            query = "SELECT n, total FROM class_totals WHERE class_uid = ?"
            row = execute(query, (class_uid,)).fetchone()
            n, total = row or (0, bytes(8 * self.num_features))
            changed = np.frombuffer(total, "<f8") + sign * x.astype(np.float64)
            execute(
                "INSERT OR REPLACE INTO class_totals VALUES (?, ?, ?)",
                (class_uid, n + sign, changed.astype("<f8").tobytes()),
            )

    def whole(self) -> Whole:
        """Return the statistics of all learned samples that can be read, and each class's sums."""
        kept = self._kept()
        if kept is not None and {uid: n for uid, (n, _) in kept.sums.items()} == self._n_seen:
            return kept
        return self._added_up()

    def total_fault(self) -> str:
        """Return how what is kept differs from what the classes add up to; '' if it does not."""
        kept = self._kept()
        anew = kept and self._added_up()
        if kept is None or anew is None or not anew.moments.is_exact:
            return ""
        same = [
            kept.moments.is_same(anew.moments),
            *(n == kept.sums[uid][0] for uid, (n, _) in anew.sums.items()),
            *(np.array_equal(kept.sums[uid][1], total) for uid, (_, total) in anew.sums.items()),
        ]
        return "" if all(same) else "the total that is kept is not that of the classes"

    def _kept(self) -> Whole | None:
        """Return what is kept with the rows since; None if nothing is."""
        row = self.connection.execute("SELECT newest, n, total, second FROM totals").fetchone()
        if row is None:
            return None
        newest, n, *packed = row
        moments = self.statistic.unpack(n, *packed)
        return self._with_rows_since(newest, Whole(moments, self._kept_sums()))

    def _kept_sums(self) -> Sums:
        rows = self.connection.execute("SELECT class_uid, n, total FROM class_totals")
        return {uid: (n, np.frombuffer(data, "<f8").astype(np.float64)) for uid, n, data in rows}

    def _added_up(self) -> Whole:
        """Add up what is folded, class by class, and all other rows in one product."""
        lost = self.lost_classes()
        known = (uid for uid in self._names if uid not in lost)
        return self._with_rows_since(0, self._with_folded((c, self.folded(c)) for c in known))

    def class_sums(self) -> Sums:
        """Return each class's count and sum of features, without the Gram matrix of all."""
        kept = self.connection.execute("SELECT newest FROM totals").fetchone()
        if kept is not None:
            found = self._sums_since(kept[0], self._kept_sums())
            if {uid: n for uid, (n, _) in found.items()} == self._n_seen:
                return found
        folded = {uid: self.folded(uid) for uid in self._names if uid not in self.lost_classes()}
        return self._sums_since(0, {uid: (part.n, part.total) for uid, part in folded.items()})

    def _sums_since(self, newest: int, sums: Sums) -> Sums:
        for x, classes in self._rows_since(newest):
            add_rows(sums, x, classes)
        return self._in_order(sums)

    def _in_order(self, sums: Sums) -> Sums:
        """Return sums in the order in which the classes came; of one without samples zeros."""
        lost, nothing = self.lost_classes(), np.zeros(self.num_features)
        order = [uid for uid in self._names if uid not in lost]
        return {uid: sums.get(uid) or (0, nothing.copy()) for uid in order}

    def _with_rows_since(self, newest: int, whole: Whole) -> Whole:
        """Add the rows that came after a sample and are not folded."""
        found = self._with_rows(whole, self._rows_since(newest))
        return Whole(found.moments, self._in_order(found.sums))

    def _with_rows(self, whole: Whole, rows: Iterable[tuple[Float16, Labels]]) -> Whole:
        moments, sums = whole.moments, dict(whole.sums)
        for x, classes in rows:
            part = self.statistic.of(x)
            moments = moments.absorb(part) if moments.n else part
            add_rows(sums, x, classes)
        return Whole(moments, sums)

    def whole_of_sample(self, uid: int) -> Whole:
        """Return what one learned sample adds; nothing of one that is not learned, or not there."""
        return self._with_rows(self._with_folded(()), self._rows_where("s.uid = ?", uid))

    def whole_of_learned(self, samples: Mapping[int, tuple[int, Float16]]) -> Whole:
        """Return what learned samples add up to; nothing of those that are held out by now.

        Args:
            samples: Class and feature (D,) by uid. What has a row is of the class that stands
                there, since it may have got another name.
        """
        found = dict(samples)
        rows = self.connection.execute(
            "SELECT uid, class_uid, role FROM samples "
            "WHERE uid IN (SELECT value FROM json_each(?))",
            (json.dumps(list(samples)),),
        )
        for uid, class_uid, role in rows:
            if role == Role.REPLAY.value:
                found[uid] = class_uid, samples[uid][1]
            else:
                del found[uid]
        classes = [class_uid for class_uid, _ in found.values()]
        return whole_of_rows([x for _, x in found.values()], classes, self.statistic)

    def whole_of_source(self, uid: int) -> Whole | None:
        """Return what all learned samples of a source add up to; None where no head asks that."""
        if self.second_moment != Gram.name:
            return None
        rows = self.connection.execute(
            "SELECT class_uid FROM class_stats WHERE source_uid = ?", (uid,)
        ).fetchall()
        whole = self._with_folded((c, self.folded(c, uid)) for (c,) in rows)
        fresh = self._rows_where("s.source_uid = ? AND NOT s.is_folded", uid)
        return self._with_rows(whole, fresh)

    def whole_of_run(self, first: int, folded: Iterable[tuple[int, Moments]]) -> Whole | None:
        """Return what was learned by the last run; None where no head asks that.

        Args:
            first: Uid of the newest sample before it.
            folded: Class and statistics of what it learned and is folded.
        """
        if self.second_moment != Gram.name:
            return None
        return self._with_rows(self._with_folded(folded), self._rows_since(first))

    def _with_folded(self, parts: Iterable[tuple[int, Moments]]) -> Whole:
        """Add up folded statistics, each of a class."""
        moments = self.statistic.empty()
        sums: Sums = {}
        for uid, part in parts:
            n, total = sums.get(uid, (0, np.zeros_like(part.total)))
            sums[uid] = (n + part.n, total + part.total)
            moments = moments.absorb(part) if part.n else moments
        return Whole(moments, sums)

    def _rows_since(self, newest: int) -> Iterator[tuple[Float16, Labels]]:
        return self._rows_where("s.uid > ? AND NOT s.is_folded", newest)

    def _rows_where(self, condition: str, value: int) -> Iterator[tuple[Float16, Labels]]:
        """Yield features (N, D) and classes (N,) of learned samples, some thousand at a time."""
        cursor = self.connection.execute(
            "SELECT s.uid, s.class_uid, f.x FROM samples s JOIN features f USING (uid) "
            f"WHERE {condition} AND s.role = 'replay' ORDER BY s.uid",
            (value,),
        )
        lost = set(self.lost_classes())
        while rows := cursor.fetchmany(_MOST_SINCE):
            rows = [row for row in rows if row[1] not in lost]
            yield self.opened(rows), np.array([c for _, c, _ in rows], dtype=np.int64)
