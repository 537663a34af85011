"""A process may die anywhere: the home opens, verifies, goes on, and ends as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import workloads
from crash import survives


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
    import shutil

    path = tmp_path_factory.mktemp("consolidated") / "home"
    shutil.copytree(pictured, path)
    workloads.consolidate(path)
    return path


def test_learning_survives_kills(fresh: Path, tmp_path: Path) -> None:
    assert survives(workloads.learn, workloads.state, fresh, tmp_path, kills=40) == 40


def test_reopening_survives_kills(fresh: Path, tmp_path: Path) -> None:
    assert survives(workloads.reopen, workloads.state, fresh, tmp_path, kills=24) == 24


def test_forgetting_survives_kills(taught: Path, tmp_path: Path) -> None:
    check = workloads.state_without_traces
    assert survives(workloads.forget, check, taught, tmp_path, kills=28) == 28


def test_consolidation_survives_kills(pictured: Path, tmp_path: Path) -> None:
    assert survives(workloads.consolidate, workloads.state, pictured, tmp_path, kills=16) == 16
