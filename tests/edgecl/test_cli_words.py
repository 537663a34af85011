"""What commands say where a person has to understand it: once, in a sentence that fits."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from reported import reported_home

import build
from edgecl.cli import output, run, unlearn
from edgecl.cli.changes import _print_changes
from edgecl.cli.learn import result_of
from edgecl.cli.learned import print_learned
from edgecl.cli.output import say, show
from edgecl.errors import NothingLearnedError, RequestError, UsageError
from edgecl.figures import percent
from edgecl.home import Home
from edgecl.paired import Pairs
from edgecl.runtime.sources import open_source
from edgecl.store.changes import Change, OfClass
from edgecl.stream.progress import Progress
from edgecl.types import ForgetRequest, Kind, Mode
from edgecl.unlearning.ask import HandedOver
from edgecl.unlearning.request import forget, writing

LONG = "the classes " + ", ".join(f"part-number-{i}" for i in range(30)) + " are known"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two classes, made without an engine; never write to it."""
    path = tmp_path_factory.mktemp("known") / "home"
    reported_home(path, {"bolt-m4": 12, "gasket": 12})
    return path


# Lines


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("text", [LONG, f"    {LONG}", "short", "", "x" * 200])
@pytest.mark.parametrize("width", ["40", "80", "5"])
def test_on_a_terminal_lines_break_between_words_and_nowhere_else(
    text: str, width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    there, plain = Terminal(), io.StringIO()
    show(text, there)
    show(text, plain)
    assert plain.getvalue() == f"{text}\n"
    lines = there.getvalue().splitlines() or [""]
    assert " ".join(line.strip() for line in lines) == text.strip()
    if " " in text:
        assert max(map(len, lines)) <= max(20, int(width))
        assert {line[:4] == "    " for line in lines} == {text.startswith("    ")}


def test_what_is_said_breaks_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(output.sys, "stderr", stream := Terminal())
    say(LONG)
    lines = stream.getvalue().splitlines()
    assert len(lines) > 5
    assert max(map(len, lines)) <= 60


@pytest.mark.parametrize(
    ("share", "digits", "text"), [(0.911, 0, "91 %"), (1, 0, "100 %"), (0.12345, 1, "12.3 %")]
)
def test_a_share_is_written_one_way(share: float, digits: int, text: str) -> None:
    assert percent(share, digits) == text


# Once


@pytest.mark.parametrize(
    ("notes", "n"), [(["passed over: 12 .heic"], 0), ([], 1), (["another note"], 1)]
)
def test_what_was_passed_over_is_told_once(
    notes: list[str], n: int, capsys: pytest.CaptureFixture[str]
) -> None:
    result = result_of(Progress(seen=3, learned=3), open_source("synthetic:"))
    print_learned(result | {"passed_over": {".heic": 12}}, {"cup": 3}, notes)
    assert capsys.readouterr().out.count("12 .heic") == n


@pytest.mark.parametrize(
    ("names", "n_reasons", "said"),
    [
        (["bad.jpg"], 1, "bad.jpg cannot be predicted: the file is empty"),
        (["bad.jpg", "worse.jpg"], 2, "skipped: 2; see above"),
    ],
)
def test_why_no_picture_is_predicted_is_told_once(
    names: list[str], n_reasons: int, said: str, tmp_path: Path, taught_home: Path
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    done = build.run_edgecl("predict", *(tmp_path / n for n in names), "--home", taught_home)
    assert done.returncode == 3
    assert said in done.stderr
    assert done.stderr.count("the file is empty") == n_reasons


# After everything was unlearned


@pytest.fixture(scope="module")
def emptied(tmp_path_factory: pytest.TempPathFactory, known: Path) -> Path:
    path = tmp_path_factory.mktemp("emptied") / "home"
    shutil.copytree(known, path)
    with writing(Home(path)) as session:
        for name in list(session.store.names.values()):
            forget(session.home, session.learner, ForgetRequest(name))
    return path


def test_status_says_that_all_was_unlearned(emptied: Path) -> None:
    text = build.invoke("status", "--home", emptied).stdout
    assert "knows nothing any more: all that it had learned was unlearned, on 2 requests" in text
    assert "Next: edgecl receipts" in text
    assert "learned nothing yet" not in text


def test_predict_says_that_all_was_unlearned(emptied: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    build.part_picture("washer", 0).save(picture)
    with pytest.raises(NothingLearnedError, match="unlearned, on 2 requests; it learns with"):
        build.invoke("predict", picture, "--home", emptied)


def test_a_home_that_never_learned_is_told_from_one_that_unlearned_all(tmp_path: Path) -> None:
    build.tiny_home(tmp_path / "new")
    assert "has learned nothing yet" in build.invoke("status", "--home", tmp_path / "new").stdout


# Which source, which home


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("camera:1", "did you mean 'camera:0'"),
        ("nope", "sources: 'camera:0'"),
    ],
)
@pytest.mark.parametrize("command", [("samples", "list", "--source"), ("forget", "source")])
def test_a_source_that_is_none_is_told_with_those_that_are(
    command: tuple[str, ...], name: str, said: str, known: Path
) -> None:
    with pytest.raises(RequestError, match=f"no sample came from '{name}'; {said}"):
        build.invoke(*command, name, "--home", known)


def test_a_source_that_is_one_is_listed(known: Path) -> None:
    found = json.loads(
        build.invoke("samples", "list", "--source", "camera:0", "--home", known, "--json").stdout
    )
    assert found["total"] > 20


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_home_that_is_named_beside_a_bundle_is_said_to_be_passed_over(
    command: str, known: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "washer" / "a.png"
    picture.parent.mkdir()
    build.part_picture("washer", 0).save(picture)
    words = [command, str(tmp_path), "--bundle", str(tmp_path / "b"), "--home", str(known)]
    assert run(words) == 3  # there is no such bundle
    assert "the home that --home names is not looked at" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("review", "label", "1"), ("relabel", "1")], ids=" ".join)
def test_a_name_that_looks_like_a_known_one_is_asked_for(
    command: tuple[str, ...], known: Path, copy_of: Callable[[Path], Path]
) -> None:
    with pytest.raises(UsageError, match=r"did you mean gasket\? --new takes it"):
        build.invoke(*command, "Gasket", "--home", copy_of(known))


# Sentences, no tables


def test_pending_requests_end_in_a_sentence(known: Path, copy_of: Callable[[Path], Path]) -> None:
    home = copy_of(known)
    assert build.invoke("forget", "pending", "--home", home).stdout == (
        "no request waits: all that was to be unlearned is\n"
    )
    shutil.copy2(home / "device.db", home / "kept.db")
    with writing(Home(home)) as session:
        forget(session.home, session.learner, ForgetRequest("gasket"))
    os.replace(home / "kept.db", home / "device.db")  # a backup that is put back
    for name in ("device.db-wal", "device.db-shm"):
        (home / name).unlink(missing_ok=True)
    text = build.invoke("forget", "pending", "--home", home).stdout
    assert "the class is unlearned in" in text
    assert "Next: edgecl receipts" in text
    assert "finished" not in text


@pytest.mark.parametrize(
    ("verified", "said"), [(None, "exact head; receipt r7"), (True, "; checked; receipt r7")]
)
def test_what_another_process_unlearned_is_told_in_a_sentence(
    verified: bool | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = HandedOver("r7", Mode.EXACT_HEAD, verified)
    unlearn._show_handed_over(done, ForgetRequest("cup", "", Kind.CLASS), None, json=False)
    text = capsys.readouterr().out
    assert text.startswith("the process that writes to this home unlearned the class")
    assert said in text
    assert "Next: edgecl receipt r7" in text


def test_the_table_of_changes_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    said = {"n": 1234, "lost": 12, "won": 105, "verdict": "not proved harmless"}
    found = [
        (
            Change(120 + k, kind, "rolled_back", 1.7e9, None, True, (0, 9), None, {}, None,
                   (OfClass(1, learned=12345, pairs=Pairs(1234, 12, 105)),)),
            said,
        )
        for k, kind in enumerate(("merge-classes", "consolidate", "learn"))
    ]  # fmt: skip
    _print_changes(found)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[-3:] for line in lines[2:]] == [["-12", "+105", "unproved"]] * 3
