"""Crop, rotate, mask and motion as options of every address."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from needs import require_opencv
from PIL import Image, ImageDraw

import build
from edgecl.errors import DecodeError, SourceError, UsageError
from edgecl.home import Home
from edgecl.runtime.options import Options, split_options
from edgecl.runtime.pipeline import Embedded, embed
from edgecl.runtime.preprocess import Preprocessing, picture_of
from edgecl.runtime.region import parse_region
from edgecl.runtime.sources import open_source
from edgecl.runtime.sources.live import LiveSource, Shot
from edgecl.runtime.sources.viewed import ViewedSource
from edgecl.stream.position import source_key
from edgecl.types import Frame, Pixels

WIDTH, HEIGHT = 60, 40
RNG = np.random.default_rng(0)
PICTURE: Pixels = RNG.integers(1, 256, (HEIGHT, WIDTH, 3), np.uint8)


def by_pillow(turn: int, crop: tuple[int, ...] | None, masks: list[tuple[int, ...]]) -> Pixels:
    """The same by another road: turn, paint, cut."""
    image = Image.fromarray(PICTURE).rotate(-turn, expand=True)
    for mask in masks:
        ImageDraw.Draw(image).rectangle((*mask[:2], mask[2] - 1, mask[3] - 1), fill=0)
    return np.asarray(image if crop is None else image.crop(crop))


@pytest.mark.parametrize(
    ("given", "turn", "crop", "masks"),
    [
        ({"crop": "10%,25%,50%,50%"}, 0, (6, 10, 36, 30), []),
        ({"crop": "6,10,30,20"}, 0, (6, 10, 36, 30), []),
        ({"crop": "6,25%,50%,20"}, 0, (6, 10, 36, 30), []),
        ({"crop": "0,0,100%,100%"}, 0, None, []),
        ({"rotate": "90"}, 90, None, []),
        ({"rotate": "180"}, 180, None, []),
        ({"rotate": "270"}, 270, None, []),
        ({"rotate": "90", "crop": "0,0,10%,100%"}, 90, (0, 0, 4, 60), []),
        ({"mask": "0,0,50%,50%"}, 0, None, [(0, 0, 30, 20)]),
        ({"mask": "0,0,5,5;50,30,10,10"}, 0, None, [(0, 0, 5, 5), (50, 30, 60, 40)]),
        (
            {"rotate": "270", "crop": "10,10,20,30", "mask": "0,0,15,15;25,35,15,25"},
            270, (10, 10, 30, 40), [(0, 0, 15, 15), (25, 35, 40, 60)],
        ),
    ],
)  # fmt: skip
def test_a_region_is_what_pillow_makes_of_the_picture(
    given: dict[str, str], turn: int, crop: Any, masks: Any
) -> None:
    region = parse_region(**given)
    assert np.array_equal(region(PICTURE), by_pillow(turn, crop, masks))
    # Of a picture that was scaled down the same part is taken.
    small = PICTURE[::2, ::2]
    shape = region(small, (WIDTH, HEIGHT)).shape
    whole = by_pillow(turn, crop, masks).shape
    assert np.abs(np.subtract(shape[:2], np.array(whole[:2]) / 2)).max() <= 1


def test_a_region_never_changes_the_picture_it_is_given() -> None:
    before = PICTURE.copy()
    parse_region(mask="0,0,100%,100%")(PICTURE)[:] = 7
    assert np.array_equal(before, PICTURE)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("crop=1,2,3", "has 3 numbers"),
        ("crop=1,2,3,4,5", "has 5 numbers"),
        ("crop=a,0,1,1", "no number"),
        ("crop=-1,0,1,1", "no number"),
        ("crop=nan,0,1,1", "no number"),
        ("crop=1e3,0,1,1", "no number"),
        ("crop=0,0,0,5", "no width"),
        ("crop=0,0,5,0%", "no width"),
        ("crop=60%,0,50%,10%", "does not lie"),
        ("crop=100%,0,5,5", "does not lie"),
        ("mask=0,0,5", "mask="),
        ("mask=0,0,5,5&mask=0,0,0,0", "mask="),
        ("rotate=45", "90, 180, 270"),
        ("rotate=left", "90, 180, 270"),
        ("crop=1,1,1,1&crop=1,1,1,1", "twice"),
        ("motion=0", "share"),
        ("motion=1", "share"),
        ("motion=nan", "share"),
        ("motion=.", "share"),
        ("motion=0.1&interval=soon", "no time"),
        ("motion=0.1&interval=0", "no time"),
        ("motion=0.1&interval=2d", "at most a day"),
        ("interval=10s", "motion="),
    ],
)
def test_options_that_cannot_be_meant_are_refused_in_one_line(given: str, what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        open_source(f"synthetic:?{given}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "peer", "region"),
    [
        ("camera:0?crop=1,2,3,4", "camera:0", "crop=1,2,3,4"),
        ("rtsp://h/live?sub=1&rotate=90&x=2", "rtsp://h/live?sub=1&x=2", "rotate=90"),
        ("rtsp://h/live?sub=1", "rtsp://h/live?sub=1", ""),
        ("http://h/a?", "http://h/a?", ""),
        ("http://h/a?%63rop=7", "http://h/a?%63rop=7", ""),
        ("http://h/a?crop=10%25,20%25,30%25,40%25", "http://h/a", "crop=10%,20%,30%,40%"),
        ("http://h/a?crop=10.0%,20%,30%,4e0", None, None),
        ("mqtt://h/line?/a", "mqtt://h/line?/a", ""),
        ("gst:rtspsrc location=rtsp://h/x?a=1 ! decodebin", None, ""),
        ("gst:videotestsrc?mask=0,0,1,1&mask=5,5,1,1", "gst:videotestsrc",
         "mask=0,0,1,1&mask=5,5,1,1"),
        ("film.mp4?rotate=0", "film.mp4", ""),
    ],
)  # fmt: skip
def test_only_our_own_keys_are_taken_out_of_an_address(
    spec: str, peer: str | None, region: str | None
) -> None:
    if region is None:
        with pytest.raises(UsageError):
            split_options(spec)
        return
    base, options = split_options(spec)
    assert (base, str(options.region)) == (peer or spec, region)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    cv2 = require_opencv()
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (WIDTH, HEIGHT))
    for _ in range(3):
        writer.write(PICTURE)
    writer.release()
    return path


def kinds(tmp_path: Path) -> dict[str, str]:
    """One address of each kind that needs no peer, with pictures of 60 x 40 or 60 x 60."""
    parts = tmp_path / "parts"
    (parts / "a").mkdir(parents=True)
    for i in range(2):
        Image.fromarray(PICTURE).save(parts / "a" / f"{i}.png")
    table = tmp_path / "table.csv"
    table.write_text("path,label\nparts/a/0.png,a\nparts/a/1.png,a\n")
    return {
        "folder": str(parts),
        "picture": str(parts / "a" / "0.png"),
        "table": str(table),
        "pattern": f"synthetic:fps=0,frames=2,size={WIDTH}",
        "live": f"synthetic:fps=100,frames=2,size={WIDTH}",
    }


@pytest.mark.parametrize("kind", ["folder", "picture", "table", "pattern", "live", "film"])
def test_what_is_embedded_and_kept_of_every_kind_is_the_part(
    tmp_path: Path, film: Path, kind: str
) -> None:
    spec = str(film) if kind == "film" else kinds(tmp_path)[kind]
    source = open_source(f"{spec}?crop=0,25%,50%,10", label="a")
    plain = open_source(spec, label="a")
    assert source.name == f"{spec}?crop=0,25%,50%,10"
    assert (source.kind, len(source), source.is_film) == (plain.kind, len(plain), plain.is_film)
    assert list(source.ids(2)) == list(plain.ids(2))
    seen: list[tuple[int, ...]] = []

    class Engine:
        provider, num_features = "fake", 1

        def run(self, tensors: np.ndarray) -> np.ndarray:
            seen.extend(t.shape for t in tensors)
            return np.ones((len(tensors), 1), np.float32)

    preprocessing = Preprocessing(8, 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3)
    with closing(embed(source.frames(), preprocessing, Engine(), wake=source.close)) as groups:
        items = [item for group in groups for item in group]
    assert items
    for item in items:
        assert isinstance(item, Embedded)
        assert item.frame.pixels is not None
        assert item.frame.pixels.shape == (10, 30, 3)
        assert (item.frame.encoded, item.frame.cut) == (None, None)
        assert (item.frame.source, item.frame.label) == (source.name, "a")


def test_a_file_whose_name_looks_like_options_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png?rotate=90"
    Image.fromarray(PICTURE).save(path, "PNG")
    source = open_source(str(path))
    assert not isinstance(source, ViewedSource)
    assert [picture_of(f).size for f in source.frames() if isinstance(f, Frame)] == [(60, 40)]


def test_two_crops_are_two_sources_and_one_crop_is_one(home: Home, tmp_path: Path) -> None:
    folder = build.part_folder(tmp_path / "parts", 1)

    def key(spec: str) -> str:
        return source_key(home, spec, None, None)

    plain, left = key(str(folder)), key(f"{folder}?crop=0,0,50%,100%")
    assert len({plain, left, key(f"{folder}?crop=50%,0,50%,100%")}) == 3
    assert left == key(f"{folder}?crop=0,0,50.0%,100%25")
    assert left == key(f"{folder}/../parts?crop=0,0,50%,100%")
    assert key("synthetic:?motion=0.1") == key("synthetic:")
    assert key("camera:0?rotate=90") != key("camera:0")


@pytest.mark.parametrize("box", ["0,0,61,10", "59,39,2,2", "100,0,1,1"])
@pytest.mark.parametrize("what", ["crop", "mask"])
def test_a_box_that_leaves_the_picture_is_an_error_of_that_picture(box: str, what: str) -> None:
    region = parse_region(**{what: box})
    with pytest.raises(DecodeError, match=f"{what} {box} .*60 x 40"):
        picture_of(Frame(id="a", pixels=PICTURE, cut=region))


SHOTS = 40


class Still:
    """A camera before a still scene, with a camera's noise; it moves when it is told to."""

    def __init__(self, moves: set[int], *, is_jpeg: bool) -> None:
        self._moves, self._is_jpeg = moves, is_jpeg
        self._taken = threading.Event()

    def __iter__(self) -> Iterator[Shot]:
        rng = np.random.default_rng(1)
        scene = np.full((144, 256, 3), 90, np.uint8)
        for i in range(SHOTS):
            if i in self._moves:
                scene = scene.copy()
                scene[20:120, 10 * (i % 20) : 10 * (i % 20) + 60] = 20 + 5 * i
            noise = rng.integers(-12, 13, scene.shape)
            shot = np.clip(scene + noise, 0, 255).astype(np.uint8)
            if self._is_jpeg:
                yield Shot(encoded=build.encode(Image.fromarray(shot)))
            else:
                yield Shot(pixels=shot)
            self._taken.wait(0.004)

    def close(self) -> None:
        self._taken.set()


@pytest.mark.parametrize("is_jpeg", [False, True])
@pytest.mark.parametrize("region", ["", "crop=0,0,100%,50%"])
def test_still_frames_are_left_out_and_counted(is_jpeg: bool, region: str) -> None:
    options = split_options(f"camera:0?motion=0.02&{region}")[1]
    camera = LiveSource("camera:0", lambda _: Still({10, 25}, is_jpeg=is_jpeg))
    source = ViewedSource(camera, options)
    taken = list(source.frames())
    assert len(taken) == 3
    assert source.counts.still + source.counts.dropped == SHOTS - 3
    assert source.counts.still > SHOTS / 2


def test_what_moves_outside_of_the_part_is_still() -> None:
    options = split_options("camera:0?motion=0.02&crop=0,90%,100%,10%")[1]
    source = ViewedSource(LiveSource("c", lambda _: Still({10, 25}, is_jpeg=True)), options)
    assert len(list(source.frames())) == 1


def test_after_the_interval_a_still_frame_is_taken() -> None:
    options = split_options("camera:0?motion=0.02&interval=40ms")[1]
    source = ViewedSource(LiveSource("c", lambda _: Still(set(), is_jpeg=False)), options)
    times = [frame.monotonic for frame in source.frames() if isinstance(frame, Frame)]
    assert len(times) >= 3
    assert min(b - a for a, b in itertools.pairwise(times)) >= 0.04


def test_a_picture_that_cannot_be_decoded_is_not_still() -> None:
    class Broken(Still):
        def __iter__(self) -> Iterator[Shot]:
            for i in range(3):
                yield Shot(encoded=b"\xff\xd8\xff no picture %d" % i)
                self._taken.wait(0.05)

    source = ViewedSource(
        LiveSource("c", lambda _: Broken(set(), is_jpeg=True)), Options(motion=0.5)
    )
    assert len(list(source.frames())) + source.counts.dropped == 3
    assert source.counts.still == 0


def test_motion_is_for_live_sources(tmp_path: Path) -> None:
    specs = kinds(tmp_path)
    for spec in (specs[kind] for kind in ("folder", "table", "pattern")):
        with pytest.raises(UsageError, match="live sources"):
            open_source(f"{spec}?motion=0.1")
    with pytest.raises(SourceError, match="does not exist"):
        open_source(f"{tmp_path}/nothing?crop=0,0,1,1")
