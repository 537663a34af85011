"""A home of a million learned rows of a thousand classes: what each command costs there.

The home has the feature of every row, 2,000 kept pictures, 20 held-out ones a class and a history
of their scores, written by the store's own doors in large transactions: the same 20,000 features
again and again. `--build` goes on where it was stopped; it needs 5 GB, and as much twice over while
the file is rewritten. A second home, HOME-small, has a row a class and the rest alike. Each command
is a process of its own: wall and processor seconds, and the most memory that it had at once.

Run: python benchmarks/million.py HOME --build, then python benchmarks/million.py HOME [PART ...]
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from edgecl.heads.memory import Whole
from edgecl.home import Home
from edgecl.runtime.grid import quantise
from edgecl.session import open_learner, open_store
from edgecl.store.changes import newest_sample
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.types import ForgetRequest, Frame
from edgecl.unlearning import request as unlearning

D, CLASSES, ROWS, BLOCK = 1752, 1_000, 1_000_000, 20_000
PROBES, SCORES, SOURCES = 20, 1_500, 10
STEPS, WARM, OPEN_LIMIT = 300, 20, 1.5
YEAR_S = 365 * 86_400.0
LINE = [sys.executable, "-c", "from edgecl.cli import main; main()"]
COMMANDS = {
    "status": "status --json",
    "samples list": "samples list --json",
    "samples list, a class": "samples list --class class-7 --json",
    "review list": "review list --json",
    "review mistakes": "review mistakes --json",
    "report": "report --output {out}/report.html",
    "forget --dry-run": "forget class class-8 --dry-run --json",
    "train-stream, 200 pictures": "train-stream {out}/few --json",
    "undo": "undo --yes --json",
    "snapshot": "snapshot --json",
    "snapshots": "snapshots --json",
    "verify": "verify --json",
    "forget": "forget class class-9 --yes --json",
    "forget --verify": "forget class class-10 --yes --verify --json",
}


def run(home: Path, line: str) -> tuple[float, float, float, str]:
    """Run a command; returns wall and processor seconds, peak memory in MB, and its last line."""
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        words = [*LINE, *line.split(), "--home", str(home)]
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = out.read().decode().strip().splitlines() or [""]
    if process.returncode:
        print("\n".join(said[-5:]), file=sys.stderr)
    seconds = time.perf_counter() - begin
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3, said[-1]


# The homes


def build(path: Path, n: int) -> None:
    """Make a home, or go on with one, until so many samples were learned."""
    if not path.exists():
        run(path, f"init --features {D} --image-size 64 --json")
    home = Home(path)
    centres = np.random.default_rng(1).uniform(0, 2, (CLASSES, D)).astype(np.float32)
    with home.lock(), open_store(home) as store:
        if not store.names:
            with store.transaction():
                _write_aside(store, centres)
        base = np.stack(
            [_rows(centres, np.random.default_rng(i)) for i in range(BLOCK // CLASSES)], 1
        )
        whole, of_block = store.whole(), _whole_of(store, base)
        while store.step < n:
            begin = time.perf_counter()
            # Two rows a class with pictures fill what is kept.
            n_rows = BLOCK // CLASSES if store.step else min(2, n // CLASSES)
            with store.transaction():
                _write_block(store, base[:, :n_rows])
                part = (
                    of_block
                    if store.step > n_rows * CLASSES
                    else _whole_of(store, base[:, :n_rows])
                )
                sums = {
                    uid: (m + part.sums[uid][0], total + part.sums[uid][1])
                    for uid, (m, total) in whole.sums.items()
                }
                whole = Whole(whole.moments.plus(part.moments), sums)
                if store.step >= n:
                    store.save_total(whole)
            print(f"{store.step:,} rows, {time.perf_counter() - begin:.1f} s", flush=True)
        open_learner(home, store).settle()  # as a run ends


def _whole_of(store: Store, x: np.ndarray) -> Whole:
    """Return what rows (K, N, D) of all classes add up to."""
    sums = x.astype(np.float64).sum(axis=1)
    by_class = {uid: (x.shape[1], row) for uid, row in zip(store.names, sums, strict=True)}
    return Whole(store.statistic.of(x.reshape(-1, D)), by_class)


def _write_aside(store: Store, centres: np.ndarray) -> None:
    """Write classes, what is held out of each, and scores of them."""
    uids = [store.add_class(f"class-{c}") for c in range(len(centres))]
    rng = np.random.default_rng(2)
    for i in range(PROBES):
        for uid, row in zip(uids, _rows(centres, rng), strict=True):
            store.add_aside(
                Role.HELD_OUT, uid, row, _picture(uid), source="source 0", frame=f"{i}",
                time=time.time() - YEAR_S, score=1.0,
            )  # fmt: skip
    for i in range(1, SCORES + 1):
        at = i * ROWS // SCORES
        store.connection.execute("INSERT INTO evaluations VALUES (?, ?, ?)", (i, at, 1e9 + at))
        right = rng.binomial(PROBES, 0.9, len(uids)).tolist()
        store.connection.executemany(
            "INSERT INTO class_scores VALUES (?, ?, ?, ?)",
            [(i, uid, PROBES, n) for uid, n in zip(uids, right, strict=True)],
        )


def _write_block(store: Store, block: np.ndarray) -> None:
    """Write rows (K, N, D) of all classes: with pictures while there is room for all of them."""
    first, rng = store.step, np.random.default_rng(store.step)
    source, at = f"source {first * SOURCES // ROWS}", time.time() - YEAR_S * (1 - first / ROWS)
    source_uid, newest = store.source_uid(source), newest_sample(store)
    for uid, x in zip(list(store.names), block, strict=True):
        if first:
            store.add_rows(uid, x, source_uid=source_uid, time=at)
            store.step += len(x)
            continue
        for row in x:
            store.add_sample(
                uid, row, lambda: _picture(store.step), source=source, frame="", time=at, rng=rng
            )
    store.connection.execute("UPDATE samples SET frame = 'frame ' || uid WHERE uid > ?", (newest,))


def _rows(centres: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a quantised feature of each class (K, D)."""
    noise = rng.standard_normal((len(centres), D), dtype=np.float32)
    return quantise(np.maximum(centres + noise / 2, 0))


def _picture(seed: int, size: int = 64) -> bytes:
    """Return a small JPEG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((size, size)).save(out, "JPEG")
    return out.getvalue()


# What is measured


def commands(home: Path, only: list[str]) -> None:
    """Print what each command takes."""
    print("| command | wall s | processor s | peak MB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as out:
        for i in range(200):
            folder = Path(out, "few", f"new-{i % 2}")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i}.jpg").write_bytes(_picture(10_000 + i))
        for name, line in COMMANDS.items():
            if not only or name in only:
                wall, processor, peak, said = run(home, line.format(out=out))
                print(f"| {name} | {wall:.1f} | {processor:.1f} | {peak:,.0f} |", flush=True)
                if name.startswith("forget"):
                    print(said[:400], file=sys.stderr)


def opening(homes: list[Path]) -> list[tuple[int, float]]:
    """Print how long homes take until they can learn, the better of two; returns rows, seconds."""
    found = []
    for home in homes:
        taken = []
        for _ in range(2):
            begin = time.process_time()
            with open_store(Home(home)) as store:
                read = time.process_time() - begin
                open_learner(Home(home), store)
                taken.append((time.process_time() - begin, read))
                n = store.step
        print(f"open, {n:,} rows: {min(taken)[0]:.2f} s of processor, store {min(taken)[1]:.2f}")
        found.append((n, min(taken)[0]))
    return found


def steps(homes: list[Path]) -> list[tuple[int, float]]:
    """Print how long a step takes in homes, in turns; returns rows and milliseconds.

    What is learned stays there.
    """
    rng = np.random.default_rng(int(time.time()))
    centres = np.random.default_rng(1).uniform(0, 2, (CLASSES, D)).astype(np.float32)
    found: list[list[tuple[float, float]]] = [[] for _ in homes]
    with ExitStack() as stack:
        stores = [stack.enter_context(open_store(Home(home))) for home in homes]
        sizes = [store.step for store in stores]
        learners = [open_learner(Home(h), s) for h, s in zip(homes, stores, strict=True)]
        for i in range(WARM + STEPS):
            row = _rows(centres[i + 1 : i + 2], rng).astype(np.float32)
            frame = Frame(id=f"step {i}", encoded=_picture(i), label=f"class-{i + 1}", source="s")
            for learner, times in zip(learners, found, strict=True):
                begin, wall = time.process_time(), time.perf_counter()
                learner.learn_many([frame], row)
                times.append((time.process_time() - begin, time.perf_counter() - wall))
        for learner in learners:
            learner.settle()
    taken = np.array(found)[:, WARM:] * 1e3  # (homes, steps, processor and wall)
    medians = np.median(taken, axis=1)
    for n, (cpu, wall), least in zip(
        sizes, medians, medians[:1].repeat(len(homes), 0), strict=True
    ):
        print(
            f"step, {n:,} rows: median {cpu:.2f} ms of processor, {wall:.2f} ms; to the smallest "
            f"{cpu / least[0]:.2f} and {wall / least[1]:.2f}"
        )
    return list(zip(sizes, medians[:, 0].tolist(), strict=True))


def plot(path: Path, homes: list[Path]) -> None:
    """Draw opening and a step over rows, with the aims."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    matplotlib.rcParams["svg.hashsalt"] = "million"
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    opens, of_step = opening(homes), steps(homes)
    left.plot(*zip(*of_step, strict=True), "o-", label=f"a step, {CLASSES:,} classes")
    left.axhline(
        1.2 * of_step[0][1], ls=":", color="C3", label="limit: 1.2 of a step with the fewest rows"
    )
    left.set(ylabel="ms of processor, median")
    right.plot(*zip(*opens, strict=True), "o-", label=f"open, {CLASSES:,} classes")
    right.axhline(OPEN_LIMIT, ls=":", color="C3", label=f"limit: {OPEN_LIMIT:g} s at 1,000,000")
    right.set(ylabel="s of processor")
    for axes in (left, right):
        axes.set(xlabel="learned samples", xscale="log", ylim=0)
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def forgetting(home: Path) -> None:
    """Print the parts of a forget; the rewriting of the file is timed apart."""
    apart, scrub = [], unlearning.scrub

    def timed(store: Store) -> dict[str, object]:
        begin, cpu = time.perf_counter(), time.process_time()
        found = scrub(store)
        apart.append((time.perf_counter() - begin, time.process_time() - cpu))
        return found

    unlearning.scrub = timed
    opened = Home(home)
    with opened.lock(), open_store(opened) as store:
        learner = open_learner(opened, store)
        begin, cpu = time.perf_counter(), time.process_time()
        name = next(iter(store.names.values()))
        done = unlearning.forget(opened, learner, ForgetRequest(name))
        whole, cpu = time.perf_counter() - begin, time.process_time() - cpu
    (rewriting, of_it) = np.sum(apart, axis=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"forget {name}: head {done.head_seconds:.2f} s, whole {whole - rewriting:.2f} s "
        f"({cpu - of_it:.2f} of processor) beside the rewriting of the file, {rewriting:.1f} s "
        f"({of_it:.1f}); at most {peak:,.0f} MB; {json.dumps(done.receipt.body['rows_erased'])}"
    )


def size(home: Path) -> None:
    """Print how large the home is."""
    with open_store(Home(home), read_only=True) as store:
        print(f"{Home(home).database.stat().st_size / 1e9:.2f} GB, {store.step:,} learned")


def main() -> None:
    """Build the homes, or print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("home", type=Path, help="where the home is, or is made")
    parser.add_argument("parts", nargs="*", help="size, open, step, forgetting, or commands")
    parser.add_argument("--build", action="store_true", help="make both homes, or go on with it")
    parser.add_argument("--rows", type=int, default=ROWS + 2 * CLASSES, help="to build")
    parser.add_argument("--plot", type=Path, help="an SVG of opening and a step over rows")
    parser.add_argument(
        "--others", type=Path, nargs="*", default=[], help="homes of sizes between, to be drawn"
    )
    options = parser.parse_args()
    small = options.home.with_name(f"{options.home.name}-small")
    if options.build:
        build(small, CLASSES)
        build(options.home, options.rows)
        return
    if options.plot is not None:
        plot(options.plot, [small, *options.others, options.home])
        return
    parts: dict[str, Callable[[], object]] = {
        "size": lambda: size(options.home),
        "open": lambda: opening([options.home]),
        "step": lambda: steps([small, options.home]),
        "forgetting": lambda: forgetting(options.home),
    }
    for name in options.parts or parts:
        if name in parts:
            parts[name]()
    asked = [name for name in options.parts if name not in parts]
    if asked or not options.parts:
        commands(options.home, [] if asked == ["commands"] else asked)


if __name__ == "__main__":
    main()
