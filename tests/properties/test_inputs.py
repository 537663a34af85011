"""Random folders, lists, tables and streams: nothing ends in a traceback, nothing is lost unsaid.

Every example is learned by the training loop itself, with a toy engine and a tiny home, or refused
with an error of edgecl in one line; of more than a hundred every tenth is, the others are only
read. What a run prints adds up, always:

    seen = learned + held_out + skipped + passed_over + unlabelled + duplicates + stale

where the last three are of streams only, and `seen` is what was there: files of a folder, rows of a
table, entries of a list, messages that are no labels.

`EDGECL_INPUTS` says how many examples of each kind are tried (50 if it is not set; the 5,000 that
docs/benchmarks.md reports were run with it).
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import build
from edgecl.cli import _line
from edgecl.cli.running import result_of
from edgecl.errors import EdgeclError, UsageError
from edgecl.runtime.sources import open_source
from edgecl.runtime.sources.connection import Counters
from edgecl.runtime.sources.datasets import FORMATS, open_dataset
from edgecl.runtime.sources.labels import MessageQueue
from edgecl.runtime.sources.messages import parse_message
from edgecl.runtime.sources.mjpeg import Parts
from edgecl.runtime.sources.mqtt import _Seen, _Subscription
from edgecl.session import open_learner
from edgecl.store.progress import Position
from edgecl.stream.run import learn_stream
from edgecl.types import Float32, Frame, Skipped
from edgecl.unlearning.request import writing

N = int(os.environ.get("EDGECL_INPUTS", "50"))
# Tables with one huge cell are meant; hypothesis warns when it would print one.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")
MANY = settings(max_examples=N, suppress_health_check=list(HealthCheck))
# A file system in memory: every example writes files and commits.
PLACE = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
# Every so many examples go through the training loop.
_LOOP_EVERY = 1 if N <= 100 else 10
# So many runs a home learns before it is made anew: its classes grow with random names.
_RUNS = 40
JPEG = build.encode(build.part_picture("washer", 0, 16))
PNG = build.encode(build.part_picture("gasket", 1, 16), "PNG")
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40
CONTENTS = st.sampled_from(
    (PNG, JPEG, JPEG, PNG, HEIC, b"", b"text", PNG[:40], JPEG[:-20], JPEG[:-2], PNG + b"x" * 9,
     JPEG.replace(JPEG[200:210], b"\xff" * 10), b"II*\0" + b"\0" * 30, b"GIF89a", b"\xff\xd8\xff")
)  # fmt: skip


class Toy:
    """An engine in which every picture has a feature and none is recognised."""

    num_features, provider = 6, "toy"

    def run(self, pixels: Float32) -> Float32:
        means = pixels.reshape(len(pixels), 3, -1)
        return np.abs(np.concatenate([means.mean(2), means.std(2)], 1)).astype(np.float32)


class Device:
    """A tiny home that learns one source after the other."""

    def __init__(self) -> None:
        self.keys = itertools.count()
        self._open = ExitStack()
        self._n = 0

    def close(self) -> None:
        self._open.close()

    def run(self, source: Any) -> dict[str, Any]:
        """Learn a source; returns what `train-stream --json` prints."""
        if self._n % _RUNS == 0:
            self.close()
            place = Path(tempfile.mkdtemp(dir=PLACE))
            self._open.callback(shutil.rmtree, place)
            self._home = build.tiny_home(place / "home", num_features=6, probes=3)
            session = self._open.enter_context(writing(self._home))
            self._learner = open_learner(self._home, session.store)
        self._n += 1
        begin = Position(0, b"", False)
        key = f"source {next(self.keys)}"
        *_, last = learn_stream(
            self._home,
            self._learner,
            Toy(),
            source,
            key=key,
            start=begin,  # type: ignore[arg-type]
        )
        result: dict[str, Any] = json.loads(json.dumps(result_of(last, source)))
        return result


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.close()


@pytest.fixture
def place() -> Iterator[Callable[[], Path]]:
    """Make a new folder for every example; the last one is deleted by then."""
    made: list[Path] = []

    def new() -> Path:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        made[:] = [Path(tempfile.mkdtemp(dir=PLACE))]
        return made[0]

    yield new
    for path in made:
        shutil.rmtree(path, ignore_errors=True)


def learned(device: Device, opened: Callable[[], Any]) -> dict[str, Any] | None:
    """Learn what is opened; check that its result adds up. None if it was refused in one line."""
    try:
        source = opened()
    except EdgeclError as error:
        line = _line(str(error))
        assert line
        assert len(line.splitlines()) == 1
        return None
    if next(device.keys) % _LOOP_EVERY:
        return read(source)
    result = device.run(source)
    counts = {name: result[name] for name in "learned held_out skipped unlabelled".split()}
    counts |= {name: result[name] for name in ("duplicates", "stale")}
    assert result["seen"] == sum(counts.values()) + sum(result["passed_over"].values()), result
    if len(source):
        assert result["seen"] == len(source) + sum(result["passed_over"].values())
    return result


def read(source: Any) -> dict[str, Any]:
    """Read a source without learning it; returns what was there."""
    n = sum(isinstance(item, Frame | Skipped) for item in source.frames())
    assert n == len(source) or not len(source)
    return {"seen": n + sum(source.passed_over.values()), "passed_over": source.passed_over}


# Folders and zips

_KNOWN = (
    "cup bolt Cup CUP train test valid images labels @eaDir lost+found .hidden __MACOSX DCIM "
    "dataset masks thumbs 1 null"
).split()
NAMES = st.one_of(
    st.sampled_from([*_KNOWN, "cup\u200b", "New folder", "cup (1)", "2024-01-02"]),
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=10),
    st.binary(min_size=1, max_size=6).map(os.fsdecode),
).filter(lambda name: name not in (".", "..") and not {"/", "\0"} & set(name) and len(name) < 60)
SUFFIXES = st.sampled_from(
    (".jpg", ".jpg", ".PNG", ".jfif", ".heic", ".txt", ".json", ".part", ".dng", "", ".x", "~")
)
FILES = st.lists(
    st.tuples(st.lists(NAMES, max_size=3), NAMES, SUFFIXES, CONTENTS), min_size=1, max_size=12
)
LINKS = st.lists(st.tuples(NAMES, st.sampled_from(("up", "none", "file", "pipe"))), max_size=2)


def written(folder: Path, files: Any, links: Any = ()) -> int:
    """Write a tree; returns how many files are in it."""
    folder.mkdir(exist_ok=True)
    places = set()
    for parts, name, suffix, data in files:
        path = folder.joinpath(*parts, name + suffix)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError:  # a file where a folder should be, or the reverse
            continue
        places.add(path)
    for name, kind in links:
        path = folder / name
        if os.path.lexists(path):
            continue
        if kind == "pipe":
            os.mkfifo(path)
        else:
            target = {"up": folder, "none": folder / "gone", "file": next(iter(places), folder)}
            path.symlink_to(target[kind])
        if not path.is_dir():
            places.add(path)
    return len(places)


@MANY
@given(files=FILES, links=LINKS, label=st.sampled_from((None, None, "cup")))
@example(
    files=[(["cup"], "1", ".jpg", JPEG), (["@eaDir", "x"], "1", ".jpg", JPEG)], links=[], label=None
)
def test_folders(
    files: Any, links: Any, label: str | None, device: Device, place: Callable[[], Path]
) -> None:
    folder = place() / "d"
    n = written(folder, files, links)
    result = learned(device, lambda: open_source(str(folder), label=label))
    assert result is None or result["seen"] == n
    if label is None:
        learned(device, lambda: open_dataset(folder).source)  # other splits are notes
        result = learned(device, lambda: open_dataset(folder, format="imagefolder").source)
        assert result is None or result["seen"] == n


@MANY
@given(files=FILES, encoding=st.sampled_from((None, "cp437", "cp1252", "cp932", "nonsense")))
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips(files: Any, encoding: str | None, device: Device, place: Callable[[], Path]) -> None:
    path = place() / "a.zip"
    n = 0
    with zipfile.ZipFile(path, "w") as archive:
        for parts, name, suffix, data in files:
            info = zipfile.ZipInfo("x")
            info.filename = "/".join((*parts, name + suffix))
            try:
                info.filename.encode()
            except UnicodeEncodeError:
                continue
            archive.writestr(info, data)
            n += not info.filename.replace("\\", "/").endswith("/")
    result = learned(device, lambda: open_dataset(path, encoding=encoding).source)
    assert result is None or result["seen"] == n


# Tables and standard input

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
PATHS = st.sampled_from(
    ("1.png", "img/2.jpg", "img\\2.jpg", "../out.png", "/etc/passwd", "none.png", "img", "", ".",
     "a\0b", "x" * 300, "./1.png", "C:\\1.png", "\ud800.png")
)  # fmt: skip
LABELS = st.sampled_from(("cup", "bolt", "Cup", "", " ", "nan", "-1", "a" * 300, "cup\u200b"))
ROWS = st.lists(
    st.one_of(
        JSON,
        st.fixed_dictionaries(
            {"path": PATHS | JSON}, optional={"label": LABELS | JSON, "image": st.text(max_size=8)}
        ),
        st.fixed_dictionaries({"image": CONTENTS.map(lambda b: base64.b64encode(b).decode())},
                              optional={"label": LABELS | JSON, "time": JSON, "id": JSON}),
    ),
    min_size=1,
    max_size=8,
)  # fmt: skip
CELLS = st.one_of(
    PATHS, LABELS, st.text(max_size=8),
    st.sampled_from(('"', '"a', 'a"b', '"a,b"', "y" * 140_000, "1", "0", "\ufeff")),
)  # fmt: skip
LINES = st.lists(st.lists(CELLS, max_size=4), max_size=8)
HEADS = st.sampled_from(
    ("path,label", "path, label", "label,path", "filename,label", "path", "path;label",
     "path\tlabel", "path,label,label", "path,label,split",
     "filename, bolt, cup", "", "\ufeffpath,label")
)  # fmt: skip
ENCODINGS = st.sampled_from(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))


def pictures(folder: Path) -> Path:
    (folder / "img").mkdir()
    (folder / "1.png").write_bytes(PNG)
    (folder / "img" / "2.jpg").write_bytes(JPEG)
    return folder


@MANY
@given(
    rows=ROWS, head=HEADS, lines=LINES, encoding=ENCODINGS,
    end=st.sampled_from(("\n", "\r\n", "\r")), suffix=st.sampled_from(("csv", "tsv")),
)  # fmt: skip
@example(rows=[{"path": "1.png", "label": 1e400}, []], head="path,label", lines=[],
         encoding="utf-8", end="\n", suffix="csv")  # fmt: skip
def test_tables(
    rows: Any, head: str, lines: Any, encoding: str, end: str, suffix: str, device: Device,
    place: Callable[[], Path],
) -> None:  # fmt: skip
    folder = pictures(place())
    text = "\n".join(json.dumps(row) for row in rows)
    (folder / "t.jsonl").write_text(text, encoding=encoding, errors="replace")
    result = learned(device, lambda: open_source(str(folder / "t.jsonl")))
    assert result is None or result["seen"] == len(rows)
    mark = "\t" if suffix == "tsv" else ","
    body = end.join([head, *(mark.join(cells) for cells in lines)])
    table = folder / f"t.{suffix}"
    table.write_bytes(body.encode(encoding, "replace"))
    result = learned(device, lambda: open_source(str(table)))
    if result is not None and '"' not in body:
        n = sum(1 for line in body.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line)
        assert result["seen"] == n - 1


def learned_of_stdin(device: Device, data: bytes, folder: Path) -> dict[str, Any] | None:
    before, here = sys.stdin, os.getcwd()
    os.chdir(folder)
    sys.stdin = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    try:
        return learned(device, lambda: open_source("-", max_bytes=2000))
    finally:
        sys.stdin = before
        os.chdir(here)


@MANY
@given(
    rows=ROWS, noise=st.lists(st.binary(max_size=30).filter(lambda b: b"\n" not in b), max_size=3)
)
@example(rows=[{"path": "\ud800.png", "label": "\ud800"}], noise=[])
def test_lines_of_standard_input(
    rows: Any, noise: list[bytes], device: Device, place: Callable[[], Path]
) -> None:
    lines = [*(json.dumps(row).encode() for row in rows), *noise]
    result = learned_of_stdin(device, b"\n".join(lines), pictures(place()))
    assert result is not None
    blank = sum(not os.fsdecode(line).strip() for line in noise)
    if not any(b"\r" in line for line in noise):  # a line of its own for Python
        assert result["seen"] == len(rows) + len(noise) - blank


# Lists

IDS = st.one_of(st.integers(0, 3), st.sampled_from((0.0, 1.0, "0", "1", None, True, [], 1e300)))
COCO = st.fixed_dictionaries(
    {
        "images": st.lists(
            st.fixed_dictionaries({"id": IDS, "file_name": PATHS | JSON}) | JSON, max_size=6
        ),
        "categories": st.lists(
            st.fixed_dictionaries({"id": IDS, "name": LABELS | JSON}) | JSON, max_size=3
        ),
        "annotations": st.lists(
            st.fixed_dictionaries({"image_id": IDS, "category_id": IDS}) | JSON, max_size=8
        ),
    }
)
GOOD = st.fixed_dictionaries(
    {
        "images": st.lists(
            st.fixed_dictionaries({"id": st.integers(0, 3), "file_name": PATHS}), max_size=6
        ),
        "categories": st.just([{"id": 0, "name": "cup"}, {"id": 1, "name": "bolt"}]),
        "annotations": st.lists(
            st.fixed_dictionaries({"image_id": IDS, "category_id": st.integers(0, 1)}), max_size=8
        ),
    }
)


@MANY
@given(
    coco=COCO | GOOD | GOOD | JSON, rows=ROWS, lines=LINES, cut=st.integers(0, 400),
    kind=st.sampled_from(("coco", "coco below", "edgecl", "one-hot")),
    format=st.sampled_from(("auto", "auto", *FORMATS)),
)  # fmt: skip
def test_lists(
    coco: Any, rows: Any, lines: Any, cut: int, kind: str, format: str, device: Device,
    place: Callable[[], Path],
) -> None:  # fmt: skip
    folder = pictures(place())
    n = None
    if kind.startswith("coco"):
        path = folder / ("annotations/instances_train.json" if "below" in kind else "a.json")
        path.parent.mkdir(exist_ok=True)
        text = json.dumps(coco)
        path.write_text(text[:-cut] if 0 < cut < 20 else text)
        n = len(coco["images"]) if isinstance(coco, dict) and "images" in coco else None
    elif kind == "edgecl":
        path = folder / "edgecl.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows))
        n = len(rows)
    else:
        path = folder / "_classes.csv"
        rest = [[c.replace("\n", " ").replace("\r", " ") for c in cells] for cells in lines]
        body = "\n".join(["filename, bolt, cup", "1.png, 1, 0", *map(",".join, rest)])
        path.write_text(body, errors="replace", newline="")
    result = learned(device, lambda: open_dataset(folder, format=format).source)
    if result is not None and n is not None and format == "auto":
        assert result["seen"] - sum(result["passed_over"].values()) == n
    if path.suffix == ".json":
        learned(device, lambda: open_dataset(path).source)


# Streams

TYPES = st.sampled_from(
    (b"image/jpeg", b"image/png", b"application/octet-stream", b"text/plain", b"jpeg", b"", b"\xff")
)
BODIES = CONTENTS | st.binary(max_size=40).map(lambda b: b.replace(b"--", b"-+"))


@MANY
@given(
    parts=st.lists(st.tuples(BODIES, TYPES, st.booleans()), max_size=6),
    noise=st.binary(max_size=60),
    cuts=st.lists(st.integers(0, 4000), max_size=12),
    boundary=st.sampled_from(("frame", "--frame", "", None)),
)
def test_parts_of_a_stream(parts: Any, noise: bytes, cuts: list[int], boundary: str | None) -> None:
    """A part comes out as a picture or is counted; noise between parts is neither."""
    stream = b"preamble\r\n"
    for body, kind, has_length in parts:
        length = b"Content-Length: %d\r\n" % len(body) if has_length else b""
        stream += b"--frame\r\nContent-Type: %b\r\n%b\r\n%b\r\n" % (kind, length, body)
    stream += b"--frame--\r\n"
    for data, is_whole in ((stream, True), (noise + stream[len(noise) :], False)):
        counts: Counter[str] = Counter()
        found = Parts(boundary, max_bytes=2000, count=lambda name, c=counts: c.update([name]))
        n, at = 0, 0
        for cut in (*sorted(cuts), len(data)):
            n += sum(len(p) <= 2000 for p in found.feed(data[at:cut]))
            at = max(at, cut)
        n += found.end() is not None
        assert set(counts) <= {"broken", "oversize", "not_pictures"}
        if is_whole and boundary is not None:
            assert n + counts.total() == len(parts)


PAYLOADS = st.one_of(
    CONTENTS,
    CONTENTS.map(base64.b64encode),
    CONTENTS.map(lambda b: b"data:image/jpeg;base64," + base64.b64encode(b)),
    st.binary(max_size=40),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {}, optional={"label": LABELS | JSON, "from": JSON, "to": JSON, "command": JSON, "n": JSON}
    ).map(lambda value: json.dumps(value).encode()),
    ROWS.map(lambda rows: json.dumps(rows[0]).encode()),
    st.sampled_from(
        (b"[" * 9000, b"{" * 9000, b'{"image": "' + b"A" * 9000 + b'"}', b"\xef\xbb\xbf{}")
    ),
)


@MANY
@given(payloads=st.lists(st.tuples(PAYLOADS, st.booleans()), max_size=8))
def test_messages_of_a_topic(payloads: list[tuple[bytes, bool]]) -> None:
    """A message is a frame, a label, a command, or counted and told."""
    counters, feed = Counters(), MessageQueue()
    topic = _Subscription(None, counters, feed, _Seen(), 2000)  # type: ignore[arg-type]
    for payload, is_retained in payloads:
        before, told = counters.read(), len(feed.news())
        n_frames = topic._shots.qsize()
        topic._on_message("cam", payload, is_retained)
        after = counters.read()
        counted = sum(
            getattr(after, name) - getattr(before, name)
            for name in ("broken", "oversize", "repeated", "received")
        )
        n_said = len(feed.poll())
        assert told == 0
        is_command = is_retained and b'"command"' in payload
        assert counted + n_said + topic._shots.qsize() - n_frames == 1 or is_command, payload
        if after.broken > before.broken:
            assert len(feed.news()) == 1
        with suppress(UsageError):
            parse_message(payload)
