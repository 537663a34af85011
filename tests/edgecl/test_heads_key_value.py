"""The key-value head: exact addresses, keys that learn once, counts that can be taken back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import build
from edgecl.errors import IntegrityError, RequestError, UsageError
from edgecl.heads import make_head
from edgecl.heads.codebook import default_codebook, learned_keys, make_codebook, moved
from edgecl.heads.key_value import KeyValueHead
from edgecl.heads.statistics import KeyCounts
from edgecl.learner import Learner
from edgecl.runtime.codebook import PROJECTED_GRID, Codebook
from edgecl.runtime.grid import quantise
from edgecl.runtime.key_value import KeyValueScorer
from edgecl.runtime.scoring import load_scorer
from edgecl.store.erasure import erase
from edgecl.store.store import Store
from edgecl.types import Kind

D = 12


def plain_book(keys: list[list[list[float]]]) -> Codebook:
    """One projection that passes features through, the same for every codebook."""
    whole = np.array(keys) / PROJECTED_GRID
    c, _, k = whole.shape
    projection = np.tile(np.eye(k), (1, c)) * 2**7
    return Codebook(projection.astype(np.int16), 2.0**-7, np.zeros(c * k), whole.astype(np.int16))


KEYS = [[[0.0, 0], [4, 0], [0, 4]]]
QUERIES = np.array([[1, 0], [3, 1], [0, 3]], np.float32)


def test_nearest_keys_equal_the_official_numbers() -> None:
    """Numeric check of the official code: queries (1,0), (3,1), (0,3) take keys 0, 1, 2."""
    book = plain_book(KEYS)
    assert book.addresses(QUERIES).ravel().tolist() == [0, 1, 2]
    values = np.array([[1.0, 0, 3], [0, 2, -1]])
    counts = np.ones((2, 3), np.int64)
    scorer = KeyValueScorer(book, counts, values, 0.5, ("a", "b"))
    assert np.allclose(scorer.scores(QUERIES), [[1, 0], [0, 2], [3, -1]])


def test_a_key_update_equals_the_official_numbers_but_for_the_two_mended_faults() -> None:
    """From counts 0 and sums 0 the official step gives keys (1,0), (79,1), (0,79).

    Here sums start as count times key, so that the same step moves keys towards the data.
    """
    keys = np.array(KEYS[0])
    rng = np.random.default_rng(0)
    batch = QUERIES.astype(np.float64)
    official, counts, _ = moved(keys, np.zeros(3), np.zeros((3, 2)), batch, rng)
    assert np.allclose(counts, 0.1) or np.allclose(counts, 0.05)
    mended, _, _ = moved(keys, np.ones(3), keys.copy(), batch, rng)
    assert np.allclose(mended, 0.95 * keys + 0.05 * batch, atol=1e-4)
    assert np.abs(official - keys).max() > np.abs(mended - keys).max()


def test_a_dead_key_moves_and_stays_where_it_moved() -> None:
    rng = np.random.default_rng(0)
    keys = np.array([[0.0, 0], [100.0, 100]])
    counts, sums = np.array([1.0, 1e-6]), np.array([[0.0, 0], [1e-4, 1e-4]])
    batch = rng.uniform(1, 2, (20, 2))
    keys, counts, sums = moved(keys, counts, sums, batch, rng)
    assert any(np.allclose(keys[1], row) for row in batch)
    place = keys[1].copy()
    # Nothing falls to it in the next step, and it stays; the released code would take it back.
    keys, _, _ = moved(keys, counts, sums, np.array([[-50.0, -50]] * 2), rng)
    assert np.allclose(keys[1], place, atol=1e-3)


def test_keys_come_to_lie_among_the_data() -> None:
    rng = np.random.default_rng(1)
    h = np.concatenate([rng.normal(c, 0.1, (100, 2)) for c in (-3, 0, 3)])
    keys = learned_keys(h, 6, rng)
    gaps = np.linalg.norm(keys[:, None] - h[None], axis=2).min(axis=1)
    assert gaps.max() < 0.5


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_addresses_depend_neither_on_the_batch_nor_on_the_order(seed: int, n: int) -> None:
    book = default_codebook(D)
    x = quantise(np.random.default_rng(seed).uniform(0, 6, (n, D)).astype(np.float32))
    whole = book.addresses(x)
    order = np.random.default_rng(seed + 1).permutation(n)
    assert np.array_equal(book.addresses(x[order]), whole[order])
    one = np.concatenate([book.addresses(x[i : i + 1]) for i in range(n)])
    assert np.array_equal(one, whole)


@pytest.mark.slow
@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_counts_know_no_order(seed: int) -> None:
    x, y = build.features(40, D, 3, seed=seed)
    order = np.random.default_rng(seed).permutation(40)
    one, other = make_head("key-value", D), make_head("key-value", D)
    one.learn_many(x, y)
    for i in order:
        other.learn_one(x[i], int(y[i]))
    probe, _ = build.features(20, D, 3, seed=seed + 1)

    def by_uid(head: object) -> np.ndarray:
        return head.predict_many(probe)[:, np.argsort(head.classes)]  # type: ignore[attr-defined]

    assert np.array_equal(by_uid(one), by_uid(other))


def test_a_forgotten_class_leaves_the_bits_of_never_seen_through_a_folding_store(
    tmp_path: Path,
) -> None:
    scorers = []
    for classes in ((1, 2, 3), (1, 3)):
        path = tmp_path / f"{len(classes)}.db"
        with build.store(path, D, second_moment="counts", capacity_samples=20) as store:
            learner = Learner(store, make_head("key-value", D))
            x, y = build.features(600, D, 3)
            for c in classes:
                rows = x[y == c]
                learner.learn_many([build.frame(f"part-{c}", i) for i in range(len(rows))], rows)
            (n_folded,) = store.connection.execute("SELECT count(*) FROM class_stats").fetchone()
            assert n_folded == len(classes)
            if 2 in classes:
                uid = store.class_uid("part-2")
                with store.transaction():
                    learner.head.forget(uid, store)
                    erase(store, Kind.CLASS, uid)
            scorers.append(learner.head.scorer(store.names))
            again = Learner(store, make_head("key-value", D))
            build.assert_same(again.head.scorer(store.names), scorers[-1])
    build.assert_same(*scorers)


def test_keys_are_read_nearest_first_until_they_hold_enough() -> None:
    book = plain_book([[[0.0, 0], [2, 0], [4, 0], [9, 0]]])
    taken = np.array([[1, 0, 6, 5]])
    x = np.array([[1.0, 0], [9, 0]], np.float32)
    keys, weights = book.near(x, taken, 7)
    # Key 1 was never taken. Squared distances 1, 9, 64: the second is the last that is needed.
    assert keys[0, 0, :3].tolist() == [0, 2, 3]
    assert weights[0, 0].tolist() == [256, round(256 * np.exp(-2 * 8 / 9)), 0, 0]
    assert keys[1, 0, :2].tolist() == [3, 2]
    assert weights[1, 0].tolist() == [256, round(256 * np.exp(-2)), 0, 0]
    # Among equals the lowest; and one key that holds enough is read alone.
    keys, weights = book.near(np.array([[1.0, 0]], np.float32), np.array([[7, 7, 7, 7]]), 7)
    assert (keys[0, 0, 0], weights[0, 0].tolist()) == (0, [256, 0, 0, 0])


def test_a_class_of_many_rows_does_not_outvote_one_of_few() -> None:
    """Shares of 64 codebooks are added up, and so was the share of a class in the whole."""
    rng = np.random.default_rng(3)
    middle = rng.uniform(1, 3, (2, D))
    rows = [np.abs(rng.normal(middle[c], 0.6, (n, D))) for c, n in enumerate((60, 4))]
    head = KeyValueHead(D)
    head.learn_many(np.concatenate(rows).astype(np.float32), np.repeat([1, 2], (60, 4)))
    test = np.abs(rng.normal(middle[1], 0.6, (200, D))).astype(np.float32)
    assert (head.predict_many(test).argmax(axis=1) == 1).mean() > 0.75  # it was 0.03


def test_unused_keys_do_not_vote() -> None:
    book = plain_book([[[0.0, 0], [1, 0], [4, 0]]])
    head = KeyValueHead(2, codebook=book)
    head.learn_one(np.array([0.1, 0], np.float32), 1)
    head.learn_one(np.array([4.1, 0], np.float32), 2)
    # Key 1 is nearest to (1.2, 0), but no sample took it.
    assert head.predict_many(np.array([[1.2, 0]], np.float32)).argmax() == 0


def test_keys_are_hashed_kept_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with build.store(path, D, second_moment="counts") as store:
        assert store.codebook is not None
        assert store.codebook.digest == default_codebook(D).digest
        assert store.codebook.digest != default_codebook(D, seed=1).digest
        with store.transaction():
            uid = store.add_class("part")
            erase(store, Kind.CLASS, uid)
        assert store.connection.execute("SELECT count(*) FROM fixed").fetchone() == (1,)
        store.connection.execute("UPDATE fixed SET digest = ?", ("0" * 64,))
    with pytest.raises(IntegrityError, match="keys were changed"):
        Store(path)


def test_damaged_counts_are_found(tmp_path: Path) -> None:
    book = default_codebook(D)
    x, _ = build.features(10, D, 3)
    statistic = KeyCounts(D, book)
    moments = statistic.of(quantise(x))
    total, second = statistic.pack(moments)
    back = statistic.unpack(10, total, second)
    assert np.array_equal(back.second, moments.second)
    for damaged in (second[:-4], second[:-8], b"\xff" * len(second)):
        with pytest.raises(IntegrityError, match="damaged"):
            statistic.unpack(10, total, damaged)


def test_a_kept_scorer_is_small_and_scores_the_same() -> None:
    head = make_head("key-value", D)
    x, y = build.features(200, D, 3)
    head.learn_many(x, y)
    scorer = head.scorer({c: str(c) for c in head.classes})
    arrays = scorer.arrays()
    assert arrays["counts"].dtype == np.uint8
    again = load_scorer(arrays, scorer.labels)
    assert np.array_equal(again.scores(x), scorer.scores(x))
    assert np.array_equal(again.scores(x), head.predict_many(x))
    # At 2,224 features and ten classes with counts above 255 the kept arrays take 3.5 MB.
    n_bytes = 2224 * 64 * 8 * 2 + 64 * 512 * 8 * 2 + 10 * 64 * 512 * 2
    assert n_bytes < 8e6


def test_an_sgd_step_equals_autograd() -> None:
    head = KeyValueHead(D, values="sgd")
    x, y = build.features(10, D, 3)
    head.learn_many(x, y)
    flat = head._flat(quantise(x))
    values = torch.zeros(4, head._size, dtype=torch.float64, requires_grad=True)
    logits = values[:, torch.from_numpy(flat)].mean(dim=2).T
    place = {uid: k for k, uid in enumerate(head.classes)}
    target = torch.tensor([place[int(v)] for v in y])
    loss = torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1)
    (gradient,) = torch.autograd.grad(loss, values)
    norm = float(gradient.norm())
    assert norm < 1
    assert np.allclose(head._values, -0.3 * gradient.numpy(), atol=1e-12)


def test_a_new_class_of_sgd_starts_as_the_one_that_was_not_seen() -> None:
    head = KeyValueHead(D, values="sgd")
    x, y = build.features(60, D, 3)
    head.learn_many(x[y == 1][:10], y[y == 1][:10])
    # One class alone is pushed up against those to come: a softmax of one class has no gradient.
    first, unseen = head._values.copy()
    assert (first[first != 0] > 0).all()
    assert (unseen[first != 0] < 0).all()
    head._add(2, head.statistic.of(quantise(x[:1])))
    assert np.array_equal(head._values, [first, unseen, unseen])


def test_values_that_do_not_fit_the_classes_are_refused() -> None:
    head = KeyValueHead(D, values="sgd")
    x, y = build.features(60, D, 3)
    head.learn_many(x, y)
    state = head.state()
    assert state is not None
    moments = dict(zip(head.classes, head._moments.values(), strict=True))
    with pytest.raises(IntegrityError, match="3 classes and a head of 1"):
        KeyValueHead(D, values="sgd").restore(moments, state | {"values": state["values"][:2]})


def test_sgd_learns_forgets_and_goes_on_from_a_store(tmp_path: Path) -> None:
    x, y = build.features(150, D, 3)
    with build.store(tmp_path / "s.db", D, second_moment="counts") as store:
        learner = Learner(store, make_head("key-value", D, values="sgd"))
        frames = [build.frame(f"part-{c}", i) for i, c in enumerate(y)]
        learner.learn_many(frames, x)
        labels = np.array([f"part-{c}" for c in y])
        guesses = np.array(learner.labels)[learner.predict_many(x).argmax(axis=1)]
        assert (guesses == labels).mean() > 0.95
        again = Learner(store, make_head("key-value", D, values="sgd"))
        assert np.array_equal(again.predict_many(x), learner.predict_many(x))
        uid = store.class_uid("part-2")
        with store.transaction():
            learner.head.forget(uid, store)
            erase(store, Kind.CLASS, uid)
            learner.save_state()
        assert learner.head.forget_mode == "exact_retrain"
        kept = y != 2
        guesses = np.array(learner.labels)[learner.predict_many(x[kept]).argmax(axis=1)]
        assert (guesses == labels[kept]).mean() > 0.95


def test_keys_need_features_of_one_width() -> None:
    rng = np.random.default_rng(0)
    book = make_codebook(rng.uniform(0, 3, (100, 5)).astype(np.float32), n_codebooks=4, n_keys=8)
    assert (book.n_codebooks, book.n_keys, book.num_features) == (4, 8, 5)
    x = rng.uniform(0, 3, (300, 5)).astype(np.float32)
    taken = np.unique(book.addresses(quantise(x))[:, 0])
    assert len(taken) >= 6, "keys share the data"


@pytest.mark.slow
def test_the_command_makes_keys_from_a_source(tmp_path: Path) -> None:
    folder = build.part_folder(tmp_path / "parts", 20)
    home = tmp_path / "home"
    small = ("--image-size", 32, "--backbone", "test_efficientnet", "--weights", "random")
    done = build.run_edgecl(
        "init", "--home", home, "--head", "key-value", "--keys", folder, *small, "--json"
    )
    made = build.last_json(done)
    assert (made["head"], made["tap_pool"]) == ("key-value", "avg")
    result = build.last_json(build.run_edgecl("train-stream", folder, "--home", home, "--json"))
    assert result["learned"] + result["held_out"] == 80
    assert (
        build.run_edgecl("forget", "class", build.PARTS[0], "--home", home, "--verify").returncode
        == 0
    )
    # Equal and broken pictures do not count, and broken ones are named.
    poor = tmp_path / "poor"
    for kind, data in (("same", (folder / build.PARTS[0] / "000.jpg").read_bytes()), ("bad", b"?")):
        (poor / kind).mkdir(parents=True)
        for i in range(70):
            (poor / kind / f"{i}.jpg").write_bytes(data)
    done = build.run_edgecl(
        "init", "--home", tmp_path / "b", "--head", "key-value", "--keys", poor, *small
    )
    assert done.returncode == 3
    assert "1 picture that can be used and differ, of 140, are too few for keys" in done.stderr
    assert "skipped bad/" in done.stderr
    assert not (tmp_path / "b").exists()
    few = build.part_folder(tmp_path / "few", 3)
    done = build.run_edgecl(
        "init", "--home", tmp_path / "b", "--head", "key-value", "--keys", few, *small
    )
    assert done.returncode == 3
    assert "12 pictures are too few for keys" in done.stderr
    assert "loading" not in done.stderr
    assert not (tmp_path / "b").exists()
    done = build.run_edgecl("init", "--home", tmp_path / "c", "--keys", folder, *small)
    assert done.returncode == 2
    assert "leave it out" in done.stderr


def test_a_home_of_another_head_says_how_to_get_keys(made_home: Path) -> None:
    from edgecl.home import Home
    from edgecl.session import open_learner, open_store

    device = Home(made_home)
    with open_store(device, read_only=True) as store:
        with pytest.raises(RequestError, match="edgecl init --head key-value"):
            open_learner(device, store, head="key-value")
        with pytest.raises(UsageError, match="unknown"):
            make_head("keyvalue", D)
