"""Wherever a class is named, a name that is easily confused with a known one is told."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import workloads
from typer.testing import CliRunner

import build
from edgecl.cli.app import app
from edgecl.errors import UnknownClassError, UsageError
from edgecl.home import Home
from edgecl.runtime.grid import quantise
from edgecl.session import open_learner, open_store
from edgecl.store.novel import entries, offer
from edgecl.types import meant
from edgecl.unlearning.request import writing


@pytest.mark.parametrize(
    ("name", "known"),
    [("Bird", "bird"), ("brid", "bird"), ("bird\u200b", "bird"), ("bird ", "bird"),
     ("\u0441up", "cup"), ("red_cup", "red cup"), ("birds", "bird"), ("Müller", "Muller")],
)  # fmt: skip
def test_a_name_that_is_nearly_known_is_asked_for(name: str, known: str) -> None:
    assert meant(name, ["fish", known, "plane"]) == f"did you mean {known!r}? "


@pytest.mark.parametrize("name", ["cat", "house", "x", "fishes and birds"])
def test_another_name_is_not(name: str) -> None:
    assert meant(name, ["fish", "bird", "plane"]) == ""


@pytest.fixture
def known(tmp_path: Path) -> Home:
    """A home that knows part-1 to part-3 and has one frame to review."""
    home = build.tiny_home(tmp_path / "home")
    x, y = build.features(30)
    with writing(home) as session:
        learner = open_learner(home, session.store)
        learner.learn_many([build.frame(f"part-{c}", i) for i, c in enumerate(y)], x)
        learner.settle()
        with session.store.transaction(changes_head=False):
            encoded = build.frame("queue", 1).encoded
            assert encoded is not None
            uid = session.store.class_uid("part-1")
            offer(
                session.store, picture=encoded, x=quantise(x[0]), guess=uid, score=1.0,
                source="camera:0", frame="f1", time=1.0,
            )  # fmt: skip
    return home


def run(home: Home, *arguments: object) -> None:
    done = CliRunner().invoke(app, [*map(str, arguments), "--home", str(home.path)])
    if done.exception is not None:
        raise done.exception


@pytest.mark.parametrize("arguments", [("forget", "class", "Part-1"), ("rename", "PART-1", "ring")])
def test_an_unknown_class_is_answered_with_the_nearest(
    known: Home, arguments: tuple[str, ...]
) -> None:
    with pytest.raises(UnknownClassError, match="did you mean 'part-1'"):
        run(known, *arguments)


@pytest.mark.parametrize("command", ["review label", "rename"])
def test_a_name_that_looks_like_a_known_one_has_to_be_insisted_on(
    known: Home, command: str
) -> None:
    with open_store(known, read_only=True) as store:
        uid = entries(store)[0].uid
    what = ("review", "label", uid) if command == "review label" else ("rename", "part-2")
    with pytest.raises(UsageError, match=r"did you mean part-1\? --new"):
        run(known, *what, "Part_1")
    run(known, *what, "Part_1", "--new")
    with open_store(known, read_only=True) as store:
        assert {"part-1", "Part_1"} <= set(store.names.values())


def test_a_class_may_be_renamed_to_what_it_looks_like(known: Home) -> None:
    run(known, "rename", "part-1", "Part 1")
    with open_store(known, read_only=True) as store:
        assert "Part 1" in store.names.values()


def line(name: str, i: int) -> dict[str, Any]:
    picture = build.encode(build.part_picture("washer", i, 48))
    return {"image": base64.b64encode(picture).decode(), "label": name, "id": f"f{i}"}


def test_a_stream_does_not_make_a_second_class_of_another_case(tmp_path: Path) -> None:
    home = workloads.small_home(tmp_path / "home").path
    folder = build.part_folder(tmp_path / "parts", 2)
    assert build.run_edgecl("train-stream", folder, "--home", home).returncode == 0
    names = ("Washer", "washer", "ring", "RING", "wa\u200bsher")
    lines = "\n".join(json.dumps(line(name, i)) for i, name in enumerate(names))
    done = build.run_edgecl("train-stream", "-", "--home", home, "--json", stdin=lines)
    result = build.last_json(done)
    assert (result["classes"], result["skipped"], result["seen"]) == (5, 2, 5)
    assert "skipped f0: class 'Washer' is new and looks like 'washer'" in done.stderr
    assert "skipped f3: class 'RING' is new and looks like 'ring'" in done.stderr
    done = build.run_edgecl("train-stream", "-", "--new", "--home", home, "--json", stdin=lines)
    assert build.last_json(done)["classes"] == 7
    parts = build.part_folder(tmp_path / "more", 2, parts=("washer",))
    (parts / "washer").rename(parts / "wascher")
    done = build.run_edgecl("evaluate", parts, "--home", home, "--json")
    assert "wrong: wascher (did you mean 'washer'?)" in done.stderr.replace("W", "w")
