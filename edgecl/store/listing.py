"""What a home keeps of single samples, for a person to look through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from edgecl.errors import RequestError
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.store.text import plain_text


@dataclass(frozen=True, slots=True)
class Listed:
    """One sample that has a row.

    Args:
        uid: Its uid.
        role: What it is there for.
        label: Its class; of one that waits for review the one that it looks most like.
        source: Where it came from; '' if nobody said, or the text was emptied.
        frame: Its name there.
        time: Wall clock when it was taken, seconds since the epoch.
        has_picture: Whether its picture is kept.
    """

    uid: int
    role: Role
    label: str
    source: str
    frame: str
    time: float
    has_picture: bool


def source_uid(store: Store, name: str) -> int:
    """Return the uid of a source by its text.

    Raises:
        RequestError: Nothing came from it.
    """
    known = {text: uid for uid, text in store.sources().items() if text}
    if (wanted := plain_text(name)) in known:
        return known[wanted]
    raise RequestError(no_source(name, known))


def no_source(name: str, known: Iterable[str]) -> str:
    """Return that there is no source of this name, and the known ones that are meant perhaps."""
    known = list(known)
    near = get_close_matches(name, known, n=3)
    near += [text for text in known if name.strip("/") in text.split("/") and text not in near]
    if near:
        hint = f"did you mean {' or '.join(map(repr, near[:3]))}?"
    else:
        hint = f"sources: {', '.join(map(repr, known[:5]))}" if known else "nothing was learned yet"
    return f"no sample came from {name!r}; {hint}"


def list_samples(
    store: Store,
    *,
    label: str | None = None,
    source: str | None = None,
    since: float | None = None,
    role: Role | None = None,
    limit: int | None = None,
) -> tuple[list[Listed], int]:
    """Return samples, the newest first, and how many there are in all.

    Args:
        store: The store.
        label: Only of the class with this name or alias.
        source: Only from this source.
        since: Only what was taken at this time or later, seconds since the epoch.
        role: Only of this role.
        limit: Most samples to return.

    Raises:
        UnknownClassError: There is no such class.
        RequestError: There is no such source.
    """
    hidden = {*store.blocked_classes(), *store.lost_classes()}
    # Of all classes the newest come first by uid, of one by its index.
    where = "class_uid NOT IN (SELECT value FROM json_each(?))"
    values: list[str | float] = [str(sorted(hidden))]
    if label is not None:
        where += " AND class_uid = ?"
        values.append(store.class_uid(label))
    if source is not None:
        where += " AND source_uid = ?"
        values.append(source_uid(store, source))
    if since is not None:
        where += " AND time >= ?"
        values.append(since)
    if role is not None:
        where += " AND role = ?"
        values.append(role.value)
    (n,) = store.connection.execute(
        f"SELECT count(*) FROM samples WHERE {where}", values
    ).fetchone()
    rows = store.connection.execute(
        "SELECT s.uid, role, class_uid, coalesce(text, ''), coalesce(frame, ''), time, is_stored "
        f"FROM samples s JOIN sources o ON o.uid = source_uid WHERE {where} "
        "ORDER BY s.uid DESC LIMIT ?",
        (*values, -1 if limit is None else limit),
    )
    found = [
        Listed(uid, Role(role), store.names[c], text, frame, time, bool(is_stored))
        for uid, role, c, text, frame, time, is_stored in rows
    ]
    return found, int(n)
