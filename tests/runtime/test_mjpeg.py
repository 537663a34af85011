"""Pictures come whole out of a multipart stream, however its bytes are cut."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import build
from edgecl.runtime.sources.jpeg import closed_jpeg, is_picture, jpeg_end
from edgecl.runtime.sources.mjpeg import Parts
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
    rest = parts.end()
    return out + ([rest] if rest else []), dict(counts)


def stream_of(*pictures: bytes, **options: object) -> bytes:
    return b"".join(part(p, **options) for p in pictures)  # type: ignore[arg-type]


@settings(max_examples=150)
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
            closed = closed_jpeg(picture)  # it may lack nothing but its end
            expected += [closed] if closed else []
            broken += closed is None
        else:
            expected.append(picture)
        stream += part(picture, has_length=has_length)
    stream += b"--frame--\r\n"
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=40))
    assert split(stream, cuts=tuple(cuts)) == (expected, {"broken": broken} if broken else {})


@settings(max_examples=100)
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


@pytest.mark.parametrize(
    ("header", "body", "counts"),
    [
        ("Content-Type: text/xml", b"<alert/>", {"not_pictures": 1}),
        ("Content-Type: application/json", b"{}", {"not_pictures": 1}),
        ("X-Time: 1", b"no type and no picture", {"not_pictures": 1}),
        ("Content-Type: image/jpeg", b"<alert/>", {"broken": 1}),
        ("Content-Type: jpeg", b"<alert/>", {"broken": 1}),
        ("Content-Type: application/octet-stream", b"\xff\xd8\xff\xe0\0", {"broken": 1}),
    ],
)
def test_parts_that_are_no_pictures_are_left_out_and_counted(
    header: str, body: bytes, counts: dict[str, int]
) -> None:
    odd = b"--frame\r\n%b\r\n\r\n%b\r\n" % (header.encode(), body)
    assert split(odd + stream_of(PICTURES[0])) == (PICTURES[:1], counts)


PNG = build.encode(build.part_picture("washer", 0, 8), "PNG")


@pytest.mark.parametrize("picture", [PICTURES[0], PNG], ids=["jpeg", "png"])
@pytest.mark.parametrize(
    "header",
    ["", "Content-Type: application/octet-stream", "Content-Type: jpeg", "Content-Type: text/plain",
     "Content-Type: image/jpeg" , "Content-Type: \x1b]0;x"],
)  # fmt: skip
@pytest.mark.parametrize("has_length", [True, False])
def test_a_part_is_known_by_its_first_bytes_and_not_by_its_type(
    picture: bytes, header: str, has_length: bool
) -> None:
    lines = [header, f"Content-Length: {len(picture)}" if has_length else "", "X-Time: 1"]
    head = "\r\n".join(["--frame", *filter(None, lines), "", ""]).encode()
    stream = (head + picture + b"\r\n") * 3 + b"--frame--\r\n\r\n"
    assert split(stream, cuts=(3, 90, 200)) == ([picture] * 3, {})


@pytest.mark.parametrize("breaks", [b"\r\n", b"\n", b"\r\n\r\n"])
@pytest.mark.parametrize("has_length", [True, False])
@pytest.mark.parametrize("cut", [range(0), range(5000)], ids=["whole", "byte by byte"])
def test_line_breaks_before_a_picture_are_no_part_of_it(
    breaks: bytes, has_length: bool, cut: range
) -> None:
    stream = b"".join(part(breaks + p, has_length=has_length) for p in PICTURES)
    assert split(stream, cuts=tuple(c for c in cut if c < len(stream))) == (PICTURES, {})


@pytest.mark.parametrize("has_length", [True, False])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_that_lacks_only_its_end_is_closed(has_length: bool, missing: int) -> None:
    bare = [p[:-missing] for p in PICTURES]
    stream = stream_of(*bare, has_length=has_length) + b"--frame--\r\n\r\n"
    assert split(stream) == (PICTURES, {})


@pytest.mark.parametrize("ending", ["whole", "no end", "cut"])
def test_jpeg_after_jpeg_without_any_boundary(ending: str) -> None:
    pictures = [p if ending == "whole" else p[:-2] for p in PICTURES]
    stream = b"junk".join(pictures) if ending == "whole" else b"".join(pictures)
    if ending == "cut":
        stream = stream[: -len(PICTURES[-1]) // 3]
    for cuts in ((), tuple(range(len(stream)))):
        got, counts = split(stream, boundary=None, cuts=cuts)
        assert got == (PICTURES[:-1] if ending == "cut" else PICTURES)
        assert counts == ({"broken": 1} if ending == "cut" else {})


def test_a_part_whose_header_is_left_out() -> None:
    stream = b"".join(b"--frame\r\n" + p + b"\r\n" for p in PICTURES)
    assert split(stream) == (PICTURES, {})


@pytest.mark.parametrize("options", [{}, {"quality": 95}, {"subsampling": 0}, {"optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [16, 64, 720])
def test_a_cut_jpeg_is_not_closed(size: int, mode: str, options: dict[str, object]) -> None:
    picture = build.part_picture("bracket", 1, size).convert(mode)
    whole = build.encode(picture, **options)  # type: ignore[arg-type]
    assert closed_jpeg(whole[:-2]) == whole
    cuts = [len(whole) * k // 8 for k in range(1, 7)]
    assert [closed_jpeg(whole[:n]) for n in cuts] == [None] * 6


def test_only_a_jpeg_of_one_scan_is_closed() -> None:
    picture = build.part_picture("washer", 0, 64)
    assert closed_jpeg(build.encode(picture, progressive=True)[:-2]) is None
    assert closed_jpeg(b"\xff\xd8") is None
    wide = bytearray(PICTURES[0][:-2])
    at = wide.index(b"\xff\xc0")
    wide[at + 5 : at + 9] = b"\xff\xff\xff\xff"  # 65,535 x 65,535 pixels
    assert closed_jpeg(bytes(wide)) is None


def test_pictures_are_known_by_their_first_bytes() -> None:
    picture = build.part_picture("washer", 0, 8)
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP"):
        assert is_picture(build.encode(picture, kind)), kind
    assert is_picture(b"\0\0\0\x18ftypheic")
    for text in (b"", b"<html>", b"P is for page", b"--frame", b"{}", b"/9j/4AAQ"):
        assert not is_picture(text)


def test_a_run_of_filling_takes_no_time() -> None:
    begin = time.thread_time()
    assert jpeg_end(b"\xff\xd8" + b"\xff" * 1_000_000) == -1
    counts: list[str] = []
    parts = Parts("x", max_bytes=64_000_000, count=counts.append)
    assert list(parts.feed(b"--x\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8")) == []
    for _ in range(200):
        assert list(parts.feed(b"\xff" * 5000)) == []
    filled = PICTURES[0].replace(b"\xff\xc0", b"\xff" * 1000 + b"\xc0")
    assert jpeg_end(filled) == len(filled)
    assert time.thread_time() - begin < 5  # seconds of its own, however busy the machine is


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
