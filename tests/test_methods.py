"""docs/methods.md names nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgecl.adapters.recipes import RECIPES, recipe_of
from edgecl.cli.app import app
from edgecl.evaluation.streamed import KINDS
from edgecl.heads import HEADS
from edgecl.heads.profile import PROFILES
from edgecl.types import APPROXIMATE

TEXT = (Path(__file__).parents[1] / "docs" / "methods.md").read_text()
OTHER_STRATEGIES = ("steepest", "certain", "gradient-similarity", "sliced")
ROWS = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if re.match(r"\| \d", line)]


def test_there_is_one_row_for_each_paper() -> None:
    assert [int(row[0]) for row in ROWS] == list(range(1, 44))
    assert {len(row) for row in ROWS} == {7}


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_what_a_row_names_is_there(row: list[str]) -> None:
    command = row[3]
    if command == "-":
        return
    (line,) = re.findall(r"`edgecl ([^`]+)`", command)
    groups = {"export", "forget", "config"}
    assert line.split()[0] in {c.name for c in app.registered_commands} | groups, line
    for name in re.findall(r"--recipe (\S+)", line):
        recipe_of(name)
    for name in re.findall(r"--stream (\S+)", line):
        assert name in KINDS
    for name in re.findall(r"--head (\S+)", line):
        assert name in HEADS
    for name in re.findall(r"--adapter-method (\S+)", line):
        assert name in APPROXIMATE


def test_every_recipe_stream_head_and_profile_of_a_paper_is_in_the_table() -> None:
    ours = {"plain", "isolated"}  # the default, and sessions that stand alone
    variants = {name: name.partition("-")[0] for name in OTHER_STRATEGIES}
    named = set(re.findall(r"--recipe ([a-z-]+)", TEXT))
    for name in set(RECIPES) - ours - named:
        assert variants[name] in TEXT, name
    assert set(re.findall(r"--stream (\w+)", TEXT)) == set(KINDS)
    assert set(HEADS) <= set(re.findall(r"(?:head `|--head )([a-z-]+)", TEXT))
    assert "rested" in PROFILES
