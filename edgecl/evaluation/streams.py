"""Streams for evaluation: in which order samples come, to which task they belong, what changes.

Functions from labels and a seed to a `Stream` of row numbers; they never see a feature. The same
labels and seed give the same stream.

References: class-incremental tasks as usual; Moon et al. 2023, "Online class incremental learning
on stochastic blurry task boundary via mask and visual prompt tuning" (Si-Blurry),
arXiv:2308.09303; Lesort et al. 2022, "Challenging common assumptions about catastrophic
forgetting" (SCoLe), arXiv:2207.04543. Departures from the released Si-Blurry sampler: classes that
rounding leaves over come in the last task instead of never, what is blurred is drawn at random
instead of taken in file order, the rest of a pool that does not divide goes to the last task, empty
tasks keep their number, and the generators are explicit. Domains one after the other are the core
of a study of medical images that a general model learns hospital by hospital. Streams in which
classes change are in rewriting.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgecl.errors import UsageError

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SAMPLERS = ("uniform", "decreasing", "cyclic")


@dataclass(frozen=True, slots=True)
class Event:
    """One class that is rewritten.

    Args:
        task: Task with which it begins.
        kind: One of `rewriting.KINDS`.
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
    labels = labels_of(y)
    check_least("classes_per_task", classes_per_task, 1)
    class_rng, _, row_rng = generators(seed)
    order = class_rng.permutation(np.unique(labels))
    parts = [order[i : i + classes_per_task] for i in range(0, len(order), classes_per_task)]
    return stream_of(labels, [_rows_of(labels, part) for part in parts], row_rng)


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
    labels = labels_of(y)
    check_least("n_tasks", n_tasks, 1)
    for name, value in (("disjoint_percent", disjoint_percent), ("blurry_percent", blurry_percent)):
        if not 0 <= value <= 100:
            raise UsageError(f"{name} is {value}; expected 0 to 100")
    class_rng, pool_rng, row_rng = generators(seed)
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
    return stream_of(labels, rows, row_rng)


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
    labels = labels_of(y)
    check_least("n_tasks", n_tasks, 1)
    check_known("sampler", sampler, SAMPLERS)
    class_rng, draw_rng, row_rng = generators(seed)
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
        check_least("per_class", per_class, 1)
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
    return stream_of(labels, tasks, row_rng)


def domains(y: npt.ArrayLike, domain: npt.ArrayLike, seed: int) -> Stream:
    """Return one task a domain, with all that it holds of every class, in a drawn order.

    Args:
        y: Labels, shape (N,), integers.
        domain: Domain of each row, shape (N,), integers: a camera, a site, a season.
        seed: Seed of the order of the domains, and of the rows inside one.

    Returns:
        Stream: every row once; of one domain it is a plain shuffle.
    """
    labels, places = labels_of(y), np.asarray(domain, np.int64)
    if places.shape != labels.shape:
        raise UsageError(
            f"domains have shape {places.shape}, labels {labels.shape}; expected one each"
        )
    domain_rng, _, row_rng = generators(seed)
    order = domain_rng.permutation(np.unique(places))
    return stream_of(labels, [np.flatnonzero(places == d) for d in order.tolist()], row_rng)


def recurrence(y: npt.ArrayLike, stream: Stream) -> Recurrence:
    """Return how often the classes of labels (N,) come back in a stream over them."""
    labels = labels_of(y)
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


def generators(seed: int) -> tuple[np.random.Generator, np.random.Generator, np.random.Generator]:
    """Return generators for classes, draws and rows, so that none shifts another."""
    check_least("seed", seed, 0)
    a, b, c = np.random.default_rng(seed).spawn(3)
    return a, b, c


def stream_of(
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


def _rows_of(labels: Ints, classes: Ints) -> Ints:
    return np.flatnonzero(np.isin(labels, classes))


def _multiple(n: int, of: int) -> int:
    return n - n % of


def labels_of(y: npt.ArrayLike) -> Ints:
    """Return labels (N,) as integers.

    Raises:
        UsageError: They are none, or there are none.
    """
    labels = np.asarray(y)
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(
            f"labels have shape {labels.shape} and type {labels.dtype}; expected (N,) integers, "
            "at least one"
        )
    return labels.astype(np.int64)


def check_least(name: str, value: int, least: int) -> None:
    """Check that a setting is not below its least."""
    if value < least:
        raise UsageError(f"{name} is {value}; expected {least} or more")


def check_known(name: str, value: str, known: tuple[str, ...]) -> None:
    """Check that a setting is one of the known words."""
    if value not in known:
        raise UsageError(f"{name} {value!r} is unknown; expected one of {', '.join(known)}")
