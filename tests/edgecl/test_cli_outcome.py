"""How a command ends for a person: one sentence, no zeros, and what comes next."""

from __future__ import annotations

import pytest

from edgecl.cli.learned import learned_text
from edgecl.cli.outcome import name_home, print_outcome, size_text, time_text
from edgecl.cli.output import Level, set_level
from edgecl.cli.running import result_of
from edgecl.figures import counted
from edgecl.runtime.sources import open_source
from edgecl.stream.progress import Progress


def said(taught: dict[str, int], passed_over: dict[str, int] | None = None, **counts: int) -> str:
    """Return what is said at the end of a run that lasted 6 s."""
    progress = Progress(seconds=6.2, n_classes=len(taught), **counts)
    result = result_of(progress, open_source("synthetic:"))
    return learned_text(result | {"passed_over": passed_over or {}}, taught)


def test_a_run_ends_in_a_sentence() -> None:
    taught = {f"c{i}": 20 for i in range(13)} | {"monument": 7}
    assert said(taught, seen=244, learned=227, held_out=17, n_correct=152) == (
        "learned 227 pictures of 14 classes in 6 s, 17 kept to test on; right at first sight 67 %. "
        "Few: monument (7)"
    )


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"learned": 1}, "learned 1 picture of 1 class in 6 s; right at first sight 0 %"),
        ({"seen": 20, "unlabelled": 20}, "learned nothing: 20 pictures came. Also: 20 without"),
        ({"seen": 3, "held_out": 3}, "learned 0 pictures of 1 class in 6 s, 3 kept to test on"),
        ({"learned": 5, "skipped": 2, "duplicates": 1200}, "Also: 2 could not be used, 1,200 left"),
    ],
)
def test_zeros_are_not_told_and_the_rest_is(counts: dict[str, int], expected: str) -> None:
    text = said({"a": 30}, **counts)
    assert expected in text
    assert " 0 " not in text.removeprefix("learned 0 ").replace(" 0 %", "")
    assert "Few" not in text


def test_every_counter_of_a_run_has_its_words() -> None:
    numbers = {
        name: 3
        for name, value in result_of(Progress(), open_source("synthetic:")).items()
        if value == 0 and isinstance(value, int) and not isinstance(value, bool)
    }
    told = {"seen", "learned", "classes", "held_out", "started_at"}
    text = said({"a": 30}, **{k: v for k, v in numbers.items() if k not in told | {"seconds"}})
    assert text.count("3 ") == len(numbers.keys() - told)


def test_of_many_small_classes_a_few_are_named_and_files_are_counted() -> None:
    text = said({f"c{i}": i + 1 for i in range(9)}, {".heic": 12, ".txt": 3}, learned=45)
    assert "Few: c0 (1), c1 (2), c2 (3), c3 (4), c4 (5) and 4 more" in text
    assert text.endswith("Passed over: 12 .heic, 3 .txt")


@pytest.mark.parametrize("level", list(Level))
def test_numbers_are_for_who_asks(level: Level, capsys: pytest.CaptureFixture[str]) -> None:
    name_home("")  # a command that ran in this process may have named one
    set_level(level)
    try:
        print_outcome("done", {"rows": 3, "none": None}, then="edgecl status, edgecl report")
    finally:
        set_level(Level.NORMAL)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "done"
    assert ("rows" in " ".join(lines)) == (level is Level.VERBOSE)
    assert ("Next: edgecl status, edgecl report" in lines) == (level is not Level.QUIET)
    assert "none" not in " ".join(lines[1:])


def test_sizes_times_and_counts_are_short() -> None:
    assert [size_text(n) for n in (12, 3400, 5.61e6, 2e9)] == ["12 B", "3.4 kB", "5.61 MB", "2 GB"]
    assert [time_text(s) for s in (0, 0.31, 6.2, 119, 600, 9000)] == [
        "0.01 s", "0.3 s", "6 s", "119 s", "10 min", "2.5 h",
    ]  # fmt: skip
    assert [counted(n, w) for n, w in ((1, "class"), (2, "class"), (1200, "picture"))] == [
        "1 class", "2 classes", "1,200 pictures",
    ]  # fmt: skip
