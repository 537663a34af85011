"""Where adapters are mixed into the head, it is the mixture that is calibrated and judged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import build
from build import answer
from edgecl.calibration import FEWEST, mixture_of
from edgecl.config import EvaluationConfig
from edgecl.consolidation.opinions import ask_new, ask_opinions
from edgecl.governed import governed, take_back
from edgecl.governor.record import note_consolidated
from edgecl.governor.verdicts import verdicts_of
from edgecl.home import Home
from edgecl.runtime.predictor import Predictor
from edgecl.session import Session, open_store, reading
from edgecl.store.changes import changes_of
from edgecl.store.opinions import n_opinions
from edgecl.store.requests import record
from edgecl.store.table import Role
from edgecl.types import ForgetRequest
from edgecl.unlearning.plan import resolve
from edgecl.unlearning.request import forget, writing

PARTS = build.PARTS[:3]


def teach(session: Session, parts: tuple[str, ...], n: int, start: int = 0) -> None:
    frames = [build.part_frame(p, i) for i in range(start, start + n) for p in parts]
    x = session.engine.run(np.stack([build.tensor_of(session.home, f) for f in frames]))
    session.learner.learn_many(frames, x)


@pytest.fixture(scope="module")
def consolidated(adapted_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of three parts with a random adapter, as if it had been trained; copy it."""
    path = tmp_path_factory.mktemp("mixed") / "home"
    shutil.copytree(adapted_home, path)
    with writing(Home(path)) as session:
        store = session.store
        teach(session, PARTS, 40)
        session.learner.settle()
        with store.transaction(changes_head=False):
            uid = build.add_adapters(session.home, store, 1)
            note_consolidated(session.home, store, uid, (), 0.0)
            ask_new(session, uid)
    return path


@pytest.fixture
def home(consolidated: Path, copy_of: Callable[[Path], Path]) -> Home:
    return Home(copy_of(consolidated))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "washer.png"
    path.write_bytes(build.part_frame("washer", 77).encoded or b"")
    return path


def test_the_mixture_is_asked_for_what_no_adapter_was_trained_on(home: Home) -> None:
    with reading(home) as session:
        found = mixture_of(session.store, session.learner.head)
        held = session.store.rows(Role.HELD_OUT).uids.tolist()
        assert found is not None
        assert set(held) < set(found.uids.tolist())
        assert len(found.uids) >= FEWEST
        assert len(found.uids) < session.store.n_stored_samples / 3
        # What was kept of their answers is what is served: the engine says the same.
        scorer, adapters = session.served()
        engine = session.adapted_engine.with_adapters(*adapters)
        x = session.embed(engine, held, session.store.picture)
        said = scorer.scores(x)
    own = np.isin(found.uids, held)
    assert [session.store.names[c] for c in found.columns.tolist()] == list(scorer.labels)
    np.testing.assert_allclose(found.scores[own], said, atol=1e-5)
    # Of one that the head has learned it is the head without it that is mixed.
    np.testing.assert_allclose(found.scores.sum(axis=1), 1)


def test_predict_gives_probability_and_set_of_what_is_served(
    home: Home, picture: Path, tmp_path: Path
) -> None:
    line = answer("predict", picture, "--home", home.path, "--set", "0.9", "--unknown")
    with reading(home) as session:
        known = session.calibration()
        scorer, _ = session.served()
        predictor = session.predictor()
        _, x = predictor.embed(picture)
    assert known is not None
    assert known.of_shares
    assert known.labels == tuple(scorer.labels)
    chances = known.probabilities(scorer.scores(x))[0]
    assert line["probability"] == pytest.approx(float(chances.max()))
    assert line["set"] == [
        label
        for label, is_in in zip(known.labels, known.sets(chances[None], 0.9)[0], strict=True)
        if is_in
    ]
    assert {"unknown", "novelty"} <= set(line)
    answer("export", "onnx", "--home", home.path, "--output", tmp_path / "b", "--json")
    bundled = Predictor(tmp_path / "b").predict(picture, level=0.9)
    assert bundled.probability == pytest.approx(line["probability"], abs=1e-6)
    assert list(bundled.labels or ()) == line["set"]


def test_other_adapters_or_pictures_make_a_kept_calibration_void(home: Home) -> None:
    with writing(home) as session:
        before = session.calibration()
        with session.store.transaction(changes_head=False):
            session.store.connection.execute(
                "DELETE FROM opinions WHERE uid = (SELECT min(uid) FROM opinions)"
            )
        after = Session(home, session.store).calibration()
    assert before is not None
    assert after is not None
    assert len(after.targets) == len(before.targets) - 1


def test_a_change_is_judged_by_the_answers_of_the_mixture(home: Home) -> None:
    with writing(home) as session:
        before = verdicts_of(session.learner)
        mixed = mixture_of(session.store, session.learner.head)
        assert mixed is not None
        assert before.uids.tolist() == mixed.uids.tolist()
        assert before.right.tolist() == mixed.verdicts.tolist()
        with governed(session, "learn") as done:
            teach(session, PARTS, 20, 60)
    assert done.judgement is not None
    assert done.judgement.pairs.n == len(before.uids)
    with reading(home) as session:  # the new ones that judge were asked for at its end
        after = verdicts_of(session.learner)
        held = session.store.rows(Role.HELD_OUT).uids.tolist()
    assert set(before.uids.tolist()) < set(after.uids.tolist())
    assert set(held) <= set(after.uids.tolist())


def test_an_adapter_that_goes_takes_its_answers_along(home: Home) -> None:
    with writing(home) as session:
        change = [c for c in changes_of(session.store) if c.kind == "consolidate"][-1]
        assert n_opinions(session.store)
        take_back(session, change.uid)
        assert not n_opinions(session.store)
        known = session.calibration()
        assert known is not None
        assert not known.of_shares  # the head alone is served again, and judged
        assert len(verdicts_of(session.learner).uids) > session.store.n_stored_samples


def test_no_answer_stays_of_a_class_that_is_unlearned(home: Home) -> None:
    with writing(home) as session:
        forget(home, session.learner, ForgetRequest(PARTS[0], "asked"))
        assert not n_opinions(session.store)


def test_an_older_adapter_is_asked_for_new_pictures_only(home: Home) -> None:
    with writing(home) as session:
        with session.store.transaction(changes_head=False):
            session.store.connection.execute("DELETE FROM opinions")
        # It may have been trained on what is there.
        assert ask_opinions(session, session.learner) == 0
        assert session.calibration() is None
        teach(session, PARTS, 20, 60)
        assert ask_opinions(session, session.learner) >= 6
    with open_store(home, read_only=True) as store:
        (oldest,) = store.connection.execute("SELECT min(uid) FROM opinions").fetchone()
    assert oldest > 3 * 40


@pytest.mark.parametrize("probes", [20, 0])
def test_status_says_how_good_the_mixture_is(home: Home, probes: int) -> None:
    home.save_config(replace(home.config, evaluation=EvaluationConfig(probes=probes)))
    said = answer("status", "--home", home.path)
    assert said["calibration"]["by"] == "mixed"
    with reading(home) as session:
        mixed = mixture_of(session.store, session.learner.head)
        assert mixed is not None
        role = Role.HELD_OUT if probes else Role.REPLAY
        own = np.isin(mixed.uids, session.store.rows(role).uids)
    assert said["tested"] == own.sum()
    assert said["right"] == mixed.verdicts[own].sum()


def test_a_class_that_is_being_unlearned_is_in_none_of_it(home: Home) -> None:
    with writing(home) as session:
        whole = session.calibration()
        first = session.store.class_uid(PARTS[0])
        with session.store.transaction(changes_head=False):
            request = ForgetRequest(PARTS[0])
            record(session.store, resolve(session.store, request), request, verify=False)
        session.learner.settle(anew=True)  # kept while it is blocked
        assert session.store.blocked_classes() == {first}
        found, verdicts = session.calibration(), verdicts_of(session.learner)
        scorer, _ = session.served()
    assert whole is not None
    assert found is not None
    assert found.labels == tuple(scorer.labels) == tuple(PARTS[1:])
    others = whole.only(found.labels)
    assert found.targets.tolist() == others.targets.tolist()
    assert found.right.tolist() == others.right.tolist()
    assert first not in verdicts.classes
