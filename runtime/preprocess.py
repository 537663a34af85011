"""From picture bytes to the backbone's input: the one place where pixels are decoded and scaled.

The numbers equal timm's evaluation transform (resize the shorter side with an antialiased filter,
cut the centre, normalise), which is itself Pillow; see tests/runtime/test_preprocess.py. The resize
works on the centre box only: the same filter at the same sample points, about a quarter less work,
and a 1 x 10,000 picture cannot grow into gigabytes.
"""

from __future__ import annotations

import io
import math
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from edgecl.errors import DecodeError, IntegrityError, UsageError
from edgecl.types import Float32, Frame, Pixels

from .formats import HEIC_HINT, hush_libtiff, is_readable, kind_of, pillow_formats, what_else
from .levels import SIXTEEN_BIT, check_colours, check_levels, grey

# What Pillow warns of is an error here (89 million pixels, more than our own limit) or does not
# matter (damaged metadata). Its lines would stand between those of a log.
warnings.filterwarnings("ignore", module=r"PIL\b")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _DNG_VERSION = 0x0112, 50706
WHOLE, SCALED = DECODINGS = ("whole", "scaled")
# Chunks of a PNG that its pixels depend on, and the one with the orientation.
_JPEG_END, _FILLER = b"\xff\xd9", bytes.fromhex("5aa5") * 64
_PNG_CHUNKS = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf"))


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture becomes the backbone's input.

    Args:
        image_size: Side of the square input, pixels.
        crop_pct: Share of the resized shorter side that the centre crop keeps, 0 to 1.
        interpolation: `bicubic`, `bilinear`, `nearest` or `lanczos`.
        mean: Mean of each channel of pictures scaled to 0..1.
        std: Standard deviation of each channel.
        levels: Which values of 16-bit grey pictures are black and white: `full` (0 and 65,535),
            `12` (0 and 4,095, so for any number of bits), `7600..8400`, `each` (the lowest and
            highest of each picture), or `auto`: full, and refused where that is plainly wrong. Not
            compared, since it does not concern the network; it is part of the feature map's hash.
        decoding: `whole`; or `scaled`, by which the decoder itself halves a large JPEG once, twice
            or three times, while its sides are even and twice `resize_side` is left. Like `levels`
            in all else.
    """

    image_size: int
    crop_pct: float
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    levels: str = field(default="auto", compare=False)
    decoding: str = field(default=WHOLE, compare=False)

    def __post_init__(self) -> None:
        try:
            check_levels(self.levels)
            check_decoding(self.decoding)
        except UsageError as error:
            raise IntegrityError(f"preprocessing cannot be used: {error}") from error
        numbers_fit = all(map(math.isfinite, self.mean)) and all(
            math.isfinite(s) and s > 0 for s in self.std
        )
        size_fits = self.image_size >= 1 and 0 < self.crop_pct <= 1
        if self.interpolation not in _FILTERS or not size_fits or not numbers_fit:
            raise IntegrityError(
                f"preprocessing {self} cannot be used; expected image_size >= 1, crop_pct in "
                f"(0, 1], finite mean, std above 0 and one of "
                f"{', '.join(_FILTERS)}; make the home anew with `edgecl init`"
            )

    @property
    def resize_side(self) -> int:
        """Length of the shorter side before the centre crop, pixels."""
        return int(self.image_size / self.crop_pct)

    @property
    def least_side(self) -> int:
        """Length that a JPEG's shorter side keeps when it is decoded smaller; 0 keeps it whole."""
        return 2 * self.resize_side if self.decoding == SCALED else 0

    def as_json(self) -> dict[str, Any]:
        """Return JSON values that `from_json` reads back; older homes keep their hash."""
        values = asdict(self)
        if self.levels == "auto":
            del values["levels"]
        if self.decoding == WHOLE:
            del values["decoding"]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Preprocessing:
        """Read what `as_json` wrote."""
        return cls(
            image_size=int(values["image_size"]),
            crop_pct=float(values["crop_pct"]),
            interpolation=str(values["interpolation"]),
            mean=_triple(values["mean"]),
            std=_triple(values["std"]),
            levels=str(values.get("levels", "auto")),
            decoding=str(values.get("decoding", WHOLE)),
        )

    def tensor(self, image: Image.Image) -> Float32:
        """Return the backbone's input for one RGB picture, shape (3, S, S), float32."""
        size, side = self.image_size, self.resize_side
        width, height = image.size
        short = min(width, height)
        new_width = side if width == short else int(side * width / height)
        new_height = side if height == short else int(side * height / width)
        left, top = round((new_width - size) / 2), round((new_height - size) / 2)
        sx, sy = width / new_width, height / new_height
        box = (left * sx, top * sy, (left + size) * sx, (top + size) * sy)
        resized = image.resize((size, size), _FILTERS[self.interpolation], box=box)
        pixels = np.frombuffer(resized.tobytes(), np.uint8).reshape(-1, 3)
        std = np.asarray(self.std, dtype=np.float32)[:, None]
        x = np.empty((3, size * size), np.float32)
        x[:] = pixels.T  # channels first while they are bytes: four times less to read
        x *= 1 / (255 * std)
        x -= np.asarray(self.mean, dtype=np.float32)[:, None] / std
        return x.reshape(3, size, size)


def check_decoding(decoding: str) -> str:
    """Check the name of a way to decode, as `Preprocessing` describes them.

    Raises:
        UsageError: It is none.
    """
    if decoding not in DECODINGS:
        raise UsageError(f"decoding {decoding!r} is unknown; expected {' or '.join(DECODINGS)}")
    return decoding


def decode(
    data: bytes, *, max_pixels: int = 50_000_000, levels: str = "auto", least_side: int = 0
) -> Image.Image:
    """Decode picture bytes to an upright RGB picture.

    Grey, palette, RGBA, CMYK and 16-bit pictures become 8-bit RGB; transparency is dropped, as
    timm's own loader does; the EXIF orientation is applied.

    Args:
        data: Content of a picture file.
        max_pixels: Pictures with more pixels are refused from their header, before decoding.
        levels: Black and white of 16-bit grey pictures, as `Preprocessing` has them.
        least_side: Length that a JPEG's shorter side keeps when it is decoded smaller, pixels; 0
            decodes it whole.

    Raises:
        DecodeError: Empty, truncated, not a picture, too many pixels, floating-point pixels, or 16
            bits of which it is not known how many are used.
    """
    return _decoded(data, max_pixels, levels, least_side)[0]


def picture_of(
    frame: Frame, *, max_pixels: int = 50_000_000, levels: str = "auto", least_side: int = 0
) -> Image.Image:
    """Return the frame's picture, upright RGB.

    Raises:
        DecodeError: As `decode`.
    """
    return picture_and_depth(frame, max_pixels=max_pixels, levels=levels, least_side=least_side)[0]


def picture_and_depth(
    frame: Frame, *, max_pixels: int, levels: str, least_side: int = 0
) -> tuple[Image.Image, bool]:
    """Return the frame's picture, and whether it is another one than its bytes alone give.

    It is where its levels were set by a number or by itself, and where only a part of it counts:
    that part is cut from the whole picture.

    Raises:
        DecodeError: As `decode`; or the part that counts does not lie in the picture.
    """
    if frame.pixels is not None:
        pixels = frame.pixels if frame.cut is None else frame.cut(frame.pixels)
        return Image.fromarray(pixels), frame.cut is not None
    least_side = least_side if frame.cut is None else 0
    image, is_deep = _decoded(frame.encoded or b"", max_pixels, levels, least_side)
    if frame.cut is not None:
        return Image.fromarray(frame.cut(np.asarray(image))), True
    return image, is_deep and levels != "auto"


def _decoded(
    data: bytes, max_pixels: int, levels: str, least_side: int
) -> tuple[Image.Image, bool]:
    """Return a picture, and whether its 16-bit grey was brought to 8 bits."""
    if not data:
        raise DecodeError("the file is empty")
    kind = kind_of(data)
    if kind == "RAW" or (kind and not is_readable(kind)):
        raise DecodeError(_cannot(kind))
    try:
        try:
            return _opened(data, kind, max_pixels, levels, least_side)
        except DecodeError:
            raise
        except Exception:
            mended = _mended(data, kind)
            if mended is None:
                raise
            return _opened(mended, kind, max_pixels, levels, least_side)
    except DecodeError:
        raise
    except Image.DecompressionBombError as error:
        raise DecodeError("its pixels are more than the 179 million that are ever read") from error
    except Exception as error:  # decoders raise many kinds on broken files, and MemoryError
        reason = str(error).split("<_io")[0].strip() or type(error).__name__
        if reason.startswith("cannot identify"):  # as Pillow says of what is damaged, too
            reason = f"it begins as {kind}, and the rest is damaged" if kind else reason
            reason = reason if kind else what_else(data) or reason
        elif kind:
            reason = f"{kind}: {reason}"
        raise DecodeError(f"not a picture that can be decoded ({reason})") from error


def _opened(
    data: bytes, kind: str, max_pixels: int, levels: str, least_side: int
) -> tuple[Image.Image, bool]:
    hush_libtiff()
    image: Image.Image = Image.open(io.BytesIO(data), formats=pillow_formats(kind))
    width, height = image.size
    if width * height > max_pixels:
        raise DecodeError(
            f"{width} x {height} pixels are more than the limit of {max_pixels / 1e6:g} million; "
            "picture.max_megapixels in edgecl.toml sets it"
        )
    tags = dict(getattr(image, "tag_v2", {}))
    if _DNG_VERSION in tags:
        raise DecodeError(_cannot("RAW"))
    if least_side and kind == "JPEG":
        # By what divides both sides only, so that nothing is shifted by a part of a pixel.
        part = math.gcd(8, width, height)
        while part > 1 and min(width, height) < part * least_side:
            part //= 2
        image.draft("", (width // part, height // part))
    has_deep_colours = ";16" in str(getattr(image, "tile", ""))
    image.load()
    if image.mode in SIXTEEN_BIT:
        return _upright(grey(image, tags, levels), image).convert("RGB"), True
    if has_deep_colours and levels != "full":
        check_colours(image)
    return _rgb(_upright(image, image)), False


def _cannot(kind: str) -> str:
    """Return why pictures of a kind are not read."""
    hint = {
        "HEIC": f"which is not read here; {HEIC_HINT}",
        "AVIF": "which this Pillow does not read; install Pillow 11.3 or later",
        "RAW": "which is not developed here; save it as JPEG, PNG or TIFF",
    }[kind]
    what = "a camera's raw picture" if kind == "RAW" else kind
    return f"it is {what}, {hint}"


def _mended(data: bytes, kind: str) -> bytes | None:
    """Return a file whose pixels are whole, though not all of it is; None if that cannot be.

    Metadata of a PNG may be damaged, or larger than Pillow's own limit. A JPEG may lack its end and
    nothing else: bytes that are put before the end then change no pixel.
    """
    if kind == "PNG":
        plain = b"".join(_pixel_chunks(data))
        return plain if len(plain) < len(data) else None
    if kind == "JPEG" and not data.endswith(_JPEG_END):
        closed, filled = data + _JPEG_END, data + _FILLER + _JPEG_END
        one, other = (Image.open(io.BytesIO(x), formats=("JPEG",)) for x in (closed, filled))
        try:
            # A progressive one may lack whole passes over all pixels.
            is_whole = "progressive" not in one.info and one.tobytes() == other.tobytes()
        except Exception:  # more than its end is missing
            return None
        return closed if is_whole else None
    return None


def _pixel_chunks(data: bytes) -> Iterator[bytes]:
    """Yield a PNG without its metadata; of what is damaged only what the pixels need."""
    yield data[:8]
    at = 8
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        chunk, name = data[at:end], data[at + 4 : at + 8]
        is_whole = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if name in _PNG_CHUNKS and (is_whole or name != b"eXIf"):
            yield chunk
        at = end


def encode_png(pixels: Pixels) -> bytes:
    """Encode pixels (H, W, 3) without loss, for storing a frame that came unencoded."""
    image = Image.fromarray(pixels)
    if bool((pixels == pixels[:, :, :1]).all()):
        image = image.convert("L")
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def shrink(image: Image.Image, side: int) -> bytes:
    """Encode a picture as JPEG with a shorter side of `side` pixels, at most twice as long.

    The backbone sees the centre square only; what lies beyond twice the short side is cut.
    """
    width, height = image.size
    short = min(width, height)
    wide, high = min(width, 2 * short), min(height, 2 * short)
    left, top = (width - wide) // 2, (height - high) // 2
    size = (max(1, round(wide * side / short)), max(1, round(high * side / short)))
    small = image.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + wide, top + high))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def _upright(image: Image.Image, opened: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of the picture as it was opened.

    A damaged EXIF block costs the orientation, not the picture.
    """
    try:
        # An upright picture, as most are, is not copied, which `exif_transpose` would do.
        turn = _TURNS.get(opened.getexif().get(_ORIENTATION, 1))
        return image if turn is None else image.transpose(turn)
    except Exception:
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise DecodeError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _triple(values: Any) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in values)
    return a, b, c
