"""The statistics of a part of a big set, as a contribution: no home learns it until all are merged.

Sums are exact, so any cut of a set into shards, on any machines, in any order, merges to the bits
of one loop. A shard that was lost is made again, under the same name and generation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgecl.errors import RequestError, UsageError
from edgecl.fleet.collect import empty_head, public_key
from edgecl.fleet.contribution import rows_part, sums_part, write
from edgecl.fleet.header import Contribution, Part
from edgecl.fleet.names import plain_id
from edgecl.fleet.sums import ClassSums, Layout
from edgecl.home import Home
from edgecl.looked import labelled_features
from edgecl.runtime.grid import quantise
from edgecl.runtime.sources import Source, open_source
from edgecl.session import Session, reading
from edgecl.types import Float16, Say, Skipped
from edgecl.unlearning.chain import signing_key


@dataclass
class Shard:
    """What was made.

    Args:
        contribution: The shard, as a device of its own.
        bodies: Bytes of its parts, by their digest.
        skipped: Pictures that could not be used, each with the reason.
    """

    contribution: Contribution
    bodies: dict[str, bytes]
    skipped: list[Skipped] = field(default_factory=list)


@dataclass
class _Class:
    """Rows of a class while they are few, and the sums of those that were more."""

    rows: list[Float16] = field(default_factory=list)
    sums: ClassSums | None = None


def parsed_shard(text: str) -> tuple[int, int]:
    """Return number and count of `17/512`.

    Raises:
        UsageError: It is none.
    """
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    i, n = (0, 0) if found is None else (int(found[1]), int(found[2]))
    if not 1 <= i <= n:
        raise UsageError(f"{text!r} is no shard; expected NUMBER/COUNT from 1/N to N/N, as 17/512")
    return i, n


def write_shard(home: Path | str, source: str, number: int, count: int, output: Path | str) -> str:
    """Write the statistics of a part of a set; what a scheduler calls.

    Args:
        home: A home of the backbone and the head; it is only read.
        source: Labelled pictures, as `edgecl train-stream` takes them, of known number.
        number: Which part, from 1 on.
        count: Of how many.
        output: The file, .efc.

    Returns:
        The path of the file.

    Raises:
        EdgeclError: As of `edgecl statistics`.
    """
    device = Home(Path(home))
    with reading(device) as session:
        made = statistics_of(
            session, open_source(source, max_bytes=device.max_bytes), number, count
        )
    write(Path(output), made.contribution, made.bodies, signing_key(device))
    return str(output)


def statistics_of(
    session: Session,
    source: Source,
    number: int,
    count: int,
    *,
    limit: int | None = None,
    say: Say = lambda what, done, of: None,
) -> Shard:
    """Return the statistics of one part of a source.

    Args:
        session: The home whose engine and head they are for.
        source: Labelled frames, a finite number.
        number: Which part, from 1 on.
        count: Of how many.
        limit: Most frames of the part to take.
        say: Told about progress.

    Raises:
        RequestError: The source has no known number of frames, none can be used of one that is not
            cut, or the head learns by gradient.
    """
    home, store, n = session.home, session.store, len(source)
    head = empty_head(session)
    if source.kind != "finite" or not n:
        raise RequestError(
            f"{source.name} is no set of a known number of pictures, which shards are cut of; "
            "name a folder or a list"
        )
    first, last = (number - 1) * n // count, number * n // count
    last = last if limit is None else min(last, first + limit)
    layout, classes = Layout.of(store.statistic), dict[str, _Class]()
    shard = Shard(
        Contribution(
            fleet="",
            device=_device(source.name, number, count),
            key=public_key(home),
            generation=1,
            order=0,
            receipt="",
            feature_map=store.feature_map,
            head=head.name,
            layout=layout,
            parts=(),
        ),
        {},
    )
    looked = labelled_features(session, source, first=first, most=last - first)
    for done, item in enumerate(looked):
        say("pictures", done, last - first)
        if isinstance(item, Skipped):
            shard.skipped.append(item)
        else:
            kept = classes.setdefault(item.frame.label or "", _Class())
            kept.rows.append(quantise(item.feature))
            if len(kept.rows) > layout.few_rows:
                _fold(session, kept)
    made = sorted((_part(session, name, kept) for name, kept in classes.items()), key=_id)
    if count == 1 and not made:  # of many parts one may have none
        raise RequestError(
            f"none of the {last - first} pictures of {source.name} can be used: "
            f"{shard.skipped[0].reason}"
        )
    shard.contribution = replace(shard.contribution, parts=tuple(part for part, _ in made))
    shard.bodies = {part.digest: body for part, body in made}
    return shard


def _fold(session: Session, kept: _Class) -> None:
    statistic = session.store.statistic
    sums = ClassSums.of(statistic, statistic.of(np.array(kept.rows)))
    kept.sums = sums if kept.sums is None else kept.sums.plus(sums)
    kept.rows.clear()


def _part(session: Session, name: str, kept: _Class) -> tuple[Part, bytes]:
    if kept.sums is None:
        return rows_part(plain_id(name), name, np.array(kept.rows))
    if kept.rows:
        _fold(session, kept)
    return sums_part(plain_id(name), name, kept.sums)


def _id(made: tuple[Part, bytes]) -> str:
    return made[0].id


def _device(name: str, number: int, count: int) -> str:
    """Return what a shard is called: the end of its source's name, and which part it is."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name.rstrip("/").split("/")[-1]).strip("-._")[:40]
    return f"{slug or 'set'}-{number}-of-{count}"
