"""A step, a draw and an opening look for samples by an index, however many there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import build
from edgecl.heads import make_head
from edgecl.learner import Learner
from edgecl.store.novel import entries
from edgecl.store.store import Store
from edgecl.store.table import Role

D = 6
TABLES = ("samples", "s", "features", "pictures")


def scans(store: Store, work: Callable[[], object]) -> list[str]:
    """Return the statements of some work that go through all samples."""
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
            # Through an index that has only the rows of a role is no scan of all.
            if plan.startswith("SCAN") and plan.split()[1] in TABLES and "USING" not in plan:
                found.append(f"{plan}: {statement}")
    return found


@pytest.fixture
def learner(tmp_path: Path) -> Learner:
    """A learner of a store with some rows of each kind."""
    store = build.store(tmp_path / "s.db", D, capacity_samples=30)
    x, y = build.features(60, D, 3)
    taught = Learner(store, make_head("ridge", D), probes=3)
    taught.learn_many([build.frame(f"part-{c}", i) for i, c in enumerate(y)], x)
    return taught


def test_a_step_scans_no_samples(learner: Learner) -> None:
    with learner.store as store:
        row = np.ones((1, D), np.float32)
        assert scans(store, lambda: learner.learn_many([build.frame("part-1", 99)], row)) == []


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
        assert scans(store, store.whole) == []
