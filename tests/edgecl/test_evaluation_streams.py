"""Streams: every row in its place, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecl.errors import UsageError
from edgecl.evaluation.rewriting import rewriting
from edgecl.evaluation.streams import (
    Stream,
    blurry,
    class_incremental,
    domains,
    recurrence,
    recurring,
    unseen_probability,
)

Y = np.arange(600) % 10

labels = st.lists(st.integers(0, 12), min_size=1, max_size=120).map(np.array)
seeds = st.integers(0, 1000)


def same(a: Stream, b: Stream) -> bool:
    return (
        np.array_equal(a.indices, b.indices)
        and np.array_equal(a.tasks, b.tasks)
        and np.array_equal(a.labels, b.labels)
        and np.array_equal(a.is_labelled, b.is_labelled)
        and (a.n_tasks, a.events) == (b.n_tasks, b.events)
    )


@given(labels, st.integers(1, 5), seeds)
def test_class_incremental_gives_every_row_once_and_a_class_in_one_task(
    y: np.ndarray, m: int, seed: int
) -> None:
    stream = class_incremental(y, m, seed)
    assert sorted(stream.indices.tolist()) == list(range(len(y)))
    assert np.array_equal(stream.labels, y[stream.indices])
    per_task = [set(y[stream.task(k)].tolist()) for k in range(stream.n_tasks)]
    assert sum(map(len, per_task)) == len(set(y.tolist()))
    assert all(len(classes) == m for classes in per_task[:-1])


@given(
    labels,
    st.integers(1, 6),
    seeds,
    st.floats(0, 100),
    st.floats(0, 100),
    st.booleans(),
)
def test_blurry_gives_every_row_once_and_keeps_the_number_of_tasks(
    y: np.ndarray, n_tasks: int, seed: int, n: float, m: float, varying: bool
) -> None:
    options = {"disjoint_percent": n, "blurry_percent": m, "is_varying": varying}
    stream = blurry(y, n_tasks, seed, **options)
    assert sorted(stream.indices.tolist()) == list(range(len(y)))
    assert stream.n_tasks == n_tasks
    rejoined = [stream.task(k) for k in range(n_tasks)]
    assert np.array_equal(np.concatenate(rejoined), stream.indices)
    assert same(stream, blurry(y, n_tasks, seed, **options))


@given(labels, st.integers(1, 6), seeds, st.floats(0, 100), st.booleans())
def test_without_blur_every_class_comes_in_one_task(
    y: np.ndarray, n_tasks: int, seed: int, n: float, varying: bool
) -> None:
    stream = blurry(y, n_tasks, seed, disjoint_percent=n, blurry_percent=0, is_varying=varying)
    for c in np.unique(y):
        assert len(set(stream.tasks[y[stream.indices] == c].tolist())) == 1


@given(labels, st.integers(2, 6), seeds, st.floats(0, 100))
def test_varying_blur_preserves_the_sizes_of_tasks(
    y: np.ndarray, n_tasks: int, seed: int, m: float
) -> None:
    split, mixed = (
        blurry(y, n_tasks, seed, disjoint_percent=0, blurry_percent=p, is_varying=True)
        for p in (0, m)
    )
    assert np.array_equal(split.tasks, mixed.tasks)


@pytest.mark.parametrize("n_tasks", [1, 2, 5, 10])
def test_all_disjoint_is_plain_class_incremental(n_tasks: int) -> None:
    for seed in range(5):
        ours = blurry(Y, n_tasks, seed, disjoint_percent=100, blurry_percent=0)
        assert same(ours, class_incremental(Y, 10 // n_tasks, seed))


def test_classes_that_rounding_leaves_over_come_in_the_last_task() -> None:
    y = np.arange(130) % 13
    stream = blurry(y, 5, 0, disjoint_percent=50, blurry_percent=0)
    assert [len(set(y[stream.task(k)].tolist())) for k in range(5)] == [2, 2, 2, 2, 5]


def test_blurred_classes_come_in_other_tasks_at_the_asked_rate() -> None:
    y = np.arange(5000) % 10
    stream = blurry(y, 5, 3)
    n_tasks_of = [len(set(stream.tasks[y[stream.indices] == c].tolist())) for c in range(10)]
    # 50 % of ten classes, cut to a multiple of five tasks, come in one task only.
    assert sorted(n_tasks_of) == [1] * 5 + [5] * 5
    home = np.array([np.bincount(stream.tasks[stream.labels == c]).argmax() for c in range(10)])
    n_moved = int((home[stream.labels] != stream.tasks).sum())
    # 250 of 2,500 rows enter the pool and a fifth of them comes back to where it was.
    assert n_moved == pytest.approx(200, abs=25)


def test_what_is_blurred_is_not_the_beginning_of_the_data() -> None:
    y = np.repeat([0, 1], 500)
    stream = blurry(y, 2, 0, disjoint_percent=0, blurry_percent=20)
    home = np.bincount(stream.tasks[stream.labels == 0]).argmax()
    moved = stream.indices[(stream.labels == 0) & (stream.tasks != home)]
    assert moved.max() > 400


def test_a_pool_that_does_not_divide_leaves_its_rest_to_the_last_task() -> None:
    y = np.arange(21) % 3
    stream = blurry(y, 3, 0, disjoint_percent=0, blurry_percent=100 / 7 * 2 + 0.01)
    assert np.bincount(stream.tasks).tolist() == [7, 7, 7]
    y = np.array([0] * 10 + [1] * 10 + [2] * 14)
    stream = blurry(y, 3, 0, disjoint_percent=0, blurry_percent=50)
    assert len(stream.indices) == 34
    # The pool of 5 + 5 + 7 gives 5, 5 and 7.
    kept = [len(stream.task(k)) for k in range(3)]
    assert kept[2] >= 12


def test_varying_tasks_may_be_empty_and_keep_their_number() -> None:
    for seed in range(50):
        stream = blurry(np.arange(20) % 2, 8, seed, disjoint_percent=0, is_varying=True)
        assert stream.n_tasks == 8
        assert sum(len(stream.task(k)) == 0 for k in range(8)) >= 5
    with pytest.raises(UsageError, match="tasks 0 to 7"):
        stream.task(8)


@pytest.mark.parametrize("sampler", ["uniform", "decreasing", "cyclic"])
def test_recurring_tasks_have_distinct_classes_and_repeat(sampler: str) -> None:
    stream = recurring(Y, 30, 3, 1, sampler=sampler, per_class=4)
    for k in range(30):
        assert len(set(Y[stream.task(k)].tolist())) == 3
        assert len(set(stream.task(k).tolist())) == 12
    assert same(stream, recurring(Y, 30, 3, 1, sampler=sampler, per_class=4))
    assert not same(stream, recurring(Y, 30, 3, 2, sampler=sampler, per_class=4))


def test_cyclic_tasks_show_every_class_equally_often() -> None:
    found = recurrence(Y, recurring(Y, 20, 2, 0, sampler="cyclic"))
    assert (found.unseen_share, found.mean_gap) == (0, 5)
    assert found.counts.tolist() == [4] * 10


def test_recurrence_of_uniform_tasks_is_what_probability_says() -> None:
    # Numeric check of the protocol: C = 100, c = 10, T = 50 leaves 0.0052, the mean gap is 10.
    assert unseen_probability(100, 10, 50) == pytest.approx(0.0052, abs=5e-5)
    y = np.arange(100)
    runs = [recurrence(y, recurring(y, 50, 10, seed)) for seed in range(40)]
    assert np.mean([r.unseen_share for r in runs]) == pytest.approx(0.0052, abs=0.003)
    long = recurrence(y, recurring(y, 2000, 10, 0))
    assert long.mean_gap == pytest.approx(10, rel=0.02)
    assert (long.unseen_share, long.counts.sum()) == (0, 20_000)


def test_a_lower_entropy_starves_classes() -> None:
    y = np.arange(50)
    even = recurrence(y, recurring(y, 50, 5, 0, sampler="decreasing"))
    skewed = recurrence(y, recurring(y, 50, 5, 0, sampler="decreasing", decrease=0.2))
    assert skewed.unseen_share > even.unseen_share
    assert skewed.counts.max() > even.counts.max()


def test_recurrence_without_any_gap_is_nan() -> None:
    assert np.isnan(recurrence(Y, class_incremental(Y, 1, 0)).mean_gap)


@given(seeds, st.sampled_from(["relabel", "swap"]), st.sampled_from(["trivial", "medium"]))
def test_rewriting_uses_every_row_once_and_labels_follow_the_events(
    seed: int, kind: str, level: str
) -> None:
    stream = rewriting(Y, 2, seed, kind=kind, level=level)
    assert sorted(stream.indices.tolist()) == list(range(600))
    assert stream.n_tasks == 5 + 5
    assert len(stream.events) == 5 * {"trivial": 1, "medium": 3}[level] * (1 + (kind == "swap"))
    now = {c: c for c in range(10)}
    for k in range(stream.n_tasks):
        events = [e for e in stream.events if e.task == k]
        for event in events:
            assert now[event.source] == event.old != event.new
        now |= {e.source: e.new for e in events}
        if events:
            assert set(Y[stream.task(k)].tolist()) == {e.source for e in events}
        at = stream.tasks == k
        assert all(
            now[c] == label
            for c, label in zip(Y[stream.indices[at]], stream.labels[at], strict=True)
        )
    # Whatever happened, two groups of pictures never have one label.
    assert len(set(now.values())) == 10


def test_swap_exchanges_labels_and_relabel_makes_new_ones() -> None:
    swapped = rewriting(Y, 5, 0, kind="swap", n_events=1).events
    assert {(e.old, e.new) for e in swapped} == {(e.new, e.old) for e in swapped}
    fresh = [e.new for e in rewriting(Y, 5, 0, kind="relabel", level="medium").events]
    assert fresh == list(range(10, 25))


def test_extreme_rewriting_labels_a_tenth_of_the_new_rows() -> None:
    y = np.arange(6000) % 10
    stream = rewriting(y, 5, 0, kind="relabel", level="extreme")
    for event in stream.events:
        rows = (stream.tasks == event.task) & (stream.labels == event.new)
        assert stream.is_labelled[rows].sum() == round(rows.sum() / 10) > 0
    assert stream.is_labelled[stream.tasks < 2].all()


def test_a_class_that_appears_again_keeps_its_label_and_shows_its_other_mode() -> None:
    modes = (np.arange(600) // 10) % 3
    stream = rewriting(Y, 5, 0, kind="reappear", level="medium", modes=modes)
    at = modes[stream.indices]
    assert (at[stream.tasks < 2] == 0).all()
    assert (at[stream.tasks >= 2] != 0).all()
    assert np.array_equal(stream.labels, Y[stream.indices])
    assert all(e.old == e.new for e in stream.events)
    assert len(set(stream.indices.tolist())) == len(stream.indices)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: class_incremental([], 1, 0), "at least one"),
        (lambda: class_incremental([0.5], 1, 0), "integers"),
        (lambda: class_incremental([[1]], 1, 0), r"\(N,\)"),
        (lambda: class_incremental(Y, 0, 0), "classes_per_task is 0"),
        (lambda: class_incremental(Y, 1, -1), "seed is -1"),
        (lambda: blurry(Y, 0, 0), "n_tasks is 0"),
        (lambda: blurry(Y, 2, 0, disjoint_percent=101), "disjoint_percent is 101"),
        (lambda: blurry(Y, 2, 0, blurry_percent=float("nan")), "blurry_percent is nan"),
        (lambda: recurring(Y, 2, 11, 0), "expected 1 to 10"),
        (lambda: recurring(Y, 2, 2, 0, sampler="random"), "uniform, decreasing, cyclic"),
        (lambda: recurring(Y, 2, 2, 0, decrease=0.5), "with 'decreasing'"),
        (lambda: recurring(Y, 2, 2, 0, sampler="decreasing", decrease=1.0), "below 1"),
        (lambda: recurring(Y, 2, 2, 0, per_class=0), "per_class is 0"),
        (lambda: rewriting(Y, 2, 0, kind="erase"), "relabel, reappear, swap"),
        (lambda: rewriting(Y, 2, 0, kind="swap", level="hard"), "trivial, medium, extreme"),
        (lambda: rewriting(Y[:2], 1, 0, kind="swap", level="medium"), "6 classes at once"),
        (lambda: rewriting(Y, 2, 0, kind="reappear"), "needs modes"),
        (lambda: rewriting(Y, 2, 0, kind="swap", modes=Y), "takes no modes"),
        (lambda: rewriting(Y, 2, 0, kind="reappear", modes=[0]), "one each"),
        (lambda: rewriting([0, 1, 2], 1, 0, kind="relabel"), "too few"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]


@given(y=labels, seed=seeds)
def test_domains_are_tasks_with_every_row_once(y: np.ndarray, seed: int) -> None:
    domain = np.arange(len(y)) % 3 + 5
    stream = domains(y, domain, seed)
    assert sorted(stream.indices.tolist()) == list(range(len(y)))
    assert stream.n_tasks == len(np.unique(domain))
    for k in range(stream.n_tasks):
        assert len(np.unique(domain[stream.task(k)])) == 1
    assert np.array_equal(stream.labels, y[stream.indices])


def test_one_domain_is_a_shuffle_and_every_row_needs_one() -> None:
    assert domains(Y, np.zeros(600), 0).n_tasks == 1
    with pytest.raises(UsageError, match="expected one each"):
        domains(Y, np.zeros(3), 0)
