"""The store: transactions, capacity, statistics, refusal of what does not belong."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import build
from edgecl.errors import (
    IntegrityError,
    RequestError,
    ShapeError,
    StoreError,
    UnknownClassError,
)
from edgecl.heads.statistics import Gram
from edgecl.runtime.grid import quantise
from edgecl.store import change_tables, fleet_tables, run_tables, runs, schema, witness_tables
from edgecl.store.erasure import erase
from edgecl.store.progress import Position
from edgecl.store.sampling import class_to_evict
from edgecl.store.store import Store, describe
from edgecl.store.table import Role, Table
from edgecl.store.text import plain_text
from edgecl.store.total_tables import TOTAL_TABLES
from edgecl.types import Kind

D = 12

plain_and_sealed = pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])


def add(
    store: Store,
    label: str,
    x: np.ndarray,
    i: int,
    picture: bytes = b"picture",
    source: str = "test",
) -> tuple[int, bool]:
    return store.add_sample(
        store.add_class(label),
        quantise(x),
        lambda: picture,
        source=source,
        frame=f"{i}",
        time=1.0,
        rng=np.random.default_rng([0, store.step]),
    )


def fill(store: Store, n: int, n_classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x, y = build.features(n, D, n_classes, seed)
    with store.transaction():
        for i in range(n):
            add(store, f"class-{y[i]}", x[i], i)
    return x, y


def test_pragmas_hold_and_are_read_back(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db") as store:
        for pragma, value in {
            "secure_delete": 1,
            "foreign_keys": 1,
            "synchronous": 2,
            "journal_mode": "wal",
            "user_version": schema.SCHEMA_VERSION,
        }.items():
            assert store.connection.execute(f"PRAGMA {pragma}").fetchone()[0] == value


def test_an_sqlite_without_secure_delete_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    build.store(path).close()

    class Weak(sqlite3.Connection):
        def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
            return super().execute(sql.replace("secure_delete = ON", "secure_delete = OFF"), *args)

    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: real(*a, **k, factory=Weak))
    with pytest.raises(IntegrityError, match="secure_delete = 0"):
        Store(path)


@plain_and_sealed
def test_a_failed_transaction_leaves_everything_as_before(tmp_path: Path, sealed: bool) -> None:
    with build.store(tmp_path / "s.db", capacity_samples=10, sealed=sealed) as store:
        fill(store, 20)
        before = "\n".join(store.connection.iterdump())
        memory = (store.step, store.n_seen(), store.n_stored(), store.stored_bytes)
        with pytest.raises(RuntimeError, match="pulled plug"), store.transaction():
            fill_and_fail(store)
        assert "\n".join(store.connection.iterdump()) == before
        assert (store.step, store.n_seen(), store.n_stored(), store.stored_bytes) == memory


def fill_and_fail(store: Store) -> None:
    x, _ = build.features(15, D, 3, 9)
    for i in range(15):
        add(store, "new class", x[i], i)
    store.set_position("k", Position(3, b"d", False))
    raise RuntimeError("pulled plug")


def test_what_was_committed_is_there_after_reopening(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db", capacity_samples=10) as store:
        fill(store, 40)
        expected = (store.step, store.n_seen(), store.n_stored(), dict(store.names))
    with Store(tmp_path / "s.db", capacity_samples=10) as again:
        assert (again.step, again.n_seen(), again.n_stored(), dict(again.names)) == expected
        assert again.step == 40


@given(
    labels=st.lists(st.integers(1, 4), min_size=1, max_size=60),
    capacity=st.integers(1, 12),
)
@settings(max_examples=25)
def test_capacity_holds_and_statistics_count_every_sample(
    tmp_path: Path, labels: list[int], capacity: int
) -> None:
    path = tmp_path / f"{np.random.default_rng().integers(1 << 60)}.db"
    x, _ = build.features(len(labels), D, 1)
    with build.store(path, capacity_samples=capacity) as store:
        for i, label in enumerate(labels):
            with store.transaction():
                add(store, f"class-{label}", x[i], i)
            assert sum(store.n_stored().values()) == min(i + 1, capacity)
        (n_pictures,) = store.connection.execute("SELECT count(*) FROM pictures").fetchone()
        assert n_pictures == min(len(labels), capacity)
        rows = quantise(x)
        for uid, name in store.names.items():
            mine = np.array([f"class-{c}" == name for c in labels])
            expected = Gram(D).of(rows[mine])
            assert store.moments(uid).n == mine.sum()
            assert np.array_equal(store.moments(uid).second, expected.second)
        # Balanced: no class keeps more than one above a class that had more to give.
        kept = store.n_stored()
        seen = store.n_seen()
        for a in kept:
            for b in kept:
                assert kept[a] <= kept[b] + 1 or kept[b] == seen[b]


def test_bytes_are_bounded_too(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db", capacity_bytes=1000) as store, store.transaction():
        x, _ = build.features(30, D, 1)
        for i in range(30):
            add(store, f"class-{i % 3}", x[i], i, picture=bytes(150))
            assert store.stored_bytes <= 1000
        _, is_stored = add(store, "class-0", x[0], 99, picture=bytes(2000))
        assert not is_stored
        assert sum(store.n_stored().values()) == 6


def test_a_store_bounded_by_bytes_is_a_reservoir_too(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db", capacity_bytes=1000) as store:
        with store.transaction():
            for i in range(400):
                add(store, "one", np.zeros(D, np.float32), i, picture=bytes(100))
        steps = [s for (s,) in store.connection.execute("SELECT step FROM replay WHERE is_stored")]
    assert len(steps) == 10
    # Uniform over 1..400: mean 200, standard deviation of ten 37. The newest ten have 395.
    assert abs(np.mean(steps) - 200) < 4 * 37


def test_the_reservoir_keeps_every_sample_of_a_class_equally_likely() -> None:
    kept_runs = Counter[int]()
    runs, n, capacity = 4000, 12, 4
    for run in range(runs):
        rng = np.random.default_rng(run)
        kept: list[int] = []
        for i in range(n):
            if len(kept) < capacity:
                kept.append(i)
            elif class_to_evict({1: len(kept)}, 1, i + 1, rng) == 1:
                kept.pop(int(rng.integers(len(kept))))
                kept.append(i)
        kept_runs.update(kept)
    expected = capacity / n
    # Five standard deviations of a binomial share.
    slack = 5 * np.sqrt(expected * (1 - expected) / runs)
    assert all(abs(kept_runs[i] / runs - expected) < slack for i in range(n))


def test_a_small_class_displaces_a_sample_of_the_largest_one() -> None:
    rng = np.random.default_rng(0)
    assert class_to_evict({1: 5, 2: 9, 3: 9}, 1, 6, rng) == 2
    assert class_to_evict({2: 9}, 7, 1, rng) == 2


def test_statistics_fold_once_they_are_smaller_and_stay_exact(tmp_path: Path) -> None:
    limit = Gram(D).fold_limit
    n = 2 * limit + 7
    x, _ = build.features(n, D, 1)
    with build.store(tmp_path / "s.db", capacity_samples=5) as store:
        with store.transaction():
            for i in range(n):
                add(store, "one", x[i], i)
        (n_rows,) = store.connection.execute("SELECT count(*) FROM features").fetchone()
        assert n_rows <= 7 + 5
        uid = store.class_uid("one")
        expected = Gram(D).of(quantise(x))
        assert store.moments(uid).n == n
        assert np.array_equal(store.moments(uid).second, expected.second)
        (orphans,) = store.connection.execute(
            "SELECT count(*) FROM samples WHERE NOT is_stored AND is_folded"
        ).fetchone()
        assert orphans == 0


def test_drawing_gives_stored_rows_once_each_and_notes_the_replay(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db", capacity_samples=10) as store:
        fill(store, 30)
        rows, labels = store.stored_rows()
        with store.transaction():
            drawn = store.draw(6, np.random.default_rng(1))
        assert drawn is not None
        x, y = drawn
        known = {(r.tobytes(), int(c)) for r, c in zip(rows, labels, strict=True)}
        got = {(r.astype(np.float16).tobytes(), int(c)) for r, c in zip(x, y, strict=True)}
        assert len(got) == 6
        assert got <= known
        (n,) = store.connection.execute("SELECT sum(n_replays) FROM samples").fetchone()
        assert n == 6
        with store.transaction():
            everything = store.draw(99, np.random.default_rng(1))
        assert everything is not None
        assert len(everything[0]) == 10


def test_nothing_can_be_drawn_from_an_empty_store(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db") as store:
        assert store.draw(5, np.random.default_rng(0)) is None


def test_a_feature_of_another_map_or_shape_is_refused(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db") as store, store.transaction():
        uid = store.add_class("a")
        rest = {"source": "", "frame": "", "time": 0.0, "rng": np.random.default_rng(0)}
        for bad in (np.zeros(D + 1, np.float16), np.zeros(D, np.float32)):
            with pytest.raises(ShapeError):
                store.add_sample(uid, bad, bytes, **rest)  # type: ignore[arg-type]


def test_unknown_class_names_the_known_ones(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db") as store:
        with pytest.raises(UnknownClassError, match="nothing was learned"):
            store.class_uid("cup")
        fill(store, 3)
        with pytest.raises(UnknownClassError, match="class-1"):
            store.class_uid("cup")


def test_a_newer_schema_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    build.store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    for read_only in (False, True):
        with pytest.raises(IntegrityError, match="schema 99") as caught:
            Store(path, read_only=read_only)
        assert caught.value.exit_code == 4


def test_a_smaller_capacity_takes_effect_with_the_next_kept_sample(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db", capacity_samples=12) as store:
        fill(store, 12)
    with Store(tmp_path / "s.db", capacity_samples=4) as store:
        with store.transaction():
            add(store, "another class", np.zeros(D, np.float32), 0)
        assert sum(store.n_stored().values()) == 4
        assert sum(store.n_seen().values()) == 13


def test_an_older_schema_is_migrated_in_a_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    build.store(path).close()
    now = schema.SCHEMA_VERSION
    monkeypatch.setattr(schema, "SCHEMA_VERSION", now + 1)
    monkeypatch.setattr("edgecl.store.database.SCHEMA_VERSION", now + 1)
    for read_only in (False, True):
        with pytest.raises(IntegrityError, match=rf"schema {now}, .*learn anew in another home"):
            Store(path, read_only=read_only)

    def step(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE added(x)")

    def broken(connection: sqlite3.Connection) -> None:
        step(connection)
        raise ValueError("half way")

    monkeypatch.setitem(schema.MIGRATIONS, now, broken)
    with pytest.raises(StoreError, match=rf"schema {now} .*forget pending"):
        Store(path, read_only=True)
    with pytest.raises(IntegrityError, match="half way"):
        Store(path)
    monkeypatch.setitem(schema.MIGRATIONS, now, step)
    known = schema._known() | {("table", "added", "CREATE TABLE added(x)")}
    monkeypatch.setattr(schema, "_known", lambda: known)
    with Store(path) as store:
        assert store.connection.execute("SELECT count(*) FROM added").fetchone() == (0,)
        assert store.connection.execute("PRAGMA user_version").fetchone() == (now + 1,)


RUNS = (*change_tables.CHANGE_TABLES, *run_tables.RUN_TABLES)
WITNESSES = (*witness_tables.WITNESS_TABLES, *TOTAL_TABLES, *fleet_tables.FLEET_TABLES)


@pytest.mark.parametrize(("version", "added"), [(1, (*RUNS, *WITNESSES)), (2, WITNESSES)])
def test_a_store_of_an_older_version_gets_what_came_since(
    tmp_path: Path, version: int, added: tuple[Table, ...]
) -> None:
    path = tmp_path / "s.db"
    with build.store(path) as store:
        fill(store, 9)
        for table in reversed(added):
            store.connection.execute(f"DROP TABLE {table.name}")
        store.connection.execute(f"PRAGMA user_version = {version}")
    with Store(path) as store:  # which checks that every table is as it would be made now
        assert sum(store.n_seen().values()) == 9
        assert runs.last_run(store) is None


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE keepsake(x)",
        "CREATE TRIGGER keep AFTER DELETE ON samples BEGIN SELECT 1; END",
        "CREATE VIEW all_names AS SELECT name FROM classes",
        "CREATE INDEX mine ON samples(time)",
        "ALTER TABLE classes ADD COLUMN note TEXT",
        "DROP VIEW review",
    ],
)
def test_a_store_with_something_foreign_in_it_is_refused(tmp_path: Path, sql: str) -> None:
    path = tmp_path / "s.db"
    build.store(path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql)
    for read_only in (False, True):
        with pytest.raises(IntegrityError, match="not as edgecl made it"):
            Store(path, read_only=read_only)


def test_of_two_that_learn_into_one_store_the_second_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with build.store(path) as first, Store(path) as second:
        with first.transaction():
            first.add_class("cup")
        with pytest.raises(StoreError, match="another process learned"), second.transaction():
            second.add_class("plate")
        assert list(Store(path).names.values()) == ["cup"]
        with second.transaction(changes_head=False):  # as one that leaves a request does
            second.note_attempt(1)
        with first.transaction():
            first.add_class("plate")


@pytest.mark.parametrize("version", [1, 4, 5])
def test_a_store_from_before_the_first_schema_gets_one_clear_line(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "s.db"
    build.store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA application_id = 0")
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    before = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(
            IntegrityError, match=rf"\({version}\) from before .*edgecl init --home"
        ):
            Store(path, read_only=read_only)
    assert path.read_bytes() == before


def test_files_that_are_no_store_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing"):
        Store(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("not a database, but long enough to look like one" * 30)
    with pytest.raises(IntegrityError, match="damaged"):
        Store(tmp_path / "text.db")


def test_a_locked_store_says_so_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecl.store.database._BUSY_TIMEOUT_MS", 20)
    with build.store(tmp_path / "s.db") as store:
        other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"locked.*wait"):
            fill(store, 3)
        other.execute("ROLLBACK")
        other.close()
        assert store.step == 0
        fill(store, 3)
        assert store.step == 3


def test_a_full_disk_says_so_and_keeps_nothing(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db") as store:
        fill(store, 3)
        (pages,) = store.connection.execute("PRAGMA page_count").fetchone()
        store.connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="free some disk space"), store.transaction():
            add(store, "big", np.zeros(D, np.float32), 0, picture=bytes(500_000))
        assert store.step == 3
        assert "big" not in store.names.values()


def test_read_only_cannot_write(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db") as store:
        fill(store, 3)
    with Store(tmp_path / "s.db", read_only=True) as store:
        assert store.step == 3
        with pytest.raises(StoreError, match="writable"):
            fill(store, 1)


def test_a_kept_head_is_valid_for_one_version_only(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db") as store:
        with store.transaction():
            store.save_head("state", "uer", {"rows": np.ones((2, 3), np.float32)})
        kept = store.load_head("state", "uer")
        assert kept is not None
        assert np.array_equal(kept["rows"], np.ones((2, 3)))
        assert store.load_head("state", "ridge") is None
        with store.transaction(changes_head=False):
            store.set_position("k", Position(1, b"x", True))
        assert store.load_head("state", "uer") is not None
        fill(store, 1)
        assert store.load_head("state", "uer") is None


@plain_and_sealed
def test_deleting_a_class_takes_its_rows_and_its_name_in_other_texts(
    tmp_path: Path, sealed: bool
) -> None:
    with build.store(tmp_path / "s.db", sealed=sealed) as store:
        x, _ = build.features(4, D, 1)
        with store.transaction():
            for i, label in enumerate(("washer", "bolt", "washer", "bolt")):
                store.add_sample(
                    store.add_class(label),
                    quantise(x[i]),
                    lambda: b"p",
                    source="washers.csv",
                    frame=f"{i}",
                    time=0.0,
                    rng=np.random.default_rng(0),
                )
        with store.transaction():
            erased = erase(store, Kind.CLASS, store.class_uid("washer"))
        assert erased == {
            "samples": 2,
            "features": 2,
            "pictures": 2,
            "views": 0,
            "class_stats": 0,
            "classes": 1,
            "aliases": 0,
            "probes": 0,
            "novel": 0,
            "class_scores": 0,
            "class_latency": 0,
        }
        assert "washer" not in "\n".join(store.connection.iterdump())
        assert store.n_stored() == {store.class_uid("bolt"): 2}
        assert store.connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_new_frames_are_never_filed_under_a_source_that_was_emptied(tmp_path: Path) -> None:
    x, _ = build.features(6, D, 1)
    with build.store(tmp_path / "s.db") as store:
        with store.transaction():
            for i, source in enumerate(("washers.csv", "old washers.csv")):
                add(store, "bolt", x[i], i, source=source)
            add(store, "washer", x[2], 2, source="monday")
            add(store, "nut", x[3], 3, source="monday")
            store.connection.execute("UPDATE samples SET frame = 'washer.png'")
        emptied = [uid for uid, text in store.sources().items() if "washer" in text]
        with store.transaction():
            erase(store, Kind.CLASS, store.class_uid("washer"))
        texts = dict(store.connection.execute("SELECT uid, text FROM sources"))
        assert [texts[uid] for uid in emptied] == [None, None]
        assert not set(emptied) & set(store.sources())
        assert {origin.frame for origin in store.origins(Role.REPLAY)} == {""}
        with store.transaction():
            uid, _ = add(store, "bolt", x[4], 4, source="")
        assert not set(store.sources_of([uid])) & set(emptied)
        # To forget what came from nowhere must not take what came from the emptied ones.
        (named,) = [uid for uid, text in store.sources().items() if not text]
        with store.transaction():
            assert erase(store, Kind.SOURCE, named)["samples"] == 1
        assert describe(store)["sources"] == {"": 2, "monday": 1}
    with Store(tmp_path / "s.db") as store, store.transaction():
        uid, _ = add(store, "bolt", x[5], 5, source="")
        assert not set(store.sources_of([uid])) & set(emptied)


def packed(store: Store) -> dict[str, tuple[int, bytes, bytes]]:
    return {
        name: (store.moments(uid).n, *Gram(D).pack(store.moments(uid)))
        for uid, name in store.names.items()
    }


@plain_and_sealed
@pytest.mark.parametrize("capacity", [200, 9])
def test_a_deleted_source_leaves_what_the_others_taught(
    tmp_path: Path, capacity: int, sealed: bool
) -> None:
    x, y = build.features(600, D, 3)

    def fill_from(store: Store, sources: tuple[str, ...]) -> None:
        with store.transaction():
            for i in range(600):
                source = ("monday", "tuesday", "alone")[0 if i < 300 else 1 if y[i] > 1 else 2]
                label = "only alone" if source == "alone" else f"class-{y[i]}"
                if source in sources:
                    add(store, label, x[i], i, source=source)

    with (
        build.store(tmp_path / "a.db", capacity_samples=capacity, sealed=sealed) as store,
        build.store(tmp_path / "b.db") as without,
        build.store(tmp_path / "c.db") as last,
    ):
        fill_from(store, ("monday", "tuesday", "alone"))
        fill_from(without, ("tuesday", "alone"))
        fill_from(last, ("tuesday",))
        (n_stats,) = store.connection.execute(
            "SELECT count(DISTINCT source_uid) FROM class_stats"
        ).fetchone()
        assert n_stats > 1
        uid = {text: uid for uid, text in store.sources().items()}
        with store.transaction():
            erased = erase(store, Kind.SOURCE, uid["monday"])
        assert erased["samples"]
        assert erased["class_stats"]
        assert packed(store) == packed(without)
        assert store.n_seen() == {store.class_uid(n): c for n, c in named_counts(without).items()}
        with store.transaction():
            assert erase(store, Kind.SOURCE, uid["alone"])["classes"] == 1
        assert packed(store) == packed(last)
        assert "alone" not in "\n".join(store.connection.iterdump())
        assert list(store.sources().values()) == ["tuesday"]
        assert store.connection.execute("PRAGMA foreign_key_check").fetchall() == []
        before = describe(store)
    vault = build.vault(tmp_path / "a.db") if sealed else None
    with Store(tmp_path / "a.db", capacity_samples=capacity, vault=vault) as store:
        assert describe(store) == before


def named_counts(store: Store) -> dict[str, int]:
    return {store.names[uid]: n for uid, n in store.n_seen().items()}


@plain_and_sealed
def test_a_deleted_sample_leaves_its_class_s_statistics(tmp_path: Path, sealed: bool) -> None:
    n = Gram(D).fold_limit + 5
    x, _ = build.features(n, D, 1)
    with build.store(tmp_path / "a.db", capacity_samples=200, sealed=sealed) as store:
        with store.transaction():
            uids = [add(store, "cup", x[i], i)[0] for i in range(n)]
        (folded,) = store.connection.execute("SELECT count(*) FROM class_stats").fetchone()
        assert folded == 1
        for gone in (0, n - 1, 20):
            with store.transaction():
                erased = erase(store, Kind.SAMPLE, uids[gone])
            assert erased["samples"] == erased["features"] == erased["pictures"] == 1
        left = np.array([row for i, row in enumerate(quantise(x)) if i not in (0, n - 1, 20)])
        expected = Gram(D).of(left)
        ours = store.moments(store.class_uid("cup"))
        assert (ours.n, *Gram(D).pack(ours)) == (n - 3, *Gram(D).pack(expected))
        with store.transaction(), pytest.raises(RequestError, match="forget its source"):
            erase(store, Kind.SAMPLE, uids[0])
        for i in range(n):
            if i not in (0, n - 1, 20):
                with store.transaction():
                    erase(store, Kind.SAMPLE, uids[i])
        assert not store.names
        assert store.sources() == {}


def test_a_renamed_class_answers_to_both_names(tmp_path: Path) -> None:
    with build.store(tmp_path / "a.db") as store:
        fill(store, 9)
        uid = store.class_uid("class-1")
        with store.transaction():
            store.rename_class("class-1", "bracket")
            store.rename_class("bracket", "big bracket")
        assert store.names[uid] == "big bracket"
        assert store.names_of(uid) == ("big bracket", "bracket", "class-1")
        for name in ("big bracket", "bracket", "class-1"):
            assert store.class_uid(name) == store.add_class(name) == uid
        with store.transaction():
            store.rename_class("class-1", "class-1")
        assert store.names_of(uid) == ("class-1", "big bracket", "bracket")
        with store.transaction(), pytest.raises(RequestError, match="another class"):
            store.rename_class("class-1", "class-2")
        with pytest.raises(UnknownClassError), store.transaction():
            store.rename_class("nobody", "somebody")
        with store.transaction():
            erase(store, Kind.CLASS, uid)
        assert "bracket" not in "\n".join(store.connection.iterdump())


def test_frames_without_a_source_share_one_also_after_reopening(tmp_path: Path) -> None:
    x, _ = build.features(6, D, 1)
    build.store(tmp_path / "s.db").close()
    for i in range(6):
        with Store(tmp_path / "s.db") as store, store.transaction():
            add(store, "cup", x[i], i, source="")
    with Store(tmp_path / "s.db") as store:
        assert store.sources() == {1: ""}


def test_a_journal_that_stays_another_is_refused() -> None:
    from edgecl.store.database import _use_log

    class Stubborn:
        """A connection on a file system where WAL cannot be used."""

        def execute(self, sql: str) -> Stubborn:
            assert sql == "PRAGMA journal_mode = WAL"
            return self

        def fetchone(self) -> tuple[str]:
            return ("delete",)

    with pytest.raises(IntegrityError, match="journal_mode at 'delete'"):
        _use_log(Stubborn())  # type: ignore[arg-type]


def test_a_name_of_half_a_character_is_kept_by_its_code() -> None:
    assert plain_text("a\ud800.png") == "a\\xed\\xa0\\x80.png"
    assert plain_text("a\udcff.png") == "a\\xff.png"
    assert plain_text("ä.png") == "ä.png"
