"""Streams for evaluation: in which order samples come, to which task they belong, what changes.

Functions from labels and a seed to a `Stream` of row numbers; they never see a feature. The same
labels and seed give the same stream.

References: class-incremental tasks as usual; Moon et al. 2023, "Online class incremental learning
on stochastic blurry task boundary via mask and visual prompt tuning" (Si-Blurry),
arXiv:2308.09303; Lesort et al. 2022, "Challenging common assumptions about catastrophic
forgetting" (SCoLe), arXiv:2207.04543. Departures from the released Si-Blurry sampler: classes that
rounding leaves over come in the last task instead of never, what is blurred is drawn at random
instead of taken in file order, the rest of a pool that does not divide goes to the last task, empty
tasks keep their number, and the generators are explicit. The rewriting stream is of this project:
after a class-incremental beginning, classes change their label or their look.

This module is a little long because the four streams share how rows are drawn and shuffled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgecl.errors import UsageError

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# Classes rewritten at one event, and the share of their new rows that come with a label.
LEVELS = {"trivial": (1, 1.0), "medium": (3, 1.0), "extreme": (3, 0.1)}
SAMPLERS = ("uniform", "decreasing", "cyclic")
KINDS = ("relabel", "reappear", "swap")


@dataclass(frozen=True, slots=True)
class Event:
    """One class that is rewritten.

    Args:
        task: Task with which it begins.
        kind: One of `KINDS`.
        source: The class in the labels that the stream was made from; it names the pictures.
        old: Label of these pictures before.
        new: Label from now on; `old` when they only look different.
    """

    task: int
    kind: str
    source: int
    old: int
    new: int


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Samples in the order in which they come.

    Args:
        indices: Rows of the data, shape (N,).
        tasks: Task of each, shape (N,), never decreasing.
        labels: Label with which each comes, shape (N,).
        is_labelled: Whether the learner is told the label, shape (N,).
        n_tasks: Tasks, empty ones among them.
        events: What was rewritten, in order.
    """

    indices: Ints
    tasks: Ints
    labels: Ints
    is_labelled: Bools
    n_tasks: int
    events: tuple[Event, ...] = ()

    def task(self, k: int) -> Ints:
        """Return the rows of task k, in order; none when it is empty.

        Raises:
            UsageError: There is no such task.
        """
        if not 0 <= k < self.n_tasks:
            raise UsageError(
                f"task {k} does not exist; the stream has tasks 0 to {self.n_tasks - 1}"
            )
        first, end = np.searchsorted(self.tasks, [k, k + 1])
        return self.indices[first:end]


@dataclass(frozen=True, slots=True)
class Recurrence:
    """How often classes come back.

    Args:
        unseen_share: Share of the classes that no task held.
        mean_gap: Mean distance, in tasks, from one task of a class to its next; NaN without any.
        counts: Tasks of each class, shape (C,), in the order of the sorted labels.
    """

    unseen_share: float
    mean_gap: float
    counts: Ints


def class_incremental(y: npt.ArrayLike, classes_per_task: int, seed: int) -> Stream:
    """Return tasks of new classes: every class comes in one task, every row once.

    Args:
        y: Labels, shape (N,), integers.
        classes_per_task: Classes of a task; the last one has what is left.
        seed: Seed of the order of the classes, and of the rows inside a task.

    Raises:
        UsageError: No labels, or less than one class a task.

    Example:
        >>> stream = class_incremental([0, 1, 0, 1], 1, seed=0)
        >>> stream.n_tasks, sorted(stream.indices.tolist())
        (2, [0, 1, 2, 3])
    """
    labels = _labels(y)
    _at_least("classes_per_task", classes_per_task, 1)
    class_rng, _, row_rng = _generators(seed)
    order = class_rng.permutation(np.unique(labels))
    parts = [order[i : i + classes_per_task] for i in range(0, len(order), classes_per_task)]
    return _stream(labels, [_rows_of(labels, part) for part in parts], row_rng)


def blurry(
    y: npt.ArrayLike,
    n_tasks: int,
    seed: int,
    *,
    disjoint_percent: float = 50.0,
    blurry_percent: float = 10.0,
    is_varying: bool = False,
) -> Stream:
    """Return Si-Blurry tasks: some classes in one task only, of the others a part in every task.

    Args:
        y: Labels, shape (N,), integers.
        n_tasks: Tasks T.
        seed: Seed of all random choices.
        disjoint_percent: Percentage n of classes that come in one task only. Both groups are cut
            to a multiple of T; what is left over comes in the last task and is not blurred.
        blurry_percent: Percentage m of the other classes' rows that leave their task for another.
        is_varying: Draw the sizes of tasks at random (a task may be empty) instead of equal ones.
            A task then gets as many blurred rows as it gives, at most what it has.

    Returns:
        Stream: every row once.

    Raises:
        UsageError: No labels, less than one task, or a percentage outside 0 to 100.
    """
    labels = _labels(y)
    _at_least("n_tasks", n_tasks, 1)
    for name, value in (("disjoint_percent", disjoint_percent), ("blurry_percent", blurry_percent)):
        if not 0 <= value <= 100:
            raise UsageError(f"{name} is {value}; expected 0 to 100")
    class_rng, pool_rng, row_rng = _generators(seed)
    order = class_rng.permutation(np.unique(labels))
    n_disjoint = _multiple(int(len(order) * disjoint_percent / 100), n_tasks)
    n_blurry = _multiple(len(order) - n_disjoint, n_tasks)
    groups = []
    for group in (order[:n_disjoint], order[n_disjoint : n_disjoint + n_blurry]):
        cuts = np.arange(1, n_tasks) * (len(group) // n_tasks)
        if is_varying:
            cuts = np.sort(pool_rng.integers(0, max(len(group), 1), n_tasks - 1))
        groups.append(np.split(group, cuts))
    disjoint, blurred = ([_rows_of(labels, part) for part in group] for group in groups)
    disjoint[-1] = np.append(disjoint[-1], _rows_of(labels, order[n_disjoint + n_blurry :]))
    blurred = _blur(blurred, blurry_percent / 100, pool_rng, is_varying=is_varying)
    rows = [np.sort(np.append(a, b)) for a, b in zip(disjoint, blurred, strict=True)]
    return _stream(labels, rows, row_rng)


def recurring(
    y: npt.ArrayLike,
    n_tasks: int,
    classes_per_task: int,
    seed: int,
    *,
    sampler: str = "uniform",
    decrease: float = 0.0,
    per_class: int | None = None,
) -> Stream:
    """Return SCoLe tasks: each draws a few of all classes, so that classes and rows come back.

    Args:
        y: Labels, shape (N,), integers.
        n_tasks: Tasks T, hundreds to thousands.
        classes_per_task: Classes c of a task, drawn without repetition.
        seed: Seed of all random choices.
        sampler: `uniform`; `decreasing`, where the next class of a random order is (1 - decrease)
            times as likely, which lowers the entropy of the draw; `cyclic`, in turn.
        decrease: 0 (as `uniform`) to below 1; for `decreasing` only.
        per_class: Rows of a class in a task, drawn anew each time; None takes them all.

    Raises:
        UsageError: No labels, or a setting out of its range.
    """
    labels = _labels(y)
    _at_least("n_tasks", n_tasks, 1)
    _known("sampler", sampler, SAMPLERS)
    class_rng, draw_rng, row_rng = _generators(seed)
    order = class_rng.permutation(np.unique(labels))
    if not 1 <= classes_per_task <= len(order):
        raise UsageError(
            f"classes_per_task is {classes_per_task}; the labels hold {len(order)} classes, "
            f"expected 1 to {len(order)}"
        )
    if not 0 <= decrease < 1 or (decrease and sampler != "decreasing"):
        raise UsageError(
            f"decrease is {decrease} with sampler {sampler!r}; expected 0 to below 1 with "
            "'decreasing', 0 with another"
        )
    if per_class is not None:
        _at_least("per_class", per_class, 1)
    share = (1 - decrease) ** np.arange(len(order))
    share /= share.sum()
    if np.count_nonzero(share) < classes_per_task:
        raise UsageError(
            f"decrease is {decrease}; fewer than {classes_per_task} classes stay possible, "
            "take a smaller one"
        )
    rows_of = {c: np.flatnonzero(labels == c) for c in order.tolist()}
    tasks = []
    for k in range(n_tasks):
        if sampler == "cyclic":
            at = (k * classes_per_task + np.arange(classes_per_task)) % len(order)
        else:
            at = draw_rng.choice(len(order), classes_per_task, replace=False, p=share)
        chosen = [rows_of[c] for c in order[at].tolist()]
        if per_class is not None:
            chosen = [row_rng.permutation(rows)[:per_class] for rows in chosen]
        tasks.append(np.concatenate(chosen))
    return _stream(labels, tasks, row_rng)


def rewriting(
    y: npt.ArrayLike,
    classes_per_task: int,
    seed: int,
    *,
    kind: str,
    level: str = "trivial",
    n_events: int = 5,
    modes: npt.ArrayLike | None = None,
) -> Stream:
    """Return class-incremental tasks, then tasks in which classes learned before are rewritten.

    Every event is one task. Which classes it rewrites is drawn first; the rows of a class are
    shared equally between its first task and its events, so that every row comes once and none is
    seen under two labels.

    Args:
        y: Labels, shape (N,), integers; a class is a group of pictures that keeps together.
        classes_per_task: Classes of a task in the beginning.
        seed: Seed of all random choices.
        kind: `relabel` gives the pictures a label that was never used, `swap` exchanges the labels
            of two classes, `reappear` keeps the label and shows the rows of another mode.
        level: One of `LEVELS`: how many classes (for `swap`: pairs) change at an event and which
            share of their rows is labelled; at least one row of each is.
        n_events: Events, one after the other.
        modes: Look of every row, shape (N,), for `reappear` only: rows of mode 0 are learned
            first, the others come at the events of their class. Those of a class without an event
            never come.

    Raises:
        UsageError: No labels, an unknown kind or level, too few classes, or a class with too few
            rows to be seen before and after.
    """
    labels = _labels(y)
    _at_least("classes_per_task", classes_per_task, 1)
    _at_least("n_events", n_events, 1)
    _known("kind", kind, KINDS)
    _known("level", level, tuple(LEVELS))
    n_changes, labelled_share = LEVELS[level]
    class_rng, draw_rng, row_rng = _generators(seed)
    order = class_rng.permutation(np.unique(labels))
    n_picked = n_changes * (2 if kind == "swap" else 1)
    if n_picked > len(order):
        raise UsageError(
            f"kind {kind!r} at level {level!r} changes {n_picked} classes at once; the labels hold "
            f"{len(order)}"
        )
    picks = [draw_rng.choice(order, n_picked, replace=False).tolist() for _ in range(n_events)]
    chunks = _chunks(labels, order.tolist(), picks, _modes(modes, labels, kind), draw_rng)

    tasks: list[Ints] = []
    for start in range(0, len(order), classes_per_task):
        part = order[start : start + classes_per_task].tolist()
        tasks.append(np.concatenate([chunks[c].pop(0) for c in part]))
    n_before = len(tasks)
    now = {c: c for c in order.tolist()}
    told = labels.copy()
    is_labelled = np.ones(len(labels), bool)
    events: list[Event] = []
    n_fresh = 0
    for k, picked in enumerate(picks):
        after = dict(now)
        for i, c in enumerate(picked):
            if kind == "relabel":
                n_fresh += 1
                after[c] = int(labels.max()) + n_fresh
            elif kind == "swap":
                after[c] = now[picked[i ^ 1]]
            rows = chunks[c].pop(0)
            told[rows] = after[c]
            is_labelled[rows[max(1, round(len(rows) * labelled_share)) :]] = False
            tasks.append(rows) if i == 0 else tasks.append(np.append(tasks.pop(), rows))
            events.append(Event(n_before + k, kind, c, now[c], after[c]))
        now = after
    return _stream(told, tasks, row_rng, is_labelled, tuple(events))


def recurrence(y: npt.ArrayLike, stream: Stream) -> Recurrence:
    """Return how often the classes of labels (N,) come back in a stream over them."""
    labels = _labels(y)
    classes = np.unique(labels)
    column = np.searchsorted(classes, labels[stream.indices])
    is_there = np.zeros((stream.n_tasks, len(classes)), bool)
    is_there[stream.tasks, column] = True
    gaps = [np.diff(np.flatnonzero(is_there[:, i])) for i in range(len(classes))]
    every = np.concatenate(gaps)
    counts = is_there.sum(axis=0).astype(np.int64)
    return Recurrence(
        float((counts == 0).mean()), float(every.mean()) if len(every) else float("nan"), counts
    )


def unseen_probability(n_classes: int, classes_per_task: int, n_tasks: int) -> float:
    """Return the probability that a class is in none of T uniform tasks, (1 - c / C)^T.

    Example:
        >>> round(unseen_probability(100, 10, 50), 4)
        0.0052
    """
    return float((1 - classes_per_task / n_classes) ** n_tasks)


def _generators(seed: int) -> tuple[np.random.Generator, np.random.Generator, np.random.Generator]:
    """Return generators for classes, draws and rows, so that none shifts another."""
    _at_least("seed", seed, 0)
    a, b, c = np.random.default_rng(seed).spawn(3)
    return a, b, c


def _stream(
    labels: Ints,
    tasks: Sequence[Ints],
    rng: np.random.Generator,
    is_labelled: Bools | None = None,
    events: tuple[Event, ...] = (),
) -> Stream:
    """Shuffle every task and put them one behind the other."""
    indices = np.concatenate([rng.permutation(rows) for rows in tasks])
    return Stream(
        indices=indices,
        tasks=np.repeat(np.arange(len(tasks)), [len(rows) for rows in tasks]),
        labels=labels[indices],
        is_labelled=np.ones(len(indices), bool) if is_labelled is None else is_labelled[indices],
        n_tasks=len(tasks),
        events=events,
    )


def _blur(
    parts: list[Ints], share: float, rng: np.random.Generator, *, is_varying: bool
) -> list[Ints]:
    """Exchange a share of the rows between tasks."""
    parts = [rng.permutation(rows) for rows in parts]
    if is_varying:
        n_pool = int(share * sum(map(len, parts)))
        cuts = np.sort(rng.integers(0, n_pool + 1, len(parts) - 1))
        wanted = np.diff(np.concatenate([[0], cuts, [n_pool]]))
        given = np.minimum(wanted, [len(rows) for rows in parts])
        taken = given
    else:
        given = np.array([int(share * len(rows)) for rows in parts], np.int64)
        taken = np.full(len(parts), given.sum() // len(parts))
        taken[-1] += given.sum() % len(parts)
    pool = rng.permutation(np.concatenate([r[:n] for r, n in zip(parts, given, strict=True)]))
    shares = np.split(pool, np.cumsum(taken)[:-1])
    return [np.append(r[n:], s) for r, n, s in zip(parts, given, shares, strict=True)]


def _chunks(
    labels: Ints,
    order: list[int],
    picks: list[list[int]],
    modes: Ints | None,
    rng: np.random.Generator,
) -> dict[int, list[Ints]]:
    """Return for every class the rows of its first task and of each of its events."""
    chunks: dict[int, list[Ints]] = {}
    for c in order:
        n_events = sum(c in picked for picked in picks)
        rows = rng.permutation(np.flatnonzero(labels == c))
        if modes is None:
            chunks[c] = list(np.array_split(rows, n_events + 1))
        else:
            later = np.array_split(rows[modes[rows] != 0], n_events) if n_events else []
            chunks[c] = [rows[modes[rows] == 0], *later]
        if not all(map(len, chunks[c])):
            raise UsageError(
                f"class {c} has {len(rows)} rows, too few to be learned once and rewritten "
                f"{n_events} times; give more rows or fewer events"
            )
    return chunks


def _modes(modes: npt.ArrayLike | None, labels: Ints, kind: str) -> Ints | None:
    if (modes is None) == (kind == "reappear"):
        raise UsageError(f"kind {kind!r} {'needs' if modes is None else 'takes no'} modes")
    if modes is None:
        return None
    found = np.asarray(modes, np.int64)
    if found.shape != labels.shape:
        raise UsageError(
            f"modes have shape {found.shape}, labels {labels.shape}; expected one each"
        )
    return found


def _rows_of(labels: Ints, classes: Ints) -> Ints:
    return np.flatnonzero(np.isin(labels, classes))


def _multiple(n: int, of: int) -> int:
    return n - n % of


def _labels(y: npt.ArrayLike) -> Ints:
    labels = np.asarray(y)
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(
            f"labels have shape {labels.shape} and type {labels.dtype}; expected (N,) integers, "
            "at least one"
        )
    return labels.astype(np.int64)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"{name} is {value}; expected {least} or more")


def _known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{name} {value!r} is unknown; expected one of {', '.join(known)}")
