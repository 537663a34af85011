"""Pictures come whole out of a multipart stream, however its bytes are cut."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import build
from edgecl.runtime.sources.mjpeg import Parts, jpeg_end
from peers import part

PICTURES = [build.encode(build.part_picture("washer", i, 16)) for i in range(4)]
LIMIT = 4000


def split(
    stream: bytes, *, boundary: str = "frame", cuts: tuple[int, ...] = (), max_bytes: int = LIMIT
) -> tuple[list[bytes], dict[str, int]]:
    counts: Counter[str] = Counter()
    parts = Parts(boundary, max_bytes=max_bytes, count=lambda name: counts.update([name]))
    out = []
    at = 0
    for cut in (*sorted(cuts), len(stream)):
        out += parts.feed(stream[at:cut])
        at = max(at, cut)
    parts.end()
    return out, dict(counts)


def stream_of(*pictures: bytes, **options: object) -> bytes:
    return b"".join(part(p, **options) for p in pictures)  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_cutting_gives_the_same_pictures(data: st.DataObject) -> None:
    stream = b"preamble\r\n"
    expected: list[bytes] = []
    broken = 0
    for _ in range(data.draw(st.integers(0, 5))):
        picture = data.draw(st.sampled_from(PICTURES))
        has_length = data.draw(st.booleans())
        if data.draw(st.integers(0, 3)) == 0:
            picture = picture[: data.draw(st.integers(1, len(picture) - 1))]
            broken += 1
        else:
            expected.append(picture)
        stream += part(picture, has_length=has_length)
    stream += b"--frame--\r\n"
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=40))
    assert split(stream, cuts=tuple(cuts)) == (expected, {"broken": broken} if broken else {})


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=8))
def test_noise_gives_no_error_and_the_next_picture_is_found(noise: bytes, cuts: list[int]) -> None:
    stream = noise.replace(b"frame", b"") + b"\r\n" + stream_of(*PICTURES[:2])
    assert split(stream, cuts=tuple(cuts))[0] == PICTURES[:2]


@pytest.mark.parametrize("has_length", [True, False])
def test_byte_by_byte(has_length: bool) -> None:
    stream = stream_of(*PICTURES, has_length=has_length)
    assert split(stream, cuts=tuple(range(len(stream)))) == (PICTURES, {})


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("frame", "--frame"),
        ("--frame", "--frame"),
        ("--frame", "----frame"),
        ("frame", "frame"),
        ("", "--whatever it is"),
        ("a+(b)?.*", "--a+(b)?.*"),
    ],
)
@pytest.mark.parametrize("newline", ["\r\n", "\n"])
@pytest.mark.parametrize("has_length", [True, False])
def test_boundaries_as_servers_write_them(
    said: str, written: str, newline: str, has_length: bool
) -> None:
    stream = b""
    for picture in PICTURES:
        length = f"{newline}content-length:{len(picture)}" if has_length else ""
        stream += f"{written}{newline}Content-type: image/jpeg{length}{newline * 2}".encode()
        stream += picture + newline.encode()
    assert split(stream, boundary=said) == (PICTURES, {})


def test_a_picture_is_there_before_the_next_one_comes() -> None:
    for has_length in (True, False):
        parts = Parts("frame", max_bytes=LIMIT, count=lambda name: None)
        piece = part(PICTURES[0], has_length=has_length)[:-2]
        assert list(parts.feed(piece[:-1])) == []
        assert list(parts.feed(piece[-1:])) == [PICTURES[0]]


def test_no_line_break_between_picture_and_delimiter() -> None:
    stream = b"".join(part(p)[:-2] for p in PICTURES)
    assert split(stream) == (PICTURES, {})


@pytest.mark.parametrize("wrong", [-50, 1000])
def test_a_wrong_length_costs_its_picture_only(wrong: int) -> None:
    length = b"Content-Length: %d" % (len(PICTURES[0]) + wrong)
    first = part(PICTURES[0], has_length=False).replace(
        b"\r\n\r\n", b"\r\n" + length + b"\r\n\r\n", 1
    )
    got, counts = split(first + stream_of(*PICTURES[1:]))
    assert got[-3:] == PICTURES[1:]
    assert len(got) + counts.get("broken", 0) == 4


def test_parts_that_are_no_pictures_are_passed_over() -> None:
    text = b"--frame\r\nContent-Type: text/xml\r\n\r\n<alert/>\r\n"
    assert split(text + stream_of(PICTURES[0]) + text) == (PICTURES[:1], {})


@pytest.mark.parametrize("has_length", [True, False])
def test_what_is_too_large_is_counted_and_not_kept_in_memory(has_length: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    large = build.encode(Image.fromarray(noise))
    counts: Counter[str] = Counter()
    parts = Parts("frame", max_bytes=LIMIT, count=lambda name: counts.update([name]))
    stream = stream_of(large, PICTURES[0], large, PICTURES[1], has_length=has_length)
    out = []
    for i in range(0, len(stream), 100):
        out += parts.feed(stream[i : i + 100])
        assert len(parts._data) < LIMIT + 1000
    assert out == PICTURES[:2]
    assert counts == {"oversize": 2}


def test_a_header_without_end_is_given_up() -> None:
    stream = b"--frame\r\n" + b"X-Filler: y\r\n" * 5000 + b"\r\n" + stream_of(PICTURES[0])
    assert split(stream)[0] == PICTURES[:1]


def test_the_end_of_a_jpeg_is_not_that_of_its_thumbnail() -> None:
    inner = PICTURES[1]
    segment = b"\xff\xe1" + (len(inner) + 2).to_bytes(2, "big") + inner
    whole = PICTURES[0][:2] + segment + PICTURES[0][2:]
    assert jpeg_end(whole) == len(whole)
    assert jpeg_end(whole + b"more") == len(whole)
    assert all(jpeg_end(whole[:n]) == -1 for n in range(len(whole)))
    assert jpeg_end(b"\x89PNG") == -1


def test_progressive_jpegs_end_where_they_end() -> None:
    whole = build.encode(build.part_picture("washer", 0, 64), progressive=True)
    assert split(stream_of(whole, PICTURES[0], has_length=False), max_bytes=90_000) == (
        [whole, PICTURES[0]],
        {},
    )
