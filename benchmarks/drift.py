"""Drift: how soon frames that changed half-way are told, and how often unchanged ones are.

Fashion-MNIST at 112 px through the default engine: 80 pictures a class learned, 998 others in 20
random orders, of which the second half is darker (0.7), blurred (2 px), shifted (6 px) or noisy
(+-25). Every frame is asked, as if it came one a second. Once more, a class alone: the last 499
frames are of one class only, which is no drift.

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

from edgecl.drift import Drift, open_drift
from edgecl.exporters.setup import Setup, set_up
from edgecl.home import Home
from edgecl.session import Session, open_store
from edgecl.types import Float32, Frame

LEARNED, POOL, HALF, ORDERS, SIDE = 80, 998, 499, 20, 112


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
    images, labels = fashion_data.load("train")
    own = [np.flatnonzero(labels == c) for c in range(10)]
    learned = np.random.default_rng(0).permutation(np.concatenate([o[:LEARNED] for o in own]))
    pool = np.concatenate([o[LEARNED : LEARNED + POOL // 10 + 1] for o in own])[:POOL]
    large = {int(i): _large(images[i]) for i in [*learned, *pool]}
    with tempfile.TemporaryDirectory() as place:
        home = set_up(Path(place) / "home", Setup(image_size=SIDE))
        with home.lock(), open_store(home) as store:
            session = Session(home, store)
            engine = session.engine
            x = _features(home, engine.run, [large[int(i)] for i in learned])
            frames = [
                Frame(str(i), pixels=np.asarray(large[int(i)]), label=str(labels[i]))
                for i in learned
            ]
            session.learner.learn_many(frames, x)
            session.learner.settle()
            scorer = session.exact_scorer()
            streams = {
                name: _features(home, engine.run, [change(large[int(i)]) for i in pool])
                for name, change in CHANGES.items()
            }
            begin = time.perf_counter()
            first = open_drift(session.learner, home.manifest.stages)
            assert first is not None
            opened = time.perf_counter() - begin
            uids = {name: uid for uid, name in store.names.items()}
            columns = np.array([uids[label] for label in scorer.labels])
            taken = {n: columns[scorer.scores(s).argmax(axis=1)] for n, s in streams.items()}

            def fresh() -> Drift:
                found = open_drift(session.learner, home.manifest.stages)
                assert found is not None
                return found

            _report(fresh, streams, taken, labels[pool], opened)


def _report(
    fresh: Callable[[], Drift],
    streams: dict[str, Float32],
    taken: dict[str, np.ndarray],
    truth: np.ndarray,
    opened: float,
) -> None:
    print(f"opened in {opened:.2f} s, threshold {fresh().threshold:.2f}")
    print("| second half | false alarms before | median delay | missed | cause |")
    print("|---" * 5 + "|")
    base, seconds, asked = fresh(), 0.0, 0
    for name in (*CHANGES, "one class only"):
        changed = streams.get(name, streams["none"])
        guesses = taken.get(name, taken["none"])
        delays, false, causes = [], 0, []
        for number in range(ORDERS):
            order = np.random.default_rng(number).permutation(len(truth))
            if name == "one class only":
                alone = order[truth[order] == number % 10]
                rest = order[truth[order] != number % 10]
                order = np.concatenate([rest[:HALF], np.resize(alone, HALF)])
            drift = Drift(base._means, base._spread, base.threshold, np.diff(base._edges))
            delay = None
            begin = time.perf_counter()
            for n, i in enumerate(order):
                is_late = n >= HALF
                x = changed[i] if is_late else streams["none"][i]
                moved = drift.add(x, int((guesses if is_late else taken["none"])[i]))
                if moved is not None and moved.ratio > 1:
                    if is_late:
                        delay = n - HALF + 1
                        causes.append(moved.cause)
                        break
                    false += 1
                asked += 1
            seconds += time.perf_counter() - begin
            delays.append(delay)
        known = [d for d in delays if d is not None]
        middle = f"{np.median(known):.0f}" if known else "never"
        cause = max(set(causes), key=causes.count) if causes else "-"
        missed = ORDERS - len(known)
        print(f"| {name} | {false} of {ORDERS} x {HALF} | {middle} | {missed} | {cause} |")
    print(f"{1e6 * seconds / asked:.0f} us a frame")


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
