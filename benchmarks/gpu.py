"""The engines on a GPU, filled into one table by one call: speed, and parity with the CPU.

Engines (onnxruntime's CUDA provider, TensorRT, TensorRT for RTX) x fp32, fp16, int8 x batch 1, 8,
32 x plain or with an adapter as inputs: p50 and p99 of a run in ms, from pictures in memory of the
host to features there; pictures a second; smallest cosine and largest difference to the fp32 engine
on the CPU; the share of runs that replayed a CUDA graph. int8 has recipe `trt`, ranges of 64
generated pictures.

Every row is written when it is there, to OUTPUT.json and OUTPUT.md. When the minutes are over the
rest is named; another call goes on from there if GPU, versions and size are the same. What cannot
run is named with its reason. Without a GPU it says what is missing and exits with 3; `--stand-in`
fills the table on the CPU with a backbone of five features, which says nothing about speed.

Run: python benchmarks/gpu.py [--minutes 10] [--output gpu] [--image-size 224] [--stand-in]
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import argparse
import importlib.metadata
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from edgecl.errors import EdgeclError, MissingPackageError, ProviderError
from edgecl.evaluation.bench import machine
from edgecl.exporters.graph import to_half
from edgecl.exporters.parity import parity_of
from edgecl.exporters.quantize import calibrate, quantise_model
from edgecl.exporters.tensorrt import Settings, compile_model
from edgecl.runtime.adapters import zeros
from edgecl.runtime.engines.cuda import device_memory, gpu_here
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.engines.tensorrt import TensorrtEngine, import_tensorrt
from edgecl.runtime.files import write_whole
from edgecl.types import Float32

PRECISIONS, BATCHES, ADAPTERS = ("fp32", "fp16", "int8"), (1, 8, 32), (False, True)
PACKAGES = ("edgecl", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-cu13",
            "tensorrt-rtx-cu13-libs", "cuda-bindings", "torch")  # fmt: skip
ROW_S, WARM_RUNS, LEAST_RUNS, MOST_RUNS = 2.0, 10, 30, 3000
N_PICTURES = 32
NO_TIME = "no time was left"
Gpu = OnnxEngine | TensorrtEngine
Open = Callable[[bytes, str, int], Gpu]
Case = tuple[str, str, int, bool]  # engine, precision, batch, whether with an adapter


@dataclass
class Table:
    """What is known so far.

    Args:
        path: Where it is written, without `.json` and `.md`.
        made: What it was measured on; rows of something else are not kept.
        rows: What was measured, by case.
        missing: Why a case has no row.
    """

    path: Path
    made: dict[str, Any]
    rows: dict[Case, dict[str, Any]] = field(default_factory=dict)
    missing: dict[Case, str] = field(default_factory=dict)

    def take_up(self) -> None:
        """Take the rows of an earlier call, if it was made on the same."""
        file = self.path.with_suffix(".json")
        if not file.exists():
            return
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            rows = {case_of(row): row for row in before["rows"]}
            made = before["made"]
        except (ValueError, KeyError, TypeError) as error:
            sys.exit(f"{file} is no table of this benchmark ({error!r}); name another --output")
        if made == self.made:
            self.rows = rows
            print(f"{len(rows)} rows of {file} are taken up", file=sys.stderr)
        else:
            print(f"{file} was made on something else and is replaced", file=sys.stderr)

    def save(self) -> None:
        """Write both files, each whole or not at all."""
        missing = [named(case) | {"reason": reason} for case, reason in self.missing.items()]
        values = {"made": self.made, "rows": list(self.rows.values()), "missing": missing}
        write_whole(self.path.with_suffix(".json"), json.dumps(values, indent=1).encode())
        write_whole(self.path.with_suffix(".md"), self.markdown().encode())

    def markdown(self) -> str:
        """Return the table, and below it what is missing, by the reason."""
        lines = [
            ", ".join(f"{name} {value}" for name, value in self.made.items()),
            "",
            "| engine | precision | batch | adapter | p50 ms | p99 ms | pictures/s | cosine | "
            "largest difference | replayed |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for r in self.rows.values():
            cells = [r["engine"], r["precision"], r["batch"], "yes" if r["adapter"] else "no",
                     f"{r['p50_ms']:.3f}", f"{r['p99_ms']:.3f}", f"{r['per_second']:.0f}",
                     f"{r['cosine']:.6f}", f"{r['max_abs']:.1e}",
                     f"{r['replayed'] / r['runs']:.0%}"]  # fmt: skip
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        for reason in dict.fromkeys(self.missing.values()):
            cases = [case for case, why in self.missing.items() if why == reason]
            engines = ", ".join(dict.fromkeys(f"{c[0]} {c[1]}" for c in cases))
            lines += ["", f"Not measured, {len(cases)} rows ({engines}): {reason}"]
        return "\n".join(lines) + "\n"


def named(case: Case) -> dict[str, Any]:
    return dict(zip(("engine", "precision", "batch", "adapter"), case, strict=True))


def case_of(row: dict[str, Any]) -> Case:
    return row["engine"], row["precision"], row["batch"], row["adapter"]


class Models:
    """ONNX files by precision, plain and with adapters, made when they are asked for."""

    def __init__(self, plain: Callable[[], bytes], adapted: Callable[[], bytes]) -> None:
        self._make = {False: plain, True: adapted}
        self._made: dict[tuple[str, bool], bytes] = {}

    def model(self, precision: str, is_adapted: bool) -> bytes:
        """Return a file; fp16 and int8 are made of fp32."""
        key = precision, is_adapted
        if key not in self._made:
            if precision == "fp32":
                self._made[key] = self._make[is_adapted]()
            else:
                whole = self.model("fp32", is_adapted)
                self._made[key] = to_half(whole) if precision == "fp16" else _int8(whole)
        return self._made[key]

    def reference(self, is_adapted: bool) -> tuple[OnnxEngine, Float32, Float32]:
        """Return the fp32 engine on the CPU, pictures, and their features."""
        engine = OnnxEngine(self.model("fp32", is_adapted), provider="cpu")
        x = pictures(engine.image_size, N_PICTURES, seed=1)
        if is_adapted:
            engine = engine.with_adapters(an_adapter(engine))
        return engine, x, np.concatenate([engine.run(x[i : i + 8]) for i in range(0, len(x), 8)])


def _int8(model: bytes) -> bytes:
    engine = OnnxEngine(model, provider="cpu")
    x = pictures(engine.image_size, 64, seed=2)
    adapters = [zeros(engine.adapter_shapes), an_adapter(engine)]
    ranges = calibrate(model, lambda: (x[i : i + 8] for i in range(0, len(x), 8)), adapters)
    return quantise_model(ranges, "trt")


def pictures(side: int, n: int, *, seed: int) -> Float32:
    """Return preprocessed pictures (n, 3, side, side): coarse fields with fine grain."""
    rng = np.random.default_rng(seed)
    steps = -(-side // 8)
    coarse = rng.uniform(-1, 1, (n, 3, 8, 8)).repeat(steps, axis=2).repeat(steps, axis=3)
    noise = rng.uniform(-1, 1, (n, 3, side, side))
    return (0.8 * coarse[:, :, :side, :side] + 0.2 * noise).astype(np.float32)


def an_adapter(engine: Gpu) -> dict[str, Float32]:
    rng = np.random.default_rng(3)
    shapes = engine.adapter_shapes.items()
    return {name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes}


def real_models(size: int, folder: Path) -> Models:
    """Return the default backbone: plain as it ships, with adapters exported by torch."""

    def plain() -> bytes:
        from edgecl.backbones import DEFAULT_BACKBONE
        from edgecl.exporters.shipped import shipped

        engine = shipped(DEFAULT_BACKBONE, image_size=size)
        assert engine is not None
        return (folder / engine.write(folder).engine).read_bytes()

    def adapted() -> bytes:
        from edgecl.backbones import load_backbone
        from edgecl.exporters.onnx import export_backbone

        place = folder / "adapted"
        place.mkdir(exist_ok=True)
        manifest = export_backbone(load_backbone(image_size=size), place, adapter_rank=16)
        return (place / manifest.engine).read_bytes()

    return Models(plain, adapted)


def on_tensorrt(
    flavour: str, timings: Path, model: bytes, precision: str, max_batch: int
) -> TensorrtEngine:
    settings = Settings(flavour, precision, max_batch=max_batch)
    compiled = compile_model(model, settings, timing_cache=timings)
    return TensorrtEngine(import_tensorrt(flavour), compiled, device_memory())


def real_engines(folder: Path) -> dict[str, Open]:
    timings = folder / "timings"
    return {
        "onnxruntime CUDA": lambda model, precision, batch: OnnxEngine(model, provider="cuda"),
        "TensorRT": partial(on_tensorrt, "full", timings),
        "TensorRT for RTX": partial(on_tensorrt, "rtx", timings),
    }


def measured(engine: Gpu, x: Float32, seconds: float) -> dict[str, Any]:
    """Return times of a run on pictures (N, 3, S, S), and what became of the runs."""
    for _ in range(WARM_RUNS):
        engine.run(x)
    replayed, plain = engine.runs.replayed, engine.runs.plain.copy()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < LEAST_RUNS or (time.perf_counter() < end and len(times) < MOST_RUNS):
        begin = time.perf_counter()
        engine.run(x)
        times.append((time.perf_counter() - begin) * 1e3)
    p50, p99 = (float(p) for p in np.percentile(times, (50, 99)))
    return {
        "p50_ms": p50,
        "p99_ms": p99,
        "per_second": len(x) * 1e3 / p50,
        "runs": len(times),
        "replayed": engine.runs.replayed - replayed,
        "plain": dict(engine.runs.plain - plain),
        "pinned": engine.runs.pinned,
        "provider": engine.provider,
    }


class Filling:
    """Fills a table until the time is over."""

    def __init__(self, table: Table, models: Models, engines: dict[str, Open], end: float) -> None:
        self._table, self._models, self._engines, self._end = table, models, engines, end
        self._longest = 0.0  # seconds that building an engine took at most
        self._references: dict[bool, tuple[OnnxEngine, Float32, Float32]] = {}

    def fill(self) -> None:
        """Measure what has no row yet; the table is written after each."""
        for precision, name, is_adapted in product(PRECISIONS, self._engines, ADAPTERS):
            cases = [(name, precision, batch, is_adapted) for batch in BATCHES]
            open_cases = [case for case in cases if case not in self._table.rows]
            try:
                for case, row in self._rows(open_cases):
                    self._table.rows[case] = row
                    self._table.save()
                    print(row, file=sys.stderr)
            except EdgeclError as error:
                self._leave(open_cases, str(error))
            except Exception as error:  # of a library: the other rows are worth more than it
                self._leave(open_cases, f"{type(error).__name__}: {error}".splitlines()[0])
        self._table.save()

    def _leave(self, cases: list[Case], reason: str) -> None:
        left = [case for case in cases if case not in self._table.rows]
        self._table.missing |= dict.fromkeys(left, reason)

    def _rows(self, cases: list[Case]) -> Iterator[tuple[Case, dict[str, Any]]]:
        """Yield rows of one engine."""
        begin = time.perf_counter()
        # The next build may take somewhat longer than those before.
        if cases and begin + 1.5 * self._longest > self._end:
            raise ProviderError(NO_TIME)
        if not cases:
            return
        name, precision, _, is_adapted = cases[0]
        if is_adapted not in self._references:
            self._references[is_adapted] = self._models.reference(is_adapted)
        reference, x, theirs = self._references[is_adapted]
        model = self._models.model(precision, is_adapted)
        engine = self._engines[name](model, precision, max(BATCHES))
        self._longest = max(self._longest, time.perf_counter() - begin)
        if is_adapted:
            engine = engine.with_adapters(*reference.adapters)
        for case in cases:
            if time.perf_counter() > self._end:
                raise ProviderError(NO_TIME)
            n = case[2]
            found = measured(engine, x[:n], min(ROW_S, max(0.0, self._end - time.perf_counter())))
            ours = np.concatenate([engine.run(x[i : i + n]) for i in range(0, len(x), n)])
            parity = parity_of(ours, theirs)
            yield case, named(case) | found | {"cosine": parity.cosine, "max_abs": parity.max_abs}


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="after which it ends")
    parser.add_argument("--output", type=Path, default=Path("gpu"), help="files, without suffix")
    parser.add_argument("--image-size", type=int, default=224, help="of the default backbone")
    parser.add_argument("--stand-in", action="store_true", help="on the CPU, to see that it works")
    options = parser.parse_args()
    end = time.perf_counter() + 60 * options.minutes
    with ExitStack() as stack:
        if options.stand_in:
            sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
            from small_engine import SIZE, small_model
            from stand_in import GPU, standing_in

            gpu, size = GPU, SIZE
            engines = stack.enter_context(standing_in())
            models = Models(small_model, partial(small_model, adapters=True))
        else:
            try:
                gpu, size = str(gpu_here()), options.image_size
            except (ProviderError, MissingPackageError) as error:
                why = str(error).split(";")[0]
                print(f"nothing was measured: {why}; go where there is one, or see --stand-in",
                      file=sys.stderr)  # fmt: skip
                return 3
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            engines, models = real_engines(folder), real_models(size, folder)
        made = {"GPU": gpu, "size": size, "processor": machine()["processor"], **versions()}
        table = Table(options.output, made)
        table.take_up()
        Filling(table, models, engines, end).fill()
    print(table.markdown(), end="")
    return 0 if table.rows else 3


if __name__ == "__main__":
    sys.exit(main())
