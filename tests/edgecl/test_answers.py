"""What is said of a picture beside its prediction: why, and what was never taught."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import build
from build import answer, invoke
from edgecl import Device
from edgecl.answers import open_answers
from edgecl.errors import RequestError
from edgecl.explain import N_NEAREST, Explainer
from edgecl.home import Home
from edgecl.session import open_learner, reading
from edgecl.store.table import Role
from edgecl.types import ForgetRequest
from edgecl.unlearning.request import forget, writing


@pytest.fixture
def home(taught_home: Path, copy_of: Callable[[Path], Path]) -> Home:
    """A home that knows four parts."""
    return Home(copy_of(taught_home))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "washer.png"
    path.write_bytes(build.part_frame("washer", 77).encoded or b"")
    return path


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """Noise: nothing taught comes near."""
    path = tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path.write_bytes(build.encode(build.Image.fromarray(noise), "PNG"))
    return path


def test_the_nearest_kept_samples_are_named_with_their_class(home: Home, picture: Path) -> None:
    line = answer("predict", picture, "--home", home.path, "--explain")
    labels = [entry["label"] for entry in line["top"]][:2]
    assert list(line["why"]["nearest"]) == labels
    with reading(home) as session:
        _, x = session.predictor().embed(picture)
        uids, rows, classes = session.store.rows(Role.REPLAY)
        rows = rows.astype(np.float32)
        cosine = rows @ x[0] / (np.linalg.norm(rows, axis=1) * np.linalg.norm(x))
        for label in labels:
            own = np.flatnonzero(classes == session.store.class_uid(label))
            wanted = uids[own[np.argsort(-cosine[own])][:N_NEAREST]].tolist()
            nearest = line["why"]["nearest"][label]
            assert [one["uid"] for one in nearest] == wanted
            assert nearest[0]["similarity"] == pytest.approx(cosine[own].max(), abs=1e-4)
    assert line["why"]["speaks"] is None or line["why"]["speaks"]["by"] > 0
    text = invoke("predict", picture, "--home", home.path, "--explain").stdout
    assert f"nearest of {labels[0]}: " in text
    assert Device(home).answer(picture, explain=True)["why"] == line["why"]


def test_the_part_that_speaks_is_the_one_in_which_they_differ(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home")
    manifest = replace(home.manifest, taps=(2,), tap_pool="catavgmax", stages=(4, 4, 4))
    x = np.ones((6, 12), np.float32)
    x[:3, 4:8] += np.eye(4, dtype=np.float32)[0] * 3
    with writing(home) as session:
        learner = open_learner(home, session.store)
        learner.learn_many([build.frame(f"part-{i // 3}", i) for i in range(6)], x)
        learner.settle()
    with reading(home) as session:
        home.manifest = manifest
        why = Explainer(session).explain(x[0], ["part-0", "part-1"])
        assert why["speaks"]["part"] == "stage 2 (largest)"
        assert Explainer(session).explain(x[0], ["part-0"])["speaks"] is None
        assert Explainer(session).explain(x[0], ["part-0", "gone"])["nearest"]["gone"] == []


def test_nothing_of_a_forgotten_class_is_named(home: Home, picture: Path) -> None:
    uids = {
        one["uid"]
        for one in answer("predict", picture, "--home", home.path, "--explain")["why"]["nearest"][
            "washer"
        ]
    }
    with writing(home) as session:
        forget(home, session.learner, ForgetRequest("washer"))
    after = answer("predict", picture, "--home", home.path, "--explain")
    assert "washer" not in json.dumps(after["why"])
    named = {one["uid"] for found in after["why"]["nearest"].values() for one in found}
    assert not uids & named


def test_a_hint_is_what_the_weights_classifier_says(home: Home, picture: Path) -> None:
    line = answer("predict", picture, "--home", home.path, "--hint")
    pretrained = home.pretrained()
    assert pretrained is not None
    _, x = open_answers(home).predictor.embed(picture)
    assert line["hint"][0]["label"] == pretrained.guesses(x)[0][0][0]
    assert line["label"] == "washer"
    assert ", never taught" in invoke("predict", picture, "--home", home.path, "--hint").stdout


def test_what_was_never_taught_answers_where_nothing_taught_comes_near(
    home: Home, picture: Path, strange: Path
) -> None:
    before = answer("predict", strange, "--home", home.path, "--unknown")
    assert before["unknown"]
    home.save_config(replace(home.config, head=replace(home.config.head, pretrained=True)))
    line = answer("predict", strange, "--home", home.path)
    assert line["taught"] is False
    assert line["label"] == line["hint"][0]["label"]
    assert "probability" not in line
    assert line["top"] == before["top"]
    assert "never taught; most like" in invoke("predict", strange, "--home", home.path).stdout
    taught = answer("predict", picture, "--home", home.path)
    assert taught["label"] == "washer"
    assert "taught" not in taught
    assert Device(home).answer(strange)["taught"] is False


def test_a_stream_tells_what_was_never_taught_as_such(home: Home, tmp_path: Path) -> None:
    home.save_config(replace(home.config, head=replace(home.config.head, pretrained=True)))
    folder = tmp_path / "frames"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for i in range(8):
        pixels = noise.integers(0, 255, (64, 64, 3), np.uint8)
        (folder / f"{i}.png").write_bytes(build.encode(build.Image.fromarray(pixels), "PNG"))
    rows = "".join(json.dumps({"path": str(p)}) + "\n" for p in sorted(folder.iterdir()))
    done = build.run_edgecl(
        "train-stream", "-", "--home", home.path, "--events", "-", "--json", stdin=rows
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    events = [line for line in lines if line.get("event") == "class"]
    pretrained = home.pretrained()
    assert pretrained is not None
    assert events
    assert all(e["taught"] is False and e["label"] in pretrained.labels for e in events)


@pytest.mark.parametrize("option", ["--hint", "--explain"])
def test_a_bundle_says_that_it_cannot(
    home: Home, picture: Path, tmp_path: Path, option: str
) -> None:
    build.run_edgecl("export", "onnx", "--home", home.path, "--output", tmp_path / "bundle")
    with pytest.raises(RequestError, match="leave out --bundle"):
        invoke("predict", picture, "--bundle", tmp_path / "bundle", option)


def test_a_home_without_a_classifier_says_so(home: Home) -> None:
    home.manifest = replace(home.manifest, pretrained="")
    with pytest.raises(RequestError, match="leave out --hint"):
        open_answers(home, hint=True)
    home.config = replace(home.config, head=replace(home.config.head, pretrained=True))
    with pytest.raises(RequestError, match=r"head\.pretrained"):
        open_answers(home)
