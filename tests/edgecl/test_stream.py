"""Test-then-train: what a stream leaves does not depend on how fast it went."""

from __future__ import annotations

import shutil
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from patience import no_thread_is_left

import build
from edgecl.heads import HEADS
from edgecl.heads.cosine import UerHead
from edgecl.heads.profile import Profile
from edgecl.home import Home
from edgecl.runtime.sources import open_source
from edgecl.session import open_learner, open_store
from edgecl.store.progress import Position
from edgecl.stream.events import Event, FrameSkipped
from edgecl.stream.position import source_key
from edgecl.stream.progress import Progress
from edgecl.stream.run import learn_stream

COUNTS = (
    "seen", "learned", "n_correct", "seconds", "skipped", "held_out", "unlabelled", "unknown",
    "duplicates", "stale", "undone", "commits", "dropped", "reconnects", "stalls", "repeated",
    "broken", "oversize", "not_pictures", "passed_over", "still",
)  # fmt: skip


class FakeEngine:
    """Means of small patches instead of a backbone, as slow as asked."""

    provider = "fake"

    def __init__(self, num_features: int, seconds: float = 0.0) -> None:
        self.num_features = num_features
        self.seconds = seconds

    def run(self, pixels: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds)
        flat = pixels.reshape(len(pixels), -1)[:, :: pixels[0].size // self.num_features]
        return np.ascontiguousarray(flat[:, : self.num_features] + 1)


def learn(home: Home, folder: Path, head: str, engine: FakeEngine, **options: object) -> Progress:
    build.change_head(home, head)
    with home.lock(), open_store(home) as store:
        learner = open_learner(home, store)
        source = open_source(str(folder))
        *_, last = learn_stream(
            home,
            learner,
            engine,
            source,
            key=source_key(home, str(folder), None, None),
            start=Position(0, b"", False),
            **options,  # type: ignore[arg-type]
        )
        arrays = learner.head.scorer(store.names).arrays()
        weights = np.concatenate([a.ravel().astype(np.float64) for a in arrays.values()])
    np.save(home.path / "weights.npy", weights)
    return last


@pytest.mark.parametrize("head", list(HEADS))
def test_a_slow_engine_ends_in_the_same_head(home: Home, tmp_path: Path, head: str) -> None:
    folder = build.part_folder(tmp_path / "parts", 8)
    slow = Home(shutil.copytree(home.path, tmp_path / "slow"))
    width = home.manifest.num_features
    assert learn(home, folder, head, FakeEngine(width)).learned == 32
    assert learn(slow, folder, head, FakeEngine(width, 0.25)).learned == 32
    weights = [np.load(h.path / "weights.npy") for h in (home, slow)]
    assert np.array_equal(*weights)


def test_progress_adds_up_and_skips_are_told(home: Home, tmp_path: Path) -> None:
    folder = build.part_folder(tmp_path / "parts", 5)
    (folder / build.PARTS[0] / "broken.jpg").write_bytes(b"no picture")
    events: list[Event] = []
    with home.lock(), open_store(home) as store:
        learner = open_learner(home, store)
        for progress in learn_stream(
            home,
            learner,
            FakeEngine(home.manifest.num_features),
            open_source(str(folder)),
            key="k",
            start=Position(0, b"", False),
        ):
            events += progress.events
        position = store.position("k")
    assert (progress.seen, progress.learned, progress.skipped) == (21, 20, 1)
    assert progress.n_classes == 4
    assert 0 < progress.prequential_accuracy < 1
    (event,) = events
    assert isinstance(event, FrameSkipped)
    assert event.frame == f"{build.PARTS[0]}/broken.jpg"
    assert event.text() == f"skipped {event.frame}: {event.reason}"
    assert position is not None
    assert (position.n, position.is_finished) == (21, True)


def test_stopped_at_once_nothing_is_learned_and_threads_end(home: Home, tmp_path: Path) -> None:

    folder = build.part_folder(tmp_path / "parts", 8)
    engine = FakeEngine(home.manifest.num_features)
    last = learn(home, folder, "ridge", engine, should_stop=lambda: True)
    assert last.is_interrupted
    assert last.learned % 16 == 0
    assert no_thread_is_left("decode", "engine")
    assert learn(home, folder, "ridge", engine).learned == 32


@pytest.mark.parametrize("n_broken", [0, 3])
@pytest.mark.parametrize("stops_at", [1, 3, 5])
def test_what_is_told_never_falls_and_a_stopped_run_says_where_the_next_begins(
    home: Home, tmp_path: Path, stops_at: int, n_broken: int
) -> None:
    folder = build.part_folder(tmp_path / "parts", 12)  # six full groups: the fifth is not the last
    for i in range(n_broken):
        (folder / build.PARTS[i] / "broken.jpg").write_bytes(b"no picture")
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        time.sleep(0.3)  # something is told between two commits
        return len(asked) > stops_at

    key, width = source_key(home, str(folder), None, None), home.manifest.num_features
    start, steps = Position(0, b"", False), list[list[Progress]]()
    for should_stop in (stop, lambda: False):
        with home.lock(), open_store(home) as store:
            steps.append(
                list(
                    learn_stream(
                        home,
                        open_learner(home, store),
                        FakeEngine(width),
                        open_source(str(folder)),
                        key=key,
                        start=start,
                        should_stop=should_stop,
                    )
                )
            )
            start = store.position(key) or start
        for before, after in pairwise(steps[-1]):
            for name in COUNTS:
                assert getattr(before, name) <= getattr(after, name), name
        last = steps[-1][-1]
        assert last.seen == last.learned + last.held_out + last.skipped
        assert last.start + last.seen == start.n
    assert steps[0][-1].is_interrupted
    assert sum(run[-1].learned + run[-1].held_out for run in steps) == 48
    assert sum(run[-1].skipped for run in steps) == n_broken


def test_the_key_of_a_path_is_the_same_from_everywhere_and_an_address_is_no_path(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(spec: str) -> str:
        return source_key(home, spec, None, None)

    monkeypatch.chdir(tmp_path)
    assert key("parts") == key(f"{tmp_path}/x/../parts") != key("other")
    assert key("a.gz,b.gz") == key(f"{tmp_path}/a.gz,b.gz")
    before = key("synthetic:fps=0,frames=9")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert key("synthetic:fps=0,frames=9") == before


def test_views_of_kept_pictures_are_embedded_by_the_engine_of_the_stream(
    home: Home, tmp_path: Path
) -> None:
    folder = build.part_folder(tmp_path / "parts", 8)
    with home.lock(), open_store(home) as store:
        learner = open_learner(home, store, head="uer")
        learner.head = UerHead(store.num_features, profile=Profile(n_views=3, view_weight=1.0))
        list(
            learn_stream(
                home,
                learner,
                FakeEngine(home.manifest.num_features),
                open_source(str(folder)),
                key=source_key(home, str(folder), None, None),
                start=Position(0, b"", False),
            )
        )
        count = store.connection.execute
        assert count("SELECT count(*) FROM views").fetchone()[0] == 2 * 32
        assert count("SELECT min(n_replays) FROM replay WHERE uid <= 10").fetchone()[0] > 0
        (same,) = count(
            "SELECT count(*) FROM views v JOIN features f USING (uid) WHERE v.x = f.x"
        ).fetchone()
        assert same == 0
