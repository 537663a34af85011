"""What merging devices costs, and that nothing is lost by it: real features, simulated homes.

Each device is a home of its own with some rows of every class (features of Fashion-MNIST, drawn
with repetition); one more home has all rows of all of them. Commands run as users run them.

Run: python benchmarks/fleet.py [--devices 3 10 100] [--rows 50] [--pictures 120]
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import resource
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from fashion_data import class_by_class, frames, load

from edgecl.backbones import DEFAULT_BACKBONE
from edgecl.config import Config, HeadConfig
from edgecl.exporters.onnx import init_home
from edgecl.exporters.shipped import shipped
from edgecl.fleet.collect import collect, export
from edgecl.fleet.contribution import read
from edgecl.fleet.take import take
from edgecl.home import Home
from edgecl.runtime.grid import quantise
from edgecl.runtime.pipeline import Embedded, embed
from edgecl.session import Session, reading
from edgecl.types import Float16
from edgecl.unlearning.request import writing

CLASSES = 10
PICTURES = 120


def features(home: Home, n: int) -> Float16:
    """Return quantised features (CLASSES, n, D) of real pictures."""
    pictures, labels = load("train")
    chosen = class_by_class(labels, n, np.arange(CLASSES))
    found = embed(
        iter(frames(pictures, labels, chosen)), home.manifest.preprocessing, home.engine()
    )
    rows = [item.feature for group in found for item in group if isinstance(item, Embedded)]
    return quantise(np.array(rows)).reshape(CLASSES, n, -1)


def copy_of(home: Home, path: Path) -> Home:
    """Return a device with a key of its own; it shares the engine's bytes with the first."""
    shutil.copytree(home.path, path, copy_function=os.link)
    for name in ("device.key", "device.db", "edgecl.toml"):
        (path / name).unlink()
        shutil.copy(home.path / name, path / name)
    (path / "device.key").write_bytes(secrets.token_bytes(32))
    return Home(path)


def teach(home: Home, rows: Float16, names: list[str], source: str = "camera") -> None:
    """Have a home know rows (K, N, D), as after it learned them and evicted the pictures."""
    with writing(home) as session:
        put(session, rows, names, source)


def put(session: Session, rows: Float16, names: list[str], source: str) -> None:
    """Do what `teach` does."""
    store, learner = session.store, session.learner
    with store.transaction():
        source_uid = store.source_uid(source)
        for name, x in zip(names, rows, strict=True):
            store.add_rows(store.add_class(name), x, source_uid=source_uid, time=time.time())
        learner.head.rebuild(store)
        learner.save_state()
    learner.settle()


def contribute(home: Home, path: Path, since: Path | None = None) -> Path:
    """Write the contribution of a home; returns the file."""
    with writing(home) as session:
        found, bodies = collect(session)
        export(session, path, found, bodies, since=None if since is None else read(since))
    return path


def run(*arguments: object) -> tuple[float, float, float]:
    """Run a command; returns its seconds, those of the CPU, and the most memory so far, MB."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    line = [sys.executable, "-c", "from edgecl.cli import main; main()", *map(str, arguments)]
    subprocess.run(line, check=True, capture_output=True)
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, busy, after.ru_maxrss / 1024


def apart(a: Home, b: Home) -> float:
    """Return the largest difference of weights and bias."""
    found = []
    for home in (a, b):
        with reading(home) as session:
            scorer = session.exact_scorer()
            order = np.argsort(scorer.labels)
            arrays = scorer.arrays()
            found.append((arrays["weights"][:, order], arrays["bias"][order]))
    (w, bias), (v, other) = found
    return max(float(np.abs(w - v).max()), float(np.abs(bias - other).max()))


def merged(place: Path, first: Home, x: Float16, n: int, n_rows: int) -> None:
    """Print what merging n devices costs, and how far it is from one place."""
    rng, names = np.random.default_rng(n), [f"class-{c}" for c in range(CLASSES)]
    files, drawn = [], []
    for i in range(n):
        rows = x[np.arange(CLASSES)[:, None], rng.integers(0, x.shape[1], (CLASSES, n_rows))]
        home = copy_of(first, place / f"{n}-device-{i}")
        with writing(home) as session:
            store = session.store  # no head is needed to write what was learned
            with store.transaction():
                uid = store.source_uid("camera")
                for name, part in zip(names, rows, strict=True):
                    store.add_rows(store.add_class(name), part, source_uid=uid, time=0.0)
        files.append(contribute(home, place / f"{n}-{i}.efc"))
        drawn.append(rows)
        shutil.rmtree(home.path)
    one, all_of = copy_of(first, place / f"{n}-one"), copy_of(first, place / f"{n}-merged")
    teach(one, np.concatenate(drawn, axis=1), names)
    seconds, busy, memory = run("merge", *rng.permutation(files), "--home", all_of.path)
    size = sum(path.stat().st_size for path in files) / n
    print(
        f"| {n} | {n * CLASSES * n_rows:,} | {size / 1e6:.2f} | {seconds:.1f} ({busy:.1f}) | "
        f"{memory:,.0f} | "
        f"{apart(one, all_of):g} |",
        flush=True,
    )
    for home in (one, all_of):
        shutil.rmtree(home.path)


def second(place: Path, first: Home, x: Float16, n_rows: int) -> Path:
    """Print the bytes of an exchange and of the next one; returns the first file."""
    home = copy_of(first, place / "second")
    teach(home, x[: CLASSES - 1, :n_rows], [f"class-{c}" for c in range(CLASSES - 1)])
    old = contribute(home, place / "second-old.efc")
    teach(home, x[CLASSES - 1 :, :n_rows], ["new"])
    new = contribute(home, place / "second-new.efc", old)
    print(f"exchange of {CLASSES - 1} classes of {n_rows} rows: {old.stat().st_size / 1e3:,.0f} kB")
    print(f"the next one, with one new class: {new.stat().st_size / 1e3:,.0f} kB")
    return old


def late(place: Path, first: Home, x: Float16, file: Path) -> None:
    """Print how long a new home takes from a file to its first answer."""
    home = copy_of(first, place / "late")
    begin, busy = time.perf_counter(), time.process_time()
    with writing(home) as session:
        take(session, [read(file)])
        scorer, _ = session.served()
        scorer.scores(x[0, :1].astype(np.float32))
    seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    print(f"from a file to an answer in a new home: {seconds:.2f} s ({busy:.2f} of the CPU)")
    home = copy_of(first, place / "late-command")
    seconds, busy, _ = run("merge", file, "--home", home.path)
    print(f"as a command, its start included: {seconds:.2f} s ({busy:.2f} of the CPU)")


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, nargs="*", default=[3, 10, 100], help="How many.")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="Of a class, embedded.")
    parser.add_argument("--rows", type=int, default=50, help="Rows of a class on a device.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        engine = shipped(DEFAULT_BACKBONE, image_size=64)
        assert engine is not None
        first = init_home(place / "first", engine, Config(head=HeadConfig("ridge")))
        x = features(first, asked.pictures)
        print(f"{x.shape[2]} features; {CLASSES} classes of {asked.rows} rows a device\n")
        file = second(place, first, x, asked.rows)
        late(place, first, x, file)
        print("\n| devices | rows | MB a file | merge s (of the CPU) | MB memory | difference |")
        print("|---|---|---|---|---|---|")
        for n in asked.devices:
            merged(place, first, x, n, asked.rows)


if __name__ == "__main__":
    main()
