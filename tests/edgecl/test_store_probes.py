"""Probes: what is held out, when it is scored, and that it goes with what it shows."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import build
from edgecl import snapshots
from edgecl.errors import StoreError
from edgecl.evaluation.continual import forgetting, summary
from edgecl.heads import HEADS, make_head
from edgecl.heads.statistics import Gram
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.runtime.grid import quantise
from edgecl.session import open_learner, open_store
from edgecl.store import held_out, probes
from edgecl.store.erasure import erase
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.types import ForgetRequest, Frame, Kind, UpdateReport
from edgecl.unlearning.evidence import check, gather
from edgecl.unlearning.plan import make_plan, resolve, target_of
from edgecl.unlearning.request import Unlearned, forget, writing

D = 12
TABLES = ("held_out", "evaluations", "class_scores", "class_latency", "review")
LABELS = ("purple bracket", "brass washer", "steel gasket")


def learner_on(
    path: Path, name: str = "ridge", *, most: int | None = 20, sealed: bool = False, **options: Any
) -> Learner:
    store = build.store(path, D, second_moment=HEADS[name].statistic.name, sealed=sealed, **options)
    return Learner(store, make_head(name, D), seed=1, probes=most)


def stream(n: int = 300, n_classes: int = 3) -> tuple[list[Frame], np.ndarray]:
    x, y = build.features(n, D, n_classes)
    frames = [replace(build.frame(LABELS[c - 1], i), time=1e9 + i) for i, c in enumerate(y)]
    return frames, x


def teach(
    learner: Learner, stop: int = 300, start: int = 0, step: int = 10, n_classes: int = 3
) -> list[UpdateReport]:
    frames, x = stream(300, n_classes)
    reports = []
    for i in range(start, stop, step):
        part = slice(i, min(i + step, stop))
        reports += learner.learn_many(frames[part], x[part])
    return reports


def rows(store: Store, table: str) -> list[tuple[Any, ...]]:
    """Return a table without what the clock says."""
    columns = [c for _, c, *_ in store.connection.execute(f"PRAGMA table_info({table})")]
    if table == "evaluations":
        columns.remove("time")
    query = f"SELECT {', '.join(columns)} FROM {table} ORDER BY 1, 2"
    return store.connection.execute(query).fetchall()


def everything(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    return {table: rows(store, table) for table in (*TABLES, "samples", "meta")}


def test_every_tenth_of_a_class_is_held_out_and_never_learned(tmp_path: Path) -> None:
    learner = learner_on(tmp_path / "s.db", most=4)
    store = learner.store
    frames, x = stream()
    reports = teach(learner)
    arrived = dict.fromkeys(LABELS, 0)
    for report, frame in zip(reports, frames, strict=True):
        assert frame.label is not None
        arrived[frame.label] += 1
        n = arrived[frame.label]
        assert report.is_held_out == (n % 10 == 0 and n <= 40)
        assert not (report.is_held_out and report.is_stored)
    held = [i for i, report in enumerate(reports) if report.is_held_out]
    rest = [i for i in range(300) if i not in held]
    assert probes.held_out(store) == dict.fromkeys(store.names, 4)
    assert sum(store.n_seen().values()) == store.step == len(rest)
    for uid, name in store.names.items():
        mine = [i for i in rest if frames[i].label == name]
        wanted = Gram(D).of(quantise(x[mine]))
        assert Gram(D).pack(store.moments(uid)) == Gram(D).pack(wanted)
    kept = store.rows(Role.HELD_OUT)
    assert kept.uids.tolist() == [reports[i].uid for i in held]
    assert np.array_equal(kept.x, quantise(x[held]).astype(np.float32))
    assert [store.names[c] for c in kept.classes.tolist()] == [frames[i].label for i in held]
    assert store.picture(reports[held[0]].uid) == frames[held[0]].encoded
    with pytest.raises(StoreError, match="sample 999"):
        store.picture(999)
    never = learner_on(tmp_path / "never.db", most=None)
    never.learn_many([frames[i] for i in rest], x[rest])
    learner.settle()
    never.settle()
    build.assert_same(learner.head.scorer(store.names), never.head.scorer(never.store.names))
    assert never.store.n_stored_samples == store.n_stored_samples
    assert [rows(never.store, table) for table in TABLES] == [[]] * len(TABLES)
    assert probes.stages_of(never.store) == ()
    never.store.close()
    store.close()


@pytest.mark.parametrize("name", ["ridge", "prototype", "uer"])
def test_a_resumed_run_equals_one_that_was_not(tmp_path: Path, name: str) -> None:
    whole = learner_on(tmp_path / "a.db", name, capacity_samples=40)
    teach(whole, 240, step=8)
    for start in range(0, 240, 8):
        if start:
            store = Store(tmp_path / "b.db", capacity_samples=40)
            parts = Learner(store, make_head(name, D), seed=1, probes=20)
        else:
            parts = learner_on(tmp_path / "b.db", name, capacity_samples=40)
        teach(parts, start + 8, start, 8)
        if start == 232:
            assert everything(parts.store) == everything(whole.store)
            parts.head.settle(parts.store)
            whole.head.settle(whole.store)
            build.assert_same(
                parts.head.scorer(parts.store.names), whole.head.scorer(whole.store.names)
            )
        parts.store.close()
    whole.store.close()


def test_a_step_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = learner_on(tmp_path / "a.db")
    teach(whole)
    learner = learner_on(tmp_path / "b.db")
    frames, x = stream()

    def fail() -> None:
        raise OSError("no space left")

    for i in range(0, 300, 10):
        part = slice(i, i + 10)
        before = everything(learner.store)
        with monkeypatch.context() as patch:
            patch.setattr(learner, "save_state", fail)
            with pytest.raises(OSError, match="no space"):
                learner.learn_many(frames[part], x[part])
        assert everything(learner.store) == before
        learner.learn_many(frames[part], x[part])
    assert everything(learner.store) == everything(whole.store)
    learner.store.close()
    whole.store.close()


def test_steps_behind_a_new_class_are_scored_and_then_every_tenth(tmp_path: Path) -> None:
    learner = learner_on(tmp_path / "s.db")
    store = learner.store
    frames, x = stream(300, 1)
    scored = []
    for i in range(100):
        n = len(rows(store, "evaluations"))
        label = LABELS[0] if i < 81 else LABELS[1]
        learner.learn_many([replace(frames[i], label=label)], x[i : i + 1])
        if len(rows(store, "evaluations")) > n:
            scored.append(i)
    # Single frames are scored by fours. The first probe is the tenth frame; step 50 is the last
    # behind the class, every tenth follows, until another class comes.
    assert scored == [*range(11, 50, 4), 57, 67, 77, *range(81, 100, 4)]
    history = probes.history(store)
    assert history.steps.tolist() == [step for _, step in rows(store, "evaluations")]
    assert np.all(np.diff(history.steps) >= 0)
    assert history.classes.tolist() == sorted(store.names)
    first = history.accuracy[:, 0]
    assert np.isfinite(first).all()
    assert np.isnan(history.accuracy[:-10, 1]).all()
    assert history.n_probes[-1].tolist() == list(probes.held_out(store).values())
    store.close()


def test_scores_are_those_of_the_head(tmp_path: Path) -> None:
    learner = learner_on(tmp_path / "s.db")
    teach(learner, 100)
    store = learner.store
    history, kept = probes.history(store), store.rows(Role.HELD_OUT)
    best = learner.predict_many(kept.x).argmax(axis=1)
    right = np.array(learner.head.classes)[best] == kept.classes
    for c, accuracy in zip(history.classes.tolist(), history.accuracy[-1], strict=True):
        assert accuracy == right[kept.classes == c].mean()
    store.close()


def test_many_probes_take_turns_and_each_gets_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_out, "_BUDGET", D * (4 + held_out._PER_VALUE))  # one probe a frame
    learner = learner_on(tmp_path / "s.db")
    teach(learner)
    asked: list[int] = []
    predict = learner.head.predict_many

    def noted(x: np.ndarray) -> np.ndarray:
        asked.append(len(x))
        return predict(x)

    monkeypatch.setattr(learner.head, "predict_many", noted)
    n = len(learner.store.rows(Role.HELD_OUT).uids)
    assert n == 29
    frames, x = stream()
    learner.learn_many([build.frame("new", 1)], x[:1])  # scores come often from here on
    asked.clear()
    for i in range(0, 2 * n, 2):
        learner.learn_many([build.frame("new", k) for k in (i, i + 1)], x[i : i + 2])
    assert max(asked) <= 5 < n  # at most as many probes as frames since the last score
    # Each probe had a turn since the head last changed much: its score is up to date.
    kept = learner.store.rows(Role.HELD_OUT)
    best = predict(kept.x).argmax(axis=1)
    assert len(frames) == 300
    right = np.array(learner.head.classes)[best] == kept.classes
    assert learner.probes is not None
    history = probes.history(learner.store)
    told = sum(history.accuracy[-1, i] * history.n_probes[-1, i] for i in range(3))
    assert abs(told - right[kept.classes <= 3].sum()) <= 2
    learner.store.close()


def test_old_scores_are_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "MOST_EVALUATIONS", 20)
    learner = learner_on(tmp_path / "s.db")
    frames, x = stream()
    first = last = 0
    for i in range(0, 300, 5):
        learner.learn_many(frames[i : i + 5], x[i : i + 5])
        uids = [uid for uid, _ in rows(learner.store, "evaluations")]
        assert len(uids) < 20
        if uids:
            first = first or uids[0]
            assert uids[0] == first
            assert uids[-1] >= last
            last = uids[-1]
    assert last > 30
    assert uids[-5:] == list(range(last - 4, last + 1))
    (left,) = learner.store.connection.execute(
        "SELECT count(DISTINCT evaluation) FROM class_scores"
    ).fetchone()
    assert left == len(uids)
    learner.store.close()


def test_what_is_dropped_changes_no_minimum_and_no_forgetting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes that come one after the other and lie close; the head of the middle is spoilt."""
    found = []
    for most in (2000, 40):
        monkeypatch.setattr(held_out, "MOST_EVALUATIONS", most)
        learner = learner_on(tmp_path / f"{most}.db")
        rng = np.random.default_rng(0)
        for n, label in enumerate(("a", "b", "c", "a", "b", "c", "c", "c")):
            centre = np.ones(D) + 0.15 * np.eye(D)["abc".index(label)]
            x = np.maximum(rng.normal(centre, 0.2, (100, D)), 0).astype(np.float32)
            for i in range(0, 100, 4):
                frames = [build.frame(label, 1000 * n + i + k) for k in range(4)]
                learner.learn_many(frames, x[i : i + 4])
        found.append(summary(learner.store))
        learner.store.close()
    whole, thinned = found
    assert thinned.pop("evaluations") < 40 < whole.pop("evaluations")
    assert whole["min_accuracy"] < whole["accuracy"] - 0.05
    assert thinned == whole


@pytest.mark.parametrize("step", [1, 10, 150])
def test_a_source_that_is_learned_again_teaches_no_probe(tmp_path: Path, step: int) -> None:
    learner = learner_on(tmp_path / "s.db", most=5)
    frames, x = stream(150)
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(3):
        # As another batch of the engine would round it.
        noisy = (x * (1 + rng.uniform(-1e-5, 1e-5, x.shape))).astype(np.float32)
        for i in range(0, 150, step):
            reports = learner.learn_many(frames[i : i + step], noisy[i : i + step])
            seen += sum(not report.is_held_out for report in reports)
    rows_of = learner.store.rows(Role.HELD_OUT)
    kept, classes = learner.store.stored_rows()
    assert len(rows_of.uids) == 15
    assert len(kept) == seen
    firsts = rows_of.uids <= 12  # of the first pass, where no frame had come before
    for probe, class_uid in zip(rows_of.x[firsts], rows_of.classes[firsts], strict=True):
        apart = kept[classes == class_uid].astype(np.float32) - probe
        assert (np.abs(apart).max(axis=1) > 0.01).all()
    learner.store.close()


def test_a_handful_of_probes_makes_no_minimum(tmp_path: Path) -> None:
    learner = learner_on(tmp_path / "s.db")
    frames, x = stream()
    store = learner.store
    for i in range(0, 300, 10):
        learner.learn_many(frames[i : i + 10], x[i : i + 10])
        past, told = probes.history(store), summary(store)
        if (past.n_probes < probes.FEW_PROBES).all():
            assert told["min_accuracy"] is told["worst_case_accuracy"] is told["forgetting"] is None
    # As if the first probe had been wrong for long.
    store.connection.execute("UPDATE class_scores SET n_right = 0 WHERE n = 1")
    assert summary(store) == told
    store.close()


@given(st.lists(st.booleans(), max_size=60))
def test_the_latency_of_a_class_is_when_it_was_first_right_and_nine_times_of_ten(
    right: list[bool],
) -> None:
    latency = probes.ClassLatency(5)
    for is_right in right:
        if latency.nine_of_ten is None:
            latency = latency.plus(is_right)
    done = [n for n in range(10, len(right) + 1) if sum(right[n - 10 : n]) >= 9]
    assert latency.nine_of_ten == (done[0] if done else None)
    seen = right[: done[0]] if done else right
    assert latency.n_frames == len(seen)
    assert latency.first_right == (seen.index(True) + 1 if any(seen) else None)
    assert latency.recent == "".join(str(int(r)) for r in seen[-10:])


def test_the_latency_counts_frames_that_were_held_out(tmp_path: Path) -> None:
    learner = learner_on(tmp_path / "s.db")
    reports = teach(learner, step=1)
    frames, _ = stream()
    for uid, latency in probes.latency_of_classes(learner.store).items():
        mine = [
            r.is_correct
            for r, f in zip(reports, frames, strict=True)
            if f.label == learner.store.names[uid]
        ]
        expected = probes.ClassLatency(latency.step)
        for is_right in mine:
            if expected.nine_of_ten is None:
                expected = expected.plus(is_right)
        assert latency == expected
        assert latency.nine_of_ten is not None
    learner.store.close()


def test_latencies_are_counted_by_stage(tmp_path: Path) -> None:
    learner = learner_on(tmp_path / "s.db")
    store = learner.store
    for seconds in (0.0, 1e-6, 1.5e-6, 1e-3, 1e-3, 2.0):
        learner.note_latency("shutter", seconds)
    assert probes.stages_of(store) == ()
    teach(learner, 20)
    assert probes.stages_of(store) == ("learn", "shutter")
    found = probes.latency_histogram(store, "shutter")
    assert found.n.tolist() == [2, 1, 2, 1]
    assert found.seconds[0] == 1e-6
    assert np.all(found.seconds[2:] <= [1e-3, 2.0])
    assert np.all(found.seconds[2:] * 2**0.25 > [1e-3, 2.0])
    n_written = probes.latency_histogram(store, "learn").n.sum()
    assert n_written < 2  # what came after the last score waits
    learner.settle()
    assert probes.latency_histogram(store, "learn").n.sum() == 2
    assert len(probes.latency_histogram(store, "other").n) == 0
    store.close()


def test_pictures_of_probes_are_small_whatever_the_store_keeps(tmp_path: Path) -> None:
    store = build.store(tmp_path / "s.db", D)
    learner = Learner(store, make_head("ridge", D), probes=1, probe_side=24)
    out = io.BytesIO()
    Image.new("RGB", (300, 200)).save(out, "PNG")
    x, _ = build.features(10, D, 1)
    frames = [Frame(str(i), encoded=out.getvalue(), label="cup") for i in range(10)]
    held = learner.learn_many(frames, x)[-1]
    assert Image.open(io.BytesIO(store.picture(held.uid))).size == (36, 24)
    uid, _ = store.stored_samples()[0]
    assert store.picture(uid) == out.getvalue()
    store.close()


# Unlearning


def home_with(path: Path, *, sealed: bool = False) -> Home:
    return build.tiny_home(path, sealed=sealed, probes=20)


def taught(
    home: Home, labels: Iterable[str] = LABELS, n: int = 300, source: str = "north gate"
) -> None:
    """Learn the classes among a stream; every other frame comes from another source."""
    frames, x = stream()
    kept = [i for i in range(n) if frames[i].label in labels]
    with writing(home) as session:
        store = session.store
        learner = open_learner(home, store)
        for start in range(0, len(kept), 10):
            part = kept[start : start + 10]
            of = [replace(frames[i], source=("south gate", source)[i % 2]) for i in part]
            learner.learn_many(of, x[part])
        learner.settle()


def add_novel(store: Store, guess: str, *, source: str, frame: str = "f") -> int:
    """Put a frame into the review queue, as edgecl/store/novel.py does."""
    with store.transaction(changes_head=False):
        return store.add_aside(
            Role.REVIEW,
            store.class_uid(guess),
            np.zeros(store.num_features, np.float16),
            novel_picture(1 + len(store.rows(Role.REVIEW).uids)),
            source=source,
            frame=frame,
            time=0.0,
            score=1.0,
        )


def novel_picture(n: int) -> bytes:
    """The picture of the n-th frame in the queue."""
    return np.random.default_rng(n).integers(0, 255, 400, np.uint8).tobytes()


def unlearn(home: Home, name: str, kind: str = "class") -> Unlearned:
    """Unlearn after checking that the plan says what the receipt will say."""
    with writing(home) as session:
        store = session.store
        learner = open_learner(home, store)
        request = ForgetRequest(name, kind=kind)
        plan = make_plan(store, learner.head, resolve(store, request), "retrain")
        done = forget(home, learner, request, verify=True)
        assert done.verified, done.faults
        assert plan.rows == done.receipt.body["rows_erased"]
        assert store.connection.execute("PRAGMA foreign_key_check").fetchall() == []
    return done


def content(path: Path) -> bytes:
    return b"".join(p.read_bytes() for p in path.rglob("*") if p.is_file())


plain_and_sealed = pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])


@plain_and_sealed
def test_a_class_takes_its_probes_scores_and_frames_to_review_along(
    tmp_path: Path, sealed: bool
) -> None:
    home = home_with(tmp_path / "home", sealed=sealed)
    taught(home)
    with writing(home) as session:
        store = session.store
        uid = store.class_uid(LABELS[1])
        add_novel(store, LABELS[1], source="a third gate")
        other = add_novel(store, LABELS[0], source="a third gate", frame=f"{LABELS[1]}.png")
        store.connection.execute(
            "UPDATE samples SET frame = ? WHERE role = 'held_out' AND class_uid != ?",
            (f"{LABELS[1]}/x", uid),
        )
        n_probes = probes.held_out(store)[uid]
        pictures = [
            store.picture(int(p))
            for p, c in zip(*store.rows(Role.HELD_OUT)[::2], strict=True)
            if c == uid
        ]
        n_scores = len([r for r in rows(store, "class_scores") if r[1] == uid])
    done = unlearn(home, LABELS[1])
    erased = done.receipt.body["rows_erased"]
    assert erased["probes"] == n_probes == len(pictures) > 5
    assert (erased["class_scores"], erased["class_latency"]) == (n_scores, 1)
    assert erased["novel"] == 1
    assert done.metrics["searched_for"] > n_probes
    everywhere = content(home.path)
    assert not [p for p in (*pictures, novel_picture(1)) if p[-60:-20] in everywhere]
    assert LABELS[1].encode() not in everywhere
    with open_store(home, read_only=True) as store:
        assert uid not in probes.history(store).classes
        assert uid not in probes.latency_of_classes(store)
        assert [(r[0], r[2]) for r in rows(store, "review")] == [
            (other, store.class_uid(LABELS[0]))
        ]
        assert {frame for _, _, _, _, frame, *_ in rows(store, "held_out")} == {None}
    taught(home)  # goes on, and all probes that are left are scored at once
    with open_store(home, read_only=True) as store:
        assert set(probes.history(store).classes) == set(store.names)


def test_forgetting_equals_never_having_learned_with_probes(tmp_path: Path) -> None:
    home, twin = home_with(tmp_path / "home"), home_with(tmp_path / "twin")
    taught(home)
    unlearn(home, LABELS[1])
    taught(twin, (LABELS[0], LABELS[2]))
    kept = []
    for device in (home, twin):
        with open_store(device) as store:
            learner = open_learner(device, store)
            learner.settle()
            kept.append(
                (
                    learner.head.scorer(store.names),
                    store.rows(Role.HELD_OUT).x,
                    list(store.n_seen().values()),
                    list(probes.held_out(store).values()),
                )
            )
    build.assert_same(kept[0][0], kept[1][0])
    assert np.array_equal(kept[0][1], kept[1][1])
    assert kept[0][2:] == kept[1][2:]


@plain_and_sealed
def test_a_source_takes_its_probes_and_frames_to_review_along(tmp_path: Path, sealed: bool) -> None:
    home = home_with(tmp_path / "home", sealed=sealed)
    taught(home)
    with writing(home) as session:
        store = session.store
        add_novel(store, LABELS[0], source="north gate")
        add_novel(store, LABELS[0], source="a third gate")
        of = dict(
            store.connection.execute(
                "SELECT text, count(*) FROM held_out "
                "JOIN sources s ON s.uid = source_uid GROUP BY 1"
            )
        )
    done = unlearn(home, "north gate", "source")
    assert done.receipt.body["rows_erased"]["probes"] == of["north gate"] > 5
    assert done.receipt.body["rows_erased"]["novel"] == 1
    with open_store(home, read_only=True) as store:
        assert sum(probes.held_out(store).values()) == of["south gate"]
        assert set(store.sources().values()) == {"south gate", "a third gate"}
    # A source of which only a frame to review is left.
    done = unlearn(home, "a third gate", "source")
    assert done.receipt.body["rows_erased"]["novel"] == 1
    assert done.receipt.body["rows_erased"]["samples"] == 0


def test_a_class_of_which_only_probes_are_left_goes_with_them(tmp_path: Path) -> None:
    home = home_with(tmp_path / "home")
    frames, x = stream()
    with writing(home) as session:
        store = session.store
        learner = open_learner(home, store)
        cups = [
            replace(f, label="cup", source="south gate" if i == 9 else "north gate")
            for i, f in enumerate(frames[:10])
        ]
        assert learner.learn_many(cups, x[:10])[-1].is_held_out
        learner.learn_many([replace(f, source="south gate") for f in frames[20:40]], x[20:40])
    done = unlearn(home, "north gate", "source")
    assert done.receipt.body["rows_erased"]["classes"] == 1
    with open_store(home, read_only=True) as store:
        assert "cup" not in store.names.values()
        assert "south gate" in store.sources().values()
        assert len(rows(store, "held_out")) == len(store.rows(Role.HELD_OUT).uids)
    assert done.receipt.body["rows_erased"]["probes"] == 1


def without_scores(store: Store, role: Role) -> list[tuple[Any, ...]]:
    """Samples of a role, but what a head said of them: it is asked anew after an unlearning."""
    return [row[:-1] for row in rows(store, role.value)]


@plain_and_sealed
@pytest.mark.parametrize("role", list(Role))
def test_a_sample_of_any_role_is_unlearned_alone(tmp_path: Path, role: Role, sealed: bool) -> None:
    home = home_with(tmp_path / "home", sealed=sealed)
    taught(home)
    with writing(home) as session:
        store = session.store
        add_novel(store, LABELS[0], source="a third gate")
        learner = open_learner(home, store)
        learner.settle()
        head = learner.head.scorer(store.names)
        uid = store.origins(role)[0].uid
        picture = store.picture(uid)
        before = {r: without_scores(store, r) for r in Role}
        scores, seen = rows(store, "class_scores"), sum(store.n_seen().values())
    done = unlearn(home, str(uid), "sample")
    assert done.mode == ("exact_head" if role is Role.REPLAY else "store_only")
    assert picture[-60:-20] not in content(home.path)
    with open_store(home, read_only=True) as store:
        for other in Role:
            kept = [row for row in before[other] if row[0] != uid]
            assert without_scores(store, other) == kept
            assert len(kept) == len(before[other]) - (other is role)
        assert rows(store, "class_scores") == scores
        assert sum(store.n_seen().values()) == seen - (role is Role.REPLAY)
        if role is not Role.REPLAY:
            build.assert_same(open_learner(home, store).head.scorer(store.names), head)
    with writing(home) as session:
        store = session.store
        request = ForgetRequest(str(uid), kind="sample")
        again = forget(home, open_learner(home, store), request)
        assert again.mode == "already_forgotten"
        with store.transaction(changes_head=False):
            uids = [add_novel_row(store), add_novel_row(store)]
        assert min(uids) > uid  # no uid is given twice, whatever the role


def add_novel_row(store: Store) -> int:
    x = np.zeros(store.num_features, np.float16)
    return store.add_aside(Role.REVIEW, 1, x, b"picture", source="", frame="", time=0.0, score=1.0)


def test_what_is_not_learned_cannot_be_folded(tmp_path: Path) -> None:
    learner = learner_on(tmp_path / "s.db")
    teach(learner)
    for change in ("is_folded = 1", "is_stored = 0", "role = 'other'", "role = NULL"):
        with pytest.raises(sqlite3.IntegrityError):
            learner.store.connection.execute(
                f"UPDATE samples SET {change} WHERE uid = (SELECT max(uid) FROM held_out)"
            )


def test_the_last_class_leaves_nothing(tmp_path: Path) -> None:
    home = home_with(tmp_path / "home")
    taught(home)
    for name in LABELS:
        unlearn(home, name)
    with open_store(home, read_only=True) as store:
        assert [rows(store, table) for table in (*TABLES, "latencies", "sources")] == [[]] * 7
        assert "probes" not in str(rows(store, "meta"))


@pytest.mark.parametrize("role", list(Role))
@plain_and_sealed
def test_a_copy_of_a_picture_that_is_left_is_found(
    tmp_path: Path, role: Role, sealed: bool
) -> None:
    home = home_with(tmp_path / "home", sealed=sealed)
    taught(home)
    with writing(home) as session:
        store = session.store
        add_novel(store, LABELS[0], source="a third gate")
        copied = store.origins(role)[0]
        uid, picture = copied.class_uid, store.picture(copied.uid)
        learner = open_learner(home, store)
        target = target_of(store, "class", uid)
        evidence = gather(learner, target)
        (home.path / "left.bin").write_bytes(picture)
        with store.transaction():
            learner.head.forget(uid, store)
            erase(store, Kind.CLASS, uid)
        faults = check(home, learner, evidence)
        assert any(f"sample {copied.uid}" in fault and "left.bin" in fault for fault in faults)


def test_a_picture_that_a_probe_still_shows_is_no_trace(tmp_path: Path) -> None:
    home = home_with(tmp_path / "home")
    frames, x = stream()
    same = frames[0].encoded
    with writing(home) as session:
        store = session.store
        learner = open_learner(home, store)
        learner.learn_many(
            [replace(f, label=("cup", "plate")[i % 2], encoded=same)
             for i, f in enumerate(frames[:40])],
            x[:40],
        )  # fmt: skip
        with store.transaction():
            store.connection.execute("DELETE FROM pictures WHERE uid IN (SELECT uid FROM replay)")
    unlearn(home, "cup")


# Versions


@plain_and_sealed
def test_a_rollback_brings_back_the_probes(tmp_path: Path, sealed: bool) -> None:
    home = home_with(tmp_path / "home", sealed=sealed)
    taught(home, n=150)
    with writing(home) as session:
        store = session.store
        add_novel(store, LABELS[0], source="a gate")
        before = everything(store)
        snapshots.take(home, store)
    taught(home)
    with writing(home) as session:
        store = session.store
        assert everything(store) != before
        learner = open_learner(home, store)
        snapshots.rollback(home, learner, 1)
        found = everything(store)
        for kept in (found, before):
            kept["meta"] = [row for row in kept["meta"] if row[0] != "version"]
        assert found == before
        frames, x = stream()
        learner.learn_many(frames[150:170], x[150:170])
        assert probes.history(store).n_probes[-1].sum() == len(store.rows(Role.HELD_OUT).uids)
    unlearn(home, LABELS[0])
    assert not list(home.snapshots.iterdir())


def test_the_summary_says_what_the_scores_say(tmp_path: Path) -> None:
    learner = learner_on(tmp_path / "s.db")
    store = learner.store
    assert summary(store) == {
        "evaluations": 0, "probes": 0, "accuracy": None, "min_accuracy": None,
        "worst_case_accuracy": None, "forgetting": None, "classes": {},
    }  # fmt: skip
    teach(learner, 5)
    assert summary(store)["probes"] == 0
    assert [c["accuracy"] for c in summary(store)["classes"].values()] == [None] * 3
    teach(learner, 200, 5)
    found, past = summary(store), probes.history(store)
    assert found["classes"][LABELS[0]]["held_out"] == past.n_probes[-1, 0]
    assert found["classes"][LABELS[0]]["first_right"] >= 2
    assert found["evaluations"] == len(past.steps)
    assert found["probes"] == past.n_probes[-1].sum()
    n = past.n_probes[-1]
    assert found["accuracy"] == pytest.approx((past.accuracy[-1] * n).sum() / n.sum())
    counted = np.where(past.n_probes >= probes.FEW_PROBES, past.accuracy, np.nan)
    assert found["forgetting"] == forgetting(counted)
    # The third class is the one in training: its own lows do not count.
    lows = np.nanmin(counted[:, :2], axis=0)
    assert found["min_accuracy"] == pytest.approx(lows.mean())
    assert found["worst_case_accuracy"] == pytest.approx((*lows, past.accuracy[-1, 2]) @ np.ones(3)
                                                         / 3)  # fmt: skip
    store.close()
