"""What a thousand classes and a million rows cost, as ratios to what the machine must read.

Head: predict a sample, then learn it, beside a bare numpy product that reads R (D, D) and W (K, D)
in float32 once. The times of both alternate in one run. All is processor time of one thread, since
minutes of a busy machine say nothing.

Run: python benchmarks/scale.py [head] [open] [--plot FILE.svg]
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgecl.heads import make_head
from edgecl.learner import Learner
from edgecl.runtime.grid import quantise
from edgecl.store.store import Store, create_store

D = 1752
CLASSES = (10, 100, 1_000, 3_000, 10_000)
N_STEPS = 400
ROWS = (3_000, 10_000, 30_000, 100_000)
OPENED = (*((n, 100) for n in ROWS), (100_000, 1_000))
# Aims: a step in reads of R and W, seconds of opening.
STEP_LIMIT, OPEN_LIMIT = 1.5, 1.5
# As many as can be missing in the kept total after a run that was killed.
MOST_SINCE = 2_047


def rows_of(n: int, n_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return quantised features (N, D) in clusters, float16, and classes in turn."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 2, (n_classes, D)).astype(np.float32)
    y = np.arange(n) % n_classes
    x = centres[y] + rng.normal(0, 0.5, (n, D)).astype(np.float32)
    return quantise(np.maximum(x, 0)), y


def head() -> list[tuple[float, ...]]:
    """Print how long a step and the first samples of classes take.

    Returns:
        Classes, and milliseconds of a step and of a read of R and W, medians.
    """
    found: list[tuple[float, ...]] = []
    print(
        "| K | predict + learn, median (mean) ms | a read of R and W, ms | ratio (of means) ",
        end="",
    )
    print("| first samples, learned s | predicted and learned s | its reads alone s |")
    print("|---|---|---|---|---|---|---|")
    for k in CLASSES:
        x, y = rows_of(max(2 * k, 2_200) + N_STEPS, k)
        steps, reads = _steps(x, y, k)
        ratios = np.median(steps) / np.median(reads), steps.mean() / reads.mean()
        first = [_first(x[:k], y[:k], is_asked=is_asked) for is_asked in (False, True)]
        print(
            f"| {k:,} | {np.median(steps):.2f} ({steps.mean():.2f}) | "
            f"{np.median(reads):.2f} ({reads.mean():.2f}) | "
            f"{ratios[0]:.2f} ({ratios[1]:.2f}) | {first[0]:.2f} | {first[1]:.2f} | "
            f"{_reads(x[:k]):.2f} |",
            flush=True,
        )
        found.append((k, float(np.median(steps)), float(np.median(reads))))
    return found


def _steps(x: np.ndarray, y: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return milliseconds of each of the last steps, and of as many reads of R and W."""
    learner = make_head("ridge", D)
    n_warm = len(x) - N_STEPS
    learner.learn_many(x[:n_warm], y[:n_warm])
    learner.predict_many(x[:1].astype(np.float32))
    learner.learn_many(x[:1], y[:1])
    rng = np.random.default_rng(0)
    r, w = (rng.normal(size=(n, D)).astype(np.float32) for n in (D, k))
    steps, reads = [], []
    for i in range(n_warm, len(x)):
        row = x[i : i + 1].astype(np.float32)
        begin = time.process_time()
        learner.predict_many(row)
        learner.learn_many(x[i : i + 1], y[i : i + 1])  # quantised, as the learner gives it
        steps.append((time.process_time() - begin) * 1e3)
        begin = time.process_time()
        r @ row[0]
        w @ row[0]
        reads.append((time.process_time() - begin) * 1e3)
    return np.array(steps), np.array(reads)


def _first(x: np.ndarray, y: np.ndarray, *, is_asked: bool) -> float:
    """Return seconds of the first sample of every class, one a step, until the head can answer."""
    learner = make_head("ridge", D)
    begin = time.process_time()
    for i in range(len(x)):
        row = x[i : i + 1].astype(np.float32)
        if is_asked and i:
            learner.predict_many(row)
        learner.learn_many(x[i : i + 1], y[i : i + 1])
    learner.predict_many(x[:1].astype(np.float32))
    return time.process_time() - begin


def _reads(x: np.ndarray) -> float:
    """Return seconds of a bare product with R and the W of the classes so far, for every row."""
    rows, rng = x.astype(np.float32), np.random.default_rng(0)
    r, w = (rng.normal(size=(n, D)).astype(np.float32) for n in (D, len(x)))
    begin = time.process_time()
    for i, row in enumerate(rows):
        r @ row
        w[:i] @ row
    return time.process_time() - begin


def opened() -> list[tuple[float, ...]]:
    """Print how long a store takes from its file to a head that can learn.

    Returns:
        Rows, classes, rows that are not in the kept total, and seconds.
    """
    found: list[tuple[float, ...]] = []
    print(
        "\n| learned samples | classes | not in the kept total | open, s | without the total, s |"
    )
    print("|---|---|---|---|---|")
    for n, k in OPENED:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "s.db"
            for n_since in (0, MOST_SINCE):
                _fill(path, n - MOST_SINCE if not n_since else MOST_SINCE, k)
                seconds = _open(path)
                line = f"| {n - MOST_SINCE + n_since:,} | {k:,} | {n_since:,} | {seconds:.2f} |"
                print(line, "" if not n_since else f"{_open(path, anew=True):.2f} |", flush=True)
                found.append((n - MOST_SINCE + n_since, k, n_since, seconds))
    return found


def _fill(path: Path, n: int, k: int) -> None:
    """Add samples of classes in turn with small pictures; the first call keeps a total."""
    is_new = not path.exists()
    if is_new:
        create_store(path, feature_map="f" * 64, num_features=D, second_moment="full")
    rng = np.random.default_rng(int(is_new))
    with Store(path) as store:
        for first in range(0, n, 5_000):
            x, _ = rows_of(min(5_000, n - first), k, seed=first)
            with store.transaction():
                uids = [store.add_class(f"class-{c}") for c in range(k)]
                for i, row in enumerate(x):
                    store.add_sample(
                        uids[(first + i) % k], row, lambda: b"picture", source="s", frame=str(i),
                        time=1e9, rng=rng,
                    )  # fmt: skip
        if is_new:
            with store.transaction():
                store.save_total(store.whole())


def _open(path: Path, *, anew: bool = False) -> float:
    """Return seconds until a head is ready; `anew` without the kept total."""
    begin = time.process_time()
    with Store(path) as store:
        if anew:
            with store.transaction():
                store.drop_total()
        Learner(store, make_head("ridge", D))
        return time.process_time() - begin


def main() -> None:
    """Print what was asked for."""
    parts: dict[str, Callable[[], list[tuple[float, ...]]]] = {"head": head, "open": opened}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[[], *parts], default=[])
    parser.add_argument("--plot", type=Path, help="an SVG with the growth of what is measured")
    options = parser.parse_args()
    if options.plot is not None and options.parts:
        parser.error("--plot draws all parts; name none of them")
    found = {name: parts[name]() for name in options.parts or parts}
    if options.plot is not None:
        plot(options.plot, found["head"], found["open"])


def plot(
    path: Path, steps: Sequence[tuple[float, ...]], opens: Sequence[tuple[float, ...]]
) -> None:
    """Draw a step over classes, and opening over rows, with the aims."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    matplotlib.rcParams["svg.hashsalt"] = "scale"
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    k = [row[0] for row in steps]
    left.plot(k, [row[1] for row in steps], "o-", label="predict and learn")
    left.plot(k, [row[2] for row in steps], "s--", color="grey", label="a read of R and W")
    limits = [STEP_LIMIT * row[2] for row in steps]
    left.plot(k, limits, ":", color="C3", label=f"limit: {STEP_LIMIT:g} reads")
    left.set(xlabel="classes", ylabel="ms, median", xscale="log", yscale="log")
    for is_since, name in ((True, "a run was killed"), (False, "a run ended")):
        rows = [row for row in opens if bool(row[2]) == is_since and row[1] == OPENED[0][1]]
        right.plot([r[0] for r in rows], [r[3] for r in rows], "o-", label=f"open, after {name}")
    right.axhline(OPEN_LIMIT, ls=":", color="C3", label=f"limit: {OPEN_LIMIT:g} s at 1,000,000")
    right.set(xlabel=f"learned samples of {OPENED[0][1]} classes", ylabel="s", xscale="log", ylim=0)
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
