"""`edgecl demo`: the whole story on handwritten digits that ship with scikit-learn."""

from __future__ import annotations

import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli.options import JsonOption
from edgecl.cli.output import print_json, print_table, say, say_step

if TYPE_CHECKING:
    from edgecl.evaluation.metrics import Evaluation
    from edgecl.home import Home
    from edgecl.learner import Learner
    from edgecl.runtime.engines.onnx import OnnxEngine
    from edgecl.runtime.predictor import Predictor
    from edgecl.types import Float32

    Tests = dict[str, Float32]

tell = partial(print, flush=True)

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FORGOTTEN = "five"
REST = tuple(name for name in NAMES if name != FORGOTTEN)
_IMAGE_SIZE = 64
_N_TEST = 597
_N_LATENCY = 200


def demo(
    keep: Annotated[
        Path | None, typer.Option(help="Keep the home and the pictures in this new folder.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Learn ten digits one after the other, forget one, and prove that it is gone."""
    from edgecl.errors import RequestError

    begin = time.monotonic()
    if keep is not None and keep.exists():
        raise RequestError(f"{keep} exists already; name a new folder with --keep")
    place = Path(tempfile.mkdtemp(prefix="edgecl-demo-"))
    try:
        result = _story(place)
        if keep is not None:
            shutil.move(place, keep)
            say(f"kept {keep}/home and {keep}/digits")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    result["seconds"] = round(time.monotonic() - begin, 1)
    tell(f"\ndone in {result['seconds']:.0f} s")
    if json:
        print_json(result)


def _story(place: Path) -> dict[str, Any]:
    from edgecl.exporters.setup import Setup, set_up
    from edgecl.runtime.predictor import Predictor
    from edgecl.session import open_learner, open_store

    tell("1. Real handwritten digits (scikit-learn has 1,797), as PNG files, one folder a class")
    _write_digits(place / "digits")
    tell("2. A device home: the default engine, as it ships, cut to the size")
    home = set_up(place / "home", Setup(image_size=_IMAGE_SIZE), tell=say_step)
    tell(
        f"   {home.manifest.backbone} at {_IMAGE_SIZE} px, {home.manifest.num_features} features, "
        f"differs from torch by at most {home.manifest.parity['max_abs']:.1g}"
    )
    engine = home.engine()

    tell("3. Ten classes, one after the other, each picture seen once\n")
    tests = _tests(home, engine, place / "digits" / "test")
    with home.lock(), open_store(home) as store:
        learner = open_learner(home, store)
        steps = _learn_all(home, learner, engine, place, tests)
        predictor = Predictor.of(
            engine, home.manifest.preprocessing, learner.head.scorer(store.names)
        )
        p50, p90 = _latency(predictor, place)
        tell(
            f"\n4. Prediction of one picture, file to label, one thread: median {p50:.1f} ms, "
            f"90th percentile {p90:.1f} ms"
        )
        tell(f"5. Forget the class {FORGOTTEN!r}")
        forgotten = _forget(home, learner, tests)
        tell("6. The proof: a second device that never saw it learns the nine others")
        proof = _compare(home, learner, engine, place)
    return steps | forgotten | proof | {"latency_ms": {"p50": p50, "p90": p90}}


def _learn_all(
    home: Home, learner: Learner, engine: OnnxEngine, place: Path, tests: Tests
) -> dict[str, Any]:
    """Learn class by class, and show after each how good all of them are."""
    rows = []
    for n, name in enumerate(NAMES, start=1):
        rate = _learn(home, learner, engine, place / "digits" / "train" / name, name)
        scores = _accuracy(learner, tests, NAMES[:n])
        worst = min(scores.per_class, key=lambda label: scores.per_class[label])
        worst = f"{worst} {scores.per_class[worst]:.3f}"
        rows.append((name, n, scores.accuracy, worst, round(rate)))
    columns = ("learned", "classes", "accuracy", "weakest class", "pictures/s")
    print_table("accuracy on unseen pictures of all classes so far", columns, rows)
    return {
        "accuracy": rows[-1][2],
        "classes": [row[0] for row in rows],
        "accuracy_by_step": [row[2] for row in rows],
    }


def _forget(home: Home, learner: Learner, tests: Tests) -> dict[str, Any]:
    from edgecl.types import ForgetRequest
    from edgecl.unlearning.request import forget

    done = forget(home, learner, ForgetRequest(FORGOTTEN, "demo"), verify=True)
    after = _accuracy(learner, tests, REST)
    tell(
        f"   receipt {done.receipt.receipt_id}: {done.receipt.body['mode']}, "
        f"{sum(done.receipt.body['rows_erased'].values())} rows erased in {done.seconds:.2f} s "
        f"(head {done.head_seconds:.2f} s); files searched for it: "
        f"{'clean' if done.verified else '; '.join(done.faults)}"
    )
    tell(f"   the nine others: accuracy {after.accuracy:.4f}")
    return {
        "accuracy_after_forget": after.accuracy,
        "receipt_id": done.receipt.receipt_id,
        "mode": done.receipt.body["mode"],
        "verified": done.verified,
    }


def _compare(home: Home, learner: Learner, engine: OnnxEngine, place: Path) -> dict[str, Any]:
    """Compare the head with one that learned the nine others only, on another device."""
    import numpy as np

    from edgecl.session import open_learner, open_store

    other_home = _twin(home, place / "other")
    with other_home.lock(), open_store(other_home) as store:
        other = open_learner(other_home, store)
        _learn(other_home, other, engine, _table(place))
        ours = learner.head.scorer(learner.store.names)
        theirs = other.head.scorer(store.names)
    mine, never = ours.arrays(), theirs.arrays()
    gap = float(np.abs(mine["weights"] - never["weights"]).max())
    same = ours.labels == theirs.labels and all(
        np.array_equal(mine[part], never[part]) for part in never
    )
    tell(
        f"   largest difference of {never['weights'].size:,} weights: {gap:g} - "
        + ("bit for bit the same head" if same else "NOT the same head")
    )
    return {"identical_to_never_seen": same, "largest_difference": gap}


def _write_digits(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    from edgecl.errors import MissingPackageError

    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingPackageError(
            "the demo takes its digits from scikit-learn; run `pip install 'edgecl[demo]'`"
        ) from error
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    for rank, i in enumerate(order.tolist()):
        part = "test" if rank < _N_TEST else "train"
        path = folder / part / NAMES[digits.target[i]] / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 255 / 16).astype(np.uint8)).save(path)


def _table(place: Path) -> Path:
    """List the pictures of the nine others, class after class, to be learned in one run."""
    train = place / "digits" / "train"
    rows = [f"{file},{name}" for name in REST for file in sorted((train / name).iterdir())]
    (place / "others.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    return place / "others.csv"


def _learn(
    home: Home, learner: Learner, engine: OnnxEngine, path: Path, label: str | None = None
) -> float:
    from edgecl.runtime.sources import open_source
    from edgecl.stream.position import source_key, start_position
    from edgecl.stream.run import learn_stream

    source = open_source(str(path), label=label)
    key = source_key(home, str(path), label, None)
    start = start_position(home, learner, source, key, resume=False)
    *_, last = learn_stream(home, learner, engine, source, key=key, start=start)
    return last.samples_per_second


def _tests(home: Home, engine: OnnxEngine, folder: Path) -> Tests:
    """Return the features (N, D) of the pictures to test on, by class.

    The engine is frozen: what changes is the head, so each picture goes through it once.
    """
    import numpy as np

    from edgecl.runtime.pipeline import Embedded, embed
    from edgecl.runtime.sources import open_source

    found: dict[str, list[Float32]] = {name: [] for name in NAMES}
    for group in embed(open_source(str(folder)).frames(), home.manifest.preprocessing, engine):
        for item in group:
            if isinstance(item, Embedded):
                found[item.frame.label or ""].append(item.feature)
    return {name: np.array(rows) for name, rows in found.items()}


def _accuracy(learner: Learner, tests: Tests, names: tuple[str, ...]) -> Evaluation:
    from edgecl.evaluation.metrics import evaluate

    scorer = learner.head.scorer(learner.store.names)
    return evaluate(
        (name, scorer.labels[best])
        for name in names
        for best in scorer.scores(tests[name]).argmax(axis=1).tolist()
    )


def _latency(predictor: Predictor, place: Path) -> tuple[float, float]:
    import numpy as np

    paths = sorted((place / "digits" / "test").rglob("*.png"))[:_N_LATENCY]
    times = []
    for path in paths:
        begin = time.perf_counter()
        predictor.predict(path)
        times.append((time.perf_counter() - begin) * 1e3)
    return float(np.percentile(times, 50)), float(np.percentile(times, 90))


def _twin(home: Home, path: Path) -> Home:
    """Make a home with the same engine that has learned nothing."""
    from edgecl.heads import HEADS
    from edgecl.home import make_home
    from edgecl.store.store import create_store

    def fill(engine: Path, database: Path) -> None:
        for file in (home.path / "engine").iterdir():
            shutil.copy2(file, engine)
        create_store(
            database,
            feature_map=home.manifest.feature_map,
            num_features=home.manifest.num_features,
            second_moment=HEADS[home.config.head.name].statistic.name,
        )

    return make_home(path, home.config, fill)
