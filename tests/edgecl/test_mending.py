"""Relabelled, merged, undone: the head that learned it right, and nothing left of what was not."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import build
from build import answer, invoke
from edgecl import mending, snapshots
from edgecl.errors import RequestError, UnknownClassError, UsageError
from edgecl.heads import HEADS
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.lessons import unteach
from edgecl.runtime.grid import quantise
from edgecl.session import Session, open_store
from edgecl.store.novel import entries, offer
from edgecl.store.progress import Position
from edgecl.store.runs import Start, last_run
from edgecl.store.snapshots import snapshots_of
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.types import ForgetRequest, Frame, Kind
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.request import forget, writing

EXACT = ("ridge", "prototype", "key-value")
NAMES = ("bolt", "nut", "ring")
# Of a name that stands nowhere else, since files are searched for it.
GONE = "wrong-one"
both = pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])


def teach(learner: Learner, labels: Sequence[str], x: np.ndarray, source: str = "") -> list[int]:
    """Learn a run of its own; returns the uids."""
    learner.begin(Start())
    frames = [
        replace(build.frame("picture", i), label=c, source=source) for i, c in enumerate(labels)
    ]
    return [report.uid for report in learner.learn_many(frames, x)]


def weights(home: Home) -> dict[str, Any]:
    """What a home serves, by class, whatever the order in which these came."""
    with open_store(home, read_only=True) as store:
        scorer = Session(home, store).exact_scorer()
        by_class: dict[str, Any] = {}
        for uid, name in store.names.items():
            moments = store.moments(uid)
            by_class[name] = (moments.n, moments.total.tobytes(), moments.second.tobytes())
        order = np.argsort(scorer.labels)
        x = build.features(20)[0]
        return by_class | {"scores": scorer.scores(x)[:, order].tobytes()}


def right_home(path: Path, head: str, labels: Sequence[str], x: np.ndarray, like: Home) -> Home:
    """A home that saw these labels from the start, its classes in the order of another's."""
    home = build.tiny_home(path, head)
    with open_store(like, read_only=True) as store:
        order = list(store.names.values())
    rows = sorted(range(len(labels)), key=lambda i: (order.index(labels[i]), i))
    with writing(home) as session:
        teach(session.learner, [labels[i] for i in rows], x[rows])
        session.learner.settle()
    return home


@settings(
    max_examples=int(os.environ.get("EDGECL_MENDINGS", "6")),
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(data=st.data())
@pytest.mark.parametrize("head", EXACT)
def test_the_head_is_bit_for_bit_the_one_that_saw_the_right_labels(
    tmp_path_factory: pytest.TempPathFactory, head: str, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("homes")
    home = build.tiny_home(
        place / "home", head, sealed=data.draw(st.booleans()), capacity_samples=12
    )
    labels: list[str] = []
    uids: list[int] = []
    held: set[int] = set()
    x = build.features(300)[0]
    with writing(home) as session:
        learner = session.learner
        for _ in range(data.draw(st.integers(1, 3))):
            n = data.draw(st.sampled_from((1, 3, 80)))
            taught = data.draw(st.lists(st.sampled_from(NAMES), min_size=n, max_size=n))
            at = len(labels)
            source = data.draw(st.sampled_from(("a", "b")))
            uids += teach(learner, taught, x[at : at + n], source)
            labels += taught
        for _ in range(data.draw(st.integers(1, 3))):
            before = list(labels), set(held)
            name = data.draw(st.sampled_from((*NAMES, "new")))
            there = {u for (u,) in session.store.connection.execute("SELECT uid FROM samples")}
            chosen = data.draw(st.sets(st.sampled_from(sorted(there)), min_size=1, max_size=9))
            kind = data.draw(st.sampled_from(("relabel", "merge", "hold out")))
            if kind == "hold out":
                try:
                    mending.hold_out(home, learner, sorted(chosen))
                except RequestError:
                    continue
                held |= chosen
            elif kind == "relabel":
                try:
                    mending.relabel(home, learner, sorted(chosen), name)
                except RequestError:
                    continue
                labels = [name if u in chosen else c for u, c in zip(uids, labels, strict=True)]
            else:
                of = data.draw(st.sampled_from(sorted(set(labels))))
                try:
                    mending.merge_classes(home, learner, of, name)
                except (RequestError, UnknownClassError):
                    continue
                to = session.store.canonical(name)
                labels = [to if c == of else c for c in labels]
            if data.draw(st.booleans()):
                mending.undo(home, learner)
                labels, held = before
        learner.settle()
    learned = [i for i, uid in enumerate(uids) if uid not in held]
    labels = [labels[i] for i in learned]
    right = right_home(place / "right", head, labels, x[learned], home)
    assert weights(home) == weights(right)


@both
@pytest.mark.parametrize("head", sorted(HEADS))
def test_what_is_held_out_is_never_drawn_and_is_scored(
    tmp_path: Path, head: str, sealed: bool
) -> None:
    home = build.tiny_home(tmp_path / "home", head, sealed=sealed, probes=3)
    x, y = build.features(90)
    with writing(home) as session:
        learner, store = session.learner, session.store
        uids = teach(learner, [NAMES[c - 1] for c in y], x)
        chosen = [uid for uid in uids if store.is_stored(uid)][:4]
        pictures = [store.picture(uid) for uid in chosen]
        seen, held = sum(store.n_seen().values()), len(store.rows(Role.HELD_OUT).uids)
        done = mending.hold_out(home, learner, [*chosen, chosen[0]])
        assert sum(done.samples.values()) == 4
        assert sum(store.n_seen().values()) == seen - 4
        rows = store.rows(Role.HELD_OUT)
        assert len(rows.uids) == held + 4
        at = [rows.uids.tolist().index(uid) for uid in chosen]
        assert np.array_equal(rows.x[at], quantise(x[[uids.index(uid) for uid in chosen]]))
        assert [store.picture(uid) for uid in chosen] == pictures
        assert not {uid for uid, _ in store.stored_samples()} & {*chosen}
        teach(learner, ["bolt"] * 40, build.features(40, seed=5)[0])  # scores them on the way
        scores = {o.uid: o.score for o in store.origins(Role.HELD_OUT)}
        assert all(scores[uid] in (0.0, 1.0) for uid in chosen)
        assert Chain(home, store).receipts[-1].body["how"] == "hold-out"


@pytest.mark.parametrize("head", sorted(HEADS))
def test_an_undo_of_every_kind_ends_in_the_head_before(tmp_path: Path, head: str) -> None:
    home = build.tiny_home(tmp_path / "home", head, probes=3)
    x, y = build.features(90)
    with writing(home) as session:
        learner, store = session.learner, session.store
        teach(learner, [NAMES[c - 1] for c in y], x)
        learner.settle()
        kept, seen = build.learned(learner.head), store.n_seen()
        names, held = dict(store.names), len(store.rows(Role.HELD_OUT).uids)
        works: dict[str, Callable[[], Any]] = {
            "learn": lambda: teach(learner, ["nut", "new"] * 40, x[:80]),
            "relabel": lambda: mending.relabel(home, learner, [1, 2, 3, 10], "new"),
            "merge": lambda: mending.merge_classes(home, learner, "bolt", "nut"),
            "hold-out": lambda: mending.hold_out(home, learner, [1, 2, 3]),
        }
        for kind, work in works.items():
            work()
            run = last_run(store)
            assert run is not None
            assert run.kind == kind
            mending.undo(home, learner)
            assert store.n_seen() == seen, kind
            assert dict(store.names) == names
            assert len(store.rows(Role.HELD_OUT).uids) == held
            assert last_run(store) is None
            learner.settle()
            now = build.learned(learner.head)
            assert all(np.array_equal(now[part], value) for part, value in kept.items()), kind


def test_a_run_over_a_source_is_taken_back_with_its_position(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home", probes=3)
    x, y = build.features(60)
    labels = [NAMES[c - 1] for c in y]
    first, second = Position(30, b"half", False), Position(60, b"all", True)
    with writing(home) as session:
        learner, store = session.learner, session.store
        for at, part in ((first, slice(30)), (second, slice(30, 60))):
            learner.begin(Start(key="key", position=store.position("key")))
            frames = [build.frame(c, i) for i, c in enumerate(labels[part])]
            learner.learn_many(frames, x[part], position=("key", at))
            if at is first:
                step, scores = store.step, _rows(store, "evaluations")
        assert store.position("key") == second
        mending.undo(home, learner)
        assert store.position("key") == first
        assert store.step == step
        assert _rows(store, "evaluations") == scores
        with pytest.raises(RequestError, match="nothing to undo"):
            mending.undo(home, learner)


def test_what_was_held_out_makes_no_class_by_itself(tmp_path: Path) -> None:
    # Found by a random history: the class had nothing learned, so it went, and its sample with it.
    home = build.tiny_home(tmp_path / "home", probes=3)
    x, _ = build.features(20)
    with writing(home) as session:
        learner = session.learner
        uids = teach(learner, [NAMES[0]] * 20, x)
        (held, *_) = [o.uid for o in session.store.origins(Role.HELD_OUT)]
        with pytest.raises(RequestError, match="kept to test on"):
            mending.relabel(home, learner, [held], "plate")
        assert held in {o.uid for o in session.store.origins(Role.HELD_OUT)}
        learned = next(uid for uid in uids if uid != held)
        mending.relabel(home, learner, [held, learned], "plate")
        assert session.store.n_seen()[session.store.class_uid("plate")] == 1


def test_a_run_is_taken_back_that_holds_all_that_an_unlearning_left_of_a_class(
    tmp_path: Path,
) -> None:
    # Found by a random history: the counters of the class outlived it in the same transaction.
    home = build.tiny_home(tmp_path / "home", probes=3)
    x, _ = build.features(2)
    with writing(home) as session:
        learner = session.learner
        for i, source in enumerate(("south", "north")):
            learner.begin(Start())
            teach(learner, [NAMES[0]], x[i : i + 1], source)
        forget(home, learner, ForgetRequest("south", kind=Kind.SOURCE))
        done = mending.undo(home, learner)[1]
        assert done.samples == {NAMES[0]: 1}
        assert session.store.names == {}
        assert session.store.connection.execute("PRAGMA foreign_key_check").fetchall() == []


@both
@pytest.mark.parametrize("way", ["relabel", "all", "merge"])
def test_forgetting_either_class_afterwards_leaves_no_trace(
    tmp_path: Path, sealed: bool, way: str
) -> None:
    x, y = build.features(90)
    labels = [GONE if i % 9 == 0 else NAMES[c - 1] for i, c in enumerate(y)]
    for target in ("nut", GONE):
        home = build.tiny_home(tmp_path / target, sealed=sealed, snapshots=3)
        with writing(home) as session:
            learner, store = session.learner, session.store
            uids = teach(learner, labels, x)
            pictures = {u: store.picture(u) for u in uids}
            wrong = [u for u, c in zip(uids, labels, strict=True) if c == GONE]
            moved = wrong if way != "relabel" else wrong[:4]
            kept = snapshots.take(home, store)
            old, new = store.class_uid(GONE), store.class_uid("nut")
            if way == "merge":
                mending.merge_classes(home, learner, GONE, "nut")
            else:
                mending.relabel(home, learner, moved, "nut")
            if target == GONE and way == "all":
                with pytest.raises(UnknownClassError):
                    store.class_uid(GONE)
                continue
            done = forget(home, learner, ForgetRequest(target))
            is_both = way == "merge" or target == "nut"
            left = [
                u
                for u, c in zip(uids, labels, strict=True)
                if not (c == target or (is_both and u in moved) or (way == "merge" and c == "nut"))
            ]
            if target == GONE and way == "relabel":
                left = [u for u, c in zip(uids, labels, strict=True) if c != GONE or u in moved]
            assert done.receipt.body["bit_exact"]
            assert [s.uid for s in snapshots_of(store)] == []
            assert kept.uid in done.receipt.body["snapshots_purged"]
            if way != "relabel":
                assert {old, new} <= set(done.receipt.body["classes_gone"])
                if sealed:
                    assert {old, new} <= set(store._vault.destroyed)  # type: ignore[union-attr]
        assert sorted(uid for uid, _ in _stored(home)) == left
        with open_store(home, read_only=True) as store:
            assert {u: store.picture(u) for u in left} == {u: pictures[u] for u in left}
        text = b"".join(p.read_bytes() for p in home.path.rglob("*") if p.is_file())
        if GONE not in _names(home):
            assert GONE.encode() not in text
        if not sealed:
            assert not [u for u in set(uids) - set(left) if pictures[u] in text]


def test_what_was_unlearned_since_stays_so_and_the_rest_is_taken_back(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home")
    x, _ = build.features(90)
    with writing(home) as session:
        learner, store = session.learner, session.store
        teach(learner, ["bolt"] * 10, x[:10])
        learner.settle()
        before = build.learned(learner.head)
        uids = teach(learner, ["bolt", "nut", "ring"] * 25, x[10:85])
        forget(home, learner, ForgetRequest("nut"))
        forget(home, learner, ForgetRequest(str(uids[0]), kind="sample"))
        plan = mending.plan_undo(store)
        assert sum(plan.content.learned.values()) == 49
        mending.undo(home, learner)
        learner.settle()
        after = build.learned(learner.head)
        assert all(np.array_equal(after[part], value) for part, value in before.items())
        # All of a run may be gone.
        teach(learner, ["ring"], x[:1])
        forget(home, learner, ForgetRequest("ring"))
        with pytest.raises(RequestError, match="unlearned or taken back since"):
            mending.undo(home, learner)


def test_a_merge_of_what_only_the_sums_know_is_taken_back(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home", capacity_samples=1)
    x, _ = build.features(260)
    with writing(home) as session:
        learner, store = session.learner, session.store
        teach(learner, ["bolt"] * 128 + ["nut"] * 128, x[:256])
        store.connection.execute("DELETE FROM samples WHERE class_uid = 1")  # all are folded
        store.reload_classes()
        learner.settle()
        before, seen = build.learned(learner.head), store.n_seen()
        mending.merge_classes(home, learner, "bolt", "nut")
        assert mending.plan_undo(store).content.moved == {(1, 2): 128}
        mending.undo(home, learner)
        assert store.n_seen() == seen
        learner.settle()
        after = build.learned(learner.head)
        assert all(np.array_equal(after[part], value) for part, value in before.items())


@both
def test_a_frame_of_the_queue_is_named_by_its_uid_and_goes_back(
    tmp_path: Path, sealed: bool
) -> None:
    home = build.tiny_home(tmp_path / "home", sealed=sealed)
    x, _ = build.features(9)
    frame = build.frame("strange", 1)
    with writing(home) as session:
        learner, store = session.learner, session.store
        teach(learner, ["bolt"] * 9, x)
        with store.transaction(changes_head=False):
            offer(
                store, picture=frame.encoded or b"", x=quantise(x[0] + 1), guess=1, score=2.5,
                source="camera:0", frame="f", time=5.0,
            )  # fmt: skip
        (entry,) = entries(store)
        mending.relabel(home, learner, [entry.uid], "nut")
        assert entries(store) == []
        assert store.n_seen()[store.class_uid("nut")] == 1
        mending.undo(home, learner)
        (again,) = entries(store)
        assert replace(again, uid=entry.uid) == entry
        assert store.picture(again.uid) == frame.encoded
        assert set(store.names.values()) == {"bolt"}


def test_a_rollback_of_a_relabelling_is_known_to_a_later_unlearning(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home")
    x, _ = build.features(30)
    with writing(home) as session:
        learner, store = session.learner, session.store
        uids = teach(learner, ["bolt"] * 10 + ["nut"] * 10, x[:20])
        first = snapshots.take(home, store)
        mending.relabel(home, learner, uids[:10], "nut")
        later = snapshots.take(home, store)
        snapshots.rollback(home, learner, first.uid)
        # In the later one the samples are nuts, and no bolt is known.
        done = forget(home, learner, ForgetRequest("bolt"))
        assert later.uid in done.receipt.body["snapshots_purged"]


def test_what_cannot_be_mended_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home")
    x, _ = build.features(9)
    with writing(home) as session:
        learner, store = session.learner, session.store
        teach(learner, ["bolt"] * 5 + ["nut"] * 4, x)
        run = last_run(store)
        for work, error, text in (
            (lambda: mending.relabel(home, learner, [1, 99], "nut"), RequestError, "sample 99"),
            (lambda: mending.relabel(home, learner, [1, 2], "bolt"), RequestError, "already"),
            (lambda: mending.merge_classes(home, learner, "bolt", "x"), UnknownClassError, "x"),
            (lambda: mending.hold_out(home, learner, [1, 99]), RequestError, "sample 99"),
            (lambda: mending.hold_out(home, learner, [6, 7, 8, 9]), RequestError, "of 'nut'"),
            (lambda: mending.merge_classes(home, learner, "nut", "nut"), RequestError, "one class"),
        ):
            with pytest.raises(error, match=text):
                work()  # type: ignore[no-untyped-call]
        assert last_run(store) == run
        assert Chain(home, store).receipts == []


def test_a_failure_in_the_middle_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = build.tiny_home(tmp_path / "home")
    x, _ = build.features(9)
    with writing(home) as session:
        learner, store = session.learner, session.store
        teach(learner, ["bolt"] * 5 + ["nut"] * 4, x)
        learner.settle()
        before, run = build.learned(learner.head), last_run(store)

        def fail(*_: object) -> str:
            raise ValueError("in the middle")

        with monkeypatch.context() as patch:
            patch.setattr(Chain, "append", fail)
            for work in (
                lambda: mending.relabel(home, learner, [1], "nut"),
                lambda: mending.merge_classes(home, learner, "bolt", "nut"),
                lambda: mending.hold_out(home, learner, [1]),
                lambda: mending.undo(home, learner),
            ):
                with pytest.raises(ValueError, match="in the middle"):
                    work()  # type: ignore[no-untyped-call]
        after = build.learned(learner.head)
        assert all(np.array_equal(after[part], value) for part, value in before.items())
        assert last_run(store) == run


# Commands


@pytest.fixture
def taught(tmp_path: Path) -> Home:
    home = build.tiny_home(tmp_path / "home", probes=3)
    x, _ = build.features(40)
    with writing(home) as session:
        labels = ["bolt"] * 25 + ["nut"] * 15
        frames = [
            Frame(f"{i}.png", encoded=build.frame("p", i).encoded, label=c, source="photos/of a",
                  time=1e9 + i)
            for i, c in enumerate(labels)
        ]  # fmt: skip
        session.learner.learn_many(frames, x)
        session.learner.settle()
    return home


def test_samples_are_listed_by_class_source_time_and_role(taught: Home, tmp_path: Path) -> None:
    at = ("--home", taught.path)
    found = answer("samples", "list", *at)
    assert (found["total"], len(found["samples"])) == (40, 40)
    assert set(found["samples"][0]) == {
        "uid", "role", "class", "source", "frame", "time", "has_picture",
    }  # fmt: skip
    assert [s["uid"] for s in found["samples"]] == sorted(s["uid"] for s in found["samples"])[::-1]
    for options, n in (
        (("--class", "nut"), 15), (("--class", "nut", "--role", "held-out"), 1),
        (("--source", "photos/of a"), 40),
        (("--since", "2001-09-09T01:47:00+00:00"), 20), (("--since", "1d"), 0),
        (("--role", "waiting"), 0), (("--limit", "3"), 40),
    ):  # fmt: skip
        assert answer("samples", "list", *options, *at)["total"] == n, options
    lines = invoke("samples", "list", *at).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for bad in (("--since", "soon"), ("--role", "lost")):
        with pytest.raises(UsageError):
            invoke("samples", "list", *bad, *at)
    with pytest.raises(UnknownClassError):
        invoke("samples", "list", "--class", "unicorn", *at)


def test_pictures_are_written_and_no_link_is_followed(taught: Home, tmp_path: Path) -> None:
    folder, victim = tmp_path / "out", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("mine")
    (folder / "40.png").symlink_to(victim)
    invoke("samples", "list", "--limit", 2, "--pictures", folder, "--home", taught.path)
    assert victim.read_text() == "mine"
    assert sorted(p.name for p in folder.iterdir()) == ["39.png", "40.png"]
    assert not (folder / "40.png").is_symlink()
    assert (folder / "40.png").read_bytes() == build.frame("p", 39).encoded


def test_a_slip_is_mended_by_command(taught: Home) -> None:
    at = ("--home", taught.path)
    done = answer("relabel", 26, 27, "bolt", *at)
    assert (done["mode"], done["samples"], done["to"]) == ("exact_head", {"nut": 2}, "bolt")
    plan = answer("undo", "--dry-run", *at)
    assert plan["moved"] == [{"from": "bolt", "to": "nut", "samples": 2}]
    assert "2 of bolt go back to nut" in invoke("undo", "--dry-run", *at).stdout
    assert answer("undo", *at)["samples"] == {"bolt": 2}
    done = answer("merge-classes", "nut", "bolt", *at)
    assert (done["gone"], done["to"]) == (["nut"], "bolt")
    assert answer("status", *at)["classes"].keys() == {"bolt"}
    assert answer("undo", *at)["moved"] == [{"from": "bolt", "to": "nut", "samples": 15}]
    with pytest.raises(RequestError, match="nothing to undo"):
        invoke("undo", *at)
    with pytest.raises(UsageError, match="did you mean bolt"):
        invoke("relabel", 26, "Bolt", *at)
    assert answer("relabel", 26, "Bolt", "--new", *at)["to"] == "Bolt"
    kinds = [answer("receipt", f"r{i}", *at)["how"] for i in range(1, 6)]
    assert kinds == ["relabel", "undo", "merge", "undo", "relabel"]


def test_samples_are_held_out_by_command(taught: Home) -> None:
    at = ("--home", taught.path)

    def listed() -> int:
        return int(answer("samples", "list", "--role", "held-out", *at)["total"])

    n = listed()
    assert answer("samples", "hold-out", 1, 2, 26, *at)["samples"] == {"bolt": 2, "nut": 1}
    assert listed() == n + 3
    lines = invoke("undo", "--dry-run", *at).stdout
    assert ("held out at" in lines, "2 of bolt are learned again" in lines) == (True, True)
    with pytest.raises(RequestError, match="all 2 samples are held out already"):
        invoke("samples", "hold-out", 1, 2, *at)
    answer("undo", *at)
    assert listed() == n
    assert "1 sample (nut 1) is held out" in invoke("samples", "hold-out", 26, *at).stdout
    assert next(c["kind"] for c in answer("changes", *at)["changes"]) == "hold-out"


def _rows(store: Store, table: str) -> list[Any]:
    return store.connection.execute(f"SELECT * FROM {table}").fetchall()


def _stored(home: Home) -> list[tuple[int, int]]:
    with open_store(home, read_only=True) as store:
        return store.stored_samples()


def _names(home: Home) -> list[str]:
    with open_store(home, read_only=True) as store:
        return list(store.names.values())


@both
def test_a_snapshot_keeps_a_class_that_was_taken_back_since(tmp_path: Path, sealed: bool) -> None:
    home = build.tiny_home(tmp_path / "home", sealed=sealed, snapshots=3)
    x, _ = build.features(20)
    with writing(home) as session:
        learner, store = session.learner, session.store
        teach(learner, ["bolt"] * 10, x[:10])
        uids = teach(learner, ["nut"] * 10, x[10:])
        kept = snapshots.take(home, store)
        unteach(learner, uids)
        assert "nut" not in store.names.values()
        snapshots.rollback(home, learner, kept.uid)
        assert learner.labels == ("bolt", "nut")
