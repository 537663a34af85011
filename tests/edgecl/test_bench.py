"""`edgecl bench` times every part and leaves the home, and its bundles, as they were."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from fake_gpu import FakeCuda
from patience import until
from small_engine import KEY
from stand_in import on_tensorrt

import build
from edgecl.cli.bench import _print as print_result
from edgecl.errors import ProviderError
from edgecl.evaluation import bench
from edgecl.evaluation.bench import bench_home
from edgecl.evaluation.energy import Rapl, Tegrastats, metered
from edgecl.evaluation.stages import Stage, measure
from edgecl.home import Home
from edgecl.runtime import Predictor
from edgecl.runtime.bundle import open_bundle
from edgecl.runtime.engines.graphs import FIRST
from edgecl.runtime.engines.tensorrt import Compiled

ENGINE = {"engine_b1_t1", "engine_b8_t1", "engine_b1_t2", "engine_b8_t2"}
PREDICTING = {"decode", "preprocess", "adapter_swap", "head"} | ENGINE
LEARNING = {"learn", "commit", "forget"}


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


def check_stage(name: str, stage: dict[str, Any]) -> None:
    assert stage["runs"] >= (1 if name == "forget" else 10)
    assert 0 < stage["p50_ms"] <= stage["p90_ms"] <= stage["p99_ms"]
    assert stage["per_second"] == pytest.approx(stage.get("batch", 1) * 1e3 / stage["p50_ms"])


@pytest.fixture
def result(taught_home: Path, copy_of: Callable[[Path], Path]) -> dict[str, Any]:
    """What is printed for a home with a bundle; the home is beside it, at `home`."""
    home = copy_of(taught_home)
    bundle = home.parent / "bundle"
    build.last_json(
        build.run_edgecl("export", "onnx", "--output", bundle, "--home", home, "--json")
    )
    before = content(home), content(bundle)
    done = build.run_edgecl("bench", "--home", home, "--seconds", "0.1", "--json")
    assert (content(home), content(bundle)) == before
    assert {path.name for path in home.parent.iterdir()} == {home.name, "bundle"}
    assert Predictor(bundle).scorer.labels
    return build.last_json(done)


def test_every_stage_is_one_object_and_the_home_stays_as_it_is(result: dict[str, Any]) -> None:
    stages = result["stages"]
    assert set(stages) == PREDICTING | LEARNING
    timed = {name: stage for name, stage in stages.items() if "reason" not in stage}
    for name, stage in timed.items():
        check_stage(name, stage)
    assert stages["adapter_swap"] == {"reason": "this engine takes no adapters"}
    one_core = len(os.sched_getaffinity(0)) == 1
    assert set(stages) - set(timed) == {"adapter_swap"} | (
        {"engine_b1_t2", "engine_b8_t2"} if one_core else set()
    )
    assert stages["engine_b8_t1"]["batch"] == 8
    assert stages["engine_b8_t1"]["precision"] == "fp32"
    assert stages["head"]["classes"] == 4
    median = {name: stage["p50_ms"] for name, stage in timed.items()}
    assert result["ratios"] == {
        "decode_and_preprocess_to_engine": pytest.approx(
            (median["decode"] + median["preprocess"]) / median["engine_b1_t1"]
        )
    }
    assert result["peak_rss_mb"] > 10
    assert result["machine"]["provider"] == "cpu"
    unused = {"pinned": False, "recorded": 0, "replayed": 0, "plain": {}}
    assert result["engines"] == {"onnxruntime": {"provider": "cpu"} | unused}
    assert result["energy"]["joules"] is not None or result["energy"]["reason"]


def test_a_bundle_is_timed_without_a_home(
    taught_home: Path, copy_of: Callable[[Path], Path]
) -> None:
    home = copy_of(taught_home)
    bundle = home.parent / "bundle"
    build.last_json(
        build.run_edgecl("export", "onnx", "--output", bundle, "--home", home, "--json")
    )
    done = build.run_edgecl("bench", "--bundle", bundle, "--seconds", "0.1")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    for name in ("decode", "preprocess", "engine_b1_t1", "head"):
        assert f"\n{name} " in done.stdout
    for name in LEARNING:
        assert f"{name} not timed: a bundle does not learn" in done.stderr
    assert "decode and preprocess to engine: " in done.stdout
    assert "peak memory " in done.stdout


def test_the_engine_of_a_tensorrt_bundle_is_timed_or_its_absence_told(
    taught_home: Path,
    copy_of: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = copy_of(taught_home)  # an export is registered there
    words = ("export", "onnx", "--output", tmp_path / "bundle", "--home", home, "--json")
    build.last_json(build.run_edgecl(*words))
    found = replace(open_bundle(tmp_path / "bundle"), compiled=Compiled(b"plan", KEY))
    monkeypatch.setattr(bench, "open_bundle", lambda folder: found)

    def refuse(*_: object) -> None:
        raise ProviderError("no driver here")

    monkeypatch.setattr(bench, "open_tensorrt", refuse)
    result = bench.bench_bundle(tmp_path / "bundle", 0.1)
    told = {"reason": "no driver here"}
    assert (result["stages"]["tensorrt_b1"], result["stages"]["tensorrt_b8"]) == (told, told)
    assert set(result["engines"]) == {"onnxruntime"}

    FakeCuda().install(monkeypatch)
    monkeypatch.setattr(
        bench, "open_tensorrt", lambda compiled, model: on_tensorrt(found.model, "fp32", 8)
    )
    result = bench.bench_bundle(tmp_path / "bundle", 0.1)
    for name in ("tensorrt_b1", "tensorrt_b8"):
        check_stage(name, result["stages"][name])
        used = result["engines"][name]
        assert used["replayed"] >= 10
        assert used == {
            "provider": "tensorrt", "pinned": True, "recorded": 1, "replayed": used["replayed"],
            "plain": {FIRST: 1},
        }  # fmt: skip
    print_result(result)
    said = capsys.readouterr().err
    assert "tensorrt_b8 on tensorrt: pinned memory, 1 CUDA graphs, " in said
    assert f"1 runs did not: {FIRST}" in said


def test_a_home_that_learned_nothing_still_times_its_engine(home: Home) -> None:
    result = bench_home(home, 0.1)
    stages = result["stages"]
    assert stages["head"] == {"reason": "nothing was learned"}
    assert "reason" in stages["forget"]
    check_stage("learn", stages["learn"])


def test_torch_is_timed_beside_the_engine(home: Home) -> None:
    calls = []

    def load() -> Callable[[Any, int], object]:
        return lambda pixels, threads: calls.append((len(pixels), threads))

    result = bench_home(home, 0.1, load)
    check_stage("torch", result["stages"]["torch_b8_t1"])
    assert {(1, 1), (8, 1)} <= set(calls)
    ratio = result["stages"]["torch_b1_t1"]["p50_ms"] / result["stages"]["engine_b1_t1"]["p50_ms"]
    assert result["ratios"]["torch_to_engine_b1_t1"] == pytest.approx(ratio)


def test_a_copy_that_a_killed_run_left_is_deleted(home: Home) -> None:
    left = home.path.parent / f".{home.path.name}-bench-killed"
    left.mkdir()
    (left / "device.db").write_bytes(b"pictures")
    bench_home(home, 0.1)
    assert not left.exists()


def test_stages_take_turns_and_share_the_time() -> None:
    order: list[str] = []

    def of(name: str, seconds: float) -> Stage:
        def run() -> None:
            order.append(name)
            time.sleep(seconds)

        return Stage(name, run)

    quick, slow = of("quick", 0.001), of("slow", 0.03)
    once = Stage("once", lambda: order.append("once"), most=1)
    measure([quick, slow, once], 1.0)
    assert order.count("once") == 1
    assert len(slow.times) >= 10
    changes = sum(a != b for a, b in pairwise(order))
    assert changes >= 10  # in turns, not one after the other
    assert 0.2 <= sum(quick.times) / sum(slow.times) <= 5


def test_what_is_prepared_is_not_timed() -> None:
    stage = Stage("a", lambda: None, prepare=lambda: time.sleep(0.02))
    measure([stage], 0.0)
    assert len(stage.times) == 10
    assert median(stage.times) < 20  # a busy machine may stand still in one of them


# Energy


def package(folder: Path, i: int, microjoules: int) -> Path:
    zone = folder / f"intel-rapl:{i}"
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text("1000000\n")
    return zone


def test_rapl_sums_packages_and_knows_where_a_counter_starts_anew(tmp_path: Path) -> None:
    zones = [package(tmp_path, 0, 400_000), package(tmp_path, 1, 900_000)]
    meter = Rapl(zones)
    meter.begin()
    package(tmp_path, 0, 600_000)
    package(tmp_path, 1, 100_000)
    assert meter.joules(1.0) == pytest.approx(0.2 + 0.2)


def test_energy_is_read_where_the_machine_exposes_it(tmp_path: Path) -> None:
    package(tmp_path, 0, 0)
    with metered(tmp_path) as energy:
        package(tmp_path, 0, 500_000)
    assert energy["source"] == "rapl"
    assert energy["joules"] == pytest.approx(0.5)
    assert energy["watts"] > 0


def test_a_machine_without_counters_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with metered(tmp_path) as energy:
        pass
    assert energy == {"joules": None, "reason": "no readable RAPL counter and no tegrastats"}


def test_tegrastats_gives_the_boards_input_power(tmp_path: Path) -> None:
    program = tmp_path / "tegrastats"
    line = "RAM 3000/7620MB CPU [5%@729] GPU 10mW/10mW VDD_IN {}mW/5000mW VDD_CPU 700mW/700mW"
    lines = "\n".join(f"echo '{line.format(power)}'" for power in (4000, 6000))
    program.write_text(f"#!/bin/sh\n{lines}\ntouch {tmp_path}/told\nexec sleep 600\n")
    program.chmod(0o755)
    meter = Tegrastats(str(program))
    meter.begin()
    assert until(lambda: (tmp_path / "told").exists())
    assert meter.joules(2.0) == pytest.approx(5.0 * 2)
