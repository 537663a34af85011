"""Pictures of every kind become the tensor that timm's own transform makes, or are refused."""

from __future__ import annotations

import base64
import io
import json
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import timm
from PIL import Image, ImageFile, PngImagePlugin
from skimage import data as photographs

import build
from edgecl.errors import DecodeError, IntegrityError, UsageError
from edgecl.runtime.formats import is_readable
from edgecl.runtime.pipeline import Embedded, embed
from edgecl.runtime.preprocess import (
    Preprocessing,
    check_levels,
    decode,
    encode_png,
    picture_of,
    shrink,
)
from edgecl.types import Frame

HALF = (0.5, 0.5, 0.5)
LITE0 = Preprocessing(64, 0.875, "bicubic", HALF, HALF)


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds nothing of it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    idat = zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", idat) + chunk(b"IEND", b"")


@contextmanager
def quiet() -> Iterator[None]:
    """Warnings of other packages are not what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    return build.encode(image, format, **options)


def grey(values: list[list[int]], mode: str = "L") -> Image.Image:
    dtype = {"L": np.uint8, "I;16": np.uint16, "F": np.float32}[mode]
    return Image.fromarray(np.array(values, dtype))


@pytest.mark.parametrize("model_name", ["tf_efficientnet_lite0", "resnet18", "test_vit"])
@pytest.mark.parametrize("size", [224, 64])
@pytest.mark.parametrize("photograph", ["astronaut", "coffee", "chelsea", "rocket"])
def test_tensor_equals_timms_evaluation_transform(
    photograph: str, size: int, model_name: str
) -> None:
    image = Image.fromarray(getattr(photographs, photograph)())
    with quiet():
        model = timm.create_model(model_name, pretrained=False)
    config = timm.data.resolve_model_data_config(model) | {"input_size": (3, size, size)}
    expected = timm.data.create_transform(**config, is_training=False)(image).numpy()
    ours = Preprocessing(
        size, config["crop_pct"], config["interpolation"], config["mean"], config["std"]
    )
    assert ours.tensor(image).shape == expected.shape
    assert np.abs(ours.tensor(image) - expected).max() <= 0.02


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello, I am no picture\n" * 20, "cannot identify"),
        (encoded(build.part_picture("washer", 0), "JPEG")[:-100], "truncated"),
        (encoded(build.part_picture("washer", 0))[:1000], "truncated"),
    ],
    ids=["empty", "text", "truncated jpeg", "truncated png"],
)
def test_what_is_no_whole_picture_is_refused_with_its_reason(content: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(content)


def test_float_pixels_are_refused() -> None:
    with pytest.raises(DecodeError, match="floating-point"):
        decode(encoded(grey([[0.5, 0.25]], "F"), "TIFF"))  # type: ignore[list-item]


@pytest.mark.parametrize("side", [60_000, 9_000], ids=["above Pillow's limit", "below it"])
def test_decompression_bomb_is_refused_before_any_pixel_is_decoded(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: ImageFile.ImageFile) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(DecodeError, match=r"pixels are more|exceeds limit"):
        decode(png_header(side, side), max_pixels=50_000_000)


def test_pixel_limit_refuses_one_more_and_takes_exactly_as_many() -> None:
    picture = encoded(Image.new("RGB", (11, 10)))
    assert decode(picture, max_pixels=110).size == (11, 10)
    with pytest.raises(DecodeError, match="11 x 10 pixels are more"):
        decode(picture, max_pixels=109)


def test_damaged_exif_is_refused_or_ignored_but_never_escapes() -> None:
    exif = Image.Exif()
    exif[0x112] = 6
    exif[0x10E] = "hello"
    picture = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    start, length = picture.index(b"Exif"), len(exif.tobytes())
    outcomes = set()
    for i in range(start + 6, start + length):
        for value in (0, 1, 7, 255):
            broken = picture[:i] + bytes([value]) + picture[i + 1 :]
            with quiet():
                try:
                    outcomes.add(decode(broken).mode)
                except DecodeError:
                    outcomes.add("refused")
    assert "RGB" in outcomes


def with_transparency() -> Image.Image:
    image = grey([[0, 1], [1, 0]]).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255] + [0] * 762)
    image.info["transparency"] = bytes([0, 255])
    return image


def plain_palette() -> Image.Image:
    image = with_transparency()
    del image.info["transparency"]
    return image


RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: encoded(Image.new("RGB", (1, 1), (1, 2, 3))), [[(1, 2, 3)]]),
        (lambda: encoded(grey([[0, 7, 255]])), [[(0,) * 3, (7,) * 3, (255,) * 3]]),
        (lambda: encoded(Image.new("LA", (1, 1), (9, 0))), [[(9, 9, 9)]]),
        (lambda: encoded(Image.new("RGBA", (1, 1), (9, 8, 7, 0))), [[(9, 8, 7)]]),
        (lambda: encoded(plain_palette()), [[RED, BLUE], [BLUE, RED]]),
        (lambda: encoded(with_transparency()), [[RED, BLUE], [BLUE, RED]]),
        (lambda: encoded(plain_palette(), "GIF"), [[RED, BLUE], [BLUE, RED]]),
        (
            lambda: encoded(grey([[0, 255, 256, 32768, 65535]], "I;16")),
            [[(0,) * 3, (0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]],
        ),
        (
            lambda: encoded(grey([[0, 32768]], "I;16"), "TIFF"),
            [[(0,) * 3, (128,) * 3]],
        ),
        (
            lambda: encoded(Image.fromarray(np.array([[True, False]]))),
            [[(255,) * 3, (0,) * 3]],
        ),
    ],
    ids=[
        "one pixel",
        "grey",
        "grey with alpha",
        "rgba",
        "palette",
        "palette with transparency",
        "gif",
        "16-bit png",
        "16-bit tiff",
        "one bit",
    ],
)
def test_every_kind_of_picture_becomes_8_bit_rgb(
    make: Callable[[], bytes], expected: list[list[tuple[int, ...]]]
) -> None:
    image = decode(make())
    assert image.mode == "RGB"
    assert np.asarray(image).tolist() == [[list(p) for p in row] for row in expected]
    x = LITE0.tensor(image)
    assert x.shape == (3, 64, 64)
    assert np.isfinite(x).all()


def test_cmyk_jpeg_keeps_its_colour() -> None:
    image = decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - RED).max() <= 6  # JPEG rounding


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_the_pixels(orientation: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # the top left quarter is white
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x112] = orientation
    picture = encoded(Image.fromarray(np.ascontiguousarray(turned)), "JPEG", quality=95, exif=exif)
    image = np.asarray(decode(picture)).astype(int)
    assert image.shape == upright.shape
    assert np.abs(image - upright).max() <= 8  # JPEG rounding


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 5000)])
def test_extreme_aspect_gives_its_middle_without_a_huge_picture_between(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    width, height = size
    image = Image.new("RGB", size, (0, 0, 0))
    band = (0, 2400, width, 2600) if height > width else (2400, 0, 2600, height)
    image.paste((255, 255, 255), band)
    made = []
    resize = Image.Image.resize

    def watched(self: Image.Image, *args: Any, **options: Any) -> Image.Image:
        made.append(resize(self, *args, **options))
        return made[-1]

    monkeypatch.setattr(Image.Image, "resize", watched)
    x = LITE0.tensor(image)
    assert x.shape == (3, 64, 64)
    assert x.min() > 0.99
    assert [picture.size for picture in made] == [(64, 64)]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((200, 100), (128, 64)),
        ((100, 200), (64, 128)),
        ((100, 100), (64, 64)),
        ((1000, 10), (128, 64)),
        ((150, 100), (96, 64)),
    ],
)
def test_shrink_gives_the_short_side_and_at_most_twice_the_long_one(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    small = shrink(Image.new("RGB", size, (10, 200, 30)), 64)
    assert small[:2] == b"\xff\xd8"
    assert decode(small).size == expected


def test_shrink_keeps_what_the_backbone_sees() -> None:
    image = Image.fromarray(photographs.astronaut())
    before, after = LITE0.tensor(image), LITE0.tensor(decode(shrink(image, LITE0.resize_side)))
    # Two resamplings and one JPEG (quality 95) apart: small on the whole, larger on single edges.
    assert np.abs(before - after).mean() < 0.03


@pytest.mark.parametrize("is_grey", [True, False])
def test_encode_png_gives_the_same_pixels_back(is_grey: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    if is_grey:
        pixels = pixels[:, :, :1].repeat(3, axis=2)
    data = encode_png(pixels)
    assert Image.open(io.BytesIO(data)).mode == ("L" if is_grey else "RGB")
    assert np.array_equal(np.asarray(decode(data)), pixels)
    assert np.array_equal(np.asarray(picture_of(Frame(id="a", pixels=pixels))), pixels)
    assert np.array_equal(np.asarray(picture_of(Frame(id="a", encoded=data))), pixels)


def test_preprocessing_survives_json() -> None:
    text = json.dumps(LITE0.as_json())
    assert Preprocessing.from_json(json.loads(text)) == LITE0


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 0},
        {"crop_pct": 0.0},
        {"crop_pct": 1.01},
        {"crop_pct": float("nan")},
        {"interpolation": "area"},
        {"std": (0.5, 0.0, 0.5)},
        {"mean": (float("nan"), 0.5, 0.5)},
    ],
    ids=str,
)
def test_preprocessing_that_cannot_be_used_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(IntegrityError, match="cannot be used"):
        Preprocessing.from_json(LITE0.as_json() | change)


@pytest.mark.parametrize("values", [(0.5, 0.5), (0.5,) * 4])
def test_mean_of_another_length_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="unpack"):
        Preprocessing.from_json(LITE0.as_json() | {"mean": values})


def wide(values: list[int], kind: str = "PNG") -> bytes:
    return encoded(grey([values], "I;16"), kind)


def white_is_zero(values: np.ndarray, bits: int) -> bytes:
    """A TIFF of one strip whose zero is white."""
    data = values.tobytes()
    tags = [
        (256, values.shape[1]), (257, values.shape[0]), (258, bits), (259, 1), (262, 0), (273, 8),
        (277, 1), (278, values.shape[0]), (279, len(data)),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<I", 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_whose_zero_is_white_is_not_its_negative(bits: int) -> None:
    shades = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    stored = 255 - shades if bits == 8 else 65535 - shades.astype("<u2") * 257
    image = np.asarray(decode(white_is_zero(stored, bits)))
    assert np.abs(image[:, :, 0].astype(int) - shades).max() <= 1


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_fewer_bits_in_16_are_refused_until_their_number_is_set(bits: int, kind: str) -> None:
    top = 2**bits - 1
    data = wide([0, top // 2, top], kind)
    with pytest.raises(DecodeError, match=rf"values are 0 to {top} only.*--levels"):
        decode(data)
    assert np.asarray(decode(data, levels=str(bits)))[0, :, 0].tolist() == [0, 127, 255]
    assert np.asarray(decode(data, levels="full"))[0, 2, 0] == top >> 8


def test_temperatures_have_a_range_or_each_picture_its_own() -> None:
    data = wide([29_300, 29_800, 30_300])
    with pytest.raises(DecodeError, match="29300 to 30300 only"):
        decode(data)
    assert np.asarray(decode(data, levels="29300..30300"))[0, :, 0].tolist() == [0, 128, 255]
    assert np.asarray(decode(data, levels="29800..30300"))[0, :, 0].tolist() == [0, 0, 255]
    assert np.asarray(decode(data, levels="each"))[0, :, 0].tolist() == [0, 128, 255]


def test_few_shades_in_32_bits_are_refused_like_those_in_16() -> None:
    out = io.BytesIO()
    Image.fromarray(np.array([[0, 100, 255]], np.int32)).save(out, "TIFF")
    with pytest.raises(DecodeError, match=r"32-bit values are 0 to 255 only.*--levels"):
        decode(out.getvalue())
    assert np.asarray(decode(out.getvalue(), levels="each"))[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"\r\n  <html><head>login", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"/annex/objects/MD5E-s1--1.jpg\n", "git annex get"),
        (b"../.git/annex/objects/1.jpg\n", "git annex get"),
        (b'<?xml version="1.0"?>\n<!-- by hand -->\n<svg xmlns="x"/>', "SVG"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
        (b'{"error": "quota"}', "JSON"),
        (b"[]", "JSON"),
        (base64.b64encode(encoded(grey([[9] * 20] * 20), "JPEG")), "base64"),
        (b"data:image/png;base64,iVBORw0KGgo", "base64"),
        (b"HTTP/1.1 200 OK\r\n\r\n\xff\xd8\xff", "headers of HTTP"),
        (encoded(grey([[9]])).replace(b"\r\n", b"\n"), "as if it were text"),
        (encoded(grey([[9]]), "JPEG").decode("latin-1").encode(), "as if it were text"),
        (b"%PDF-1.7 x", "PDF"),
        (b"\0\0\0\x18ftypmp42" + bytes(40), "a film"),
        (b"\0\0\0\x14ftypqt  " + bytes(40), "a film"),
        (b"PK\3\4" + bytes(40), "an archive"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "macOS"),
        (bytes(5000), "zero bytes only"),
        (b"\xff\x0a" + bytes(40), "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    ],
)
def test_what_is_called_a_picture_and_is_none_is_named(data: bytes, what: str) -> None:
    with pytest.raises(DecodeError, match=rf"not a picture that can be decoded \(.*{what}"):
        decode(data)


@pytest.mark.parametrize("levels", ["auto", "full", "each", "12"])
def test_a_black_picture_of_16_bits_is_black(levels: str) -> None:
    assert not np.asarray(decode(wide([0, 0, 0]), levels=levels)).any()


def test_16_bit_colours_that_use_the_lowest_bits_only_are_refused() -> None:
    rgb = np.full((4, 4, 3), 4095, "<u2").tobytes()
    tags = [
        (256, 3, 1, 4), (257, 3, 1, 4), (258, 3, 3, 8 + len(rgb)), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 8), (277, 3, 1, 3), (278, 3, 1, 4), (279, 4, 1, len(rgb)),
    ]  # fmt: skip
    at = 8 + len(rgb) + 6
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    data = b"II*\0" + struct.pack("<I", at) + rgb + struct.pack("<HHH", 16, 16, 16)
    data += struct.pack("<H", len(tags)) + entries + bytes(4)
    with pytest.raises(DecodeError, match="lowest bits only"):
        decode(data)
    assert np.asarray(decode(data, levels="full")).max() == 15


@pytest.mark.parametrize("bad", ["", "8", "17", "12bit", "5..5", "9..3", "0..70000", "-1..5", "x"])
def test_levels_that_are_none_are_refused(bad: str) -> None:
    with pytest.raises(UsageError, match="levels"):
        check_levels(bad)
    with pytest.raises(IntegrityError):
        Preprocessing.from_json(LITE0.as_json() | {"levels": bad})


def test_levels_are_part_of_the_feature_map_and_older_maps_keep_their_hash() -> None:
    assert "levels" not in LITE0.as_json()
    twelve = replace(LITE0, levels="12")
    assert Preprocessing.from_json(json.loads(json.dumps(twelve.as_json()))).levels == "12"
    assert twelve.as_json() != LITE0.as_json()
    assert twelve == LITE0  # for the network they are the same


def photograph(size: tuple[int, int], *, orientation: int = 1, kind: str = "JPEG") -> bytes:
    """Return an encoded photograph of a size."""
    image = Image.fromarray(photographs.astronaut()).resize(size, Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    image.save(out, kind, exif=exif)
    return out.getvalue()


@pytest.mark.parametrize(
    ("size", "seen"),
    [
        ((291, 400), (291, 400)),  # twice the target of 73 is 146: a half would be less
        ((292, 400), (146, 200)),
        ((293, 401), (293, 401)),  # nothing is shifted by half a pixel
        ((1000, 600), (250, 150)),
        ((1300, 1172), (325, 293)),  # an eighth would be no whole number of pixels
        ((2400, 2408), (300, 301)),  # an eighth is the smallest
        ((8000, 40), (8000, 40)),
    ],
)
def test_a_large_jpeg_is_decoded_to_twice_the_target_at_least(
    size: tuple[int, int], seen: tuple[int, int]
) -> None:
    how = replace(LITE0, decoding="scaled")
    data = photograph(size)
    small = decode(data, least_side=how.least_side)
    assert small.size == seen
    assert decode(data).size == size
    if min(size) > 100:
        whole, scaled = how.tensor(decode(data)), how.tensor(small)
        # Of a range of two: an antialiased resize of what the decoder evened out before.
        assert np.abs(whole - scaled).mean() < 0.02
    turned = decode(photograph(size, orientation=6), least_side=how.least_side)
    assert turned.size == seen[::-1]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_only_jpegs_are_decoded_smaller(kind: str) -> None:
    data = photograph((1000, 600), kind=kind)
    assert decode(data, least_side=100).size == (1000, 600)


def test_what_lacks_its_end_and_what_is_broken_are_told_apart_when_decoded_smaller() -> None:
    data = photograph((1000, 600))
    assert decode(data[:-2], least_side=100).size == (250, 150)
    with pytest.raises(DecodeError, match="JPEG"):
        decode(data[: len(data) // 2], least_side=100)


def test_a_part_of_a_picture_is_cut_from_the_whole() -> None:
    frame = Frame(id="a", encoded=photograph((1000, 600)), cut=lambda pixels: pixels[:80, :90])
    assert picture_of(frame, least_side=100).size == (90, 80)


def test_decoding_is_part_of_the_feature_map_and_older_maps_keep_their_hash() -> None:
    assert LITE0.as_json().keys().isdisjoint({"levels", "decoding"})
    assert LITE0.least_side == 0
    scaled = replace(LITE0, decoding="scaled")
    assert scaled == LITE0  # for the network they are the same
    read = Preprocessing.from_json(json.loads(json.dumps(scaled.as_json())))
    assert read.least_side == 2 * LITE0.resize_side
    with pytest.raises(IntegrityError, match="decoding 'half' is unknown; expected whole or sca"):
        replace(LITE0, decoding="half")


@pytest.mark.parametrize(("above", "kept"), [(None, None), (73, (250, 150))])
def test_what_was_decoded_smaller_is_what_is_learned_and_kept(
    above: int | None, kept: tuple[int, int] | None
) -> None:
    frame = Frame(id="a", encoded=photograph((1000, 600)))
    how = replace(LITE0, decoding="scaled")
    seen: list[np.ndarray] = []

    class Engine:
        provider, num_features = "cpu", 1

        def run(self, x: np.ndarray) -> np.ndarray:
            seen.extend(x)
            return np.ones((len(x), 1), np.float32)

    groups = embed(iter([frame]), how, Engine(), pixels_above=above)  # type: ignore[arg-type]
    (group,) = (g for g in groups if g)
    (item,) = group
    assert isinstance(item, Embedded)
    small = decode(frame.encoded or b"", least_side=how.least_side)
    assert np.array_equal(seen[0], how.tensor(small))
    pixels = item.frame.pixels
    assert (None if pixels is None else pixels.shape[1::-1]) == kept


def test_what_was_seen_with_levels_is_what_is_kept() -> None:
    frame = Frame(id="a", encoded=wide([0, 2048, 4095]))
    how = Preprocessing(8, 1.0, "bicubic", HALF, HALF, levels="12")

    class Engine:
        provider, num_features = "cpu", 1

        def run(self, x: np.ndarray) -> np.ndarray:
            return np.ones((len(x), 1), np.float32)

    (group,) = (g for g in embed(iter([frame]), how, Engine()) if g)  # type: ignore[arg-type]
    (item,) = group
    assert isinstance(item, Embedded)
    assert item.frame.pixels is not None
    assert item.frame.pixels[0, :, 0].tolist() == [0, 128, 255]
    assert decode(encode_png(item.frame.pixels)).getpixel((1, 0)) == (128,) * 3


def test_a_large_16_bit_picture_takes_little_memory() -> None:
    code = (
        "import io, resource, numpy as np; from PIL import Image; "
        "from edgecl.runtime.preprocess import decode; b = io.BytesIO(); "
        "Image.fromarray(np.zeros((7071, 7071), np.uint16)).save(b, 'PNG'); "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; decode(b.getvalue()); "
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # 100 MB of 16 bits, 50 of 8 bits and 150 of RGB, of which some was there before.
    assert float(done.stdout) < 400, "it was 1,030 MB"


@pytest.mark.parametrize("what", ["text", "profile", "checksum"])
def test_metadata_of_a_png_may_be_large_or_damaged(what: str) -> None:
    image = build.part_picture("washer", 0)
    exif = Image.Exif()
    exif[0x112] = 6
    info = PngImagePlugin.PngInfo()
    options: dict[str, Any] = {"exif": exif}
    if what == "text":
        info.add_itxt("XML:com.adobe.xmp", "A" * 3_000_000, zip=True)
    elif what == "profile":
        options["icc_profile"] = bytes(3_000_000)
    else:
        options["dpi"] = (72, 72)
    data = bytearray(encoded(image, pnginfo=info, **options))
    if what == "checksum":
        data[data.index(b"pHYs") + 5] ^= 1
    assert np.array_equal(decode(bytes(data)), image.transpose(Image.Transpose.ROTATE_270))


@pytest.mark.parametrize("cut", [2, 3, 10, 56])
def test_a_jpeg_that_lacks_its_end_only_is_whole(cut: int) -> None:
    picture = build.encode(build.part_picture("washer", 0))
    if cut == 2:
        assert np.array_equal(decode(picture[:-cut]), decode(picture))
    else:
        with pytest.raises(DecodeError, match="truncated"):
            decode(picture[:-cut])


def test_what_is_not_read_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecl.runtime.formats._has_heif", lambda: False)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    with pytest.raises(DecodeError, match=r"it is HEIC, .*pip install 'edgecl\[heif\]'"):
        decode(heic)
    with pytest.raises(DecodeError, match="raw picture"):
        decode(b"II*\0\x10\0\0\0CR\2\0" + bytes(100))


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_avif_and_heic_are_read_where_their_packages_are(kind: str) -> None:
    if not is_readable({"HEIF": "HEIC"}.get(kind, kind)):
        pytest.skip("pillow-heif is not installed" if kind == "HEIF" else "this Pillow has no AVIF")
    image = Image.new("RGB", (64, 32), (200, 40, 40))
    read = np.asarray(decode(encoded(image, kind))).astype(int)
    assert read.shape == (32, 64, 3)
    assert np.abs(read - (200, 40, 40)).max() <= 8


def test_a_picture_that_is_too_large_names_the_setting() -> None:
    with pytest.raises(DecodeError, match=r"picture\.max_megapixels"):
        decode(png_header(9_000, 9_000))


def test_no_library_writes_to_stderr() -> None:
    exif = b"Exif\0\0II*\0" + b"\xff" * 4
    bad_exif = encoded(Image.new("RGB", (8, 8)), "JPEG", exif=exif)
    tiff = bytearray(encoded(build.part_picture("washer", 0), "TIFF", compression="tiff_deflate"))
    tiff[100:300] = bytes(200)
    code = (
        "import sys; from edgecl.runtime.preprocess import decode; from edgecl.errors import *\n"
        f"for data in ({bad_exif!r}, {bytes(tiff)!r}):\n"
        "    try: decode(data)\n"
        "    except DecodeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "cannot be decoded" in done.stdout or "not a picture" in done.stdout


def test_a_format_that_would_start_an_interpreter_is_not_opened() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(DecodeError, match="cannot identify"):
        decode(postscript)


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("AVIF", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif"),
        ("PNG", b"\x89PNG\r\n\x1a\n"),
        ("JPEG", b"\xff\xd8\xff\xe0"),
        ("TIFF", b"II*\0"),
        ("WEBP", b"RIFF\x20\0\0\0WEBP"),
        ("BMP", b"BM\x99\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0"),
    ],
)
def test_a_damaged_picture_is_called_by_its_kind(kind: str, head: bytes) -> None:
    if not is_readable(kind):
        pytest.skip(f"{kind} is not read on this machine")
    with pytest.raises(DecodeError, match=rf"\((it begins as )?{kind}\b") as error:
        decode(head + b"\x07" * 90)
    assert "identify" not in str(error.value)
