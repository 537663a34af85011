"""Drift: how soon frames that changed half-way are told, and how often unchanged ones are.

Fashion-MNIST's test pictures (the settings were chosen on training pictures) at 112 px through the
default engine: 30 or 80 a class learned, 998 others in 20 random orders, of which the second half
is darker (0.7), blurred (2 px), shifted (6 px) or noisy (+-25). Every frame is asked, as if it came
one a second. Once more, a class alone: the last 499 frames are of one class only, which is no
drift. Unchanged halves are asked once, in the row "none".

Run: python benchmarks/drift.py
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fashion_data
import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter

from edgecl.drift import WINDOW, Drift, open_drift
from edgecl.exporters.setup import Setup, set_up
from edgecl.home import Home
from edgecl.session import Session, open_store
from edgecl.types import Float32, Frame

LEARNED, POOL, HALF, ORDERS, SIDE = (30, 80), 998, 499, 20, 112


def _noisy(picture: Image.Image) -> Image.Image:
    x = np.asarray(picture, np.int16)
    noise = np.random.default_rng(int(x.sum())).integers(-25, 26, x.shape)
    return Image.fromarray(np.clip(x + noise, 0, 255).astype(np.uint8))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "none": lambda picture: picture,
    "darker": lambda picture: ImageEnhance.Brightness(picture).enhance(0.7),
    "blurred": lambda picture: picture.filter(ImageFilter.GaussianBlur(2)),
    "shifted": lambda picture: ImageChops.offset(picture, 6, 6),
    "noisy": _noisy,
}


def main() -> None:
    images, labels = fashion_data.load("t10k")
    own = [np.flatnonzero(labels == c) for c in range(10)]
    most = max(LEARNED)
    learned = np.random.default_rng(0).permutation(np.concatenate([o[:most] for o in own]))
    pool = np.concatenate([o[most : most + POOL // 10 + 1] for o in own])[:POOL]
    large = {int(i): _large(images[i]) for i in [*learned, *pool]}
    with tempfile.TemporaryDirectory() as place:
        home = set_up(Path(place) / "home", Setup(image_size=SIDE))
        with home.lock(), open_store(home) as store:
            run = Session(home, store).engine.run
            x = _features(home, run, [large[int(i)] for i in learned])
            streams = {
                name: _features(home, run, [change(large[int(i)]) for i in pool])
                for name, change in CHANGES.items()
            }
        for per_class in LEARNED:
            few = np.concatenate([o[:per_class] for o in own])
            chosen = np.isin(learned, few)
            frames = [
                Frame(str(i), pixels=np.asarray(large[int(i)]), label=str(labels[i]))
                for i in learned[chosen]
            ]
            home = set_up(Path(place) / f"home-{per_class}", Setup(image_size=SIDE))
            _learned(home, frames, x[chosen], streams, labels[pool])


def _learned(
    home: Home,
    frames: list[Frame],
    x: Float32,
    streams: dict[str, Float32],
    truth: np.ndarray,
) -> None:
    with home.lock(), open_store(home) as store:
        learner = Session(home, store).learner
        learner.learn_many(frames, x)
        learner.settle()
        uids = np.array(learner.head.classes)
        taken = {n: uids[learner.head.predict_many(s).argmax(axis=1)] for n, s in streams.items()}
        begin = time.process_time()
        drift = open_drift(learner, home.manifest.stages)
        assert drift is not None
        opened = time.process_time() - begin
    sums = {uid: (n, n * drift._means[uid]) for uid, n in drift._counts.items()}
    print(f"\n{len(x)} pictures learned; opened in {opened:.2f} s of CPU time")
    print("| second half | told | median delay | peak of the ratio | cause |")
    print("|---" * 5 + "|")
    seconds, asked = 0.0, 0
    for name in (*CHANGES, "one class only"):
        delays, causes, peaks = [], [], []
        for number in range(ORDERS):
            order = np.random.default_rng(number).permutation(len(truth))
            if name == "one class only":
                alone = order[truth[order] == number % 10]
                rest = order[truth[order] != number % 10]
                order = np.concatenate([rest[:HALF], np.resize(alone, HALF)])
            kind = name if name in streams else "none"
            # The window is full of unchanged frames when the second half begins.
            own = sums, drift._spread, drift.thresholds, home.manifest.stages, drift._widths
            fresh = Drift(*own)
            begin = time.process_time()
            found = []
            for n in range(0 if name == "none" else HALF - WINDOW, len(order)):
                source = kind if n >= HALF else "none"
                i = order[n]
                moved = fresh.add(streams[source][i], int(taken[source][i]))
                asked += 1
                if moved is not None and (n >= HALF or name == "none"):
                    found.append(moved)
                    if moved.ratio > 1 and name in streams:
                        break
            seconds += time.process_time() - begin
            peaks.append(max(m.ratio for m in found))
            told_at = next((k for k, m in enumerate(found) if m.ratio > 1), None)
            if told_at is not None:
                delays.append(told_at + 1)
                causes.append(found[told_at].cause)
        middle = f"{np.median(delays):.0f}" if delays else "-"
        cause = max(set(causes), key=causes.count) if causes else "-"
        print(f"| {name} | {len(delays)} of {ORDERS} | {middle} | {max(peaks):.2f} | {cause} |")
    print(f"{1e6 * seconds / asked:.0f} us of CPU time a frame", flush=True)


def _large(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _features(
    home: Home, run: Callable[[Float32], Float32], pictures: list[Image.Image]
) -> Float32:
    tensor = home.manifest.preprocessing.tensor
    parts = [
        run(np.stack([tensor(p) for p in pictures[k : k + 32]]))
        for k in range(0, len(pictures), 32)
    ]
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
