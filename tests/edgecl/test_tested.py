"""With `evaluation.probes = 0` an exact head is tested on what it keeps, each picture left out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import build
from edgecl.cli.app import app
from edgecl.evaluation import tested as tests
from edgecl.evaluation.report import write_report
from edgecl.home import Home
from edgecl.session import open_learner, reading
from edgecl.store.probes import last_accuracy
from edgecl.types import ForgetRequest
from edgecl.unlearning.request import forget, writing


def taught(path: Path, head: str, probes: int, *, more: tuple[str, ...] = ()) -> Home:
    """A home of three parts, and of one picture each of some more, a few taught wrongly."""
    home = build.tiny_home(path, head, probes=probes)
    x, y = build.features(60)
    y[[7, 19, 33]] = y[[7, 19, 33]] % 3 + 1
    names = [*(f"part-{c}" for c in y), *more]
    x = np.concatenate([x, np.eye(12, dtype=np.float32)[: len(more)]])
    with writing(home) as session:
        learner = open_learner(home, session.store)
        learner.learn_many([build.frame(name, i) for i, name in enumerate(names)], x)
        learner.settle()
    return home


def status(home: Home, *more: str) -> str:
    done = CliRunner().invoke(app, ["status", "--home", str(home.path), *more])
    assert done.exit_code == 0, done.output
    return done.stdout


def values(home: Home) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(status(home, "--json").splitlines()[-1])
    return found


@pytest.mark.parametrize("head", ["ridge", "prototype", "key-value"])
def test_without_probes_every_kept_picture_is_a_test(tmp_path: Path, head: str) -> None:
    home = taught(tmp_path / "home", head, 0, more=("disc",))
    found = values(home)
    with reading(home) as session:
        left_out = session.leave_one_out()
        assert left_out is not None
        usual = left_out.classes != session.store.class_uid("disc")  # nothing of it would be left
        right = int(left_out.verdicts[usual].sum())
    assert (found["tested_on"], found["tested"], found["right"]) == ("left out", 60, right)
    assert found["accuracy"] == right / 60
    assert 0.5 < found["accuracy"] < 1
    assert found["probes"] == 0
    assert found["evaluations"] == 1
    assert found["min_accuracy"] is not None
    with reading(home) as session:
        assert last_accuracy(session.store) == pytest.approx(found["accuracy"], abs=0.1)
    by_class = {name: c["tested"] for name, c in found["classes"].items()}
    assert (sum(by_class.values()), by_class["disc"]) == (60, 0)
    assert found["classes"]["disc"]["accuracy"] is None
    assert f"{right} of 60 kept pictures are right, each asked for" in status(home)


@pytest.mark.parametrize(("head", "probes", "n"), [("ridge", 20, 5), ("uer", 20, 5), ("uer", 0, 0)])
def test_else_held_out_pictures_are(tmp_path: Path, head: str, probes: int, n: int) -> None:
    found = values(taught(tmp_path / "home", head, probes))
    assert (found["tested_on"], found["tested"], found["probes"]) == ("held out", n, n)
    assert (found["accuracy"] is None) == (n == 0)


def test_the_report_says_whose_accuracy_it_is(tmp_path: Path) -> None:
    home = taught(tmp_path / "home", "ridge", 0)
    with reading(home) as session:
        store = session.store
        tested = tests.tested_now(home, store, tests.shown_classes(store))
    right, n = int(tested.right.sum()), int(tested.n.sum())
    write_report(home, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    text = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", page))
    assert f"{right} of {n} kept pictures (each as if not learned) right" in text
    assert "kept pictures, each asked in turn as if it had not been learned" in text
    assert "No confusion matrix" not in text


def test_after_a_forget_it_is_that_of_a_home_that_never_saw_the_class(tmp_path: Path) -> None:
    once = taught(tmp_path / "once", "ridge", 0, more=("disc", "ring"))
    never = taught(tmp_path / "never", "ridge", 0)
    with writing(once) as session:
        learner = open_learner(once, session.store)
        for name in ("disc", "ring"):
            forget(once, learner, ForgetRequest(name, kind="class"))
    a, b = values(once), values(never)
    for key in ("accuracy", "right", "tested", "intervals"):
        assert a[key] == b[key], key
