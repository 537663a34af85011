"""Values at the borders refuse what they cannot mean."""

from __future__ import annotations

import numpy as np
import pytest

from edgecl.errors import ShapeError, UsageError
from edgecl.evaluation.metrics import evaluate
from edgecl.types import (
    APPROXIMATE,
    ForgetRequest,
    Frame,
    Kind,
    Mode,
    Skipped,
    alike,
    clean_label,
    looks_like,
)


def test_labels_are_normalised() -> None:
    assert clean_label("  cup ") == "cup"
    assert clean_label("cafe\u0301") == "caf\u00e9"
    assert clean_label(7) == "7"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("cup\u200b", "cup"),
        ("\u200ecup\u200f", "cup"),
        ("\ufeffcup", "cup"),
        ("c\u00adu\u2060p", "cup"),
        ("\u202ecup\u202c", "cup"),
        ("\u2066cup\u2069", "cup"),
        ("cu\u200dp", "cup"),
        ("cup\ufe0f", "cup"),
        ("cup\u3164", "cup"),
        ("cup\U000e0061\U000e007f", "cup"),
        ("tea\u00a0cup", "tea cup"),
        ("tea\u2009cup", "tea cup"),
        # These mean something where they are.
        ("\u2764\ufe0f", "\u2764\ufe0f"),
        ("1\ufe0f\u20e3", "1\ufe0f\u20e3"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),
        ("\u0645\u06cc\u200c\u062e\u0648", "\u0645\u06cc\u200c\u062e\u0648"),
        (
            "\U0001f3f4\U000e0067\U000e0062\U000e007f",
            "\U0001f3f4\U000e0067\U000e0062\U000e007f",
        ),
    ],
    ids=ascii,
)
def test_what_cannot_be_seen_is_no_part_of_a_name(given: str, name: str) -> None:
    assert clean_label(given) == name
    assert clean_label(name) == name


def test_a_name_of_invisible_characters_is_empty() -> None:
    with pytest.raises(UsageError, match="empty"):
        clean_label("\u200b\u200e\ufeff")


def test_an_older_class_with_invisible_characters_can_still_be_named_to_be_forgotten() -> None:
    assert ForgetRequest("cup\u200b").name == "cup\u200b"


def test_bytes_that_are_no_text_are_called_so() -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        clean_label("caf\udce9")


@pytest.mark.parametrize(
    "other",
    ["Bird", "BIRD", "b\u0456rd", "\uff42\uff49\uff52\uff44", "b\u0131rd", "bird\u200b"],
    ids=ascii,
)
def test_names_that_look_alike_are_found(other: str) -> None:
    assert looks_like(other) == looks_like("bird")
    assert alike(other, ["fish", "bird"]) == "bird"


@pytest.mark.parametrize(
    ("one", "other"),
    [("bird", "birds"), ("bolt 1", "bolt l"), ("caf\u00e9", "cafe"), ("a1", "a-1")],
)
def test_other_names_do_not_look_alike(one: str, other: str) -> None:
    assert alike(one, [other]) is None
    assert alike(one, [one]) is None


def test_spaces_hyphens_and_underscores_look_alike() -> None:
    assert len({looks_like(n) for n in ("tea cup", "tea_cup", "Tea-Cup", "tea \u2013 cup")}) == 1


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


@pytest.mark.parametrize(
    ("text", "key", "table", "condition"),
    [
        ("class", "class_uid", "classes", "class_uid = ?1"),
        ("sample", "sample_uid", "samples", "uid = ?1"),
        ("source", "source_uid", "sources", "source_uid = ?1"),
        ("age", "before", "samples", "time < ?1"),
    ],
)
def test_a_kind_knows_its_names_and_is_its_text(
    text: str, key: str, table: str, condition: str
) -> None:
    kind = ForgetRequest("7", kind=text).kind  # type: ignore[arg-type]
    assert kind is Kind(text)
    assert (kind.key, kind.table, kind.condition) == (key, table, condition)
    assert (f"{kind}", kind, {text: 1}[kind]) == (text, text, 1)
    with pytest.raises(UsageError, match="'klass' is unknown; expected class, sample, source, age"):
        ForgetRequest("7", kind="klass")  # type: ignore[arg-type]


def test_only_modes_of_methods_that_change_adapters_are_not_exact() -> None:
    of_methods = {Mode.of_method(method) for method in APPROXIMATE}
    assert {mode for mode in Mode if not mode.is_exact} == of_methods
    assert {str(mode) for mode in of_methods} == {f"approximate:{m}" for m in APPROXIMATE}
