"""The table of a GPU, filled on the stand-in: every row, going on, and what is missing."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

import gpu as bench
import pytest
from small_engine import small_model
from stand_in import standing_in

from edgecl.errors import ProviderError
from edgecl.runtime.engines.base import Runs
from edgecl.runtime.engines.cuda import gpu_here

ENGINES = ("onnxruntime CUDA", "TensorRT")
CASES = set(product(ENGINES, bench.PRECISIONS, bench.BATCHES, bench.ADAPTERS))
MODELS = bench.Models(small_model, lambda: small_model(adapters=True))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROW_S", 0.0)


def run(monkeypatch: pytest.MonkeyPatch, output: Path, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--output", str(output), *words])
    return bench.main()


def test_one_call_fills_every_row_and_the_next_takes_them_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "gpu"
    assert run(monkeypatch, output, "--stand-in") == 0
    found = json.loads(output.with_suffix(".json").read_text())
    assert {bench.case_of(row) for row in found["rows"]} == CASES
    assert (len(found["rows"]), found["missing"], found["made"]["GPU"]) == (36, [], "stand-in")
    for row in found["rows"]:
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["per_second"] == pytest.approx(row["batch"] * 1e3 / row["p50_ms"])
        assert (row["replayed"], row["plain"], row["pinned"]) == (row["runs"], {}, True)
        most = {"fp32": 1e-5, "fp16": 1e-2, "int8": 2.0}[row["precision"]]
        assert row["max_abs"] <= most
        assert row["cosine"] > 0.98
    text = capsys.readouterr().out
    assert output.with_suffix(".md").read_text() == text
    assert text.count("\n| TensorRT | fp16 |") == 6
    assert "Not measured" not in text

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(bench, "measured", never)
    assert run(monkeypatch, output, "--stand-in") == 0
    assert json.loads(output.with_suffix(".json").read_text()) == found


def test_rows_of_something_else_are_not_kept_and_another_file_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "gpu"
    row = {"engine": "TensorRT", "precision": "fp32", "batch": 1, "adapter": False}
    output.with_suffix(".json").write_text(json.dumps({"made": {"GPU": "other"}, "rows": [row]}))
    table = bench.Table(output, {"GPU": "this"})
    table.take_up()
    assert table.rows == {}
    output.with_suffix(".json").write_text("[1]")
    with pytest.raises(SystemExit, match="no table of this benchmark"):
        table.take_up()
    assert output.with_suffix(".json").read_text() == "[1]"


def test_what_is_not_reached_in_time_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path / "gpu", "--stand-in", "--minutes", "0") == 3
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {bench.case_of(row) for row in found["missing"]} == CASES
    assert {row["reason"] for row in found["missing"]} == {bench.NO_TIME}
    assert "Not measured, 36 rows (onnxruntime CUDA fp32, TensorRT fp32" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ProviderError("no such library"), "no such library"),
     (ValueError("odd\nsecond line"), "ValueError: odd")],
)  # fmt: skip
def test_an_engine_that_cannot_be_opened_leaves_the_others_their_rows(
    tmp_path: Path, error: Exception, reason: str
) -> None:
    def refuse(*_: object) -> None:
        raise error

    table = bench.Table(tmp_path / "gpu", {"GPU": "stand-in"})
    with standing_in() as engines:
        bench.Filling(table, MODELS, engines | {"TensorRT": refuse}, float("inf")).fill()
    assert set(table.rows) == {case for case in CASES if case[0] == ENGINES[0]}
    assert set(table.missing) == CASES - set(table.rows)
    assert set(table.missing.values()) == {reason}


def test_a_row_that_fails_keeps_those_before(tmp_path: Path) -> None:
    class Tired:
        provider, adapter_shapes = "tired", {}

        def __init__(self, model: bytes, precision: str, most: int) -> None:
            self.runs = Runs()
            self._engine = bench.OnnxEngine(model, provider="cpu")

        def run(self, x: bench.Float32) -> bench.Float32:
            if len(x) == 32:
                raise ProviderError("no memory")
            return self._engine.run(x)

        def with_adapters(self, *_: object) -> Tired:
            raise ProviderError("no adapters")

    table = bench.Table(tmp_path / "gpu", {})
    bench.Filling(table, MODELS, {"tired": Tired}, float("inf")).fill()
    assert {case[2] for case in table.rows} == {1, 8}
    assert {table.missing[("tired", "fp32", 32, adapted)] for adapted in (False, True)} == {
        "no memory", "no adapters",
    }  # fmt: skip


def test_without_a_gpu_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> None:
        raise ProviderError("no NVIDIA driver; install it")

    monkeypatch.setattr(bench, "gpu_here", none)
    assert run(monkeypatch, tmp_path / "gpu") == 3
    told = capsys.readouterr()
    assert told.err == (
        "nothing was measured: no NVIDIA driver; go where there is one, or see --stand-in\n"
    )
    assert (told.out, list(tmp_path.iterdir())) == ("", [])


def test_the_plain_model_is_the_engine_that_ships(tmp_path: Path) -> None:
    models = bench.real_models(32, tmp_path)
    assert bench.OnnxEngine(models.model("fp32", False), provider="cpu").num_features > 2000
    assert set(bench.real_engines(tmp_path)) == {*ENGINES, "TensorRT for RTX"}


@pytest.mark.gpu
def test_a_minute_on_a_gpu_fills_rows_of_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        gpu_here()
    except ProviderError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(bench, "real_engines", lambda folder: {ENGINES[0]: bench_cuda})
    run(monkeypatch, tmp_path / "gpu", "--minutes", "1", "--image-size", "64")
    found = json.loads((tmp_path / "gpu.json").read_text())
    plain = [row for row in found["rows"] if row["precision"] == "fp32" and not row["adapter"]]
    assert plain, found["missing"]
    assert all(row["provider"] == "cuda" and row["max_abs"] <= 1e-3 for row in plain)


def bench_cuda(model: bytes, precision: str, most: int) -> bench.OnnxEngine:
    return bench.OnnxEngine(model, provider="cuda")
