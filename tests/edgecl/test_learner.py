"""The learner: test-then-train, one transaction a step, the same head whatever happened between."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import build
from edgecl.errors import IntegrityError, RequestError, UsageError
from edgecl.heads import HEADS, make_head
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.session import Session, open_learner, open_store
from edgecl.store.progress import Position
from edgecl.store.store import Store
from edgecl.types import Frame

D = 12
every_head = pytest.mark.parametrize("name", list(HEADS))


def new(path: Path, name: str, **options: int) -> Learner:
    store = build.store(path, D, second_moment=HEADS[name].statistic.name, **options)
    return Learner(store, make_head(name, D), seed=1)


def teach(learner: Learner, stop: int, step: int = 10, start: int = 0) -> None:
    x, y = build.features(200, D, 3)
    for i in range(start, stop, step):
        part = slice(i, min(i + step, stop))
        frames = [build.frame(f"part-{c}", i + k) for k, c in enumerate(y[part])]
        learner.learn_many(frames, x[part], position=("k", Position(part.stop, b"", False)))


@every_head
def test_predicts_before_it_learns(tmp_path: Path, name: str) -> None:
    learner = new(tmp_path / "s.db", name)
    x, _ = build.features(3, D, 1)
    first = learner.learn_one(build.frame("cup", 0), x[0])
    second = learner.learn_one(build.frame("cup", 1), x[1])
    third = learner.learn_one(build.frame("plate", 2), x[2])
    assert (first.predicted, first.is_correct, first.n_classes) == (None, False, 1)
    assert (second.predicted, second.is_correct) == ("cup", True)
    assert (third.predicted, third.is_correct, third.n_classes) == ("cup", False, 2)
    assert first.is_stored
    assert third.latency_ms > 0
    assert learner.labels == ("cup", "plate")
    learner.store.close()


@every_head
def test_a_failure_in_the_middle_of_a_step_takes_store_and_head_back(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = new(tmp_path / "s.db", name, capacity_samples=15)
    teach(learner, 30)
    x, _ = build.features(30, D, 3)
    learner.head.settle()  # as it comes back from the store
    before, dump = build.learned(learner.head), "\n".join(learner.store.connection.iterdump())

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    for place in ("set_position", "save_head" if name == "uer" else "set_position"):
        with monkeypatch.context() as patch:
            patch.setattr(learner.store, place, fail)
            with pytest.raises(OSError, match="no space"):
                learner.learn_many(
                    [build.frame("new", 99)], x[:1], position=("k", Position(99, b"", False))
                )
        after = build.learned(learner.head)
        assert all(np.array_equal(before[k], after[k]) for k in before)
        assert "\n".join(learner.store.connection.iterdump()) == dump
    learner.store.close()


@every_head
def test_interrupted_and_reopened_the_head_ends_bit_identical(tmp_path: Path, name: str) -> None:
    whole = new(tmp_path / "a.db", name, capacity_samples=15)
    teach(whole, 200)
    whole.settle()
    part = new(tmp_path / "b.db", name, capacity_samples=15)
    teach(part, 110)
    part.store.close()
    reopened = Learner(Store(tmp_path / "b.db", capacity_samples=15), make_head(name, D), seed=1)
    position = reopened.store.position("k")
    assert position is not None
    teach(reopened, 200, start=position.n)
    reopened.settle()
    names = whole.store.names
    a, b = whole.head.scorer(names), reopened.head.scorer(names)
    build.assert_same(a, b)
    rows = [learner.store.stored_rows()[0] for learner in (whole, reopened)]
    assert np.array_equal(rows[0], rows[1])
    whole.store.close()
    reopened.store.close()


def test_a_frame_without_a_label_is_refused(tmp_path: Path) -> None:
    learner = new(tmp_path / "s.db", "ridge")
    frame = Frame(id="x", pixels=np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UsageError, match="no label"):
        learner.learn_one(frame, np.zeros(D, np.float32))
    assert learner.store.step == 0
    learner.store.close()


def test_pictures_are_kept_as_they_came_or_shrunk(tmp_path: Path) -> None:
    large, small = build.part_picture("washer", 0, 200), build.part_picture("washer", 1, 40)
    for shrink_to, expected in ((None, 200), (64, 64)):
        store = build.store(tmp_path / f"{shrink_to}.db", D)
        learner = Learner(store, make_head("ridge", D), shrink_to=shrink_to)
        data = build.encode(small)
        for i, encoded in enumerate((build.encode(large), data)):
            learner.learn_one(
                Frame(id=str(i), encoded=encoded, label="washer"), np.zeros(D, np.float32)
            )
        pictures = [p for (p,) in store.connection.execute("SELECT data FROM pictures")]
        from edgecl.runtime.preprocess import decode

        assert decode(pictures[0]).size == (expected, expected)
        assert pictures[1] == data
        store.close()


def test_a_picture_whose_size_is_known_is_not_decoded_again(tmp_path: Path) -> None:
    picture = build.encode(build.part_picture("washer", 0, 50))
    frame = Frame(id="a", encoded=picture, label="washer")
    learner = Learner(build.store(tmp_path / "s.db", D), make_head("ridge", D), shrink_to=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgecl.learner.picture_of", lambda *_a, **_k: pytest.fail("decoded"))
        assert learner.encoded(replace(frame, side=50)) == picture
        assert learner.encoded(replace(frame, side=64)) == picture
        for side in (0, 65):
            with pytest.raises(pytest.fail.Exception, match="decoded"):
                learner.encoded(replace(frame, side=side))
    learner.store.close()


@every_head
def test_kept_weights_and_weights_built_anew_are_the_same(home: Home, name: str) -> None:
    build.change_head(home, name)
    with open_store(home) as store:
        learner = open_learner(home, store)
        d = store.num_features
        x, y = build.features(20, d, 3)
        learner.learn_many([build.frame(f"p-{c}", i) for i, c in enumerate(y)], x)
        learner.settle()
        kept = Session(home, store).exact_scorer()
        store.connection.execute("DELETE FROM head WHERE kind = 'scorer'")
        built = Session(home, store).exact_scorer()
        assert kept.labels == built.labels == learner.labels
        build.assert_same(kept, built)


def test_another_head_needs_a_home_that_learned_nothing(home: Home) -> None:
    with open_store(home) as store:
        learner = open_learner(home, store, head="uer")
        assert learner.head.name == "uer"
        assert home.config.head.name == "uer"
        learner.learn_one(build.frame("cup", 0), np.zeros(store.num_features, np.float32))
        with pytest.raises(RequestError, match="head uer"):
            open_learner(home, store, head="ridge")
    assert Home(home.path).config.head.name == "uer"


def test_settings_that_name_another_head_than_the_store_are_refused(home: Home) -> None:
    with open_store(home) as store:
        learner = open_learner(home, store)
        learner.learn_one(build.frame("cup", 0), np.zeros(store.num_features, np.float32))
    toml = home.path / "edgecl.toml"
    toml.write_text(toml.read_text().replace('name = "ridge"', 'name = "uer"'))
    changed = Home(home.path)
    with open_store(changed) as store:
        for use in (open_learner, lambda home, store: Session(home, store).exact_scorer()):
            with pytest.raises(IntegrityError, match="names the head uer"):
                use(changed, store)


@pytest.mark.parametrize("name", list(HEADS))
def test_weights_of_a_run_that_was_killed_are_built_anew_without_torch(
    home: Home, name: str
) -> None:
    build.change_head(home, name)
    with open_store(home) as store:
        learner = open_learner(home, store)
        x, y = build.features(20, store.num_features, 3)
        learner.learn_many([build.frame(f"p-{c}", i) for i, c in enumerate(y)], x)
    code = (
        "import sys; from pathlib import Path; from edgecl.home import Home; "
        "from edgecl.session import Session, open_store; home = Home(Path(sys.argv[1])); "
        "store = open_store(home, read_only=True); "
        "print(Session(home, store).exact_scorer().labels); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(home.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["('p-1', 'p-2', 'p-3')", "False"]


def test_a_learner_of_another_process_does_not_disturb_a_reader(home: Home) -> None:
    with open_store(home) as store:
        open_learner(home, store, head="uer")
    with open_store(home) as store, open_store(home, read_only=True) as reader:
        learner = open_learner(home, store)
        x, y = build.features(20, store.num_features, 3)
        learner.learn_many([build.frame(f"p-{c}", i) for i, c in enumerate(y)], x)
        assert Session(home, reader).exact_scorer().labels == ("p-1", "p-2", "p-3")
