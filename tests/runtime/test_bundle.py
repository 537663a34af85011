"""A bundle predicts exactly as its home does, needs nothing else, and is refused if changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import build
import edgecl
import edgecl.runtime
from edgecl.errors import IntegrityError, RequestError
from edgecl.exporters.bundle import export_bundle
from edgecl.heads import HEADS
from edgecl.home import Home
from edgecl.novelty import MIN_ROWS, open_novelty
from edgecl.runtime import Predictor
from edgecl.runtime.adapters import digest_of
from edgecl.runtime.bundle import BUNDLE_SCHEMA, manifest_text, open_bundle, read_manifest
from edgecl.runtime.preprocess import picture_of
from edgecl.session import Session, open_learner, open_predictor, open_store
from edgecl.store.store import Store
from edgecl.types import Frame

TAUGHT = build.PARTS[:3]


def teach(home: Home, n: int = 6) -> None:
    frames = [
        Frame(id=f"{p}/{i}", encoded=build.encode(build.part_picture(p, i)), label=p)
        for p in TAUGHT
        for i in range(n)
    ]
    tensor = home.manifest.preprocessing.tensor
    x = home.engine().run(np.stack([tensor(picture_of(frame)) for frame in frames]))
    with open_store(home) as store:
        learner = open_learner(home, store)
        learner.learn_many(frames, x)
        learner.settle()


def export(home: Home, output: Path) -> Path:
    with home.lock(), open_store(home) as store:
        with store.snapshot():
            scorer, adapters = Session(home, store).served()
        export_bundle(home, store, scorer, adapters, output)
    return output


def assert_predicts_as(home: Home, bundle: Path) -> None:
    ours, theirs = Predictor(bundle), open_predictor(home)
    build.assert_same(ours.scorer, theirs.scorer)
    for i in range(4):
        pixels = np.asarray(build.part_picture(build.PARTS[i], 90 + i))
        tensor = ours.preprocessing.tensor(picture_of(Frame(id="a", pixels=pixels)))[None]
        assert np.array_equal(ours.engine.run(tensor), theirs.engine.run(tensor))
        assert ours.predict(pixels) == theirs.predict(pixels)
    features = ours.engine.run(tensor)
    with open_store(home) as store:
        if len(store.stored_rows()[0]) >= MIN_ROWS:
            novelty = open_novelty(store, Session(home, store).learner.head)
            assert ours.novelty is not None
            assert np.array_equal(ours.novelty.scores(features), novelty.scores(features))
            assert ours.novelty.threshold == novelty.threshold


@pytest.fixture(scope="module")
def bundle(made_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that nobody changes."""
    place = tmp_path_factory.mktemp("bundle")
    shutil.copytree(made_home, place / "home")
    teach(Home(place / "home"))
    return export(Home(place / "home"), place / "bundle")


# The same as the home


@pytest.mark.parametrize("head", HEADS)
def test_a_bundle_predicts_bit_for_bit_as_its_home(head: str, home: Home, tmp_path: Path) -> None:
    build.change_head(home, head)
    teach(home)
    assert_predicts_as(home, export(home, tmp_path / "bundle"))


def test_a_projection_is_part_of_the_bundle(home: Home, tmp_path: Path) -> None:
    build.change_head(home, "prototype")
    config = replace(home.config, head=replace(home.config.head, options={"relation": "samples"}))
    home.save_config(config)
    teach(home)
    assert_predicts_as(home, export(home, tmp_path / "bundle"))


@pytest.mark.parametrize(("bank", "n_files"), [("last", 1), ("mean", 1), ("two", 2), ("all", 3)])
def test_adapters_and_their_heads_are_part_of_the_bundle(
    bank: str, n_files: int, adapted_home: Path, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    home = Home(copy_of(adapted_home))
    teach(home)
    plain = open_predictor(home).predict(np.asarray(build.part_picture("washer", 90)))
    build.adapt_home(home, 3, bank)
    bundle = export(home, tmp_path / "bundle")
    assert len(list(bundle.glob("adapter-*.safetensors"))) == n_files
    assert_predicts_as(home, bundle)
    found = open_bundle(bundle)
    assert found.values["adapters"] == [digest_of(a) for a in found.adapters]
    assert found.values["adapter_uids"] == [1, 2, 3]
    assert found.manifest.adapter_rank == home.adapter_rank
    assert Predictor(bundle).predict(np.asarray(build.part_picture("washer", 90))) != plain
    assert found.values["feature_map"] == home.manifest.feature_map


def test_of_two_bundles_the_older_one_predicts_as_it_did(
    adapted_home: Path, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    home = Home(copy_of(adapted_home))
    teach(home)
    older = export(home, tmp_path / "older")
    picture = np.asarray(build.part_picture("washer", 90))
    before = Predictor(older).predict(picture)
    build.adapt_home(home, 1)
    newer = export(home, tmp_path / "newer")
    assert Predictor(older).predict(picture) == before != Predictor(newer).predict(picture)
    assert Predictor(newer).engine.num_features == 2 * Predictor(older).engine.num_features


def test_the_manifest_says_what_the_bundle_holds(bundle: Path) -> None:
    home = Home(bundle.parent / "home")
    values = read_manifest(bundle)
    assert values["engine"] == json.loads(
        json.dumps(replace(home.manifest, pretrained="").as_json())
    )
    assert values["feature_map"] == home.manifest.feature_map
    assert (values["bundle"], values["version"]) == (BUNDLE_SCHEMA, 1)
    assert (values["kind"], values["precision"]) == ("onnx", "fp32")
    assert values["edgecl"] == edgecl.__version__
    assert [entry["name"] for entry in values["classes"]] == list(TAUGHT)
    with open_store(home, read_only=True) as store:
        assert {c["uid"]: c["name"] for c in values["classes"]} == dict(store.names)
    assert set(values["files"]) == {"backbone.onnx", "head.safetensors"}
    assert len(values["home"]) == 32
    assert home.key.hex()[:32] != values["home"]
    assert values["engine"]["weights_licence"] == home.manifest.weights_licence
    assert sorted(p.name for p in bundle.iterdir()) == sorted([*values["files"], "manifest.json"])


def test_no_picture_and_no_feature_leaves_the_home(bundle: Path) -> None:
    files = {path.name: path.read_bytes() for path in bundle.iterdir()}
    with open_store(Home(bundle.parent / "home"), read_only=True) as store:
        rows, _ = store.stored_rows()
        assert len(rows) == 18
        needles = [store.picture(uid)[-60:] for uid, _ in store.stored_samples()]
        for row in rows:
            half = len(row) // 2
            needles += [row[half : half + 64].tobytes()]
            needles += [row[half : half + 64].astype(t).tobytes() for t in (np.float32, np.float64)]
        needles.append(Home(bundle.parent / "home").key)
    for name, data in files.items():
        assert not any(needle in data for needle in needles), name


def test_the_public_name_is_loaded_on_first_use() -> None:
    assert edgecl.runtime.Predictor is edgecl.Predictor is Predictor
    with pytest.raises(AttributeError, match="nonsense"):
        _ = edgecl.runtime.nonsense  # type: ignore[attr-defined]


# What is refused


def _copy(bundle: Path, place: Path) -> Path:
    place.mkdir()
    for path in bundle.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    return place


@pytest.mark.parametrize("name", ["backbone.onnx", "head.safetensors", "manifest.json"])
@pytest.mark.parametrize("where", [0.0, 0.37, 0.99])
def test_one_changed_byte_is_refused_with_the_name_of_its_file(
    name: str, where: float, bundle: Path, tmp_path: Path
) -> None:
    path = _copy(bundle, tmp_path / "copy") / name
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=name.replace(".", r"\.")) as caught:
        Predictor(path.parent)
    assert caught.value.exit_code == 4
    assert len(str(caught.value).splitlines()) == 1


def test_every_byte_of_the_manifest_counts(bundle: Path, tmp_path: Path) -> None:
    path = _copy(bundle, tmp_path / "copy") / "manifest.json"
    data = path.read_bytes()
    for i in range(0, len(data), 7):
        path.write_bytes(data[:i] + bytes([data[i] ^ 2]) + data[i + 1 :])
        with pytest.raises(IntegrityError, match=r"manifest\.json"):
            read_manifest(path.parent)
    path.write_bytes(data + b" ")
    with pytest.raises(IntegrityError, match="was changed"):
        read_manifest(path.parent)


@pytest.mark.parametrize("name", ["backbone.onnx", "head.safetensors", "manifest.json"])
def test_a_missing_file_is_named(name: str, bundle: Path, tmp_path: Path) -> None:
    copy = _copy(bundle, tmp_path / "copy")
    (copy / name).unlink()
    with pytest.raises(IntegrityError, match=name):
        Predictor(copy)


def test_a_file_that_is_not_listed_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = _copy(bundle, tmp_path / "copy")
    (copy / "adapter-1.safetensors").write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"adapter-1\.safetensors is not listed"):
        Predictor(copy)


def test_no_folder_is_a_request_that_cannot_be_done(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="edgecl export onnx --output"):
        Predictor(tmp_path / "nowhere")


def _change(folder: Path, **values: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(manifest_text(json.loads(path.read_text()) | values))


def test_a_newer_schema_asks_for_an_upgrade(bundle: Path, tmp_path: Path) -> None:
    copy = _copy(bundle, tmp_path / "copy")
    _change(copy, bundle=BUNDLE_SCHEMA + 1)
    with pytest.raises(IntegrityError, match="upgrade edgecl"):
        Predictor(copy)
    _change(copy, bundle=BUNDLE_SCHEMA)
    assert Predictor(copy).scorer.labels == TAUGHT
    engine = read_manifest(copy)["engine"]
    _change(copy, engine=engine | {"schema": 99})
    with pytest.raises(IntegrityError, match="upgrade edgecl"):
        Predictor(copy)


@pytest.mark.parametrize("key", ["files", "engine", "classes", "adapters"])
def test_an_incomplete_manifest_is_refused(key: str, bundle: Path, tmp_path: Path) -> None:
    copy = _copy(bundle, tmp_path / "copy")
    values = read_manifest(copy)
    del values[key]
    (copy / "manifest.json").write_text(manifest_text(values))
    with pytest.raises(IntegrityError, match="incomplete"):
        Predictor(copy)


def test_a_manifest_cannot_name_files_outside_its_folder(bundle: Path, tmp_path: Path) -> None:
    copy = _copy(bundle, tmp_path / "copy")
    values = read_manifest(copy)
    (tmp_path / "other.safetensors").write_bytes((copy / "head.safetensors").read_bytes())
    files = values["files"] | {"../other.safetensors": values["files"]["head.safetensors"]}
    _change(copy, files=files)
    with pytest.raises(IntegrityError, match="is missing"):
        Predictor(copy)


# What it needs

ALONE = """
import sys
blocked = ("torch", "torchvision", "timm", "sqlite3", "sqlite_utils", "scipy", "cryptography",
           "typer", "rich", "onnx", "sklearn")
for name in blocked:
    sys.modules[name] = None
from edgecl.runtime import Predictor
predictor = Predictor(sys.argv[1])
guess = predictor.predict(sys.argv[2], top=1)
print(guess.label, repr(guess.score))
"""


def test_a_device_needs_numpy_pillow_safetensors_and_onnxruntime_only(
    bundle: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(build.encode(build.part_picture("washer", 99)))
    (tmp_path / "moved").mkdir()
    copy = _copy(bundle, tmp_path / "moved" / "bundle")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, copy, picture],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    expected = open_predictor(Home(bundle.parent / "home")).predict(picture)
    assert done.stderr == ""
    assert done.stdout.split() == [expected.label, repr(expected.score)]


COMMAND = """
import sys
for name in ("torch", "torchvision", "timm", "scipy", "cryptography", "sqlite_utils", "sklearn"):
    sys.modules[name] = None
from edgecl.cli import main
sys.argv = ["edgecl", "predict", sys.argv[2], "--bundle", sys.argv[1], "--json"]
main()
"""


def test_the_command_that_predicts_needs_only_typer_beside_that(
    bundle: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(build.encode(build.part_picture("washer", 99)))
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, bundle, picture],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert json.loads(done.stdout)["label"] == Predictor(bundle).predict(picture).label


# Writing


def test_a_place_with_other_things_is_refused_and_left_alone(home: Home, tmp_path: Path) -> None:
    teach(home, 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo.jpg").write_bytes(b"mine")
    (tmp_path / "file").write_bytes(b"mine")
    for place in (tmp_path / "full", tmp_path / "file", home.path, home.path / "engine"):
        with pytest.raises(RequestError, match="no bundle of this home"):
            export(home, place)
    assert (tmp_path / "full" / "photo.jpg").read_bytes() == b"mine"
    bundle = export(home, tmp_path / "bundle")
    (bundle / "notes.txt").write_text("mine")
    with pytest.raises(RequestError, match=r"also holds notes\.txt"):
        export(home, bundle)
    assert (bundle / "notes.txt").read_text() == "mine"
    (bundle / "notes.txt").unlink()
    (tmp_path / "empty").mkdir()
    assert read_manifest(export(home, tmp_path / "empty"))["version"] == 2
    assert read_manifest(export(home, bundle))["version"] == 3
    with open_store(home, read_only=True) as store:
        assert _statuses(store) == ["replaced", "fresh", "fresh"]


def test_a_bundle_of_another_home_is_refused(bundle: Path, home: Home, tmp_path: Path) -> None:
    teach(home, 1)
    (home.path / "device.key").write_bytes(bytes(32))
    copy = _copy(bundle, tmp_path / "copy")
    with pytest.raises(RequestError, match="no bundle of this home"):
        export(Home(home.path), copy)


def test_a_failed_export_leaves_the_old_bundle_and_no_trace(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(home, 1)
    bundle = export(home, tmp_path / "bundle")
    before = {p.name: p.read_bytes() for p in bundle.iterdir()}

    def full(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("edgecl.exporters.bundle.open_bundle", full)
        with pytest.raises(RequestError, match="disk full"):
            export(home, bundle)
    assert {p.name: p.read_bytes() for p in bundle.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "home"]
    with open_store(home, read_only=True) as store:
        assert _statuses(store) == ["fresh"]


def _statuses(store: Store) -> list[str]:
    from edgecl.store.exports import exports_of

    return [export.status for export in exports_of(store)]
