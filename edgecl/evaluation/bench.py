"""How long each part takes on this machine: what `edgecl bench` prints.

Stages that change something work on a copy of the home, beside it (so commits go to the same disk)
and deleted at the end; the home stays as it is.
"""

from __future__ import annotations

import glob
import io
import os
import platform
import re
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgecl.errors import EdgeclError
from edgecl.evaluation.energy import metered
from edgecl.evaluation.stages import Stage, measure, warm_up
from edgecl.home import Home
from edgecl.runtime.adapters import Adapter
from edgecl.runtime.bundle import open_bundle
from edgecl.runtime.engines.base import EngineOptions
from edgecl.runtime.engines.onnx import OnnxEngine, import_onnxruntime
from edgecl.runtime.engines.tensorrt import Compiled, TensorrtEngine, open_tensorrt
from edgecl.runtime.faults import telling
from edgecl.runtime.files import wipe
from edgecl.runtime.predictor import predictions
from edgecl.runtime.preprocess import Preprocessing, decode
from edgecl.runtime.scoring import Scorer
from edgecl.session import Session, open_learner, open_store
from edgecl.store.exports import disown
from edgecl.store.progress import Position
from edgecl.store.store import Store
from edgecl.types import Float32, ForgetRequest, Frame
from edgecl.unlearning.request import forget

THREADS, BATCHES = (1, 2), (1, 8)
SIZE = (640, 480)
_N_PICTURES = 8
_MOST_FORGOTTEN = 20
_CLASS = "edgecl-bench"

Eager = Callable[[Float32, int], object]
"""Runs the backbone in torch on pictures (N, 3, S, S) with so many threads."""


def bench_home(
    home: Home, seconds: float = 20.0, load_eager: Callable[[], Eager] | None = None
) -> dict[str, Any]:
    """Time all stages in a home, which stays as it is; its lock is held meanwhile.

    Args:
        home: The home.
        seconds: How long to measure, beside warm-up and the runs that each stage must have.
        load_eager: Loads the backbone in torch, to be timed beside the engine.

    Returns:
        JSON values: `stages`, one object each, with a `reason` where one could not be timed;
        `ratios` of medians, `engines` (of each its provider and how it used the GPU: `Runs`),
        `energy`, `peak_rss_mb` and `machine`.

    Raises:
        HomeLockedError: Another process writes to the home.
    """
    with home.lock(), ExitStack() as stack:
        with open_store(home, read_only=True) as store, store.snapshot():
            scorer, adapters = Session(home, store).served() if store.names else (None, ())
        engines = {n: home.engine(adapters, options=EngineOptions(threads=n)) for n in THREADS}
        bench = _Bench(home.manifest.preprocessing, engines, scorer, "fp32")
        copy = stack.enter_context(copied(home))
        store = stack.enter_context(open_store(copy))
        disown(store)
        bench.add_learning(copy, store)
        return bench.report(seconds, load_eager)


def bench_bundle(
    folder: Path, seconds: float = 20.0, load_eager: Callable[[], Eager] | None = None
) -> dict[str, Any]:
    """Time the stages that a bundle has; see `bench_home`."""
    found = open_bundle(folder)
    engines = {
        n: OnnxEngine(found.model, threads=n).with_adapters(*found.adapters) for n in THREADS
    }
    precision = str(found.values["precision"])
    bench = _Bench(found.manifest.preprocessing, engines, found.scorer, precision)
    for name in ("learn", "commit", "forget"):
        bench.missing[name] = "a bundle does not learn"
    if found.compiled is not None:
        bench.add_tensorrt(found.compiled, found.manifest.engine_sha256, found.adapters)
    return bench.report(seconds, load_eager)


@contextmanager
def copied(home: Home) -> Iterator[Home]:
    """Copy a home, without its snapshots, to a folder beside it, and delete the copy at the end.

    The caller holds the home's lock. What a run that was killed left behind is deleted first.
    """
    prefix = home.copies
    parent = home.path.absolute().parent
    what = f"the copy of the home in {parent} cannot be written"
    with telling(what):
        for left in parent.glob(f"{glob.escape(prefix)}*"):
            wipe(left)
        place = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        with telling(what):
            _copy_parts(home, place)
        copy = Home(place)
        with open_store(home, read_only=True) as store:
            store.copy_to(copy.database)
        yield copy
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _copy_parts(home: Home, place: Path) -> None:
    for path in home.path.iterdir():
        is_database = path.name.startswith(home.database.name)
        if path == home.snapshots or is_database or path.is_socket():
            continue
        if path.is_dir():
            shutil.copytree(path, place / path.name)
        else:
            shutil.copy2(path, place / path.name)


def _two_adapters(engine: OnnxEngine) -> list[Adapter]:
    rng = np.random.default_rng(0)
    return [
        {
            name: rng.normal(0, 0.01, shape).astype(np.float32)
            for name, shape in engine.adapter_shapes.items()
        }
        for _ in range(2)
    ]


class _Bench:
    """The stages of a home or a bundle."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        engines: Mapping[int, OnnxEngine],
        scorer: Scorer | None,
        precision: str,
    ) -> None:
        self.missing: dict[str, str] = {}
        self._files = [_photograph(i) for i in range(_N_PICTURES)]
        least = preprocessing.least_side
        images = [decode(data, least_side=least) for data in self._files]
        self._tensors = np.stack([preprocessing.tensor(image) for image in images])
        self._engine = engine = engines[THREADS[0]]
        self._used: dict[str, OnnxEngine | TensorrtEngine] = {"onnxruntime": engine}
        self._x = engine.run(self._tensors)
        files, rows = cycle(self._files), cycle(range(_N_PICTURES))
        self._image = images[0]

        def decode_next() -> None:
            self._image = decode(next(files), least_side=least)

        self._stages = [
            Stage("decode", decode_next, options={"size": list(SIZE)}),
            # Of a picture that was just decoded, so still in the cache, as in the pipeline.
            Stage("preprocess", lambda: preprocessing.tensor(self._image), prepare=decode_next),
        ]
        for n, batch in _cases():
            if n > 1 and len(os.sched_getaffinity(0)) == 1:
                self.missing[f"engine_b{batch}_t{n}"] = "this process may use one core only"
                continue
            run = partial(engines[n].run, self._tensors[:batch])
            options = {"precision": precision, "batch": batch, "threads": n}
            self._stages.append(Stage(f"engine_b{batch}_t{n}", run, batch, options))
        if engine.adapter_shapes:
            adapters = cycle(_two_adapters(engine))
            swap = Stage("adapter_swap", lambda: engine.with_adapters(next(adapters)))
            self._stages.append(swap)
        else:
            self.missing["adapter_swap"] = "this engine takes no adapters"
        if scorer is not None:

            def score() -> None:
                i = next(rows)
                predictions(scorer, [""], self._x[i : i + 1])

            options = {"classes": len(scorer.labels), "features": self._x.shape[1]}
            self._stages.append(Stage("head", score, options=options))
        else:
            self.missing["head"] = "nothing was learned"

    def add_tensorrt(
        self, compiled: Compiled, model_sha256: str, adapters: Sequence[Adapter]
    ) -> None:
        """Add the TensorRT engine of a bundle, or why it does not run here."""
        for batch in BATCHES:
            name = f"tensorrt_b{batch}"
            try:  # one each: stages take turns, and one for both would record at every turn
                engine = open_tensorrt(compiled, model_sha256).with_adapters(*adapters)
            except EdgeclError as error:
                self.missing[name] = str(error)
                continue
            self._used[name] = engine
            run = partial(engine.run, self._tensors[:batch])
            options = {"precision": compiled.key.precision, "batch": batch}
            self._stages.append(Stage(name, run, batch, options))

    def add_learning(self, home: Home, store: Store) -> None:
        """Add the stages that change a home, which must be a copy."""
        try:
            learner = open_learner(home, store)
        except EdgeclError as error:  # the head needs torch, and it is not there
            self.missing |= dict.fromkeys(("learn", "commit", "forget"), str(error))
            return
        engine = home.engine()
        preprocessing = home.manifest.preprocessing
        learner.embed_views = lambda pictures: engine.run(
            np.stack([preprocessing.tensor(picture) for picture in pictures])
        )
        names = list(store.names.values())[1 : _MOST_FORGOTTEN + 1]
        number = count()
        x = self._x[:, : store.num_features]  # adapted ones stand beside the plain ones

        def learn() -> None:
            i = next(number)
            data = self._files[i % _N_PICTURES]
            frame = Frame(id=str(i), encoded=data, label=_CLASS, source=_CLASS)
            learner.learn_one(frame, x[i % _N_PICTURES])

        def write() -> None:
            self._open = store.transaction(changes_head=False)
            self._open.__enter__()
            store.set_position(_CLASS, Position(next(number), b"", False))

        def forget_next() -> None:
            forget(home, learner, ForgetRequest(names.pop()))

        head = {"head": home.config.head.name}
        self._stages.append(Stage("learn", learn, options=head))
        commit = Stage("commit", lambda: self._open.__exit__(None, None, None), prepare=write)
        self._stages.append(commit)
        if names:
            options = head | {"samples": store.n_stored_samples}
            self._stages.append(Stage("forget", forget_next, options=options, most=len(names)))
        else:
            self.missing["forget"] = "fewer than two classes were learned"

    def _timed_cases(self) -> list[tuple[int, int]]:
        return [(n, b) for n, b in _cases() if f"engine_b{b}_t{n}" not in self.missing]

    def report(self, seconds: float, load_eager: Callable[[], Eager] | None) -> dict[str, Any]:
        """Warm up, measure and return what `bench_home` says."""
        warm_up(self._stages)
        stages = list(self._stages)
        peak = _peak_rss_mb()  # torch, if it comes, is no part of it
        if load_eager is not None:
            eager = load_eager()
            for n, batch in self._timed_cases():
                run = partial(eager, self._tensors[:batch], n)
                options = {"precision": "fp32", "batch": batch, "threads": n}
                stages.append(Stage(f"torch_b{batch}_t{n}", run, batch, options))
            warm_up(stages[len(self._stages) :])
        with metered() as energy:
            measure(stages, seconds)
        if load_eager is None:
            peak = _peak_rss_mb()
        median = {s.name: float(np.median(s.times)) for s in stages}
        engine = median["engine_b1_t1"]
        ratios = {"decode_and_preprocess_to_engine": _input(median) / engine}
        for n, batch in self._timed_cases() if load_eager is not None else ():
            case = f"b{batch}_t{n}"
            ratios[f"torch_to_engine_{case}"] = median[f"torch_{case}"] / median[f"engine_{case}"]
        return {
            "stages": {s.name: s.as_json() for s in stages}
            | {name: {"reason": reason} for name, reason in self.missing.items()},
            "ratios": ratios,
            "engines": {
                name: {"provider": engine.provider} | engine.runs.as_json()
                for name, engine in self._used.items()
            },
            "peak_rss_mb": peak,
            "energy": dict(energy),
            "machine": machine() | {"provider": self._engine.provider},
        }


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on, JSON values."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return {
        "processor": found[1] if found else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "onnxruntime": str(import_onnxruntime().__version__),
    }


def _cases() -> list[tuple[int, int]]:
    return [(n, batch) for n in THREADS for batch in BATCHES]


def _input(median: Mapping[str, float]) -> float:
    return median["decode"] + median["preprocess"]


def _peak_rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _photograph(seed: int) -> bytes:
    """Return a JPEG file, 640 x 480, some 70 kB, as a camera would give: smooth with fine grain."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
    pixels = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()
