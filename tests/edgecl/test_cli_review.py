from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import build
from build import answer, invoke
from edgecl import snapshots
from edgecl.errors import RequestError, UsageError
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.review import label_entries
from edgecl.runtime.grid import quantise
from edgecl.session import open_learner, open_store
from edgecl.store.novel import entries, offer
from edgecl.types import ForgetRequest
from edgecl.unlearning.request import forget, writing


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def waiting(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """A home that knows three parts and has three frames in its queue, f0 to f2 by novelty."""
    home = build.tiny_home(tmp_path / "home", sealed=request.param)
    x, y = build.features(30)
    with writing(home) as session:
        store = session.store
        learner = open_learner(home, store)
        learner.learn_many([build.frame(f"part-{c}", i) for i, c in enumerate(y)], x)
        learner.settle()
        with store.transaction(changes_head=False):
            for i in range(3):
                strange = np.zeros(12, np.float32)
                strange[i] = 2
                frame = build.frame("queue", i)
                assert frame.encoded is not None
                assert offer(
                    store, picture=frame.encoded, x=quantise(strange), guess=1 + i,
                    score=3.0 - i, source="camera:0", frame=f"f{i}", time=1000.0 + i,
                )  # fmt: skip
    return home


def test_what_waits_is_listed_with_its_pictures(waiting: Home, tmp_path: Path) -> None:
    found = answer(
        "review", "list", "--home", waiting.path, "--pictures", tmp_path / "out" / "pictures"
    )["entries"]
    assert [entry["frame"] for entry in found] == ["f0", "f1", "f2"]
    assert set(found[0]) == {"uid", "score", "guess", "source", "frame", "time"}
    assert found[0] | {"uid": 0} == {
        "uid": 0, "score": 3.0, "guess": "part-1", "source": "camera:0", "frame": "f0",
        "time": 1000.0,
    }  # fmt: skip
    written = tmp_path / "out" / "pictures" / f"{found[0]['uid']}.png"
    assert written.read_bytes() == build.frame("queue", 0).encoded
    table = invoke("review", "list", "--home", waiting.path).stdout
    assert "part-1" in table
    assert "1970-01-01 00:16:40 UTC" in table


def test_labelled_entries_are_learned_and_leave_the_queue(waiting: Home) -> None:
    uids = [entry["uid"] for entry in answer("review", "list", "--home", waiting.path)["entries"]]
    done = answer("review", "label", uids[1], uids[0], uids[1], "gasket", "--home", waiting.path)
    assert (done["learned"], done["class"]) == (2, "gasket")
    with open_store(waiting, read_only=True) as store:
        assert [entry.uid for entry in entries(store)] == [uids[2]]
        assert store.n_seen()[store.class_uid("gasket")] == 2
        # In the order given, with the feature and the picture that waited.
        x = store.class_rows(store.class_uid("gasket"))
        assert (x.argmax(axis=1).tolist(), x.max()) == ([1, 0], 2)
        assert store.picture(done["uid"][0]) == build.frame("queue", 1).encoded
        row = store.connection.execute(
            "SELECT text, frame, time FROM replay JOIN sources ON sources.uid = source_uid "
            "WHERE replay.uid = ?",
            (done["uid"][0],),
        ).fetchone()
        assert row == ("camera:0", "f1", 1001.0)
    again = answer("review", "label", uids[2], "part-1", "--home", waiting.path)
    assert (again["learned"], again["class"]) == (1, "part-1")
    assert answer("review", "list", "--home", waiting.path)["entries"] == []


@pytest.mark.parametrize("kind", ["class", "sample"])
def test_a_snapshot_in_which_a_labelled_frame_still_waits_goes_with_it(
    waiting: Home, kind: str
) -> None:
    with writing(waiting) as session:
        store = session.store
        learner = open_learner(waiting, store)
        first, second, _ = (entry.uid for entry in entries(store))
        snapshots.take(waiting, store)
        (report,) = label_entries(learner, [first], "gasket")
        kept = snapshots.take(waiting, store)  # nothing of it waits here any more
        label_entries(learner, [second], "part-1")
        snapshots.rollback(waiting, learner, kept.uid)
        if kind == "class":
            learner.learn_many([build.frame("disc", 0)], np.ones((1, 12), np.float32))
        name = "gasket" if kind == "class" else str(report.uid)
        done = forget(waiting, learner, ForgetRequest(name, kind=kind), verify=True)
        assert done.verified, done.faults
        assert snapshots.snapshots_of(store) == []
    assert not list(waiting.snapshots.iterdir())


def test_a_wrong_uid_learns_nothing(waiting: Home) -> None:
    (uid, *_) = (e["uid"] for e in answer("review", "list", "--home", waiting.path)["entries"])
    with pytest.raises(RequestError, match="entry 99 is not in the review queue"):
        invoke("review", "label", uid, 99, "gasket", "--home", waiting.path)
    with open_store(waiting, read_only=True) as store:
        assert not store.has_class("gasket")
        assert len(entries(store)) == 3


def test_learning_and_leaving_the_queue_is_one_step(
    waiting: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Learner) -> None:
        raise OSError("cut off")

    with writing(waiting) as session:
        store = session.store
        learner = open_learner(waiting, store)
        uid = entries(store)[0].uid
        monkeypatch.setattr(Learner, "save_state", fail)
        with pytest.raises(OSError, match="cut off"):
            label_entries(learner, [uid], "gasket")
        assert entries(store)[0].uid == uid
        assert not store.has_class("gasket")
        monkeypatch.undo()
        label_entries(learner, [uid], "gasket")
        assert uid not in [entry.uid for entry in entries(store)]


def test_entries_are_dropped_by_uid_or_all(waiting: Home) -> None:
    uids = [entry["uid"] for entry in answer("review", "list", "--home", waiting.path)["entries"]]
    assert answer("review", "drop", uids[0], "--home", waiting.path) == {"dropped": 1}
    assert answer("review", "drop", "--all", "--home", waiting.path) == {"dropped": 2}
    assert answer("review", "drop", "--all", "--home", waiting.path) == {"dropped": 0}


@pytest.mark.parametrize("arguments", [(), (1, "--all")])
def test_a_drop_that_says_nothing_or_too_much_is_refused(
    arguments: tuple[object, ...], waiting: Home
) -> None:
    with pytest.raises(UsageError, match="their uids, or --all"):
        invoke("review", "drop", *arguments, "--home", waiting.path)


def test_predict_says_unknown(taught_home: Path, tmp_path: Path) -> None:
    known = build.part_folder(tmp_path / "known", 4, start=60)
    strange = tmp_path / "strange.png"
    strange.write_bytes(build.frame("noise", 0).encoded or b"")
    done = build.run_edgecl("predict", known, strange, "--unknown", "--home", taught_home, "--json")
    assert done.returncode == 0, done.stderr
    *found, last = (json.loads(line) for line in done.stdout.splitlines())
    assert set(last) == {
        "path",
        "label",
        "score",
        "probability",
        "top",
        "unknown",
        "state",
        "novelty",
    }
    assert (last["label"], last["unknown"]) == ("unknown", True)
    assert last["novelty"] > max(one["novelty"] for one in found)
    assert last["top"][0]["label"] in build.PARTS
    named = [one for one in found if not one["unknown"]]
    assert len(named) > len(found) / 2
    assert all(one["label"] == Path(one["path"]).parent.name for one in named)
    plain = build.run_edgecl("predict", strange, "--unknown", "--home", taught_home)
    assert plain.stdout.startswith(f"{strange}: unknown, most like ")


def test_a_bundle_says_unknown_as_its_home_does(taught_home: Path, tmp_path: Path) -> None:
    home, bundle = tmp_path / "home", tmp_path / "bundle"
    shutil.copytree(taught_home, home)
    invoke("export", "onnx", "--output", bundle, "--home", home)
    strange = tmp_path / "strange.png"
    strange.write_bytes(build.frame("noise", 0).encoded or b"")
    known = build.part_folder(tmp_path / "known", 1, start=60)
    # One by one: engines round by the size of a batch, which is what happened to be ready.
    for picture in [*sorted(known.rglob("*.jpg")), strange]:
        ours, theirs = (
            answer("predict", picture, "--unknown", *place, "--set", 0.9)
            for place in (("--home", home), ("--bundle", bundle))
        )
        assert theirs.keys() == ours.keys()
        for key, value in ours.items():  # a product may round its last bit by where arrays lie
            exact = isinstance(value, str | list)
            assert theirs[key] == (value if exact else pytest.approx(value, rel=1e-12)), key
    assert theirs["unknown"] is True


@pytest.mark.parametrize("is_live", [False, True], ids=["lines", "folder"])
def test_predict_stops_at_ctrl_c_without_a_word(
    is_live: bool, taught_home: Path, tmp_path: Path
) -> None:
    source = f"watch:{tmp_path}" if is_live else "-"
    data = build.encode(build.part_picture("washer", 91))
    command = "from edgecl.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", command, "predict", source, "--home", taught_home, "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for i in range(600):
            # In a watched folder only what comes after it began to look counts.
            path = tmp_path / f"{i}.jpg"
            path.write_bytes(data)
            if not is_live and i == 0:
                process.stdin.write(json.dumps({"path": str(path)}) + "\n")
                process.stdin.flush()
            if select.select([process.stdout], [], [], 0.5)[0]:
                break
        assert json.loads(process.stdout.readline())["label"] == "washer"
        process.send_signal(signal.SIGINT)
        try:
            rest, errors = process.communicate(timeout=300)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")
    assert all(json.loads(line)["label"] == "washer" for line in rest.splitlines())
