"""The benchmark of unlearning runs, and tells an unlearned class from a dropped row."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import build
from edgecl.config import HeadConfig

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_a_line_for_every_way(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    methods, unlearning = (importlib.import_module(m) for m in ("methods", "unlearning"))
    x, y = build.features(180, 12, 3)
    data = methods.Data("parts", x[:120], y[:120], x[120:], y[120:], every=40, n_fixed=40)
    unlearning.measure(HeadConfig("ridge"), data, tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    n = unlearning.HEADER.count("|")
    assert [line.count("|") for line in lines] == [n] * 4
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[1:3] for row in cells] == [
        ["forget", "1"],
        ["row", "1"],
        ["forget", "2"],
        ["forget", "3 (the last)"],
    ]
    missed = [int(row[13]) for row in cells]
    assert missed[0] == missed[2] == missed[3] == 0
    assert missed[1] > 0
