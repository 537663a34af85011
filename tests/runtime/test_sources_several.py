"""Several live sources as one: in turn, each by its name, and none ends the others."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from patience import no_thread_is_left, until

import build
from edgecl.errors import SourceError, UsageError
from edgecl.runtime.options import Options, Part, parse_options
from edgecl.runtime.sources import open_several, open_source
from edgecl.runtime.sources import several as module
from edgecl.runtime.sources.live import LiveSource, Shot
from edgecl.runtime.sources.messages import Command, LabelWindow
from edgecl.runtime.sources.several import Several
from edgecl.runtime.sources.watch import WatchSource
from edgecl.types import Frame, Skipped


class Camera:
    """A connection that gives a picture every so often, of one grey a camera."""

    n_open = 0

    def __init__(self, grey: int, n: int | None = None, every_s: float = 0.002) -> None:
        self._grey, self._n, self._every_s = grey, n, every_s
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Shot]:
        Camera.n_open += 1
        for i in itertools.count() if self._n is None else range(self._n):
            if self._closed.wait(self._every_s):
                return
            picture = np.full((8, 8, 3), self._grey, np.uint8)
            picture[0, 0] = (i % 256, i // 256, 0)
            yield Shot(pixels=picture)

    def close(self) -> None:
        self._closed.set()


def cameras(**n: int | None) -> Callable[[str], LiveSource]:
    """Open `camera:GREY`; the arguments say how many pictures `cGREY` gives."""

    def open_one(url: str) -> LiveSource:
        grey = int(url.partition(":")[2])
        return LiveSource(url, lambda _: Camera(grey, n.get(f"c{grey}")))

    return open_one


def taken(source: Several, n: int) -> list[Frame]:
    frames = [f for f in itertools.islice(source.frames(), n) if isinstance(f, Frame)]
    source.close()
    return frames


def test_frames_carry_the_names_and_come_in_turn() -> None:
    parts = [Part(name, f"camera:{i}") for i, name in enumerate("abcd")]
    source = Several(parts, cameras())
    frames: list[Frame] = []
    for frame in source.frames():
        assert isinstance(frame, Frame)
        frames.append(frame)
        # Taken more slowly than they come: all wait at every turn.
        assert until(lambda: len(frames) == 60 or all(slot.newest for slot in source._slots))
        if len(frames) == 60:
            source.close()
    assert source.is_live
    for frame in frames:
        assert frame.pixels is not None
        assert frame.pixels[4, 4, 0] == "abcd".index(frame.source)
    n = Counter(frame.source for frame in frames)
    assert max(n.values()) - min(n.values()) <= 2
    assert {name: counts["seen"] for name, counts in source.by_source.items()} == n
    counts = source.counts
    assert counts.received >= 60
    assert counts.dropped == sum(c["dropped"] for c in source.by_source.values()) > 0


def test_two_parts_of_one_camera_are_two_sources_over_one_connection() -> None:
    Camera.n_open = 0
    parts = [
        Part("left", "camera:7", parse_options(crop="0,0,50%,100%")),
        Part("right", "camera:7", parse_options(crop="50%,0,50%,50%")),
    ]
    source = Several(parts, cameras(c7=200))
    frames = taken(source, 20)
    assert Camera.n_open == 1
    shapes = set()
    for frame in frames:
        assert frame.cut is not None
        assert frame.pixels is not None
        shapes.add((frame.source, frame.cut(frame.pixels).shape))
    assert shapes == {("left", (8, 4, 3)), ("right", (4, 4, 3))}
    assert source.counts.received <= 200


def test_a_label_and_motion_are_of_one_source_only() -> None:
    parts = [
        Part("a", "camera:1", label="cup"),
        Part("b", "camera:2", Options(motion=0.5)),
        Part("c", "camera:2"),
    ]
    source = Several(parts, cameras(c1=30, c2=30))
    frames = [f for f in source.frames() if isinstance(f, Frame)]
    assert {(f.source, f.label) for f in frames} == {("a", "cup"), ("b", None), ("c", None)}
    by = source.by_source
    assert by["b"]["seen"] == 1
    assert by["b"]["still"] > 0
    assert source.counts.still == by["b"]["still"]
    assert by["a"]["still"] == by["c"]["still"] == 0


def test_what_is_lost_or_ends_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.02)
    tries = Counter[str]()
    opened = cameras(c1=None, c2=3)

    def open_one(url: str) -> LiveSource:
        tries[url] += 1
        if url == "camera:9" and tries[url] < 4:
            raise SourceError("there is no camera 9")
        return opened(url)

    class Refusing:
        def __iter__(self) -> Iterator[Shot]:
            raise SourceError("rtsp://u:secret@h/ answered 404")

        def close(self) -> None:
            pass

    def open_all(url: str) -> LiveSource:
        if url == "camera:8":
            return LiveSource(url, lambda _: Refusing())  # type: ignore[arg-type,return-value]
        return open_one(url)

    parts = [Part(f"s{i}", f"camera:{i}") for i in (1, 2, 8, 9)]
    source = Several(parts, open_all)
    assert source.notes == ["s9: there is no camera 9; it is tried again"]
    told: list[str] = []
    source.on_news = told.append
    seen = Counter[str]()
    end = time.monotonic() + 90
    for frame in source.frames():
        assert isinstance(frame, Frame)
        seen[frame.source] += 1
        if (seen["s9"] > 3 and seen["s1"] > 50) or time.monotonic() > end:
            source.close()
    assert seen["s9"] > 3
    assert 1 <= seen["s2"] <= 3
    assert seen["s8"] == 0
    assert any(line.startswith("s9: there is no camera 9; trying again in") for line in told)
    assert any(line.startswith("s8: ") and "404" in line for line in told)
    assert "s1: connected" in told
    assert not any("secret" in line for line in told)
    assert source.notes == [line for line in source.notes if line.startswith("s8")]


def test_what_a_driver_raises_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.01)
    faults, told = [RuntimeError("driver fell over")], []

    def connect(grey: int) -> Camera:
        if grey and faults:
            raise faults.pop()
        return Camera(grey)

    parts = [Part("good", "camera:0"), Part("bad", "camera:9")]
    source = Several(parts, lambda url: LiveSource(url, lambda _: connect(int(url[-1]))))
    source.on_news = told.append
    seen = set()
    for frame in source.frames():
        seen.add(frame.source if isinstance(frame, Frame) else "")
        if len(seen) == 2:
            source.close()
    assert seen == {"good", "bad"}
    assert "bad: RuntimeError: driver fell over; trying again in 0 s" in told


def test_when_all_have_ended_it_ends_and_threads_are_gone() -> None:
    source = Several([Part(n, f"camera:{i}") for i, n in enumerate("ab")], cameras(c0=5, c1=5))
    assert {f.source for f in source.frames() if isinstance(f, Frame)} == {"a", "b"}
    assert no_thread_is_left("peer", "live")
    # It can be read again, as every live source.
    assert len(list(source.frames())) >= 2


def test_close_wakes_who_waits_from_another_thread() -> None:
    source = Several([Part("a", "camera:0")], lambda url: LiveSource(url, lambda _: Silent()))
    threading.Timer(0.1, source.close).start()
    assert list(source.frames()) == []  # or it would wait for ever


class Silent:
    def __init__(self) -> None:
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Shot]:
        self._closed.wait()
        yield from ()

    def close(self) -> None:
        self._closed.set()


def test_every_takes_a_frame_of_each_so_often() -> None:
    source = Several([Part(n, f"camera:{i}") for i, n in enumerate("ab")], cameras())
    source.take_every(0.3)
    begin = time.monotonic()
    frames = taken(source, 6)
    assert time.monotonic() - begin >= 0.6
    assert Counter(f.source for f in frames) == {"a": 3, "b": 3}


def test_no_file_of_a_queue_is_dropped(tmp_path: Path) -> None:
    def open_one(url: str) -> WatchSource | LiveSource:
        return cameras()(url) if url.startswith("camera") else WatchSource(tmp_path, look_s=0.02)

    source = Several([Part("a", "watch:"), Part("b", "camera:1")], open_one)
    for i in range(8):
        (tmp_path / f"{i}.jpg").write_bytes(build.encode(build.part_picture("bolt-m4", i, 16)))
    found: list[str] = []
    end = time.monotonic() + 90
    for item in source.frames():
        time.sleep(0.01)
        if isinstance(item, Skipped) or item.source == "a":
            found.append(item.id)
        if len(found) == 8 or time.monotonic() > end:
            source.close()
    assert sorted(found) == [f"{i}.jpg" for i in range(8)]


@pytest.mark.parametrize("url", ["synthetic:fps=0,frames=3", "{folder}", "{table}", "-"])
def test_what_is_not_live_is_refused_with_its_name(tmp_path: Path, url: str) -> None:
    folder = build.part_folder(tmp_path / "parts", 1)
    table = tmp_path / "t.csv"
    table.write_text("path,label\nparts/x.png,a\n")
    with pytest.raises(UsageError, match=r"source gate: .*not live"):
        open_several([Part("gate", url.format(folder=folder, table=table))])


def test_none_that_can_be_opened_is_an_error_at_once() -> None:
    # Without OpenCV that is what is told of each.
    told = "cameras, RTSP and video files need OpenCV"
    if find_spec("cv2"):
        told = "there is no camera /dev/video98"
    with pytest.raises(SourceError, match=f"a: {told}.*; b: ") as caught:
        open_several([Part("a", "camera:98"), Part("b", "camera:99")])
    assert "tried again" not in str(caught.value)
    with pytest.raises(UsageError, match="source a: synthetic: option 'x'"):
        open_several([Part("a", "synthetic:x=1"), Part("b", "synthetic:")])


def test_labels_of_a_source_hold_for_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"label": "cup"}\n{"label": "mug", "source": "b"}\n{"command": "undo"}\n')
    parts = [Part("a", "synthetic:", labels=str(path)), Part("b", "synthetic:seed=1")]
    source = open_several(parts)
    feed = source.feed
    assert feed is not None
    found: list[LabelWindow | Command] = []
    end = time.monotonic() + 90
    while len(found) < 3 and time.monotonic() < end:
        found += feed.poll()
        time.sleep(0.01)
    feed.close()
    windows = [m for m in found if isinstance(m, LabelWindow)]
    assert [(w.label, w.source) for w in windows] == [("cup", "a"), ("mug", "a")]
    assert found[2] == Command("undo")
    assert open_source("synthetic:").parts == {}
