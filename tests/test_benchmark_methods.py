"""The comparison of methods runs, and names what is missing."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import build
from edgecl.heads import HEADS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("methods")


def data(methods: ModuleType) -> object:
    x, y = build.features(240, 12, 10)
    return methods.Data("parts", x[:160], y[:160], x[160:], y[160:], every=40, n_fixed=40)


@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize("stream", ["class by class", "blurry"])
def test_every_head_learns_both_streams(methods: ModuleType, head: str, stream: str) -> None:
    cells = methods.line(data(methods), stream, head, range(1)).strip("| ").split(" | ")
    assert len(cells) == 10
    average, last, drop, worst = (float(cell.split(" +- ")[0]) for cell in cells[1:5])
    assert average > 0.8
    assert last > 0.8
    assert -0.1 < drop < 0.3
    assert 0.5 < worst <= 1
    assert all(np.isfinite(float(cell)) for cell in cells[5:9])
    assert "exact" in cells[9]


def test_a_peer_that_is_not_installed_is_named(
    methods: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise ImportError("No module named 'river'")

    monkeypatch.setitem(methods.PEERS, "River kNN", ("river", missing))
    found = methods.line(data(methods), "blurry", "River kNN", range(1))
    assert "not installed: pip install river" in found
    assert found.count("|") == 11


def test_no_head_and_no_option_is_left_out(methods: ModuleType) -> None:
    assert {name for name, _ in methods.VARIANTS.values()} == set(HEADS)
    for name, spec in HEADS.items():
        tried = {
            key for head, options in methods.VARIANTS.values() if head == name for key in options
        }
        assert tried == set(spec.options), name
