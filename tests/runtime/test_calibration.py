"""Probabilities and sets, beside scikit-learn and the theory."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss

from edgecl.calibration import fitted_temperature
from edgecl.errors import IntegrityError, RequestError
from edgecl.runtime.calibration import Calibration, calibration_from
from edgecl.runtime.predictor import predictions
from edgecl.runtime.scoring import LinearScorer, softmax

NAMES = ("cup", "plate", "spoon")


def drawn(n: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (n, 3) and classes that are drawn from their softmax at a temperature."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 0.4, (n, 3))
    shares = np.cumsum(softmax(temperature * scores), axis=1)
    return scores, (rng.random((n, 1)) > shares).sum(axis=1).clip(0, 2)


def calibrated(n: int, seed: int = 0) -> Calibration:
    scores, targets = drawn(n, 5.0, seed)
    temperature = fitted_temperature(scores, targets)
    shares = softmax(temperature * scores)[np.arange(n), targets]
    return Calibration(temperature, targets, shares, scores.argmax(axis=1) == targets, NAMES, True)


@pytest.mark.parametrize("spread", [1e-4, 0.2, 1.0, 30.0])
@pytest.mark.parametrize("k", [2, 10, 300])
def test_newton_finds_what_halving_the_range_finds(k: int, spread: float) -> None:
    rng = np.random.default_rng(k)
    targets = rng.integers(0, k, 200)
    scores = rng.normal(0, spread, (200, k))
    scores[np.arange(200), targets] += 1.5 * spread
    low, high = np.log(2.0**-6), np.log(2.0**10)
    doubt = 1 / (len(targets) + 2)
    own = (1 - doubt) * scores[np.arange(200), targets] + doubt * scores.mean(axis=1)
    for _ in range(48):
        middle = (low + high) / 2
        is_over = ((softmax(np.exp(middle) * scores) * scores).sum(axis=1) - own).mean() > 0
        low, high = (low, middle) if is_over else (middle, high)
    assert fitted_temperature(scores, targets) == pytest.approx(np.exp(low), rel=1e-8)


def test_the_temperature_is_the_one_with_the_least_log_loss() -> None:
    scores, targets = drawn(4000, 5.0)
    found = fitted_temperature(scores, targets)
    best = minimize_scalar(
        lambda t: log_loss(targets, softmax(t * scores)), bounds=(1, 20), method="bounded"
    ).x
    assert found == pytest.approx(best, rel=1e-3)
    assert found == pytest.approx(5.0, rel=0.1)


def test_a_few_right_answers_are_not_taken_for_sure_and_wrong_ones_end_at_a_bound() -> None:
    scores, targets = np.eye(3)[np.arange(30) % 3], np.arange(30) % 3
    found = fitted_temperature(scores, targets)
    assert softmax(found * scores)[0, 0] == pytest.approx(1 - 1 / 32 * 2 / 3)
    assert fitted_temperature(scores, (targets + 1) % 3) == pytest.approx(2.0**-6)


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("n", [60, 3000])
def test_sets_hold_the_truth_as_often_as_asked(level: float, n: int) -> None:
    held = []
    for seed in range(40 if n < 100 else 3):
        known = calibrated(n, seed)
        scores, targets = drawn(2000, 5.0, seed + 1000)
        sets = known.sets(known.probabilities(scores), level)
        held.append(sets[np.arange(2000), targets].mean())
    assert level - 0.015 < np.mean(held) < level + 0.03


def test_a_class_with_enough_samples_has_a_bound_of_its_own() -> None:
    targets = np.repeat([0, 1, 2], [100, 100, 99])
    shares = np.concatenate([np.linspace(0.5, 1, 100), np.linspace(0.1, 0.6, 100), np.ones(99)])
    least = Calibration(1.0, targets, shares, shares > 0.5, NAMES, True).least(0.9)
    assert least[0] == np.linspace(0.5, 1, 100)[9]
    assert least[1] == np.linspace(0.1, 0.6, 100)[9]
    assert least[2] == np.sort(shares)[29]  # of all


def test_of_few_samples_every_label_is_in_a_set_that_is_nearly_sure() -> None:
    known = Calibration(
        1.0, np.array([0, 1]), np.array([0.5, 0.9]), np.array([True, True]), NAMES, True
    )
    assert known.sets(np.array([[1.0, 0.0, 0.0]]), 0.9).all()


def test_what_is_written_is_read_and_what_does_not_fit_is_refused() -> None:
    known = calibrated(50)
    found = calibration_from(known.arrays(), NAMES)
    assert found is not None
    assert (found.temperature, found.labels, found.is_left_out) == (known.temperature, NAMES, True)
    assert np.array_equal(found.shares, known.shares)
    assert calibration_from({}, NAMES) is None
    with pytest.raises(IntegrityError, match="does not fit 1 classes"):
        calibration_from(known.arrays(), ("cup",))
    short = {k: v for k, v in known.arrays().items() if not k.endswith("shares")}
    with pytest.raises(IntegrityError, match="incomplete"):
        calibration_from(short, NAMES)


def test_some_of_the_classes_keep_their_own_samples() -> None:
    known = calibrated(60).only(("spoon", "cup"))
    whole = calibrated(60)
    assert known.labels == ("spoon", "cup")
    assert np.array_equal(known.shares, whole.shares[whole.targets != 1])
    assert np.array_equal(known.targets == 0, whole.targets[whole.targets != 1] == 2)


def test_a_prediction_has_a_probability_and_a_set_if_asked() -> None:
    scorer = LinearScorer(np.eye(3), np.zeros(3), NAMES, "regression")
    x = np.array([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3]], np.float32)
    known = calibrated(200)
    (first, second) = predictions(scorer, ["a", "b"], x, calibration=known, level=0.9)
    assert first.probability == pytest.approx(float(known.probabilities(x.astype(float))[0, 0]))
    assert first.probability > second.probability
    assert second.labels is not None
    assert second.labels[0] == "plate"
    line = first.as_json()
    assert line["set"] == list(first.labels or ())
    assert [entry["probability"] for entry in line["top"]] == list(first.probabilities)
    (plain,) = predictions(scorer, ["a"], x[:1])
    assert plain.probability == plain.score
    assert "set" not in plain.as_json()
    with pytest.raises(RequestError, match="leave out --set"):
        predictions(scorer, ["a"], x[:1], level=0.9)
