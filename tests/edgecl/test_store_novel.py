from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import build
from edgecl.errors import IntegrityError, RequestError, ShapeError
from edgecl.heads import make_head
from edgecl.learner import Learner
from edgecl.runtime.grid import quantise
from edgecl.store.novel import drop, entries, entry_of, feature, offer
from edgecl.store.store import Store

D = 12


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with build.store(tmp_path / "s.db", sealed=request.param) as opened:
        teach(opened)
        yield opened


def teach(store: Store) -> None:
    x, y = build.features(20)
    learner = Learner(store, make_head("ridge", D))
    learner.learn_many([build.frame(f"part-{c}", i) for i, c in enumerate(y)], x)


def axis(i: int, tilt: float = 0.0) -> np.ndarray:
    """A feature of its own direction, tilted a little toward the next."""
    x = np.zeros(D, np.float32)
    x[i % D], x[(i + 1) % D] = 1.0, tilt
    return quantise(x)


def put(store: Store, i: int, score: float, **changes: Any) -> bool:
    values: dict[str, Any] = {
        "picture": b"picture %d" % i,
        "x": axis(i),
        "guess": 1,
        "score": score,
        "source": "camera:0",
        "frame": f"f{i}",
        "time": 1000.0 + i,
    }
    with store.transaction(changes_head=False):
        return offer(store, **(values | changes))


def frames(store: Store) -> list[str]:
    return [entry.frame for entry in entries(store)]


def test_what_is_offered_can_be_read_and_the_most_novel_comes_first(store: Store) -> None:
    assert put(store, 0, 1.5)
    assert put(store, 1, 2.5, source="mqtt://host/a", guess=2)
    first, second = entries(store)
    assert (first.frame, first.source, first.guess, first.score, first.time) == (
        "f1", "mqtt://host/a", 2, 2.5, 1001.0,
    )  # fmt: skip
    assert store.picture(second.uid) == b"picture 0"
    assert np.array_equal(feature(store, second.uid), axis(0))
    assert entry_of(store, first.uid) == first


def test_of_frames_that_are_nearly_equal_the_most_novel_stays(store: Store) -> None:
    assert put(store, 0, 2.0)
    assert not put(store, 0, 2.0, frame="as novel")
    assert not put(store, 0, 1.0, x=axis(0, 0.05), frame="less")
    assert put(store, 0, 3.0, x=axis(0, 0.05), frame="more")
    assert frames(store) == ["more"]
    assert put(store, 0, 1.0, x=axis(0, 0.5), frame="another thing")
    assert frames(store) == ["more", "another thing"]


@settings(max_examples=8)
@given(scores=st.lists(st.integers(0, 30), max_size=D, unique=True), capacity=st.integers(1, 6))
def test_the_queue_keeps_the_most_novel(
    scores: list[int], capacity: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with build.store(tmp_path_factory.mktemp("queue") / "s.db") as store:
        teach(store)
        for i, score in enumerate(scores):
            best = sorted(scores[: i + 1], reverse=True)[:capacity]
            assert put(store, i, score, capacity=capacity) == (score in best)
            assert [entry.score for entry in entries(store)] == best


def test_bytes_are_bounded_and_the_least_novel_go(store: Store) -> None:
    for i in range(4):
        assert put(store, i, 1.0 + i, picture=bytes(100), capacity_bytes=10_000)
    n_bytes = 4 * 100
    assert put(store, 5, 3.5, picture=bytes(100), capacity_bytes=n_bytes)
    assert frames(store) == ["f3", "f5", "f2", "f1"]
    assert not put(store, 6, 0.5, picture=bytes(100), capacity_bytes=n_bytes)
    assert not put(store, 7, 9.0, picture=bytes(101), capacity_bytes=100)
    assert frames(store) == ["f3", "f5", "f2", "f1"]


def test_dropped_entries_are_gone_and_no_uid_is_given_twice(store: Store) -> None:
    put(store, 0, 1.0)
    put(store, 1, 2.0)
    uids = [entry.uid for entry in entries(store)]
    with store.transaction(changes_head=False):
        drop(store, uids)
    assert entries(store) == []
    for read in (feature, entry_of):
        with pytest.raises(RequestError, match="not in the review queue"):
            read(store, uids[0])
    put(store, 2, 1.0)
    assert entries(store)[0].uid > max(uids)


def test_a_drop_of_what_is_not_there_drops_nothing(store: Store) -> None:
    put(store, 0, 1.0)
    with pytest.raises(RequestError, match="entry 99"), store.transaction():
        drop(store, [entries(store)[0].uid, 99])
    assert frames(store) == ["f0"]


def test_a_class_that_is_being_unlearned_takes_its_guesses_off_the_list(store: Store) -> None:
    put(store, 0, 1.0, guess=1)
    put(store, 1, 1.0, guess=2)
    with store.transaction(changes_head=False):
        store.connection.execute(
            "INSERT INTO requests(kind, target, phase, created, body) "
            "VALUES ('class', 1, 'PENDING', 0, '{}')"
        )
    assert frames(store) == ["f1"]


def test_a_sealed_entry_shows_nothing_and_cannot_be_moved(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with build.store(path, sealed=True) as store:
        teach(store)
        put(store, 0, 1.0)
        put(store, 1, 2.0)
        with sqlite3.connect(path) as other:
            query = "SELECT x, data FROM review JOIN features USING (uid) JOIN pictures USING (uid)"
            blobs = [b for row in other.execute(query) for b in row]
            other.execute(
                "UPDATE pictures SET data = ? "
                "WHERE uid = (SELECT uid FROM review WHERE frame = 'f1')",
                (blobs[1],),
            )
        other.close()
        assert not any(b"picture" in blob or axis(0).tobytes() in blob for blob in blobs)
        with pytest.raises(IntegrityError, match="damaged or was moved"):
            store.picture(entries(store)[0].uid)


@pytest.mark.parametrize("x", [np.zeros(D, np.float32), np.zeros(D - 1, np.float16)])
def test_a_feature_that_is_not_the_stores_is_refused(x: np.ndarray, store: Store) -> None:
    with pytest.raises(ShapeError, match=r"keeps \(12,\) float16"):
        put(store, 0, 1.0, x=x)
    assert entries(store) == []


def test_an_offer_that_is_rolled_back_leaves_nothing(store: Store) -> None:
    def offer_and_fail() -> None:
        with store.transaction():
            offer(
                store, picture=b"p", x=axis(0), guess=1, score=1.0, source="new", frame="f", time=0
            )
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        offer_and_fail()
    assert entries(store) == []
    assert "new" not in store.sources().values()
