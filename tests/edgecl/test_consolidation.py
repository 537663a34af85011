"""Consolidation through a real home: what is trained, taken, refused, recorded and unlearned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import build
import edgecl.consolidation
from edgecl.adapters.training import Training
from edgecl.backbones import Backbone, load_backbone
from edgecl.cli.app import app
from edgecl.config import EvaluationConfig
from edgecl.consolidation import Consolidated, consolidate, is_due, probe_of
from edgecl.errors import FeatureMapError, IntegrityError, RequestError
from edgecl.home import Home
from edgecl.learner import Learner, open_engine, open_learner, open_predictor, open_store
from edgecl.replay.adapters import task_adapters
from edgecl.replay.store import Store
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.types import ForgetRequest, Frame
from edgecl.unlearning.journal import record
from edgecl.unlearning.plan import resolve
from edgecl.unlearning.request import finish_requests, forget

QUICK = Training(epochs=1, batch_size=16)


@pytest.fixture
def device(adapted_home: Path, copy_of: Callable[[Path], Path]) -> Home:
    """A home in which all that comes is learned: these tests count pictures."""
    home = Home(copy_of(adapted_home))
    home.save_config(replace(home.config, evaluation=EvaluationConfig(probes=0)))
    return home


def frames(parts: tuple[str, ...], n: int, start: int = 0) -> list[Frame]:
    return [
        Frame(id=f"{p}/{i}", encoded=build.encode(build.part_picture(p, i)), label=p)
        for p in parts
        for i in range(start, start + n)
    ]


def teach(home: Home, learner: Learner, engine: OnnxEngine, pictures: list[Frame]) -> None:
    from edgecl.runtime.preprocess import picture_of

    tensor = home.manifest.preprocessing.tensor
    x = engine.run(np.stack([tensor(picture_of(frame)) for frame in pictures]))
    learner.learn_many(pictures, x)


def run(
    home: Home, store: Store, backbone: Backbone, training: Training = QUICK
) -> tuple[Learner, Consolidated]:
    learner = open_learner(home, store)
    done = consolidate(home, learner, backbone, home.engine(), training=training)
    return learner, done


def with_settings(home: Home, **options: object) -> Home:
    part = replace(home.config.consolidation, **options)  # type: ignore[arg-type]
    home.save_config(replace(home.config, consolidation=part))
    return home


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every adapter pass: with few pictures the judgement is chance."""
    monkeypatch.setattr(edgecl.consolidation, "_judge", lambda *_: (0.5, 0.5))


def test_an_adapter_that_is_taken_changes_map_features_head_and_record(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        learner = open_learner(device, store)
        teach(device, learner, device.engine(), frames(build.PARTS, 10))
        before, plain = store.stored_rows()[0], store.feature_map
        learner, done = run(device, store, backbone)
        assert done.accepted
        assert done.classes == build.PARTS
        assert (done.samples, done.n_probe) == (36, 4)
        (task,) = task_adapters(store)
        assert task.uid == done.adapter
        assert task.saw == dict.fromkeys(store.names, 9)
        assert task.task == tuple(store.names)
        assert store.feature_map == device.manifest.feature_map_with(store.adapter) != plain
        rows = store.stored_rows()[0]
        assert not np.array_equal(rows, before)
        engine = open_engine(device, store)
        scores = learner.predict_many(rows.astype(np.float32))
    # Opened anew, without torch in the way, the same is predicted.
    predictor = open_predictor(device)
    with open_store(device, read_only=True) as store:
        picture = store.picture(store.stored_samples()[0][0])
        (device.path / "one.jpg").write_bytes(picture)
        guess = predictor.predict(device.path / "one.jpg")
        assert guess.label == learner.labels[int(scores[0].argmax())]
        x = engine.run(device.manifest.preprocessing.tensor(build_image(picture))[None])
        assert np.allclose(x, rows[0], atol=1e-2)


def build_image(data: bytes) -> object:
    from edgecl.runtime.preprocess import decode

    return decode(data)


def test_an_adapter_that_harms_is_not_taken_and_nothing_changes(
    device: Home, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edgecl.consolidation, "_judge", lambda *_: (0.9, 0.8))
    with open_store(device) as store:
        learner = open_learner(device, store)
        teach(device, learner, device.engine(), frames(build.PARTS[:2], 10))
        learner.settle()
        before, rows = store.load_head("scorer", "ridge"), store.stored_rows()[0]
        _, done = run(device, store, backbone)
        assert (done.accepted, done.adapter) == (False, None)
        assert (done.accuracy_before, done.accuracy_after) == (0.9, 0.8)
        assert task_adapters(store) == []
        assert store.adapter is None
        assert np.array_equal(store.stored_rows()[0], rows)
        after = store.load_head("scorer", "ridge")
        assert before is not None
        assert after is not None
        assert all(np.array_equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("kept", [True, False])
def test_earlier_classes_are_replayed_or_left_out(
    device: Home, backbone: Backbone, always: None, kept: bool
) -> None:
    with_settings(device, replay=kept)
    with open_store(device) as store:
        learner = open_learner(device, store)
        teach(device, learner, device.engine(), frames(build.PARTS[:2], 10))
        run(device, store, backbone)
        learner = open_learner(device, store)
        teach(device, learner, open_engine(device, store), frames(build.PARTS[2:], 10))
        run(device, store, backbone)
        first, second = task_adapters(store)
        names = store.names
        assert [names[c] for c in first.saw] == list(build.PARTS[:2])
        assert [names[c] for c in second.saw] == list(build.PARTS if kept else build.PARTS[2:])
        assert [names[c] for c in second.task] == list(build.PARTS[2:])


def test_a_class_that_comes_back_keeps_its_task(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[:2], 10))
        run(device, store, backbone)
        back = frames(build.PARTS[1:3], 10, start=50)
        teach(device, open_learner(device, store), open_engine(device, store), back)
        _, done = run(device, store, backbone)
        assert done.classes == build.PARTS[1:3]
        first, second = task_adapters(store)
        assert [store.names[c] for c in first.task] == list(build.PARTS[:2])
        assert [store.names[c] for c in second.task] == [build.PARTS[2]]


def test_a_class_with_one_sample_takes_part(device: Home, backbone: Backbone, always: None) -> None:
    with_settings(device, bank="two")
    with open_store(device) as store:
        pictures = frames(build.PARTS[:2], 10) + frames(build.PARTS[2:3], 1)
        teach(device, open_learner(device, store), device.engine(), pictures)
        learner, done = run(device, store, backbone, replace(QUICK, views=2))
        assert done.accepted
        assert len(learner.labels) == 3
        assert list(task_adapters(store)[0].saw.values()) == [9, 9, 1]
    assert np.isfinite(open_predictor(device).scorer.arrays()["weights"]).all()


def test_a_broken_off_consolidation_leaves_the_home_as_it_was(
    device: Home, backbone: Backbone, always: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(device) as store:
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[:2], 10))
        rows, plain = store.stored_rows()[0], store.feature_map

        def broken(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        for place in ("train_adapter", "embed_stored", "change_map"):
            with monkeypatch.context() as patch:
                patch.setattr(edgecl.consolidation, place, broken)
                with pytest.raises(KeyboardInterrupt):
                    run(device, store, backbone)
            assert (store.feature_map, store.adapter) == (plain, None)
            assert task_adapters(store) == []
            assert np.array_equal(store.stored_rows()[0], rows)
        assert run(device, store, backbone)[1].accepted


def test_what_cannot_be_consolidated_is_said(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        with pytest.raises(RequestError, match="nothing was learned since"):
            run(device, store, backbone)
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[:1], 12))
        with pytest.raises(RequestError, match="too few to train"):
            run(device, store, backbone)
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[1:2], 12))
        run(device, store, backbone)
        with pytest.raises(RequestError, match="nothing was learned since"):
            run(device, store, backbone)
        other = load_backbone(image_size=64, weights="random")
        with pytest.raises(IntegrityError, match="name the same weights"):
            run(device, store, other)


def test_an_engine_without_adapter_inputs_refuses_adapters(home: Home, backbone: Backbone) -> None:
    with pytest.raises(FeatureMapError, match="takes no adapters"):
        home.engine().with_adapters({"adapter.blocks.3.0.up": np.zeros((80, 16), np.float32)})


def test_an_adapter_of_another_map_is_refused(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[:2], 10))
        run(device, store, backbone)
        with store.transaction(changes_head=False):
            store.connection.execute("UPDATE meta SET value = ? WHERE key = 'adapter'", ("0" * 64,))
    with pytest.raises(FeatureMapError, match="engine gives"):
        open_store(device)
    with Store(device.database) as store, pytest.raises(IntegrityError, match="not those that"):
        open_engine(device, store)


def test_a_changed_adapter_is_found(device: Home, backbone: Backbone, always: None) -> None:
    with open_store(device) as store:
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[:2], 10))
        run(device, store, backbone)
        (data,) = store.connection.execute("SELECT data FROM adapters").fetchone()
        changed = data[:-4] + bytes([data[-4] ^ 1, *data[-3:]])
        with store.transaction(changes_head=False):
            store.connection.execute("UPDATE adapters SET data = ?", (changed,))
        with pytest.raises(IntegrityError, match="was changed"):
            open_engine(device, store)


def test_forgetting_drops_the_adapters_that_saw_the_class_and_keeps_earlier_ones(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[:2], 10))
        run(device, store, backbone)
        first_map = store.feature_map
        late = frames(build.PARTS[2:], 10)
        teach(device, open_learner(device, store), open_engine(device, store), late)
        learner, _ = run(device, store, backbone)
        assert store.feature_map != first_map
        done = forget(device, learner, ForgetRequest(build.PARTS[3]), verify=True)
        assert done.verified, done.faults
        assert done.receipt.body["mode"] == "exact_retrain"
        assert done.receipt.body["adapters"] == [2]
        assert [task.uid for task in task_adapters(store)] == [1]
        assert store.feature_map == first_map
        done = forget(device, learner, ForgetRequest(build.PARTS[0]), verify=True)
        assert done.verified, done.faults
        assert done.receipt.body["adapters"] == [1]
        assert (store.adapter, store.feature_map) == (None, device.manifest.feature_map)
        # What is left equals a home that only ever saw the two others.
        rest = Store(_twin(device))
        twin = open_learner(device, rest)
        teach(device, twin, device.engine(), frames(build.PARTS[1:3], 10))
        twin.settle()
        ours, never = (head.scorer({c: str(c) for c in head.classes}).arrays() for head in
                       (learner.head, twin.head))  # fmt: skip
        for part in never:
            assert np.allclose(ours[part], never[part], atol=1e-4), part
        rest.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bank", "method"),
    [("last", "ssd"), ("mean", "ssd"), ("last", "gu"), ("last", "gs-lora"), ("last", "iau")],
)
def test_adapters_are_changed_in_place_when_asked_and_dropped_when_asked_again(
    device: Home, backbone: Backbone, always: None, bank: str, method: str
) -> None:
    with_settings(device, bank=bank)
    with open_store(device) as store:
        engine = device.engine()
        teach(device, open_learner(device, store), engine, frames(build.PARTS[:2], 10))
        run(device, store, backbone)
        first = task_adapters(store)[0]
        late = frames(build.PARTS[2:], 10)
        teach(device, open_learner(device, store), open_engine(device, store), late)
        learner, _ = run(device, store, backbone)
        before = store.feature_map
        name = build.PARTS[3]
        uid = store.class_uid(name)
        done = forget(device, learner, ForgetRequest(name, adapter_method=method))
        body = done.receipt.body
        assert (done.mode, body["adapters"], body["bit_exact"]) == (
            f"approximate:{method}",
            [2],
            False,
        )
        (report,) = body["weights"]
        assert (report["adapter"], report["method"]) == (2, method)
        assert done.verified is not None  # audited without being asked
        assert done.metrics["mode"] == "approximate"
        assert "name" not in body
        assert name not in repr(done.receipt)
        untouched, changed = task_adapters(store)
        assert all(np.array_equal(untouched.adapter[k], first.adapter[k]) for k in first.adapter)
        assert changed.body["unlearned"] == [{"class": uid, "method": method}]
        assert uid in changed.saw  # T(c) is not forgotten: it decides what is still to be dropped
        if report["n_changed"]:
            assert store.feature_map != before
        assert open_engine(device, store)
        rows = store.connection.execute("SELECT body FROM receipts ORDER BY number").fetchall()
        status = json.loads(rows[-1][0])["status"]
        assert status == ("approximate_failed" if done.faults else "verified")
        # The same again is the same receipt; an exact method makes it exact.
        request = ForgetRequest(name, adapter_method=method)
        assert forget(device, learner, request).mode == "already_forgotten"
        exact = forget(device, learner, ForgetRequest(name, adapter_method="drop"), verify=True)
        assert exact.verified, exact.faults
        assert (exact.mode, exact.receipt.body["adapters"]) == ("exact_retrain", [2])
        again = forget(device, learner, ForgetRequest(name, adapter_method="drop"))
        assert (again.mode, again.receipt) == ("already_forgotten", exact.receipt)
        assert [task.uid for task in task_adapters(store)] == [1]
        assert name not in store.names.values()


def test_an_approximate_request_that_cannot_be_run_is_refused_or_made_exact(
    device: Home, backbone: Backbone, always: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(device) as store:
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[:3], 10))
        learner, _ = run(device, store, backbone)
        request = ForgetRequest(build.PARTS[1], adapter_method="ssd")

        def no_torch(*_: object, **__: object) -> None:
            raise RequestError("torch is not installed")

        monkeypatch.setattr("edgecl.backbones.load_backbone_of", no_torch)
        before = store.feature_map
        with pytest.raises(RequestError, match="torch is not"):
            forget(device, learner, request)
        assert not store.has_requests()
        assert store.feature_map == before
        assert build.PARTS[1] in store.names.values()
        # Asked for by another process, nobody is there to choose another method: exact, at once.
        record(store, resolve(store, request), request, verify=False)
        (done,) = finish_requests(device, store, learner)
        assert (done.mode, done.verified) == ("exact_retrain", True)
        assert build.PARTS[1] not in store.names.values()


def _twin(device: Home) -> Path:
    from edgecl.replay.store import create_store

    path = device.path / "twin.db"
    create_store(
        path,
        feature_map=device.manifest.feature_map,
        num_features=device.manifest.num_features,
        second_moment="full",
    )
    return path


def test_after_a_partial_forget_the_next_task_trains_on_what_is_left(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[:3], 10))
        learner, _ = run(device, store, backbone)
        forget(device, learner, ForgetRequest(build.PARTS[0]))
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[3:], 10))
        _, done = run(device, store, backbone)
        (task,) = task_adapters(store)
        assert [store.names[c] for c in task.saw] == list(build.PARTS[1:])
        assert done.accepted


def test_a_bank_predicts_until_something_is_learned(
    device: Home, backbone: Backbone, always: None
) -> None:
    with_settings(device, bank="all")
    with open_store(device) as store:
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[:2], 10))
        run(device, store, backbone)
        late = frames(build.PARTS[2:], 10)
        teach(device, open_learner(device, store), open_engine(device, store), late)
        run(device, store, backbone)
    predictor = open_predictor(device)
    assert predictor.scorer.n_maps == 2
    before = predictor.scorer.arrays()
    right = 0
    for frame in frames(build.PARTS, 5, start=100):
        (device.path / "one.jpg").write_bytes(frame.encoded or b"")
        right += predictor.predict(device.path / "one.jpg").label == frame.label
    assert right >= 18
    assert all(np.array_equal(before[k], v) for k, v in predictor.scorer.arrays().items())
    with open_store(device) as store:
        learner = open_learner(device, store)
        learner.settle()
        assert open_predictor(device).scorer.n_maps == 2, "settling alone keeps the bank"
        more = frames(build.PARTS[:1], 1, start=200)
        teach(device, learner, open_engine(device, store), more)
        learner.settle()
    assert open_predictor(device).scorer.n_maps == 1


def test_due_counts_new_classes_since_the_last_attempt(device: Home, backbone: Backbone) -> None:
    with open_store(device) as store:
        learner = open_learner(device, store)
        teach(device, learner, device.engine(), frames(build.PARTS[:2], 1))
        assert not is_due(store, 2, build.PARTS[0])
        assert is_due(store, 2, build.PARTS[2])
        assert is_due(store, 2, None)
        assert not is_due(store, 3, None)
        with store.transaction(changes_head=False):
            store.note_attempt(max(store.names))
        assert not is_due(store, 2, build.PARTS[2])


def test_the_probe_is_about_a_tenth_of_every_class_and_stays() -> None:
    rows = [(uid, uid % 3) for uid in range(900)]
    probe = probe_of(rows)
    for c in range(3):
        assert 20 <= sum(uid % 3 == c for uid in probe) <= 40
    fewer = probe_of(rows[::2])
    assert fewer == {uid for uid in probe if uid % 2 == 0}
    assert len(probe_of([(uid, 1) for uid in range(5000)])) == 100


def test_what_was_left_by_a_forget_is_consolidated_again(
    device: Home, backbone: Backbone, always: None
) -> None:
    """Forgetting a class of a later adapter never leaves one that a forgotten class shaped."""
    with open_store(device) as store:
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[:3], 10))
        learner, _ = run(device, store, backbone)
        forget(device, learner, ForgetRequest(build.PARTS[0]))
        assert [store.names[c] for c in store.classes_since(store.consolidated_step)] == list(
            build.PARTS[1:3]
        )
        learner, done = run(device, store, backbone)
        assert done.classes == build.PARTS[1:3]
        forgotten = forget(device, learner, ForgetRequest(build.PARTS[1]))
        assert forgotten.receipt.body["mode"] == "exact_retrain"
        assert forgotten.receipt.body["adapters"] == [done.adapter]


def test_a_class_without_a_kept_picture_is_not_given_up(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[:3], 10))
        with store.transaction():
            uid = store.class_uid(build.PARTS[2])
            store.connection.execute("UPDATE samples SET is_stored = 0 WHERE class_uid = ?", (uid,))
        with pytest.raises(RequestError, match=f"no picture of {build.PARTS[2]} is kept"):
            run(device, store, backbone)


def test_a_bank_is_judged_as_what_predicts(
    device: Home, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_settings(device, bank="two")
    monkeypatch.setattr(edgecl.consolidation._Bank, "accuracy", lambda *_: 0.1)
    with open_store(device) as store:
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[:2], 20))
        _, done = run(device, store, backbone)
        assert (done.accepted, done.accuracy_after) == (False, 0.1)


def test_a_failed_commit_leaves_head_and_store_together(
    device: Home, backbone: Backbone, always: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk full")

    with open_store(device) as store:
        learner = open_learner(device, store)
        teach(device, learner, device.engine(), frames(build.PARTS[:2], 10))
        x = store.stored_rows()[0].astype(np.float32)
        learner.settle()
        before = learner.predict_many(x)
        monkeypatch.setattr(Store, "note_attempt", broken)
        with pytest.raises(OSError, match="disk full"):
            consolidate(device, learner, backbone, device.engine(), training=QUICK)
        assert np.allclose(learner.predict_many(x), before, atol=1e-6)
        assert store.adapter is None


@pytest.mark.slow
def test_a_stream_that_cannot_be_consolidated_goes_on(
    adapted_home: Path, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    home = copy_of(adapted_home)
    folder = build.part_folder(tmp_path / "parts", 1)
    done = build.run_edgecl(
        "train-stream", folder, "--home", home, "--consolidate-every", 2, "--json"
    )
    result = build.last_json(done)
    assert (result["learned"], result["consolidations"]) == (4, [])
    assert "not consolidated" in done.stderr


@pytest.mark.slow
def test_the_command_makes_an_engine_that_takes_adapters(
    taught_home: Path, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    home = copy_of(taught_home)
    more = build.part_folder(tmp_path / "more", 6, start=30)
    build.run_edgecl("train-stream", more, "--home", home)
    done = build.last_json(build.run_edgecl("consolidate", "--home", home, "--epochs", 1, "--json"))
    assert {
        "adapter",
        "classes",
        "samples",
        "accuracy_before",
        "accuracy_after",
        "accepted",
    } <= set(done)
    made = Home(home)
    assert made.manifest.adapter_rank == 16
    assert [p.name for p in sorted((home / "engine").iterdir())] == [
        "backbone-adapters.onnx",
        "manifest.json",
    ]
    assert build.run_edgecl("verify", "--home", home).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "-"])
def test_a_stream_consolidates_between_classes(
    adapted_home: Path, copy_of: Callable[[Path], Path], tmp_path: Path, kind: str
) -> None:
    home = copy_of(adapted_home)
    folder = build.part_folder(tmp_path / "parts", 12)
    lines = "\n".join(
        json.dumps({"path": str(path), "label": path.parent.name})
        for path in sorted(folder.rglob("*.jpg"))
    )
    source = folder if kind == "folder" else kind
    done = build.run_edgecl(
        "train-stream", source, "--home", home, "--consolidate-every", 2, "--json", stdin=lines
    )
    result = build.last_json(done)
    assert result["learned"] == 44  # and the tenth of each class held out
    assert len(result["consolidations"]) == 2
    score = build.last_json(build.run_edgecl("evaluate", folder, "--home", home, "--json"))
    assert score["accuracy"] > 0.9
    # Prediction under an adapter needs no torch.
    code = (
        "import sys; from pathlib import Path; from edgecl import Home; "
        "from edgecl.learner import open_predictor; "
        "predictor = open_predictor(Home(Path(sys.argv[1]))); "
        "print(predictor.predict(sys.argv[2]).label, 'torch' in sys.modules)"
    )
    picture = folder / build.PARTS[1] / "003.jpg"
    out = subprocess.run(
        [sys.executable, "-c", code, home, picture], capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == [build.PARTS[1], "False"]


def test_a_class_that_only_judges_goes_with_the_adapter_all_the_same(
    device: Home, backbone: Backbone, always: None
) -> None:
    """The judgement, and so whether there is an adapter at all, depends on its pictures."""
    with open_store(device) as store:
        last = min(probe_of([(uid, 1) for uid in range(21, 99)]))
        others = frames(build.PARTS[:2], (last - 1) // 2)
        extra = frames(build.PARTS[:1], (last - 1) % 2, start=200)
        pictures = others + extra + frames(build.PARTS[2:3], 1)
        teach(device, open_learner(device, store), device.engine(), pictures)
        assert store.stored_samples()[-1][0] == last
        learner, _ = run(device, store, backbone)
        alone = store.class_uid(build.PARTS[2])
        assert task_adapters(store)[0].saw[alone] == 0
        done = forget(device, learner, ForgetRequest(build.PARTS[2]), verify=True)
        assert done.verified, done.faults
        assert done.receipt.body["mode"] == "exact_retrain"
        assert (task_adapters(store), store.adapter) == ([], None)


def test_a_damaged_kept_picture_is_named(device: Home, backbone: Backbone, always: None) -> None:
    with open_store(device) as store:
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[:2], 10))
        for uid in (7, min(probe_of(store.stored_samples()))):
            good = store.picture(uid)
            for data in (good[:300], b"\0"):
                with store.transaction(changes_head=False):
                    store.connection.execute(
                        "UPDATE pictures SET data = ? WHERE uid = ?", (data, uid)
                    )
                with pytest.raises(IntegrityError, match=f"picture of sample {uid} cannot be used"):
                    run(device, store, backbone)
            with store.transaction(changes_head=False):
                store.connection.execute("UPDATE pictures SET data = ? WHERE uid = ?", (good, uid))
        assert task_adapters(store) == []


def test_a_training_that_diverges_is_not_taken(
    device: Home, backbone: Backbone, always: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = edgecl.consolidation.train_adapter

    def diverged(*arguments: object, **options: object) -> object:
        trained = train(*arguments, **options)  # type: ignore[arg-type]
        broken = {name: np.full_like(x, np.nan) for name, x in trained.adapter.items()}
        return replace(trained, adapter=broken)

    monkeypatch.setattr(edgecl.consolidation, "train_adapter", diverged)
    with open_store(device) as store:
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[:2], 10))
        with pytest.raises(RequestError, match="not finite; nothing was taken"):
            run(device, store, backbone)
        assert (task_adapters(store), store.adapter) == ([], None)


def test_views_of_the_old_map_are_not_drawn_under_the_new_one(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[:2], 10))
        with store.transaction(changes_head=False):
            for uid, _ in store.stored_samples():
                store.add_views(uid, np.full((2, store.num_features), 3.0, np.float16))
        learner, _ = run(device, store, backbone)
        own = store.stored_rows()[0]
        with store.transaction(changes_head=False):
            drawn = store.draw_due(20, rest=1, n_views=3)
        assert drawn is not None
        assert np.array_equal(drawn[0], np.repeat(own[:, None], 3, axis=1))
        with store.transaction(changes_head=False):
            for uid, _ in store.stored_samples():
                store.add_views(uid, np.full((2, store.num_features), 3.0, np.float16))
        forget(device, learner, ForgetRequest(build.PARTS[0]))
        (n_views,) = store.connection.execute("SELECT count(*) FROM views").fetchone()
        assert n_views == 0


def test_what_cannot_be_done_is_said_before_torch_and_changes_no_engine(
    home: Home, tmp_path: Path
) -> None:
    engine = sorted((home.path / "engine").iterdir())
    done = build.run_edgecl("consolidate", "--home", home.path)
    assert done.returncode == 3
    assert "nothing was learned since" in done.stderr
    assert "loading" not in done.stderr
    assert sorted((home.path / "engine").iterdir()) == engine


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_says_that_it_was_broken_off(
    device: Home, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(1)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(edgecl.consolidation, "train_adapter", interrupted)
    with open_store(device) as store:
        teach(device, open_learner(device, store), device.engine(), frames(build.PARTS[:2], 10))
    # A process in the background of a shell ignores Ctrl-C, and so would this one.
    before_interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = CliRunner().invoke(app, ["consolidate", "--home", str(device.path), "--json"])
    finally:
        signal.signal(signal.SIGINT, before_interrupt)
    assert done.exit_code == status
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "broken off; nothing half-done was kept"
    assert signal.getsignal(signal.SIGTERM) == before
    with device.lock(), open_store(device) as store:
        assert (task_adapters(store), store.adapter) == ([], None)
