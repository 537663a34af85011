"""Five consolidations of two classes each, beside the frozen exact head on the same pictures.

Fashion-MNIST: at most 600 kept pictures a class, tested on the first 4,000 of the test set; or
scikit-learn's digits, two thirds learned. After every task: what is served and the frozen head
alone, on the classes so far. Further: classes that came after the last consolidation (`young`), a
head that learned twice as many pictures than are kept, and digits in a home whose adapters never
saw one. Settings were chosen with `--tune`, on other pictures (docs/decisions/0009).

Run: python benchmarks/consolidation.py [--order N] [--data fashion|digits] [--tune]
    [--recipe NAME] [--backbone NAME --weights FILE --size N]
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import fashion_data
import numpy as np
import numpy.typing as npt

from edgecl.adapters.bottleneck import RANK
from edgecl.adapters.training import Training
from edgecl.backbones import DEFAULT_BACKBONE, load_backbone
from edgecl.config import Config, ConsolidationConfig, EvaluationConfig, StoreConfig
from edgecl.consolidation.run import Consolidated, consolidate
from edgecl.evaluation.continual import forgetting
from edgecl.exporters.onnx import init_home
from edgecl.heads import make_head_of
from edgecl.heads.memory import RowMemory
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.grid import quantise
from edgecl.runtime.mixture import MixedScorer
from edgecl.runtime.pipeline import Embedded, embed
from edgecl.session import Session, open_learner, open_store
from edgecl.store.adapters import mixed_with, task_adapters
from edgecl.types import Float32, ForgetRequest, Frame
from edgecl.unlearning.request import forget

PER_TASK = 2


def main() -> None:
    options = _options()
    train, test, tasks = _data(options)
    settings = ConsolidationConfig(
        recipe=options.recipe, epochs=options.epochs, views=options.views
    )
    config = Config(
        store=StoreConfig(capacity_samples=100_000, capacity_mb=10_000),
        consolidation=settings,
        evaluation=EvaluationConfig(probes=0),
    )
    backbone = load_backbone(options.backbone, weights=options.weights, image_size=options.size)
    matrices = {name: np.full((len(tasks), len(tasks)), np.nan) for name in ("served", "frozen")}
    outcomes: list[Consolidated] = []
    lines: list[tuple[str, float, float]] = []
    with tempfile.TemporaryDirectory() as place:
        home = init_home(Path(place) / "home", backbone, config, adapter_rank=RANK)
        engine = home.engine(takes_adapters=True)
        plain = _features(home, home.engine(), test)
        for number, classes in enumerate(tasks):
            with home.lock(), open_store(home) as store:
                learner = open_learner(home, store)
                chosen = [frame for label in classes for frame in train[label]]
                _learn(home, learner, chosen)
                learner.settle()
                if number == len(tasks) - 1 and outcomes:
                    lines += _young(home, learner, engine, test, plain, tasks)
                done = consolidate(
                    Session(home, store),
                    backbone,
                    training=Training(epochs=options.epochs, views=options.views),
                )
                outcomes.append(done)
                print(f"task {number}: {done}", file=sys.stderr, flush=True)
                scores = _both(home, learner, engine, test, plain)
                for name, right in scores.items():
                    for k, seen in enumerate(tasks[: number + 1]):
                        of = np.isin([frame.label for frame in test], seen)
                        matrices[name][number, k] = right[of].mean()
        right = {name: float(r.mean()) for name, r in scores.items()}
        lines.append(("all classes, after the last", right["frozen"], right["served"]))
        if options.more:
            lines.append(_with_more(home, options, engine, test, plain, tasks))
        if options.data == "fashion" and options.more:
            lines.append(_other_domain(home, engine))
        seconds, gap, dropped = _forget_one(home, tasks[0][0])
    print("| | frozen | served | gain, points |\n|---|---|---|---|")
    for name, frozen, mixed in lines:
        print(f"| {name} | {frozen:.4f} | {mixed:.4f} | {100 * (mixed - frozen):+.2f} |")
    fm = {name: forgetting(matrix) for name, matrix in matrices.items()}
    change = 100 * (fm["served"] - fm["frozen"])
    print(f"| forgetting | {fm['frozen']:.4f} | {fm['served']:.4f} | {change:+.2f} |")
    steps = [
        100 * float(np.nanmean(matrices["served"][i] - matrices["frozen"][i]))
        for i in range(len(tasks))
    ]
    print("gain after each consolidation, points: " + ", ".join(f"{step:+.2f}" for step in steps))
    print("taken: " + ", ".join(f"{o.accepted} (share {o.share})" for o in outcomes))
    print(f"forget {tasks[0][0]}: {seconds:.2f} s, {dropped} adapters dropped, gap {gap:g}")
    parts = {name: sum(o.parts[name] for o in outcomes) for name in outcomes[0].parts}
    print(json.dumps({"seconds": [round(o.seconds) for o in outcomes], "parts": parts}))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak RSS {peak:.2f} GB; order {options.order}, {settings}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    defaults = ConsolidationConfig()
    parser.add_argument("--data", choices=("fashion", "digits"), default="fashion")
    parser.add_argument("--recipe", default=defaults.recipe)
    parser.add_argument("--views", type=int, default=defaults.views)
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    parser.add_argument("--kept", type=int, default=600, help="pictures a class (fashion)")
    parser.add_argument("--test", type=int, default=4000, help="test pictures (fashion)")
    parser.add_argument("--order", type=int, default=0, help="class order, 0 for 0..9")
    parser.add_argument("--backbone", default=DEFAULT_BACKBONE, help="timm name")
    parser.add_argument("--weights", help="its weights, a file; see benchmarks/vit.py")
    parser.add_argument("--size", type=int, default=112, help="side of the input, pixels")
    parser.add_argument("--tune", action="store_true", help="the pictures on which to choose")
    parser.add_argument(
        "--no-more", dest="more", action="store_false", help="without the head of twice as many"
    )
    return parser.parse_args()


def _data(
    options: argparse.Namespace,
) -> tuple[dict[str, list[Frame]], list[Frame], list[list[str]]]:
    """Return pictures to learn by class, those to test on, and the tasks."""
    if options.data == "digits":
        frames = _digits()
        order = np.random.default_rng(options.order + 100 * options.tune).permutation(len(frames))
        train_rows, test_rows = order[:1200], order[1200:]
        train: dict[str, list[Frame]] = {}
        for i in train_rows:
            train.setdefault(str(frames[i].label), []).append(frames[i])
        test = [frames[i] for i in test_rows]
    else:
        x, y = fashion_data.load("train")
        first = 2000 if options.tune else 0
        chosen = [np.flatnonzero(y == c)[first : first + options.kept] for c in range(10)]
        train = {str(c): fashion_data.frames(x, y, rows) for c, rows in enumerate(chosen)}
        if options.tune:
            rows = np.concatenate([np.flatnonzero(y == c)[4000:4300] for c in range(10)])
            test = fashion_data.frames(x, y, rows)
        else:
            tx, ty = fashion_data.load("t10k")
            test = fashion_data.frames(tx, ty, np.arange(options.test))
        train = {part[0].label or "": part for part in train.values()}
    names = sorted(train)
    if options.order:
        names = [names[i] for i in np.random.default_rng(options.order).permutation(len(names))]
    return train, test, [names[i : i + PER_TASK] for i in range(0, len(names), PER_TASK)]


def _digits() -> list[Frame]:
    import io

    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    frames = []
    for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        data = io.BytesIO()
        pixels = np.minimum(image * 16, 255).astype(np.uint8)
        Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(data, "PNG")
        frames.append(Frame(id=f"digit-{i}", encoded=data.getvalue(), label=f"digit {label}"))
    return frames


def _features(home: Home, engine: OnnxEngine, frames: list[Frame]) -> Float32:
    groups = embed(iter(frames), home.manifest.preprocessing, engine)
    return np.array([i.feature for group in groups for i in group if isinstance(i, Embedded)])


def _learn(home: Home, learner: Learner, frames: list[Frame]) -> None:
    x = _features(home, home.engine(), frames)
    for start in range(0, len(frames), 20):
        learner.learn_many(frames[start : start + 20], x[start : start + 20])


def _both(
    home: Home, learner: Learner, engine: OnnxEngine, test: list[Frame], plain: Float32
) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which test pictures are right, as served and by the frozen head alone."""
    known = np.array([frame.label in learner.store.names.values() for frame in test])
    truth = [frame.label for frame, is_known in zip(test, known, strict=True) if is_known]
    scorer, adapters = Session(home, learner.store).served()
    frozen = learner.head.scorer(learner.store.names)
    x = plain[known]
    if adapters:
        seen = [frame for frame, is_known in zip(test, known, strict=True) if is_known]
        x = _features(home, engine.with_adapters(*adapters), seen)
    found = {}
    for name, of, rows in (("served", scorer, x), ("frozen", frozen, plain[known])):
        right = np.zeros(len(test), dtype=np.bool_)
        guesses = np.array(of.labels)[of.scores(rows).argmax(axis=1)]
        right[known] = guesses == truth
        found[name] = right
    return found


def _young(
    home: Home,
    learner: Learner,
    engine: OnnxEngine,
    test: list[Frame],
    plain: Float32,
    tasks: list[list[str]],
) -> list[tuple[str, float, float]]:
    """Return what two classes have that came after the last consolidation."""
    right = _both(home, learner, engine, test, plain)
    young = np.isin([frame.label for frame in test], tasks[-1])
    parts = (("young classes", young), ("old classes", ~young), ("all classes", young | ~young))
    return [
        (f"{name}, two of them young", float(right["frozen"][of].mean()),
         float(right["served"][of].mean()))
        for name, of in parts
    ]  # fmt: skip


def _with_more(
    home: Home,
    options: argparse.Namespace,
    engine: OnnxEngine,
    test: list[Frame],
    plain: Float32,
    tasks: list[list[str]],
) -> tuple[str, float, float]:
    """Return the same for a head that learned twice as many pictures, the adapter's as they are."""
    more = argparse.Namespace(**(vars(options) | {"kept": 2 * options.kept}))
    train, _, _ = _data(more)
    with open_store(home) as store:
        names, bank = dict(store.names), task_adapters(store)
        uids = {name: uid for uid, name in names.items()}
        frames = [frame for task in tasks for label in task for frame in train[label]]
        y = np.array([uids[frame.label or ""] for frame in frames], dtype=np.int64)
        x = quantise(_features(home, home.engine(), frames))
        head = make_head_of(home.config.head, store.num_features)
        head.rebuild(RowMemory(x, y, store.statistic))
        head.settle(None)
        frozen = head.scorer(names)
        scorer, adapters = mixed_with(frozen, bank, names)
    truth = np.array([frame.label for frame in test])
    both = _features(home, engine.with_adapters(*adapters), test)
    guesses = [np.array(s.labels)[s.scores(f).argmax(axis=1)]
               for s, f in ((frozen, plain), (scorer, both))]  # fmt: skip
    right = [float((guess == truth).mean()) for guess in guesses]
    return (f"head of {len(frames)} pictures", right[0], right[1])


def _other_domain(home: Home, engine: OnnxEngine) -> tuple[str, float, float]:
    """Return how well digits do in a home whose adapters never saw one."""
    digits = _digits()
    order = np.random.default_rng(0).permutation(len(digits))
    learned, test = ([digits[i] for i in rows] for rows in (order[:1200], order[1200:]))
    with home.lock(), open_store(home) as store:
        learner = open_learner(home, store)
        _learn(home, learner, learned)
        learner.settle()
        right = _both(home, learner, engine, test, _features(home, home.engine(), test))
    return ("digits, never trained on", right["frozen"].mean(), right["served"].mean())


def _forget_one(home: Home, name: str) -> tuple[float, float, int]:
    """Forget a class; return the seconds, the gap to a head that never saw it, adapters dropped."""
    with home.lock(), open_store(home) as store:
        learner = open_learner(home, store)
        kept, (x, y) = store.class_uid(name), store.stored_rows()
        begin = time.perf_counter()
        done = forget(home, learner, ForgetRequest(name))
        seconds = time.perf_counter() - begin
        never = make_head_of(home.config.head, store.num_features)
        never.rebuild(RowMemory(x[y != kept], y[y != kept], store.statistic))
        never.settle(None)
        ours, theirs = (h.scorer({c: str(c) for c in h.classes}) for h in (learner.head, never))
        scorer, _ = Session(home, store).served()
        assert not isinstance(scorer, MixedScorer) or name not in scorer.labels
        a, b = ours.arrays(), theirs.arrays()
        gap = max(float(np.abs(a[part] - b[part]).max()) for part in ("weights", "bias"))
    return seconds, gap, len(done.receipt.body["adapters"])


if __name__ == "__main__":
    main()
