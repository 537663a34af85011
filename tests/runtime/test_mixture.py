"""The exact head with second opinions beside it: shares that stay probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecl.errors import IntegrityError, ShapeError
from edgecl.runtime.mixture import MixedScorer, Opinion, load_served, mixed, routed
from edgecl.runtime.scoring import LinearScorer, MaskedScorer, softmax

D, LABELS = 3, ("a", "b", "c", "d")


def linear(labels: tuple[str, ...], seed: int, kind: str = "logits") -> LinearScorer:
    rng = np.random.default_rng(seed)
    return LinearScorer(
        rng.normal(size=(D, len(labels))), rng.normal(size=len(labels)), labels, kind
    )


def scorer(*known: tuple[str, ...], share: float = 0.7) -> MixedScorer:
    opinions = tuple(Opinion(linear(labels, i), share) for i, labels in enumerate(known, start=1))
    return MixedScorer(linear(LABELS, 0, "regression"), 10.0, opinions)


def test_the_share_that_a_head_knows_is_dealt_out_anew_by_hand() -> None:
    """q = (.5, .3, .2), the opinion knows the last two and says (.1, .9), w = .5."""
    q = np.array([[0.5, 0.3, 0.2]])
    out = mixed(q, np.array([[0.1, 0.9]]), [1, 2], 0.5)
    assert np.allclose(out, [[0.5, 0.5 * 0.3 + 0.5 * 0.5 * 0.1, 0.5 * 0.2 + 0.5 * 0.5 * 0.9]])


@given(
    seed=st.integers(0, 10_000),
    share=st.floats(0, 1),
    known=st.sets(st.integers(0, 4), min_size=1),
)
def test_shares_stay_probabilities_and_the_unknown_keep_theirs(
    seed: int, share: float, known: set[int]
) -> None:
    rng = np.random.default_rng(seed)
    q = softmax(rng.normal(0, 3, (6, 5)))
    columns = sorted(known)
    p = softmax(rng.normal(0, 3, (6, len(columns))))
    out = mixed(q, p, columns, share)
    assert np.allclose(out.sum(axis=1), 1)
    assert (out >= 0).all()
    others = [k for k in range(5) if k not in known]
    assert np.array_equal(out[:, others], q[:, others])


def test_a_picture_chooses_whom_it_hears_as_in_the_worked_numbers() -> None:
    keys = np.array([[1.0, 0], [0, 1]])
    out = routed(np.array([[0.6, 0.8]], np.float32), keys, 0.1)
    assert np.allclose(out, [[0.1192029, 0.8807971]], atol=1e-6)
    keys = np.array([[1.0, 0, 0], [0, 1, 0], [0.6, 0.8, 0]])
    out = routed(np.array([[3.0, 3, 1]], np.float32), keys, 0.1)
    assert np.allclose(out, [[0.0565309, 0.0565309, 0.8869383]], atol=1e-6)


def test_opinions_with_keys_are_heard_by_how_near_a_picture_is_and_others_as_ever() -> None:
    plain = scorer(("b", "a"), ("c", "d"), ("a", "d"))
    keys = (np.array([1.0, 0, 0]), None, np.array([0, 1.0, 0]))
    opinions = tuple(
        Opinion(o.scorer, o.share, key) for o, key in zip(plain.opinions, keys, strict=True)
    )
    keyed = MixedScorer(plain.frozen, plain.temperature, opinions)
    x = np.random.default_rng(1).normal(size=(4, 4 * D)).astype(np.float32)
    x[:, :D] = [1, 0, 0]
    again = load_served(keyed.arrays(), keyed.labels)
    assert np.array_equal(again.scores(x), keyed.scores(x))
    only_first = scorer(("b", "a"), ("c", "d"), ("a", "d"))
    silent = (*only_first.opinions[:2], Opinion(only_first.opinions[2].scorer, 0.0))
    wanted = MixedScorer(plain.frozen, plain.temperature, silent)
    assert np.allclose(keyed.scores(x), wanted.scores(x), atol=1e-6)


def test_without_a_share_it_is_the_calibrated_frozen_head() -> None:
    x = np.random.default_rng(3).normal(size=(5, 2 * D)).astype(np.float32)
    silent = scorer(("b", "a"), share=0.0)
    q = softmax(10.0 * silent.frozen.scores(x[:, :D]))
    assert np.array_equal(silent.scores(x), q)
    assert np.array_equal(silent.scores(x).argmax(axis=1), silent.frozen.scores(x[:, :D]).argmax(1))


def test_every_opinion_reads_its_own_block_and_names_its_own_classes() -> None:
    both = scorer(("b", "a"), ("d", "c"))
    assert both.n_maps == 3
    x = np.random.default_rng(3).normal(size=(5, 3 * D)).astype(np.float32)
    out = both.scores(x)
    q = softmax(10.0 * both.frozen.scores(x[:, :D]))
    for k, (labels, block) in enumerate(
        ((("b", "a"), x[:, D : 2 * D]), (("d", "c"), x[:, 2 * D :]))
    ):
        p = softmax(both.opinions[k].scorer.scores(block))
        columns = [LABELS.index(label) for label in labels]
        share = q[:, columns].sum(axis=1, keepdims=True)
        assert np.allclose(out[:, columns], 0.3 * q[:, columns] + 0.7 * share * p)


def test_it_is_whole_in_its_arrays() -> None:
    both = scorer(("b", "a"), ("d",))
    again = load_served(both.arrays(), LABELS)
    x = np.random.default_rng(3).normal(size=(4, 3 * D)).astype(np.float32)
    assert isinstance(again, MixedScorer)
    assert np.array_equal(again.scores(x), both.scores(x))
    assert again.opinions[0].scorer.labels == ("b", "a")
    alone = load_served(both.frozen.arrays(), LABELS)
    assert isinstance(alone, LinearScorer)
    for broken in ({"1.columns"}, {"frozen.weights"}, {"temperature"}):
        arrays = {name: a for name, a in both.arrays().items() if name not in broken}
        with pytest.raises(IntegrityError):
            load_served(arrays, LABELS)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="expected"):
        scorer(("a", "b")).scores(np.zeros((2, 2 * D + 1), np.float32))
    with pytest.raises(IntegrityError, match="does not know"):
        scorer(("a", "stranger"))


def test_a_blocked_class_is_not_named() -> None:
    masked = MaskedScorer(scorer(("b", "a")), ("b",))
    x = np.random.default_rng(3).normal(size=(5, 2 * D)).astype(np.float32)
    shares = masked.probabilities(masked.scores(x))
    assert masked.labels == ("a", "c", "d")
    assert np.allclose(shares.sum(axis=1), 1)
    assert (shares >= 0).all()
