"""What a table must say of itself, and the roles of samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Role(str, Enum):
    """What a sample is there for; each has a view of its name, through which it is read."""

    REPLAY = "replay"
    """Learned: part of its class's statistics, and kept for replay while there is room."""
    HELD_OUT = "held_out"
    """Labelled and never learned: on these each class is scored while the stream runs."""
    REVIEW = "review"
    """Looks like nothing known and waits for a name; its class is the one that it is nearest to."""


@dataclass(frozen=True, slots=True)
class Table:
    """What is known of a table.

    Args:
        name: Its name.
        ddl: SQL that makes it and its indices.
        is_learned: Whether a rollback brings it back; what it does not is the home's history.
        owner: Column of the class with which a row goes, and whose key seals it.
        found_by: What is true of every row, SQL, where that leads to the rows of a class by the
            primary key; a table with many rows and no index by class.
        source: Column of the source with which a row goes.
        part_of: Table of which each row is a part, by its uid; it goes with that row.
        names: TEXT columns with names that a person chose; they stay as long as their row.
        texts: TEXT columns that may say the name of another class; emptied (NULL) with that class.
        sealed: BLOB columns that the key of the row's class seals.
        is_counted: Whether receipts and plans say how many of its rows go.
        exempt: All other TEXT and BLOB columns, and columns of class or source uids with which no
            row goes, each with the reason why neither is needed.
    """

    name: str
    ddl: str
    is_learned: bool
    owner: str | None = None
    found_by: str = "1"
    source: str | None = None
    part_of: str | None = None
    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    sealed: tuple[str, ...] = ()
    is_counted: bool = True
    exempt: Mapping[str, str] = field(default_factory=dict)
