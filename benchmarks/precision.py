"""A bundle at every precision: size, one-thread speed, accuracy, cosine to fp32.

A home learns the first pictures of each class of Fashion-MNIST's training set and keeps 2,000 of
them (the default); every precision is exported from it, and its bundle predicts the first pictures
of the test set. Speed is processor time of one picture on one thread, engines in turns.

Run: python benchmarks/precision.py [--image-size 224] [--learn 1200] [--test 4000]
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
import tempfile
import time
from pathlib import Path

import fashion_data
import numpy as np

from edgecl.backbones import load_backbone
from edgecl.config import Config, EvaluationConfig
from edgecl.exporters.bundle import export_bundle
from edgecl.exporters.onnx import init_home
from edgecl.exporters.precision import Options
from edgecl.home import Home
from edgecl.runtime import Predictor
from edgecl.runtime.engines.base import EngineOptions
from edgecl.runtime.pipeline import Embedded, embed
from edgecl.session import Session, open_learner, open_store
from edgecl.types import Float32, Frame

WAYS = {
    "fp32": Options(fused=True),
    "fp16": Options("fp16", fused=True),
    "int8": Options("int8", fused=True),
    "int8, loss allowed": Options("int8", fused=True, allow_parity_loss=True),
    "int8 for TensorRT, loss allowed": Options(
        "int8", recipe="trt", fused=True, allow_parity_loss=True
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--learn", type=int, default=1200, help="pictures of each class")
    parser.add_argument("--test", type=int, default=4000, help="pictures")
    options = parser.parse_args()
    x, y = fashion_data.load("train")
    tx, ty = fashion_data.load("t10k")
    learned = fashion_data.frames(
        x, y, fashion_data.class_by_class(y, options.learn, np.arange(10))
    )
    test = fashion_data.frames(tx, ty, np.arange(options.test))
    labels = np.array([frame.label for frame in test])
    print(
        "| precision | engine MB | fused MB | ms | times as fast | accuracy | agreement | cosine | "
        "head | nodes fp32 | export s |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as place:
        home = init_home(
            Path(place) / "home",
            load_backbone(image_size=options.image_size),
            Config(evaluation=EvaluationConfig(probes=0)),
        )
        predictors: dict[str, Predictor] = {}
        rows: dict[str, list[str]] = {}
        with home.lock(), open_store(home) as store:
            learner = open_learner(home, store)
            for frames, features in _embedded(home, learned):
                learner.learn_many(frames, features)
            learner.settle()
            with store.snapshot():
                scorer, adapters = Session(home, store).served()
            for name, way in WAYS.items():
                begin = time.perf_counter()
                folder = Path(place) / name.replace(" ", "-").replace(",", "")
                done = export_bundle(home, store, scorer, adapters, folder, way)
                seconds = time.perf_counter() - begin
                predictors[name] = Predictor(folder, provider="cpu")
                guesses = _guesses(predictors[name], home, test)
                rows[name] = [
                    f"{(folder / done.manifest.engine).stat().st_size / 1e6:.1f}",
                    f"{(folder / 'fused.onnx').stat().st_size / 1e6:.1f}",
                    f"{(guesses == labels).mean():.4f}",
                    f"{done.manifest.parity.get('agreement', 1.0):.4f}",
                    f"{done.manifest.parity['cosine']:.5f}",
                    str(done.report.get("head", "as in the home")),
                    str(len(done.report.get("nodes_fp32", ()))),
                    f"{seconds:.0f}",
                ]
                print(name, rows[name], done.report, file=sys.stderr)
        times = _times(predictors, options.image_size)
        for name, row in rows.items():
            speed = [f"{times[name]:.1f}", f"{times['fp32'] / times[name]:.2f}"]
            print("| " + " | ".join([name, *row[:2], *speed, *row[2:]]) + " |")


def _embedded(home: Home, frames: list[Frame]) -> list[tuple[list[Frame], Float32]]:
    engine = home.engine(options=EngineOptions(provider="cpu"))
    found = []
    for group in embed(iter(frames), home.manifest.preprocessing, engine, batch_size=8):
        done = [item for item in group if isinstance(item, Embedded)]
        if done:
            found.append(([i.frame for i in done], np.stack([i.feature for i in done])))
    return found


def _guesses(predictor: Predictor, home: Home, frames: list[Frame]) -> np.ndarray:
    found: list[str] = []
    for group in embed(iter(frames), home.manifest.preprocessing, predictor.engine, batch_size=8):
        done = [item for item in group if isinstance(item, Embedded)]
        if done:
            features = np.stack([item.feature for item in done])
            names = [item.frame.id for item in done]
            found += [p.label for p in predictor.predict_features(names, features)]
    return np.array(found)


def _times(predictors: dict[str, Predictor], size: int) -> dict[str, float]:
    """Return the median processor time of one picture in ms, all engines in turns."""
    x = np.random.default_rng(0).uniform(-1, 1, (1, 3, size, size)).astype(np.float32)
    found: dict[str, list[float]] = {name: [] for name in predictors}
    for _ in range(60):
        for name, predictor in predictors.items():
            begin = time.process_time()
            predictor.engine.run(x)
            found[name].append((time.process_time() - begin) * 1e3)
    return {name: float(np.median(values)) for name, values in found.items()}


if __name__ == "__main__":
    main()
