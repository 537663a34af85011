"""Several sources in one home: learned, voted on and counted each by itself."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import build
from edgecl.config import Config, LiveConfig, SourceConfig
from edgecl.errors import IntegrityError, SourceError, UsageError
from edgecl.home import Home
from edgecl.runtime.options import Part, parse_options
from edgecl.runtime.pipeline import Embedded
from edgecl.runtime.sources import Source, open_source
from edgecl.runtime.sources.live import LiveSource, Shot
from edgecl.runtime.sources.messages import LabelWindow, parse_message
from edgecl.runtime.sources.several import Several
from edgecl.session import open_learner, open_store
from edgecl.sources import open_sources
from edgecl.store.progress import Position
from edgecl.stream.commands import NameRecent
from edgecl.stream.events import FrameSkipped
from edgecl.stream.freshness import Freshness
from edgecl.stream.labeller import Labeller
from edgecl.stream.progress import Progress
from edgecl.stream.recent import RecentFrames
from edgecl.stream.run import StreamOptions, learn_stream
from edgecl.types import Frame

WIDTH = 12


class FakeEngine:
    """The mean colour of the picture's rows."""

    provider, num_features = "fake", WIDTH

    def run(self, pixels: np.ndarray) -> np.ndarray:
        rows = pixels.reshape(len(pixels), 3, 4, -1).mean(axis=3) + 1
        return np.ascontiguousarray(rows.reshape(len(pixels), WIDTH), dtype=np.float32)


class Camera:
    """Shows one part, with a label or without."""

    def __init__(self, part: str, n: int, label: str | None, every_s: float) -> None:
        self._n, self._label, self._every_s = n, label, every_s
        self._pictures = [np.array(build.part_picture(part, i, 32)) for i in range(8)]
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Shot]:
        for i in range(self._n):
            pixels = self._pictures[i % 8].copy()
            pixels[0] = (i % 256, i // 256, i * 37 % 256)  # no frame is sent twice, or is near one
            yield Shot(pixels=pixels, label=self._label)
            if self._closed.wait(self._every_s):
                return

    def close(self) -> None:
        self._closed.set()


def opened(n: int = 12, every_s: float = 0.03) -> Any:
    """Open `camera:PART/LABEL`; without a label the frames have none."""

    def open_one(url: str) -> Source:
        part, _, label = url.partition(":")[2].partition("/")
        return LiveSource(url, lambda _: Camera(part, n, label or None, every_s))

    return open_one


@pytest.fixture
def device(tmp_path: Path) -> Home:
    home = build.tiny_home(tmp_path / "home")
    home.save_config(Config(head=home.config.head, live=LiveConfig(duplicate_cosine=1.0)))
    return Home(home.path)


def run(home: Home, source: Source, options: StreamOptions | None = None) -> list[Progress]:
    with home.lock(), open_store(home) as store:
        learner = open_learner(home, store)
        steps = learn_stream(
            home, learner, FakeEngine(), source, key="k", start=Position(0, b"", False),
            options=options or StreamOptions(),
        )  # fmt: skip
        with closing(steps):
            return list(steps)


def test_each_is_learned_and_counted_by_its_name(device: Home) -> None:
    parts = [Part("gate", "camera:washer/washer"), Part("yard", "camera:bracket/bracket")]
    last = run(device, Several(parts, opened()))[-1]
    by = last.by_source
    assert {name: by[name]["received"] for name in by} == {"gate": 12, "yard": 12}
    assert sum(by[name]["seen"] for name in by) == last.seen
    assert sum(by[name]["learned"] for name in by) == last.learned > 8
    with open_store(device, read_only=True) as store:
        assert set(store.sources().values()) == {"gate", "yard"}
    assert not run(device, open_source("synthetic:fps=100,frames=2"))[-1].by_source


def test_votes_and_events_are_of_one_source_with_its_own_number(device: Home) -> None:
    parts = [Part("a", "camera:washer/washer"), Part("b", "camera:bracket/bracket")]
    run(device, Several(parts, opened()))
    events: list[dict[str, Any]] = []
    parts = [Part("a", "camera:washer", vote=1), Part("b", "camera:bracket")]
    run(device, Several(parts, opened()), StreamOptions(emit=events.append, vote=3))
    assert {(e["source"], e["label"], e["of"]) for e in events} == {
        ("a", "washer", 1),
        ("b", "bracket", 3),
    }
    # Read as one, the two would never agree for long; alone an event names no source.
    assert len(events) == 2
    events.clear()
    run(device, opened()("camera:washer"), StreamOptions(emit=events.append, vote=1))
    assert [e.get("source") for e in events] == [None]


def test_a_label_message_may_be_for_one_source(device: Home) -> None:
    window = parse_message('{"label": "cup", "source": "b"}', now=0.0)
    assert isinstance(window, LabelWindow)
    labeller = Labeller(lambda: (), feed=Feed(window), sources=["a", "b"])
    assert labeller.poll() == [NameRecent(window)]
    frames = [Frame(id="1", encoded=b"x", source=name, time=5.0) for name in "ab"]
    assert [labeller.label_of(frame) for frame in frames] == [None, "cup"]
    wrong = replace(window, source="c")
    labeller = Labeller(lambda: (), feed=Feed(wrong), sources=["a", "b"])
    assert labeller.poll() == []
    assert [e.text() for e in labeller.events()] == [
        "a label is not used: no source is called 'c'; a, b"
    ]
    for bad in ("7", '""', "[]"):
        with pytest.raises(UsageError, match="source"):
            parse_message(f'{{"label": "cup", "source": {bad}}}')


class Feed:
    def __init__(self, *messages: LabelWindow) -> None:
        self._waiting = list(messages)

    def poll(self) -> list[Any]:
        found, self._waiting = self._waiting, []
        return found

    def news(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


def test_recent_frames_of_one_source_are_taken_alone() -> None:
    recent = RecentFrames(10_000)
    for i, name in enumerate("abab"):
        frame = Frame(id=str(i), encoded=b"x", source=name)
        recent.add(Embedded(frame, np.zeros(2, np.float32)), float(i))
    assert [item.frame.id for item in recent.take(lambda moment: moment > 0, "b")] == ["1", "3"]
    assert [item.frame.id for item in recent.take(lambda moment: True)] == ["0", "2"]
    assert recent.size_bytes == 0


def test_the_frame_time_is_that_of_the_source() -> None:
    freshness = Freshness()
    for i in range(1, 21):
        freshness.came(Frame(id="1", encoded=b"x", source="slow", monotonic=float(i)))
        freshness.came(Frame(id="1", encoded=b"x", source="fast", monotonic=i + 0.1))
        freshness.came(Frame(id="1", encoded=b"x", source="fast", monotonic=i + 0.2))
    slow, fast = (Frame(id="1", encoded=b"x", source=s, monotonic=20.0) for s in ("slow", "fast"))
    assert freshness.age(slow, 21.0) == pytest.approx(1.0)
    assert freshness.age(fast, 21.0) > 1.0


def test_a_crop_that_no_frame_has_room_for_is_told_once_and_counted(device: Home) -> None:
    parts = [
        Part("far", "camera:washer/washer", parse_options(crop="0,0,400,400")),
        Part("near", "camera:washer/washer"),
    ]
    steps = run(device, Several(parts, opened()))
    events = [e for step in steps for e in step.events if isinstance(e, FrameSkipped)]
    (event,) = events
    assert event.reason == "crop 0,0,400,400 does not lie in the picture, which has 32 x 32 pixels"
    assert steps[-1].skipped == steps[-1].by_source["far"]["seen"] > 4
    assert steps[-1].by_source["near"]["learned"] > 4


def test_the_sources_of_the_settings_are_opened(device: Home, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no \[\[source\]\]"):
        open_sources(device)
    tables = (
        SourceConfig("a", "synthetic:fps=100,frames=3", crop="0,0,50%,50%", label="cup", vote=2),
        SourceConfig("b", "synthetic:fps=100,frames=3,labels=0", threshold=0.5),
    )
    device.save_config(replace(device.config, source=tables))
    source = open_sources(device, label="mug")
    assert {name: (p.vote, p.threshold, p.label) for name, p in source.parts.items()} == {
        "a": (2, None, "mug"),
        "b": (None, 0.5, "mug"),
    }
    frames = [f for f in source.frames() if isinstance(f, Frame)]
    assert {(f.source, f.label, f.cut is not None) for f in frames} == {
        ("a", "mug", True),
        ("b", "mug", False),
    }


def test_a_password_comes_from_a_file_and_is_shown_nowhere(device: Home) -> None:
    file = device.path / "gate.password"
    file.write_text("s@zqx/t\nnot this\n")
    file.chmod(0o644)
    table = SourceConfig("gate", "http://admin@127.0.0.1:9/live", password_file="gate.password")
    device.save_config(replace(device.config, source=(table,)))
    source = open_sources(device)
    (url,) = (part.url for part in source.parts.values())
    assert url == "http://admin:s%40zqx%2Ft@127.0.0.1:9/live"
    assert any("every user" in note for note in source.notes)
    assert "zqx" not in repr(source.parts) + str(source.notes) + source.name
    file.chmod(0o600)
    assert not open_sources(device).notes
    for text, kind, told in [("", SourceError, "no password"), ("\n", SourceError, "no password")]:
        file.write_text(text)
        with pytest.raises(kind, match=told):
            open_sources(device)
    file.unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        open_sources(device)
    os.symlink("/etc/hostname", file)
    with pytest.raises(IntegrityError, match="link"):
        open_sources(device)
    plain = replace(table, url="http://127.0.0.1:9/live")
    device.save_config(replace(device.config, source=(plain,)))
    with pytest.raises(UsageError, match="USER@HOST"):
        open_sources(device)


@pytest.mark.slow
def test_ten_thousand_frames_of_four_sources_take_no_more_memory(device: Home) -> None:
    names = ("washer", "bracket", "gasket", "bolt-m4")
    # One is learned, so that most of the time does not go into commits.
    parts = [Part(name, f"camera:{name}" + f"/{name}" * (i == 0)) for i, name in enumerate(names)]
    source = Several(parts, opened(n=10**6, every_s=0.01))
    sizes: list[float] = []
    n_seen, end = 0, time.monotonic() + 550
    with device.lock(), open_store(device) as store:
        learner = open_learner(device, store)
        steps = learn_stream(
            device, learner, FakeEngine(), source, key="k", start=Position(0, b"", False)
        )
        with closing(steps):
            for progress in steps:
                if progress.seen // 1000 > n_seen // 1000:
                    sizes.append(rss_mb())
                n_seen = progress.seen
                if n_seen >= 10_000 or time.monotonic() > end:
                    break
    assert n_seen >= 10_000
    assert progress.learned > 500
    # Between the third thousand and the last: what is kept is bounded by then.
    assert sizes[-1] - sizes[2] < 12


def rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
