"""Wrong labels among the kept samples are found, named and mended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import build
from build import invoke
from edgecl.errors import RequestError, UnknownClassError
from edgecl.evaluation.report import write_report
from edgecl.home import Home
from edgecl.mending import relabel
from edgecl.mistakes import Mistakes, find_mistakes
from edgecl.session import open_learner, reading
from edgecl.store.confirmed import confirm_samples
from edgecl.types import ForgetRequest
from edgecl.unlearning.request import forget, writing

D = 32
WRONG = (7, 19, 33)


def parts(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of three classes, of which no two are nearly the same."""
    rng = np.random.default_rng(4)
    centres = rng.uniform(0, 2, (3, D))
    y = np.arange(n) % 3 + 1
    return (centres[y - 1] + rng.uniform(0, 2, (n, D))).astype(np.float32), y


def taught(
    path: Path, head: str = "ridge", *, sealed: bool = False, twin: bool = False, n: int = 60
) -> Home:
    """A home with three samples taught as the next class, uid as place + 1; perhaps a twin pair."""
    home = build.tiny_home(path, head, D, sealed=sealed)
    x, y = parts(n)
    labels = y.copy()
    for i in WRONG:
        labels[i] = y[i] % 3 + 1
    if twin:
        x[41], labels[41] = x[40] * 1.01, y[40] % 3 + 1
    with writing(home) as session:
        learner = open_learner(home, session.store)
        learner.learn_many([build.frame(f"part-{c}", i) for i, c in enumerate(labels)], x)
        learner.settle()
    return home


def found(home: Home, **options: Any) -> Mistakes:
    with reading(home) as session:
        return find_mistakes(session, **options)


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
@pytest.mark.parametrize("head", ["ridge", "prototype", "key-value"])
def test_wrong_labels_stand_first(tmp_path: Path, head: str, sealed: bool) -> None:
    home = taught(tmp_path / "home", head, sealed=sealed)
    result = found(home, is_all=True)
    assert result.is_ranked
    assert result.n_kept == 60
    assert {m.uid for m in result.found[:3]} == {i + 1 for i in WRONG}
    assert [m.suspicion for m in result.found] == sorted(
        (m.suspicion for m in result.found), reverse=True
    )
    first = result.found[0]
    _, y = parts(60)
    assert first.guess == f"part-{y[first.uid - 1]}"
    assert first.label != first.guess
    assert {m.uid for m in found(home).found} == {m.uid for m in result.found if m.suspicion > 0}


def test_pictures_taught_twice_come_before_all_others(tmp_path: Path) -> None:
    result = found(taught(tmp_path / "home", twin=True))
    assert {(m.uid, m.twin) for m in result.found[:2]} == {(41, 42), (42, 41)}
    assert {m.label for m in result.found[:2]} == {m.guess for m in result.found[:2]}
    assert all(m.twin is None for m in result.found[2:])


def test_a_head_without_a_closed_form_finds_twins_only(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the head uer learns with torch")
    result = found(taught(tmp_path / "home", "uer", twin=True), is_all=True)
    assert not result.is_ranked
    assert {m.uid for m in result.found} == {41, 42}


def test_what_is_relabelled_is_asked_no_more_and_what_is_confirmed_until_it_moves(
    tmp_path: Path,
) -> None:
    home = taught(tmp_path / "home")
    a, b, c = (i + 1 for i in WRONG)
    _, y = parts(60)
    with writing(home) as session:
        relabel(home, session.learner, [a], f"part-{y[a - 1]}")
        with session.store.transaction(changes_head=False):
            confirm_samples(session.store, [b])
    result = found(home)
    assert {m.uid for m in result.found} & {a, b, c} == {c}
    assert result.n_confirmed == 1
    with writing(home) as session:
        relabel(
            home,
            session.learner,
            [b],
            f"part-{y[b - 1] % 3 + 1}"[:-1] + str((y[b - 1] + 1) % 3 + 1),
        )
    assert b in {m.uid for m in found(home).found}


def test_only_what_is_kept_can_be_confirmed(tmp_path: Path) -> None:
    home = taught(tmp_path / "home")
    with (
        writing(home) as session,
        pytest.raises(RequestError, match="sample 99 is not in the store"),
        session.store.transaction(changes_head=False),
    ):
        confirm_samples(session.store, [8, 99])
    assert found(home).n_confirmed == 0


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_after_a_forget_it_is_what_it_is_where_the_class_never_was(
    tmp_path: Path, sealed: bool
) -> None:
    home = taught(tmp_path / "home", sealed=sealed)
    with writing(home) as session, session.store.transaction(changes_head=False):
        confirm_samples(session.store, [1, 2, 3, 8])
    with writing(home) as session:
        forget(home, session.learner, ForgetRequest("part-3"))
    never = build.tiny_home(tmp_path / "never", num_features=D, sealed=sealed)
    x, y = parts(60)
    labels = [y[i] % 3 + 1 if i in WRONG else y[i] for i in range(60)]
    kept = [i for i in range(60) if labels[i] != 3]
    with writing(never) as session:
        learner = open_learner(never, session.store)
        learner.learn_many([build.frame(f"part-{labels[i]}", i) for i in kept], x[kept])
        learner.settle()
    confirmed = {i + 1 for i in (0, 1, 2, 7) if labels[i] != 3}
    ours = found(home, is_all=True)
    theirs = [m for m in found(never, is_all=True).found if kept[m.uid - 1] + 1 not in confirmed]
    assert [(m.uid, m.label, m.guess, m.suspicion) for m in ours.found] == [
        (kept[m.uid - 1] + 1, m.label, m.guess, m.suspicion) for m in theirs
    ]
    assert ours.n_confirmed == len(confirmed)


def test_the_command_lists_writes_pictures_and_confirms(tmp_path: Path) -> None:
    home = taught(tmp_path / "home", twin=True)
    listed = ["review", "mistakes", "--home", home.path]
    said = json.loads(
        invoke(*listed, "--limit", 3, "--json", "--pictures", tmp_path / "look").stdout
    )
    assert len(said["mistakes"]) == 3
    assert (said["kept"], said["ranked"]) == (60, True)
    assert {path.stem for path in (tmp_path / "look").iterdir()} >= {"41", "42"}
    assert "shows what 42 does" in invoke(*listed).stdout
    first = [str(m["uid"]) for m in said["mistakes"]]
    assert json.loads(
        invoke("review", "confirm", *first, "--home", home.path, "--json").stdout
    ) == {"confirmed": 3}
    again = json.loads(invoke(*listed, "--json").stdout)
    assert not {str(m["uid"]) for m in again["mistakes"]} & set(first)
    assert again["confirmed"] == 3
    only = json.loads(invoke(*listed, "--class", "part-2", "--json").stdout)["mistakes"]
    assert {m["label"] for m in only} <= {"part-2"}
    with pytest.raises(UnknownClassError):
        invoke(*listed, "--class", "part-9")


def test_an_empty_home_has_none(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home")
    assert invoke("review", "mistakes", "--home", home.path).exit_code == 0
    assert found(home).found == ()


def test_the_report_shows_them_with_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the report draws with matplotlib")
    home = taught(tmp_path / "home", twin=True)
    text = write_report(home, tmp_path / "report.html", time=0.0).path.read_text()
    assert "Perhaps taught wrong" in text
    assert "shows what 42 does" in text
    clean = build.tiny_home(tmp_path / "clean", num_features=D)
    x, y = parts(30)
    with writing(clean) as session:
        learner = open_learner(clean, session.store)
        learner.learn_many([build.frame(f"part-{c}", i) for i, c in enumerate(y)], x)
        learner.settle()
    text = write_report(clean, tmp_path / "clean.html", time=0.0).path.read_text()
    assert ("Perhaps taught wrong" in text) == bool(found(clean).found)
    assert np.isfinite([m.suspicion for m in found(clean, is_all=True).found]).all()
