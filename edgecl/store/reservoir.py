"""What is kept for replay: a reservoir, balanced over the classes, and draws from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgecl.store.sampling import class_to_evict
from edgecl.store.totals import Totals
from edgecl.store.vault import Vault
from edgecl.types import Float16, Labels


class Reservoir(Totals):
    """The kept samples, listed in memory.

    Args:
        path: The SQLite file.
        capacity_samples: Most pictures kept for replay.
        capacity_bytes: Most bytes of kept pictures.
        read_only: Open without the right to change anything.
        vault: Keys of a sealed store.
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
        self.capacity_samples = capacity_samples
        self.capacity_bytes = capacity_bytes
        super().__init__(path, read_only=read_only, vault=vault)

    def reload_classes(self) -> None:
        """Read also which samples are kept."""
        super().reload_classes()
        self._stored: dict[int, list[int]] = {}
        self._sizes: dict[int, int] = {}
        for uid, class_uid, size in self.connection.execute(
            "SELECT uid, class_uid, size_bytes FROM replay WHERE is_stored ORDER BY +uid"
        ):
            self._stored.setdefault(class_uid, []).append(uid)
            self._sizes[uid] = size
        self._n_stored_samples = len(self._sizes)
        self._stored_bytes = sum(self._sizes.values())

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
        x = self.opened([(uid, owner[uid], x) for uid, x in rows])
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
            (uid, view): self.unseal(owner[uid], "views.x", f"{uid}, view {view}", x)
            for uid, view, x in self.connection.execute(
                f"SELECT uid, view, x FROM views WHERE uid IN ({marks})", uids
            )
        }
        own = {uid: self.unseal(c, "features.x", uid, x) for uid, c, x in rows}
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
                (uid, view, self.seal(class_uid, "views.x", f"{uid}, view {view}", row.tobytes()))
                for view, row in enumerate(x, 1)
            ],
        )

    def _keep(self, uid: int, class_uid: int, size: int) -> None:
        """Put a new sample on the list, for which `_make_room` made room."""
        self._stored.setdefault(class_uid, []).append(uid)
        self._n_stored_samples += 1
        self._stored_bytes += size
        self._sizes[uid] = size

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
        while victim is not None:
            self._evict(victim, rng)
            if self._fits(len(data)):
                break
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
