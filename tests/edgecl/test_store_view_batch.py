"""View-batch replay: rest, equal exposure, and the profile that asks for it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import build
from edgecl.errors import StoreError, UsageError
from edgecl.exporters.setup import Setup, set_up
from edgecl.heads import head_config
from edgecl.heads.cosine import UerHead
from edgecl.heads.profile import Profile
from edgecl.heads.statistics import Diagonal
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.runtime.grid import quantise
from edgecl.session import open_learner, open_store
from edgecl.store.erasure import erase
from edgecl.store.store import Store
from edgecl.store.view_batch import rest_of, views_of
from edgecl.types import Kind

D = 12
VIEWS = Profile(n_replay=8, slow_decay=0.95, n_views=4, view_weight=1.0)


def due_rows(due: list[tuple[int, int]], now: int, n: int) -> list[int]:
    """Return the uids of at most n samples whose rest is over, the longest overdue first."""
    return [uid for step, uid in sorted(due) if step <= now][:n]


def test_rest_is_the_interval_of_plain_replay_times_the_views() -> None:
    # 1,000 kept, 32 replayed for 10 learned: each comes back after 312.5 learned samples.
    assert rest_of(1000, 10, 32, 1) == 313
    assert rest_of(1000, 10, 32, 4) == 1250
    assert rest_of(1000, 10, 32, 16) == rest_of(1000, 10, 32, 40) == 5000
    assert rest_of(1, 1, 32, 1) == 1


@settings(max_examples=60)
@given(
    st.integers(1, 60),
    st.integers(1, 8),
    st.integers(1, 6),
    st.integers(1, 12),
)
def test_every_sample_gets_its_share_and_its_rest(
    n_kept: int, n_views: int, n_rows: int, n_new: int
) -> None:
    n_replay, now = n_rows * n_views, 0
    rest = rest_of(n_kept, n_new, n_replay, n_views)
    due, served = dict.fromkeys(range(n_kept), 0), dict[int, list[int]]()
    n_steps = 6 * (-(-rest // n_new))
    for _ in range(n_steps):
        for uid in due_rows([(d, u) for u, d in due.items()], now, n_rows):
            served.setdefault(uid, []).append(now)
            due[uid] = now + rest
        now += n_new
    counts = [len(served.get(uid, [])) for uid in range(n_kept)]
    assert max(counts) - min(counts) <= 1
    assert all(b - a >= rest for times in served.values() for a, b in pairwise(times))
    # A due row waits for the next update, so it comes at most one update late in each round.
    assert sum(counts) * n_views <= n_steps * n_replay
    rounds = now / (rest + n_new)
    assert min(counts) >= int(rounds)


def fill(store: Store, n: int) -> None:
    x, y = build.features(n, D, 3)
    with store.transaction():
        for i in range(n):
            uid, _ = store.add_sample(
                store.add_class(f"c{y[i]}"),
                quantise(x[i]),
                lambda i=i: build.encode(build.part_picture("bolt-m4", i, 12), "PNG"),
                source="s",
                frame=str(i),
                time=1.0,
                rng=np.random.default_rng([1, i]),
            )
            if store.is_stored(uid):
                store.add_views(uid, quantise(np.stack([x[i] + v for v in (1, 2, 3)])))


@settings(max_examples=15)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 6), st.integers(1, 30))
def test_the_store_serves_what_the_plain_schedule_says(
    tmp_path_factory: pytest.TempPathFactory, new: list[int], n: int, rest: int
) -> None:
    path = tmp_path_factory.mktemp("view") / "s.db"
    with build.store(path, D, second_moment=Diagonal.name) as store:
        fill(store, 10)
    due = {uid: uid for uid in range(1, 11)}
    for advance in new:
        with Store(path) as store, store.transaction():  # reopened every time
            expected = due_rows([(d, u) for u, d in due.items()], store.step, n)
            before = dict(store.connection.execute("SELECT uid, n_replays FROM replay"))
            store.draw_due(n, rest=rest, n_views=4)
            after = dict(store.connection.execute("SELECT uid, n_replays FROM replay"))
            assert [u for u in after if after[u] != before[u]] == sorted(expected)
            due |= dict.fromkeys(expected, store.step + rest)
            store.step += advance


def test_views_come_with_the_feature_and_without_them_the_feature_itself(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db", D, second_moment=Diagonal.name) as store:
        fill(store, 3)
        with store.transaction():
            drawn = store.draw_due(3, rest=5, n_views=4)
            assert drawn is not None
            x, y = drawn
            assert x.shape == (3, 4, D)
            assert [store.names[c] for c in y] == ["c1", "c2", "c3"]
            np.testing.assert_allclose(x[:, 2] - x[:, 0], 2, atol=0.01)
            assert store.draw_due(3, rest=5, n_views=4) is None
            store.step += 5
            store.connection.execute("DELETE FROM views")
            drawn = store.draw_due(3, rest=5, n_views=4)
            assert drawn is not None
            assert (drawn[0] == x[:, :1]).all()


def test_an_evicted_sample_and_a_deleted_class_take_their_views_along(tmp_path: Path) -> None:
    with build.store(
        tmp_path / "s.db", D, second_moment=Diagonal.name, capacity_samples=5
    ) as store:
        fill(store, 30)
        kept = {u for (u,) in store.connection.execute("SELECT uid FROM replay WHERE is_stored")}
        viewed = {u for (u,) in store.connection.execute("SELECT uid FROM views")}
        assert viewed == kept
        with store.transaction():
            erased = erase(store, Kind.CLASS, store.class_uid("c1"))
        assert erased["views"] == 3 * erased["pictures"] > 0
        (n,) = store.connection.execute("SELECT count(*) FROM views").fetchone()
        assert n == 3 * sum(store.n_stored().values())


def test_what_is_due_is_found_by_an_index(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db", D) as store:
        plan = store.connection.execute(
            "EXPLAIN QUERY PLAN SELECT uid FROM replay WHERE is_stored AND due_step <= 5 "
            "ORDER BY due_step, uid LIMIT 8"
        ).fetchall()
    assert "samples_by_due" in plan[0][3]
    assert len(plan) == 1  # no sorting


def test_views_are_drawn_anew_from_the_stored_picture(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db", D, second_moment=Diagonal.name) as store:
        fill(store, 3)
        drawn = list(views_of(store, [1, 3], n_views=3, seed=7))
        again = list(views_of(store, [1, 3], n_views=3, seed=7))
        with pytest.raises(StoreError, match="sample 99 is not kept"):
            list(views_of(store, [99], n_views=3, seed=7))
    assert [(uid, view) for uid, view, _ in drawn] == [(u, v) for u in (1, 3) for v in range(3)]
    assert drawn[3][2].tobytes() == build.part_picture("bolt-m4", 2, 12).tobytes()
    assert [i.tobytes() for _, _, i in drawn] == [i.tobytes() for _, _, i in again]
    assert len({i.tobytes() for _, _, i in drawn}) == 6


def embed(pictures: list[Image.Image]) -> np.ndarray:
    small = [
        np.asarray(picture.resize((2, 2)), np.float32).reshape(-1) / 64 for picture in pictures
    ]
    return np.array(small)


def learn(path: Path, start: int, stop: int) -> tuple[np.ndarray, list[object]]:
    with Store(path, capacity_samples=20) as store:
        learner = Learner(store, UerHead(D, seed=1, profile=VIEWS), seed=1, embed_views=embed)
        x, y = build.features(120, D, 3)
        for i in range(start, stop, 10):
            frames = [build.frame(f"c{y[k]}", k) for k in range(i, i + 10)]
            learner.learn_many(frames, x[i : i + 10])
        learner.settle()
        rows = store.connection.execute("SELECT uid, view, x FROM views ORDER BY uid, view")
        return learner.head.state()["rows"], rows.fetchall()


def test_a_stream_with_views_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    for name in ("a.db", "b.db"):
        build.store(tmp_path / name, D, second_moment=Diagonal.name).close()
    whole = learn(tmp_path / "a.db", 0, 120)
    learn(tmp_path / "b.db", 0, 60)
    resumed = learn(tmp_path / "b.db", 60, 120)
    assert np.array_equal(whole[0], resumed[0])
    assert whole[1] == resumed[1]
    assert len(whole[1]) == 3 * 20


@pytest.mark.parametrize(("profile", "n_views"), [("balanced", 0), ("rested", 1)])
def test_a_home_whose_profile_is_rested_replays_views(
    tmp_path: Path, profile: str, n_views: int
) -> None:
    home = build.tiny_home(tmp_path / "home", "uer", D, capacity_samples=20)
    home.save_config(replace(home.config, head=head_config("uer", profile=profile)))
    assert f'profile = "{profile}"' in home.settings.read_text()
    home = Home(home.path)
    assert home.config.head == head_config("uer", profile=profile)
    with open_store(home) as store:
        learner = open_learner(home, store)
        learner.embed_views = embed
        x, y = build.features(60, D, 3)
        for i in range(0, 60, 10):
            frames = [build.frame(f"c{y[k]}", k) for k in range(i, i + 10)]
            learner.learn_many(frames, x[i : i + 10])
        (found,) = store.connection.execute("SELECT count(*) FROM views").fetchone()
        assert found == n_views * store.n_stored_samples
        with store.transaction():
            drawn = store.draw_due(4, rest=1, n_views=1 + n_views)
        assert drawn is not None
        assert drawn[0].shape[1] == 1 + n_views


@pytest.mark.parametrize(
    ("head", "profile", "told"),
    [
        ("uer", "bold", "'bold' is unknown; expected one of balanced, light, careful, rested"),
        ("ridge", "rested", "profile is an option of uer, not of ridge"),
    ],
)
def test_init_refuses_a_profile_that_the_head_does_not_have(
    tmp_path: Path, head: str, profile: str, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        set_up(tmp_path / "home", Setup(head=head, profile=profile))
    assert not (tmp_path / "home").exists()
