"""The frozen map of --keys: exact, hashed, and no class in it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import build
from edgecl import mending
from edgecl.config import HeadConfig
from edgecl.errors import IntegrityError, ShapeError, UsageError
from edgecl.heads import HEADS, make_head, make_head_of
from edgecl.heads.codebook import make_codebook, make_whitening
from edgecl.heads.keys import picture_hash
from edgecl.heads.memory import RowMemory
from edgecl.heads.statistics import MappedSums
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.runtime.codebook import Codebook, Keys, load_keys
from edgecl.runtime.grid import quantise
from edgecl.runtime.manifest import Manifest
from edgecl.runtime.scoring import load_scorer
from edgecl.runtime.whitening import ROOT_GRID, WHITENED_GRID, Whitening, roots
from edgecl.store.erasure import erase
from edgecl.store.runs import Start
from edgecl.store.store import Store, create_store
from edgecl.types import ForgetRequest, Frame, Kind
from edgecl.unlearning.request import forget, writing

D, STAGES = 12, (3, 4, 5)
mapped_heads = pytest.mark.parametrize("head", ["key-value", "prototype"])


def unlabelled(n: int = 200, seed: int = 9) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(n, D)) @ np.random.default_rng(1).normal(size=(D, D))
    return np.abs(mixed).astype(np.float32)


def made(head: str) -> Keys:
    whitening = make_whitening(unlabelled(), STAGES, 6)
    if head == "prototype":
        return whitening
    return make_codebook(unlabelled(), whitening=whitening, n_codebooks=8, n_keys=16, width=4)


def test_roots_have_unit_norm_in_every_stage_and_keep_their_signs() -> None:
    x = quantise(np.array([[4, 0, 1, -9, 0, 16, 0, 0, 0, 0, 0, 0]], np.float32))
    found = roots(x, np.array(STAGES)) * ROOT_GRID
    wanted = [0.8**0.5, 0, 0.2**0.5, -0.6, 0, 0.8, *[0.0] * 6]
    assert np.allclose(found, wanted, atol=ROOT_GRID)


def test_the_map_whitens_what_made_it() -> None:
    x = unlabelled(500)
    values = make_whitening(x, STAGES, 6).map(quantise(x)) * WHITENED_GRID
    assert np.allclose(values.mean(axis=0), 0, atol=0.01)
    assert np.allclose(np.cov(values.T), np.eye(6), atol=0.02)
    with pytest.raises(ShapeError, match=r"expected \(N, 12\)"):
        make_whitening(x, STAGES, 6).map(x[:, 1:])


def test_few_or_equal_pictures_give_fewer_directions() -> None:
    assert make_whitening(unlabelled(20), STAGES, 6).width == 5
    flat = np.tile(unlabelled(2), (100, 1))
    assert make_whitening(flat, STAGES, 6).width == 1


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_mapped_values_are_whole_and_know_neither_batch_nor_order(seed: int, n: int) -> None:
    whitening = make_whitening(unlabelled(), STAGES, 6)
    x = quantise(np.random.default_rng(seed).normal(0, 3, (n, D)).astype(np.float32))
    whole = whitening.map(x)
    assert np.array_equal(whole, np.rint(whole))
    order = np.random.default_rng(seed + 1).permutation(n)
    assert np.array_equal(whitening.map(x[order]), whole[order])
    one = np.concatenate([whitening.map(x[i : i + 1]) for i in range(n)])
    assert np.array_equal(one, whole)
    total = MappedSums(D, whitening).of(x[order])
    assert np.array_equal(total.total, whole.sum(axis=0))
    assert total.is_exact


@mapped_heads
def test_the_digest_covers_every_part_of_the_map(head: str) -> None:
    keys = made(head)
    again = load_keys(keys.arrays())
    assert type(again) is type(keys)
    assert again.digest == keys.digest
    for name, array in keys.arrays().items():
        other = array.copy()
        other.flat[0] += 1
        if name == "stages":
            other.flat[1] -= 1
        assert load_keys(keys.arrays() | {name: other}).digest != keys.digest, name
    lacking = {k: v for k, v in keys.arrays().items() if k != "direction_unit"}
    with pytest.raises(IntegrityError, match="direction_unit"):
        load_keys(lacking)


def test_parts_of_a_map_must_fit() -> None:
    whitening = made("prototype")
    assert isinstance(whitening, Whitening)
    with pytest.raises(ShapeError, match="add up to D"):
        replace(whitening, stages=np.array([3, 4]))
    book = made("key-value")
    assert isinstance(book, Codebook)
    with pytest.raises(ShapeError, match="codebook"):
        replace(book, whitening=make_whitening(unlabelled(), STAGES, 3))


@mapped_heads
def test_a_forgotten_class_leaves_the_bits_of_never_seen(head: str, tmp_path: Path) -> None:
    keys, config = made(head), HeadConfig(head)
    scorers = []
    for classes in ((1, 2, 3), (1, 3)):
        options = {"second_moment": HEADS[head].statistic.name, "codebook": keys}
        with build.store(tmp_path / f"{len(classes)}.db", D, capacity_samples=20, **options) as s:
            assert s.statistic.keys is not None
            assert s.statistic.keys.digest == keys.digest
            learner = Learner(s, make_head_of(config, D, codebook=s.codebook))
            assert learner.head.is_exact
            x, y = build.features(600, D, 3)
            for c in classes:
                rows = x[y == c]
                learner.learn_many([build.frame(f"part-{c}", i) for i in range(len(rows))], rows)
            assert len(rows) > s.statistic.fold_limit
            if 2 in classes:
                uid = s.class_uid("part-2")
                with s.transaction():
                    learner.head.forget(uid, s)
                    erase(s, Kind.CLASS, uid)
            scorers.append(learner.head.scorer(s.names))
            again = Learner(s, make_head_of(config, D, codebook=s.codebook))
            build.assert_same(again.head.scorer(s.names), scorers[-1])
            learner.learn_one(build.frame("part-1", 999), x[0])
    build.assert_same(*scorers)
    back = load_scorer(scorers[0].arrays(), scorers[0].labels)
    assert np.array_equal(back.scores(x), scorers[0].scores(x))


@mapped_heads
def test_a_head_behind_a_map_knows_no_order_and_round_trips(head: str) -> None:
    keys, config = made(head), HeadConfig(head)
    x, y = build.features(120, D, 3)
    heads = [make_head_of(config, D, codebook=keys) for _ in range(3)]
    order = np.random.default_rng(4).permutation(120)
    heads[0].learn_many(x, y)
    for i in order:
        heads[1].learn_one(x[i], int(y[i]))
    memory = RowMemory(quantise(x), y, heads[0].statistic)
    heads[2].restore(memory.all_moments(), heads[0].state())
    scores = [h.predict_many(x)[:, np.argsort(h.classes)] for h in heads]
    assert np.array_equal(scores[0], scores[1])
    assert np.array_equal(scores[0], scores[2])
    guesses = np.sort(heads[0].classes)[scores[0].argmax(axis=1)]
    assert (guesses == y).mean() > 0.95


def test_statistics_of_a_mapped_class_are_small_and_checked(tmp_path: Path) -> None:
    whitening = made("prototype")
    statistic = MappedSums(D, whitening)
    moments = statistic.of(quantise(unlabelled(30)))
    total, second = statistic.pack(moments)
    assert len(total) + len(second) == 8 * 6
    assert np.array_equal(statistic.unpack(30, total, second).total, moments.total)
    for parts in ((total[:-8], second), (total, total)):
        with pytest.raises(IntegrityError, match="damaged"):
            statistic.unpack(30, *parts)


def test_a_map_is_kept_and_checked_and_goes_when_another_head_is_taken(tmp_path: Path) -> None:
    path, whitening = tmp_path / "s.db", made("prototype")
    with build.store(path, D, second_moment="diagonal", codebook=whitening) as store:
        digest = whitening.digest
        assert store.codebook is not None
        assert store.codebook.digest == digest
        with store.transaction():
            store.set_second_moment("full")
        assert (store.codebook, store.statistic.name) == (None, "full")
    with Store(path) as store:
        assert store.codebook is None
    with build.store(tmp_path / "t.db", D, second_moment="diagonal", codebook=whitening) as store:
        store.connection.execute("UPDATE fixed SET digest = ?", ("0" * 64,))
    with pytest.raises(IntegrityError, match="keys were changed"):
        Store(tmp_path / "t.db")


def test_relations_are_not_learned_behind_a_map() -> None:
    with pytest.raises(UsageError, match="map of --keys"):
        make_head("prototype", D, relation="samples", codebook=made("prototype"))


def test_a_manifest_names_stages_and_pictures_and_older_ones_are_read(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home")
    found = replace(home.manifest, stages=STAGES, keys=("ab" * 32,))
    values = found.as_json()
    assert Manifest.from_json(json.loads(json.dumps(values)), tmp_path) == found
    old = {k: v for k, v in values.items() if k not in ("stages", "keys")}
    assert Manifest.from_json(old, tmp_path) == home.manifest
    with pytest.raises(IntegrityError, match="do not add up"):
        Manifest.from_json(values | {"stages": [3, 4]}, tmp_path)


def test_a_picture_has_the_hash_of_its_file_or_of_its_pixels() -> None:
    data = build.frame("part", 1)
    assert picture_hash(data) == hashlib.sha256(data.encoded or b"").hexdigest()
    pixels = np.zeros((2, 4, 3), np.uint8)
    one, other = (Frame(id="a", pixels=p) for p in (pixels, pixels.reshape(4, 2, 3)))
    assert picture_hash(one) != picture_hash(other)


@pytest.mark.slow
@mapped_heads
def test_learning_a_picture_of_the_keys_is_said_once_a_class(head: str, tmp_path: Path) -> None:
    apart = build.part_folder(tmp_path / "apart", 20)
    home = tmp_path / "home"
    small = ("--image-size", 32, "--backbone", "test_efficientnet", "--weights", "random")
    build.run_edgecl("init", "--home", home, "--head", head, "--keys", apart, *small)
    manifest = Home(home).manifest
    files = sorted(apart.rglob("*.jpg"))
    assert set(manifest.keys) == {hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    assert sum(manifest.stages) == manifest.num_features
    assert len(manifest.stages) > 1
    text = (home / "engine" / "manifest.json").read_text()
    assert not [f for f in files if f.name in text or f.parent.name in text]
    # One class holds a picture that made the keys, the others do not.
    taught = tmp_path / "taught"
    for part in build.PARTS:
        (taught / part).mkdir(parents=True)
        for i, file in enumerate(sorted((apart / part).iterdir())):
            extra = b"" if part == build.PARTS[0] else b"\0"
            (taught / part / f"{i}.jpg").write_bytes(file.read_bytes() + extra)
    done = build.run_edgecl("train-stream", taught, "--home", home, "--json")
    told = [line for line in done.stderr.splitlines() if "pictures of --keys" in line]
    assert len(told) == 1
    assert f"learned as {build.PARTS[0]}" in told[0]
    forgot = build.run_edgecl("forget", "class", build.PARTS[1], "--home", home, "--verify")
    assert forgot.returncode == 0, forgot.stderr


@mapped_heads
@pytest.mark.parametrize("way", ["undo of the run", "forget its source"])
def test_what_is_summed_behind_a_map_is_taken_off(tmp_path: Path, head: str, way: str) -> None:
    # The sums of a run or source were added up as wide as plain features, which a map is not.
    home = build.tiny_home(tmp_path / "home", head, D)
    home.database.unlink()
    create_store(
        home.database,
        feature_map=home.manifest.feature_map,
        num_features=D,
        second_moment=HEADS[head].statistic.name,
        codebook=made(head),
    )
    x, y = build.features(500, D)
    frames = [replace(build.frame(f"part {c}", i), source="first") for i, c in enumerate(y)]
    with writing(home) as session:
        learner = session.learner
        learner.learn_many(frames[:200], x[:200])
        learner.settle()
        before = build.learned(learner.head)
        learner.begin(Start())
        learner.learn_many([replace(frame, source="second") for frame in frames[200:]], x[200:])
        rows = session.store.connection.execute("SELECT DISTINCT source_uid FROM class_stats")
        assert len(rows.fetchall()) == 2
        if way == "undo of the run":
            mending.undo(home, learner)
        else:
            forget(home, learner, ForgetRequest("second", kind=Kind.SOURCE))
        after = build.learned(learner.head)
    assert before.keys() == after.keys()
    assert all(np.array_equal(after[part], value) for part, value in before.items())
