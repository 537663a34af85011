"""A head that is added here, as CONTRIBUTING says: one class and one line in the registry."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import build
from edgecl.config import HeadConfig
from edgecl.errors import ConfigError, UsageError
from edgecl.heads import HEADS, HeadSpec, head_config
from edgecl.heads.base import Head, Replay, State
from edgecl.heads.profile import PROFILES
from edgecl.heads.statistics import Diagonal, Moments
from edgecl.home import Home
from edgecl.runtime.mixture import load_served
from edgecl.runtime.scoring import LinearScorer
from edgecl.session import Session, open_learner, open_predictor, open_store
from edgecl.settings import load_config
from edgecl.types import Float16, Float32, ForgetRequest, Labels
from edgecl.unlearning.request import forget, writing

D = 12
PARTS = ("part-1", "part-2", "part-3")


class MeanHead(Head):
    """Nearest class mean: the class whose mean is nearest has the largest linear score."""

    name = "mean"

    def __init__(self, num_features: int, *, seed: int = 0, centre: str = "no") -> None:
        super().__init__(Diagonal(num_features))
        self.centre = centre
        self._moments: dict[int, Moments] = {}

    @property
    def classes(self) -> tuple[int, ...]:
        return tuple(self._moments)

    def learn_many(self, x: Float32 | Float16, y: Labels, replay: Replay | None = None) -> None:
        rows, y = self.checked(x, y)
        for uid in dict.fromkeys(y.tolist()):
            part = self.statistic.of(rows[y == uid])
            self._moments[uid] = self._moments.get(uid, self.statistic.empty()).plus(part)

    def restore(self, moments: Mapping[int, Moments], state: State | None) -> None:
        self._moments = dict(moments)

    def scorer(self, names: Mapping[int, str]) -> LinearScorer:
        means = np.array([m.total / m.n for m in self._moments.values()]).reshape(-1, D)
        labels = tuple(names[uid] for uid in self._moments)
        return LinearScorer(means.T, -np.square(means).sum(axis=1) / 2, labels, "logits")


# The one line.
SPEC = HeadSpec(__name__, "MeanHead", Diagonal, {"centre": ("no", "yes")})


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, "mean", SPEC)


def taught(path: Path, parts: tuple[str, ...] = PARTS) -> tuple[Home, np.ndarray, np.ndarray]:
    home = build.tiny_home(path, "mean", D)
    x, y = build.features(60, D, 3)
    named = np.array([f"part-{c}" for c in y])
    known = np.isin(named, parts)
    with writing(home) as session:
        store = session.store
        learner = open_learner(home, store)
        frames = [build.frame(label, i) for i, label in enumerate(named) if known[i]]
        learner.learn_many(frames, x[known])
        learner.settle()
    return home, x, named


def test_it_has_no_more_than_six_things_to_say() -> None:
    assert len(Head.__abstractmethods__) <= 6
    assert set(Head.__abstractmethods__) <= set(vars(MeanHead))


def test_it_learns_predicts_forgets_exactly_and_is_audited(tmp_path: Path) -> None:
    home, x, named = taught(tmp_path / "home")
    with open_store(home, read_only=True) as store, store.snapshot():
        scorer, _ = Session(home, store).served()
    assert scorer.labels == PARTS
    guessed = np.array(scorer.labels)[scorer.scores(x).argmax(axis=1)]
    assert (guessed == named).mean() > 0.95

    again = load_served(scorer.arrays(), scorer.labels)  # as a bundle keeps it
    assert np.array_equal(again.scores(x), scorer.scores(x))

    with writing(home) as session:
        store = session.store
        request = ForgetRequest("part-2")
        done = forget(home, open_learner(home, store), request, verify=True)
    assert done.verified, done.faults
    assert done.receipt.body["mode"] == "exact_head"
    assert done.receipt.body["bit_exact"]
    never, _, _ = taught(tmp_path / "never", ("part-1", "part-3"))
    with open_store(home) as ours, open_store(never) as theirs:
        a, b = (open_learner(h, s).head for h, s in ((home, ours), (never, theirs)))
        build.assert_same(
            a.scorer({uid: ours.names[uid] for uid in a.classes}),
            b.scorer({uid: theirs.names[uid] for uid in b.classes}),
        )


def test_its_option_is_its_constructors_and_is_checked_where_it_is_read(tmp_path: Path) -> None:
    assert head_config("mean").options == {"centre": "no"}
    with pytest.raises(UsageError, match="'maybe' is unknown; expected one of no, yes"):
        head_config("mean", centre="maybe")
    with pytest.raises(UsageError, match="centre is an option of mean, not of ridge"):
        head_config("ridge", centre="yes")
    home = build.tiny_home(tmp_path / "home", "mean", D)
    settings = home.settings.read_text()
    home.save_config(load_config(home.settings))
    assert home.settings.read_text() == settings
    home.settings.write_text(settings.replace('name = "mean"', 'name = "mean"\ncentre = "yes"'))
    with open_store(Home(home.path)) as store:
        assert open_learner(Home(home.path), store).head.centre == "yes"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ('name = "slda"', r"head.name = 'slda' is unknown; expected one of ridge, uer"),
        ('values = "many"', r"head.values = 'many' is unknown; expected one of counts, sgd"),
        ("profile = 3", r"head.profile = 3 is unknown; expected one of balanced"),
        ('centr = "yes"', r"unknown key in \[head\] 'centr'; did you mean 'centre'"),
        ("zzz = 1", r"unknown key in \[head\] 'zzz'; known: name, seed, profile"),
    ],
)
def test_settings_of_no_head_are_refused_when_the_home_is_opened(
    tmp_path: Path, given: str, told: str
) -> None:
    home = build.tiny_home(tmp_path / "home", "mean", D)
    home.settings.write_text(f"[head]\n{given}\n")
    with pytest.raises(ConfigError, match=told) as caught:
        open_predictor(Home(home.path))
    assert str(home.settings) in str(caught.value)


def test_options_of_other_heads_may_stand_in_the_settings(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home", "mean", D)
    home.settings.write_text('[head]\nname = "mean"\nprofile = "light"\nvalues = "sgd"\n')
    assert Home(home.path).config.head == HeadConfig(
        "mean", options={"profile": "light", "values": "sgd"}
    )
    open_store(Home(home.path)).close()


@pytest.mark.parametrize("name", list(HEADS))
def test_the_first_value_of_an_option_is_its_default(name: str) -> None:
    spec = HEADS[name]
    signature = inspect.signature(getattr(import_module(spec.module), spec.class_name))
    for option, values in spec.options.items():
        assert signature.parameters[option].default in (values[0], PROFILES.get(values[0]))
