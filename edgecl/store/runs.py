"""The last run: a command that learned or mended, and how to take it back.

Only the last one is kept, and of it only what no row shows. What it taught has larger uids than
what was there (`first_sample`), and its part of the folded sums stands in `run_stats`: an exact
statistic without it is, bit for bit, what it was.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecl.store.erasure import drop_classes_of_nothing, drop_run, drop_unused
from edgecl.store.moves import (
    feature_of,
    merge_sums,
    move_samples,
    note_move,
    set_role,
    sums_of_run,
)
from edgecl.store.novel import Entry
from edgecl.store.progress import PROBES, Position
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.store.text import dump_json
from edgecl.types import Kind

LEARN, REVIEW, RELABEL, MERGE, HOLD_OUT = "learn", "review", "relabel", "merge", "hold-out"


@dataclass(frozen=True, slots=True)
class Start:
    """How a run begins, known before its first commit.

    Args:
        kind: `learn`, `review`, `relabel`, `merge` or `hold-out`.
        key: Key of the source's position; None without one.
        position: How far that source was learned before.
        moved: Samples that it moves or holds out, each with the class that it was of.
        created: When the classes were made that it may empty, by uid.
    """

    kind: str = LEARN
    key: str | None = None
    position: Position | None = None
    moved: tuple[tuple[int, int], ...] = ()
    created: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """The last run.

    Args:
        uid: Its number.
        kind: `learn`, `review`, `relabel`, `merge` or `hold-out`.
        time: When it first committed, seconds since the epoch.
        first: Samples with larger uids came with it.
        body: How it was before, JSON values.
    """

    uid: int
    kind: str
    time: float
    first: int
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Content:
    """What of a run is still there, and would be taken back.

    Args:
        learned: Learned samples of each class, by its uid.
        held_out: Samples that were held out.
        review: Frames that wait for a name.
        named: Frames of the review queue that it named.
        moved: How many samples go back from one class to another, by both uids; one and the same of
            those that were held out.
        left: Samples that it moved and that cannot go back: they, or their class, were unlearned.
        new: Classes that came with it and would be empty.
        sources: Where its samples came from.
        displaced: Kept pictures that it displaced; they do not come back.
    """

    learned: dict[int, int]
    held_out: int
    review: int
    named: int
    moved: dict[tuple[int, int], int]
    left: int
    new: tuple[int, ...]
    sources: tuple[str, ...]
    displaced: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing of it is there any more."""
        return not (self.learned or self.held_out or self.review or self.moved)


def last_run(store: Store) -> Run | None:
    """Return the run that can be taken back, or None."""
    row = store.connection.execute(
        "SELECT uid, kind, time, first_sample, body FROM last_run"
    ).fetchone()
    if row is None:
        return None
    uid, kind, begin, first, body = row
    return Run(uid, kind, begin, first, json.loads(body))


def begin_run(store: Store, start: Start) -> None:
    """Note how it is before a run, inside the transaction of its first commit."""
    execute = store.connection.execute
    drop_run(store)
    (newest,) = execute(
        "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'samples'"
    ).fetchone()
    (evaluation,) = execute("SELECT coalesce(max(uid), 0) FROM evaluations").fetchone()
    at = start.position
    body = {
        "step": store.step,
        "attempted": store.attempted_class,
        "probes": store.meta().get(PROBES),
        "evaluation": evaluation,
        "latency": execute("SELECT * FROM class_latency WHERE nine_of_ten IS NULL").fetchall(),
        "adapter": execute("SELECT coalesce(max(uid), 0) FROM adapters").fetchone()[0],
        "stored": store.n_stored_samples,
        "key": start.key,
        "position": None if at is None else [at.n, at.digest.hex(), at.is_finished],
        "moved": start.moved,
        "created": {str(uid): seconds for uid, seconds in start.created.items()},
    }
    execute(
        "INSERT INTO last_run(kind, time, first_sample, body) VALUES (?, ?, ?, ?)",
        (start.kind, time.time(), newest, dump_json(body)),
    )
    # What a head by gradient learned until here; goes with any unlearning, like the rest of it.
    execute(
        "INSERT INTO head SELECT 'before', name, version, data FROM head "
        "WHERE kind = 'state' AND version = ?",
        (store.version,),
    )
    store.begin_run_at(newest)


def note_reviewed(store: Store, uid: int, entry: Entry) -> None:
    """Note that a frame of the review queue is a sample now; inside the run's transaction."""
    _append(store, "reviewed", [uid, entry.guess, entry.score])


def former_names(store: Store) -> dict[int, str]:
    """Return what the classes were called that the last run emptied, by uid."""
    rows = store.connection.execute("SELECT uid, name FROM former_names WHERE NOT is_alias")
    return dict(rows.fetchall())


def content_of(store: Store, run: Run) -> Content:
    """Return what of a run is still there."""
    execute = store.connection.execute
    learned: Counter[int] = Counter()
    if run.kind != MERGE:
        learned.update(dict(execute("SELECT class_uid, sum(n) FROM run_stats GROUP BY class_uid")))
    learned.update(
        dict(
            execute(
                "SELECT class_uid, count(*) FROM replay WHERE uid > ? AND NOT is_folded "
                "GROUP BY class_uid",
                (run.first,),
            )
        )
    )
    aside = dict(
        execute(
            "SELECT role, count(*) FROM samples WHERE role != 'replay' AND uid > ? GROUP BY role",
            (run.first,),
        )
    )
    rows, left = _movable(store, run)
    moved = Counter((source, to) for _, source, to in rows)
    gains = learned + Counter(to for _, of, to in rows if of != to)
    if run.kind == MERGE:  # of what was evicted the sums go back
        moved = Counter((source, to) for uid, source, to in rows if not _is_folded(store, uid))
        for to, source, n in execute(
            "SELECT r.class_uid, f.uid, sum(n) FROM run_stats r JOIN former_names f USING "
            "(class_uid) WHERE NOT is_alias GROUP BY 1, 2"
        ).fetchall():
            moved[source, to] += n
    seen = store.n_seen()
    texts = execute(
        "SELECT DISTINCT text FROM sources o WHERE text IS NOT NULL AND (EXISTS (SELECT 1 FROM "
        "run_stats r WHERE r.source_uid = o.uid) OR EXISTS (SELECT 1 FROM samples s "
        "WHERE s.source_uid = o.uid AND s.uid > ?)) ORDER BY o.uid",
        (run.first,),
    )
    return Content(
        learned=dict(learned),
        held_out=aside.get(Role.HELD_OUT.value, 0),
        review=aside.get(Role.REVIEW.value, 0),
        named=sum(_is_there(store, uid) for uid, *_ in run.body.get("reviewed", ())),
        moved=dict(moved),
        left=left,
        new=tuple(uid for uid, n in sorted(gains.items()) if n >= seen.get(uid, 0) > 0),
        sources=tuple(text for (text,) in texts),
        displaced=_displaced(store, run),
    )


def take_back(store: Store, run: Run) -> bytes | None:
    """Take a run back, inside a transaction; the caller restores or rebuilds the head.

    Args:
        store: The store.
        run: Its last run.

    Returns:
        The state of a head by gradient before the run, as it was kept; None if there is none.
    """
    execute = store.connection.execute
    row = execute("SELECT data FROM head WHERE kind = 'before'").fetchone()
    _recall_classes(store, run)
    queue = _named_entries(store, run)
    moved, _ = _movable(store, run)
    for (source, to), n in sorted(Counter((source, to) for _, source, to in moved).items()):
        uids = [uid for uid, *way in moved if way == [source, to]]
        assert len(uids) == n
        if run.kind == HOLD_OUT:
            set_role(store, uids, Role.REPLAY)
            continue
        move_samples(store, uids, source, is_whole=run.kind == MERGE)
        note_move(store, to, source, uids)
    if run.kind == MERGE:
        _give_back_sums(store, run)
    else:
        for class_uid, source_uid, moments in sums_of_run(store):
            store.take_off_statistics(class_uid, source_uid, moments)
            _learn_less(store, class_uid, moments.n)
    fresh = "SELECT class_uid, count(*) FROM replay WHERE uid > ? AND NOT is_folded GROUP BY 1"
    for class_uid, n in execute(fresh, (run.first,)).fetchall():
        _learn_less(store, class_uid, n)
    execute("DELETE FROM samples WHERE uid > ?", (run.first,))
    for guess, fields in queue:
        store.add_aside(Role.REVIEW, guess, **fields)
    drop_classes_of_nothing(store)
    store.reload_classes()
    _restore(store, run)
    drop_run(store)
    drop_unused(store)
    return None if row is None else bytes(row[0])


def _restore(store: Store, run: Run) -> None:
    """Put back counters, scores and the position."""
    execute, body = store.connection.execute, run.body
    execute("DELETE FROM evaluations WHERE uid > ?", (body["evaluation"],))
    for uid, *rest in body["latency"]:
        if uid in store.names:
            execute("INSERT OR REPLACE INTO class_latency VALUES (?, ?, ?, ?, ?, ?)", (uid, *rest))
    store.step = body["step"]
    execute("DELETE FROM meta WHERE key = ?", (PROBES,))
    if body["probes"] is not None:
        store.set_meta(PROBES, body["probes"])
    store.note_attempt(min(store.attempted_class, body["attempted"]))
    if body["key"] is not None:
        execute("DELETE FROM positions WHERE key = ?", (body["key"],))
        if body["position"] is not None:
            n, digest, is_finished = body["position"]
            store.set_position(body["key"], Position(n, bytes.fromhex(digest), is_finished))


def _named_entries(store: Store, run: Run) -> list[tuple[int, dict[str, Any]]]:
    """Return what goes back to the review queue: what its class is, and its fields."""
    found = []
    origins = {o.uid: o for role in Role for o in store.origins(role)}
    pictured = {uid for (uid,) in store.connection.execute("SELECT uid FROM pictures")}
    for uid, guess, score in run.body.get("reviewed", ()):
        if uid in origins and uid in pictured and guess in store.names:
            o = origins[uid]
            fields = {
                "x": feature_of(store, uid), "picture": store.picture(uid), "source": o.source,
                "frame": o.frame, "time": o.time, "score": score,
            }  # fmt: skip
            note_move(store, o.class_uid, guess, [uid])
            found.append((guess, fields))
    return found


def _recall_classes(store: Store, run: Run) -> None:
    """Make the classes again that the run emptied, under their uids and names."""
    execute = store.connection.execute
    rows = execute(
        "SELECT name, uid, class_uid, is_alias FROM former_names ORDER BY is_alias, name"
    ).fetchall()
    for name, uid, owner, is_alias in rows:
        if _is_gone(store, uid):
            continue
        execute("DELETE FROM aliases WHERE name = ? AND class_uid = ?", (name, owner))
        if is_alias:
            execute("INSERT INTO aliases VALUES (?, ?)", (name, uid))
        else:
            created = run.body["created"][str(uid)]
            execute(
                "INSERT INTO classes(uid, name, created) VALUES (?, ?, ?)", (uid, name, created)
            )
            execute("DELETE FROM merged WHERE uid = ?", (uid,))
    store.reload_classes()


def _give_back_sums(store: Store, run: Run) -> None:
    """Give the folded sums of a merge back to the class that they were of."""
    (source,) = map(int, run.body["created"])  # the one class that a merge empties
    for class_uid, source_uid, moments in sums_of_run(store):
        if source in store.names:
            store.take_off_statistics(class_uid, source_uid, moments)
            merge_sums(store, source, source_uid, moments)
            _learn_less(store, class_uid, moments.n)
            _learn_less(store, source, -moments.n)


def _movable(store: Store, run: Run) -> tuple[list[tuple[int, int, int]], int]:
    """Return uid, former and present class of what can be moved back, and how many cannot."""
    former = {uid for uid in former_names(store) if not _is_gone(store, uid)}
    there = dict(
        store.connection.execute(
            "SELECT s.uid, class_uid FROM samples s, json_each(?) m "
            "WHERE s.uid = json_extract(m.value, '$[0]')",
            (json.dumps(run.body["moved"]),),
        )
    )
    found = [
        (uid, source, there[uid])
        for uid, source in run.body["moved"]
        if uid in there and (source in store.names or source in former)
    ]
    return found, len(run.body["moved"]) - len(found)


def _is_gone(store: Store, class_uid: int) -> bool:
    """Whether a class was unlearned."""
    row = store.connection.execute(
        "SELECT 1 FROM tombstones WHERE kind = ? AND target = ?", (Kind.CLASS, class_uid)
    ).fetchone()
    return row is not None


def _is_there(store: Store, uid: int) -> bool:
    row = store.connection.execute("SELECT 1 FROM pictures WHERE uid = ?", (uid,)).fetchone()
    return row is not None


def _is_folded(store: Store, uid: int) -> bool:
    row = store.connection.execute("SELECT is_folded FROM samples WHERE uid = ?", (uid,)).fetchone()
    return bool(row[0])


def _displaced(store: Store, run: Run) -> int:
    (n,) = store.connection.execute(
        "SELECT count(*) FROM replay WHERE is_stored AND uid <= ?", (run.first,)
    ).fetchone()
    return max(0, int(run.body["stored"]) - int(n))


def _learn_less(store: Store, class_uid: int, n: int) -> None:
    store.connection.execute("UPDATE classes SET n_seen = n_seen - ? WHERE uid = ?", (n, class_uid))


def _append(store: Store, name: str, value: Any) -> None:
    """Add a value to a list in the body of the last run."""
    run = last_run(store)
    if run is not None:
        body = run.body | {name: [*run.body.get(name, ()), value]}
        store.connection.execute("UPDATE last_run SET body = ?", (dump_json(body),))
