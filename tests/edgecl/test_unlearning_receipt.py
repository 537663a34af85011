"""Plans, receipts and erasure at their edges: twice asked, put back, many, and odd files."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sqlite3
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import receipted
import workloads

import build
from edgecl import snapshots
from edgecl.errors import IntegrityError, StoreError
from edgecl.exporters.bundle import export_bundle
from edgecl.home import Home
from edgecl.runtime.bundle import open_bundle
from edgecl.runtime.scoring import LinearScorer
from edgecl.session import Session, open_learner, open_store
from edgecl.store.adapters import adapter_rows, add_adapter
from edgecl.store.exports import exports_of
from edgecl.store.requests import record
from edgecl.types import ForgetRequest
from edgecl.unlearning import ask as asking
from edgecl.unlearning import chain as chain_module
from edgecl.unlearning import evidence
from edgecl.unlearning.audit.verify import Audit
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.erase import find_bytes, remove_unlisted_snapshots
from edgecl.unlearning.plan import Plan, make_plan, resolve
from edgecl.unlearning.receipt import Erased, Forgotten, Refused, RolledBack, Verified
from edgecl.unlearning.request import Unlearned, forget, writing

GOLDEN = Path(__file__).parents[1] / "golden"
LABELS = ("purple bracket", "brass washer", "steel gasket")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home for features that come from elsewhere."""
    return build.tiny_home(tmp_path / "home")


def teach(home: Home, labels: tuple[str, ...] = LABELS, n: int = 6, source: str = "") -> list[int]:
    """Learn n samples of every label; returns their uids."""
    uids = []
    with writing(home) as session:
        store = session.store
        learner = open_learner(home, store)
        rng = np.random.default_rng(0)
        for k, label in enumerate(labels):
            x = rng.uniform(0, 1, (n, store.num_features)).astype(np.float32)
            x[:, k] += 3
            frames = [replace(build.frame(label, i), source=source) for i in range(n)]
            uids += [report.uid for report in learner.learn_many(frames, x)]
        learner.settle()
    return uids


def unlearn(home: Home, name: str, kind: str = "class") -> Unlearned:
    with writing(home) as session:
        store = session.store
        return forget(home, open_learner(home, store), ForgetRequest(name, kind=kind))


def ask(home: Home, name: str, kind: str = "class") -> int:
    """Ask as another process does."""
    request = ForgetRequest(name, kind=kind)
    with open_store(home) as store:
        return record(store, resolve(store, request), request, verify=False)


def planned(home: Home, name: str) -> Plan:
    with open_store(home) as store:
        target = resolve(store, ForgetRequest(name))
        return make_plan(store, open_learner(home, store).head, target, "retrain")


# Plans


def test_with_the_last_class_every_adapter_goes(home: Home) -> None:
    teach(home, LABELS[:1])
    with open_store(home) as store, store.transaction():
        for seen in (7, 8):  # classes that were unlearned in place
            head = LinearScorer(np.ones((1, 1)), np.ones(1), ("",), "logits")
            body = {"parents": [], "newest_sample": 0}
            array = {"a": np.ones(1, np.float32)}
            add_adapter(store, array, head, (seen,), saw={seen: 1}, task=(seen,), body=body)
    plan = planned(home, LABELS[0])
    assert plan.is_last
    assert plan.adapters == (1, 2)
    assert plan.mode == "exact_head"


def test_after_the_last_class_no_adapter_is_left(tmp_path: Path) -> None:
    home = workloads.small_home(tmp_path / "home", capacity=100)
    workloads.teach_pictures(home.path)
    workloads.consolidate(home.path)
    with open_store(home) as store:
        names = list(store.names.values())
        # As if what it saw had been unlearned in place, and the rest were learned later.
        store.connection.execute("DELETE FROM adapter_classes")
    for name in names[:-1]:
        unlearn(home, name)
    with open_store(home) as store:
        (adapter,) = adapter_rows(store)
    done = unlearn(home, names[-1])
    assert (done.mode, done.receipt.body["adapters"]) == ("exact_head", [adapter.uid])
    with open_store(home) as store:
        assert store.connection.execute("SELECT count(*) FROM adapters").fetchone() == (0,)


# Receipts


def test_a_request_after_an_older_copy_has_a_number_of_its_own(home: Home, tmp_path: Path) -> None:
    teach(home, LABELS[:1])
    shutil.copy(home.database, tmp_path / "old.db")
    teach(home, LABELS[1:])
    done = unlearn(home, LABELS[1])
    for file in home.path.glob("device.db*"):
        file.unlink()
    shutil.copy(tmp_path / "old.db", home.database)
    with writing(home):
        pass
    number = ask(home, LABELS[0])
    with writing(home) as session:
        store = session.store
        found = Chain(home, store).find(str(store.receipt_of_request(number)))
    assert found.receipt_id != done.receipt.receipt_id
    assert found.body["class_uid"] == 1


@pytest.mark.parametrize("sealed", [False, True])
def test_uids_of_what_an_older_copy_never_knew_are_not_given_again(
    tmp_path: Path, sealed: bool
) -> None:
    home = build.tiny_home(tmp_path / "home", sealed=sealed)
    teach(home, LABELS[:1])
    shutil.copy(home.database, tmp_path / "old.db")
    uids = teach(home, LABELS[1:], source="monday")
    spent = {
        "classes": unlearn(home, LABELS[2]).receipt.body["class_uid"],
        "samples": unlearn(home, str(uids[0]), "sample").receipt.body["sample_uid"],
        "sources": unlearn(home, "monday", "source").receipt.body["source_uid"],
    }
    for file in home.path.glob("device.db*"):
        file.unlink()
    shutil.copy(tmp_path / "old.db", home.database)
    teach(home, LABELS[1:], source="tuesday")
    with open_store(home) as store:
        for table, uid in spent.items():
            sql = f"SELECT min(uid) FROM {table} WHERE uid > 1 AND uid >= ?"
            (least,) = store.connection.execute(sql, (uid,)).fetchone()
            assert least > uid, table


def test_after_the_last_class_the_next_one_gets_a_uid_of_its_own(home: Home) -> None:
    teach(home)
    for label in LABELS:
        done = unlearn(home, label)
    teach(home, LABELS[:1])
    with open_store(home) as store:
        assert store.class_uid(LABELS[0]) > done.receipt.body["class_uid"] == 3


def test_sources_of_an_emptied_home_keep_their_own_uids_and_receipts(home: Home) -> None:
    receipts = []
    for day in ("monday", "tuesday"):
        teach(home, source=day)
        receipts.append(unlearn(home, day, "source").receipt)  # the home is as new
    assert [r.body["source_uid"] for r in receipts] == [1, 2]
    for day, receipt in zip(("monday", "tuesday"), receipts, strict=True):
        again = unlearn(home, day, "source")
        assert (again.mode, again.receipt) == ("already_forgotten", receipt)


def test_a_changed_ledger_is_found_by_who_only_reads(home: Home) -> None:
    teach(home)
    unlearn(home, LABELS[1])
    lines = home.ledger.read_bytes().splitlines(keepends=True)
    for changed in (lines[0].replace(b'"class_uid":2', b'"class_uid":3'), lines[1]):
        assert changed != lines[0]
        home.ledger.write_bytes(changed + b"".join(lines[1:]))
        with (
            open_store(home, read_only=True) as store,
            pytest.raises(IntegrityError, match=r"receipts\.jsonl|r1"),
        ):
            Chain(home, store)
    home.ledger.write_bytes(lines[0])  # cut off: the next command that writes brings it up
    with open_store(home, read_only=True) as store:
        assert len(Chain(home, store).receipts) == 2


def test_a_long_chain_is_checked_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    teach(home)
    with open_store(home) as store:
        chain = Chain(home, store)
        with store.transaction(changes_head=False):
            for i in range(1000):
                chain.append(Refused("unknown class", float(i)))
        chain.settle()
        assert len(chain.receipts) == 1000
    digests: list[str] = []
    digest_of = chain_module.digest_of
    monkeypatch.setattr(
        chain_module, "digest_of", lambda a, b: digests.append(b) or digest_of(a, b)
    )
    done = asking.unlearn(home, ForgetRequest(LABELS[1]))
    assert isinstance(done, Unlearned)
    assert done.receipt.receipt_id == "r1001"
    # Once to read the chain for the whole command, and its own receipts, written and taken in.
    assert len(digests) <= 1000 + 2 * 2


def test_what_was_checked_is_not_trusted_when_it_is_another(home: Home) -> None:
    with open_store(home) as store:
        chain = Chain(home, store)
        with store.transaction(changes_head=False):
            for i in range(20):
                chain.append(Refused("unknown class", float(i)))
        chain.settle()
        for column in ("digest", "signature", "body"):
            sql = f"UPDATE receipts SET {column} = ? WHERE number = 11"
            (old,) = store.connection.execute(
                f"SELECT {column} FROM receipts WHERE number = 11"
            ).fetchone()
            store.connection.execute(sql, (old.replace("a", "b", 1),))
            with pytest.raises(IntegrityError, match="r11"):
                Chain(home, store)
            store.connection.execute(sql, (old,))


def test_an_entry_that_was_taken_back_is_not_part_of_the_chain(home: Home) -> None:
    with open_store(home) as store:
        chain = Chain(home, store)
        with suppress(KeyboardInterrupt), store.transaction(changes_head=False):
            chain.append(RolledBack(1, 1.0))
            raise KeyboardInterrupt
        with store.transaction(changes_head=False):
            assert chain.append(RolledBack(2, 2.0)) == "r1"
        chain.settle()
        assert [entry.snapshot for _, entry in chain.of(RolledBack)] == [2]
        assert Chain(home, store).receipts == chain.receipts


@pytest.mark.parametrize("name", ["receipts.jsonl", "receipts_adapted.jsonl"])
def test_receipts_are_written_byte_for_byte_as_ever(home: Home, name: str) -> None:
    (home.path / "device.key").write_bytes(build.DEVICE_KEY)
    home = Home(home.path)
    written = (GOLDEN / name).read_bytes()  # made by golden/make_receipts.py
    kinds = {kind.kind: kind for kind in (Erased, Forgotten, Refused, RolledBack, Verified)}
    entries = []
    with open_store(home) as store:
        chain = Chain(home, store)
        for line in written.splitlines():
            body = json.loads(line)["body"]
            entries.append(kinds[body["kind"]].from_json(body))
            with store.transaction(changes_head=False):
                chain.append(entries[-1])
        chain.settle()
        for kind in kinds.values():
            assert [entry for _, entry in chain.of(kind)] == [
                entry for entry in entries if isinstance(entry, kind)
            ]
    assert home.ledger.read_bytes() == written


def test_the_same_history_writes_the_same_receipts(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1.7e9)
    monkeypatch.setattr(evidence, "audit", lambda *_, **__: Audit({}, ()))
    receipted.history(home, tmp_path)
    # What other tests see to: which tables there are, how large files get, bits of the head.
    apart = {"rows_erased", "bytes_before", "bytes_after", "head_before", "head_after", "metrics"}
    apart |= {"config", "edgecl", "feature_map"}

    def told(ledger: bytes) -> list[dict[str, object]]:
        bodies = [json.loads(line)["body"] for line in ledger.splitlines()]
        return [{k: v for k, v in body.items() if k not in apart} for body in bodies]

    with open_store(Home(home.path)) as store:
        assert len(Chain(Home(home.path), store).receipts) == 16
    assert told(home.ledger.read_bytes()) == told((GOLDEN / "receipts.jsonl").read_bytes())


@pytest.mark.parametrize("kind", ["class", "source", "sample"])
def test_a_request_reads_every_snapshot_once(
    home: Home, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    uids = teach(home, source="monday")
    for _ in "123":
        with writing(home) as session:
            store = session.store
            snapshots.take(home, store)
    opened: list[str] = []
    connect = sqlite3.connect

    def counted(address: str, *args: Any, **options: Any) -> sqlite3.Connection:
        opened.extend(re.findall(r"snapshots/(s\d+)\.db", str(address)))
        return connect(address, *args, **options)

    monkeypatch.setattr(sqlite3, "connect", counted)
    done = unlearn(
        home, {"class": LABELS[1], "source": "monday", "sample": str(uids[0])}[kind], kind
    )
    assert done.receipt.body["snapshots_purged"] == [1, 2, 3]
    # Which ones hold a sample is known from the list of their classes.
    assert sorted(opened) == ([] if kind == "sample" else ["s1", "s2", "s3"])


# Exports


def test_a_request_marks_and_revokes_the_exports_that_hold_the_class(tmp_path: Path) -> None:
    home = workloads.small_home(tmp_path / "home")
    workloads.teach_pictures(home.path)
    name, places = workloads.FORGOTTEN, [tmp_path / "near", tmp_path / "far"]
    with writing(home) as session, session.store.snapshot():
        store = session.store
        served_now = Session(home, store).served()
    with writing(home) as session:
        store = session.store
        for place in places:
            export_bundle(home, store, *served_now, place)
    shutil.rmtree(tmp_path / "far")
    plan = planned(home, name)
    done = unlearn(home, name)
    assert plan.exports == (1, 2)
    assert done.receipt.body["exports_stale"] == [1, 2]
    assert done.erasure.exports == {"1": "erased", "2": "unreachable"}
    with open_store(home) as store:
        assert [export.status for export in exports_of(store)] == ["stale", "stale"]
        exporting = Session(home, store).served()
    with pytest.raises(IntegrityError, match=f"receipt {done.receipt.receipt_id}.*rebuild-stale"):
        open_bundle(tmp_path / "near")
    assert not any(name.encode() in file.read_bytes() for file in (tmp_path / "near").iterdir())
    with writing(home) as session:  # what is exported from now on does not hold it
        store = session.store
        export_bundle(home, store, *exporting, tmp_path / "near")
    assert name not in open_bundle(tmp_path / "near").scorer.labels


# Files


def test_a_snapshot_that_cannot_be_erased_is_told(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.snapshots.mkdir()
    (home.snapshots / "s9.db").write_bytes(b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, "fsync", refuse)
    with open_store(home) as store, pytest.raises(StoreError, match=r"s9\.db .*mount it writable"):
        remove_unlisted_snapshots(home, store)


def test_a_file_that_vanishes_while_it_is_looked_for_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"a needle in hay")
    opened = Path.open

    def vanishing(path: Path, *args: object, **options: object) -> object:
        if path.name == "a":
            path.unlink()
        return opened(path, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", vanishing)
    assert find_bytes(tmp_path, {"it": b"needle"}) == {"it": [str(tmp_path / "b")]}
