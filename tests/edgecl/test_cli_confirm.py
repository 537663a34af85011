"""What cannot be undone is asked first, on a terminal only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import build
from edgecl import snapshots
from edgecl.cli.app import app
from edgecl.errors import EdgeclError, RequestError
from edgecl.governed import governed
from edgecl.home import Home
from edgecl.session import open_store
from edgecl.store.erasure import count
from edgecl.store.runs import Start
from edgecl.types import Kind
from edgecl.unlearning.request import writing
from edgecl.unlearning.words import ROWS

# Each with what its dry run must say.
COMMANDS: dict[tuple[str, ...], str] = {
    ("forget", "class", "bolt"): "The class bolt goes for good: 5 samples, 5 pictures",
    ("forget", "sample", "1"): "The sample 1 goes for good: 1 sample, 1 picture",
    ("forget", "source", "gate"): "Nothing is left in the home then",
    ("rollback", "s1"): "goes back to s1",
    ("rollback", "c1"): "with the 9 samples that it learned",
    ("merge-classes", "bolt", "nut"): "5 samples of bolt will be of nut",
    ("undo",): "takes back what was learned",
    ("review", "drop", "--all"): "frames of the review queue",
    ("init", "--force"): "is replaced by an empty one (9 samples of 2 classes)",
}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = build.tiny_home(tmp_path / "home")
    x, _ = build.features(9)
    with writing(home) as session, governed(session, "learn"):
        session.learner.begin(Start())
        frames = [build.frame("bolt" if i < 5 else "nut", i) for i in range(9)]
        session.learner.learn_many([replace(f, source="gate") for f in frames], x)
        session.learner.settle()
    with writing(home) as session:
        snapshots.take(home, session.store)
    return home


def state(home: Home) -> Any:
    with open_store(home, read_only=True) as store:
        return store.version, store.n_seen(), dict(store.names)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("reply", ["n\n", "\n", ""])
def test_a_person_is_asked_and_no_changes_nothing(
    home: Home, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], reply: str
) -> None:
    monkeypatch.setattr("edgecl.cli.confirm.is_terminal", lambda: True)
    before = state(home)
    result = CliRunner().invoke(app, [*command, "--home", str(home.path)], input=reply)
    assert isinstance(result.exception, RequestError)
    assert "nothing was changed" in str(result.exception)
    assert COMMANDS[command] in result.stderr
    assert state(home) == before


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] != "init"], ids=" ".join)
@pytest.mark.parametrize("way", ["y", "--yes", "no terminal"])
def test_yes_or_no_terminal_goes_on(
    home: Home, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], way: str
) -> None:
    monkeypatch.setattr("edgecl.cli.confirm.is_terminal", lambda: way != "no terminal")
    options = ["--yes"] if way == "--yes" else []
    result = CliRunner().invoke(
        app, [*command, *options, "--home", str(home.path)], input="y\n" if way == "y" else ""
    )
    assert result.exit_code == 0, result.exception
    assert ("Go on?" in result.stderr) == (way == "y")


def test_what_is_refused_is_not_asked(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecl.cli.confirm.is_terminal", lambda: True)
    for command in (("forget", "class", "unicorn"), ("rollback", "s9"), ("rollback", "c9")):
        result = CliRunner().invoke(app, [*command, "--home", str(home.path)])
        assert isinstance(result.exception, EdgeclError)
        assert "Go on?" not in result.stderr


def test_what_one_did_is_said_in_words(home: Home) -> None:
    """A dry run and its end read as sentences, and what was gone before is not gone again."""

    def said(*command: str) -> str:
        result = CliRunner().invoke(app, [*command, "--home", str(home.path)])
        assert result.exit_code == 0, result.exception
        return result.stdout

    dry = said("forget", "class", "bolt", "--dry-run")
    assert dry.startswith("The class bolt goes for good: 5 samples, 5 pictures.\n")
    assert "With it goes snapshot s1." in dry
    assert "nothing was changed" in dry
    assert "class_latency" not in dry
    assert "class_latency" in said("-v", "forget", "class", "bolt", "--dry-run")
    assert said("relabel", "6", "bolt").startswith("1 sample (nut 1) is bolt now")
    done = said("forget", "class", "bolt")
    assert ", 1 snapshot deleted\n" in done
    assert "Next: edgecl receipt r" in done
    again = said("forget", "class", "bolt")
    assert "erased" not in again
    assert "Next: edgecl receipt r" in again
    assert "before" in said("forget", "class", "bolt", "--dry-run")
    assert "no sample is so" in said("samples", "list", "--role", "waiting")
    assert "nothing waits" in said("review", "list")


def test_what_is_counted_has_a_word_in_the_receipt(home: Home) -> None:
    """No name of a table reaches whoever reads a receipt."""
    with open_store(home, read_only=True) as store:
        counted = {name for kind in Kind for name in count(store, kind, 1)}
    assert counted <= ROWS.keys()
