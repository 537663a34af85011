"""What a home learned itself, as a contribution: read in one view, and noted as an export."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgecl.errors import RequestError
from edgecl.fleet.carriers.folder import number_of
from edgecl.fleet.contribution import (
    encode,
    outline,
    rows_part,
    sums_part,
    total_body,
    write_pieces,
)
from edgecl.fleet.header import Contribution, Part
from edgecl.fleet.names import plain_id
from edgecl.fleet.sums import ClassSums, Layout, check_exact
from edgecl.heads import make_head_of
from edgecl.heads.base import Head
from edgecl.home import Home
from edgecl.session import Session
from edgecl.store.exports import (
    CONTRIBUTION,
    FRESH,
    Export,
    add_export,
    exports_of,
    finish_exports,
    part_of,
    set_digest,
)
from edgecl.store.foreign import own_folded, own_rows
from edgecl.store.store import Store
from edgecl.unlearning.chain import signing_key


def device_of(home: Home) -> str:
    """Return the name of a home outside a fleet: its folder's, and the beginning of its key."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", home.path.name).strip("-._")[:48]
    return f"{name or 'home'}-{public_key(home)[:8]}"


def public_key(home: Home) -> str:
    """Return the key that checks what a home signs, Ed25519, hex."""
    return signing_key(home).public_key().public_bytes_raw().hex()


def empty_head(session: Session) -> Head:
    """Return an empty head of a home, to ask of: loading it would read all that was learned.

    Raises:
        RequestError: It learns by gradient.
    """
    store = session.store
    made = make_head_of(session.home.config.head, store.num_features, codebook=store.codebook)
    check_exact(made)
    return made


def collect(
    session: Session,
    *,
    fleet: str = "",
    device: str = "",
    id_of: Callable[[str], str] = plain_id,
    generation: int | None = None,
    order: int = 0,
    receipt: str = "",
    total: bool = False,
    min_rows: int = 0,
) -> tuple[Contribution, dict[str, bytes]]:
    """Return what a home learned itself, and the bytes of its parts, by their digest.

    What came from other devices is not in it: it would count twice.

    Args:
        session: The home.
        fleet: The fleet; '' outside one.
        device: Its name there; '' for that of `device_of`.
        id_of: Gives the id of a class name.
        generation: Number of the contribution; None for the store's version, which grows with
            every change of what was learned.
        order: Last order that was applied.
        receipt: Digest of its receipt.
        total: Whether to give what head and sum need, and no more.
        min_rows: Classes of fewer samples are left out.

    Raises:
        RequestError: The head learns by gradient, or the sums are too large to add exactly.
    """
    store, home = session.store, session.home
    head = empty_head(session)
    with store.snapshot():
        layout = Layout.of(store.statistic)
        made: list[tuple[Part, bytes]] = []
        sums: ClassSums | None = None
        hidden = {*store.blocked_classes(), *store.lost_classes()}
        for uid, name in store.names.items():
            found = (
                None if uid in hidden else _own(session, layout, uid, id_of(name), total, min_rows)
            )
            if found is None:
                continue
            made.append(found[0])
            if total and found[1] is not None:
                sums = found[1] if sums is None else sums.plus(found[1])
        made.sort(key=lambda pair: pair[0].id)
        bodies = {part.digest: body for part, body in made}
        digest = ""
        if sums is not None:
            digest, body = total_body(sums.gram)
            bodies[digest] = body
        contribution = Contribution(
            fleet=fleet,
            device=device or device_of(home),
            key=public_key(home),
            generation=store.version if generation is None else generation,
            order=order,
            receipt=receipt,
            feature_map=store.feature_map,
            head=head.name,
            layout=layout,
            parts=tuple(part for part, _ in made),
            total=digest,
        )
        return contribution, bodies


def export(
    session: Session,
    output: Path,
    contribution: Contribution,
    bodies: dict[str, bytes],
    *,
    is_plain: bool = False,
    since: Contribution | None = None,
) -> int:
    """Write a contribution and note it as an export, which an unlearning erases or names.

    Args:
        session: The home, whose lock the caller holds.
        output: The file; an earlier one is replaced.
        contribution: What `collect` returned.
        bodies: And its bytes.
        is_plain: Whether what a sealed store learned may be written unencrypted.
        since: An earlier one that whoever reads this has; its parts are left out.

    Returns:
        The number of the export.

    Raises:
        RequestError: The store is sealed and that was not asked for, or it cannot be written.
    """
    store, place = session.store, Path(os.path.realpath(output))
    if store.is_sealed and not is_plain:
        raise RequestError(
            "the store is sealed, and a contribution holds features unencrypted; add --plain if "
            "that is meant"
        )
    finish_exports(store)
    without = () if since is None else since.spans.keys()
    pieces = encode(contribution, bodies, signing_key(session.home), without)
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(piece)
    classes = [uid for uid, name in store.names.items() if _has(contribution, name)]
    with exporting(store, CONTRIBUTION, place, classes, whole.hexdigest()) as noted:
        write_pieces(place, pieces, part_of(noted))
    return noted.uid


@contextmanager
def exporting(
    store: Store, kind: str, place: Path, classes: Sequence[int], digest: str
) -> Iterator[Export]:
    """Note a file as an export before it is written, inside of this; what was not, is taken off.

    Args:
        store: The store.
        kind: What it is, one of `exports.WHOLE`.
        place: The file, without links; the export that was there is replaced.
        classes: Uids of the classes that it holds.
        digest: SHA-256 of what is written, hex.
    """
    older = [e.uid for e in exports_of(store) if e.path == place and e.status == FRESH]
    with store.transaction(changes_head=False):
        uid = add_export(
            store, kind=kind, path=place, feature_map=store.feature_map,
            classes=classes, adapters=(),
            body={"kind": kind, "replaces": older[-1] if older else None},
        )  # fmt: skip
        set_digest(store, uid, digest)
    try:
        yield next(e for e in exports_of(store) if e.uid == uid)
    finally:
        finish_exports(store)


def base_of(
    session: Session, files: Sequence[Path], contribution: Contribution, counted: int
) -> Contribution | None:
    """Return the whole contribution on a carrier whose parts need not be sent again.

    It is this home's, and nothing in it was unlearned; the merger has counted it, or a later one,
    or it could be that nobody has it any more; and most samples of what is new are in it.

    Args:
        session: The home.
        files: This device's files on the carrier.
        contribution: The newest one.
        counted: The generation that the merger says it counts; -1 for none.
    """
    fresh = {each.path for each in exports_of(session.store) if each.status == FRESH}
    for path in sorted(files, key=number_of, reverse=True):
        is_older = number_of(path) <= min(counted, contribution.generation - 1)
        base = outline(path) if is_older and Path(os.path.realpath(path)) in fresh else None
        if base is not None and base.key == contribution.key:
            same = sum(part.count for part in contribution.parts if part.digest in base.spans)
            return base if 2 * same > sum(part.count for part in contribution.parts) else None
    return None


def _has(contribution: Contribution, name: str) -> bool:
    return any(part.name == name for part in contribution.parts)


def _own(
    session: Session, layout: Layout, uid: int, id: str, total: bool, min_rows: int
) -> tuple[tuple[Part, bytes], ClassSums | None] | None:
    """Return a class as a part, in the `total` form with its sums; None if it has no sample."""
    store, statistic = session.store, session.store.statistic
    name = store.names[uid]
    rows, folded = own_rows(store, uid), own_folded(store, uid)
    n = folded.n + len(rows)
    if n < max(1, min_rows):
        return None
    if not folded.n and n <= layout.few_rows and not total:
        return rows_part(id, name, rows), None
    sums = ClassSums.of(statistic, folded.plus(statistic.of(rows)))
    return sums_part(id, name, sums, "sum" if total else "gram"), sums
