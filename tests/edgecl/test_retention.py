"""What is older than a time is unlearned as if it had never been seen."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import build
from edgecl import snapshots
from edgecl.errors import UsageError
from edgecl.heads.statistics import Gram
from edgecl.home import Home
from edgecl.session import open_learner, open_store
from edgecl.store.retention import has_older
from edgecl.store.table import Role
from edgecl.types import ForgetRequest, Kind
from edgecl.unlearning.account import accounts_of
from edgecl.unlearning.ask import time_before
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.request import Unlearned, finish_requests, forget, writing
from edgecl.unlearning.words import title_of

NOW = int(time.time())
DAY = 86_400
CUTOFF = NOW - 30 * DAY


def teach(home: Home, days: dict[str, list[int]], *, created: dict[str, int] | None = None) -> None:
    """Learn a sample of each class for each day that it lies back; `created` moves its birth."""
    rng = np.random.default_rng(1)
    names = list(days)
    with writing(home) as session:
        learner, store = session.learner, session.store
        for label, ages in days.items():
            for i, age in enumerate(ages):
                # Its own random numbers: the same feature whatever else is learned.
                rng = np.random.default_rng([names.index(label), age, ages[:i].count(age)])
                x = rng.uniform(0, 1, store.num_features).astype(np.float32)
                x[names.index(label)] += 3
                frame = build.frame(label, age)
                learner.learn_one(replace(frame, source="camera", time=NOW - age * DAY), x)
        learner.settle()
        for label, age in (created or {}).items():
            store.connection.execute(
                "UPDATE classes SET created = ? WHERE name = ?", (NOW - age * DAY, label)
            )


def unlearn(home: Home, *, verify: bool = False) -> Unlearned:
    with writing(home) as session:
        request = ForgetRequest(str(CUTOFF), "retention", Kind.AGE)
        return forget(home, session.learner, request, verify=verify)


def weights(home: Home) -> dict[str, bytes]:
    with open_store(home) as store:
        scorer = open_learner(home, store).head.scorer(store.names)
        return {name: array.tobytes() for name, array in scorer.arrays().items()}


AGES = {"cup": [40, 35, 20, 10], "plate": [45, 44, 3, 2, 1], "fork": [5, 4, 3], "old": [60, 59]}
BORN = {"cup": 40, "plate": 45, "fork": 5, "old": 60}


@pytest.mark.parametrize("head", ["ridge", "prototype", "key-value"])
@pytest.mark.parametrize("sealed", [False, True])
def test_what_is_left_is_what_never_saw_the_old_ones(
    tmp_path: Path, head: str, sealed: bool
) -> None:
    home = build.tiny_home(tmp_path / "home", head, sealed=sealed)
    teach(home, AGES, created=BORN)
    done = unlearn(home, verify=True)
    assert (done.mode, done.verified, done.receipt.body["bit_exact"]) == ("exact_head", True, True)
    assert done.receipt.body["before"] == CUTOFF
    assert done.receipt.body["rows_erased"]["samples"] == 6
    twin = build.tiny_home(tmp_path / "twin", head, sealed=sealed)
    names = list(AGES)
    young = {name: [age for age in ages if age < 30] for name, ages in AGES.items()}
    assert names == list(young)
    teach(twin, young)
    assert weights(home) == weights(twin)
    with open_store(home) as store:
        assert list(store.names.values()) == ["cup", "plate", "fork"]
        assert not has_older(store, CUTOFF)
        assert store.n_seen() == {1: 2, 2: 3, 3: 3}


@pytest.fixture
def folds_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gram, "fold_limit", property(lambda gram: 6))


@pytest.mark.usefixtures("folds_soon")
def test_sums_of_evicted_samples_go_with_a_class_that_was_there_before(tmp_path: Path) -> None:
    """Of a few kept samples and many folded ones, only what is kept and newer stays."""
    home = build.tiny_home(tmp_path / "home", capacity_samples=8)
    ages = [50 - i for i in range(45)]  # 50 days down to 6
    teach(home, {"cup": ages, "fork": [5, 4, 3]}, created={"cup": 50, "fork": 5})
    with open_store(home) as store:
        n_stats = store.connection.execute("SELECT sum(n) FROM class_stats").fetchone()[0]
        assert n_stats > 8  # some have no row any more
        kept = [
            (NOW - origin.time) / DAY
            for origin in store.origins(Role.REPLAY)
            if store.names[origin.class_uid] == "cup" and origin.time >= CUTOFF
        ]
        loose = store.connection.execute(
            "SELECT (? - time) / 86400.0 FROM replay WHERE class_uid = 1 AND time >= ?",
            (NOW, CUTOFF),
        ).fetchall()
        left = sorted({round(age) for age in kept} | {round(age) for (age,) in loose}, reverse=True)
    unlearn(home)
    assert 0 < len(left) < sum(age < 30 for age in ages)
    twin = build.tiny_home(tmp_path / "twin")
    teach(twin, {"cup": left, "fork": [5, 4, 3]})
    assert weights(home) == weights(twin)
    with open_store(home) as store:
        assert not has_older(store, CUTOFF)
        assert store.n_seen()[1] == len(left)


@pytest.mark.usefixtures("folds_soon")
def test_a_class_that_came_later_keeps_all_it_learned(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home", capacity_samples=8)
    teach(home, {"cup": [40] * 3, "fork": [5] * 40}, created={"cup": 40, "fork": 5})
    unlearn(home)
    with open_store(home) as store:
        assert list(store.names.values()) == ["fork"]
        assert list(store.n_seen().values()) == [40]


def test_held_out_and_waiting_frames_and_snapshots_go_too(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home", probes=5)
    teach(home, {"cup": [*range(50, 10, -1)], "fork": [5] * 12}, created={"cup": 50})
    with writing(home) as session:
        store = session.store
        with store.transaction():
            for age in (40, 2):
                store.add_aside(
                    Role.REVIEW, 2, np.zeros(12, np.float16), b"picture", source="", frame="",
                    time=NOW - age * DAY, score=1.0,
                )  # fmt: skip
        snapshots.take(home, store)
        n_old = sum(origin.time < CUTOFF for origin in store.origins(Role.HELD_OUT))
        assert n_old > 0
    body = unlearn(home).receipt.body
    assert (body["rows_erased"]["probes"], body["rows_erased"]["novel"]) == (n_old, 1)
    assert body["snapshots_purged"] == [1]
    assert not list(home.snapshots.glob("*.db"))
    with open_store(home) as store:
        for role in Role:
            assert all(origin.time >= CUTOFF for origin in store.origins(role))


def test_an_older_copy_of_the_store_unlearns_it_again(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home")
    teach(home, AGES, created=BORN)
    before = home.database.read_bytes()
    first = unlearn(home)
    after = weights(home)
    for file in home.path.glob("device.db*"):
        file.unlink()
    home.database.write_bytes(before)
    with home.lock(), open_store(home, may_be_older=True) as store:
        (again,) = finish_requests(home, store)
    assert again.receipt.body["again"] == first.receipt.receipt_id
    assert weights(home) == after
    with open_store(home) as store:
        (seq,) = store.connection.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'samples'"
        ).fetchone()
        assert seq < 1000  # a time is no uid
        (account, _) = accounts_of(Chain(home, store).receipts)
    assert "what was older than 20" in title_of(account)


@pytest.mark.parametrize("age", ["", "30", "d", "0d", "-3d", "1.5d", "30 d", "100000d", "3y"])
def test_what_is_no_age_is_refused(age: str) -> None:
    with pytest.raises(UsageError, match="as in 30d"):
        time_before(age)


@pytest.mark.slow
def test_by_command(taught_home: Path, copy_of: Callable[[Path], Path]) -> None:
    home = copy_of(taught_home)

    def run(*arguments: object) -> dict[str, object]:
        done = build.run_edgecl("forget", *arguments, "--home", home, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout.splitlines()[-1]))

    assert run("--older-than", "1h")["receipt_id"] is None
    with open_store(Home(home)) as store:
        store.connection.execute("UPDATE samples SET time = time - 7200 WHERE uid <= 10")
        store.connection.execute("UPDATE classes SET created = created - 7200")
    plan = run("--older-than", "1h", "--dry-run")
    assert (plan["mode"], plan["rows"]["samples"]) == ("exact_head", 10)  # type: ignore[index]
    done = run("--older-than", "1h", "--verify", "--reason", "retention rule 3")
    assert (done["mode"], done["verified"]) == ("exact_head", True)
    assert run("--older-than", "1h")["receipt_id"] is None
    wrong = build.run_edgecl("forget", "--dry-run", "class", "washer", "--home", home)
    assert (wrong.returncode, "put it behind" in wrong.stderr) == (2, True)
