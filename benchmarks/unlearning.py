"""What is left of classes after they were unlearned, and what the unlearning costs.

Every head learns Fashion-MNIST class by class (the first 1,200 pictures of each class, lite0 at 112
px, the selections of benchmarks/methods.py) through a store of 2,000 samples. Then classes are
unlearned one after the other, down to the last; after the first, second, fifth and last one the
audit of `edgecl forget --verify` is run. A head that learned the stream without these classes
("never") gives the accuracies to compare with. Beside the first unlearning stands what many do:
dropping the class's row, the column of the scores, and nothing else.

- test: accuracy on the test pictures of the kept classes, and that of "never".
- agree: share of the forgotten pictures that go where a head built from what remains sends them.
- ToW: tug of war over stored rows of the forgotten and of the kept classes and test pictures.
- H: harmonic mean of the class's lost test accuracy and the kept test accuracy, percent.
- AD: activation distance on forgotten pictures / that of a second seed.
- AUC, TPR: membership attack on shadow heads, and its TPR at 1 % FPR. For the dropped row the
  attack on exactly that, which shows what the attack can do.
- probe: gain over a retrained model. relearn: steps from 4 and 16 pictures / those of a retrained
  model, which are 400 when it does not get there; `-` when neither does.
- old row: share of the class's pictures that come back with the row of an old export / retrained.
- head s: the head's part of the unlearning; forget s: with the store's, without the file's rewrite;
  rebuild s: the head from the store's statistics and rows; stream s: learning the kept classes from
  features. MB: what the unlearning needs beyond what the process held.

Run: python benchmarks/unlearning.py --cache FOLDER
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
import io
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import methods
import numpy as np
from peak import peak_mb, reset_peak
from PIL import Image

from edgecl.config import HeadConfig
from edgecl.heads import HEADS, make_head_of
from edgecl.heads.codebook import default_codebook
from edgecl.learner import Learner
from edgecl.runtime.scoring import Scorer
from edgecl.store.erasure import erase
from edgecl.store.store import Store, create_store
from edgecl.types import Frame, Kind
from edgecl.unlearning.audit.attack import ShadowSettings
from edgecl.unlearning.audit.measures import h_mean, tug_of_war
from edgecl.unlearning.audit.verify import Audit, audit

N_STORED, COMMIT = 2000, 20
REPORTED = (1, 2, 5)
HEADER = (
    "| head | way | classes | test (never) | agree | ToW | H | AD / noise | AUC | TPR | probe "
    "| relearn | old row / retrained | gates missed | head s | forget s | rebuild s | stream s "
    "| MB | audit s |"
)


@dataclass
class Run:
    """A head in its store, and how well it does."""

    config: HeadConfig
    store: Store
    learner: Learner
    data: methods.Data

    @property
    def scorer(self) -> Scorer:
        """What predicts now."""
        return self.learner.head.scorer(self.store.names)

    def test_accuracy(self, classes: list[int]) -> float:
        """Accuracy on the test pictures of these classes; 0 when there is none."""
        chosen = np.isin(self.data.test_y, classes)
        if not classes or not self.store.names:
            return 0.0
        numbers = np.array([number_of(label) for label in self.learner.labels])
        guess = self.learner.predict_many(self.data.test_x[chosen]).argmax(axis=1)
        return float((numbers[guess] == self.data.test_y[chosen]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="folder in which features are kept")
    parser.add_argument("--quick", action="store_true", help="a small run: a quarter of the digits")
    parser.add_argument("--heads", default=",".join(HEADS), help="with commas")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        cache = options.cache or Path(place)
        data = methods.small(methods.digits(cache)) if options.quick else methods.fashion(cache)
        print(
            f"{data.name}: {len(data.x)} learned, {len(data.test_x)} tested, {data.x.shape[1]} "
            f"features, {N_STORED} stored\n\n{HEADER}\n{'|---' * HEADER.count(' | ')}|---|",
            flush=True,
        )
        for name in options.heads.split(","):
            measure(HeadConfig(name), data, Path(place))


def number_of(label: str) -> int:
    return int(label.removeprefix("class-"))


def learned(config: HeadConfig, data: methods.Data, classes: list[int], path: Path) -> Run:
    """Learn the pictures of some classes, class by class."""
    d = data.x.shape[1]
    kind = HEADS[config.name].statistic.name
    create_store(
        path,
        feature_map=methods.FEATURE_MAP,
        num_features=d,
        second_moment=kind,
        codebook=default_codebook(d) if kind == "counts" else None,
    )
    store = Store(path, capacity_samples=N_STORED)
    head = make_head_of(config, d, codebook=store.codebook)
    learner = Learner(store, head, seed=config.seed)
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    for c in classes:
        places = np.flatnonzero(data.y == c)
        for start in range(0, len(places), COMMIT):
            part = places[start : start + COMMIT]
            frames = [
                Frame(id=str(i), encoded=picture.getvalue(), label=f"class-{c}")
                for i in part.tolist()
            ]
            learner.learn_many(frames, data.x[part])
    learner.settle()
    return Run(config, store, learner, data)


def measure(config: HeadConfig, data: methods.Data, place: Path) -> None:
    """Learn all classes, unlearn them in turn, print a line where one is wanted."""
    classes = np.unique(data.y).tolist()
    run = learned(config, data, classes, place / f"{config.name}.db")
    last = len(classes)
    for n, c in enumerate(classes, start=1):
        before, accuracy = run.scorer, run.test_accuracy([c])
        head_s, seconds, mb, rows = unlearn(run, f"class-{c}")
        if n not in (*REPORTED, last):
            continue
        kept = classes[n:]
        begin = time.perf_counter()
        never = learned(config, data, kept, place / f"{config.name}-{n}.db")
        stream_s = time.perf_counter() - begin
        never_test = never.test_accuracy(kept)
        never.store.close()
        begin = time.perf_counter()
        fresh = make_head_of(config, data.x.shape[1], codebook=run.store.codebook)
        fresh.rebuild(run.store)
        fresh.settle(run.store)
        rebuild_s = time.perf_counter() - begin
        cost = f"{head_s:.3f} | {seconds:.3f} | {rebuild_s:.3f} | {stream_s:.1f} | {mb:.0f}"
        found = audited(run, run.scorer, before, rows)
        test = run.test_accuracy(kept)
        print(line(config.name, "forget", n, test, never_test, accuracy, found, cost), flush=True)
        if n == 1:
            dropped = _WithoutRow(before, f"class-{c}")
            columns = np.array([number_of(label) for label in dropped.labels])
            chosen = np.isin(data.test_y, kept)
            guess = columns[dropped.scores(data.test_x[chosen]).argmax(axis=1)]
            test = float((guess == data.test_y[chosen]).mean())
            naive = audited(run, dropped, before, rows, ShadowSettings(n_pairs=2))
            naive.metrics["membership"]["forget"] = found.metrics["membership"]["row_drop"]
            cells = line(config.name, "row", n, test, never_test, accuracy, naive, "| | | |")
            print(cells, flush=True)
            shares = list(found.metrics["destinations"].items())[:3]
            names = {uid: run.store.names[int(uid)] for uid, _ in shares}
            goes = ", ".join(f"{share:.0%} {names[uid]}" for uid, share in shares)
            attack = found.metrics["membership"]
            print(
                f"<!-- {config.name}: class-{c} goes to {goes}; attack by {attack['statistic']}, "
                f"not unlearned {attack['not_at_all']} -->",
                flush=True,
            )
    run.store.close()


def unlearn(run: Run, name: str) -> tuple[float, float, float, np.ndarray]:
    """Unlearn a class as `edgecl forget` does; returns seconds of the head and in all, MB, rows."""
    store, head = run.store, run.learner.head
    uid = store.class_uid(name)
    x, y = store.stored_rows()
    start_mb = reset_peak()
    begin = time.perf_counter()
    with store.transaction():
        head.forget(uid, store)
        head_s = time.perf_counter() - begin
        erase(store, Kind.CLASS, uid)
        settle_begin = time.perf_counter()
        head.settle(store)
        head_s += time.perf_counter() - settle_begin
    return head_s, time.perf_counter() - begin, peak_mb() - start_mb, x[y == uid]


def audited(
    run: Run,
    served: Scorer,
    before: Scorer,
    rows: np.ndarray,
    shadows: ShadowSettings | None = None,
) -> Audit:
    return audit(
        run.config,
        run.store,
        served,
        run.store.names,
        rows,
        statistic=run.store.statistic,
        before=before,
        shadows=shadows,
    )


@dataclass(frozen=True)
class _WithoutRow:
    """What is served when a class's row is dropped and all else stays."""

    before: Scorer
    name: str
    n_maps: int = 1

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(label for label in self.before.labels if label != self.name)

    def scores(self, x: np.ndarray) -> np.ndarray:
        return np.delete(self.before.scores(x), self.before.labels.index(self.name), axis=1)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        return self.before.probabilities(scores)

    def arrays(self) -> dict[str, Any]:
        return self.before.arrays()


def line(
    name: str,
    way: str,
    n: int,
    test: float,
    never_test: float,
    accuracy: float,
    found: Audit,
    cost: str,
) -> str:
    m = found.metrics
    if "all" in m["missing"]:
        return f"| {name} | {way} | {n} (the last) |" + " |" * 10 + f" 0 | {cost} | 0 |"
    tow = tug_of_war(
        (0.0, m["accuracy_kept"], test), (0.0, m["accuracy_kept_retrained"], never_test)
    )
    attack, ratios = m["membership"]["forget"], m["relearn_ratio"]
    relearn = ", ".join("-" if ratios[k] is None else f"{ratios[k]:.2f}" for k in ("4", "16"))
    cells = [
        name,
        way,
        str(n),
        f"{test:.4f} ({never_test:.4f})",
        f"{m['agreement_forgotten']:.3f}",
        f"{tow:.4f}",
        f"{h_mean(100 * accuracy, 100 * test):.1f}",
        f"{m['activation_distance_forgotten']:.3f} / {m['noise_floor_forgotten']:.3f}",
        f"{attack['auc']:.3f}",
        f"{attack['tpr_1_fpr']:.3f}",
        f"{m['probe'] - m['probe_retrained']:+.3f}",
        relearn,
        f"{m['restored_row']:.3f} / {m['restored_row_retrained']:.3f}",
        str(len(found.faults)),
    ]
    seconds = f"{m['seconds']:.1f}" if way == "forget" else ""
    return f"| {' | '.join(cells)} | {cost} | {seconds} |"


if __name__ == "__main__":
    main()
