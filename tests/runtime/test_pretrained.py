"""The classifier that the weights came with: guesses of what was never taught."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import build
from edgecl.cli.app import app
from edgecl.errors import IntegrityError
from edgecl.exporters.setup import Setup, set_up
from edgecl.exporters.shipped import DATA
from edgecl.home import Home
from edgecl.runtime.manifest import Manifest
from edgecl.runtime.preprocess import picture_of
from edgecl.runtime.pretrained import PRETRAINED_NAME, Pretrained, hint_json, load_pretrained
from edgecl.session import open_store
from edgecl.store.novel import offer
from edgecl.unlearning.request import writing


def small(f: int = 3, c: int = 4) -> Pretrained:
    rng = np.random.default_rng(0)
    names = tuple(f"thing {i}" for i in range(c))
    return Pretrained(
        rng.normal(size=(f, c)).astype(np.float16),
        rng.normal(size=c).astype(np.float32),
        names,
        "x",
    )


def test_guesses_are_the_softmax_of_the_last_block() -> None:
    pretrained = small()
    x = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    logits = x[:, 5:] @ pretrained.weights.astype(np.float32) + pretrained.offset
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row, guesses in zip(shares, pretrained.guesses(x, top=4), strict=True):
        assert [name for name, _ in guesses] == [f"thing {i}" for i in np.argsort(-row)]
        np.testing.assert_allclose([s for _, s in guesses], np.sort(row)[::-1], rtol=1e-5)
    assert hint_json(pretrained.guesses(x)[0])["hint"][0]["label"].startswith("thing ")
    assert hint_json(()) == {}


def test_what_is_written_is_read_and_always_the_same_bytes(tmp_path: Path) -> None:
    manifest = Manifest.load(DATA)
    found = load_pretrained(DATA, manifest)
    assert found is not None
    assert (len(found.labels), found.source) == (1000, "imagenet-1k")
    assert {"espresso", "tench", "crane (large long-necked wading bird)"} <= set(found.labels)
    assert found.as_bytes() == (DATA / PRETRAINED_NAME).read_bytes()


@pytest.mark.parametrize("damage", ["changed", "missing", "of others", "no names"])
def test_a_damaged_one_is_named(home: Home, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home.path / "engine"
    path = folder / PRETRAINED_NAME
    if damage == "missing":
        path.unlink()
    elif damage == "changed":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        from edgecl.exporters.onnx import add_pretrained

        wrong = small() if damage == "of others" else small(1280)
        if damage == "no names":
            monkeypatch.setattr(json, "dumps", lambda *_: '{"source": "x", "labels": [1, 2, 3, 4]}')
        manifest = add_pretrained(folder, home.manifest, wrong)
        monkeypatch.undo()
        manifest.save(folder)
    with pytest.raises(IntegrityError, match=PRETRAINED_NAME):
        Home(home.path).pretrained()


def test_a_home_has_it_unless_its_features_are_projected_or_its_weights_are_nobodys(
    home: Home, tmp_path: Path
) -> None:
    found = home.pretrained()
    assert found is not None
    x = home.engine().run(
        home.manifest.preprocessing.tensor(picture_of(build.part_frame("washer", 0)))[None]
    )
    ((guess,),) = found.guesses(x)
    assert guess[0] in found.labels
    assert 0 < guess[1] <= 1


def test_the_network_of_torch_gives_the_same_classifier() -> None:
    pytest.importorskip("torch", reason="a network needs torch")
    import torch

    from edgecl.backbones import load_backbone

    backbone = load_backbone(image_size=64)
    assert backbone.pretrained is not None
    assert backbone.pretrained.as_bytes() == (DATA / PRETRAINED_NAME).read_bytes()
    x = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        wanted = backbone.model.model(x).softmax(dim=1).max(dim=1)
    got = [row[0] for row in backbone.pretrained.guesses(backbone.run(x.numpy(), 1))]
    assert [name for name, _ in got] == [backbone.pretrained.labels[i] for i in wanted.indices]
    np.testing.assert_allclose([s for _, s in got], wanted.values.numpy(), atol=2e-3)
    assert load_backbone(image_size=64, features=32).pretrained is None
    assert load_backbone("resnet10t", weights="random", image_size=32).pretrained is None


def test_a_bundle_does_not_carry_it(
    taught_home: Path, copy_of: Callable[[Path], Path], tmp_path: Path
) -> None:
    home = copy_of(taught_home)
    build.run_edgecl("export", "onnx", "--home", home, "--output", tmp_path / "bundle")
    assert not (tmp_path / "bundle" / PRETRAINED_NAME).exists()
    assert json.loads((tmp_path / "bundle/manifest.json").read_text())["engine"]["pretrained"] == ""


def test_the_review_queue_says_what_a_frame_looks_like(
    taught_home: Path, copy_of: Callable[[Path], Path]
) -> None:
    home = Home(copy_of(taught_home))
    pretrained = home.pretrained()
    assert pretrained is not None
    x = np.zeros(home.manifest.num_features, np.float16)
    x[-1280:] = pretrained.weights[:, pretrained.labels.index("espresso")]
    with writing(home) as session, session.store.transaction(changes_head=False):
        offer(
            session.store, picture=b"p", x=x, guess=1, score=2.0, source="s", frame="f", time=1.0
        )  # fmt: skip
    arguments = ["review", "list", "--home", str(home.path)]
    said = CliRunner().invoke(app, [*arguments, "--json"]).stdout.splitlines()[-1]
    assert json.loads(said)["entries"][0]["hint"][0]["label"] == "espresso"
    assert "espresso" in CliRunner().invoke(app, arguments).stdout
    with open_store(home, read_only=True) as store:
        assert "espresso" not in store.names.values()


def test_a_home_of_before_has_none(home: Home) -> None:
    folder = home.path / "engine"
    values = json.loads((folder / "manifest.json").read_text())
    del values["pretrained"]
    (folder / "manifest.json").write_text(json.dumps(values))
    (folder / PRETRAINED_NAME).unlink()
    again = Home(home.path)
    assert again.pretrained() is None
    assert again.manifest.feature_map == home.manifest.feature_map


def test_homes_for_keys_and_without_taps_have_it(tmp_path: Path) -> None:
    home = set_up(tmp_path / "a", Setup(head="key-value", image_size=32, taps=()))
    assert home.pretrained() is not None
    shutil.rmtree(home.path)
