"""Unlearning: exact, erased from the disk, receipted."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import build
from edgecl.doctor import examine_home
from edgecl.errors import EdgeclError, IntegrityError, RequestError, UnknownClassError, UsageError
from edgecl.heads import HEADS, make_head
from edgecl.home import Home
from edgecl.session import open_learner, open_store
from edgecl.store.store import Store
from edgecl.types import ForgetRequest
from edgecl.unlearning import erase
from edgecl.unlearning import request as unlearning
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.receipt import RolledBack, find_tombstone

every_head = pytest.mark.parametrize("name", list(HEADS))
LABELS = ("purple bracket", "brass washer", "steel gasket")


def teach(home: Home, n: int = 30, labels: tuple[str, ...] = LABELS) -> None:
    with open_store(home) as store:
        learner = open_learner(home, store)
        x, y = build.features(n, store.num_features, 3)
        kept = [i for i in range(n) if LABELS[y[i] - 1] in labels]
        learner.learn_many([build.frame(LABELS[y[i] - 1], i) for i in kept], x[kept])
        learner.settle()


def forget(home: Home, name: str, *, verify: bool = True) -> unlearning.Unlearned:
    with home.lock(), open_store(home) as store:
        learner = open_learner(home, store)
        return unlearning.forget(home, learner, ForgetRequest(name), verify=verify)


@every_head
def test_every_trace_of_a_forgotten_class_is_gone_from_every_file(home: Home, name: str) -> None:
    build.change_head(home, name)
    teach(home)
    needles = [LABELS[1].encode()]
    with open_store(home) as store:
        uid = store.class_uid(LABELS[1])
        for (data,) in store.connection.execute(
            "SELECT data FROM pictures JOIN replay USING (uid) WHERE class_uid = ?", (uid,)
        ):
            needles.append(data[60:100])
        for (x,) in store.connection.execute(
            "SELECT x FROM features JOIN replay USING (uid) WHERE class_uid = ?", (uid,)
        ):
            needles.append(x[:64])
    content = b"".join(p.read_bytes() for p in home.path.rglob("*") if p.is_file())
    assert all(needle in content for needle in needles)
    done = forget(home, LABELS[1])
    assert done.verified, done.faults
    assert done.receipt.body["bit_exact"] is (name != "uer")
    assert done.receipt.body["mode"] == make_head(name, 4).forget_mode
    content = b"".join(p.read_bytes() for p in home.path.rglob("*") if p.is_file())
    assert not any(needle in content for needle in needles)
    assert LABELS[0].encode() in content


def test_the_head_is_the_one_that_never_saw_the_class(
    home: Home, copy_of: Callable[[Path], Path]
) -> None:
    other = Home(copy_of(home.path))
    teach(home)
    forget(home, LABELS[1])
    teach(other, labels=(LABELS[0], LABELS[2]))
    weights = []
    for device in (home, other):
        with open_store(device) as store:
            weights.append(open_learner(device, store).head.scorer(store.names))
    assert np.array_equal(weights[0].weights, weights[1].weights)
    assert np.array_equal(weights[0].bias, weights[1].bias)
    assert weights[0].labels == weights[1].labels


@every_head
def test_after_the_last_class_the_home_is_as_after_init(
    home: Home, copy_of: Callable[[Path], Path], name: str
) -> None:
    build.change_head(home, name)
    fresh = Home(copy_of(home.path))
    teach(home)
    for label in LABELS:
        forget(home, label)
    tables = [
        "classes",
        "samples",
        "features",
        "pictures",
        "class_stats",
        "head",
        "positions",
    ]
    with open_store(home) as ours, open_store(fresh) as theirs:
        for table in tables:
            rows = [
                s.connection.execute(f"SELECT * FROM {table}").fetchall() for s in (ours, theirs)
            ]
            assert rows[0] == rows[1], table
        assert ours.step == theirs.step == 0
        heads = [open_learner(d, s).head for d, s in ((home, ours), (fresh, theirs))]
        states = [build.learned(head) for head in heads]
        assert all(np.array_equal(states[0][k], states[1][k]) for k in states[0])


def learned(store: Store) -> str:
    """Everything in a store but its history."""
    history = ("receipts", "requests", "sqlite_sequence")
    lines = store.connection.iterdump()
    return "\n".join(
        line
        for line in lines
        if not line.startswith(tuple(f'INSERT INTO "{table}"' for table in history))
    )


def test_unknown_class_changes_nothing(home: Home) -> None:
    teach(home)
    with open_store(home) as store:
        before = learned(store)
    with pytest.raises(UnknownClassError, match="unicorn"):
        forget(home, "unicorn")
    with open_store(home) as store:
        assert learned(store) == before
        (entry,) = Chain(home, store).receipts
    assert entry.body["why"] == "unknown class"
    assert "unicorn" not in repr(entry)


def test_a_class_learned_again_gets_a_new_uid_and_the_old_one_stays_a_tombstone(home: Home) -> None:
    teach(home)
    done = forget(home, LABELS[1])
    with open_store(home) as store:
        uid = done.receipt.body["class_uid"]
        found = find_tombstone(home, store, "class", LABELS[1])
        assert found == (uid, done.receipt.receipt_id)
        assert find_tombstone(home, store, "class", "never seen") is None
    teach(home)
    with open_store(home) as store:
        assert store.class_uid(LABELS[1]) > done.receipt.body["class_uid"]
        assert find_tombstone(home, store, "class", LABELS[1]) is not None


def test_a_failure_before_the_commit_leaves_class_and_head(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(home)
    with open_store(home) as store:
        before = learned(store)
        learner = open_learner(home, store)
        state = build.learned(learner.head)

        def fail(*_: object) -> None:
            raise OSError("pulled plug")

        monkeypatch.setattr(unlearning, "add_tombstones", fail)
        with pytest.raises(OSError, match="pulled plug"):
            unlearning.forget(home, learner, ForgetRequest(LABELS[1]))
        assert learned(store) == before
        after = build.learned(learner.head)
        assert all(np.array_equal(state[k], after[k]) for k in state)


def test_an_erasure_that_was_cut_off_is_finished_by_the_next_command(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(home)
    with monkeypatch.context() as patch:
        patch.setattr(unlearning, "scrub", lambda _: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            forget(home, LABELS[1])
    with open_store(home) as store:
        assert LABELS[1] not in store.names.values()
        assert [r.body["kind"] for r in Chain(home, store).receipts] == ["forget"]
        (done,) = unlearning.finish_requests(home, store)
        assert done.erasure.busy == 0
        assert [r.body["kind"] for r in Chain(home, store).receipts] == [
            "forget",
            "erasure",
            "verification",
        ]
        assert unlearning.finish_requests(home, store) == []
    content = b"".join(p.read_bytes() for p in home.path.rglob("*") if p.is_file())
    assert LABELS[1].encode() not in content


def test_a_reader_in_the_way_makes_the_erasure_pending_not_done(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(home)
    monkeypatch.setattr("edgecl.store.scrub._PATIENCE_S", 0.05)
    monkeypatch.setattr("edgecl.store.database._BUSY_TIMEOUT_MS", 20)
    reader = sqlite3.connect(home.database, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM pictures").fetchone()
    done = forget(home, LABELS[1])
    assert done.erasure.busy == 1
    assert done.verified is False
    assert any("another process was reading" in fault for fault in done.faults)
    reader.execute("ROLLBACK")
    reader.close()
    with open_store(home) as store:
        assert unlearning.finish_requests(home, store)[-1].erasure.busy == 0
    content = b"".join(p.read_bytes() for p in home.path.rglob("*") if p.is_file())
    assert LABELS[1].encode() not in content


@pytest.mark.parametrize("journal", ["PERSIST", "DELETE", "TRUNCATE", "MEMORY"])
def test_another_journal_that_somebody_set_is_put_back_to_wal(home: Home, journal: str) -> None:
    teach(home)
    foreign = sqlite3.connect(home.database, isolation_level=None)
    assert foreign.execute(f"PRAGMA journal_mode = {journal}").fetchone() == (journal.lower(),)
    foreign.execute("UPDATE classes SET created = created + 1")
    foreign.execute("ANALYZE")
    foreign.close()
    (finding,) = [f for f in examine_home(home.path) if f.name == "store"]
    assert finding.state == ("bad" if journal == "PERSIST" else "ok"), finding.text
    done = forget(home, LABELS[1])
    assert done.verified, done.faults
    assert (done.erasure.journal_mode, done.erasure.secure_delete) == ("wal", 1)
    assert not list(home.path.glob("*-journal"))
    with open_store(home) as store:
        tables = [n for (n,) in store.connection.execute("SELECT name FROM sqlite_master")]
    assert not [name for name in tables if name.startswith("sqlite_stat")]


def test_a_log_that_cannot_be_used_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = sqlite3.connect(home.database, isolation_level=None)
    foreign.execute("PRAGMA journal_mode = PERSIST")
    foreign.execute("BEGIN")
    foreign.execute("SELECT * FROM classes").fetchall()
    monkeypatch.setattr("edgecl.store.database._BUSY_TIMEOUT_MS", 20)
    with pytest.raises(EdgeclError, match=r"locked|journal_mode"):
        open_store(home)
    foreign.close()


def test_the_check_finds_bytes_that_were_left(home: Home) -> None:
    teach(home)
    (home.path / "notes.txt").write_text(f"look for the {LABELS[1]} tomorrow")
    done = forget(home, LABELS[1])
    assert done.verified is False
    assert any("notes.txt" in fault for fault in done.faults)


def test_a_receipt_names_no_class_and_the_reason_must_not_either(home: Home) -> None:
    teach(home)
    done = forget(home, LABELS[1])
    assert LABELS[1] not in repr(done.receipt)
    with pytest.raises(UsageError, match="reason"):
        ForgetRequest(LABELS[1], f"the {LABELS[1].upper()} left")
    assert ForgetRequest("1", "ticket 1034").reason == "ticket 1034"
    request = ForgetRequest(LABELS[2], f"confused with {LABELS[0]}")
    with open_store(home) as store:
        learner = open_learner(home, store)
        with pytest.raises(UsageError, match=LABELS[0]):
            unlearning.forget(home, learner, request)


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("UPDATE receipts SET body = replace(body, 'rollback', 'rolled') WHERE number = 3", "r3"),
        ("UPDATE receipts SET previous = replace(previous, 'a', 'b') WHERE number = 2", "r2"),
        ("DELETE FROM receipts WHERE number = 2", "r2"),
        ("DELETE FROM receipts WHERE number = 4", "r4"),
    ],
)
def test_any_change_of_the_chain_is_found_and_named(home: Home, sql: str, named: str) -> None:
    with open_store(home) as store:
        chain = Chain(home, store)
        for i in range(4):
            with store.transaction():
                chain.append(RolledBack(i, time=0.0))
            chain.settle()
        assert [entry.snapshot for _, entry in chain.of(RolledBack)] == [0, 1, 2, 3]
        assert chain.find("r2").body["snapshot"] == 1
        with pytest.raises(RequestError, match="r9"):
            chain.find("r9")
        with store.transaction():
            store.connection.execute(sql)
        with pytest.raises(IntegrityError, match=named):
            Chain(home, store)


def test_bytes_are_found_across_chunk_borders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erase, "_CHUNK", 16)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "f.bin").write_bytes(b"." * 12 + b"needle" + b"." * 30)
    found = erase.find_bytes(tmp_path, {"a": b"needle", "b": b"absent"})
    assert list(found) == ["a"]
    assert found["a"][0].endswith("f.bin")
