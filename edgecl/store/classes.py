"""Classes with their names and counters, and the sources of samples."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from edgecl.errors import RequestError, UnknownClassError
from edgecl.store.seal import Sealed
from edgecl.store.text import holds_name, plain_text
from edgecl.types import meant


class Classes(Sealed):
    """Names, counters and sources, kept in memory."""

    loads = 0
    """How often names and counters were read anew: what others keep in memory is then old."""

    def load(self) -> None:
        """Read counters, names and what is kept of the classes anew."""
        super().load()
        self.reload_classes()

    def reload_classes(self) -> None:
        """Read classes, sources and what is kept of them anew; inside a transaction."""
        self.loads += 1
        rows = self.connection.execute("SELECT uid, name, n_seen FROM classes ORDER BY uid")
        self._names = {}
        self._n_seen: dict[int, int] = {}
        for uid, name, n_seen in rows:
            self._names[uid], self._n_seen[uid] = name, n_seen
        self._uids = {name: uid for uid, name in self._names.items()}
        self._uids |= dict(self.connection.execute("SELECT name, class_uid FROM aliases"))
        self._sources = {text: uid for uid, text in self.sources().items()}

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
            hidden = self.blocked_classes()
            names = [name for uid, name in self._names.items() if uid not in hidden]
            known = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise UnknownClassError(
                f"class {name!r} is unknown; {meant(name, self._uids)}"
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
        self.connection.execute(  # a class that had this name cannot come back under it
            "DELETE FROM former_names WHERE uid IN (SELECT uid FROM former_names WHERE name = ?)",
            (new,),
        )
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

    def last_taught(self) -> dict[int, float]:
        """Return when the newest sample of each class that has a row was taken."""
        rows = self.connection.execute("SELECT class_uid, max(time) FROM replay GROUP BY class_uid")
        return dict(rows)

    def sources(self) -> dict[int, str]:
        """Return where samples came from, by uid; a text that was emptied is left out."""
        rows = self.connection.execute(
            "SELECT uid, text FROM sources WHERE text IS NOT NULL ORDER BY uid"
        )
        return dict(rows)

    def times_by_source(self) -> dict[str, tuple[float, float]]:
        """Return when the first and the last sample of each source came, seconds since the epoch.

        Of the same sources, in the same order, as `n_by_source`.
        """
        rows = self.connection.execute(
            "SELECT coalesce(text, '') AS said, min(time), max(time) FROM sources "
            "JOIN replay ON source_uid = sources.uid GROUP BY said ORDER BY min(sources.uid)"
        )
        return {said: (first, last) for said, first, last in rows}

    def source_uid(self, text: str) -> int:
        """Return the uid of a source, which is new if its text is; inside a transaction."""
        text = plain_text(text)
        if text not in self._sources:
            cursor = self.connection.execute("INSERT INTO sources(text) VALUES (?)", (text,))
            self._sources[text] = int(cursor.lastrowid or 0)
        return self._sources[text]

    def blocked_classes(self) -> frozenset[int]:
        """Return the classes whose unlearning was asked for and is not done: never to be named."""
        rows = self.connection.execute(
            "SELECT target FROM requests WHERE kind = 'class' AND phase = 'PENDING'"
        )
        return frozenset(int(uid) for (uid,) in rows)

    def n_by_source(self) -> dict[str, int]:
        """Return how many samples there are rows of, by where they came from, oldest first.

        Sources that say a class that is being unlearned count as those that say nothing, ''.
        """
        hidden = [name for uid in self.blocked_classes() for name in self.names_of(uid)]
        found: Counter[str] = Counter()
        for text, n in self.connection.execute(
            "SELECT coalesce(text, '') AS said, count(*) FROM sources "
            "JOIN replay ON source_uid = sources.uid GROUP BY said ORDER BY min(sources.uid)"
        ):
            found["" if any(holds_name(text, name) for name in hidden) else text] += n
        return dict(found)
