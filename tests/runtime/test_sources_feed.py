"""Sources that are fed: the test pattern, a watched folder, pictures in lines, label messages."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE_S, no_thread_is_left, until

import build
from edgecl.errors import MissingPackageError, SourceError, UsageError
from edgecl.home import Home
from edgecl.runtime.broker import parse_broker
from edgecl.runtime.sources import open_source
from edgecl.runtime.sources.inline import inline_picture, loads
from edgecl.runtime.sources.labels import open_feed, open_labels
from edgecl.runtime.sources.messages import (
    Command,
    LabelFeed,
    LabelWindow,
    message_of,
    moment_of,
    parse_message,
)
from edgecl.runtime.sources.synthetic import MAX_CLASSES, parse_pattern
from edgecl.runtime.sources.watch import WatchSource
from edgecl.types import Frame, Skipped

PICTURE = build.encode(build.part_picture("washer", 0, 8), "PNG")
SECRET = "hunter2"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def put(path: Path, data: bytes = PICTURE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def other(i: int) -> bytes:
    return build.encode(build.part_picture("bolt-m4", i, 8), "PNG")


# The test pattern


def test_the_pattern_shows_class_after_class_and_round_again_with_known_labels() -> None:
    source = open_source("synthetic:classes=3,size=16,fps=0,frames=14,hold=2")
    items = [item for item in source.frames() if isinstance(item, Frame)]
    names = [item.label for item in items]
    assert len(source) == len(items) == 14
    assert names[:6] == [names[0]] * 2 + [names[2]] * 2 + [names[4]] * 2
    assert len(set(names)) == 3
    assert names == (names[:6] * 3)[:14]
    assert all(item.pixels is not None and item.pixels.shape == (16, 16, 3) for item in items)
    assert not source.is_live


def test_the_pattern_is_the_same_in_every_run_and_goes_on_from_any_position() -> None:
    def pictures(spec: str, start: int = 0) -> list[bytes]:
        items = open_source(spec).frames(start)
        return [item.pixels.tobytes() for item in items if isinstance(item, Frame)]  # type: ignore[union-attr]

    spec = "synthetic:size=32,fps=0,frames=90"
    assert pictures(spec) == pictures(spec)
    assert pictures(spec, 33) == pictures(spec)[33:]
    assert len(set(pictures(spec))) == 90
    assert pictures(spec) != pictures(spec + ",seed=1")
    source = open_source(spec)
    assert list(source.ids(7)) == [item.id for item in source.frames()][:7]


def test_every_class_of_the_pattern_has_a_name_of_its_own() -> None:
    pattern = parse_pattern(f"synthetic:classes={MAX_CLASSES},hold=1")
    assert len({pattern.label(i) for i in range(MAX_CLASSES)}) == MAX_CLASSES


def test_the_pattern_without_labels_and_under_another_label() -> None:
    spec = "synthetic:size=16,fps=0,frames=2"
    assert [i.label for i in open_source(spec + ",labels=0").frames()] == [None, None]  # type: ignore[union-attr]
    assert [i.label for i in open_source(spec, label="x").frames()] == ["x", "x"]  # type: ignore[union-attr]


def test_the_live_pattern_is_paced_and_drops_what_nobody_takes() -> None:
    source = open_source("synthetic:size=16,fps=100,frames=60,hold=1000")
    assert source.is_live
    begin = time.monotonic()
    with closing(source.frames()) as frames:  # type: ignore[type-var]
        first = next(frames)
        time.sleep(0.3)
        rest = list(frames)
    assert isinstance(first, Frame)
    assert time.monotonic() - begin > 0.5
    assert 0 < len(rest) < 59
    assert all(isinstance(i, Frame) and i.monotonic > begin and i.label for i in rest)
    assert len({i.id for i in rest}) == len(rest)
    assert source.counts.dropped == 60 - 1 - len(rest)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("colour=red", "known"),
        ("=", "known"),
        ("fps=0", "frames=500"),
        ("fps=nan", "fps=nan"),
        ("fps=-1", "fps=-1"),
        ("fps=0.001", "0.001"),
        ("classes=0", "classes=0"),
        ("classes=1000", "classes=1000"),
        ("size=1.5", "size=1.5"),
        ("size=99999", "size=99999"),
        ("hold=", "hold="),
        ("seed=1,seed=1", "twice"),
        ("labels=yes", "labels=yes"),
    ],
)
def test_an_option_of_the_pattern_that_cannot_be_meant_is_one_line(options: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        open_source(f"synthetic:{options}")
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_behind_synthetic_opens_or_is_a_usage_error(text: str) -> None:
    try:
        parse_pattern("synthetic:" + text)
    except UsageError:
        pass


@pytest.mark.parametrize("spec", ["synthetic:", "watch:.", "mqtt://host/topic"])
def test_what_is_live_cannot_be_shuffled(spec: str) -> None:
    with pytest.raises(UsageError, match="cannot be shuffled"):
        open_source(spec, shuffle_seed=1)


# A watched folder


class Watched:
    """A watched folder with a thread that takes what comes."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.items: list[Frame | Skipped] = []
        self.news: list[str] = []
        self.source = WatchSource(folder, look_s=0.03, **options)
        self.source.on_news = self.news.append
        self.hold = threading.Event()
        self.hold.set()
        self._frames = self.source.frames()
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        for item in self._frames:
            self.items.append(item)
            self.hold.wait(90)

    def wait(self, n: int) -> list[tuple[str, str | None]]:
        assert until(lambda: len(self.items) >= n)
        time.sleep(0.15)  # what must not come has time to come
        assert len(self.items) == n, self.items
        return [(i.id, i.label if isinstance(i, Frame) else "skipped") for i in self.items]

    def close(self) -> None:
        self.hold.set()
        self.source.close()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    put(tmp_path / "cup" / "old.png")
    with closing(Watched(tmp_path)) as found:
        yield found


def test_only_new_pictures_come_with_their_folder_as_class(
    watched: Watched, tmp_path: Path
) -> None:
    put(tmp_path / "1.png")
    watched.wait(1)
    put(tmp_path / "cup" / "2.png")
    watched.wait(2)
    put(tmp_path / "bolt" / "deep" / "3.png")
    put(tmp_path / "cup" / "notes.txt", b"no picture")
    assert watched.wait(3) == [
        ("1.png", None), ("cup/2.png", "cup"), ("bolt/deep/3.png", "bolt"),
    ]  # fmt: skip
    frame = watched.items[0]
    assert isinstance(frame, Frame)
    assert frame.encoded == PICTURE
    assert frame.source == f"watch:{tmp_path}"
    assert abs(frame.time - time.time()) < 60
    assert watched.source.is_live
    assert list(watched.source.ids(5)) == []


def test_half_written_names_are_waited_for_until_they_are_renamed(
    watched: Watched, tmp_path: Path
) -> None:
    for name in (".1.png", "2.png.part", "3.png.tmp", ".hidden/4.png"):
        put(tmp_path / name, other(len(name)))
    watched.wait(0)
    (tmp_path / ".1.png").rename(tmp_path / "1.png")
    (tmp_path / "2.png.part").rename(tmp_path / "2.png")
    assert sorted(watched.wait(2)) == [("1.png", None), ("2.png", None)]


def test_a_file_that_is_being_written_is_not_read_before_it_stands_still(tmp_path: Path) -> None:
    source = WatchSource(tmp_path)
    with (tmp_path / "1.png").open("wb") as file:
        for i in range(10):
            file.write(PICTURE[i * 5 : i * 5 + 5])
            file.flush()
            assert source._ready() == []
        file.write(PICTURE[50:])
    assert source._ready() == []
    item = next(source.frames())
    assert isinstance(item, Frame)
    assert item.encoded == PICTURE


def test_a_replaced_file_is_a_new_picture_and_the_same_bytes_again_are_not(
    watched: Watched, tmp_path: Path
) -> None:
    put(tmp_path / "latest.png", other(0))
    watched.wait(1)
    os.utime(tmp_path / "latest.png", (1, 1))
    assert until(lambda: watched.source.counts.repeated == 1)
    watched.wait(1)
    put(tmp_path / ".next", other(1)).rename(tmp_path / "latest.png")
    assert watched.wait(2) == [("latest.png", None), ("latest.png#2", None)]
    assert watched.source.counts.repeated == 1


def test_a_picture_of_the_beginning_that_is_moved_into_a_class_is_new(
    watched: Watched, tmp_path: Path
) -> None:
    (tmp_path / "bolt").mkdir()
    (tmp_path / "cup" / "old.png").rename(tmp_path / "bolt" / "old.png")
    assert watched.wait(1) == [("bolt/old.png", "bolt")]


def test_no_file_is_dropped_while_nobody_takes_them(watched: Watched, tmp_path: Path) -> None:
    watched.hold.clear()
    for i in range(50):
        put(tmp_path / f"{i:02}.png", other(i))
        os.utime(tmp_path / f"{i:02}.png", (i + 1, i + 1))
    time.sleep(0.2)
    watched.hold.set()
    names = [name for name, _ in watched.wait(50)]
    assert len(set(names)) == 50
    assert watched.source.counts.dropped == 0


def test_a_file_that_is_gone_or_too_large_before_its_turn_is_skipped_and_named(
    tmp_path: Path,
) -> None:
    with closing(Watched(tmp_path, max_bytes=1000)) as watched:
        watched.hold.clear()
        put(tmp_path / "0.png")
        assert until(lambda: len(watched.items) == 1)
        put(tmp_path / "1.png")
        put(tmp_path / "2.png", bytes(1001))
        watched.hold.set()
        assert until(lambda: "1.png" in watched.source._known)
        (tmp_path / "1.png").unlink()
        found = dict(watched.wait(3))
    # It may have been read just before it went; it is named once in any case.
    assert found.keys() == {"0.png", "1.png", "2.png"}
    assert found["2.png"] == "skipped"


def test_what_is_remembered_is_bounded_by_what_lies_in_the_folder(
    watched: Watched, tmp_path: Path
) -> None:
    for i in range(3):
        put(tmp_path / f"{i}.png", other(i))
    watched.wait(3)
    for path in tmp_path.glob("*.png"):
        path.unlink()
    assert until(lambda: set(watched.source._known) == {"cup/old.png"})


def test_a_folder_that_goes_and_comes_back_is_waited_for_and_told(
    watched: Watched, tmp_path: Path
) -> None:
    tmp_path.rename(tmp_path.with_name("away"))
    assert until(lambda: len(watched.news) == 1)
    tmp_path.with_name("away").rename(tmp_path)
    assert until(lambda: len(watched.news) == 2)
    put(tmp_path / "cup" / "1.png")
    assert ("cup/1.png", "cup") in watched.wait(1)


def test_pictures_of_a_folder_that_cannot_be_read_for_a_while_do_not_come_again(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir
    calls: list[str] = []

    def refuse(path: Any) -> Any:
        calls.append(str(path))
        if str(path).endswith("cup"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert until(lambda: len(calls) > 8)
    monkeypatch.setattr(os, "scandir", real)
    put(tmp_path / "cup" / "1.png", other(1))
    assert watched.wait(1) == [("cup/1.png", "cup")]


def test_watching_survives_links_that_lead_back_and_folders_that_are_no_class(
    watched: Watched, tmp_path: Path
) -> None:
    (tmp_path / "cup" / "back").symlink_to(tmp_path)
    put(tmp_path / "a\x07" / "1.png")
    put(tmp_path / "2.png", other(2))
    assert sorted(watched.wait(2)) == [("2.png", None), ("a\x07/1.png", "skipped")]


def test_the_label_option_wins_over_the_watched_folder(tmp_path: Path) -> None:
    with closing(Watched(tmp_path, label="all")) as watched:
        put(tmp_path / "cup" / "1.png")
        assert watched.wait(1) == [("cup/1.png", "all")]


@pytest.mark.parametrize("spec", ["watch:/no/such/place", "watch:/dev/null"])
def test_what_cannot_be_watched_is_one_line(spec: str) -> None:
    with pytest.raises(SourceError, match="cannot be watched"):
        open_source(spec)
    with pytest.raises(UsageError, match="names no folder"):
        open_source("watch:")


# Pictures in lines


def lines(monkeypatch: pytest.MonkeyPatch, *values: Any, **options: Any) -> list[Frame | Skipped]:
    text = "".join((v if isinstance(v, str) else json.dumps(v)) + "\n" for v in values)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return list(open_source("-", **options).frames())


def test_a_closed_standard_input_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SourceError, match="no standard input"):
        open_source("-")


def b64(data: bytes = PICTURE) -> str:
    return base64.b64encode(data).decode()


def test_lines_may_hold_the_picture_with_id_time_and_label(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = lines(
        monkeypatch,
        {"image": b64(), "label": "cup", "id": "cam-1", "time": 12.5},
        {"image": f"data:image/png;base64,{b64()}"},
        {"image": b64()[:20] + "\n" + b64()[20:], "label": None, "id": 7},
        {"image": b64(), "time": "1970-01-01T00:00:12Z"},
    )
    frames = [i for i in items if isinstance(i, Frame)]
    assert len(frames) == 4
    assert all(frame.encoded == PICTURE and frame.source == "-" for frame in frames)
    assert [(f.id, f.label, f.time) for f in frames] == [
        ("cam-1", "cup", 12.5), ("line 2", None, 0), ("7", None, 0), ("line 4", None, 12),
    ]  # fmt: skip


def test_a_line_with_a_path_is_read_as_before_whatever_else_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(put(tmp_path / "1.png"))
    (item,) = lines(monkeypatch, {"path": path, "id": "x", "time": "noon", "image": 3})
    assert isinstance(item, Frame)
    assert item.id == path


@pytest.mark.parametrize(
    "value",
    [
        {"image": ""},
        {"image": 3},
        {"image": "ä"},
        {"image": "AAA"},
        {"image": "data:image/png,abc"},
        {"image": b64(bytes(2000))},
        {"image": b64(), "label": {}},
        {"image": b64(), "label": "\x07"},
        {"image": b64(), "id": []},
        {"image": b64(), "id": "x" * 2000},
        {"image": b64(), "time": "noon"},
        {"image": b64(), "time": float("nan")},
        {"path": "x" * 70_000},
        {},
    ],
)
def test_a_line_whose_picture_cannot_be_used_is_one_skip_with_a_reason(
    value: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = lines(monkeypatch, value, {"image": b64(), "id": "next"}, max_bytes=1500)
    assert [item.id for item in items] == ["line 1", "next"]
    assert isinstance(items[0], Skipped)
    assert len(items[0].reason) < 200


def test_the_limit_of_a_line_follows_the_limit_of_a_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = bytes(300_000)
    one, two = ({"image": b64(large)}, {"image": b64(), "id": "next"})
    assert isinstance(lines(monkeypatch, one, max_bytes=300_000)[0], Frame)
    items = lines(monkeypatch, one, two, max_bytes=100_000)
    assert isinstance(items[0], Skipped)
    assert "longer than" in items[0].reason
    assert items[1].id == "next"


def test_a_long_line_of_many_small_parts_is_not_parsed() -> None:
    assert loads("[" + "[]," * 100_000 + "[]]") is None
    assert loads("[" * 100_000) is None
    assert loads('{"image": "' + "A" * 100_000 + '"}') is not None


def test_positions_of_lines_with_pictures_are_named_as_their_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = [{"image": b64(), "id": "a"}, {"image": "!", "id": "b"}, {"image": b64()}]
    text = "".join(json.dumps(v) + "\n" for v in values)
    names = [item.id for item in lines(monkeypatch, *values)]
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert list(open_source("-").ids(3)) == names


@given(JSON)
def test_any_json_is_a_picture_none_or_a_usage_error(value: Any) -> None:
    for candidate in (value, {"image": value}, {"image": b64(), "id": value, "label": value}):
        try:
            found = inline_picture(candidate, 1000)
        except UsageError:
            continue
        assert found is None or found.encoded


# Labels and commands


def test_label_messages_in_all_their_forms() -> None:
    def read(**value: Any) -> LabelWindow | Command:
        return parse_message(json.dumps(value), now=100.0)

    assert read(label="cup", **{"from": 1, "to": 2.5}) == LabelWindow("cup", 1, 2.5)
    assert read(label=" cup ") == LabelWindow("cup", 100.0, None)
    assert read(label=None) == LabelWindow(None, 100.0, None)
    assert read(label=7, to=200) == LabelWindow("7", 100.0, 200)
    assert read(label="cup", **{"from": "1970-01-01T01:00:00+01:00"}) == LabelWindow("cup", 0)
    assert read(command="undo", n=5) == Command("undo", 5)
    assert read(command="undo") == Command("undo", 1)
    assert read(command="pause") == Command("pause")
    window = LabelWindow("cup", 1, 2)
    assert [window.holds(t) for t in (0.9, 1, 1.9, 2)] == [False, True, True, False]
    assert LabelWindow("cup", 1).holds(1e12)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "{}",
        "[" * 100_000,
        '{"label": []}',
        '{"label": true}',
        '{"label": ""}',
        '{"label": "a\\u0007"}',
        '{"label": "\\ud800"}',
        '{"label": "cup", "from": "noon"}',
        '{"label": "cup", "from": NaN}',
        '{"label": "cup", "to": 1e999}',
        '{"label": "cup", "from": 5, "to": 5}',
        '{"label": "cup", "to": 5}',
        '{"command": "stop"}',
        '{"command": ["undo"]}',
        '{"command": "undo", "n": 0}',
        '{"command": "undo", "n": true}',
        '{"command": "undo", "n": 1.5}',
        '{"command": "undo", "n": 1000000000}',
    ],
)
def test_a_message_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_message(text)
    assert "\n" not in str(caught.value)


@given(JSON)
def test_any_json_is_a_message_none_or_a_usage_error(value: Any) -> None:
    for candidate in (
        value,
        {"label": value},
        {"label": "cup", "from": value, "to": value},
        {"command": value},
        {"command": "undo", "n": value},
    ):
        try:
            found = message_of(candidate)
        except UsageError:
            continue
        assert found is None or isinstance(found, LabelWindow | Command)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_a_usage_error(data: bytes) -> None:
    try:
        parse_message(data)
    except UsageError:
        pass


def collect(feed: LabelFeed, n: int) -> list[LabelWindow | Command]:
    found: list[LabelWindow | Command] = []

    def has_all() -> bool:
        found.extend(feed.poll())
        return len(found) >= n

    assert until(has_all)
    return found


@pytest.fixture
def stdin_pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    reader, writer = os.pipe()
    with os.fdopen(reader) as stdin, os.fdopen(writer, "wb", buffering=0) as out:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield lambda data: out.write(data) and None


def test_labels_come_from_standard_input_and_bad_lines_are_named(
    stdin_pipe: Callable[[bytes], None],
) -> None:
    with closing(open_labels("-", source="camera:0")) as feed:
        assert feed.poll() == []
        stdin_pipe(b'{"label": "cup", "from": 1}\n\n\xff\n{"la')
        stdin_pipe(b'bel": null, "from": 2}\n' + b"x" * 50_000)
        stdin_pipe(b"x" * 50_000 + b'\n{"command": "pause"}\n')
        assert collect(feed, 3) == [
            LabelWindow("cup", 1), LabelWindow(None, 2), Command("pause"),
        ]  # fmt: skip
        assert [line.split(":")[0] for line in feed.news()] == [
            "line 3 of standard input", "line 5 of standard input",
        ]  # fmt: skip
        assert feed.news() == []


def test_of_very_many_bad_messages_the_number_is_told(
    stdin_pipe: Callable[[bytes], None],
) -> None:
    with closing(open_labels("-")) as feed:
        stdin_pipe(b"bad\n" * 300 + b'{"command": "pause"}\n')
        assert collect(feed, 1) == [Command("pause")]
        *lines, last = feed.news()
        assert len(lines) < 100
        assert last == f"{300 - len(lines)} more label messages could not be used"
        assert feed.news() == []


def test_a_label_feed_that_nobody_feeds_ends_at_once(
    stdin_pipe: Callable[[bytes], None],
) -> None:
    feed = open_labels("-")
    feed.close()
    feed.close()
    assert no_thread_is_left("labels")


def test_a_label_feed_that_nobody_reads_is_bounded_and_ends(
    stdin_pipe: Callable[[bytes], None],
) -> None:
    with closing(open_labels("-")) as feed:
        stdin_pipe(b'{"command": "resume"}\n' * 2000)
        taken: list[int] = []

        def took_all() -> bool:
            time.sleep(0.1)  # more have time to come than may wait
            taken.append(len(feed.poll()))
            return sum(taken) == 2000

        assert until(took_all)
        assert max(taken) <= 1000
        stdin_pipe(b'{"command": "resume"}\n' * 2000)
    assert no_thread_is_left("labels")


def test_labels_come_from_a_file_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"label": "cup", "from": 1, "to": 2}\n')
    with closing(open_labels(str(path), source="-")) as feed:
        assert collect(feed, 1) == [LabelWindow("cup", 1, 2)]
        with path.open("a") as file:
            file.write('{"command": "undo", "n": 3}\n')
        assert collect(feed, 1) == [Command("undo", 3)]


def test_labels_come_from_a_named_pipe_that_has_writers_one_after_the_other(
    tmp_path: Path,
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with closing(open_labels(str(path))) as feed:
        for name in ("a", "b"):
            with path.open("w") as file:
                file.write(f'{{"label": "{name}", "from": 1}}\n')
            assert collect(feed, 1) == [LabelWindow(name, 1)]


def test_standard_input_cannot_be_source_and_labels_at_once() -> None:
    with pytest.raises(UsageError, match="both read standard input"):
        open_labels("-", source="-")


@pytest.mark.parametrize("spec", ["/no/such/file", "/tmp", "a\0b", "http://me:s3cret@host/topic"])
def test_labels_that_cannot_be_read_are_one_line(spec: str) -> None:
    with pytest.raises(SourceError, match="expected") as error:
        open_labels(spec)
    assert "s3cret" not in str(error.value)


def test_labels_of_the_source_and_of_the_option_come_in_one_feed(tmp_path: Path) -> None:
    path = put(tmp_path / "labels.jsonl", b'{"command": "pause"}\n')
    pattern = open_source("synthetic:")
    assert open_feed(None, pattern) is None
    topic = open_source("mqtt://host/topic")
    topic.feed.offer(Command("resume"))  # type: ignore[attr-defined]
    feed = open_feed(str(path), topic)
    assert feed is not None
    with closing(feed):
        assert collect(feed, 2) == [Command("resume"), Command("pause")]
        assert feed.news() == []


# MQTT addresses (the broker itself: tests/live/test_mqtt.py)


def test_an_address_of_a_topic_is_read_and_shown_without_its_secret() -> None:
    broker = parse_broker(f"mqtts://m%40e:p@{SECRET}%2F@[::1]:99/a/+/c d/#")
    assert (broker.host, broker.port, broker.topic) == ("::1", 99, "a/+/c d/#")
    assert (broker.user, broker.password, broker.is_encrypted) == ("m@e", f"p@{SECRET}/", True)
    assert broker.name == "mqtts://[::1]:99/a/+/c d/#"
    assert SECRET not in repr(broker)
    plain = parse_broker("MQTT://host/t")
    assert (plain.port, plain.user, plain.password, plain.name) == (
        1883,
        None,
        None,
        "mqtt://host/t",
    )


@pytest.mark.parametrize(
    "spec",
    [
        "mqtt://",
        "mqtt:///topic",
        "mqtt://host",
        "mqtt://host/",
        f"mqtt://me:{SECRET}@host/a\n",
        f"mqtt://me:{SECRET}@host:0x/a",
        f"mqtt://me:{SECRET}@host:99999/a",
        f"mqtt://me:{SECRET}@host/a/#/b",
        f"mqtt://me:{SECRET}@host/a+",
        f"mqtt://me:{SECRET}@ho st/a",
        f"mqtt://me:12/{SECRET}@host/a",
        f"mqtt://me:{SECRET}@[::1/a",
    ],
)
def test_an_address_that_can_be_none_is_one_line_without_its_secret(spec: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_source(spec)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_behind_mqtt_is_an_address_or_a_usage_error(text: str) -> None:
    try:
        broker = parse_broker("mqtt://" + text)
    except UsageError:
        return
    assert broker.host
    assert broker.topic


@pytest.mark.parametrize("opened", [open_source, open_labels])
def test_a_topic_without_the_package_names_the_extra(
    opened: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(MissingPackageError, match=r"edgecl\[mqtt\]"):
        opened("mqtt://host/topic")


@pytest.mark.slow
def test_the_default_backbone_tells_the_pattern_apart(home: Home) -> None:
    spec = "synthetic:fps=0,frames=160,hold=20"
    done = build.run_edgecl("train-stream", spec, "--home", home.path, "--json")
    result = build.last_json(done)
    assert (result["learned"] + result["held_out"], result["classes"]) == (160, 4)
    # Wrong are the first frames of each class, which no head can know.
    assert result["prequential_accuracy"] > 0.95


# Times


@pytest.mark.parametrize(
    ("scale", "unit"), [(1e3, "milliseconds"), (1e6, "microseconds"), (1e9, "nanoseconds")]
)
@pytest.mark.parametrize("key", ["from", "to", "time"])
def test_times_in_smaller_units_are_refused_by_name(scale: float, unit: str, key: str) -> None:
    with pytest.raises(UsageError, match=rf"`{key}` lies \d+ days in the future; {unit}\?"):
        moment_of(time.time() * scale, key)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:12Z", 12.0),
        ("1970-01-01T00:00:12.5Z", 12.5),
        ("1970-01-01T01:00:12.250000000+01:00", 12.25),
        ("1970-01-01 00:00:12.125+00:00", 12.125),
    ],
)
def test_times_as_text_are_read_alike_by_every_python(text: str, seconds: float) -> None:
    assert moment_of(text, "time") == seconds


def test_nothing_begins_days_ahead_but_a_window_may_end_then() -> None:
    soon = time.time() + 3600
    assert moment_of(soon, "from") == soon
    week = time.time() + 7 * 86_400
    assert moment_of(week, "to") == week
    for key in ("from", "time"):
        with pytest.raises(UsageError, match="days off"):
            moment_of(week, key)
    with pytest.raises(UsageError, match="in the future"):
        moment_of("2999-01-01T00:00:00Z", "to")


def test_a_label_file_in_milliseconds_is_told_and_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps({"label": "cup", "from": int(time.time() * 1000)}) + "\n")
    feed = open_feed(str(path), open_source("synthetic:"))
    assert feed is not None
    with closing(feed):
        news: list[str] = []
        assert until(lambda: news.extend(feed.news()) or bool(news))  # type: ignore[func-returns-value]
        assert feed.poll() == []
    assert "milliseconds?" in news[0]
