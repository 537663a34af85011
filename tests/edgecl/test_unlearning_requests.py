"""Requests to unlearn: every edge case of the contract, phases, older copies, other processes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import build
from edgecl import snapshots
from edgecl.errors import (
    EdgeclError,
    HomeLockedError,
    IntegrityError,
    NothingLearnedError,
    RequestError,
    UsageError,
)
from edgecl.heads import HEADS
from edgecl.home import Home
from edgecl.runtime.predictor import predictions
from edgecl.session import Session, open_learner, open_predictor, open_store
from edgecl.store.requests import record
from edgecl.types import ForgetRequest, Prediction
from edgecl.unlearning import request as unlearning
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.plan import make_plan, resolve
from edgecl.unlearning.request import Unlearned, finish_requests, writing

LABELS = ("purple bracket", "brass washer", "steel gasket")
every_head = pytest.mark.parametrize("name", list(HEADS))


def rows(n: int, width: int) -> tuple[np.ndarray, list[str]]:
    x, y = build.features(n, width, len(LABELS))
    return x, [LABELS[c - 1] for c in y]


def teach(
    home: Home,
    n: int = 30,
    *,
    labels: tuple[str, ...] = LABELS,
    source: Callable[[int], str] = lambda i: "",
    only: Callable[[int], bool] = lambda i: True,
) -> list[int]:
    """Learn rows of some classes, and return the uids of their samples."""
    with writing(home) as session:
        store = session.store
        learner = open_learner(home, store)
        x, y = rows(n, store.num_features)
        kept = [i for i in range(n) if y[i] in labels and only(i)]
        frames = [replace(build.frame(y[i], i), source=source(i)) for i in kept]
        uids = [report.uid for report in learner.learn_many(frames, x[kept])]
        learner.settle()
    return uids


def forget(home: Home, name: str, kind: str = "class", *, verify: bool = True) -> Unlearned:
    with writing(home) as session:
        store = session.store
        request = ForgetRequest(name, kind=kind)
        return unlearning.forget(home, open_learner(home, store), request, verify=verify)


def weights(home: Home) -> dict[str, np.ndarray]:
    with open_store(home, read_only=True) as store:
        return dict(open_learner(home, store).head.scorer(store.names).arrays())


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray], tolerance: float = 0.0) -> bool:
    return a.keys() == b.keys() and all(
        a[part].shape == b[part].shape and np.allclose(a[part], b[part], rtol=0, atol=tolerance)
        for part in a
    )


def guesses(home: Home, x: np.ndarray) -> list[Prediction]:
    with open_store(home, read_only=True) as store:
        scorer = Session(home, store).exact_scorer()
    return predictions(scorer, [str(i) for i in range(len(x))], x)


def names(home: Home) -> list[str]:
    with open_store(home, read_only=True) as store:
        return list(store.names.values())


def content(path: Path) -> bytes:
    return b"".join(p.read_bytes() for p in path.rglob("*") if p.is_file())


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Home:
    """A home for features that come from elsewhere."""
    return build.tiny_home(tmp_path / "home", sealed=request.param)


@pytest.fixture
def twin(tmp_path: Path) -> Home:
    """A second one."""
    return build.tiny_home(tmp_path / "twin")


# One sample, one source


@every_head
def test_a_forgotten_sample_leaves_the_head_that_never_saw_it(
    home: Home, twin: Home, name: str
) -> None:
    build.change_head(home, name, sealed=home.class_keys.exists())
    build.change_head(twin, name)
    uids = teach(home)
    teach(twin, only=lambda i: i != 7)
    done = forget(home, str(uids[7]), "sample")
    assert done.verified, done.faults
    assert done.receipt.body["rows_erased"]["samples"] == 1
    if done.receipt.body["bit_exact"]:
        assert same(weights(home), weights(twin))
    else:
        assert name == "uer"
    again = forget(home, str(uids[7]), "sample")
    assert (again.mode, again.receipt) == ("already_forgotten", done.receipt)


@every_head
def test_a_forgotten_source_leaves_the_head_that_never_saw_it(
    home: Home, twin: Home, name: str
) -> None:
    build.change_head(home, name, sealed=home.class_keys.exists())
    build.change_head(twin, name)
    days = ["monday", "tuesday at the gate", "wednesday"]
    teach(home, source=lambda i: days[i // 3 % 3])
    teach(twin, source=lambda i: days[i // 3 % 3], only=lambda i: i // 3 % 3 != 1)
    done = forget(home, days[1], "source")
    assert done.verified, done.faults
    assert b"tuesday at the gate" not in content(home.path)
    if done.receipt.body["bit_exact"]:
        assert same(weights(home), weights(twin))
    again = forget(home, days[1], "source")
    assert (again.mode, again.receipt) == ("already_forgotten", done.receipt)
    with pytest.raises(RequestError, match=r"came from 'sunday'.*monday"):
        forget(home, "sunday", "source")


def test_a_class_whose_only_source_is_forgotten_is_gone(home: Home) -> None:
    teach(home, labels=LABELS[:2], source=lambda i: "first")
    teach(home, labels=LABELS[2:], source=lambda i: "second")
    forget(home, "second", "source")
    assert names(home) == list(LABELS[:2])
    forget(home, "first", "source")
    assert names(home) == []
    with pytest.raises(NothingLearnedError):
        open_predictor(home)


def test_a_sample_that_is_not_in_the_store_is_refused(home: Home) -> None:
    teach(home)
    with pytest.raises(RequestError, match="forget its source or its class"):
        forget(home, "99999", "sample")
    for bad in ("x", "-1", "1.0", ""):
        with pytest.raises(UsageError):
            ForgetRequest(bad, kind="sample")
    with pytest.raises(UsageError, match="kind 'frame'"):
        ForgetRequest("1", kind="frame")
    with pytest.raises(UsageError, match="adapter method 'magic'"):
        ForgetRequest("1", adapter_method="magic")
    with pytest.raises(UsageError, match="ssd unlearns classes"):
        ForgetRequest("1", kind="sample", adapter_method="ssd")


# Edge cases of a class


def test_a_class_whose_samples_were_all_evicted_is_forgotten_from_its_statistics(
    home: Home, twin: Home
) -> None:
    for device in (home, twin):
        config = replace(device.config.store, capacity_samples=4)
        device.save_config(replace(device.config, store=config))
    teach(home, 60, labels=LABELS[:1])
    teach(home, 400, labels=LABELS[1:])
    with open_store(home) as store:
        with store.transaction():
            store.connection.execute(
                "UPDATE samples SET is_stored = 0 WHERE role = 'replay' AND class_uid = ?",
                (store.class_uid(LABELS[0]),),
            )
            store.connection.execute(
                "DELETE FROM pictures WHERE uid IN (SELECT uid FROM samples WHERE NOT is_stored)"
            )
    teach(twin, 400, labels=LABELS[1:])
    done = forget(home, LABELS[0])
    assert done.verified, done.faults
    assert same(weights(home), weights(twin))


def test_a_repeated_request_is_the_first_one_s_receipt_and_runs_nothing(home: Home) -> None:
    teach(home)
    done = forget(home, LABELS[1])
    before = weights(home)
    again = forget(home, LABELS[1])
    assert (again.mode, again.receipt) == ("already_forgotten", done.receipt)
    assert same(weights(home), before)
    with open_store(home) as store:
        kinds = [r.body["kind"] for r in Chain(home, store).receipts]
    assert kinds == ["forget", "erasure", "verification"]


@every_head
def test_a_class_learned_again_is_as_if_learned_for_the_first_time(
    home: Home, twin: Home, name: str
) -> None:
    build.change_head(home, name, sealed=home.class_keys.exists())
    build.change_head(twin, name)
    teach(home, labels=(LABELS[1], LABELS[0], LABELS[2]))
    forget(home, LABELS[1])
    teach(home, labels=LABELS[1:2])
    teach(twin, labels=(LABELS[0], LABELS[2]))
    teach(twin, labels=LABELS[1:2])
    if HEADS[name].statistic.name == "full":
        ours, theirs = weights(home), weights(twin)
        assert same(ours, theirs, 1e-9)
    assert sorted(names(home)) == sorted(names(twin)) == sorted(LABELS)


def test_two_classes_become_one_and_none(home: Home) -> None:
    teach(home, labels=LABELS[:2])
    forget(home, LABELS[0])
    (guess,) = guesses(home, np.ones((1, home.manifest.num_features), np.float32))
    assert (guess.label, guess.score) == (LABELS[1], 1.0)
    done = forget(home, LABELS[1])
    assert done.verified, done.faults
    with pytest.raises(NothingLearnedError):
        open_predictor(home)


def test_every_alias_is_forgotten_with_its_class(home: Home) -> None:
    teach(home)
    with writing(home) as session, session.store.transaction():
        store = session.store
        store.rename_class(LABELS[1], "caf\u00e9 washer")
        store.rename_class("caf\u00e9 washer", "ring of brass")
    with open_store(home) as store:
        assert resolve(store, ForgetRequest("cafe\u0301 washer")).names[0] == "ring of brass"
    done = forget(home, "cafe\u0301 washer")
    assert done.verified, done.faults
    data = content(home.path)
    for alias in (LABELS[1], "caf\u00e9 washer", "ring of brass"):
        assert alias.encode() not in data
        assert forget(home, alias).mode == "already_forgotten"


def test_frames_of_an_alias_go_to_its_class(home: Home) -> None:
    teach(home)
    with writing(home) as session, session.store.transaction():
        store = session.store
        store.rename_class(LABELS[1], "ring")
    uids = teach(home, labels=LABELS[1:2])
    assert sorted(names(home)) == sorted(("ring", LABELS[0], LABELS[2]))
    with open_store(home) as store:
        assert store.n_seen()[store.class_uid("ring")] == 2 * len(uids)


def test_a_class_that_the_head_does_not_know_is_store_only(home: Home) -> None:
    teach(home)
    with writing(home) as session:
        store = session.store
        with store.transaction():
            store.add_class("never trained")
        learner = open_learner(home, store)
        uid = store.class_uid("never trained")
        known = tuple(c for c in learner.head.classes if c != uid)

        class Other:
            """The head, without that class."""

            classes = known

            forget_mode = learner.head.forget_mode

        target = resolve(store, ForgetRequest("never trained"))
        plan = make_plan(store, Other(), target, "retrain")  # type: ignore[arg-type]
        assert plan.mode == "store_only"


# Phases


def broken(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("place", "phase"),
    [
        ("_unlearn", "PENDING"),
        ("add_tombstones", "PENDING"),
        ("_erase", "STORE"),
        ("scrub", "STORE"),
        ("_close", "STORE"),
    ],
)
def test_what_is_cut_off_in_a_phase_is_finished_by_the_next_command_that_writes(
    home: Home, twin: Home, monkeypatch: pytest.MonkeyPatch, place: str, phase: str
) -> None:
    teach(home)
    teach(twin, labels=(LABELS[0], LABELS[2]))
    with monkeypatch.context() as patch:
        patch.setattr(unlearning, place, broken)
        with pytest.raises(KeyboardInterrupt):
            forget(home, LABELS[1])
    with open_store(home, read_only=True) as store:
        found = store.connection.execute("SELECT phase FROM requests").fetchall()
        assert found == [(phase,)]
        assert (LABELS[1] in store.names.values()) is (phase == "PENDING")
    # Never a half-state: predictions name it in no phase.
    x, _ = rows(9, home.manifest.num_features)
    assert all(LABELS[1] not in dict(guess.top) for guess in guesses(home, x))
    teach(home, 3, labels=())
    with open_store(home) as store:
        assert not store.has_requests()
        kinds = {r.body["kind"] for r in Chain(home, store).receipts}
    assert kinds == {"forget", "erasure", "verification"}
    assert LABELS[1].encode() not in content(home.path)
    assert same(weights(home), weights(twin))


def test_a_pending_class_is_named_by_no_prediction(home: Home) -> None:
    teach(home)
    with open_store(home) as store:
        request = ForgetRequest(LABELS[1])
        record(store, resolve(store, request), request, verify=False)
    x = np.abs(np.random.default_rng(0).normal(size=(9, home.manifest.num_features)))
    for guess in guesses(home, x.astype(np.float32)):
        assert LABELS[1] not in dict(guess.top)
        assert sum(score for _, score in guess.top) == pytest.approx(1)
    with open_store(home) as store, pytest.raises(EdgeclError, match="forget pending"):
        Session(home, store).exact_scorer().arrays()


def test_another_process_may_ask_while_one_learns(home: Home) -> None:
    teach(home)
    request = ForgetRequest(LABELS[1])
    with writing(home) as session:
        store = session.store
        learner = open_learner(home, store)
        with pytest.raises(HomeLockedError), writing(home):
            pass
        with open_store(home) as other:
            number = record(other, resolve(other, request), request, verify=True)
            assert other.receipt_of_request(number) is None
            x, y = rows(9, store.num_features)
            learner.learn_many([build.frame(label, i) for i, label in enumerate(y)], x)
            step = store.step
            (done,) = finish_requests(home, store, learner)
            assert other.receipt_of_request(number) == done.receipt.receipt_id
        assert done.verified, done.faults
        assert store.step == step
    assert LABELS[1] not in names(home)


def test_a_request_that_cannot_be_carried_out_is_taken_back(home: Home) -> None:
    uid = teach(home)[0]
    with writing(home) as session:
        store = session.store
        learner = open_learner(home, store)
        request = ForgetRequest(str(uid), kind="sample")
        # Asked for by another process; since then the sample has become one of its statistics.
        record(store, resolve(store, request), request, verify=False)
        store.connection.execute("DELETE FROM samples WHERE uid = ?", (uid,))
        with pytest.raises(RequestError, match="cannot be told apart"):
            unlearning.forget(home, learner, request)
        # It must not keep this one from working.
        assert finish_requests(home, store, learner) == []
        assert not store.has_requests()
        entry = Chain(home, store).receipts[-1]
        assert (entry.body["kind"], entry.body["why"]) == ("refused", "sample cannot be told apart")


# Older copies of the store


def test_a_store_put_back_from_before_is_refused_and_unlearns_again(
    home: Home, tmp_path: Path
) -> None:
    uids = teach(home, source=lambda i: f"day {i % 2}")
    shutil.copy(home.database, tmp_path / "old.db")
    done = forget(home, LABELS[1])
    forget(home, str(uids[0]), "sample")
    forget(home, "day 1", "source")
    expected = weights(home)
    with open_store(home) as store:
        n_receipts = len(Chain(home, store).receipts)
    for file in home.path.glob("device.db*"):
        file.unlink()
    shutil.copy(tmp_path / "old.db", home.database)
    for reader in (open_predictor, lambda h: open_store(h, read_only=True)):
        with pytest.raises(IntegrityError, match=r"older.*forget pending") as caught:
            reader(home)
        assert caught.value.exit_code == 4
    with writing(home) as session:
        store = session.store
        receipts = Chain(home, store).receipts
        assert not store.has_requests()
    again = [r.body["again"] for r in receipts[n_receipts:] if "again" in r.body]
    assert again[0] == done.receipt.receipt_id
    assert len(again) == 3
    assert same(weights(home), expected)
    assert LABELS[1].encode() not in content(home.path)
    teach(home, 9)
    with open_store(home) as store:
        assert store.class_uid(LABELS[1]) > done.receipt.body["class_uid"]


def test_a_ledger_that_was_cut_off_is_brought_up(home: Home) -> None:
    teach(home)
    forget(home, LABELS[1])
    whole = home.ledger.read_bytes()
    for n in (0, 10, len(whole) // 2, len(whole) - 1):
        home.ledger.write_bytes(whole[:n])
        with writing(home):
            pass
        assert home.ledger.read_bytes() == whole


def test_any_changed_byte_of_ledger_or_chain_is_found(home: Home) -> None:
    teach(home)
    forget(home, LABELS[1])
    whole = home.ledger.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(whole) - 1, 60, replace=False).tolist():
        home.ledger.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with open_store(home, may_be_older=True) as store, pytest.raises(IntegrityError):
            Chain(home, store)
    home.ledger.write_bytes(whole)
    with open_store(home) as store:
        for number, *row in store.connection.execute(
            "SELECT number, body, previous, digest, signature FROM receipts"
        ).fetchall():
            for column, text in zip(("body", "previous", "digest", "signature"), row, strict=True):
                at = int(rng.integers(len(text)))
                changed = text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :]
                sql = f"UPDATE receipts SET {column} = ? WHERE number = ?"
                store.connection.execute(sql, (changed, number))
                with pytest.raises(IntegrityError, match=f"r{number}"):
                    Chain(home, store)
                store.connection.execute(sql, (text, number))
        assert Chain(home, store).receipts


def test_an_invented_chain_is_not_signed_by_this_device(home: Home, twin: Home) -> None:
    for device in (home, twin):
        (device.path / "device.key").write_bytes(device.path.name.encode() * 8)
    home, twin = Home(home.path), Home(twin.path)
    teach(home)
    forget(home, LABELS[1])
    with open_store(home) as store, pytest.raises(IntegrityError, match=r"r1 .*not that of this"):
        Chain(twin, store)


# Plans


def test_a_plan_says_what_holds_the_class_and_changes_nothing(home: Home) -> None:
    teach(home)
    with writing(home) as session:
        store = session.store
        snapshots.take(home, store)
        before = "\n".join(store.connection.iterdump())
        learner = open_learner(home, store)
        target = resolve(store, ForgetRequest(LABELS[1]))
        plan = make_plan(store, learner.head, target, "retrain")
        assert "\n".join(store.connection.iterdump()) == before
        n = store.n_stored()[target.uid]
    assert plan.mode == "exact_head"
    assert plan.rows["samples"] == plan.rows["pictures"] == n
    assert plan.snapshots == (1,)
    assert (plan.adapters, plan.exports, plan.is_last) == ((), (), False)
    assert LABELS[1] not in json.dumps(plan.as_json())


# Snapshots


def taken(home: Home) -> int:
    with writing(home) as session:
        store = session.store
        return snapshots.take(home, store).uid


def roll_back(home: Home, uid: int) -> None:
    with writing(home) as session:
        store = session.store
        snapshots.rollback(home, open_learner(home, store), uid)


@every_head
def test_a_rollback_brings_back_head_store_and_positions(home: Home, twin: Home, name: str) -> None:
    for device in (home, twin):
        build.change_head(device, name, sealed=device.class_keys.exists())
        teach(device, 40, labels=LABELS[:2])
    before = weights(home)
    with open_store(home) as store:
        described = store.n_seen(), store.n_stored(), store.step
    uid = taken(home)
    teach(home, 60)
    assert not same(weights(home), before)
    roll_back(home, uid)
    assert same(weights(home), before)
    with open_store(home) as store:
        assert (store.n_seen(), store.n_stored(), store.step) == described
        assert store.connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert [r.body["kind"] for r in Chain(home, store).receipts] == ["rollback"]
    # What is learned from here on is what is learned by a device that never left.
    for device in (home, twin):
        teach(device, 50, labels=LABELS[1:])
    assert same(weights(home), weights(twin))
    with open_store(home) as store:
        # A uid is never given twice, also not that of a class that was rolled back.
        assert store.class_uid(LABELS[2]) > 3


def test_more_snapshots_than_asked_for_push_out_the_oldest(home: Home) -> None:
    with pytest.raises(RequestError, match="nothing to keep"):
        taken(home)
    teach(home)
    assert [taken(home) for _ in range(5)] == [1, 2, 3, 4, 5]
    with open_store(home) as store:
        assert [s.uid for s in snapshots.snapshots_of(store)] == [3, 4, 5]
    assert sorted(p.name for p in home.snapshots.iterdir()) == ["s3.db", "s4.db", "s5.db"]
    with pytest.raises(RequestError, match=r"s1 is unknown.*s3, s4, s5"):
        roll_back(home, 1)
    home.save_config(replace(home.config, store=replace(home.config.store, snapshots=0)))
    with pytest.raises(RequestError, match=r"store\.snapshots is 0"):
        taken(home)


def test_an_unlearning_deletes_the_snapshots_that_hold_the_class(home: Home) -> None:
    teach(home, labels=LABELS[:1])
    first = taken(home)
    teach(home)
    second = taken(home)
    assert LABELS[1].encode() in (home.snapshots / f"s{second}.db").read_bytes()
    done = forget(home, LABELS[1])
    assert done.verified, done.faults
    assert done.receipt.body["snapshots_purged"] == [second]
    assert done.erasure.snapshot_files == 1
    assert [p.name for p in home.snapshots.iterdir()] == [f"s{first}.db"]
    with pytest.raises(RequestError, match="s2 is unknown, or was deleted"):
        roll_back(home, second)
    roll_back(home, first)
    assert names(home) == [LABELS[0]]


def test_a_changed_or_foreign_snapshot_is_refused_and_nothing_is_lost(home: Home) -> None:
    teach(home)
    uid = taken(home)
    before = weights(home)
    path = home.snapshots / f"s{uid}.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityError, match="missing or was changed"):
        roll_back(home, uid)
    path.unlink()
    with pytest.raises(IntegrityError, match="missing or was changed"):
        roll_back(home, uid)
    # One that somebody lists again after the class was unlearned.
    path.write_bytes(whole)
    with open_store(home) as store:
        row = store.connection.execute("SELECT * FROM snapshots").fetchone()
    forget(home, LABELS[1])
    after = weights(home)
    assert not path.exists()
    path.write_bytes(whole)
    with open_store(home) as store:
        marks = ",".join("?" * len(row))
        store.connection.execute(f"INSERT INTO snapshots VALUES ({marks})", row)
    with pytest.raises(IntegrityError, match="holds a class that was unlearned"):
        roll_back(home, uid)
    assert same(weights(home), after)
    assert not same(before, after)


def test_a_rollback_that_is_cut_off_changes_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(home, labels=LABELS[:2])
    uid = taken(home)
    teach(home)
    before = weights(home)
    with monkeypatch.context() as patch:
        patch.setattr(Chain, "append", broken)
        with pytest.raises(KeyboardInterrupt):
            roll_back(home, uid)
        patch.setattr(snapshots, "_digest", broken)
        with pytest.raises(KeyboardInterrupt):
            taken(home)
    assert same(weights(home), before)
    assert sorted(names(home)) == sorted(LABELS)
    taken(home)
    assert not (home.snapshots / ".part").exists()


def test_a_request_that_fails_for_good_does_not_keep_the_home_from_being_written(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(home)

    def other_weights(*_: object) -> None:
        raise IntegrityError("the home was made from other weights")

    with monkeypatch.context() as patch, writing(home) as session:
        store = session.store
        patch.setattr(unlearning, "_unlearn", other_weights)
        request = ForgetRequest(LABELS[1], adapter_method="ssd")
        learner = open_learner(home, store)
        with pytest.raises(IntegrityError, match="other weights"):
            unlearning.forget(home, learner, request)
    teach(home, 3)
    assert LABELS[1] in names(home)


def test_what_a_killed_bench_left_beside_the_home_goes_too(home: Home) -> None:
    teach(home)
    left = home.path.parent / f"{home.copies}x7"
    shutil.copytree(home.path, left / "home")
    other = home.path.parent / ".another-bench-x7"
    other.mkdir()
    done = forget(home, LABELS[1])
    assert done.erasure.copies == 1
    assert not left.exists()
    assert other.exists()


def test_a_sample_learned_after_the_last_class_is_not_taken_for_an_unlearned_one(
    home: Home,
) -> None:
    (first, *_) = teach(home)
    forget(home, str(first), "sample")
    for label in LABELS:
        forget(home, label)
    again = teach(home)
    assert min(again) > first
    with pytest.raises(RequestError, match="forget its source or its class"):
        forget(home, str(max(again) + 1), "sample")
    assert forget(home, str(again[0]), "sample").mode == "exact_head"
