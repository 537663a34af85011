"""Whether what was learned is still true: answers to named live frames, in status and report."""

from __future__ import annotations

from pathlib import Path

import pytest

import build
from build import answer
from edgecl.cli.metrics import Metrics
from edgecl.evaluation.report import write_report
from edgecl.home import Home
from edgecl.mending import relabel
from edgecl.paired import fewer_right
from edgecl.session import Session, open_store
from edgecl.store.live_answers import MOST, live_answers, note_answers
from edgecl.store.table import Role
from edgecl.types import ForgetRequest
from edgecl.unlearning.request import forget, writing


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home of three classes that tells its test pictures apart."""
    home = build.tiny_home(tmp_path / "home", probes=20, capacity_samples=2000)
    with writing(home) as session:
        x, y = build.features(600)
        session.learner.learn_many([build.frame(f"part-{c}", i) for i, c in enumerate(y)], x)
        session.learner.settle()
    return home


def note(session: Session, label: str, said: str | None, n: int, start: float = 1e9) -> None:
    with session.store.transaction(changes_head=False):
        note_answers(session.store, [(label, said, start + i) for i in range(n)])


def test_fisher_counts_what_chance_would_do() -> None:
    assert fewer_right(0, 1, 1, 1) == pytest.approx(0.5)
    assert fewer_right(1, 10, 9, 10) == pytest.approx(101 / 184756, rel=1e-9)
    assert fewer_right(18, 20, 20, 20) > 0.2  # of twenty few prove nothing
    assert fewer_right(5, 5, 0, 0) == fewer_right(0, 0, 3, 5) == 1


def test_a_class_whose_live_frames_are_wrong_is_outdated(home: Home, tmp_path: Path) -> None:
    with writing(home) as session:
        note(session, "part-1", "part-1", 30)
        note(session, "part-2", "part-3", 20)
        note(session, "part-2", "part-2", 20)
        note(session, "part-3", None, 5)  # too few to say anything
    said = answer("status", "--home", home.path)
    classes = said["classes"]
    assert [classes[f"part-{k}"]["live"] for k in (1, 2, 3)] == [30, 40, 5]
    assert [classes[f"part-{k}"]["live_right"] for k in (1, 2, 3)] == [30, 20, 0]
    assert [classes[f"part-{k}"]["is_outdated"] for k in (1, 2, 3)] == [False, True, False]
    low, high = classes["part-2"]["live_interval"]
    assert (round(low, 2), round(high, 2)) == (0.35, 0.65)
    (line,) = said["outdated"]
    assert line.startswith("part-2 is outdated: of its last 40 live frames 20 were right")
    assert line in said["warnings"]
    shown = build.invoke("status", "--home", home.path).output
    assert "20 of 40 (35 to 65 %)" in shown
    page = write_report(home, tmp_path / "r.html").path
    assert "20 of 40 (35-65 %)" in page.read_text()
    assert "part-2 is outdated" in page.read_text()
    metrics = Metrics()
    with open_store(home, read_only=True) as store:
        metrics.measure(store)
    values = {m.name: m.samples[0].value for m in metrics.collect() if m.samples}
    assert values["edgecl_live_accuracy_ratio"] == pytest.approx(50 / 75)


def test_the_newest_hundred_of_a_class_count(home: Home) -> None:
    with writing(home) as session:
        note(session, "part-1", "part-2", 40)
        note(session, "part-1", "part-1", MOST - 10)
        found = live_answers(session.store)[1]
    assert (found.n, found.right) == (MOST, MOST - 10)


def test_an_answer_by_the_class_that_had_the_samples_is_an_old_name(home: Home) -> None:
    with writing(home) as session:
        note(session, "part-2", "part-1", 3)
        note(session, "part-2", "part-3", 4)
        assert live_answers(session.store)[2].outdated == 0
        own = [o.uid for o in session.store.origins(Role.REPLAY) if o.class_uid == 1]
        relabel(home, session.learner, own[:9], "part-2")
        assert live_answers(session.store)[2].outdated == 3


def test_answers_go_with_their_class_and_say_nothing_of_another_that_is_gone(home: Home) -> None:
    with writing(home) as session:
        note(session, "part-1", "part-2", 12)
        note(session, "part-2", "part-2", 12)
        forget(home, session.learner, ForgetRequest("part-2"))
        execute = session.store.connection.execute
        assert execute("SELECT DISTINCT class_uid, named FROM live_answers").fetchall() == [
            (1, None)
        ]
        found = live_answers(session.store)[1]
    assert (found.n, found.right) == (12, 0)
