"""Values at the borders refuse what they cannot mean."""

from __future__ import annotations

import numpy as np
import pytest

from edgecl.errors import ShapeError, UsageError
from edgecl.evaluation.metrics import evaluate
from edgecl.types import Frame, Skipped, clean_label


def test_labels_are_normalised() -> None:
    assert clean_label("  cup ") == "cup"
    assert clean_label("cafe\u0301") == "caf\u00e9"
    assert clean_label(7) == "7"


@pytest.mark.parametrize("bad", ["", "   ", "a\nb", "x" * 201, "\ud800"])
def test_labels_that_cannot_be_names_are_refused(bad: str) -> None:
    with pytest.raises(UsageError):
        clean_label(bad)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_pixels_of_another_shape_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ShapeError, match="uint8"):
        Frame(id="a", pixels=pixels)


def test_a_frame_has_an_id_and_exactly_one_picture() -> None:
    with pytest.raises(UsageError, match="id"):
        Frame(id="", encoded=b"x")
    with pytest.raises(UsageError, match="either"):
        Frame(id="a")
    with pytest.raises(UsageError, match="either"):
        Frame(id="a", encoded=b"x", pixels=np.zeros((1, 1, 3), np.uint8))


def test_evaluation_counts_by_class() -> None:
    scores = evaluate(
        [("a", "a"), ("a", "b"), ("b", "b"), ("c", "b")], skipped=[Skipped("x", "broken")]
    )
    assert (scores.n, scores.accuracy, len(scores.skipped)) == (4, 0.5, 1)
    assert scores.per_class == {"a": 0.5, "b": 1.0, "c": 0.0}
    assert scores.confusion["a"] == {"a": 1, "b": 1}
    assert evaluate([]).accuracy == 0.0
