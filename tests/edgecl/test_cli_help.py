"""The help of every command: its group, an example, short options; nothing cut at 80 columns."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import build
from edgecl.cli.app import app
from edgecl.cli.commands import SHORT, first_sentence
from edgecl.cli.helps import EXAMPLES, PANELS

ROOT: Any = typer.main.get_command(app)


def commands(command: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Return every command and group that is shown, by its words behind `edgecl`."""
    yield " ".join(path), command
    for name, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from commands(child, (*path, name))


COMMANDS = dict(commands())
COMMANDS["help"] = ROOT.commands["help"]


def help_of(path: str, flag: str = "--help") -> str:
    done = CliRunner().invoke(app, [*path.split(), flag], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    return done.output


def squeezed(text: str | None) -> str:
    """Return a text without white space: lines break also behind a hyphen."""
    return "".join((text or "").split())


@pytest.mark.parametrize("path", COMMANDS)
def test_help_fits_80_columns_and_nothing_is_cut(path: str) -> None:
    text = help_of(path)
    assert text == help_of(path, "-h")
    for line in text.splitlines():
        assert len(line) <= 80, line
        if not line.lstrip().startswith("Usage:"):
            assert not line.rstrip().endswith(("...", "…")), line
    joined = squeezed(text)
    assert squeezed(COMMANDS[path].help) in joined
    for name, child in getattr(COMMANDS[path], "commands", {}).items():
        if not child.hidden:
            assert squeezed(name + first_sentence(child.help)) in joined
    for param in COMMANDS[path].params:
        if not getattr(param, "hidden", False):
            assert squeezed(param.help) in joined
    assert not re.search(r"\d{10}|<\w+>|[{}]", text)


@pytest.mark.parametrize("path", COMMANDS)
def test_help_has_an_example_that_can_be_read(path: str) -> None:
    """Every example is a line that the command takes: its words, options and arguments exist."""
    text = help_of(path)
    assert EXAMPLES[path]
    for line in EXAMPLES[path]:
        assert line in text
        words = shlex.split(re.split(r"\s{3,}", line)[0])
        assert words[0] == "edgecl"
        assert " ".join(words[1:]).startswith(path)
        command, rest = ROOT, words[1:]
        context = command.make_context("edgecl", [], resilient_parsing=True)
        while rest and rest[0] in getattr(command, "commands", {}):
            command, name = command.commands[rest[0]], rest[0]
            context = command.make_context(name, [], parent=context, resilient_parsing=True)
            rest = rest[1:]
        _, left, _ = command.make_parser(context).parse_args(args=list(rest))
        assert left == [] or command is COMMANDS["help"], f"{line}: {left}"


def test_every_command_has_a_place_and_no_place_is_empty() -> None:
    placed = [name for names in PANELS.values() for name in names]
    shown = {path for path in COMMANDS if path and " " not in path and path != "help"}
    assert sorted(placed) == sorted(shown)
    assert set(EXAMPLES) == set(COMMANDS)
    text = help_of("")
    places = [text.index(f"\n{title}:\n") for title in PANELS]
    assert places == sorted(places)


@pytest.mark.parametrize("path", COMMANDS)
def test_short_options_mean_the_same_everywhere(path: str) -> None:
    letters = {short: name for name, short in SHORT.items()}
    assert len(letters) == len(SHORT)
    for param in COMMANDS[path].params:
        for opt in param.opts if param.param_type_name == "option" else ():
            if re.fullmatch(r"-\w", opt) and opt != "-h":
                assert letters[opt] in param.opts
            elif opt in SHORT:
                assert SHORT[opt] in param.opts
    text = help_of(path)
    assert "-q, --quiet" in text
    assert "-v, --verbose" in text


def test_old_names_work_and_are_not_listed() -> None:
    text = help_of("")
    for old, new in (("receipt", "receipts"), ("learn", "train-stream")):
        assert not re.search(rf"^  {old} ", text, re.MULTILINE)
        assert ROOT.commands[old].callback is not None
        assert ROOT.commands[old].help == ROOT.commands[new].help
        assert COMMANDS[new].help.split(".")[0] in " ".join(help_of(old).split())
    for name in ("receipts", "snapshots"):
        assert re.search(rf"^  {name} ", text, re.MULTILINE)


def test_help_is_a_command_too() -> None:
    done = build.run_edgecl("help", "forget", "class")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ")
    assert squeezed(done.stdout).endswith(squeezed(help_of("forget class").split("\n", 1)[1]))
    done = build.run_edgecl("help")
    assert squeezed(done.stdout).endswith(squeezed(help_of("").split("\n", 1)[1]))
    assert build.run_edgecl("help", "fly").returncode == 2
