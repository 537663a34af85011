"""A process may die anywhere: the home opens, verifies, goes on, and ends as if it had not."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import workloads
from crash import survives

from edgecl.store.progress import Position


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workloads.small_home(tmp_path_factory.mktemp("fresh") / "home").path


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = workloads.small_home(tmp_path_factory.mktemp("taught") / "home").path
    workloads.learn(path)
    return path


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = workloads.small_home(tmp_path_factory.mktemp("pictured") / "home", capacity=100).path
    workloads.teach_pictures(path)
    return path


@pytest.fixture(scope="module")
def consolidated(pictured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("consolidated") / "home"
    shutil.copytree(pictured, path)
    workloads.consolidate(path)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: to a process that dies it is like any other."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_the_workload_evicts_and_folds(taught: Path) -> None:
    tables = workloads.state(taught)
    assert (
        sum(row["is_stored"] for row in tables["samples"] if row["role"] == "replay")
        == workloads.CAPACITY
    )
    assert len(tables["class_stats"]) >= 1
    assert sum(row["role"] == "held_out" for row in tables["samples"]) > 10
    assert len(tables["evaluations"]) > 5


def test_learning_survives_kills(fresh: Path, place: Path) -> None:
    assert survives(workloads.learn, workloads.state, fresh, place, kills=25) == 25


def test_reopening_survives_kills(fresh: Path, place: Path) -> None:
    assert survives(workloads.reopen, workloads.state, fresh, place, kills=15) == 15


def test_forgetting_survives_kills(taught: Path, place: Path) -> None:
    check = workloads.state_without_traces
    assert survives(workloads.forget, check, taught, place, kills=20) == 20


def test_forgetting_a_class_that_an_adapter_saw_survives_kills(
    consolidated: Path, place: Path
) -> None:
    check = workloads.state_without_traces
    assert survives(workloads.forget, check, consolidated, place, kills=15) == 15


def test_forgetting_a_sample_and_a_source_survives_kills(taught: Path, place: Path) -> None:
    forget = workloads.forget_sources
    assert survives(forget, workloads.state, taught, place, kills=15) == 15


def test_naming_frames_of_the_review_queue_survives_kills(
    taught: Path, tmp_path: Path, place: Path
) -> None:
    waiting = tmp_path / "home"
    shutil.copytree(taught, waiting)
    workloads.offer_frames(waiting)
    assert sum(row["role"] == "review" for row in workloads.state(waiting)["samples"]) == 6
    assert survives(workloads.review, workloads.state, waiting, place, kills=20) == 20


def test_mending_survives_kills(taught: Path, place: Path) -> None:
    assert survives(workloads.mend, workloads.state_with_run, taught, place, kills=20) == 20


def test_versions_survive_kills(fresh: Path, place: Path) -> None:
    assert survives(workloads.versions, workloads.state, fresh, place, kills=15) == 15


def test_an_export_survives_kills(taught: Path, place: Path) -> None:
    assert survives(workloads.export, workloads.state, taught, place, kills=10) == 10


def test_an_export_that_is_revoked_survives_kills(taught: Path, place: Path) -> None:
    check = workloads.state_without_traces
    assert survives(workloads.export_and_forget, check, taught, place, kills=15) == 15


def test_consolidation_survives_kills(pictured: Path, place: Path) -> None:
    assert survives(workloads.consolidate, workloads.state, pictured, place, kills=15) == 15


def test_a_life_of_learning_forgetting_and_learning_again_survives_kills(
    fresh: Path, place: Path
) -> None:
    life = workloads.forget_and_go_on
    assert survives(life, workloads.state, fresh, place, kills=10) == 10


def test_a_sealed_home_survives_kills(
    tmp_path_factory: pytest.TempPathFactory, place: Path
) -> None:
    sealed = workloads.small_home(tmp_path_factory.mktemp("sealed") / "home", sealed=True).path
    life = workloads.forget_and_go_on
    assert survives(life, workloads.state, sealed, place, kills=10) == 10


def test_a_pulled_plug_keeps_what_was_committed_before(fresh: Path, place: Path) -> None:
    """The log ends anywhere: what it held until there is there, and the stream goes on."""

    def pull(home: Path, rng: random.Random) -> None:
        log = home / "device.db-wal"
        size = log.stat().st_size if log.exists() else 0
        if size:
            os.truncate(log, rng.randrange(size + 1))
        (home / "device.db-shm").unlink(missing_ok=True)

    ways = ("edge", "call")
    kills = survives(
        workloads.learn, workloads.state, fresh, place, kills=16, ways=ways, wreck=pull
    )
    assert kills == 16


def test_a_fault_in_the_store_would_be_found(fresh: Path, place: Path) -> None:
    """The test of the tests: commits that are not whole do not pass."""
    with pytest.raises(AssertionError, match=r"killed by edge at \d+ of \d+"):
        survives(torn, workloads.state, fresh, place, kills=12, ways=("edge",))


def torn(home: Path) -> None:
    """Learn with the position committed apart from the samples."""
    from edgecl.store.store import Store

    def apart(store: Store, key: str, position: Position) -> None:
        store.connection.execute("COMMIT")
        store.connection.execute("BEGIN IMMEDIATE")
        whole(store, key, position)

    whole = Store.set_position
    with mock.patch.object(Store, "set_position", apart):
        workloads.learn(home)
