"""How a home's kind of head learns a stream of a labelled source: in a store of its own, then gone.

The source's pictures are looked at once by the home's engine; a third of each class tests, the rest
comes in the order of the stream. Every figure is that of a head that begins with nothing, beside
the home's settings of head, replay and capacity; the home itself is not changed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgecl.config import Config
from edgecl.errors import SourceError, UsageError
from edgecl.evaluation.continual import forgetting, worst_case_accuracy
from edgecl.evaluation.rewriting import rewriting
from edgecl.evaluation.streams import (
    Bools,
    Event,
    Ints,
    Stream,
    blurry,
    domains,
    recurrence,
    recurring,
)
from edgecl.figures import counted
from edgecl.heads import make_head_of
from edgecl.learner import Learner
from edgecl.looked import labelled_features
from edgecl.runtime.codebook import Keys
from edgecl.runtime.grid import quantise
from edgecl.runtime.sources.base import Source
from edgecl.session import Session
from edgecl.store.moves import move_all
from edgecl.store.runs import Start, begin_run
from edgecl.store.store import Store, create_store
from edgecl.types import Float16, Float32, Float64, Frame, Say, Skipped

KINDS, ORDERS = ("recurring", "rewriting", "blurry", "domains"), 3
_N_RECURRING = 100
_ROWS_RECURRING = 5
_N_BLURRY = 5
_N_EVENTS = 5
_COMMIT = 20
# A picture is kept beside every feature, and none of these is looked at again.
_BLANK = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636000000002000148afa4710000000049454e44ae426082"
)


@dataclass(frozen=True, slots=True)
class Labelled:
    """Features of labelled pictures.

    Args:
        x: Shape (N, D).
        y: Numbers of their classes (N,).
        domain: Numbers of their domains (N,).
        classes: Names of the classes.
        domains: Names of the domains.
    """

    x: Float16
    y: Ints
    domain: Ints
    classes: tuple[str, ...]
    domains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Streamed:
    """What one order of a stream came to.

    Args:
        learned: Rows that were learned; a row that comes again counts again.
        tested: Rows that tested.
        average: Accuracy over all that was seen, mean of the ends of the tasks (AIA).
        last: Accuracy at the end, of all classes.
        forgetting: FM over the ends of the tasks.
        worst_case: WC-ACC over the ends of the tasks.
        weakest: Accuracy of the weakest class at the end.
        joint: Accuracy of the same head that learns the same rows in a shuffled order.
        extra: Figures of this kind of stream alone.
    """

    learned: int
    tested: int
    average: float
    last: float
    forgetting: float
    worst_case: float
    weakest: float
    joint: float
    extra: dict[str, float] = field(default_factory=dict)

    def figures(self) -> dict[str, float]:
        """Return all figures by name."""
        names = ("average", "last", "forgetting", "worst_case", "weakest", "joint")
        return {name: getattr(self, name) for name in names} | self.extra


def evaluate_on_streams(
    of: Labelled,
    kind: str,
    config: Config,
    *,
    keys: Keys | None = None,
    feature_map: str = "0" * 64,
    say: Say = lambda what, done, total: None,
) -> list[Streamed]:
    """Learn a stream in several orders.

    Args:
        of: What the stream is made of.
        kind: One of `KINDS`.
        config: Head, replay and capacity.
        keys: Keys of a head that needs them.
        feature_map: Hash of the map that made the features.
        say: Told after every order.

    Raises:
        UsageError: The stream cannot be made of these rows.
    """
    check_kind(kind)
    results = []
    for seed in range(ORDERS):
        with tempfile.TemporaryDirectory() as place:
            run = _Run(of, config, keys, feature_map, Path(place))
            results.append(run.measured(kind, seed))
        say("orders", seed + 1, ORDERS)
    return results


def check_kind(kind: str) -> None:
    """Check that a kind of stream is known.

    Raises:
        UsageError: It is not.
    """
    if kind not in KINDS:
        raise UsageError(f"stream {kind!r} is unknown; expected one of {', '.join(KINDS)}")


def labelled(x: Sequence[Float32], labels: Sequence[str], places: Sequence[str]) -> Labelled:
    """Put features with their labels and domains together.

    Raises:
        SourceError: Fewer than two classes, or one of fewer than six pictures.
    """
    classes, y, n = np.unique(np.array(labels, str), return_inverse=True, return_counts=True)
    few = [f"{name} {k}" for name, k in zip(classes.tolist(), n.tolist(), strict=True) if k < 6]
    if len(classes) < 2 or few:
        found = f"; too few of {', '.join(few[:5])}" if few else ""
        raise SourceError(
            "a stream needs two classes at least, and six pictures of each; "
            f"{counted(len(classes), 'class')} came{found}"
        )
    names, domain = np.unique(np.array(places, str), return_inverse=True)
    rows = quantise(np.array(x, np.float32))
    return Labelled(
        rows,
        y.astype(np.int64),
        domain.astype(np.int64),
        tuple(classes.tolist()),
        tuple(names.tolist()),
    )


def summary(results: Sequence[Streamed]) -> dict[str, Any]:
    """Return mean and half of the range of every figure over the orders, JSON values."""
    figures = [result.figures() for result in results]
    out: dict[str, Any] = {}
    for name in figures[0]:
        known = [f[name] for f in figures if np.isfinite(f[name])]
        out[name] = float(np.mean(known)) if known else None
        out[f"{name}_spread"] = (max(known) - min(known)) / 2 if known else None
    return out


def gathered(
    session: Session, source: Source, *, limit: int | None = None
) -> tuple[Labelled, list[Skipped]]:
    """Look at all labelled pictures of a source once; returns them, and what was skipped.

    The home gives its engine; it need not have learned anything.

    The domain of a picture is the folder between its class's and itself (`cup/camera-2/1.jpg`), or
    what its source is called.
    """
    x, labels, places = [], [], []
    skipped: list[Skipped] = []
    if source.kind != "finite" and limit is None:
        raise UsageError(
            f"{source.name} has no end, and a stream is made of all its pictures; name a folder or "
            "a list, or take so many with --limit"
        )
    for item in labelled_features(session, source, most=limit):
        if isinstance(item, Skipped):
            skipped.append(item)
        else:
            folders = item.frame.id.split("/")[1:-1]
            x.append(item.feature)
            labels.append(item.frame.label or "")
            places.append(folders[0] if folders else item.frame.source or "")
    return labelled(x, labels, places), skipped


def _tested(y: Ints) -> Ints:
    """Return the rows (M,) that test: a third of each class, drawn once."""
    rng = np.random.default_rng(17)
    parts = [rng.permutation(np.flatnonzero(y == c)) for c in np.unique(y)]
    return np.sort(np.concatenate([rows[: len(rows) // 3] for rows in parts]))


class _Run:
    """One order of a stream: what learns it, and what tests."""

    def __init__(
        self, of: Labelled, config: Config, keys: Keys | None, feature_map: str, place: Path
    ) -> None:
        self._config, self._keys, self._map, self._place = config, keys, feature_map, place
        self._tests = _tested(of.y)
        rows = np.setdiff1d(np.arange(len(of.y)), self._tests)
        self._x, self._y, self._domain = of.x[rows], of.y[rows], of.domain[rows]
        self._test_x, self._test_y = of.x[self._tests], of.y[self._tests]
        self._domains = of.domains

    def measured(self, kind: str, seed: int) -> Streamed:
        """Learn the stream of a seed, and the same rows shuffled."""
        stream = self._stream(kind, seed)
        truth = _truth_after(self._test_y, stream)
        again = np.random.default_rng([seed, 19]).permutation(len(stream.indices))
        final = _truth_after(self._y, stream)[stream.indices]
        whole = np.ones(len(again), np.bool_)
        one_task = np.zeros(len(again), np.int64)
        joint = Stream(stream.indices[again], one_task, final[again], whole, 1)
        learned = self._learned(stream, seed)
        bound = self._learned(joint, seed, truth=truth)
        extra: dict[str, float] = {}
        if kind == "recurring":
            found = recurrence(self._y, stream)
            extra = {"unseen": found.unseen_share, "gap": found.mean_gap}
        if kind == "rewriting":
            moved = self._learned(stream, seed, moves=True)
            extra = {
                "stale": float(np.mean(learned.stale)),
                "stale_relabelled": float(np.mean(moved.stale)),
                "rewritten": float(np.mean(learned.rewritten)),
                "rewritten_relabelled": float(np.mean(moved.rewritten)),
            }
        came = [stream.labels[stream.tasks == k] for k in range(stream.n_tasks)]
        newest = [int(np.bincount(labels).argmax()) if len(labels) else 0 for labels in came]
        end, last = learned.table[-1], learned.right
        return Streamed(
            learned=len(stream.indices),
            tested=len(self._tests),
            average=float(np.nanmean([np.nanmean(row) for row in learned.table])),
            last=last,
            forgetting=forgetting(learned.table),
            worst_case=float(worst_case_accuracy(learned.table, np.array(newest))[-1]),
            weakest=float(np.nanmin(end)),
            joint=bound.right,
            extra=extra,
        )

    def _stream(self, kind: str, seed: int) -> Stream:
        k = len(np.unique(self._y))
        if kind == "recurring":
            return recurring(self._y, _N_RECURRING, min(2, k), seed, per_class=_ROWS_RECURRING)
        if kind == "rewriting":
            return rewriting(self._y, max(1, k // 5), seed, kind="relabel", n_events=_N_EVENTS)
        if kind == "blurry":
            return blurry(self._y, min(_N_BLURRY, k), seed)
        if len(self._domains) < 2:
            raise UsageError(
                "all pictures are of one domain; expected folders inside the classes "
                "(CLASS/CAMERA/picture.jpg)"
            )
        return domains(self._y, self._domain, seed)

    def _learned(
        self, stream: Stream, seed: int, *, truth: Ints | None = None, moves: bool = False
    ) -> _Learned:
        """Learn a stream.

        Args:
            stream: What comes.
            seed: Of what is kept and replayed.
            truth: Labels of the test rows; None changes them with the events.
            moves: Tell at the first row of a new label that what was learned is of it as well.
        """
        told = self._test_y.copy() if truth is None else truth
        n_labels = 1 + int(max(stream.labels.max(), told.max()))
        table, stale, rewritten = [], [], []
        learner = self._learner(seed)
        with closing(learner.store):
            for task in range(stream.n_tasks):
                rows = np.flatnonzero((stream.tasks == task) & stream.is_labelled)
                events = [event for event in stream.events if event.task == task]
                for event in events if moves else ():
                    first = rows[self._y[stream.indices[rows]] == event.source][:1]
                    self._learn(learner, first, stream)
                    _move(learner, event)
                self._learn(learner, rows, stream)
                answers = self._answers(learner)
                for event in events:
                    own = self._test_y == event.source
                    told[own] = event.new
                    stale.append(float((answers[own] == event.old).mean()))
                    rewritten.append(float((answers[own] == event.new).mean()))
                table.append(_accuracy(learner, answers == told, told, n_labels))
            learner.settle()
            right = self._answers(learner) == told
            table[-1] = _accuracy(learner, right, told, n_labels)
        return _Learned(np.array(table), float(right.mean()), stale, rewritten)

    def _learn(self, learner: Learner, rows: Ints, stream: Stream) -> None:
        for start in range(0, len(rows), _COMMIT):
            part = rows[start : start + _COMMIT]
            frames = [
                Frame(id=str(k), encoded=_BLANK, label=_name(int(stream.labels[k]))) for k in part
            ]
            learner.learn_many(frames, self._x[stream.indices[part]].astype(np.float32))

    def _answers(self, learner: Learner) -> Ints:
        """Return the label (M,) of every test row."""
        labels = np.array([_number(name) for name in learner.labels])
        best: Ints = labels[learner.predict_many(self._test_x.astype(np.float32)).argmax(axis=1)]
        return best

    def _learner(self, seed: int) -> Learner:
        width = self._x.shape[1]
        head = make_head_of(self._config.head, width, codebook=self._keys)
        place = self._place / "store.db"
        for old in self._place.glob("store.db*"):
            old.unlink()
        create_store(
            place,
            feature_map=self._map,
            num_features=width,
            second_moment=head.statistic.name,
            codebook=self._keys,
        )
        store = Store(place, capacity_samples=self._config.store.capacity_samples)
        return Learner(store, head, seed=seed)


@dataclass(frozen=True)
class _Learned:
    """Accuracy by task end and label (T, C), of all tests at the end, and of rewritten classes."""

    table: Float64
    right: float
    stale: list[float]
    rewritten: list[float]


def _accuracy(learner: Learner, right: Bools, told: Ints, n_labels: int) -> Float64:
    """Return the accuracy (C,) of every label; NaN of one that is not known or not tested."""
    known = {_number(name) for name in learner.labels}
    out = np.full(n_labels, np.nan)
    for c in known & set(told.tolist()):
        out[c] = right[told == c].mean()
    return out


def _move(learner: Learner, event: Event) -> None:
    """Give all that was learned under an old label the new one, as `edgecl relabel` does."""
    store = learner.store
    with store.transaction():
        begin_run(store, Start())  # names that are kept for an undo are those of one run
        move_all(store, store.class_uid(_name(event.old)), store.class_uid(_name(event.new)))
        learner.head.rebuild(store)
        learner.save_state()


def _truth_after(y: Ints, stream: Stream) -> Ints:
    """Return the labels (N,) of classes (N,) after all events."""
    now = {event.source: event.new for event in stream.events}
    return np.array([now.get(c, c) for c in y.tolist()], dtype=np.int64)


def _name(label: int) -> str:
    return f"class {label}"


def _number(name: str) -> int:
    return int(name.removeprefix("class "))
