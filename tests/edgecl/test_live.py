"""Labels on the fly, undo, near-duplicates, votes: a stream that is taught while it runs."""

from __future__ import annotations

import http.server
import os
import pty
import re
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import workloads
from hypothesis import given
from hypothesis import strategies as st
from patience import no_thread_is_left

import build
from edgecl.config import Config, LiveConfig
from edgecl.errors import ConfigError, RequestError
from edgecl.heads import HEADS
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.runtime.grid import quantise
from edgecl.runtime.pipeline import Embedded
from edgecl.runtime.sources import Source, open_source
from edgecl.runtime.sources.live import LiveSource
from edgecl.runtime.sources.messages import Command, LabelWindow
from edgecl.session import Session, open_learner, open_predictor, open_store
from edgecl.settings import load_config
from edgecl.store.progress import Position
from edgecl.stream.commands import Consolidate, Stop, Undo
from edgecl.stream.duplicates import Duplicates
from edgecl.stream.events import NotConsolidated, Undone
from edgecl.stream.freshness import Freshness
from edgecl.stream.keys import Keyboard
from edgecl.stream.labeller import UNDO_N, Labeller
from edgecl.stream.progress import Progress
from edgecl.stream.recent import RecentFrames
from edgecl.stream.run import StreamOptions, learn_stream
from edgecl.stream.votes import Votes
from edgecl.types import Frame, Prediction, Skipped

WIDTH = 12


class FakeEngine:
    """The mean colour of the picture's rows, as slow as asked."""

    provider = "fake"
    num_features = WIDTH

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def run(self, pixels: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds * len(pixels))
        rows = pixels.reshape(len(pixels), 3, 4, -1).mean(axis=3) + 1
        return np.ascontiguousarray(rows.reshape(len(pixels), WIDTH), dtype=np.float32)


def picture(part: str, i: int) -> np.ndarray:
    return np.asarray(build.part_picture(part, i, 32))


class FakeLive(Source):
    """A live source that shows what it is told to, one frame every `interval` seconds.

    Without clock its frames do not say when they were taken: then none is too old.
    """

    name = "fake"
    kind = "live"

    def __init__(
        self,
        shots: Iterator[tuple[str, int, str | None]],
        interval: float = 0.002,
        *,
        has_clock: bool = False,
    ) -> None:
        self._has_clock = has_clock
        self._shots = shots
        self._interval = interval
        self.closed = threading.Event()
        self.made: list[Frame] = []

    def __len__(self) -> int:
        return 0

    def ids(self, stop: int) -> Iterator[str]:
        return iter(())

    def frames(self, start: int = 0) -> Iterator[Frame | Skipped]:
        for n, (part, i, label) in enumerate(self._shots):
            if self.closed.wait(self._interval):
                return
            frame = Frame(
                id=f"{n}",
                pixels=picture(part, i),
                label=label,
                source=self.name,
                time=1000.0 + n,
                monotonic=time.monotonic() if self._has_clock else 0.0,
            )
            self.made.append(frame)
            yield frame

    def close(self) -> None:
        self.closed.set()


class FakeFeed:
    """Messages that come when it is asked for the n-th time."""

    def __init__(self, *messages: LabelWindow | Command) -> None:
        self.waiting: list[LabelWindow | Command] = list(messages)

    def poll(self) -> list[LabelWindow | Command]:
        found, self.waiting = self.waiting, []
        return found

    def news(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


@pytest.fixture
def device(tmp_path: Path) -> Home:
    """A home whose live streams leave out nothing as a duplicate."""
    home = build.tiny_home(tmp_path / "home")
    home.save_config(Config(head=home.config.head, live=LiveConfig(duplicate_cosine=1.0)))
    return Home(home.path)


def run(
    home: Home,
    source: Any,
    *,
    engine: Any = None,
    live: StreamOptions | None = None,
    teach: Callable[[Learner], StreamOptions] | None = None,
    **options: Any,
) -> list[Progress]:
    with home.lock(), open_store(home) as store:
        learner = open_learner(home, store)
        made = teach(learner) if teach is not None else live or StreamOptions()
        start = Position(0, b"", False)
        steps = learn_stream(
            home, learner, engine or FakeEngine(), source, key="k", start=start, options=made,
            **options,
        )  # fmt: skip
        with closing(steps):
            return list(steps)


def rows(home: Home, sql: str) -> list[tuple[Any, ...]]:
    with open_store(home, read_only=True) as store:
        return store.connection.execute(sql).fetchall()


def seen(home: Home) -> dict[str, int]:
    return dict(rows(home, "SELECT name, n_seen FROM classes"))


def shots(*parts: str, n: int = 8, labels: bool = True) -> Iterator[tuple[str, int, str | None]]:
    return iter([(part, i, part if labels else None) for part in parts for i in range(n)])


# The stream


def test_live_frames_are_learned_as_they_come_and_the_source_is_closed(device: Home) -> None:
    source = FakeLive(shots("washer", "bracket"), has_clock=True, interval=0.05)
    steps = run(device, source)
    last = steps[-1]
    assert last.seen == 16
    assert last.learned + last.held_out + last.stale == 16
    assert last.learned > 4
    assert last.oldest <= 2
    assert 0 < (last.p50_ms or 0) <= (last.p99_ms or 0)
    assert source.closed.is_set()
    assert len({s.learned for s in steps}) > 4  # not one commit for all
    assert rows(device, "SELECT count(*) FROM positions") == [(0,)]
    assert no_thread_is_left("decode", "engine")


def test_a_frame_that_is_old_at_the_commit_is_not_learned(device: Home) -> None:
    def leaves_out() -> bool:
        late = iter([("washer", i, "washer") for i in range(12)])
        source = FakeLive(late, interval=0.02, has_clock=True)

        def slow() -> bool:
            # The caller sleeps once: what is on its way by then grows old.
            if len(source.made) == 6:
                time.sleep(0.3)
            return False

        steps = run(device, source, should_stop=slow)
        assert steps[-1].oldest <= 2
        return steps[-1].stale > 0

    # Where frames come as late on a busy machine, none is old beside the others.
    assert any(leaves_out() for _ in range(6))


def test_unlabelled_live_frames_are_predicted_only(device: Home) -> None:
    run(device, FakeLive(shots("washer", "bracket")))
    events: list[dict[str, Any]] = []
    source = FakeLive(shots("bracket", "washer", n=10, labels=False))
    last = run(device, source, live=StreamOptions(emit=events.append, vote=3))[-1]
    assert (last.seen, last.learned, last.unlabelled, last.skipped) == (20, 0, 20, 0)
    assert [e["label"] for e in events] == ["bracket", "washer"]
    assert all(e["event"] == "class" and e["of"] == 3 and e["votes"] >= 2 for e in events)
    assert all(0 <= e["score"] <= 1 for e in events)
    assert events[0]["frame"] in {f.id for f in source.made}


def test_what_was_served_of_a_named_live_frame_is_kept_one_a_second(device: Home) -> None:
    for part in ("washer", "bracket"):
        run(device, FakeLive(shots(part)))
    answers = rows(device, "SELECT class_uid, named FROM live_answers ORDER BY uid")
    assert len(answers) == 16
    assert answers[:2] == [(1, None), (1, 1)]  # before anything was learned, and behind it
    assert answers[8] == (2, 1)  # a class that is new

    class Quick(FakeLive):
        def frames(self, start: int = 0) -> Iterator[Frame | Skipped]:
            for frame in super().frames(start):
                assert isinstance(frame, Frame)
                yield replace(frame, time=2000.0 + (frame.time or 0) / 4)

    run(device, Quick(shots("washer")))
    assert len(rows(device, "SELECT uid FROM live_answers")) == 18  # of eight in two seconds
    run(device, FakeLive(shots("washer", labels=False)))
    assert len(rows(device, "SELECT uid FROM live_answers")) == 18


def test_before_anything_is_learned_nothing_is_told(device: Home) -> None:
    events: list[dict[str, Any]] = []
    source = FakeLive(shots("washer", labels=False))
    last = run(device, source, live=StreamOptions(emit=events.append, finds_unknown=True))[-1]
    assert (last.unlabelled, last.n_classes, events) == (8, 0, [])


def test_a_static_camera_teaches_one_frame_until_something_changes(device: Home) -> None:
    still = iter([("washer", 0, "washer")] * 10 + [("washer", 5, "washer")] * 5)
    settings = LiveConfig(duplicate_cosine=0.99999)
    device.save_config(Config(head=device.config.head, live=settings))
    last = run(Home(device.path), FakeLive(still))[-1]
    assert (last.learned, last.duplicates) == (2, 13)


def test_duplicates_are_remembered_over_runs_and_may_be_switched_off(device: Home) -> None:
    def still() -> FakeLive:
        return FakeLive(iter([("washer", 0, "washer")] * 6))

    config = Config(head=device.config.head)
    device.save_config(config)
    assert run(Home(device.path), still())[-1].learned == 1
    assert run(Home(device.path), still())[-1].learned == 0
    device.save_config(replace(config, live=LiveConfig(duplicate_cosine=1.0)))
    assert run(Home(device.path), still())[-1].learned > 1


def test_a_frame_whose_label_comes_late_waits_for_review_no_more(device: Home) -> None:
    run(device, FakeLive(shots("washer", "bracket", n=20)))
    source = FakeLive(shots("gasket", n=6, labels=False), interval=0.01)
    feed, waited = FakeFeed(), list[int]()

    def teach(learner: Learner) -> StreamOptions:
        labeller = Labeller(lambda: learner.labels, feed=feed)
        return StreamOptions(labeller=labeller, finds_unknown=True)

    def stop() -> bool:
        if len(source.made) == 6 and not waited:
            waited.extend(n for (n,) in rows(device, "SELECT count(*) FROM review"))
            feed.waiting = [LabelWindow("gasket", 1000.0, 1010.0)]
        return False

    last = run(device, source, teach=teach, should_stop=stop)[-1]
    assert waited[0] >= 1
    assert last.learned + last.held_out == 6
    assert rows(device, "SELECT count(*) FROM review") == [(0,)]


def test_a_window_names_frames_that_came_before_it_and_those_to_come(device: Home) -> None:
    source = FakeLive(shots("washer", n=20, labels=False), interval=0.01)
    feed, sent = FakeFeed(), list[int]()

    def teach(learner: Learner) -> StreamOptions:
        return StreamOptions(labeller=Labeller(lambda: learner.labels, feed=feed))

    def stop() -> bool:
        if len(source.made) == 10 and not sent:
            sent.append(10)
            feed.waiting = [LabelWindow("ring", 1002.0, 1006.0), LabelWindow("nut", 1015.0, None)]
        return False

    last = run(device, source, teach=teach, should_stop=stop)[-1]
    names = dict(rows(device, "SELECT frame, name FROM replay JOIN classes c ON class_uid = c.uid"))
    ring = {f for f, name in names.items() if name == "ring"}
    assert ring == {"2", "3", "4", "5"}
    assert set(names) - ring == {"15", "16", "17", "18", "19"}
    assert last.unlabelled == 15
    assert last.learned == 9


def test_a_frame_whose_label_comes_later_is_not_too_old(device: Home) -> None:
    source = FakeLive(shots("washer", n=16, labels=False), interval=0.01, has_clock=True)
    feed = FakeFeed()

    def teach(learner: Learner) -> StreamOptions:
        return StreamOptions(labeller=Labeller(lambda: learner.labels, feed=feed))

    def stop() -> bool:
        if len(source.made) == 14:
            feed.waiting = [LabelWindow("ring", 1002.0, 1006.0)]
        return False

    last = run(device, source, teach=teach, should_stop=stop)[-1]
    assert (last.learned, last.stale) == (4, 0)
    assert last.p99_ms is None  # what the labeller took is not the machine's latency


def test_a_person_at_the_keys_is_shown_what_is_seen(device: Home) -> None:
    run(device, FakeLive(shots("washer", "bracket", n=20)))

    def teach(learner: Learner) -> StreamOptions:
        return StreamOptions(labeller=Labeller(lambda: learner.labels, read_keys=lambda: ""))

    last = run(device, FakeLive(shots("bracket", n=6, labels=False)), teach=teach)[-1]
    assert re.fullmatch(r"watching  sees bracket \d+ %  1 washer  2 bracket  n new .*", last.status)


def test_a_command_pauses_and_an_undo_takes_back(device: Home) -> None:
    source = FakeLive(shots("washer", n=30), interval=0.01)
    feed, sent = FakeFeed(), list[int]()

    def stop() -> bool:
        n = len(source.made)
        if n >= 12 and not sent:
            sent.append(n)
            feed.waiting = [Command("undo", 3), Command("pause")]
        elif len(sent) == 1 and n >= sent[0] + 10:
            sent.append(n)
            feed.waiting = [Command("resume")]
        return False

    def teach(learner: Learner) -> StreamOptions:
        return StreamOptions(labeller=Labeller(lambda: learner.labels, feed=feed))

    steps = run(device, source, teach=teach, should_stop=stop)
    last = steps[-1]
    assert last.undone == 3
    assert last.unlabelled >= 8
    ((probes,),) = rows(device, "SELECT count(*) FROM held_out")
    left = sum(seen(device).values()) + probes
    assert left == last.learned + last.held_out - last.undone == 30 - last.unlabelled - 3
    assert Undone(3, ("washer",)) in [event for s in steps for event in s.events]


def test_pictures_of_the_ring_are_kept_as_they_would_be_learned(device: Home) -> None:
    source = FakeLive(shots("washer", n=6, labels=False), interval=0.01)
    feed = FakeFeed()

    def stop() -> bool:
        if len(source.made) == 6:
            feed.waiting = [LabelWindow("ring", 0.0, 2000.0)]
        return False

    def teach(learner: Learner) -> StreamOptions:
        return StreamOptions(labeller=Labeller(lambda: learner.labels, feed=feed))

    run(device, source, teach=teach, should_stop=stop)
    assert sum(seen(device).values()) >= 4
    with open_store(device, read_only=True) as store:
        for uid, _ in store.stored_samples():
            assert store.picture(uid)


# The engine is exchanged while frames are on their way


@pytest.fixture
def adapted(tmp_path: Path) -> Home:
    """A home with engines of its own that learned three parts, and no adapter yet."""
    home = workloads.small_home(tmp_path / "home", capacity=100)
    workloads.teach_pictures(home.path)
    return home


def test_a_stream_answers_as_the_home_does_with_its_adapter(adapted: Home) -> None:
    build.adapt_home(adapted, 1)
    events: list[dict[str, Any]] = []
    source = FakeLive(shots(*build.PARTS[:3], n=4, labels=False))
    run(adapted, source, engine=adapted.engine(), live=StreamOptions(emit=events.append, vote=1))
    predictor = open_predictor(adapted)
    assert predictor.scorer.n_maps == 2
    wanted = []
    for frame in source.made:
        assert frame.pixels is not None
        answer = predictor.predict(frame.pixels)
        if not wanted or wanted[-1][0] != answer.label:
            wanted.append((answer.label, answer.score))
    assert [event["label"] for event in events] == [label for label, _ in wanted]
    # An event rounds its score.
    assert np.allclose([e["score"] for e in events], [score for _, score in wanted], atol=1e-4)


@pytest.mark.parametrize("is_watched", [True, False])
def test_an_adapter_that_comes_in_a_stream_changes_answers_and_no_feature(
    adapted: Home, is_watched: bool
) -> None:
    order = [part for part in build.PARTS for _ in range(6)]
    before = rows(adapted, "SELECT count(*) FROM replay")[0][0]
    events: list[dict[str, Any]] = []
    learned_before: list[str] = []
    with adapted.lock(), open_store(adapted) as store:
        learner = open_learner(adapted, store)

        def train() -> Any:
            with store.transaction(changes_head=False):
                build.add_adapters(adapted, store, 1)
                store.note_attempt(max(store.names))
            learned_before.extend(store.names.values())
            return SimpleNamespace(accepted=True)

        consolidate = Consolidate(4, train)
        source = FakeLive(((part, i, part) for i, part in enumerate(order)), interval=0.01)
        steps = learn_stream(
            adapted, learner, adapted.engine(), source, key="k", start=Position(0, b"", False),
            options=StreamOptions(
                emit=events.append if is_watched else None, vote=1,
                consolidate=consolidate,
            ),
        )  # fmt: skip
        with closing(steps):
            last = list(steps)[-1]
        x = store.stored_rows()[0]
    assert last.seen == 24
    assert last.learned + last.held_out + last.duplicates + last.stale == 24
    assert consolidate.accepted == [True]
    assert learned_before[3:] == [build.PARTS[0]]
    assert bool(events) is is_watched
    assert rows(adapted, "SELECT count(*) FROM replay")[0][0] == before + last.learned
    assert x.shape[1] == adapted.manifest.num_features


def test_a_consolidation_that_cannot_be_is_told_and_the_stream_goes_on(device: Home) -> None:
    def train() -> Any:
        raise RequestError("nothing to train on")

    consolidate = Consolidate(2, train)
    steps = run(device, FakeLive(shots(*build.PARTS)), live=StreamOptions(consolidate=consolidate))
    told = [event for step in steps for event in step.events]
    assert told == [NotConsolidated("nothing to train on")] * 2  # before the third, at the end
    assert steps[-1].learned + steps[-1].held_out == 32
    assert consolidate.accepted == []


# A server that comes and goes


class Flaky(http.server.BaseHTTPRequestHandler):
    """Ends after every ten pictures, and begins with the last three again."""

    n_sent = 0
    n_connections = 0
    last = 200

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        kind = type(self)
        kind.n_connections += 1
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
        self.end_headers()
        for i in range(max(0, kind.n_sent - 3), min(kind.n_sent + 10, kind.last)):
            # Behind the end of a JPEG anything may stand: a number makes each picture another.
            data = build.encode(build.part_picture("washer", i % 20, 32)) + f"{i:06}".encode()
            head = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data + b"\r\n")
            kind.n_sent = max(kind.n_sent, i + 1)
            time.sleep(0.005)


def test_over_twenty_connections_no_picture_is_learned_twice(device: Home) -> None:
    Flaky.n_sent = Flaky.n_connections = 0
    learned: Counter[bytes] = Counter()

    def watched(learner: Learner) -> StreamOptions:
        learn_many = learner.learn_many

        def noted(frames: list[Frame], x: Any, **options: Any) -> Any:
            learned.update(frame.encoded or b"" for frame in frames)
            return learn_many(frames, x, **options)

        learner.learn_many = noted  # type: ignore[assignment,method-assign]
        return StreamOptions()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flaky) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        source = open_source(f"http://127.0.0.1:{server.server_address[1]}/", label="washer")
        assert isinstance(source, LiveSource)
        source.first_wait_s = source.longest_wait_s = 0.05
        try:
            steps = run(device, source, teach=watched, should_stop=lambda: Flaky.n_sent >= 200)
        finally:
            server.shutdown()
            thread.join()
    last = steps[-1]
    assert Flaky.n_connections >= 20
    assert last.reconnects >= 18
    assert set(learned.values()) == {1}
    assert sum(learned.values()) == last.learned + last.held_out > 20
    assert last.oldest <= 2
    assert no_thread_is_left("decode", "engine", "live")


def test_a_watched_folder_that_goes_is_told_to_who_learns_from_it(
    device: Home, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source = open_source(f"watch:{folder}")
    folder.rename(tmp_path / "away")
    with device.lock(), open_store(device) as store:
        learner = open_learner(device, store)
        start = Position(0, b"", False)
        steps = learn_stream(device, learner, FakeEngine(), source, key="k", start=start)
        with closing(steps):
            (event,) = next(step.events for step in steps if step.events)
    assert "cannot be looked at" in event.text()


# Undo


@pytest.mark.parametrize("capacity", [5, 2000])
@pytest.mark.parametrize("n", [1, 9, 40])
@pytest.mark.parametrize("sealed", [False, True])
def test_an_exact_head_ends_as_if_it_had_never_learned_what_was_undone(
    tmp_path: Path, n: int, capacity: int, sealed: bool
) -> None:
    x, y = build.features(110)
    frames = [build.frame(f"c{k}", i) for i, k in enumerate(y)]
    frames[-n // 2 :] = [build.frame("late", i) for i in range(n // 2 or 1)]
    keep = len(frames) - n
    homes = [
        build.tiny_home(tmp_path / name, sealed=sealed, capacity_samples=capacity)
        for name in ("undone", "never")
    ]
    scorers = []
    for home in homes:
        with home.lock(), open_store(home) as store:
            learner = open_learner(home, store)
            lessons = build.lessons_of(learner, frames[:keep], x[:keep])
            if home is homes[0]:
                lessons = build.lessons_of(learner, frames[keep:], x[keep : len(frames)])
                learner.undo(lessons)
                with pytest.raises(RequestError):
                    learner.undo([entry for entry in lessons if not entry.is_held_out][:1])
            learner.settle()
        with open_store(home, read_only=True) as store:
            scorers.append(Session(home, store).exact_scorer())
            assert "late" not in store.names.values()
            assert store.connection.execute("PRAGMA foreign_key_check").fetchall() == []
    build.assert_same(*scorers)
    assert seen(homes[0]) == seen(homes[1])
    probes = "SELECT count(*) FROM held_out"
    assert rows(homes[0], probes) == rows(homes[1], probes)


@pytest.mark.parametrize("name", sorted(HEADS))
def test_every_head_predicts_without_what_was_undone(tmp_path: Path, name: str) -> None:
    home = build.tiny_home(tmp_path / "home", name)
    x, y = build.features(40)
    with home.lock(), open_store(home) as store:
        learner = open_learner(home, store)
        learner.learn_many([build.frame(f"c{k}", i) for i, k in enumerate(y)], x)
        lessons = build.lessons_of(learner, [build.frame("slip", i) for i in range(5)], x[:5])
        assert "slip" in learner.labels
        learner.undo(lessons)
        assert set(learner.labels) == {"c1", "c2", "c3"}
        learner.learn_many([build.frame("c1", 99)], x[:1])
        learner.settle()
    with open_store(home, read_only=True) as store:
        assert "slip" not in Session(home, store).exact_scorer().labels


# Parts


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def test_keys_come_without_waiting_and_the_terminal_is_restored(
    terminal: tuple[int, int],
) -> None:
    ours, theirs = terminal
    before = termios.tcgetattr(theirs)
    with Keyboard(theirs) as keyboard:
        assert keyboard.read() == ""
        during = termios.tcgetattr(theirs)
        assert not during[3] & (termios.ECHO | termios.ICANON)
        assert during[3] & termios.ISIG
        data = "1é".encode()
        os.write(ours, data[:2])  # half of a character
        assert until(keyboard, 1) == "1"
        os.write(ours, data[2:])
        assert until(keyboard, 1) == "é"
    assert termios.tcgetattr(theirs) == before
    with pytest.raises(ZeroDivisionError), Keyboard(theirs):
        raise ZeroDivisionError
    assert termios.tcgetattr(theirs) == before


def test_keys_work_again_after_a_shell_took_the_terminal_back(terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    before = termios.tcgetattr(theirs)
    with Keyboard(theirs) as keyboard:
        termios.tcsetattr(theirs, termios.TCSANOW, before)  # Ctrl-Z, then fg
        os.write(ours, b"1")
        keyboard.read()
        os.write(ours, b"u")
        assert until(keyboard, 1)[-1] == "u"
        assert not termios.tcgetattr(theirs)[3] & (termios.ECHO | termios.ICANON)
    assert termios.tcgetattr(theirs) == before


def until(keyboard: Keyboard, n: int) -> str:
    deadline, text = time.monotonic() + 90, ""
    while len(text) < n and time.monotonic() < deadline:
        text += keyboard.read()
    return text


def test_a_file_is_no_keyboard(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w") as file:
        keyboard = Keyboard(file.fileno())
        with pytest.raises(OSError, match="Inappropriate"):
            keyboard.__enter__()


class Typist:
    def __init__(self) -> None:
        self.text = ""

    def __call__(self) -> str:
        text, self.text = self.text, ""
        return text


def make_labeller() -> tuple[Labeller, Typist, Callable[[str], Any]]:
    typist = Typist()
    labeller = Labeller(lambda: ("bolt", "nut"), read_keys=typist)

    def press(text: str) -> list[Any]:
        typist.text = text
        return labeller.poll()

    return labeller, typist, press


def frame(label: str | None = None, moment: float = 0.0) -> Frame:
    pixels = np.zeros((4, 4, 3), np.uint8)
    return Frame(id="f", pixels=pixels, label=label, time=moment)


def test_a_key_labels_until_it_is_pressed_again() -> None:
    labeller, _, press = make_labeller()
    assert labeller.label_of(frame()) is None
    assert press("2") == []
    assert labeller.label_of(frame()) == "nut"
    assert labeller.label_of(frame("bolt")) == "nut"
    assert "[2 nut]" in labeller.status()
    press("2")
    assert labeller.label_of(frame()) is None
    press("1")
    press("0")
    assert labeller.label_of(frame()) is None
    press("1 ")
    assert labeller.label_of(frame("nut")) is None
    assert "PAUSED" in labeller.status()
    press(" ")
    assert labeller.label_of(frame()) == "bolt"


def test_a_new_class_is_typed() -> None:
    labeller, _, press = make_labeller()
    press("nwash")
    assert "wash_" in labeller.status()
    assert press("er qu1x\x7f\n") == []
    assert labeller.label_of(frame()) == "washer qu1"
    press("nlost\x1b")
    assert labeller.label_of(frame()) == "washer qu1"
    press("n  \n")
    assert "empty" in " ".join(event.text() for event in labeller.events())
    assert press("u") == [Undo(UNDO_N)]
    assert press("q") == [Stop()]
    press("7")
    assert "2 classes" in " ".join(event.text() for event in labeller.events())
    assert labeller.events() == []


@given(st.text())
def test_no_key_breaks_the_labeller(text: str) -> None:
    labeller, _, press = make_labeller()
    press(text)
    label = labeller.label_of(frame())
    assert label is None or label.strip()
    assert "\n" not in labeller.status()


def test_the_newest_window_that_holds_a_moment_counts() -> None:
    feed = FakeFeed(LabelWindow("cup", 5.0, None), LabelWindow("pen", 2.0, 3.0))
    labeller = Labeller(lambda: (), feed=feed)
    assert len(labeller.poll()) == 2
    now = time.time()
    labeller = Labeller(lambda: (), feed=feed)
    feed.waiting = [LabelWindow("cup", now, None), LabelWindow("pen", now + 2, now + 3)]
    labeller.poll()
    found = [labeller.label_of(frame(moment=now + s)) for s in (-1, 0, 2, 3)]
    assert found == [None, "cup", "pen", "cup"]
    feed.waiting = [LabelWindow(None, now + 10, None)]
    labeller.poll()
    assert labeller.label_of(frame(moment=now + 9)) == "cup"
    assert labeller.label_of(frame(moment=now + 11)) is None
    assert labeller.label_of(frame("own", moment=now + 11)) == "own"


def test_windows_are_bounded() -> None:
    feed = FakeFeed()
    labeller = Labeller(lambda: (), feed=feed)
    now = time.time()
    for i in range(1500):
        feed.waiting.append(LabelWindow("a", now + i, now + i + 1))
    labeller.poll()
    assert len(labeller._windows) <= 1000


def test_a_vote_is_told_when_the_majority_changes() -> None:
    votes = Votes(4)
    told = []
    for label in "aabaabbbbcbbbaaa":
        vote = votes.add(Prediction("p", label, 0.5, ()))
        if vote is not None:
            told.append((vote.label, vote.state))
            assert vote.n >= (3 if vote.state == "known" else 2)
            assert vote.score == 0.5
    changes = [("a", "known"), ("a", "unsure"), ("b", "known"), ("b", "unsure"), ("a", "known")]
    assert told == changes


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        # (label, probability or None, is unknown) a frame; three vote, sure is from 0.6 on
        ([("a", 0.9, 0)] * 4, ["a known"]),
        ([("a", 0.5, 0)] * 4, ["a unsure"]),
        ([("a", None, 0)] * 4, ["a known"]),  # by the score, which is 0.7
        ([("a", 0.5, 0)] * 3 + [("a", 1.0, 0)] * 3, ["a unsure", "a known"]),
        ([("a", 0.9, 0)] * 3 + [("b", 0.5, 0)] * 3, ["a known", "b unsure"]),
        ([("unknown", None, 1)] * 3, ["unknown unknown"]),
        ([("unknown", 0.9, 0)] * 3, ["unknown known"]),  # a class of that name
        ([(name, 0.9, 0) for name in "abcdef"], ["a unsure"]),  # that they disagree is told once
        ([(name, 0.9, 0) for name in "aabcaa"], ["a known", "a unsure", "a known"]),
        ([("a", 0.9, 0), ("unknown", None, 1)], []),
    ],
)
def test_states(seen: list[tuple[str, float | None, int]], told: list[str]) -> None:
    votes = Votes(3, min_score=0.6)
    found = []
    for label, chance, is_unknown in seen:
        chances = () if chance is None else (chance,)
        vote = votes.add(Prediction("p", label, 0.7, (), chances), is_unknown=bool(is_unknown))
        if vote is not None:
            found.append(f"{vote.label} {vote.state}")
            event = vote.as_event(Frame(id="f", encoded=b"x"))
            assert ("probability" in event) == (chance is not None)
            assert event["state"] == vote.state
    assert found == told


def test_frames_of_one_thing_are_voted_on_by_themselves() -> None:
    votes = Votes(5)
    seen = ["1a", "1a", "2a", "1b", "1b", "1b", "3c", "2a", "3d"]
    found = []
    for thing, label in seen:
        vote = votes.add(Prediction("p", label, 1.0, ()), thing=thing)
        found.append(None if vote is None else f"{vote.label} {vote.state} {vote.n}/{vote.of}")
        if vote is not None:
            frame = Frame(id="f", encoded=b"x", thing=thing)
            assert vote.as_event(frame)["object"] == thing
    assert found == [
        "a known 1/1", None, "a known 1/1", None, "a unsure 2/4", "b known 3/5", "c known 1/1",
        None, "c unsure 1/2",
    ]  # fmt: skip


def test_votes_for_a_class_that_is_gone_are_dropped() -> None:
    votes = Votes(3)
    votes.add(Prediction("p", "a", 1.0, ()))
    votes.forget()
    found = [votes.add(Prediction("p", label, 1.0, ())) for label in "bab"]
    assert [v.label if v else None for v in found] == [None, None, "b"]


def test_a_single_vote_follows_every_frame() -> None:
    votes = Votes(1)
    found = [votes.add(Prediction("p", label, 1.0, ())) for label in "aab"]
    assert [v.label if v else None for v in found] == ["a", None, "b"]


def test_only_the_newest_rows_of_the_same_class_make_a_duplicate() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, WIDTH)).astype(np.float32)
    kept = {"old": quantise(np.abs(x[:1]))}
    empty = np.empty((0, WIDTH), np.float16)
    duplicates = Duplicates(0.99, lambda name, n: kept.get(name, empty), n=3)
    assert not duplicates.is_near("a", x[0])
    assert duplicates.is_near("a", x[0] * 2)
    assert not duplicates.is_near("b", x[0])
    assert duplicates.is_near("old", np.abs(x[0]))
    for row in x[1:4]:
        assert not duplicates.is_near("a", row)
    assert not duplicates.is_near("a", x[0])  # three newer ones came since
    duplicates.forget()
    assert not duplicates.is_near("a", x[3])


def test_classes_whose_rows_are_at_hand_are_bounded_and_read_again_when_they_come_back() -> None:
    x = np.ones(WIDTH, np.float32)
    asked: list[str] = []

    def newest(name: str, n: int) -> np.ndarray:
        asked.append(name)
        return quantise(x[None]) if asked.count(name) > 1 else np.empty((0, WIDTH), np.float16)

    duplicates = Duplicates(0.99, newest)
    names = [str(i) for i in range(200)]
    assert not any(duplicates.is_near(name, x) for name in names)
    assert duplicates.is_near("199", x)
    assert asked == names
    assert duplicates.is_near("0", x)
    assert asked == [*names, "0"]


@given(st.lists(st.integers(1, 60), max_size=60), st.integers(1, 200), st.integers(1, 20))
def test_the_ring_never_holds_more_than_its_bounds(
    sizes: list[int], max_bytes: int, max_frames: int
) -> None:
    ring = RecentFrames(max_bytes, max_frames)
    x = np.zeros(1, np.float32)
    for i, size in enumerate(sizes):
        ring.add(Embedded(Frame(id=str(i), encoded=b"x" * size), x), float(i))
        assert ring.size_bytes <= max_bytes
        assert len(ring) <= max_frames
    taken = ring.take(lambda moment: moment % 2 == 0)
    ids = [int(item.frame.id) for item in taken]
    assert ids == sorted(ids)
    assert all(i % 2 == 0 for i in ids)
    rest = ring.take(lambda moment: True)
    assert ring.size_bytes == len(ring) == 0
    kept = sorted(ids + [int(item.frame.id) for item in rest])
    assert kept == list(range(len(sizes) - len(kept), len(sizes)))


def test_ages_are_told_in_frame_times() -> None:
    freshness = Freshness()
    assert freshness.age(Frame(id="file", encoded=b"x"), 5.0) == 0
    live = [Frame(id=str(i), encoded=b"x", monotonic=1 + i / 10) for i in range(1, 6)]
    for one in live:
        freshness.came(one)
    assert freshness.age(live[-1], live[-1].monotonic + 0.15) == pytest.approx(1.5)
    assert freshness.quantile_ms(0.5) is None
    for one in live:
        freshness.committed(one, 1.5, one.monotonic + 0.1)
    assert freshness.quantile_ms(0.5) == pytest.approx(100, rel=0.05)
    assert freshness.oldest == 1.5


@pytest.mark.parametrize(
    ("intervals", "frame_time"),
    [
        ([0.1], 0.1),
        ([0.1, 0.1, 0.1, 0.2], 0.125),  # a source a quarter faster than what takes its frames
        ([0.1] * 9 + [0.2], 0.11),  # a tenth
        ([0.2, 0.2, 0.1], 0.2),  # faster by a half: never shorter than most intervals are
        ([0.1] * 30 + [60.0], 0.1 * 32 / 31),  # one pause is no slow source
    ],
)
def test_the_frame_time_is_that_of_the_frames_that_are_taken(
    intervals: list[float], frame_time: float
) -> None:
    freshness, now = Freshness(), 1.0
    for interval in [0.0, *intervals * 62]:
        now += interval
        freshness.came(Frame(id="1", encoded=b"x", monotonic=now))
    last = Frame(id="1", encoded=b"x", monotonic=now)
    assert freshness.age(last, now + 1.0) == pytest.approx(1 / frame_time, rel=0.04)


@pytest.mark.parametrize(
    "text",
    [
        "duplicate_cosine = 1.5",
        "duplicate_cosine = 0.0",
        "vote = 0",
        "ring_mb = -1.0",
        "min_score = 1.0",
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "edgecl.toml"
    path.write_text(f"[live]\n{text}\n")
    with pytest.raises(ConfigError, match=text.split(" ")[0]):
        load_config(path)
