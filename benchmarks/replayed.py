"""How many rows the head `uer` replays with a profile, and what that costs in accuracy.

Two streams, class by class and Si-Blurry with five tasks, of the pictures of `methods.py`; every
order is learned with `balanced` and with the profile, from the same store. Differences are paired
by order: points of accuracy at the end and of the worst case (WC-ACC over the ends of the tasks),
with their standard error; and the share of `balanced`'s rows that were not replayed. Settings were
chosen on the digits.

`k-fpf` is no profile: it replays nothing beside a step, and every 200 samples the whole head is
settled on what is stored and goes on from there (Zhao et al. 2023, arXiv:2304.04158, of whose
tensors only the head's are there).

Run: python benchmarks/replayed.py --cache FOLDER [--data digits] [--profiles measured,light]
    python benchmarks/replayed.py --cache FOLDER --data digits --thresholds 0.05,0.1,0.2
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import methods
import numpy as np

from edgecl.heads import controllers
from edgecl.heads.profile import profile_of
from edgecl.heads.stability import SETTLE_BATCH

BALANCED, K_FPF = "balanced", "k-fpf"
# Updates of ten samples between two settlings.
EVERY = 20


@dataclass(frozen=True)
class Learned:
    """One order of a stream: accuracy at the end, worst case, and rows replayed a sample."""

    last: float
    worst: float
    rows: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="folder in which features are kept")
    parser.add_argument("--data", default="fashion", help="fashion or digits")
    parser.add_argument("--profiles", default="measured", help="with commas")
    parser.add_argument("--orders", type=int, default=8, help="orders of the classes")
    parser.add_argument("--every", type=int, default=1, help="take every so many-th picture")
    parser.add_argument("--thresholds", help="of `measured`, with commas, instead of its own")
    options = parser.parse_args()
    tried = [(profile, controllers.THRESHOLD) for profile in options.profiles.split(",")]
    if options.thresholds:
        tried = [("measured", float(part)) for part in options.thresholds.split(",")]
    with tempfile.TemporaryDirectory() as place:
        make = {"fashion": methods.fashion, "digits": methods.digits}[options.data]
        data = make(options.cache or Path(place))
    step = slice(None, None, options.every)
    data = methods.Data(
        data.name, data.x[step], data.y[step], data.test_x[step], data.test_y[step],
        every=10**9, n_fixed=min(1000, len(data.test_x)),
    )  # fmt: skip
    print("| stream | profile | last | worst case | rows a sample | saved |\n" + "|---" * 6 + "|")
    for stream in methods.STREAMS:
        usual = [learned(data, stream, BALANCED, seed) for seed in range(options.orders)]
        print(line(stream, BALANCED, usual, usual), flush=True)
        for profile, threshold in tried:
            controllers.THRESHOLD = threshold
            found = [learned(data, stream, profile, seed) for seed in range(options.orders)]
            name = f"{profile}, {threshold:g}" if options.thresholds else profile
            print(line(stream, name, found, usual), flush=True)


def learned(data: Any, stream_name: str, profile: str, seed: int) -> Learned:
    """Learn one order of a stream with a profile."""
    stream = methods.STREAMS[stream_name](data.y, seed)
    of = replace(profile_of(BALANCED), n_replay=0) if profile == K_FPF else profile
    methods.VARIANTS[profile] = ("uer", {"profile": of})
    with tempfile.TemporaryDirectory() as place:
        method = methods.make(profile, data.x.shape[1], 0, seed, Path(place))
        head, rows = method.learner.head, [0]
        learn = head.learn_many

        def counted(x: Any, y: Any, replay: Any) -> None:
            rows[0] += 0 if replay is None else len(replay[1])
            learn(x, y, replay)
            if profile == K_FPF and head._n_updates % EVERY == 0:
                head.settle(method.store)
                rows[0] += of.n_settle_steps * SETTLE_BATCH
                head._rows = head._slow = head._served()

        head.learn_many = counted
        result = methods.measure(method, stream, data)
    return Learned(result.last, result.worst, rows[0] / len(data.x))


def line(stream: str, profile: str, found: Sequence[Learned], usual: Sequence[Learned]) -> str:
    """Return a line of the table; of `balanced` itself the figures, of others the differences."""
    rows, most = (np.mean([run.rows for run in runs]) for runs in (found, usual))
    cells = [f"{100 * np.mean([getattr(run, key) for run in found]):.2f}" for key in KEYS]
    if profile != BALANCED:
        cells = [gap([getattr(run, key) for run in found], [getattr(run, key) for run in usual])
                 for key in KEYS]  # fmt: skip
    return f"| {stream} | {profile} | {' | '.join(cells)} | {rows:.2f} | {1 - rows / most:.1%} |"


def gap(found: Sequence[float], usual: Sequence[float]) -> str:
    """Return the mean difference in points, paired, and its standard error."""
    points = 100 * (np.array(found) - np.array(usual))
    error = points.std(ddof=1) / len(points) ** 0.5 if len(points) > 1 else float("nan")
    return f"{points.mean():+.2f} +- {error:.2f}"


KEYS = ("last", "worst")

if __name__ == "__main__":
    main()
