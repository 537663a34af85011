"""A step, a draw and an opening look for samples by an index, however many there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import build
from edgecl.heads import make_head
from edgecl.learner import Learner
from edgecl.store.erasure import count, erase
from edgecl.store.listing import list_samples
from edgecl.store.novel import entries
from edgecl.store.store import Store, bytes_by_part
from edgecl.store.table import Role
from edgecl.types import Kind

D = 6
TABLES = ("samples", "s", "features", "pictures")
# Indices that have only few rows: those that are kept, held out, or wait for a name.
OF_FEW = ("samples_by_due", "held_out_by_class", "review_by_score")


def scans(store: Store, work: Callable[[], object], *, may_end_early: bool = False) -> list[str]:
    """Return the statements of some work that go through all samples.

    Args:
        store: The store.
        work: The work.
        may_end_early: Whether it may go through them by uid, since it stops after a few.
    """
    seen: list[str] = []
    store.connection.set_trace_callback(seen.append)
    try:
        work()
    finally:
        store.connection.set_trace_callback(None)
    found = []
    asked = [s for s in dict.fromkeys(seen) if s.split()[0] in ("SELECT", "UPDATE", "DELETE")]
    for statement in asked:
        for *_, plan in store.connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall():
            is_of_few = any(index in plan for index in OF_FEW)
            is_through = plan.startswith("SCAN") or "(rowid>" in plan or "(rowid<" in plan
            is_by_uid = may_end_early and "LIMIT" in statement and "USING" not in plan
            if is_through and plan.split()[1] in TABLES and not is_of_few and not is_by_uid:
                found.append(f"{plan}: {statement}")
    return found


def taught(path: Path, **options: int) -> Learner:
    """Return a learner of a new store with some rows of each kind."""
    store = build.store(path, D, capacity_samples=30)
    x, y = build.features(60, D, 3)
    learner = Learner(store, make_head("ridge", D), **options)
    learner.learn_many([build.frame(f"part-{c}", i) for i, c in enumerate(y)], x)
    return learner


@pytest.fixture
def learner(tmp_path: Path) -> Learner:
    """A learner of a store with some rows of each kind."""
    return taught(tmp_path / "s.db", probes=3)


@pytest.mark.parametrize("probes", [3, 0])
def test_a_step_scans_no_samples(tmp_path: Path, probes: int) -> None:
    taught(tmp_path / "s.db", probes=probes).store.close()
    with Store(tmp_path / "s.db", capacity_samples=30) as store:
        learner = Learner(store, make_head("ridge", D), probes=probes)
        x = np.random.default_rng(0).uniform(0, 3, (120, D)).astype(np.float32)
        frames = [build.frame("part-1", 99 + i) for i in range(120)]
        assert scans(store, lambda: learner.learn_many(frames, x)) == []
        # All that a step may do was among it: rows were folded, others evicted, samples scored.
        (n_folded,) = store.connection.execute("SELECT sum(is_folded) FROM replay").fetchone()
        (n_scores,) = store.connection.execute("SELECT count(*) FROM evaluations").fetchone()
        assert min(n_folded, n_scores) > 0
        assert store.n_stored_samples == 30


@pytest.mark.parametrize("what", ["draw", "rested", "picture", "queue", "held out", "kept"])
def test_what_a_stream_reads_scans_no_samples(learner: Learner, what: str) -> None:
    with learner.store as store:
        uid = store.stored_samples()[0][0]
        ways: dict[str, Callable[[], object]] = {
            "draw": lambda: store.draw(8, np.random.default_rng(0)),
            "rested": lambda: store.draw_due(4, rest=10, n_views=1),
            "picture": lambda: store.picture(uid),
            "queue": lambda: (entries(store), store.rows(Role.REVIEW)),
            "held out": lambda: (store.origins(Role.HELD_OUT), store.rows(Role.HELD_OUT)),
            "kept": lambda: (store.stored_samples(), store.origins(Role.REPLAY)),
        }
        assert scans(store, ways[what]) == []


def test_rows_since_the_kept_total_are_found_by_their_uid(learner: Learner) -> None:
    with learner.store as store:
        with store.transaction():
            store.save_total(store.whole())
        found = scans(store, store.whole)
        assert len(found) == 1
        assert found[0].startswith("SEARCH s USING INTEGER PRIMARY KEY (rowid>?)")


def test_opening_scans_no_samples(learner: Learner) -> None:
    with learner.store as store:
        assert scans(store, store.load) == []


def test_scores_of_a_class_are_found_by_their_key(learner: Learner) -> None:
    with learner.store as store:
        (uid, *others), execute = list(store.names), store.connection.execute
        (n,) = execute("SELECT count(*) FROM class_scores WHERE class_uid = ?", (uid,)).fetchone()
        seen: list[str] = []
        store.connection.set_trace_callback(seen.append)
        with store.transaction():
            counted = count(store, Kind.CLASS, uid)
            erased = erase(store, Kind.CLASS, uid)
        store.connection.set_trace_callback(None)
        assert counted["class_scores"] == erased["class_scores"] == n > 0
        left = execute("SELECT DISTINCT class_uid FROM class_scores ORDER BY 1").fetchall()
        assert [c for (c,) in left] == others
        asked = [statement for statement in seen if " class_scores AS o" in statement]
        assert len(asked) == 2
        for statement in asked:
            plans = [row[-1] for row in execute(f"EXPLAIN QUERY PLAN {statement}")]
            assert "SEARCH o USING PRIMARY KEY (evaluation=? AND class_uid=?)" in plans


def test_lists_end_where_they_are_full(learner: Learner) -> None:
    with learner.store as store:
        ways = (lambda: list_samples(store, limit=5), lambda: list_samples(store, label="part-1"))
        for way in ways:
            found = scans(store, way, may_end_early=True)
            assert [plan for plan in found if "SELECT count(*)" not in plan] == []
        rows, n = list_samples(store, limit=5)
        assert ([row.uid for row in rows], n) == ([60, 59, 58, 57, 56], 60)


@pytest.mark.parametrize("sealed", [False, True])
def test_sizes_by_count_are_those_of_the_rows(tmp_path: Path, sealed: bool) -> None:
    store = build.store(tmp_path / "s.db", D, capacity_samples=30, sealed=sealed)
    x, y = build.features(50, D, 3)
    learner = Learner(store, make_head("ridge", D), probes=3)
    learner.learn_many([build.frame(f"part-{c}", i) for i, c in enumerate(y)], x)
    with store:
        parts = bytes_by_part(store)
        execute = store.connection.execute
        for part, table, column in (
            ("features", "features", "x"),
            ("kept pictures", "pictures", "data"),
        ):
            (n,) = execute(
                f"SELECT sum(length({column})) FROM {table} JOIN replay USING (uid)"
            ).fetchone()
            assert parts[part] == n > 0
