"""What large JPEGs cost beside the engine, and whether their decoder may halve them.

Decode and preprocess, whole and scaled, and one run of the engine (lite0 at 224 px, one thread)
take turns, so that a busy machine slows them alike; processor time, lower quartile. Accuracy:
Fashion-MNIST, the pictures scaled up with a camera's noise (2 grey levels) and written as JPEGs of
1080 pixels; learned and tested with the same preprocessing, and learned whole and tested scaled.

Run: python benchmarks/decode.py [--accuracy N]
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import io
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import fashion_data
import numpy as np
from PIL import Image
from skimage import data as photographs

from edgecl.exporters.setup import Setup, set_up
from edgecl.heads import make_head
from edgecl.home import Home
from edgecl.runtime.engines.base import Engine, EngineOptions
from edgecl.runtime.grid import quantise
from edgecl.runtime.preprocess import SCALED, WHOLE, Preprocessing, decode

SIZES = {"640 x 480": (640, 480), "1920 x 1080": (1920, 1080), "3840 x 2160": (3840, 2160)}
ROUNDS = 25
SIDE, NOISE, QUALITY = 1080, 2.0, 85


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--accuracy", type=int, default=0, help="pictures learned; as many tested")
    n = parser.parse_args().accuracy
    with tempfile.TemporaryDirectory() as place:
        home = set_up(Path(place) / "home", Setup())
        engine = home.engine(options=EngineOptions(threads=1))
        costs(home, engine)
        if n:
            accuracy(home, engine, n)


def ways(home: Home) -> dict[str, Preprocessing]:
    """Return both ways to decode."""
    how = home.manifest.preprocessing
    return {name: replace(how, decoding=name) for name in (WHOLE, SCALED)}


def seen(data: bytes, how: Preprocessing) -> np.ndarray:
    """Return the engine's input (3, S, S)."""
    return how.tensor(decode(data, least_side=how.least_side))


def costs(home: Home, engine: Engine) -> None:
    """Print milliseconds of decoding and scaling, and their ratio to those of the engine."""
    print(
        "| picture | kB | engine, ms | whole, ms | scaled, ms | whole / engine | scaled / engine |"
    )
    print("|---|---|---|---|---|---|---|")
    photograph = Image.fromarray(photographs.astronaut())
    for name, size in SIZES.items():
        data = encoded(np.asarray(photograph.resize(size, Image.Resampling.BICUBIC)), seed=0)
        x = seen(data, home.manifest.preprocessing)[None]
        steps = {"engine": lambda x=x: engine.run(x)} | {
            way: lambda how=how, data=data: seen(data, how) for way, how in ways(home).items()
        }
        times: dict[str, list[float]] = {step: [] for step in steps}
        for _ in range(ROUNDS):
            for step, work in steps.items():
                begin = time.thread_time()
                work()
                times[step].append((time.thread_time() - begin) * 1e3)
        ms = {step: float(np.quantile(of, 0.25)) for step, of in times.items()}
        shares = " | ".join(f"{ms[way] / ms['engine']:.2f}" for way in (WHOLE, SCALED))
        print(
            f"| {name} | {len(data) / 1e3:.0f} | " + " | ".join(f"{v:.1f}" for v in ms.values()),
            f"| {shares} |",
        )


def encoded(pixels: np.ndarray, *, seed: int) -> bytes:
    """Return a JPEG of pixels (H, W, 3) under a camera's noise."""
    noise = np.random.default_rng(seed).normal(0, NOISE, pixels.shape[:2]).astype(np.float32)
    out = io.BytesIO()
    noisy = np.clip(pixels + noise[..., None], 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def accuracy(home: Home, engine: Engine, n: int) -> None:
    """Print the accuracy of ridge on n pictures after n others, whole and scaled."""
    parts = {}
    for part in ("train", "t10k"):
        x, y = fashion_data.load(part)
        features: dict[str, list[np.ndarray]] = {way: [] for way in ways(home)}
        for i in range(n):
            image = (
                Image.fromarray(x[i]).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            )
            data = encoded(np.asarray(image), seed=i)
            for way, how in ways(home).items():
                features[way].append(engine.run(seen(data, how)[None])[0])
        parts[part] = (
            {way: np.array(rows) for way, rows in features.items()},
            y[:n].astype(np.int64),
        )
    (learned, y), (tested, ty) = parts["train"], parts["t10k"]
    print(
        "\n| learned | tested | accuracy | other answers than whole and whole |\n|---|---|---|---|"
    )
    first = None
    for one, other in ((WHOLE, WHOLE), (SCALED, SCALED), (WHOLE, SCALED)):
        head = make_head("ridge", learned[one].shape[1])
        head.learn_many(quantise(learned[one]), y)
        head.settle()
        guesses = np.array(head.classes)[head.predict_many(tested[other]).argmax(axis=1)]
        first = guesses if first is None else first
        print(
            f"| {one} | {other} | {(guesses == ty).mean():.4f} | {(guesses != first).mean():.4f} |"
        )


if __name__ == "__main__":
    main()
