"""What the snapshots of a home hold of a class or a source.

A rollback takes from the store what was learned since; a later snapshot, or a bundle, may still
hold it, under a uid that the store does not know any more. A request has to find it there too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from edgecl.store.exports import Export, names_in, reachable
from edgecl.store.snapshots import snapshots_of
from edgecl.store.store import Store
from edgecl.store.tables import TABLES
from edgecl.store.text import holds_name


@dataclass(frozen=True, slots=True)
class Copy:
    """What one snapshot holds.

    Args:
        uid: Its number.
        names: Uid and name of its classes, aliases too.
        sources: Texts of its sources by uid; None for one that was emptied.
        learned: Pairs of source and class, by uid, of which it holds samples or statistics.
        texts: Where its samples came from: sources and frames.
        is_readable: False for a file that is missing or damaged: it may hold anything.
    """

    uid: int
    names: tuple[tuple[int, str], ...] = ()
    sources: tuple[tuple[int, str | None], ...] = ()
    learned: tuple[tuple[int, int], ...] = ()
    texts: tuple[str, ...] = ()
    is_readable: bool = True

    def may_name(self, names: Iterable[str]) -> bool:
        """Whether a text in it holds one of these names; one that cannot be read may."""
        return not self.is_readable or any(
            holds_name(text, name) for name in names for text in self.texts
        )


def copies_of(store: Store) -> list[Copy]:
    """Read every snapshot that is on the list, the newest first."""
    folder = store.path.with_name("snapshots")
    return [_read(folder / f"s{s.uid}.db", s.uid) for s in reversed(snapshots_of(store))]


class Aside:
    """What snapshots and bundles hold beside a store; each file is read once, if it is needed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @cached_property
    def copies(self) -> list[Copy]:
        """What each snapshot holds, the newest first."""
        return copies_of(self._store)

    @cached_property
    def manifests(self) -> list[tuple[Export, dict[str, Any]]]:
        """The exports that are still in their folders, with their manifests."""
        return reachable(self._store)

    @cached_property
    def names(self) -> list[tuple[int, str]]:
        """Uid and name of every class that snapshots and bundles hold and the store does not."""
        found = [pair for copy in self.copies for pair in copy.names]
        known = self._store.names
        return [(uid, name) for uid, name in found + names_in(self.manifests) if uid not in known]


def _read(path: Path, uid: int) -> Copy:
    try:
        address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            sources = connection.execute("SELECT uid, text FROM sources").fetchall()
            names = connection.execute(
                "SELECT uid, name FROM classes UNION SELECT class_uid, name FROM aliases"
            ).fetchall()
            said = [f"SELECT {text} FROM {t.name}" for t in TABLES for text in t.texts]
            texts = connection.execute(" UNION ".join(said)).fetchall()
            learned = connection.execute(
                "SELECT source_uid, class_uid FROM replay UNION "
                "SELECT source_uid, class_uid FROM class_stats"
            ).fetchall()
            return Copy(
                uid=uid,
                names=tuple(names),
                sources=tuple(sources),
                learned=tuple(learned),
                texts=tuple(text for (text,) in texts if text is not None),
            )
    except sqlite3.Error:
        return Copy(uid, is_readable=False)
