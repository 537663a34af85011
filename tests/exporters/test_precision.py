"""Bundles at fp16 and int8: faithful or refused, with a head of their own, revoked like others."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import build
import edgecl.exporters.precision as module
from edgecl.errors import ParityError, RequestError, SourceError, UsageError
from edgecl.exporters.bundle import Exported, export_bundle
from edgecl.exporters.parity import best_labels
from edgecl.exporters.precision import Options
from edgecl.exporters.resolve import Verdict, corrected
from edgecl.home import Home
from edgecl.runtime import Predictor
from edgecl.runtime.bundle import open_bundle, read_manifest
from edgecl.runtime.scoring import LinearScorer
from edgecl.session import Session, open_learner, open_predictor, open_store
from edgecl.store.erasure import erase
from edgecl.store.exports import exports_of, holding, mark_stale, revoke
from edgecl.types import Kind

INT8 = Options("int8", fused=True)


def export(home: Path, output: Path, options: Options) -> Exported:
    device = Home(home)
    with device.lock(), open_store(device) as store:
        with store.snapshot():
            scorer, adapters = Session(device, store).served()
        return export_bundle(device, store, scorer, adapters, output, options)


def unlearn(home: Path, name: str) -> list[str]:
    device = Home(home)
    with device.lock(), open_store(device) as store:
        learner = open_learner(device, store)
        uid = store.class_uid(name)
        stale = holding(store, [uid], [])
        with store.transaction():
            learner.head.forget(uid, store)
            erase(store, Kind.CLASS, uid)
            mark_stale(store, [e.uid for e in stale], "r1")
        return [revoke(e, "r1") for e in stale]


@pytest.fixture(scope="module")
def int8(taught_home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    """A home with an int8 bundle beside it; nobody changes either."""
    place = tmp_path_factory.mktemp("int8")
    shutil.copytree(taught_home, place / "home")
    return place, export(place / "home", place / "bundle", INT8)


def accuracy_of(bundle: Path) -> float:
    predictor = Predictor(bundle, provider="cpu")
    pictures = [(p, np.asarray(build.part_picture(p, i))) for p in build.PARTS for i in (80, 81)]
    return float(np.mean([predictor.predict(pixels).label == p for p, pixels in pictures]))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_adapter_and_its_head_are_served_at_every_precision_and_fused(
    adapted_home: Path, copy_of: Callable[[Path], Path], tmp_path: Path, precision: str
) -> None:
    home = Home(copy_of(adapted_home))
    pictures = [build.part_frame(p, i) for p in build.PARTS for i in range(20)]
    with open_store(home) as store:
        learner = open_learner(home, store)
        x = home.engine().run(np.stack([build.tensor_of(home, frame) for frame in pictures]))
        learner.learn_many(pictures, x)
        learner.settle()
    build.adapt_home(home, 1)
    bundle = tmp_path / "bundle"
    done = export(home.path, bundle, Options(precision, fused=True, allow_parity_loss=True))
    assert done.report["fused"]["agreement"] >= 0.97
    ours, theirs = Predictor(bundle, provider="cpu"), open_predictor(home)
    assert ours.scorer.n_maps == 2
    same = 0
    for frame in (build.part_frame(p, i) for p in build.PARTS for i in range(80, 86)):
        pixels = np.asarray(Image.open(io.BytesIO(frame.encoded or b"")))
        same += ours.predict(pixels).label == theirs.predict(pixels).label
    # Random heads decide by little, and int8 moves features.
    assert same >= (18 if precision == "int8" else 24)


def test_an_int8_bundle_is_small_and_predicts(int8: tuple[Path, Exported]) -> None:
    place, done = int8
    bundle = place / "bundle"
    engine = bundle / "backbone.int8-cpu.onnx"
    # A quarter, and the nodes that stay float32 to be within the limit.
    assert engine.stat().st_size < 0.5 * (place / "home/engine/backbone.onnx").stat().st_size
    assert accuracy_of(bundle) == 1.0
    values = read_manifest(bundle)
    parity = values["engine"]["parity"]
    assert values["precision"] == "int8"
    assert values["engine"]["precision"] == "int8-cpu"
    assert set(parity) == {"max_abs", "mean_abs", "cosine", "n", "agreement", "rms"}
    assert parity["n"] >= 256
    assert parity["agreement"] >= 0.97
    assert parity["cosine"] < 0.99999  # it is another map
    assert set(values["report"]["accuracy"]) == {"fp32", "before", "after", "n"}
    assert values["report"] == done.report
    for file in (engine, bundle / "fused.onnx"):
        onnx.checker.check_model(str(file), full_check=True)


def test_its_feature_map_is_its_own(int8: tuple[Path, Exported]) -> None:
    place, done = int8
    home = Home(place / "home")
    values = read_manifest(place / "bundle")
    assert values["feature_map"] == done.export.feature_map == done.manifest.feature_map
    assert done.manifest.feature_map != home.manifest.feature_map
    assert open_bundle(place / "bundle").manifest == done.manifest


def test_its_head_is_fitted_to_its_features(int8: tuple[Path, Exported]) -> None:
    place, done = int8
    home = Home(place / "home")
    with open_store(home, read_only=True) as store, store.snapshot():
        scorer, _ = Session(home, store).served()
    assert done.report["head"] in ("resolved", "corrected")
    ours = open_bundle(place / "bundle").scorer
    assert ours.labels == scorer.labels
    assert not np.array_equal(ours.arrays()["weights"], scorer.arrays()["weights"])


def test_the_fused_file_scores_as_the_bundle(int8: tuple[Path, Exported]) -> None:
    place, done = int8
    assert done.report["fused"]["agreement"] >= 0.97
    assert done.report["fused"]["n"] == 256
    predictor = Predictor(place / "bundle", provider="cpu")
    session, _ = module.open_session((place / "bundle/fused.onnx").read_bytes(), "cpu", 1, False)
    for part in build.PARTS:
        pixels = np.asarray(build.part_picture(part, 90))
        (scores,) = session.run(None, {"picture": pixels[None]})
        assert predictor.scorer.labels[int(scores[0].argmax())] == part


@pytest.mark.slow
def test_a_forgotten_class_takes_the_calibrated_engine_with_it(
    int8: tuple[Path, Exported], copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    home = copy_of(int8[0] / "home")
    done = export(home, tmp_path / "bundle", INT8)
    with open_store(Home(home), read_only=True) as store:
        assert set(done.export.classes) == set(store.names)
    assert unlearn(home, build.PARTS[1])[-1:] == ["erased"]
    assert [p.name for p in (tmp_path / "bundle").iterdir()] == ["manifest.json"]
    result = build.last_json(
        build.run_edgecl("export", "--rebuild-stale", "--home", home, "--json")
    )
    assert [e["path"] for e in result["rebuilt"]][-1:] == [str(tmp_path / "bundle")]
    names = {p.name for p in (tmp_path / "bundle").iterdir()}
    assert {"backbone.int8-cpu.onnx", "fused.onnx"} <= names
    assert build.PARTS[1] not in Predictor(tmp_path / "bundle").scorer.labels
    with open_store(Home(home), read_only=True) as store:
        assert exports_of(store)[-1].body["precision"] == "int8"


def test_the_command_line_reports_fp16(
    taught_home: Path, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    home = copy_of(taught_home)
    words = ("--precision", "fp16", "--fused", "--home", home, "--json")
    result = build.last_json(
        build.run_edgecl("export", "onnx", "--output", tmp_path / "bundle", *words)
    )
    assert result["precision"] == "fp16"
    assert result["parity"]["cosine"] >= 0.9995
    assert result["parity"]["agreement"] >= 0.99
    assert result["parity"]["n"] == 256
    assert result["fused"]["agreement"] >= 0.97
    assert result["feature_map"] != Home(home).manifest.feature_map
    assert (tmp_path / "bundle/backbone.fp16.onnx").stat().st_size < 7.5e6
    assert accuracy_of(tmp_path / "bundle") == 1.0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--precision", "fp8"), "expected fp32, fp16, int8"),
        (("--precision", "int8", "--recipe", "arm"), "expected cpu, trt"),
        (("--recipe", "trt"), "belong to int8"),
        (("--precision", "fp16", "--calibration", "."), "belong to int8"),
    ],
)
def test_options_that_do_not_fit_are_a_usage_error(words: tuple[str, ...], told: str) -> None:
    given = dict(zip(words[::2], words[1::2], strict=True))
    with pytest.raises(UsageError, match=told):
        Options(
            given.get("--precision", "fp32"),
            given.get("--recipe"),
            calibration=Path(given["--calibration"]) if "--calibration" in given else None,
        )


def test_beyond_the_limit_nothing_is_written_unless_one_insists(
    taught_home: Path,
    copy_of: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = copy_of(taught_home)
    monkeypatch.setattr(module, "LEAST_COSINE_FP16", 1.01)
    with pytest.raises(ParityError, match="--allow-parity-loss") as caught:
        export(home, tmp_path / "bundle", Options("fp16"))
    assert caught.value.exit_code == 4
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]
    done = export(home, tmp_path / "bundle", Options("fp16", allow_parity_loss=True))
    assert done.manifest.parity["cosine"] < 1.01
    assert done.export.body["allow_parity_loss"] is True
    open_bundle(tmp_path / "bundle")


@pytest.mark.slow
def test_the_worst_nodes_go_back_to_float32_until_it_fits(
    taught_home: Path,
    copy_of: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verdicts = [
        Verdict("learned", share, {"fp32": 1.0, "before": 1.0, "after": 1.0, "n": 8.0})
        for share in (0.5, 0.9, 0.98)
    ]
    model = onnx.load(str(taught_home / "engine/backbone.onnx"))
    convs = [node.name for node in model.graph.node if node.op_type == "Conv"]
    monkeypatch.setattr(module, "choose", lambda *_: verdicts.pop(0))
    monkeypatch.setattr(module, "worst_nodes", lambda *_: convs)
    done = export(copy_of(taught_home), tmp_path / "bundle", Options("int8", recipe="trt"))
    assert done.report["nodes_fp32"] == convs[: round(0.1 * len(convs))]
    assert done.report["recipe"] == "trt"
    made = onnx.load(str(tmp_path / "bundle/backbone.int8-trt.onnx"))
    kept = {t.name for t in made.graph.initializer}
    taken = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    n_excluded = len(done.report["nodes_fp32"])
    assert [name in kept for name in taken] == [i < n_excluded for i in range(len(taken))]


def test_pictures_of_a_folder_calibrate_instead_of_kept_ones(
    taught_home: Path,
    copy_of: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = copy_of(taught_home)
    # Who insists gets every node in int8, and no search for the worst.
    monkeypatch.setattr(module, "LEAST_AGREEMENT_INT8", 1.01)
    folder = build.part_folder(tmp_path / "pictures", 3, start=40)
    (folder / "washer" / "broken.jpg").write_bytes(b"no picture")
    options = Options("int8", calibration=folder, allow_parity_loss=True)
    done = export(home, tmp_path / "bundle", options)
    assert done.report["nodes_fp32"] == []
    assert accuracy_of(tmp_path / "bundle") == 1.0
    assert done.export.body["calibration"] == str(folder)
    with pytest.raises(SourceError):
        export(home, tmp_path / "other", Options("int8", calibration=tmp_path / "nowhere"))


def test_what_is_not_kept_cannot_become_int8(
    taught_home: Path, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    home = copy_of(taught_home)
    with open_store(Home(home)) as store:
        (uid,) = (u for u, name in store.names.items() if name == build.PARTS[0])
        with store.transaction():
            for sample, c in store.stored_samples():
                if c == uid:
                    store.connection.execute("DELETE FROM samples WHERE uid = ?", (sample,))
    with pytest.raises(RequestError, match=f"no picture of {build.PARTS[0]} is kept"):
        export(home, tmp_path / "bundle", Options("int8"))


def test_a_correction_brings_scores_to_those_of_the_home() -> None:
    rng = np.random.default_rng(0)
    x, _ = build.features(400, 20, 4)
    x += rng.normal(0, 0.6, x.shape).astype(np.float32)
    names = ("a", "b", "c", "d")
    home = LinearScorer(rng.normal(size=(20, 4)), rng.normal(size=4), names, "logits")
    other = (x @ (np.eye(20) + rng.normal(0, 0.05, (20, 20))) + 0.1).astype(np.float32)
    fitted = corrected(home, other[:200], home.scores(x[:200]))
    wanted = best_labels(home, x[200:])
    before = (best_labels(home, other[200:]) == wanted).mean()
    after = (best_labels(fitted, other[200:]) == wanted).mean()
    assert after > before
    few = corrected(home, other[:2], home.scores(x[:2]))  # fewer than features
    assert np.isfinite(few.weights).all()
    same = corrected(home, x[:200], home.scores(x[:200]))
    assert np.allclose(same.weights, home.weights, atol=1e-9)


def test_the_registry_keeps_what_a_bundle_was_made_with(int8: tuple[Path, Exported]) -> None:
    body = json.loads(json.dumps(int8[1].export.body))
    assert Options.from_json(body) == INT8
    assert Options.from_json({"precision": "fp32", "replaces": None}) == Options()
