"""Requests of somebody who does not believe a word: rollbacks, links, twins of requests, texts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import build
from edgecl import snapshots
from edgecl.errors import ConfigError, IntegrityError, RequestError, StoreError, UsageError
from edgecl.home import Home
from edgecl.session import open_learner, open_store
from edgecl.store.requests import record
from edgecl.types import ForgetRequest
from edgecl.unlearning import request as unlearning
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.plan import make_plan, resolve
from edgecl.unlearning.request import Unlearned, writing

LABELS = ("purple bracket", "brass washer", "steel gasket")


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Home:
    """A home for features that come from elsewhere."""
    return build.tiny_home(tmp_path / "home", sealed=request.param)


def teach(
    home: Home,
    n: int = 30,
    *,
    labels: tuple[str, ...] = LABELS,
    source: Callable[[int], str] = lambda i: "",
) -> list[int]:
    """Learn rows of some classes, and return the uids of their samples."""
    with writing(home) as session:
        store = session.store
        learner = open_learner(home, store)
        x, y = build.features(n, store.num_features, len(LABELS))
        kept = [i for i in range(n) if LABELS[y[i] - 1] in labels]
        frames = [replace(build.frame(LABELS[y[i] - 1], i), source=source(i)) for i in kept]
        uids = [report.uid for report in learner.learn_many(frames, x[kept])]
        learner.settle()
    return uids


def forget(home: Home, name: str, kind: str = "class", *, reason: str = "") -> Unlearned:
    with writing(home) as session:
        store = session.store
        request = ForgetRequest(name, reason, kind=kind)
        return unlearning.forget(home, open_learner(home, store), request, verify=True)


def names(home: Home) -> list[str]:
    with open_store(home, read_only=True) as store:
        return list(store.names.values())


def content(path: Path) -> bytes:
    return b"".join(p.read_bytes() for p in path.rglob("*") if p.is_file())


def taken(home: Home) -> int:
    with writing(home) as session:
        store = session.store
        return snapshots.take(home, store).uid


def roll_back(home: Home, uid: int) -> None:
    with writing(home) as session:
        store = session.store
        snapshots.rollback(home, open_learner(home, store), uid)


# Several requests


def test_a_source_that_went_with_its_class_does_not_block_others(home: Home) -> None:
    teach(home, labels=LABELS[:1], source=lambda i: "first")
    teach(home, labels=LABELS[1:], source=lambda i: "second")
    with open_store(home) as store:
        for kind, name in (("class", LABELS[0]), ("source", "first")):
            request = ForgetRequest(name, kind=kind)
            record(store, resolve(store, request), request, verify=False)
    teach(home, 3, labels=())
    with open_store(home) as store:
        assert not store.has_requests()


def test_two_requests_for_one_class_are_one(home: Home) -> None:
    teach(home)
    with open_store(home) as store:
        request = ForgetRequest(LABELS[0])
        numbers = [record(store, resolve(store, request), request, verify=False) for _ in "12"]
    with writing(home) as session:
        store = session.store
        assert not store.has_requests()
        assert [store.receipt_of_request(n) for n in numbers] == ["r1", "r1"]
        modes = [r.body["mode"] for r in Chain(home, store).receipts if r.body["kind"] == "forget"]
    assert modes == ["exact_head"]
    assert forget(home, LABELS[0]).receipt.receipt_id == "r1"


def test_two_requests_for_one_source_are_one(home: Home) -> None:
    teach(home, source=lambda i: "ab"[i % 2])
    with open_store(home) as store:
        request = ForgetRequest("a", kind="source")
        numbers = [record(store, resolve(store, request), request, verify=False) for _ in "12"]
    with writing(home) as session:
        store = session.store
        assert [store.receipt_of_request(n) for n in numbers] == ["r1", "r1"]


def test_a_camera_is_forgotten_by_its_address_with_the_password(home: Home) -> None:
    teach(home, source=lambda i: "http://***@10.0.0.9/cam" if i % 2 else "b")
    done, again = (forget(home, "http://me:s3cret@10.0.0.9/cam", "source") for _ in "12")
    assert done.verified, done.faults
    assert (again.mode, again.receipt) == ("already_forgotten", done.receipt)
    with open_store(home, read_only=True) as store:
        assert list(store.sources().values()) == ["b"]
    with pytest.raises(RequestError) as error:
        forget(home, "http://me:s3cret@10.0.0.8/cam", "source")
    assert "s3cret" not in str(error.value)


# Snapshots


@pytest.mark.parametrize("kind", ["class", "source"])
def test_what_a_rollback_took_out_can_be_unlearned_from_later_snapshots(
    home: Home, kind: str
) -> None:
    teach(home, labels=LABELS[:1], source=lambda i: "first source")
    early = taken(home)
    teach(home, labels=LABELS[1:2], source=lambda i: "second source")
    late = taken(home)
    roll_back(home, early)
    name = {"class": LABELS[1], "source": "second source"}[kind]
    assert LABELS[1].encode() in content(home.path)
    done = forget(home, name, kind)
    assert done.mode == "store_only"
    assert done.verified, done.faults
    assert done.receipt.body["snapshots_purged"] == [late]
    with pytest.raises(RequestError):
        roll_back(home, late)
    assert LABELS[1].encode() not in content(home.path)
    assert b"second source" not in content(home.path)


def test_a_snapshot_whose_texts_name_the_class_goes(home: Home) -> None:
    teach(home, labels=LABELS[:1], source=lambda i: f"photos of {LABELS[1]}.csv")
    taken(home)
    teach(home, labels=LABELS[1:])
    done = forget(home, LABELS[1])
    assert LABELS[1].encode() not in content(home.path)
    assert done.verified, done.faults


@pytest.mark.parametrize(
    "reason", ["all brass washers go", "BRASS WASHERs", "the brass washer-ring", "brass washer"]
)
def test_a_reason_says_the_name_in_no_form(home: Home, reason: str) -> None:
    teach(home)
    with pytest.raises(UsageError, match="must not keep"):
        forget(home, LABELS[1], reason=reason)


def test_a_reason_names_no_alias(home: Home) -> None:
    teach(home)
    with writing(home) as session, session.store.transaction():
        store = session.store
        store.rename_class(LABELS[1], "ring of brass")
    with pytest.raises(UsageError, match="must not keep"):
        forget(home, LABELS[0], reason=f"as {LABELS[1]} was")


def test_copies_among_the_snapshots_go_and_what_is_not_ours_stays(
    home: Home, tmp_path: Path
) -> None:
    teach(home)
    taken(home)
    (home.snapshots / "diary.txt").write_text("mine")
    (home.snapshots / "old" / "deep").mkdir(parents=True)
    shutil.copy(home.snapshots / "s1.db", home.snapshots / "old" / "deep" / "s1.db")
    other = tmp_path / "other.txt"
    other.write_text("mine")
    (home.snapshots / "link").symlink_to(other)
    (home.snapshots / "folder").symlink_to(tmp_path)
    done = forget(home, LABELS[1])
    assert done.verified, done.faults
    assert other.read_text() == "mine"
    assert {path.name for path in home.snapshots.rglob("*")} == {
        "diary.txt", "folder", "link", "old", "deep"
    }  # fmt: skip
    with pytest.raises(IntegrityError, match="is a link"):
        Home(home.path)


@pytest.mark.parametrize(
    "part",
    ["lock", "snapshots", "receipts.jsonl", "device.db", "edgecl.toml", "engine/manifest.json",
     ".edgecl.toml.part", "snapshots/s1.db", "snapshots/.part"],
)  # fmt: skip
def test_a_home_with_a_link_in_it_is_refused_and_what_it_leads_to_stays(
    home: Home, tmp_path: Path, part: str
) -> None:
    teach(home)
    taken(home)
    place, target = home.path / part, tmp_path / "target"
    if place.exists():
        place.replace(target)
    else:
        target.write_text("mine")
    place.symlink_to(target)
    before = target.read_bytes() if target.is_file() else sorted(target.iterdir())
    for use in (Home, lambda path: writing(home).__enter__()):
        with pytest.raises((IntegrityError, StoreError, ConfigError)):
            use(Home(home.path).path)
    assert before == (target.read_bytes() if target.is_file() else sorted(target.iterdir()))


@pytest.mark.parametrize("part", ["receipts.jsonl", "lock", "engine/adapted"])
def test_a_pipe_in_a_home_stops_nobody(home: Home, part: str) -> None:
    teach(home)
    (home.path / part).unlink(missing_ok=True)
    os.mkfifo(home.path / part)
    with pytest.raises(IntegrityError, match="no plain file"):
        Home(home.path)


def test_a_plan_counts_what_the_receipt_will_say(home: Home) -> None:
    teach(home, 400, source=lambda i: "ab"[i % 2])
    for kind, name in (("sample", "5"), ("source", "a"), ("class", LABELS[1]), ("source", "b")):
        with writing(home) as session:
            store = session.store
            request = ForgetRequest(name, kind=kind)
            learner = open_learner(home, store)
            target = resolve(store, request)
            plan = make_plan(store, learner.head, target, "retrain")
        done = forget(home, name, kind)
        erased = dict(done.receipt.body["rows_erased"])
        assert (not names(home)) == plan.is_last
        assert plan.key == (bool(erased["classes"]) and home.class_keys.exists())
        assert plan.rows == erased


def test_a_uid_is_a_number_that_the_store_can_hold(home: Home) -> None:
    teach(home)
    for huge in ("9" * 40, "9" * 5000):
        with pytest.raises(UsageError):
            forget(home, huge, "sample")
    done = forget(home, "7", "sample")
    assert forget(home, "007", "sample").receipt == done.receipt


def test_a_reason_is_one_line_of_text(home: Home) -> None:
    teach(home)
    for reason in ("\udcff", "a\x00b", "a\nb"):
        with pytest.raises(UsageError):
            forget(home, LABELS[0], reason=reason)


def test_a_source_with_a_strange_name_makes_no_strange_message(home: Home) -> None:
    teach(home, source=lambda i: "a\nb\x1b[31m")
    with pytest.raises(RequestError) as found:
        forget(home, "nope", "source")
    assert len(str(found.value).splitlines()) == 1
    assert "\x1b" not in str(found.value)


def test_a_source_whose_name_is_no_utf8_can_be_forgotten(home: Home) -> None:
    teach(home, source=lambda i: "cam\udcff")
    assert forget(home, "cam\udcff", "source").verified
    assert names(home) == []


def test_an_older_copy_of_which_all_was_unlearned_is_emptied(home: Home, tmp_path: Path) -> None:
    teach(home, labels=LABELS[:1], source=lambda i: "first")
    teach(home, labels=LABELS[1:2], source=lambda i: "second")
    with open_store(home) as store:
        store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(home.database, tmp_path / "old.db")
    forget(home, LABELS[0])
    forget(home, LABELS[1])
    teach(home, labels=LABELS[2:], source=lambda i: "third")
    forget(home, "third", "source")
    for p in home.path.glob("device.db-*"):
        p.unlink()
    shutil.copy(tmp_path / "old.db", home.database)
    with writing(home):
        pass
    assert names(home) == []


def test_a_check_that_lost_what_it_searches_for_does_not_say_that_it_passed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    teach(home)
    with monkeypatch.context() as patch:
        patch.setattr(unlearning, "_erase", stop)
        with pytest.raises(KeyboardInterrupt):
            forget(home, LABELS[1])
    with writing(home) as session:
        store = session.store
        (check,) = (r for r in Chain(home, store).receipts if r.body["kind"] == "verification")
    assert check.body["status"] == "incomplete"
