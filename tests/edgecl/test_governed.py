"""Changes are recorded, judged, told and taken back; a class that is gone is in none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import build
from edgecl.cli.app import app
from edgecl.config import GovernorConfig
from edgecl.errors import RequestError
from edgecl.evaluation.report import write_report
from edgecl.governed import governed, take_back, way_back
from edgecl.governor.judge import judged
from edgecl.governor.words import said_of_changes
from edgecl.home import Home
from edgecl.paired import Pairs
from edgecl.session import Session, reading
from edgecl.snapshots import take
from edgecl.store.changes import OPEN, Change, OfClass, changes_of
from edgecl.store.runs import Start, drop_run
from edgecl.types import ForgetRequest
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.request import forget, writing

D, N = 12, 240
CENTRES = np.random.default_rng(7).uniform(0, 3, (4, D))


def rows(n: int, classes: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.array([classes[i % len(classes)] for i in range(n)])
    x = np.maximum(CENTRES[y] + rng.normal(0, 0.3, (n, D)), 0)
    return x.astype(np.float32), y


def teach(session: Session, n: int, classes: tuple[int, ...], seed: int, as_: int = 0) -> None:
    """Learn rows of some classes, under the names of those `as_` further on."""
    x, y = rows(n, classes, seed)
    frames = [build.frame(f"part-{(c + as_) % 4}", 1000 * seed + i) for i, c in enumerate(y)]
    session.learner.begin(Start())
    session.learner.learn_many(frames, x)


def governor(home: Home, **values: object) -> Home:
    policy = replace(home.config.governor, **values)  # type: ignore[arg-type]
    home.save_config(replace(home.config, governor=policy))
    return home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with two classes and their held-out samples; recording began before them."""
    home = build.tiny_home(tmp_path / "home", probes=20, capacity_samples=2000)
    with writing(home) as session, governed(session, "learn"):
        teach(session, N, (0, 1), 1)
    return home


def changes(home: Home) -> list[Change]:
    with reading(home) as session:
        return changes_of(session.store)


def scorer(home: Home) -> Iterator[object]:
    with reading(home) as session:
        return session.exact_scorer()


def poison(session: Session) -> None:
    """Teach pictures of both classes under each other's name."""
    x, y = rows(3 * N, (0, 1), 9)
    frames = [build.frame(f"part-{1 - c}", 9000 + i) for i, c in enumerate(y)]
    session.learner.begin(Start())
    session.learner.learn_many(frames, x)


def test_a_change_is_recorded_with_what_it_did(home: Home) -> None:
    (first,) = changes(home)
    assert (first.kind, first.state, first.taught) == ("learn", "serving", True)
    assert sum(c.learned for c in first.classes) == N - 2 * 12
    assert all(c.pairs.n == 0 for c in first.classes)  # nobody was a witness before
    with writing(home) as session, governed(session, "label") as done:
        teach(session, 40, (2,), 2)
    second = changes(home)[-1]
    assert second.uid == done.uid
    assert {c.uid: c.pairs.n for c in second.classes} == {1: 120, 2: 120, 3: 0}  # 108 kept, 12 held
    assert done.judgement is not None
    assert done.judgement.verdict == "harmless"
    with writing(home) as session:
        assert not Chain(home, session.store).receipts  # a record is a row and no receipt


def test_what_changes_nothing_is_no_change(home: Home) -> None:
    with writing(home) as session, governed(session, "learn") as done:
        pass
    assert done.uid is None
    assert len(changes(home)) == 1
    governor(home, mode="off")
    with writing(home) as session, governed(session, "learn") as done:
        teach(session, 10, (0,), 3)
    assert done.uid is None
    assert len(changes(home)) == 1


def test_a_harmful_change_is_told_in_record_and_taken_back_in_gate(home: Home) -> None:
    before, said = scorer(home), []
    governor(home, mode="gate", min_probes=5)
    with writing(home) as session, governed(session, "learn", tell=said.append) as done:
        poison(session)
    assert done.state == "rolled_back"
    assert "taken back" in said[0]
    build.assert_same(before, scorer(home))  # bit for bit
    with writing(home) as session:
        receipt = Chain(home, session.store).receipts[-1]
    assert receipt.body["kind"] == "change"
    assert (receipt.body["state"], receipt.body["change"]) == ("rolled_back", done.uid)
    assert not any("part" in str(value) for value in receipt.body.values())
    governor(home, mode="record")
    with writing(home) as session, governed(session, "learn", tell=said.append) as done:
        poison(session)
    assert done.state == "serving"
    assert said[-1].endswith(f"`edgecl rollback c{done.uid}` takes it back")
    with writing(home) as session:
        taken = take_back(session, int(done.uid or 0))
    assert taken.state == "rolled_back"
    build.assert_same(before, scorer(home))


def test_one_change_is_subtracted_and_later_ones_stay(home: Home, tmp_path: Path) -> None:
    other = build.tiny_home(tmp_path / "other", probes=20, capacity_samples=2000)
    with writing(other) as session:
        teach(session, N, (0, 1), 1)
        teach(session, 30, (3,), 5)
    for n, classes, seed in ((30, (2,), 4), (30, (3,), 5)):
        with writing(home) as session, governed(session, "learn"):
            teach(session, n, classes, seed)
    with writing(home) as session:
        take_back(session, 2)
        assert "part-2" not in session.store.names.values()
        for gone in (2, 99):  # what taught only a class that is gone went with it
            with pytest.raises(RequestError, match=rf"change c{gone} is unknown"):
                take_back(session, gone)
    build.assert_same(scorer(home), scorer(other))
    assert [(c.kind, c.state) for c in changes(home)][1:] == [
        ("learn", "serving"), ("rollback", "serving"),
    ]  # fmt: skip


@pytest.mark.parametrize("head", ["prototype", "uer"])
def test_what_cannot_be_subtracted_is_undone_as_the_last_run(tmp_path: Path, head: str) -> None:
    home = build.tiny_home(tmp_path / "home", head, probes=20, capacity_samples=60)
    governor(home, mode="gate", min_probes=5)
    with writing(home) as session, governed(session, "learn"):
        teach(session, N, (0, 1), 1)
    before = scorer(home)
    with writing(home) as session, governed(session, "learn") as done:
        poison(session)
    assert done.state == "rolled_back"
    build.assert_same(before, scorer(home))


def test_what_is_no_run_has_a_snapshot(home: Home) -> None:
    before = scorer(home)
    governor(home, mode="gate", min_probes=5)
    with writing(home) as session, governed(session, "merge") as done:
        poison(session)
        with session.store.transaction():
            drop_run(session.store)
    assert done.state == "rolled_back"
    assert changes(home)[-1].snapshot == 1
    build.assert_same(before, scorer(home))


def test_relabel_hold_out_merge_and_undo_are_changes(home: Home) -> None:
    with reading(home) as session:
        uids = [uid for uid, c in session.store.stored_samples() if c == 1][:5]
    place = ["--home", str(home.path), "--json"]
    for arguments in (
        ["relabel", *map(str, uids), "part-1"],
        ["undo", "--yes"],
        ["samples", "hold-out", *map(str, uids)],
        ["merge-classes", "part-0", "part-1", "--yes"],
    ):
        done = CliRunner().invoke(app, [*arguments, *place])
        assert done.exit_code == 0, done.output
    found = changes(home)
    assert [(c.kind, c.state) for c in found][-4:] == [
        ("relabel", "rolled_back"), ("rollback", "serving"), ("hold-out", "serving"),
        ("merge-classes", "serving"),
    ]  # fmt: skip
    assert way_back_of(home, found[-1]) == "undo"
    back = CliRunner().invoke(app, ["rollback", found[-1].name, *place])
    assert json.loads(back.stdout)["classes"] == 2


def test_what_a_killed_process_left_open_is_closed_by_the_next(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, writing(home) as session:
        patch.setattr("edgecl.governed._close", killed)
        change = governed(session, "learn")
        change.__enter__()
        teach(session, 40, (2,), 2)
        with pytest.raises(KeyboardInterrupt):
            change.__exit__(None, None, None)
    assert changes(home)[-1].state == OPEN
    with writing(home) as session, governed(session, "learn"):
        teach(session, 20, (3,), 3)
    left, new = changes(home)[-2:]
    assert (left.state, new.state) == ("serving", "serving")
    assert {c.uid: c.learned for c in left.classes}[3] == 36
    assert {c.uid: c.learned for c in new.classes}[4] == 18


def test_settings_that_were_changed_are_on_record(home: Home) -> None:
    home.save_config(replace(home.config, store=replace(home.config.store, capacity_samples=99)))
    with writing(home):
        pass
    found = changes(home)[-1]
    assert (found.kind, found.body["was"], found.body["now"]) == (
        "settings", {"store.capacity_samples": 2000}, {"store.capacity_samples": 99},
    )  # fmt: skip
    with writing(home):
        pass
    assert changes(home)[-1] == found


def test_a_forgotten_class_is_in_no_change(home: Home) -> None:
    with writing(home) as session, governed(session, "learn"):
        teach(session, 30, (2,), 4)
    with writing(home) as session, governed(session, "learn"):
        teach(session, 40, (2, 3), 5)
    assert len(changes(home)) == 3
    with writing(home) as session:
        forget(home, session.learner, ForgetRequest("part-2"))
    found = changes(home)
    # c2 taught nothing else, and is gone; c3 has no row of it.
    assert [c.name for c in found] == ["c1", "c3", "c4"]
    assert found[-1].kind == "forget"
    assert found[-1].receipt == "r1"
    assert all(part.uid != 3 for c in found for part in c.classes)
    with writing(home) as session:
        count = session.store.connection.execute(
            "SELECT count(*) FROM change_classes WHERE class_uid = 3"
        )
        assert count.fetchone() == (0,)


def test_a_rollback_to_a_snapshot_is_a_change_and_keeps_the_record(home: Home) -> None:
    with writing(home) as session:
        kept = take(home, session.store)
    with writing(home) as session, governed(session, "learn"):
        teach(session, 30, (2,), 4)
    done = CliRunner().invoke(app, ["rollback", f"s{kept.uid}", "--home", str(home.path), "--json"])
    assert done.exit_code == 0, done.output
    found = changes(home)
    assert [c.kind for c in found] == ["learn", "learn", "rollback"]
    assert all(part.uid != 3 for c in found for part in c.classes)
    assert way_back_of(home, found[-1]) == ""


def way_back_of(home: Home, change: Change) -> str:
    with reading(home) as session:
        return way_back(session, change)


def test_the_record_keeps_the_newest(home: Home) -> None:
    governor(home, keep_changes=3)
    for seed in range(5):
        with writing(home) as session, governed(session, "learn"):
            teach(session, 4, (0,), 20 + seed)
    assert len(changes(home)) == 3


def test_commands_say_what_changed(home: Home) -> None:
    runner = CliRunner()
    place = ["--home", str(home.path)]
    with writing(home) as session, governed(session, "label"):
        teach(session, 40, (2,), 2)
    listed = json.loads(runner.invoke(app, ["changes", *place, "--json"]).stdout)["changes"]
    assert [c["change"] for c in listed] == ["c1", "c2"]
    assert listed[1]["learned"] == {"part-2": 36}
    assert listed[1]["way_back"] == "subtract"
    said = runner.invoke(app, ["changes", "c2", *place])
    assert "taught 36 of part-2" in said.stdout
    assert "`edgecl rollback c2` takes it back" in said.stdout
    back = json.loads(runner.invoke(app, ["rollback", "c2", *place, "--json"]).stdout)
    assert (back["change"], back["state"], back["classes"]) == ("c2", "rolled_back", 2)
    for bad in (["changes", "x"], ["changes", "c77"], ["rollback", "c77"], ["rollback", "cc"]):
        assert runner.invoke(app, [*bad, *place]).exit_code != 0


def test_status_and_report_warn_of_a_change_that_is_proved_worse(
    home: Home, tmp_path: Path
) -> None:
    governor(home, min_probes=5)
    with writing(home) as session, governed(session, "import") as done:
        poison(session)
    with reading(home) as session:
        said = said_of_changes(home, session.store)
    assert said["last_change"] == f"c{done.uid}"
    assert f"import c{done.uid} is proved worse" in said["warnings"][0]
    page = tmp_path / "report.html"
    write_report(home, page)
    text = page.read_text()
    assert "<h2>Changes</h2>" in text
    assert f"import c{done.uid} is proved worse" in text


POLICY = GovernorConfig()


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([], "nothing to compare"),
        ([Pairs(20, 0, 0)] * 10, "not proved harmless"),  # 20 a class prove no harmlessness
        ([Pairs(60, 0, 0)] * 10, "harmless"),
        ([Pairs(20, 6, 0)] + [Pairs(20, 0, 0)] * 9, "proved worse"),  # by all together: 3 points
        ([Pairs(20, 5, 4)] + [Pairs(20, 0, 0)] * 9, "not proved harmless"),
        ([Pairs(200, 60, 2)] + [Pairs(200, 1, 1)] * 9, "proved worse"),
        ([Pairs(2000, 30, 2)] * 10, "harmless"),  # a loss that is tolerated
        ([Pairs(9, 9, 0)], "proved worse"),
    ],
)
def test_the_two_thresholds(pairs: list[Pairs], verdict: str) -> None:
    found = judged([OfClass(i + 1, 0, p) for i, p in enumerate(pairs)], POLICY)
    assert found.verdict == verdict


def test_the_class_that_fell_is_named() -> None:
    classes = [OfClass(i, 0, Pairs(50, 1, 1)) for i in range(1, 10)]
    found = judged([*classes, OfClass(11, 0, Pairs(50, 15, 0))], POLICY)
    assert (found.worst, found.worst_pairs.lost, found.is_worse) == (11, 15, True)
    assert judged(classes[:0], POLICY).worst is None
