"""What a sealed store costs: the learn step, the start, and the statistics of a large class.

Generated features of the default width, small PNG pictures, the ridge head, 20 samples a commit.
Two stores learn the same, a commit of one after a commit of the other.

Run: python benchmarks/sealed.py
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import io
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from edgecl.heads import make_head
from edgecl.heads.statistics import Gram
from edgecl.learner import Learner
from edgecl.store.store import Store, create_store
from edgecl.store.vault import Vault
from edgecl.types import Frame

D, N_CLASSES, N_COMMITS, PER_COMMIT = 2224, 10, 100, 20


def main() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(N_COMMITS * PER_COMMIT) % N_CLASSES
    x = rng.uniform(0, 2, (N_CLASSES, D))[y] + rng.normal(0, 0.5, (len(y), D))
    x = np.maximum(x, 0).astype(np.float32)
    frames = []
    for i, c in enumerate(y.tolist()):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (28, 28, 3), np.uint8)).save(out, "PNG")
        frames.append(Frame(id=str(i), encoded=out.getvalue(), label=f"part {c}"))
    with tempfile.TemporaryDirectory() as place:
        _learn(Path(place), frames, x)
        _statistics(Path(place))


def _learn(place: Path, frames: list[Frame], x: np.ndarray) -> None:
    learners = [Learner(_store(place, sealed), make_head("ridge", D)) for sealed in (False, True)]
    cpu, wall = np.zeros((2, N_COMMITS)), np.zeros((2, N_COMMITS))
    for k in range(N_COMMITS):
        part = slice(k * PER_COMMIT, (k + 1) * PER_COMMIT)
        for i in (0, 1) if k % 2 else (1, 0):
            begin = time.process_time(), time.perf_counter()
            learners[i].learn_many(frames[part], x[part])
            cpu[i, k] = time.process_time() - begin[0]
            wall[i, k] = time.perf_counter() - begin[1]
    print("| a learned sample | plain, us | sealed, us | more, us | more, % |")
    print("|---|---|---|---|---|")
    _row("processor", cpu / PER_COMMIT)
    _row("wall", wall / PER_COMMIT)
    loads = np.zeros((2, 9))
    for k in range(loads.shape[1]):
        for i, learner in enumerate(learners):
            begin = time.process_time()
            for uid in learner.store.names:
                learner.store.moments(uid)
            loads[i, k] = time.process_time() - begin
    _row("read at the start, processor", loads / len(x))
    sizes = [learner.store.path.stat().st_size for learner in learners]
    for learner in learners:
        learner.store.close()
    print(f"\nfile: {sizes[0] / 1e6:.1f} MB plain, {sizes[1] / 1e6:.1f} MB sealed")


def _row(what: str, times: np.ndarray) -> None:
    """Print medians; what is more, of the differences in pairs, which drift together."""
    plain, sealed = np.median(times, axis=1)
    more = np.median(times[1] - times[0])
    print(f"| {what} | {plain * 1e6:.0f} | {sealed * 1e6:.0f} | {more * 1e6:.0f} |", end="")
    print(f" {more / plain:.1%} |")


def _statistics(place: Path) -> None:
    """Time of sealing the Gram matrix that stands for more than 3,500 samples of a class."""
    vault = Vault(place / "True.keys", bytes(32))
    _, second = Gram(D).pack(Gram(D).empty())
    times = []
    for _ in range(9):
        begin = time.process_time()
        sealed = vault.seal(1, b"benchmark", second)
        middle = time.process_time()
        vault.open(1, b"benchmark", sealed)
        times.append((middle - begin, time.process_time() - middle))
    ms = np.median(times, axis=0) * 1e3
    print(f"Gram matrix of a class, {len(second) / 1e6:.1f} MB: seal {ms[0]:.1f} ms, "
          f"open {ms[1]:.1f} ms")  # fmt: skip


def _store(place: Path, sealed: bool) -> Store:
    path = place / f"{sealed}.db"
    create_store(path, feature_map="f" * 64, num_features=D, second_moment=Gram.name, sealed=sealed)
    vault = None
    if sealed:
        keys = path.with_suffix(".keys")
        keys.touch()
        vault = Vault(keys, bytes(32))
    return Store(path, capacity_samples=2000, vault=vault)


if __name__ == "__main__":
    main()
