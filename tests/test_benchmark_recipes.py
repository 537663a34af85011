"""The figures of the table of recipes."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("torch", reason="a table of trainings loads torch")
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("recipes")


def test_differences_are_paired_by_picture(recipes: ModuleType) -> None:
    def outcome(errors: list[float]) -> object:
        rest = (np.zeros(2, np.bool_), np.zeros(0), (np.zeros(0), np.zeros(0, np.bool_)))
        return recipes.Outcome(np.array(errors), *rest, 1.0, 1.0, 1.0, 1, 1)

    plain, other = [outcome([0.1, 0.9])], [outcome([0.2, 0.96])]
    # Differences of 0.1 and 0.06: mean 0.08, standard error 0.02.
    assert recipes._gap(other, plain, lambda o, _: o.errors) == "+8.00 +-2.00"
    assert recipes._gap(plain, plain, lambda o, _: o.errors) == "+0.00 +-0.00"


@pytest.mark.parametrize(
    ("learned", "held", "expected"),
    [([0.1, 0.2], [0.3, 0.4], 1.0), ([0.3], [0.1, 0.5], 0.5), ([0.2], [0.2], 0.5), ([1], [0], 0)],
)
def test_the_auc_says_how_often_a_learned_picture_is_known(
    recipes: ModuleType, learned: list[float], held: list[float], expected: float
) -> None:
    assert recipes._auc(np.array(learned), np.array(held)) == pytest.approx(expected)


@pytest.mark.parametrize("is_reported", [False, True])
def test_no_picture_is_learned_and_tested(
    recipes: ModuleType, monkeypatch: pytest.MonkeyPatch, is_reported: bool
) -> None:
    if not recipes.fashion_data.FOLDER.is_dir():
        pytest.skip("Fashion-MNIST is missing; run: apt-get install dataset-fashion-mnist")
    monkeypatch.setattr("sys.argv", ["recipes.py", *(["--reported"] if is_reported else [])])
    data = recipes._data(recipes._options(), 1)
    learned = {frame.id for frames in data.sessions for frame in frames}
    assert not learned & {frame.id for frame in data.test}
    assert [len({f.label for f in frames}) for frames in data.sessions] == [5, 5, 10]
    assert len(data.test) == len(data.session_of) > 1000
