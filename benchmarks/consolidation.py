"""MOS consolidation on Fashion-MNIST: five tasks of two classes, at most 600 kept pictures a class.

The first 600 pictures of each class of the training set are learned and all kept, the first 4,000
of the test set tested, lite0 at 112 px. The frozen ridge learns the same pictures (and, for
comparison, 1,200 a class). Settings were chosen on other pictures of the training set
(docs/decisions/0009).

Run: python benchmarks/consolidation.py [--bank last|mean|two|all] [--no-replay] [--merge SHARE]
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import resource
import sys
import tempfile
import time
from pathlib import Path

import fashion_data
import numpy as np

from edgecl.adapters.bottleneck import RANK
from edgecl.backbones import load_backbone
from edgecl.config import Config, ConsolidationConfig, EvaluationConfig, StoreConfig
from edgecl.consolidation import Consolidated, consolidate
from edgecl.evaluation.continual import forgetting
from edgecl.exporters.onnx import init_home
from edgecl.home import Home
from edgecl.learner import Learner, open_engine, open_learner, open_predictor, open_store
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.pipeline import Embedded, embed
from edgecl.types import Float32, Frame

PER_TASK, N_TEST = 2, 4000


def main() -> None:
    options = _options()
    x, y = fashion_data.load("train")
    tx, ty = fashion_data.load("t10k")
    n_test = options.test
    test = fashion_data.frames(tx, ty, np.arange(n_test))
    labels = np.array([frame.label for frame in test])
    settings = ConsolidationConfig(
        epochs=options.epochs,
        views=options.views,
        replay=options.replay,
        merge=options.merge,
        bank=options.bank,
    )
    taps = () if options.no_taps else None
    backbone = load_backbone(image_size=112, taps=taps)
    order = (
        np.arange(10)
        if options.order == 0
        else np.random.default_rng(options.order).permutation(10)
    )
    tasks = [order[i : i + PER_TASK] for i in range(0, 10, PER_TASK)]
    kept = StoreConfig(capacity_samples=10 * options.kept)
    all_learned = EvaluationConfig(probes=0)
    with tempfile.TemporaryDirectory() as place:
        home = init_home(
            Path(place) / "home",
            backbone,
            Config(store=kept, consolidation=settings, evaluation=all_learned),
            adapter_rank=RANK,
        )
        for consolidates in (False, True):
            if consolidates:
                home = init_home(
                    Path(place) / "other",
                    backbone,
                    Config(store=kept, consolidation=settings, evaluation=all_learned),
                    adapter_rank=RANK,
                )
            matrix = np.full((len(tasks), len(tasks)), np.nan)
            outcomes: list[Consolidated] = []
            begin = time.perf_counter()
            for number, classes in enumerate(tasks):
                chosen = fashion_data.class_by_class(y, options.kept, classes)
                with home.lock(), open_store(home) as store:
                    learner = open_learner(home, store)
                    _learn(
                        home, learner, open_engine(home, store), fashion_data.frames(x, y, chosen)
                    )
                    learner.settle()
                    if consolidates:
                        done = consolidate(
                            home, learner, backbone, home.engine(threads=options.threads)
                        )
                        outcomes.append(done)
                        print(f"task {number}: {done}", file=sys.stderr)
                if consolidates or number == len(tasks) - 1:
                    guesses = _guess(home, test)
                    for k, seen in enumerate(tasks[: number + 1]):
                        of = np.isin(ty[:n_test], seen)
                        matrix[number, k] = (guesses == labels)[of].mean()
                    last = float((guesses == labels).mean())
            seconds = time.perf_counter() - begin
            if not consolidates:
                print("| | last | forgetting | seconds |\n|---|---|---|---|")
                print(f"| frozen ridge | {last:.4f} | | {seconds:.0f} |")
            else:
                parts = {name: sum(o.parts[name] for o in outcomes) for name in outcomes[0].parts}
                print(f"| {settings} | {last:.4f} | {forgetting(matrix):.4f} | {seconds:.0f} |")
                print("accepted: " + ", ".join(str(o.accepted) for o in outcomes))
                total = parts["training"]
                shares = ", ".join(f"{n} {s:.0f} s ({s / total:.0%})" for n, s in parts.items())
                print(f"of the training: {shares}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"peak RSS {peak:.2f} GB")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    defaults = ConsolidationConfig()
    parser.add_argument("--bank", default=defaults.bank)
    parser.add_argument("--no-replay", dest="replay", action="store_false")
    parser.add_argument("--merge", type=float, default=defaults.merge)
    parser.add_argument("--views", type=int, default=defaults.views)
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    parser.add_argument("--kept", type=int, default=600, help="pictures a class")
    parser.add_argument("--test", type=int, default=N_TEST, help="test pictures")
    parser.add_argument("--order", type=int, default=0, help="class order, 0 for 0..9")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-taps", action="store_true", help="the last stage only")
    return parser.parse_args()


def _features(home: Home, engine: OnnxEngine, frames: list[Frame]) -> Float32:
    groups = embed(iter(frames), home.manifest.preprocessing, engine)
    return np.array([i.feature for group in groups for i in group if isinstance(i, Embedded)])


def _learn(home: Home, learner: Learner, engine: OnnxEngine, frames: list[Frame]) -> None:
    x = _features(home, engine, frames)
    for start in range(0, len(frames), 20):
        learner.learn_many(frames[start : start + 20], x[start : start + 20])


def _guess(home: Home, frames: list[Frame]) -> np.ndarray:
    predictor = open_predictor(home)
    x = _features(home, predictor.engine, frames)  # type: ignore[arg-type]
    return np.array([p.label for p in predictor.predict_features([f.id for f in frames], x, top=1)])


if __name__ == "__main__":
    main()
