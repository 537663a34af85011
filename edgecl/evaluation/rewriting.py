"""Streams in which classes that were learned change their label or their look.

Of this project, after "Memory retention is not enough" (2025), whose agents must answer with what
is true now: after a class-incremental beginning, every event rewrites classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgecl.errors import UsageError
from edgecl.evaluation.streams import (
    Event,
    Ints,
    Stream,
    check_known,
    check_least,
    generators,
    labels_of,
    stream_of,
)

# Classes rewritten at one event, and the share of their new rows that come with a label.
LEVELS = {"trivial": (1, 1.0), "medium": (3, 1.0), "extreme": (3, 0.1)}
KINDS = ("relabel", "reappear", "swap")


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
    labels = labels_of(y)
    check_least("classes_per_task", classes_per_task, 1)
    check_least("n_events", n_events, 1)
    check_known("kind", kind, KINDS)
    check_known("level", level, tuple(LEVELS))
    n_changes, labelled_share = LEVELS[level]
    class_rng, draw_rng, row_rng = generators(seed)
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
    told = labels.copy()
    is_labelled = np.ones(len(labels), bool)
    events = _events(picks, kind, n_before, order.tolist(), int(labels.max()))
    for k in range(n_events):
        parts = []
        for event in (e for e in events if e.task == n_before + k):
            rows = chunks[event.source].pop(0)
            told[rows] = event.new
            is_labelled[rows[max(1, round(len(rows) * labelled_share)) :]] = False
            parts.append(rows)
        tasks.append(np.concatenate(parts))
    return stream_of(told, tasks, row_rng, is_labelled, events)


def _events(
    picks: list[list[int]], kind: str, first: int, classes: list[int], largest: int
) -> tuple[Event, ...]:
    """Return what each event does to each of its classes; new labels go on from the largest."""
    now = {c: c for c in classes}
    events: list[Event] = []
    for k, picked in enumerate(picks):
        after = dict(now)
        for i, c in enumerate(picked):
            if kind == "relabel":
                largest += 1
                after[c] = largest
            elif kind == "swap":
                after[c] = now[picked[i ^ 1]]
            events.append(Event(first + k, kind, c, now[c], after[c]))
        now = after
    return tuple(events)


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
