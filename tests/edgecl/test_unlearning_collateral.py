"""What an unlearning did to the classes that stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import build
from edgecl.runtime.scoring import LinearScorer
from edgecl.unlearning.audit.collateral import collateral, forgotten_share, nearest
from edgecl.unlearning.request import writing


def test_gap_and_ratio_equal_the_worked_numbers() -> None:
    gap, ratio = forgotten_share(0.9, 0.3, 3)
    assert gap == pytest.approx(-0.0333333, abs=1e-7)
    assert ratio == pytest.approx(1.0588235, abs=1e-7)
    assert forgotten_share(1 / 3, 0.0, 3)[1] is None


def test_classes_are_compared_one_by_one_the_nearest_named_first() -> None:
    eye = np.eye(4)
    before = LinearScorer(eye[:, :3], np.zeros(3), ("gone", "far", "near"), "logits")
    after = LinearScorer(eye[:, 1:3], np.zeros(2), ("far", "near"), "logits")
    x = np.array([[0, 1, 0, 0], [0, 1, 0, 1], [0.9, 0, 0.8, 0], [0, 0, 1, 0]], np.float16)
    found = collateral(
        before, after, {7: "far", 9: "near"}, (x, np.array([7, 7, 9, 9])),
        np.array([[1, 0, 0.5, 0], [0.2, 0, 1, 0]], np.float16),
    )  # fmt: skip
    assert found["collateral"] == {"7": [1.0, 1.0, 2], "9": [0.5, 1.0, 2]}
    assert found["neighbours"] == [9, 7]
    assert found["forget_gap"] == pytest.approx(-1 / 3)
    assert found["forget_ratio"] == pytest.approx(0.5 / (0.5 - 1 / 3))
    nothing = np.zeros((0, 4), np.float16)
    alone = collateral(before, after, {7: "far"}, (x[:2], np.array([7, 7])), nothing)
    assert alone == {"collateral": {"7": [1.0, 1.0, 2]}}
    assert nearest(np.zeros(2), {3: np.ones(2), 1: np.ones(2)}) == [1, 3]


def test_a_forget_that_is_verified_names_the_neighbours_by_uid(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home", probes=6)
    x, y = build.features(90)
    with writing(home) as session:
        session.learner.learn_many([build.frame(f"part-{c}", i) for i, c in enumerate(y)], x)
    found = build.answer("forget", "class", "part-1", "--verify", "--yes", "--home", home.path)
    metrics = found["metrics"]
    assert set(metrics["collateral"]) == {"2", "3"}  # part-1 came first
    assert all(1 <= n <= 6 for _, _, n in metrics["collateral"].values())
    assert sorted(metrics["neighbours"]) == [2, 3]
    assert "part-" not in str(metrics)
