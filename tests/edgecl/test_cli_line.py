"""What holds on every command line: -q and -v, JSON errors, the home above, completion."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from reported import reported_home

from edgecl.cli import main
from edgecl.cli.app import app
from edgecl.cli.options import home_above
from edgecl.cli.output import Level, _Shown
from edgecl.home import Home
from edgecl.snapshots import take
from edgecl.types import ForgetRequest, Kind
from edgecl.unlearning.request import forget, writing


@dataclass(frozen=True)
class Done:
    """What a command line ended with."""

    status: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process, in a folder."""
    monkeypatch.delenv("EDGECL_HOME", raising=False)

    def run(folder: Path, *words: str, env: dict[str, str] | None = None) -> Done:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(_Shown, "has_result", False)
        monkeypatch.setattr(_Shown, "level", Level.NORMAL)
        monkeypatch.setattr(sys, "argv", ["edgecl", *words])
        with monkeypatch.context() as patch:
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        out, err = capsys.readouterr()
        return Done(ended.value.code if isinstance(ended.value.code, int) else 0, out, err)

    return run


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with four classes, made without an engine; never write to it."""
    path = tmp_path_factory.mktemp("known") / "edgecl-home"
    reported_home(path, {"bolt-m4": 20, "bracket": 12, "washer": 12, "gasket": 4})
    return path


# What was typed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train-stream", "pics", "-limit=3"), "No such option: -limit. Did you mean --limit?"),
        (("train-stream", "pics", "-label=cup"), "Did you mean --label?"),
        (("train-stream", "pics", "-label", "cup"), "Did you mean --label?"),
        (("status", "-home", "x"), "Did you mean --home?"),
        (("status", "-json"), "Did you mean --json?"),
        (("train-stream", "a.jpg", "b.jpg"), "name the folder of several files"),
        (("forget", "class", "brass", "ring"), "quotes around a name with spaces"),
        (("status", "--home", ""), "is empty"),
        (("status", "--home="), "is empty"),
        (("import", ""), "is empty"),
        (("report", "-o", ""), "is empty"),
    ],
)
def test_what_would_be_taken_for_something_else_is_refused(
    words: tuple[str, ...], said: str, run: Run, tmp_path: Path
) -> None:
    done = run(tmp_path, *words)
    assert done.status == 2
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train-stream", "predict", "evaluate"])
def test_an_empty_source_is_not_this_folder(
    command: str, run: Run, known: Path, tmp_path: Path
) -> None:
    for source in ("", " "):
        done = run(tmp_path, command, source, "--home", str(known))
        assert done.status == 3
        assert "the source is empty" in done.stderr


@pytest.mark.parametrize(
    "words", [("status", "--home=~/h"), ("status", "--home", "~/h"), ("status", "-H", "~/h")]
)
def test_the_home_folder_is_known_behind_an_equals_sign_and_in_quotes(
    words: tuple[str, ...], run: Run, known: Path, tmp_path: Path
) -> None:
    (tmp_path / "me").mkdir()
    (tmp_path / "me" / "h").symlink_to(known)
    env = {"HOME": str(tmp_path / "me")}
    assert run(tmp_path, *words, env=env).status == 0
    assert run(tmp_path, "status", env={**env, "EDGECL_HOME": "~/h"}).status == 0
    missing = run(tmp_path, "train-stream", "watch:~/inbox", "--home=~/h", env=env)
    assert f"{tmp_path}/me/inbox" in missing.stderr
    # A folder that is really called so is meant by its name.
    (tmp_path / "~").mkdir()
    (tmp_path / "~" / "h").mkdir()
    assert "there is no edgecl home" in run(tmp_path, *words, env=env).stderr


# Errors


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("status", "--json"), 3, "there is no edgecl home"),
        (("status", "-j"), 3, "there is no edgecl home"),
        (("status", "-qj"), 3, "there is no edgecl home"),
        (("forget", "class", "cup", "--json"), 3, "there is no edgecl home"),
        (("train-stream", "--json"), 2, "no source is named"),
        (("train-stream", "nowhere", "--json", "--limit", "0"), 2, "limit"),
        (("predict", "nowhere.jpg", "--json"), 3, "there is no edgecl home"),
        (("fly", "--json"), 2, "No such command"),
    ],
)
def test_an_error_is_one_json_object_on_stdout(
    words: tuple[str, ...], status: int, said: str, tmp_path: Path, run: Run
) -> None:
    done = run(tmp_path, *words)
    assert done.status == status
    (line,) = done.stdout.splitlines()
    values = json.loads(line)
    assert set(values) == {"error", "exit"}
    assert values["exit"] == status
    assert said in values["error"]
    assert said in done.stderr  # for a person, as before
    plain = run(tmp_path, *(word for word in words if word not in ("--json", "-j", "-qj")))
    assert (plain.status, plain.stdout) == (status, "")


def test_a_result_that_was_printed_stays_the_only_object(
    known: Path, tmp_path: Path, run: Run
) -> None:
    home = tmp_path / "home"
    shutil.copytree(known, home)
    (home / "device.db").write_bytes(b"no database" * 1000)
    done = run(tmp_path, "doctor", "--home", "home", "--json")
    assert done.status == 4
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["ok"] is False


# The home


def test_a_home_is_found_in_a_folder_above_as_git_finds_a_repository(
    known: Path, tmp_path: Path, run: Run
) -> None:
    shutil.copytree(known, tmp_path / "edgecl-home")
    deep = tmp_path / "pictures" / "today"
    deep.mkdir(parents=True)
    done = run(deep, "status", "--json")
    values = json.loads(done.stdout)
    assert values["home"] == str(tmp_path / "edgecl-home")
    assert "home ../../edgecl-home" in done.stderr
    inside = run(tmp_path / "edgecl-home" / "engine", "status", "--json")
    assert json.loads(inside.stdout)["samples"] == values["samples"]
    here = run(tmp_path, "status", "--json")
    assert json.loads(here.stdout) == values
    assert here.stderr == ""


@pytest.mark.parametrize("how", ["option", "variable", "folder here"])
def test_a_home_that_is_named_or_here_is_not_searched(
    how: str, known: Path, tmp_path: Path, run: Run
) -> None:
    shutil.copytree(known, tmp_path / "edgecl-home")
    deep = tmp_path / "deep"
    deep.mkdir()
    env = {"EDGECL_HOME": "edgecl-home"} if how == "variable" else {}
    words = ("--home", "edgecl-home") if how == "option" else ()
    if how == "folder here":
        (deep / "edgecl-home").mkdir()
    done = run(deep, "status", *words, env=env)
    assert done.status in (3, 4)
    assert f"{deep}/edgecl-home" in done.stderr


def test_init_makes_a_home_here_whatever_is_above(known: Path, tmp_path: Path, run: Run) -> None:
    shutil.copytree(known, tmp_path / "edgecl-home")
    (tmp_path / "deep").mkdir()
    done = run(tmp_path / "deep", "init", "--image-size", "32", "--json")
    assert json.loads(done.stdout)["home"] == str(tmp_path / "deep" / "edgecl-home")
    assert Home(tmp_path / "deep" / "edgecl-home").manifest.preprocessing.image_size == 32


def test_a_home_of_another_user_is_named_and_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "edgecl-home").mkdir()
    (tmp_path / "edgecl-home" / "edgecl.toml").touch()
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    assert home_above() == Path("../edgecl-home")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert home_above() is None
    assert "belongs to another user" in capsys.readouterr().err


# How much is told


@pytest.mark.parametrize("place", ["before", "behind"])
def test_quiet_and_verbose_work_wherever_they_stand(
    place: str, known: Path, tmp_path: Path, run: Run
) -> None:
    home = tmp_path / "edgecl-home"
    shutil.copytree(known, home)
    (tmp_path / "deep").mkdir()

    def said(flag: str) -> Done:
        words = (flag, "snapshot") if place == "before" else ("snapshot", flag)
        return run(tmp_path / "deep", *words)

    quiet, verbose = said("-q"), said("--verbose")
    assert quiet.stderr == ""
    assert len(quiet.stdout.splitlines()) == 1
    assert quiet.stdout.startswith("kept 44 samples of 4 classes as s1")
    assert "Next: edgecl rollback s2" in verbose.stdout
    assert "snapshot_id" in verbose.stdout
    assert "home ../edgecl-home" in verbose.stderr


# Completion


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("forget class b", ["bolt-m4", "bracket"]),
        ("forget class ", ["bolt-m4", "bracket", "washer", "gasket"]),
        ("forget source cam", ["camera:0"]),
        ("rename w", ["washer"]),
        ("train-stream x --label gas", ["gasket"]),
        ("rollback ", ["s2", "s1"]),
        ("receipts r", ["r1"]),
        ("rec", ["receipts"]),
        ("snap", ["snapshot", "snapshots"]),
        ("forget class --home /nowhere b", []),
    ],
)
def test_the_shell_completes_what_a_home_knows(
    typed: str,
    expected: list[str],
    filled: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    env = {
        "_EDGECL_COMPLETE": "complete_bash",
        "COMP_WORDS": f"edgecl {typed}",
        "COMP_CWORD": str(len(typed.split(" "))),
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(filled.parent)
    with pytest.raises(SystemExit):
        typer.main.get_command(app).main(args=[], prog_name="edgecl", standalone_mode=False)
    out, err = capsys.readouterr()
    assert out.split() == expected
    assert err == ""


@pytest.fixture(scope="module")
def filled(known: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same home with two snapshots and a receipt."""
    path = tmp_path_factory.mktemp("filled") / "edgecl-home"
    shutil.copytree(known, path)
    with writing(Home(path)) as session:
        forget(session.home, session.learner, ForgetRequest("1", kind=Kind.SAMPLE))
        take(session.home, session.store)
        take(session.home, session.store)
    return path


def test_the_line_offers_its_completion(run: Run, tmp_path: Path) -> None:
    assert "--show-completion" in run(tmp_path, "--help").stdout
