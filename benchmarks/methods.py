"""Every head beside the methods of other packages, on the same streams of the same features.

Two data sets: Fashion-MNIST (the first 1,200 pictures of each class learned, the first 4,000 of the
test set tested; features of lite0 at 112 px by a home's own engine) and scikit-learn's digits (two
thirds learned, one third tested). Two streams: class by class, and Si-Blurry with five tasks, half
of the classes disjoint, 10 % blurred. Three orders each; a cell is the mean and, after +-, half of
the distance between the best and the worst order.

Accuracy is averaged over the ends of the tasks (AIA) and taken at the end; forgetting is FM over
the ends of tasks; WC-ACC is taken from evaluations on a fixed part of the test pictures every
`every` samples. A blurred class counts from its own task on. Heads learn through a store of 1,000
samples; the time of a sample is that of predicting, storing and learning it, 20 to a transaction.
Bytes are statistics, kept features and state, without pictures; peak MB is the most memory that the
process held while it learned and answered (benchmarks/peak.py). A control domain needs no column:
no method here changes the features. `--backbones` gives the same by features of other strength.

Peers, with what is not their default: StreamingLDA; NCM (normalised features, exact running mean);
Replay (linear layer on layer-normalised features, Adam 1e-3, batches of 10 and 10 stored, reservoir
of 1,000; the best of Adam and SGD at 1e-3 and 1e-4 on a quarter of the tuning selection) and ER-ACE
(the same, its own class-balanced buffer of 1,000), one experience for every `every` samples, one
epoch; River's kNN (5 neighbours, exact, the last 1,000 samples, tested on the fixed part only);
SGDClassifier (after StandardScaler, both by partial_fit). StreamingLDA inverts a matrix for each
prediction after an update: it learns without predicting, and its time is that of `N_TIMED` steps of
both at the end.

Run: pip install avalanche-lib river; python benchmarks/methods.py --cache FOLDER
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
import io
import sys
import tempfile
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import fashion_data
import numpy as np
from peak import peak_mb, reset_peak
from PIL import Image
from scores import accuracy_by_task, average_incremental

from edgecl.backbones import DEFAULT_BACKBONE
from edgecl.evaluation.continual import forgetting, worst_case_accuracy
from edgecl.evaluation.streams import Stream, blurry, class_incremental
from edgecl.heads import HEADS, make_head
from edgecl.heads.codebook import default_codebook
from edgecl.heads.profile import PLAIN
from edgecl.learner import Learner
from edgecl.store.store import Store, create_store
from edgecl.types import Frame

N_STORED, COMMIT, N_TIMED = 1000, 20, 5
FEATURE_MAP = "0" * 64


@dataclass(frozen=True)
class Data:
    """Features and labels to learn and to test; `every` samples between two evaluations."""

    name: str
    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    every: int
    n_fixed: int


@dataclass(frozen=True)
class Result:
    """One method on one stream."""

    average: float
    last: float
    forgetting: float
    worst: float
    times: np.ndarray
    bytes_per_class: float
    peak: float
    forget: str


class Method(Protocol):
    """What is compared. Classes are numbered in the order in which they come."""

    is_slow: bool

    def learn(self, x: np.ndarray, y: np.ndarray) -> list[float]:
        """Learn samples; returns ms of each (or of equal parts)."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return classes (N,)."""

    def n_bytes(self) -> int:
        """Return what is kept, pictures apart."""

    def forget(self) -> str:
        """Return how a class can be forgotten."""


# Every head with every value of its options; what is not named has its default.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ridge": ("ridge", {}),
    "uer": ("uer", {}),
    "uer, light": ("uer", {"profile": "light"}),
    "uer, careful": ("uer", {"profile": "careful"}),
    "uer, plain replay": ("uer", {"profile": PLAIN}),
    "prototype": ("prototype", {}),
    "prototype, samples": ("prototype", {"relation": "samples"}),
    "prototype, classes": ("prototype", {"relation": "classes"}),
    "key-value": ("key-value", {}),
    "key-value, sgd": ("key-value", {"values": "sgd"}),
}


class _Ours:
    """A head of this package, in a learner with a store."""

    is_slow = False

    def __init__(self, variant: str, d: int, seed: int, place: Path) -> None:
        name, options = VARIANTS[variant]
        create_store(
            place / "store.db",
            feature_map=FEATURE_MAP,
            num_features=d,
            second_moment=HEADS[name].statistic.name,
            codebook=default_codebook(d) if name == "key-value" else None,
        )
        self.store = Store(place / "store.db", capacity_samples=N_STORED)
        head = make_head(name, d, seed=seed, **options)
        self.learner = Learner(self.store, head, seed=seed)
        picture = io.BytesIO()
        Image.new("RGB", (8, 8)).save(picture, "PNG")
        self.picture = picture.getvalue()
        self.n = 0

    def learn(self, x: np.ndarray, y: np.ndarray) -> list[float]:
        times = []
        for start in range(0, len(x), COMMIT):
            part = slice(start, start + COMMIT)
            frames = [
                Frame(id=str(self.n + i), encoded=self.picture, label=f"class-{c}")
                for i, c in enumerate(y[part].tolist())
            ]
            self.n += len(frames)
            begin = time.perf_counter()
            self.learner.learn_many(frames, x[part])
            times += [(time.perf_counter() - begin) * 1e3 / len(frames)] * len(frames)
        return times

    def predict(self, x: np.ndarray) -> np.ndarray:
        classes = np.array([int(label.removeprefix("class-")) for label in self.learner.labels])
        return classes[self.learner.predict_many(x).argmax(axis=1)]

    def n_bytes(self) -> int:
        (n,) = self.store.connection.execute(
            "SELECT (SELECT coalesce(sum(length(x)), 0) FROM features) + "
            "(SELECT coalesce(sum(length(total) + length(second)), 0) FROM class_stats)"
        ).fetchone()
        state = self.learner.head.state() or {}
        return int(n) + sum(array.nbytes for array in state.values())

    def forget(self) -> str:
        head = self.learner.head
        return f"{head.forget_mode}, {'bit-exact' if head.is_exact else 'not bit-exact'}"


class _Peer(ABC):
    """A method of another package; none of them can forget a class."""

    is_slow = False

    def forget(self) -> str:
        return "none"

    def one_by_one(
        self, x: np.ndarray, y: np.ndarray, learn: Callable[[np.ndarray, int], None]
    ) -> list[float]:
        """Predict and learn sample by sample."""
        times = []
        for row, c in zip(x, y.tolist(), strict=True):
            begin = time.perf_counter()
            self.predict(row[None])
            learn(row, c)
            times.append((time.perf_counter() - begin) * 1e3)
        return times

    @abstractmethod
    def predict(self, x: np.ndarray) -> np.ndarray: ...


class _StreamingLda(_Peer):
    def __init__(self, d: int, n_classes: int, seed: int) -> None:
        import torch
        from avalanche.training.supervised.deep_slda import StreamingLDA

        self.torch = torch
        self.model = StreamingLDA(
            slda_model=torch.nn.Identity(),
            criterion=torch.nn.CrossEntropyLoss(),
            input_size=d,
            num_classes=n_classes,
            evaluator=_silent(),
        )
        self.recent: tuple[np.ndarray, np.ndarray]

    def learn(self, x: np.ndarray, y: np.ndarray) -> list[float]:
        self.recent = x[:N_TIMED], y[:N_TIMED]
        for row, c in zip(x, y.tolist(), strict=True):
            self._fit(row, c)
        return []

    def timed(self) -> list[float]:
        """Predict and learn the last samples again, when all else was measured."""
        return self.one_by_one(*self.recent, self._fit)

    def predict(self, x: np.ndarray) -> np.ndarray:
        scores = self.model.predict(self.torch.from_numpy(x)).numpy()
        scores[:, self.model.cK.numpy() == 0] = -np.inf
        return scores.argmax(axis=1)

    def n_bytes(self) -> int:
        m = self.model
        return sum(t.nbytes for t in (m.muK, m.cK, m.Sigma, m.Lambda))

    def _fit(self, row: np.ndarray, c: int) -> None:
        self.model.fit(self.torch.from_numpy(row[None]), self.torch.tensor([c]))


class _Ncm(_Peer):
    def __init__(self, d: int, n_classes: int, seed: int) -> None:
        import torch
        from avalanche.models import NCMClassifier

        self.torch, self.model = torch, NCMClassifier()
        self.counts: dict[int, int] = {}

    def learn(self, x: np.ndarray, y: np.ndarray) -> list[float]:
        return self.one_by_one(x, y, self._fit)

    def predict(self, x: np.ndarray) -> np.ndarray:
        if not self.counts:
            return np.zeros(len(x), np.int64)
        return self.model(self.torch.from_numpy(x)).argmax(dim=1).numpy()

    def n_bytes(self) -> int:
        return int(self.model.class_means.nbytes)

    def _fit(self, row: np.ndarray, c: int) -> None:
        self.counts[c] = self.counts.get(c, 0) + 1
        unit = self.torch.from_numpy(row / np.linalg.norm(row))
        self.model.update_class_means_dict({c: unit}, momentum=1 / self.counts[c])


class _Replayed(_Peer):
    """A linear layer trained with replay by an Avalanche strategy."""

    def __init__(self, d: int, n_classes: int, seed: int) -> None:
        import torch

        torch.manual_seed(seed)
        self.torch, self.d, self.n_classes = torch, d, n_classes
        self.model = torch.nn.Sequential(
            torch.nn.LayerNorm(d, elementwise_affine=False), torch.nn.Linear(d, n_classes)
        )
        self.is_known = np.zeros(n_classes, bool)
        self.n_experiences = self.n_seen = 0
        settings = {
            "model": self.model,
            "optimizer": torch.optim.Adam(self.model.parameters(), lr=1e-3),
            "train_mb_size": 10,
            "train_epochs": 1,
            "evaluator": _silent(),
        }
        self.strategy = self.make(settings)

    def make(self, settings: dict[str, Any]) -> Any:
        from avalanche.training.plugins import ReplayPlugin
        from avalanche.training.storage_policy import ReservoirSamplingBuffer
        from avalanche.training.supervised import Naive

        plugin = ReplayPlugin(N_STORED, storage_policy=ReservoirSamplingBuffer(N_STORED))
        return Naive(criterion=self.torch.nn.CrossEntropyLoss(), plugins=[plugin], **settings)

    def learn(self, x: np.ndarray, y: np.ndarray) -> list[float]:
        from avalanche.benchmarks import benchmark_from_datasets
        from avalanche.benchmarks.utils import as_classification_dataset

        begin = time.perf_counter()
        for row in x:
            self.predict(row[None])
        pairs = self.torch.utils.data.TensorDataset(
            self.torch.from_numpy(x), self.torch.from_numpy(y)
        )
        pairs.targets = y.tolist()
        dataset = as_classification_dataset(pairs)
        (experience,) = benchmark_from_datasets(train=[dataset]).train_stream
        # The strategy replays from the second experience on.
        experience.current_experience = self.n_experiences
        self.n_experiences += 1
        self.n_seen += len(x)
        self.strategy.train(experience)
        self.model.eval()
        self.is_known[y] = True
        return [(time.perf_counter() - begin) * 1e3 / len(x)] * len(x)

    def predict(self, x: np.ndarray) -> np.ndarray:
        with self.torch.no_grad():
            scores = self.model(self.torch.from_numpy(x)).numpy()
        return np.where(self.is_known, scores, -np.inf).argmax(axis=1)

    def n_bytes(self) -> int:
        # The layer has two moments of Adam beside it.
        n_stored = min(self.n_seen, N_STORED)
        return 4 * (n_stored * self.d + 3 * (self.d + 1) * self.n_classes)


class _ErAce(_Replayed):
    def make(self, settings: dict[str, Any]) -> Any:
        from avalanche.training.supervised import ER_ACE

        return ER_ACE(mem_size=N_STORED, batch_size_mem=10, **settings)


class _RiverKnn(_Peer):
    is_slow = True

    def __init__(self, d: int, n_classes: int, seed: int) -> None:
        from river import neighbors

        engine = neighbors.LazySearch(
            window_size=N_STORED, dist_func=lambda a, b: np.linalg.norm(a["x"] - b["x"])
        )
        self.d, self.n_seen = d, 0
        self.model = neighbors.KNNClassifier(n_neighbors=5, engine=engine)

    def learn(self, x: np.ndarray, y: np.ndarray) -> list[float]:
        self.n_seen += len(x)
        return self.one_by_one(x, y, lambda row, c: self.model.learn_one({"x": row}, c))

    def predict(self, x: np.ndarray) -> np.ndarray:
        guesses = [self.model.predict_one({"x": row}) for row in x]
        return np.array([-1 if g is None else g for g in guesses])

    def n_bytes(self) -> int:
        return 4 * min(self.n_seen, N_STORED) * self.d


class _Sgd(_Peer):
    def __init__(self, d: int, n_classes: int, seed: int) -> None:
        from sklearn.linear_model import SGDClassifier
        from sklearn.preprocessing import StandardScaler

        self.scaler = StandardScaler()
        self.model = SGDClassifier(random_state=seed)
        self.classes = np.arange(n_classes)
        self.is_known = np.zeros(n_classes, bool)

    def learn(self, x: np.ndarray, y: np.ndarray) -> list[float]:
        return self.one_by_one(x, y, self._fit)

    def predict(self, x: np.ndarray) -> np.ndarray:
        if not self.is_known.any():
            return np.zeros(len(x), np.int64)
        scores = self.model.decision_function(self.scaler.transform(x))
        return np.where(self.is_known, scores, -np.inf).argmax(axis=1)

    def n_bytes(self) -> int:
        return int(self.model.coef_.nbytes + self.scaler.mean_.nbytes + self.scaler.var_.nbytes)

    def _fit(self, row: np.ndarray, c: int) -> None:
        self.scaler.partial_fit(row[None])
        self.model.partial_fit(self.scaler.transform(row[None]), [c], classes=self.classes)
        self.is_known[c] = True


PEERS: dict[str, tuple[str, type]] = {
    "StreamingLDA": ("avalanche-lib", _StreamingLda),
    "NCM": ("avalanche-lib", _Ncm),
    "Replay": ("avalanche-lib", _Replayed),
    "ER-ACE": ("avalanche-lib", _ErAce),
    "River kNN": ("river", _RiverKnn),
    "SGDClassifier": ("scikit-learn", _Sgd),
}
STREAMS: dict[str, Callable[[np.ndarray, int], Stream]] = {
    "class by class": lambda y, seed: class_incremental(y, 1, seed),
    "blurry": lambda y, seed: blurry(y, 5, seed),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, help="folder in which features are kept")
    parser.add_argument("--quick", action="store_true", help="a small run: digits, one order")
    parser.add_argument("--data", default="fashion,digits", help="data sets, with commas")
    parser.add_argument("--methods", default=";".join((*VARIANTS, *PEERS)), help="with ;")
    parser.add_argument("--backbones", default=DEFAULT_BACKBONE, help="timm names, with commas")
    parser.add_argument("--orders", type=int, default=3, help="orders of the classes")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        cache = options.cache or Path(place)
        makers = {"fashion": fashion, "digits": digits}
        names = ["digits"] if options.quick else options.data.split(",")
        for name, backbone in product(names, options.backbones.split(",")):
            data = makers[name](cache, backbone)
            if options.quick:
                data = small(data)
            orders = range(1 if options.quick else options.orders)
            for stream_name in STREAMS:
                print_table(data, stream_name, options.methods.split(";"), orders)


def print_table(data: Data, stream_name: str, methods: list[str], orders: range) -> None:
    print(
        f"\n{data.name}, {stream_name}: {len(data.x)} learned, {len(data.test_x)} tested, "
        f"{data.x.shape[1]} features, {len(orders)} orders, {N_STORED} stored; WC-ACC every "
        f"{data.every} samples on {data.n_fixed} test samples\n\n"
        "| method | average | last | forgetting | WC-ACC | ms median | ms mean | kB a class "
        "| peak MB | forget |\n" + "|---" * 10 + "|"
    )
    for name in methods:
        print(line(data, stream_name, name, orders), flush=True)


def line(data: Data, stream_name: str, name: str, orders: range) -> str:
    """Measure one method on all orders of one stream; returns a line of the table."""
    results = []
    for seed in orders:
        stream = STREAMS[stream_name](data.y, seed)
        with tempfile.TemporaryDirectory() as place:
            try:
                method = make(name, data.x.shape[1], len(np.unique(data.y)), seed, Path(place))
            except ImportError as error:
                package = PEERS[name][0] if name in PEERS else "torch"
                blank = " |" * 8
                return f"| {name} | not installed: pip install {package} ({error}) |{blank}"
            results.append(measure(method, stream, data))
    cells = [
        spread([getattr(r, key) for r in results])
        for key in ("average", "last", "forgetting", "worst")
    ]
    times = np.concatenate([r.times for r in results])
    size = np.mean([r.bytes_per_class for r in results]) / 1e3
    peak = max(r.peak for r in results)
    numbers = f"{np.median(times):.3f} | {times.mean():.3f} | {size:.0f} | {peak:.0f}"
    return f"| {name} | {' | '.join(cells)} | {numbers} | {results[0].forget} |"


def make(name: str, d: int, n_classes: int, seed: int, place: Path) -> Method:
    if name in VARIANTS:
        return _Ours(name, d, seed, place)
    if name not in PEERS:
        sys.exit(f"method {name!r} is unknown; expected one of {'; '.join((*VARIANTS, *PEERS))}")
    return PEERS[name][1](d, n_classes, seed)


def measure(method: Method, stream: Stream, data: Data) -> Result:
    """Learn a stream; evaluates every `every` samples and at the end of each task."""
    reset_peak()
    y = data.y[stream.indices]
    codes = {c: i for i, c in enumerate(dict.fromkeys(y.tolist()))}
    y = np.array([codes[c] for c in y.tolist()])
    task_of_class = np.array(
        [np.bincount(stream.tasks[y == c]).argmax() for c in range(len(codes))]
    )
    test_y = np.array([codes[c] for c in data.test_y.tolist()])
    order = np.random.default_rng(0).permutation(len(test_y))
    if method.is_slow:
        order = order[: data.n_fixed]
    test_x, test_y = data.test_x[order], test_y[order]
    test_tasks = task_of_class[test_y]

    ends, fixed, current, times = [], [], [], []
    filled = [k for k in range(stream.n_tasks) if (stream.tasks == k).any()]
    for k in filled:
        first, end = np.searchsorted(stream.tasks, [k, k + 1]).tolist()
        cuts = [n for n in range(first + 1, end) if n % data.every == 0]
        for a, b in zip([first, *cuts], [*cuts, end], strict=True):
            rows = data.x[stream.indices[a:b]]
            times += method.learn(rows, y[a:b])
            n = len(test_x) if b == end else data.n_fixed
            is_right = method.predict(test_x[:n]) == test_y[:n]
            part = slice(0, data.n_fixed)
            is_seen = np.arange(stream.n_tasks) <= k
            fixed.append(accuracy_by_task(is_right[part], test_tasks[part], is_seen))
            current.append(k)
            if b == end:
                ends.append(accuracy_by_task(is_right, test_tasks[:n], is_seen))
    if isinstance(method, _StreamingLda):
        times = method.timed()
    if isinstance(method, _Ours):
        method.learner.settle()
    table = np.array(ends)
    return Result(
        average=average_incremental(table),
        last=float((method.predict(test_x) == test_y).mean()),
        forgetting=forgetting(table),
        worst=float(worst_case_accuracy(np.array(fixed), np.array(current))[-1]),
        times=np.array(times),
        bytes_per_class=method.n_bytes() / len(codes),
        peak=peak_mb(),
        forget=method.forget(),
    )


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.4f} +- {(max(values) - min(values)) / 2:.4f}"


def small(data: Data) -> Data:
    """Return every fourth sample of a data set."""
    return Data(
        data.name, data.x[::4], data.y[::4], data.test_x[::4], data.test_y[::4], data.every, 50
    )


def fashion(cache: Path, backbone: str = DEFAULT_BACKBONE) -> Data:
    def pictures() -> dict[str, list[Frame]]:
        x, y = fashion_data.load("train")
        tx, ty = fashion_data.load("t10k")
        chosen = fashion_data.class_by_class(y, 1200, np.arange(10))
        return {
            "train": fashion_data.frames(x, y, chosen),
            "test": fashion_data.frames(tx, ty, np.arange(4000)),
        }

    path = cache / f"fashion{_of(backbone)}-112.npz"
    return _cached("Fashion-MNIST", path, pictures, backbone, every=500, n_fixed=500)


def digits(cache: Path, backbone: str = DEFAULT_BACKBONE) -> Data:
    def pictures() -> dict[str, list[Frame]]:
        from sklearn.datasets import load_digits

        found = load_digits()
        grey = np.round(found.images * 15.9375).astype(np.uint8)
        every = [
            Frame(id=str(i), pixels=np.repeat(g[:, :, None], 3, axis=2), label=f"class-{c}")
            for i, (g, c) in enumerate(zip(grey, found.target.tolist(), strict=True))
        ]
        return {"train": [f for i, f in enumerate(every) if i % 3], "test": every[::3]}

    path = cache / f"digits{_of(backbone)}-112.npz"
    return _cached("digits", path, pictures, backbone, every=50, n_fixed=300)


def _of(backbone: str) -> str:
    return "" if backbone == DEFAULT_BACKBONE else f"-{backbone}"


def _cached(
    name: str,
    path: Path,
    pictures: Callable[[], dict[str, list[Frame]]],
    backbone: str,
    *,
    every: int,
    n_fixed: int,
) -> Data:
    """Read features, or make them with the engine of a new home and keep them."""
    if not path.is_file():
        from edgecl.backbones import load_backbone
        from edgecl.config import Config
        from edgecl.exporters.onnx import init_home
        from edgecl.runtime.pipeline import Embedded, embed

        arrays = {}
        with tempfile.TemporaryDirectory() as place:
            network = load_backbone(backbone, image_size=112)
            home = init_home(Path(place) / "home", network, Config())
            for part, frames in pictures().items():
                groups = embed(iter(frames), home.manifest.preprocessing, home.engine())
                items = [i for group in groups for i in group if isinstance(i, Embedded)]
                arrays[f"{part}_x"] = np.array([i.feature for i in items], np.float32)
                labels = [(i.frame.label or "").removeprefix("class-") for i in items]
                arrays[f"{part}_y"] = np.array(labels, np.int64)
                print(f"{name}: {len(items)} pictures embedded", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)
    kept = np.load(path)
    return Data(
        name + _of(backbone),
        kept["train_x"],
        kept["train_y"],
        kept["test_x"],
        kept["test_y"],
        every,
        n_fixed,
    )


def _silent() -> Any:
    from avalanche.training.plugins import EvaluationPlugin

    return EvaluationPlugin(loggers=[])


if __name__ == "__main__":
    main()
