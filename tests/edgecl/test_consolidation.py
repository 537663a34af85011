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
from PIL import Image
from typer.testing import CliRunner

import build
import edgecl.consolidation.run
import edgecl.consolidation.train
from edgecl.adapters.training import Training
from edgecl.backbones import Backbone, load_backbone
from edgecl.cli.app import app
from edgecl.config import EvaluationConfig, GovernorConfig
from edgecl.consolidation.judge import Verdict, keeps_its_class_in_a_mirror, witnesses_of
from edgecl.consolidation.plan import is_due, plan_of, probe_of
from edgecl.consolidation.run import Consolidated, consolidate
from edgecl.errors import FeatureMapError, IntegrityError, RequestError, UsageError
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.session import Session, open_learner, open_predictor, open_store
from edgecl.store.adapters import adapter_rows, task_adapters
from edgecl.store.changes import changes_of
from edgecl.store.opinions import n_opinions
from edgecl.store.requests import record
from edgecl.store.store import Store
from edgecl.types import ForgetRequest, Frame
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
    return [build.part_frame(p, i) for p in parts for i in range(start, start + n)]


def teach(home: Home, learner: Learner, engine: OnnxEngine, pictures: list[Frame]) -> None:
    x = engine.run(np.stack([build.tensor_of(home, frame) for frame in pictures]))
    learner.learn_many(pictures, x)


def run(
    home: Home, store: Store, backbone: Backbone, training: Training = QUICK
) -> tuple[Learner, Consolidated]:
    session = Session(home, store)
    return session.learner, consolidate(session, backbone, training=training)


def taught(home: Home, store: Store, parts: tuple[str, ...], n: int = 10, start: int = 0) -> None:
    teach(home, open_learner(home, store), home.engine(), frames(parts, n, start))


def with_settings(home: Home, **options: object) -> Home:
    part = replace(home.config.consolidation, **options)  # type: ignore[arg-type]
    home.save_config(replace(home.config, consolidation=part))
    return home


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every adapter pass: with few pictures the judgement is chance."""

    def judged(*arguments: object, **_: object) -> Verdict:
        return replace(VERDICT, accepted=True)

    monkeypatch.setattr("edgecl.consolidation.judge.judged", judged)


VERDICT = Verdict(False, 4, (0.9, 0.8), (0.1, 0.2), 0.01)


def heads(learner: Learner) -> dict[str, np.ndarray]:
    return learner.head.scorer({c: str(c) for c in learner.head.classes}).arrays()


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[part], b[part]) for part in a)


def test_an_adapter_that_is_taken_is_served_beside_a_head_that_stays(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS)
        learner = open_learner(device, store)
        learner.settle()
        rows, before = store.stored_rows()[0], heads(learner)
        learner, done = run(device, store, backbone)
        assert done.accepted
        assert done.classes == build.PARTS
        assert done.samples == 36
        assert (done.epochs, done.resumed) == (1, 0)
        (task,) = task_adapters(store)
        assert task.uid == done.adapter
        assert task.saw == dict.fromkeys(store.names, 9)
        assert task.task == task.classes == tuple(store.names)
        # What the store holds and the exact head know no other map.
        assert store.feature_map == device.manifest.feature_map
        assert np.array_equal(store.stored_rows()[0], rows)
        assert equal(heads(learner), before)
        scorer, adapters = Session(device, store).served()
        assert scorer.n_maps == 1 + len(adapters) == 2
        assert n_opinions(store) == 4  # it was asked for what judged it
        picture = store.picture(store.stored_samples()[0][0])
    predictor = open_predictor(device)
    (device.path / "one.jpg").write_bytes(picture)
    shares = predictor.predict(device.path / "one.jpg", top=9).top
    assert sum(share for _, share in shares) == pytest.approx(1)


def test_with_shadow_frames_an_adapter_is_a_candidate_first(
    device: Home, backbone: Backbone, always: None
) -> None:
    device.save_config(replace(device.config, governor=GovernorConfig(shadow_frames=5)))
    with open_store(device) as store:
        taught(device, store, build.PARTS)
        open_learner(device, store).settle()
        _, done = run(device, store, backbone)
        assert (done.accepted, done.is_candidate) == (True, True)
        assert Session(device, store).served()[1] == ()
        assert changes_of(store)[-1].state == "candidate"
        taught(device, store, build.PARTS, start=20)
        with pytest.raises(RequestError, match=rf"adapter {done.adapter} is a candidate"):
            plan_of(Session(device, store))


def test_a_recipe_may_train_on_some_of_the_kept_pictures(device: Home) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2], 30)
        taught(device, store, build.PARTS[2:3], 5)
        whole = plan_of(Session(with_settings(device, recipe="plain"), store))
        plan = plan_of(Session(with_settings(device, recipe="covered"), store))
        assert plan_of(Session(device, store)) == plan
        assert plan.judging == whole.judging
        assert set(plan.trained_on) < set(whole.trained_on)
        for part in build.PARTS[:3]:
            uid = store.class_uid(part)
            n, of = (sum(c == uid for _, c in p.trained_on) for p in (plan, whole))
            assert n == of if part == build.PARTS[2] else 0.3 * of < n <= 0.5 * of


def test_an_adapter_that_harms_is_not_taken_and_nothing_changes(
    device: Home, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecl.consolidation.judge.judged", lambda *_: VERDICT)
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        learner = open_learner(device, store)
        learner.settle()
        before = heads(learner)
        learner, done = run(device, store, backbone)
        assert (done.accepted, done.adapter, done.verdict) == (False, None, VERDICT)
        assert adapter_rows(store) == []
        assert equal(heads(learner), before)
        assert Session(device, store).served()[1] == ()


@pytest.mark.parametrize("kept", [True, False])
def test_earlier_classes_are_replayed_or_left_out(
    device: Home, backbone: Backbone, always: None, kept: bool
) -> None:
    with_settings(device, replay=kept)
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        run(device, store, backbone)
        taught(device, store, build.PARTS[2:])
        run(device, store, backbone)
        first, second = task_adapters(store)
        names = store.names
        assert [names[c] for c in first.saw] == list(build.PARTS[:2])
        trained = [names[c] for c, n in second.saw.items() if n]
        assert trained == list(build.PARTS if kept else build.PARTS[2:])
        assert [names[c] for c in second.task] == list(build.PARTS[2:])
        assert second.body["parents"] == [first.uid]


def test_a_class_that_comes_back_keeps_its_task(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        run(device, store, backbone)
        taught(device, store, build.PARTS[1:3], start=50)
        _, done = run(device, store, backbone)
        assert done.classes == build.PARTS[1:3]
        first, second = task_adapters(store)
        assert [store.names[c] for c in first.task] == list(build.PARTS[:2])
        assert [store.names[c] for c in second.task] == [build.PARTS[2]]


def test_a_class_with_one_picture_takes_part(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        taught(device, store, build.PARTS[2:3], 1)
        learner, done = run(device, store, backbone, replace(QUICK, views=2))
        assert done.accepted
        assert len(learner.labels) == 3
        assert list(task_adapters(store)[0].saw.values()) == [9, 9, 1]
        assert np.isfinite(Session(device, store).served()[0].arrays()["0.weights"]).all()


def test_a_class_younger_than_the_adapter_keeps_the_share_of_the_exact_head(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:3])
        run(device, store, backbone)
        taught(device, store, build.PARTS[3:])
        learner = open_learner(device, store)
        scorer, adapters = Session(device, store).served()
        pictures = frames(build.PARTS, 4, start=100)
        images = np.stack([build.tensor_of(device, frame) for frame in pictures])
        x = device.engine(adapters).run(images)
        d = store.num_features
        shares = scorer.scores(x)
        (task,) = task_adapters(store)
        frozen = learner.head.scorer(store.names).scores(x[:, :d])
        q = np.exp(task.body["temperature"] * (frozen - frozen.max(axis=1, keepdims=True)))
        q /= q.sum(axis=1, keepdims=True)
        young = scorer.labels.index(build.PARTS[3])
        assert np.allclose(shares[:, young], q[:, young])
        assert np.allclose(shares.sum(axis=1), 1)
        assert (shares[-4:].argmax(axis=1) == young).all()


class Stopped(BaseException):
    """A process that dies."""


@pytest.mark.parametrize("recipe", ["plain", "isolated"])
def test_a_training_cut_off_at_any_epoch_ends_in_the_same_bits(
    device: Home, backbone: Backbone, always: None, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_settings(device, recipe=recipe)
    training = Training(epochs=3, views=2, batch_size=16)
    train = edgecl.consolidation.train.train_adapter
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        whole = run(device, store, backbone, training)[1]
        (wanted,) = task_adapters(store)
        with store.transaction(changes_head=False):
            store.connection.execute("DELETE FROM adapters")

        def dies(*arguments: object, tell: Callable[[object], None], **options: object) -> object:
            def told(progress: object) -> None:
                tell(progress)
                if progress.epoch:  # type: ignore[attr-defined]
                    raise Stopped

            return train(*arguments, tell=told, **options)  # type: ignore[arg-type]

        for epoch in (1, 2):
            with monkeypatch.context() as patch:
                patch.setattr(edgecl.consolidation.train, "train_adapter", dies)
                with pytest.raises(Stopped):
                    run(device, store, backbone, training)
            (row,) = adapter_rows(store)
            assert row.epoch == epoch
            assert task_adapters(store) == []
            assert Session(device, store).served()[1] == ()  # half a training is never served
        done = run(device, store, backbone, training)[1]
        assert (whole.resumed, done.resumed, done.epochs) == (0, 2, 3)
        (found,) = task_adapters(store)
        assert equal(found.adapter, wanted.adapter)
        assert equal(found.head, wanted.head)
        assert found.body | {"verdict": 0} == wanted.body | {"verdict": 0}


def test_another_training_does_not_go_on_from_this_one(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        cut_off(device, store, backbone)
        taught(device, store, build.PARTS[2:3])
        done = run(device, store, backbone, replace(QUICK, epochs=2))[1]
        assert done.resumed == 0
        assert [row.epoch for row in adapter_rows(store)] == [None]


def cut_off(home: Home, store: Store, backbone: Backbone) -> None:
    """Leave a training after its first epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edgecl.consolidation.run, "head_of_training", stop)
        with pytest.raises(Stopped):
            run(home, store, backbone, replace(QUICK, epochs=2))


def stop(*_: object, **__: object) -> None:
    raise Stopped


def test_a_damaged_state_of_a_training_is_begun_anew(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        cut_off(device, store, backbone)
        with store.transaction(changes_head=False):
            store.connection.execute("UPDATE adapters SET data = ?", (b"damaged",))
        done = run(device, store, backbone, replace(QUICK, epochs=2))[1]
        assert (done.resumed, done.epochs) == (0, 2)


def test_a_class_takes_the_training_that_saw_it_along(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:3])
        cut_off(device, store, backbone)
        learner = open_learner(device, store)
        done = forget(device, learner, ForgetRequest(build.PARTS[0]), verify=True)
        assert done.verified, done.faults
        assert adapter_rows(store) == []
        assert store.connection.execute("SELECT count(*) FROM adapters").fetchone() == (0,)


@pytest.mark.parametrize("place", ["head_of_training", "judge", "add_adapter", "end_training"])
def test_a_broken_off_consolidation_leaves_the_home_as_it_was(
    device: Home, backbone: Backbone, always: None, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        learner = open_learner(device, store)
        learner.settle()
        before = heads(learner)
        with monkeypatch.context() as patch:
            patch.setattr(edgecl.consolidation.run, place, stop)
            with pytest.raises(Stopped):
                run(device, store, backbone)
        assert task_adapters(store) == []
        assert equal(heads(open_learner(device, store)), before)
        assert run(device, store, backbone)[1].accepted


def test_what_cannot_be_consolidated_is_said(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        with pytest.raises(RequestError, match="nothing was learned since"):
            run(device, store, backbone)
        taught(device, store, build.PARTS[:1], 12)
        with pytest.raises(RequestError, match=r"classes: 1.* too few to train"):
            run(device, store, backbone)
        taught(device, store, build.PARTS[1:2], 12)
        run(device, store, backbone)
        with pytest.raises(RequestError, match="nothing was learned since"):
            run(device, store, backbone)
        taught(device, store, build.PARTS[2:3], 12)
        other = load_backbone(image_size=64, weights="random")
        with pytest.raises(IntegrityError, match="name the same weights"):
            run(device, store, other)
    with_settings(device, recipe="isolated", bank="all")
    with open_store(device) as store, pytest.raises(UsageError, match=r"reads the pictures of all"):
        run(device, store, backbone)
    with_settings(device, recipe="unheard-of", bank="last")
    with open_store(device) as store, pytest.raises(UsageError, match="expected one of plain, mos"):
        run(device, store, backbone)


def test_an_engine_without_adapter_inputs_refuses_adapters(home: Home, backbone: Backbone) -> None:
    with pytest.raises(FeatureMapError, match="takes no adapters"):
        home.engine().with_adapters({"adapter.blocks.3.0.up": np.zeros((80, 16), np.float32)})


def test_an_engine_of_another_backbone_is_refused(
    device: Home, backbone: Backbone, tmp_path: Path
) -> None:
    path = device.adapted_folder / "manifest.json"
    values = json.loads(path.read_text())
    from edgecl.runtime.manifest import Manifest

    other = replace(Manifest.from_json(values, path), weights_sha256="1" * 64)
    other.save(device.adapted_folder)
    with pytest.raises(IntegrityError, match="another backbone than the home's"):
        device.engine(takes_adapters=True)
    assert device.engine().num_features == device.manifest.num_features


def test_a_changed_adapter_is_found(device: Home, backbone: Backbone, always: None) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        run(device, store, backbone)
        (data,) = store.connection.execute("SELECT data FROM adapters").fetchone()
        changed = data[:-4] + bytes([data[-4] ^ 1, *data[-3:]])
        with store.transaction(changes_head=False):
            store.connection.execute("UPDATE adapters SET data = ?", (changed,))
        with pytest.raises(IntegrityError, match="was changed"):
            Session(device, store).served()


def test_forgetting_drops_every_adapter_that_saw_the_class_and_keeps_earlier_ones(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        run(device, store, backbone)
        taught(device, store, build.PARTS[2:])
        learner, _ = run(device, store, backbone)
        done = forget(device, learner, ForgetRequest(build.PARTS[3]), verify=True)
        assert done.verified, done.faults
        assert (done.mode, done.receipt.body["bit_exact"]) == ("exact_head", True)
        assert done.receipt.body["adapters"] == [2]
        assert [task.uid for task in task_adapters(store)] == [1]
        assert Session(device, store).served()[0].n_maps == 2
        done = forget(device, learner, ForgetRequest(build.PARTS[0]), verify=True)
        assert done.verified, done.faults
        assert done.receipt.body["adapters"] == [1]
        assert Session(device, store).served()[1] == ()
        # What is left equals, bit for bit, a home that only ever saw the two others.
        rest = Store(_twin(device))
        twin = open_learner(device, rest)
        teach(device, twin, device.engine(), frames(build.PARTS[1:3], 10))
        twin.settle()
        learner.settle()
        ours, never = heads(learner), heads(twin)
        assert all(np.array_equal(ours[part], never[part]) for part in ("weights", "bias"))
        rest.close()


def test_one_that_stands_alone_is_heard_beside_the_whole_one_before_it(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        run(device, store, backbone)
    with_settings(device, recipe="isolated")
    with open_store(device) as store:
        taught(device, store, build.PARTS[2:], 12)
        run(device, store, backbone)
        assert Session(device, store).served()[0].n_maps == 3


def test_a_residual_is_scaled_where_it_is_served_and_not_where_it_is_kept(
    device: Home, backbone: Backbone, always: None
) -> None:
    with_settings(device, recipe="depth-scaled")
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        run(device, store, backbone)
        (task,) = task_adapters(store)
        (served,) = Session(device, store).served()[1]
        sites = task.body["depths"]
        for site, factor in sites.items():
            for part in ("up", "up_bias"):
                name = f"adapter.{site}.{part}"
                assert np.array_equal(served[name], task.adapter[name] * np.float32(factor))
            name = f"adapter.{site}.down"
            assert np.array_equal(served[name], task.adapter[name])
        assert list(sites.values())[-1] == 1
        assert 0.5 <= min(sites.values()) < 1


def test_a_sample_that_only_judged_takes_the_adapter_along(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        judge = min(probe_of(store.stored_samples()))
        learner, _ = run(device, store, backbone)
        done = forget(device, learner, ForgetRequest(str(judge), kind="sample"))
        assert done.receipt.body["adapters"] == [1]


@pytest.mark.parametrize("recipe", ["isolated", "mixed"])
def test_of_adapters_that_stand_alone_forgetting_drops_one(
    device: Home, backbone: Backbone, always: None, recipe: str
) -> None:
    with_settings(device, recipe=recipe)
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2], 12)
        run(device, store, backbone)
        taught(device, store, build.PARTS[2:], 12)
        learner, _ = run(device, store, backbone)
        first, second = task_adapters(store)
        assert (first.body["parents"], second.body["parents"]) == ([], [])
        assert set(second.saw) == set(second.task)
        assert Session(device, store).served()[0].n_maps == 3  # both are heard
        done = forget(device, learner, ForgetRequest(build.PARTS[0]), verify=True)
        assert done.verified, done.faults
        (left,) = task_adapters(store)
        assert equal(left.adapter, second.adapter)
        assert (left.key is None) == (recipe == "isolated")
        assert left.key is None or np.array_equal(left.key, second.key)
        # What is left of its session waits for another.
        with pytest.raises(RequestError, match="classes: 1"):
            plan_of(Session(device, store))


def test_a_sample_takes_only_the_adapters_along_that_may_have_seen_it(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        run(device, store, backbone)
        taught(device, store, build.PARTS[:2], 2, start=40)
        newest = store.stored_samples()[-1][0]
        done = forget(
            device, open_learner(device, store), ForgetRequest(str(newest), kind="sample")
        )
        assert done.receipt.body["adapters"] == []
        done = forget(device, open_learner(device, store), ForgetRequest("3", kind="sample"))
        assert done.receipt.body["adapters"] == [1]
        assert done.receipt.body["bit_exact"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ssd", "gu", "gs-lora", "iau"])
def test_adapters_are_changed_in_place_when_asked_and_dropped_when_asked_again(
    device: Home, backbone: Backbone, always: None, method: str
) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        run(device, store, backbone)
        first = task_adapters(store)[0]
        taught(device, store, build.PARTS[2:])
        learner, _ = run(device, store, backbone)
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
        assert name not in repr(done.receipt)
        untouched, changed = task_adapters(store)
        assert equal(untouched.adapter, first.adapter)
        assert changed.body["unlearned"] == [{"class": uid, "method": method}]
        assert uid in changed.saw  # T(c) is not forgotten: it decides what is still to be dropped
        assert uid not in changed.classes  # its head names the class no more
        assert name not in Session(device, store).served()[0].labels
        rows = store.connection.execute("SELECT body FROM receipts ORDER BY number").fetchall()
        status = json.loads(rows[-1][0])["status"]
        assert status == ("approximate_failed" if done.faults else "verified")
        # The same again is the same receipt; an exact method makes it exact.
        request = ForgetRequest(name, adapter_method=method)
        assert forget(device, learner, request).mode == "already_forgotten"
        exact = forget(device, learner, ForgetRequest(name), verify=True)
        assert exact.verified, exact.faults
        assert (exact.mode, exact.receipt.body["adapters"]) == ("exact_head", [2])
        again = forget(device, learner, ForgetRequest(name))
        assert (again.mode, again.receipt) == ("already_forgotten", exact.receipt)
        assert [task.uid for task in task_adapters(store)] == [1]
        assert name not in store.names.values()


def test_an_approximate_request_that_cannot_be_run_is_refused_or_made_exact(
    device: Home, backbone: Backbone, always: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:3])
        learner, _ = run(device, store, backbone)
        request = ForgetRequest(build.PARTS[1], adapter_method="ssd")

        def no_torch(*_: object, **__: object) -> None:
            raise RequestError("torch is not installed")

        monkeypatch.setattr("edgecl.backbones.load_backbone_of", no_torch)
        with pytest.raises(RequestError, match="torch is not"):
            forget(device, learner, request)
        assert not store.has_requests()
        assert build.PARTS[1] in store.names.values()
        # Asked for by another process, nobody is there to choose another method: exact, at once.
        record(store, resolve(store, request), request, verify=False)
        (done,) = finish_requests(device, store, learner)
        assert (done.mode, done.verified) == ("exact_head", True)
        assert build.PARTS[1] not in store.names.values()


def _twin(device: Home) -> Path:
    from edgecl.store.store import create_store

    path = device.path / "twin.db"
    create_store(
        path,
        feature_map=device.manifest.feature_map,
        num_features=device.manifest.num_features,
        second_moment="full",
    )
    return path


def test_after_a_partial_forget_the_next_training_is_on_what_is_left(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:3])
        learner, _ = run(device, store, backbone)
        forget(device, learner, ForgetRequest(build.PARTS[0]))
        taught(device, store, build.PARTS[3:])
        _, done = run(device, store, backbone)
        (task,) = task_adapters(store)
        assert [store.names[c] for c in task.saw] == list(build.PARTS[1:])
        assert done.classes == build.PARTS[1:]


@pytest.mark.parametrize(("bank", "n_maps"), [("mean", 2), ("two", 3), ("all", 3)])
def test_a_bank_is_heard_as_published_also_after_more_was_learned(
    device: Home, backbone: Backbone, always: None, bank: str, n_maps: int
) -> None:
    with_settings(device, bank=bank, recipe="mos")
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        run(device, store, backbone)
        taught(device, store, build.PARTS[2:])
        run(device, store, backbone)
    predictor = open_predictor(device)
    assert predictor.scorer.n_maps == n_maps
    right = 0
    for frame in frames(build.PARTS, 3, start=100):
        (device.path / "one.jpg").write_bytes(frame.encoded or b"")
        right += predictor.predict(device.path / "one.jpg").label == frame.label
    assert right >= 11
    with open_store(device) as store:
        taught(device, store, build.PARTS[:1], 1, start=200)
        assert Session(device, store).served()[0].n_maps == n_maps


def test_due_counts_new_classes_since_the_last_attempt(device: Home, backbone: Backbone) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2], 1)
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
    assert len(probe_of([(uid, 1) for uid in range(5000)])) == 40
    assert probe_of([(uid, uid) for uid in range(99)]) == frozenset()  # never a class's last


@pytest.mark.parametrize("keeps", [True, False])
def test_mirror_images_are_views_only_where_the_home_names_them_right(
    device: Home, backbone: Backbone, always: None, keeps: bool
) -> None:
    """One part is the mirror image of the other, or both look the same in a mirror."""
    with open_store(device) as store:
        pictures = []
        for i in range(40):
            image = build.part_picture(build.PARTS[0], i)
            other = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            if keeps:
                other = build.part_picture(build.PARTS[1], i).rotate(90)
            for name, picture in (("left", image), ("right", other)):
                data = build.encode(picture)
                pictures.append(Frame(id=f"{name}/{i}", encoded=data, label=name))
        teach(device, open_learner(device, store), device.engine(), pictures)
        session = Session(device, store)
        witnesses = witnesses_of(session, plan_of(session))
        assert keeps_its_class_in_a_mirror(session, witnesses) is keeps


def test_samples_that_were_held_out_judge_as_well(
    device: Home, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.save_config(replace(device.config, evaluation=EvaluationConfig(probes=20)))
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2], 30)
        _, done = run(device, store, backbone)
        n_kept = len(probe_of(store.stored_samples()))
        (n_held,) = store.connection.execute("SELECT count(*) FROM held_out").fetchone()
        assert n_held > 2
        assert done.verdict.n == n_kept + n_held


def test_what_was_left_by_a_forget_is_consolidated_again(
    device: Home, backbone: Backbone, always: None
) -> None:
    """Forgetting a class of a later adapter never leaves one that a forgotten class shaped."""
    with open_store(device) as store:
        taught(device, store, build.PARTS[:3])
        learner, _ = run(device, store, backbone)
        forget(device, learner, ForgetRequest(build.PARTS[0]))
        learner, done = run(device, store, backbone)
        assert done.classes == build.PARTS[1:3]
        forgotten = forget(device, learner, ForgetRequest(build.PARTS[1]))
        assert forgotten.receipt.body["adapters"] == [done.adapter]


def test_a_class_without_a_kept_picture_is_known_to_the_exact_head_alone(
    device: Home, backbone: Backbone, always: None
) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:3])
        with store.transaction():
            uid = store.class_uid(build.PARTS[2])
            store.connection.execute(
                "UPDATE samples SET is_stored = 0 WHERE role = 'replay' AND class_uid = ?", (uid,)
            )
            store.connection.execute(
                "DELETE FROM pictures WHERE uid IN (SELECT uid FROM replay WHERE class_uid = ?)",
                (uid,),
            )
    with open_store(device) as store:
        learner, done = run(device, store, backbone)
        assert done.classes == build.PARTS[:2]
        assert len(learner.labels) == 3
        assert Session(device, store).served()[0].labels == learner.labels
        # The judgement, and so whether there is an adapter at all, depends on it as well.
        assert task_adapters(store)[0].saw[uid] == 0
        forgotten = forget(device, learner, ForgetRequest(build.PARTS[2]), verify=True)
        assert forgotten.verified, forgotten.faults
        assert task_adapters(store) == []


def test_a_failed_commit_leaves_head_and_store_together(
    device: Home, backbone: Backbone, always: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk full")

    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        learner = open_learner(device, store)
        learner.settle()
        before = heads(learner)
        monkeypatch.setattr(Store, "note_attempt", broken)
        with pytest.raises(OSError, match="disk full"):
            run(device, store, backbone)
        assert equal(heads(learner), before)
        assert task_adapters(store) == []


def test_undo_of_a_whole_class_takes_what_names_it_along(
    device: Home, backbone: Backbone, always: None
) -> None:
    from edgecl.learner import Lesson

    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        learner = open_learner(device, store)
        first = len(store.stored_samples())
        late = frames(build.PARTS[2:3], 6)
        x = device.engine().run(np.stack([build.tensor_of(device, frame) for frame in late]))
        reports = learner.learn_many(late, x)
        learner, _ = run(device, store, backbone)
        uid = store.class_uid(build.PARTS[2])
        rows = store.stored_rows()[0][first:]
        lessons = [Lesson(r.uid, uid, "", row) for r, row in zip(reports, rows, strict=True)]
        learner.undo(lessons)
        assert build.PARTS[2] not in store.names.values()
        assert task_adapters(store) == []
        assert Session(device, store).served()[0].labels == build.PARTS[:2]


def test_snapshots_bring_adapters_and_their_heads_back(
    device: Home, backbone: Backbone, always: None
) -> None:
    from edgecl import snapshots

    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        learner, _ = run(device, store, backbone)
        scorer, _ = Session(device, store).served()
        kept = snapshots.take(device, store)
        assert kept.adapters == (1,)
        taught(device, store, build.PARTS[2:])
        learner, _ = run(device, store, backbone)
        snapshots.rollback(device, learner, kept.uid)
        again, _ = Session(device, store).served()
        assert (again.labels, again.n_maps) == (scorer.labels, 2)
        assert equal(again.arrays(), scorer.arrays())


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
    assert made.adapter_rank == 16
    assert [p.name for p in sorted((home / "engine").iterdir())] == [
        "adapted",
        "backbone.onnx",
        "manifest.json",
        "pretrained.safetensors",
    ]
    assert {"share", "error_before", "error_after", "standard_error", "resumed"} <= set(done)
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
        "from edgecl.session import open_predictor; "
        "predictor = open_predictor(Home(Path(sys.argv[1]))); "
        "print(predictor.predict(sys.argv[2]).label, 'torch' in sys.modules)"
    )
    picture = folder / build.PARTS[1] / "003.jpg"
    out = subprocess.run(
        [sys.executable, "-c", code, home, picture], capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == [build.PARTS[1], "False"]


def test_a_damaged_kept_picture_is_named(device: Home, backbone: Backbone, always: None) -> None:
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
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
    train = edgecl.consolidation.train.train_adapter

    def diverged(*arguments: object, **options: object) -> object:
        trained = train(*arguments, **options)  # type: ignore[arg-type]
        broken = {name: np.full_like(x, np.nan) for name, x in trained.adapter.items()}
        return replace(trained, adapter=broken)

    monkeypatch.setattr(edgecl.consolidation.train, "train_adapter", diverged)
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
        with pytest.raises(RequestError, match="not finite; nothing was taken"):
            run(device, store, backbone)
        assert task_adapters(store) == []


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
    monkeypatch.setattr(edgecl.consolidation.train, "train_adapter", interrupted)
    with open_store(device) as store:
        taught(device, store, build.PARTS[:2])
    # A process in the background of a shell ignores Ctrl-C, and so would this one.
    before_interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        done = CliRunner().invoke(app, ["consolidate", "--home", str(device.path), "--json"])
    finally:
        signal.signal(signal.SIGINT, before_interrupt)
    assert done.exit_code == status
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "broken off; nothing half-done is served"
    assert signal.getsignal(signal.SIGTERM) == before
    with device.lock(), open_store(device) as store:
        assert task_adapters(store) == []
