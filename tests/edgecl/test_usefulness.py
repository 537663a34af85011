"""What to name next: frames in doubt, new, and unlike those that were named or chosen before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import build
from edgecl.cli.app import app
from edgecl.figures import percent
from edgecl.home import Home
from edgecl.runtime.grid import quantise
from edgecl.session import open_learner, reading
from edgecl.store.novel import entries, offer
from edgecl.store.store import Store
from edgecl.types import ForgetRequest
from edgecl.unlearning.request import forget, writing
from edgecl.usefulness import by_usefulness, useful_entries

NOTHING = np.zeros((0, 8), np.float32)


def frames(*counts: int, seed: int = 0) -> np.ndarray:
    """Frames of things that have nothing in common, so many of each."""
    rng = np.random.default_rng(seed)
    kinds = np.repeat(np.arange(len(counts)), counts)
    return (4 * np.eye(8)[kinds] + rng.uniform(0, 0.1, (len(kinds), 8))).astype(np.float32)


def test_one_of_each_thing_comes_before_the_second_of_any() -> None:
    found = by_usefulness(frames(5, 3, 2), None, np.zeros(10), NOTHING)
    kinds = np.repeat(np.arange(3), (5, 3, 2))
    assert kinds[found.order[:3]].tolist() == [0, 1, 2]  # the most frames are settled first
    assert sorted(found.order.tolist()) == list(range(10))
    assert 0.45 < found.gain[0] < 0.65  # half of them, and a little of the others
    assert found.gain[3] < found.gain[2] / 10


@pytest.mark.parametrize(
    ("sure", "novelty", "first"),
    [
        pytest.param([0, 1, 0], [1.0, 1.0, 1.0], 1, id="the answer in doubt"),
        pytest.param([0, 0, 0], [1.0, 1.0, 9.0], 2, id="the novel one"),
        pytest.param([1, 0, 0], [2.0, 1.0, 1.0], 0, id="both"),
    ],
)
def test_what_is_in_doubt_or_novel_comes_first(
    sure: list[int], novelty: list[float], first: int
) -> None:
    likely = np.array([[0.5, 0.5] if doubt else [1.0, 0.0] for doubt in sure])
    found = by_usefulness(frames(1, 1, 1), likely, np.array(novelty), NOTHING)
    assert found.order[0] == first


def test_what_was_learned_is_settled() -> None:
    x = frames(3, 3)
    found = by_usefulness(x, None, np.zeros(6), x[:1])
    assert found.order[0] >= 3
    again = by_usefulness(x, None, np.zeros(6), np.repeat(x[:1], 3000, axis=0))
    assert again.order.tolist() == found.order.tolist()


@settings(max_examples=25)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 10**6))
def test_gains_are_shares_that_never_rise(n: int, n_learned: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (n, 8)).astype(np.float32)
    x[: n // 3] = x[:1]  # some the same
    likely = rng.dirichlet(np.ones(3), n) if seed % 2 else np.ones((n, 1))
    learned = rng.normal(0, 1, (n_learned, 8)).astype(np.float32)
    found = by_usefulness(x, likely, rng.normal(0, 1, n), learned)
    assert sorted(found.order.tolist()) == list(range(n))
    assert (np.diff(found.gain) < 1e-6).all()
    assert found.gain.sum() < 1 + 1e-5
    assert (found.gain >= 0).all()
    some = by_usefulness(x, likely, np.zeros(n), learned, n=2)
    assert len(some.order) == len(some.gain) == min(n, 2)


def thing(place: int) -> np.ndarray:
    x = np.full(12, 0.05, np.float32)
    x[place] = 2
    return x


def wait(home: Home, *, guess: int) -> None:
    """Put five frames into the queue: four of one thing, the most novel, and one of another."""
    with writing(home) as session, session.store.transaction(changes_head=False):
        for i, place in enumerate([0, 0, 0, 0, 1]):
            x = thing(place)
            x[2 + i] = 0.6
            frame = build.frame("queue", i)
            assert frame.encoded is not None
            assert offer(
                session.store, picture=frame.encoded, x=quantise(x), guess=guess,
                score=5.0 - i, source="camera:0", frame=f"f{i}", time=1000.0 + i,
            )  # fmt: skip


def taught(path: Path, head: str, names: tuple[str, ...], n: int = 30) -> Home:
    home = build.tiny_home(path, head)
    x, y = build.features(n)
    kept = np.array([f"part-{c}" in names for c in y], bool)
    with writing(home) as session:
        learner = open_learner(home, session.store)
        labels = [build.frame(f"part-{c}", i) for i, c in enumerate(y)]
        if kept.any():
            chosen = np.flatnonzero(kept)
            learner.learn_many([labels[i] for i in chosen], x[chosen])
            learner.settle()
    return home


def listed(home: Home, *more: object) -> list[dict[str, Any]]:
    done = CliRunner().invoke(
        app, ["review", "list", "--home", str(home.path), "--json", *map(str, more)]
    )
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])["entries"]
    return found


@pytest.mark.parametrize("head", ["ridge", "uer", "prototype", "key-value"])
def test_the_queue_by_usefulness(tmp_path: Path, head: str) -> None:
    home = taught(tmp_path / "home", head, ("part-1", "part-2", "part-3"))
    wait(home, guess=1)
    plain, useful = listed(home), listed(home, "--by", "usefulness")
    assert [e["frame"] for e in plain] == [e["frame"] for e in listed(home, "--by", "novelty")]
    assert "usefulness" not in plain[0]
    # The other thing is among the first two, however novel its rivals are.
    assert "f4" in [e["frame"] for e in useful[:2]]
    gains = [e.pop("usefulness") for e in useful]
    assert gains == sorted(gains, reverse=True)
    assert 0 < gains[0] < 1
    assert sorted(useful, key=lambda e: e["uid"]) == sorted(plain, key=lambda e: e["uid"])
    table = CliRunner().invoke(
        app, ["review", "list", "--by", "usefulness", "--home", str(home.path)]
    )
    assert f"{percent(gains[0], 1)}" in table.stdout


@pytest.mark.parametrize("n", [0, 1, 2])
def test_with_little_learned_what_was_novel_when_it_came_counts(tmp_path: Path, n: int) -> None:
    home = build.tiny_home(tmp_path / "home")
    with writing(home) as session:
        learner = open_learner(home, session.store)
        x, _ = build.features(2)
        if n:
            learner.learn_many([build.frame(f"part-{i}", i) for i in range(n)], x[:n])
            learner.settle()
    assert listed(home, "--by", "usefulness") == []
    if n:
        wait(home, guess=1)
        assert len(listed(home, "--by", "usefulness")) == 5


def test_a_class_that_is_being_unlearned_settles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = taught(tmp_path / "home", "ridge", ("part-1", "part-2"))
    with writing(home) as session:
        learner = open_learner(home, session.store)
        learner.learn_many([build.frame("disc", 40)], thing(0)[None])
        learner.settle()
        blocked = frozenset({session.store.class_uid("disc")})
    wait(home, guess=1)
    assert listed(home, "--by", "usefulness")[0]["frame"] == "f4"
    monkeypatch.setattr(Store, "blocked_classes", lambda store: blocked)
    assert listed(home, "--by", "usefulness")[0]["frame"] != "f4"


def test_a_class_that_was_unlearned_says_nothing(tmp_path: Path) -> None:
    never = taught(tmp_path / "never", "ridge", ("part-1", "part-2"))
    once = taught(tmp_path / "once", "ridge", ("part-1", "part-2", "part-3"))
    for home in (never, once):
        wait(home, guess=1)
    with writing(once) as session:
        before = forgotten(session, once)
    with reading(never) as session:
        expected = useful_entries(session, entries(session.store))
    assert [(e.frame, gain) for e, gain in before] == [(e.frame, gain) for e, gain in expected]


def forgotten(session: Any, home: Home) -> list[tuple[Any, float]]:
    """Unlearn the third part and return what is useful then."""
    forget(home, open_learner(home, session.store), ForgetRequest("part-3", kind="class"))
    with reading(home) as after:
        return useful_entries(after, entries(after.store))
