"""Every recipe of a consolidation beside `plain`, on the same pictures, in one table.

Two sessions of five Fashion-MNIST classes, then scikit-learn's digits; each is learned and
consolidated. Main figure: the squared error of the shares that are served, on held-out pictures,
minus that of `plain` picture by picture (times 100, below 0 is better, with its standard error).
Further: the first session's classes, a control domain (digits that are learned before any adapter
saw one), the time of the consolidations, the most memory that the process held meanwhile, what the
adapters weigh, and how many of them are lost when a class of the first session is forgotten.
`frozen` is the exact head without any adapter.

Run: python benchmarks/recipes.py [--recipes plain,half] [--seeds N] [--reported]
    python benchmarks/recipes.py --search N
    python benchmarks/recipes.py --ranks
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import argparse
import hashlib
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import consolidation as usual
import fashion_data
import numpy as np
import numpy.typing as npt
from peak import peak_mb, reset_peak

from edgecl.adapters.atoms import ACTIVE
from edgecl.adapters.bottleneck import RANK, adapt
from edgecl.adapters.masks import front
from edgecl.adapters.recipes import RECIPES, recipe_of
from edgecl.adapters.training import Training
from edgecl.backbones import Backbone, load_backbone
from edgecl.config import Config, EvaluationConfig, StoreConfig
from edgecl.consolidation.judge import squared_errors
from edgecl.consolidation.run import consolidate
from edgecl.errors import RequestError
from edgecl.exporters.onnx import init_home
from edgecl.home import Home
from edgecl.runtime.mixture import MixedScorer
from edgecl.session import Session, open_store
from edgecl.store.adapters import task_adapters
from edgecl.types import Float32, Float64, ForgetRequest, Frame
from edgecl.unlearning.request import forget

FROZEN, PLAIN = "frozen", "plain"
RANKS = (4, 16, 64)
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Data:
    """Frames to learn by session, those to test on, and the session of each of these."""

    sessions: list[list[Frame]]
    test: list[Frame]
    session_of: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Outcome:
    """What one recipe came to, with one order of the classes.

    Args:
        errors: Squared error of every test picture (M,).
        right: Whether it was named (M,).
        control: Errors of the digits before an adapter saw one.
        learned: Errors of the pictures that were learned, and whether they were named.
        seconds: Of the consolidations.
        peak: Most megabytes of memory that the process held while it learned and consolidated.
        megabytes: Of the adapters.
        taken: Consolidations whose adapter was taken.
        lost: Adapters that a forgotten class of the first session took along.
    """

    errors: Float64
    right: Bools
    control: Float64
    learned: tuple[Float64, Bools]
    seconds: float
    peak: float
    megabytes: float
    taken: int
    lost: int


def main() -> None:
    options = _options()
    backbone = load_backbone(image_size=options.size)
    with tempfile.TemporaryDirectory() as place:
        run = Runs(Path(place), backbone, options)
        if options.ranks:
            _ranks(run)
        elif options.search:
            _search(run, options.search)
        else:
            _table(run, options.recipes.split(","))


class Runs:
    """Makes homes, and learns the same pictures in each; plain features are computed once."""

    def __init__(self, place: Path, backbone: Backbone, options: argparse.Namespace) -> None:
        self.backbone, self.options, self._place = backbone, options, place
        self._features: dict[str, Float32] = {}
        self.data = [_data(options, seed) for seed in range(options.seeds)]

    def all(self, recipe: str, rank: int = RANK) -> list[Outcome]:
        """Return what a recipe came to with every order."""
        return [self.outcome(recipe, order, rank) for order in range(len(self.data))]

    def outcome(self, recipe: str, order: int, rank: int = RANK) -> Outcome:
        """Return what a recipe came to with one order, from before if `--keep` has it."""
        o = self.options
        key = f"{recipe} {rank} {order} {o.kept} {o.tested} {o.size} {o.epochs} {o.views}"
        name = hashlib.sha256(f"{key} {o.reported}".encode()).hexdigest()[:16]
        kept = (o.keep or self._place) / f"{name}.npz"
        if kept.exists():
            return _read(kept)
        found = self._one(recipe, rank, self.data[order])
        _write(kept, found)
        print(f"{recipe}, order {order}: {found.seconds:.0f} s", file=sys.stderr, flush=True)
        return found

    def _one(self, recipe: str, rank: int, data: Data) -> Outcome:
        home = self._home(recipe, rank)
        learned = [frame for frames in data.sessions for frame in frames]
        seconds, taken, control = 0.0, 0, np.zeros(0)
        reset_peak()
        with home.lock(), open_store(home) as store:
            session = Session(home, store)
            for number, frames in enumerate(data.sessions):
                x = self._plain(home, frames)
                for start in range(0, len(frames), 20):
                    part = slice(start, start + 20)
                    session.learner.learn_many(frames[part], x[part])
                session.learner.settle()
                if number == len(data.sessions) - 1:
                    digits = np.flatnonzero(data.session_of == number)
                    control = self._judged(session, [data.test[i] for i in digits])[0]
                if recipe != FROZEN:
                    spent, is_taken = self._consolidated(session)
                    seconds, taken = seconds + spent, taken + is_taken
            peak = peak_mb()
            errors, right = self._judged(session, data.test)
            of_learned = self._judged(session, learned)
            adapters = [a for task in task_adapters(store) for a in task.adapter.values()]
            name = data.sessions[0][0].label or ""
            lost = len(forget(home, session.learner, ForgetRequest(name)).receipt.body["adapters"])
        shutil.rmtree(home.path)
        size = sum(array.nbytes for array in adapters) / 1e6
        return Outcome(errors, right, control, of_learned, seconds, peak, size, taken, lost)

    def _consolidated(self, session: Session) -> tuple[float, bool]:
        training = Training(epochs=self.options.epochs, views=self.options.views)
        try:
            done = consolidate(session, self.backbone, training=training)
        except RequestError as error:  # its rows are used up, say
            print(error, file=sys.stderr)
            return 0.0, False
        return done.seconds, done.accepted

    def _home(self, recipe: str, rank: int) -> Home:
        """Return a new home with the settings of a recipe; an engine is exported once."""
        config = Config(
            store=StoreConfig(capacity_samples=100_000, capacity_mb=10_000),
            evaluation=EvaluationConfig(probes=0),
        )
        part = replace(config.consolidation, recipe=PLAIN if recipe == FROZEN else recipe)
        config = replace(config, consolidation=part)
        first = self._place / f"rank-{rank}-{recipe_of(part.recipe).active}"
        if not first.exists():
            init_home(first, self.backbone, config, adapter_rank=rank)
        shutil.copytree(first, self._place / "home")
        home = Home(self._place / "home")
        home.save_config(config)
        return home

    def _plain(self, home: Home, frames: Sequence[Frame]) -> Float32:
        missing = [frame for frame in frames if frame.id not in self._features]
        if missing:
            rows = usual._features(home, home.engine(), missing)
            self._features |= dict(zip((f.id for f in missing), rows, strict=True))
        return np.array([self._features[frame.id] for frame in frames])

    def _judged(self, session: Session, frames: list[Frame]) -> tuple[Float64, Bools]:
        """Return squared errors (M,) of what is served, and whether the class was named (M,)."""
        scorer, adapters = session.served()
        x = self._plain(session.home, frames)
        if adapters:
            engine = session.adapted_engine.with_adapters(*adapters)
            x = usual._features(session.home, engine, frames)
        shares = scorer.scores(x)
        if not isinstance(scorer, MixedScorer):
            calibration = session.calibration(is_exact=True)
            assert calibration is not None
            shares = calibration.probabilities(shares)
        y = np.array([scorer.labels.index(frame.label or "") for frame in frames])
        return squared_errors(shares, y), shares.argmax(axis=1) == y


def _write(path: Path, outcome: Outcome) -> None:
    values = asdict(outcome)
    known, named = values.pop("learned")
    half = path.with_suffix(".half.npz")
    np.savez(half, known=known, named=named, **values)
    half.rename(path)


def _read(path: Path) -> Outcome:
    with np.load(path) as kept:
        arrays = {key: kept[key] for key in ("errors", "right", "control")}
        return Outcome(
            **arrays,
            learned=(kept["known"], kept["named"]),
            seconds=float(kept["seconds"]),
            peak=float(kept["peak"]) if "peak" in kept else float("nan"),  # of an older table
            megabytes=float(kept["megabytes"]),
            taken=int(kept["taken"]),
            lost=int(kept["lost"]),
        )


def _table(run: Runs, names: list[str]) -> None:
    for order in range(len(run.data)):  # every recipe with one order before the next
        for name in (PLAIN, FROZEN, *names):
            run.outcome(name, order)
    plain = run.all(PLAIN)
    first = [np.flatnonzero(data.session_of == 0) for data in run.data]
    print(
        "| recipe | all | first session | control | accuracy | seconds / plain | peak MB | MB "
        "| taken | lost |\n" + "|---" * 10 + "|"
    )
    usual_seconds = sum(o.seconds for o in plain)
    for name in [FROZEN, PLAIN, *(n for n in names if n not in (FROZEN, PLAIN))]:
        found = plain if name == PLAIN else run.all(name)
        cells = [
            _gap(found, plain, lambda o, _: o.errors),
            _gap(found, plain, lambda o, k: o.errors[first[k]]),
            _gap(found, plain, lambda o, _: o.control),
        ]
        if name == PLAIN:
            parts = (
                np.concatenate([o.errors for o in plain]),
                np.concatenate([o.errors[first[k]] for k, o in enumerate(plain)]),
                np.concatenate([o.control for o in plain]),
            )
            cells = [f"({100 * part.mean():.2f})" for part in parts]
        accuracy = np.concatenate([o.right for o in found]).mean()
        seconds = sum(o.seconds for o in found) / max(usual_seconds, 1e-9)
        peak = max(o.peak for o in found)
        held = "-" if np.isnan(peak) else f"{peak:.0f}"
        mean = [np.mean([getattr(o, key) for o in found]) for key in ("megabytes", "taken", "lost")]
        print(
            f"| {name} | {' | '.join(cells)} | {accuracy:.4f} | {seconds:.2f} | "
            f"{held} | {mean[0]:.2f} | {mean[1]:.1f} | {mean[2]:.1f} |",
            flush=True,
        )


def _gap(
    found: list[Outcome], plain: list[Outcome], part: Callable[[Outcome, int], Float64]
) -> str:
    """Return mean and standard error of the paired differences, times 100."""
    gaps = np.concatenate(
        [part(a, k) - part(b, k) for k, (a, b) in enumerate(zip(found, plain, strict=True))]
    )
    return f"{100 * gaps.mean():+.2f} +-{100 * gaps.std(ddof=1) / len(gaps) ** 0.5:.2f}"


def _search(run: Runs, n: int) -> None:
    """Print no site and so many drawn halves of them, and mark those that none beats in both.

    MemControl (Dutt et al. 2024, arXiv:2405.19458): how good it is on held-out pictures, and how
    much better on the learned ones, which is what was memorised.
    """
    sites = [site.name for site in adapt(run.backbone).sites]
    rng = np.random.default_rng(7)
    names = [FROZEN]  # no site at all, which may be the best
    for _ in range(n):
        drawn = np.sort(rng.choice(len(sites), max(1, len(sites) // 2), replace=False))
        names.append("sites:" + ",".join(sites[i] for i in drawn))
    rows = []
    for name in names:
        found = run.all(name)
        held = float(np.concatenate([o.errors for o in found]).mean())
        known = float(np.concatenate([o.learned[0] for o in found]).mean())
        rows.append((name, held, held - known))
    best = front([(held, gap) for _, held, gap in rows])
    print("| recipe | error held out | minus that of the learned | front |\n|---|---|---|---|")
    for k, (name, held, gap) in enumerate(rows):
        print(f"| `{name}` | {held:.4f} | {gap:+.4f} | {'yes' if k in best else ''} |")


def _ranks(run: Runs) -> None:
    """Print what more rows of an adapter do: all of them active, a third a session, or 16.

    The core of Optimal Sparsity of Mixture-of-Experts: what is memorised grows with all rows.
    """
    print(
        "| rank | active a session | recipe | MB | right of the learned | right of the held out "
        "| membership AUC |\n|---|---|---|---|---|---|---|"
    )
    for rank in RANKS:
        for recipe, active in (
            (PLAIN, rank),
            ("sliced", -(-rank // 3)),
            ("atoms", min(ACTIVE, rank)),
        ):
            found = run.all(recipe, rank)
            held, known = (
                np.concatenate(parts)
                for parts in ([o.errors for o in found], [o.learned[0] for o in found])
            )
            right = np.concatenate([o.right for o in found]).mean()
            learned = np.concatenate([o.learned[1] for o in found]).mean()
            size = np.mean([o.megabytes for o in found])
            print(
                f"| {rank} | {active} | {recipe} | {size:.2f} | {learned:.4f} | {right:.4f} | "
                f"{_auc(known, held):.4f} |",
                flush=True,
            )


def _auc(lower: Float64, higher: Float64) -> float:
    """Return how often a number of the first (N,) is below one of the second (M,)."""
    ordered = np.sort(higher)
    left, right = (np.searchsorted(ordered, lower, side=side) for side in ("left", "right"))
    return float(1 - (left + right).mean() / 2 / len(higher))


def _data(options: argparse.Namespace, seed: int) -> Data:
    x, y = fashion_data.load("train")
    names = np.arange(10)
    if seed:
        names = np.random.default_rng(seed).permutation(names)
    first, test_first = (0, 5200) if options.reported else (2000, 4000)
    picked = [
        fashion_data.class_by_class(y, options.kept, part, skip=first)
        for part in (names[:5], names[5:])
    ]
    sessions = [fashion_data.frames(x, y, rows) for rows in picked]
    held = [
        fashion_data.frames(
            x, y, fashion_data.class_by_class(y, options.tested, p, skip=test_first)
        )
        for p in (names[:5], names[5:])
    ]
    digits = usual._digits()
    order = np.random.default_rng(100 * options.reported + seed).permutation(len(digits))
    by_class: dict[str, list[Frame]] = {}
    for i in order.tolist():
        by_class.setdefault(digits[i].label or "", []).append(digits[i])
    n = min(options.kept, 100)
    sessions.append([frame for part in by_class.values() for frame in part[:n]])
    held.append([frame for part in by_class.values() for frame in part[n : n + options.tested]])
    session_of = np.repeat(np.arange(3), [len(part) for part in held])
    return Data(sessions, [frame for part in held for frame in part], session_of)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipes", default=",".join(RECIPES), help="with commas; plain is there")
    parser.add_argument("--kept", type=int, default=150, help="pictures a class that are learned")
    parser.add_argument("--tested", type=int, default=70, help="pictures a class that are tested")
    parser.add_argument("--size", type=int, default=112, help="side of the input, pixels")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2, help="orders of the classes")
    parser.add_argument("--reported", action="store_true", help="other pictures, to look at once")
    parser.add_argument("--search", type=int, default=0, help="so many drawn sets of sites")
    parser.add_argument("--ranks", action="store_true", help="ranks 4, 16 and 64 of an adapter")
    parser.add_argument("--keep", type=Path, help="folder of what is done, to go on from")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    main()
