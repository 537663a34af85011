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
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from edgecl.errors import DecodeError, IntegrityError
from edgecl.types import Float32, Frame, Pixels

# Pillow warns at 89 million pixels; the limit below is our own, lower, and an error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}
_SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N", "I"}
_ORIENTATION = 0x0112
# Not every format that Pillow knows: EPS, for one, would start an interpreter.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a picture becomes the backbone's input.

    Args:
        image_size: Side of the square input, pixels.
        crop_pct: Share of the resized shorter side that the centre crop keeps, 0 to 1.
        interpolation: `bicubic`, `bilinear`, `nearest` or `lanczos`.
        mean: Mean of each channel of pictures scaled to 0..1.
        std: Standard deviation of each channel.
    """

    image_size: int
    crop_pct: float
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
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

    def as_json(self) -> dict[str, Any]:
        """Return JSON values that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Preprocessing:
        """Read what `as_json` wrote."""
        return cls(
            image_size=int(values["image_size"]),
            crop_pct=float(values["crop_pct"]),
            interpolation=str(values["interpolation"]),
            mean=_triple(values["mean"]),
            std=_triple(values["std"]),
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


def decode(data: bytes, *, max_pixels: int = 50_000_000) -> Image.Image:
    """Decode picture bytes to an upright RGB picture.

    Grey, palette, RGBA, CMYK and 16-bit pictures become 8-bit RGB; transparency is dropped, as
    timm's own loader does; the EXIF orientation is applied.

    Args:
        data: Content of a picture file.
        max_pixels: Pictures with more pixels are refused from their header, before decoding.

    Raises:
        DecodeError: Empty, truncated, not a picture, too many pixels, or floating-point pixels.
    """
    if not data:
        raise DecodeError("the file is empty")
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            raise DecodeError(
                f"{width} x {height} pixels are more than the limit of {max_pixels / 1e6:g} million"
            )
        image.load()
        return _rgb(_upright(image))
    except DecodeError:
        raise
    except Exception as error:  # decoders raise many kinds on broken files, and MemoryError
        reason = str(error).split("<_io")[0].strip() or type(error).__name__
        raise DecodeError(f"not a picture that can be decoded ({reason})") from error


def picture_of(frame: Frame, *, max_pixels: int = 50_000_000) -> Image.Image:
    """Return the frame's picture, upright RGB.

    Raises:
        DecodeError: As `decode`.
    """
    if frame.pixels is not None:
        return Image.fromarray(frame.pixels)
    return decode(frame.encoded or b"", max_pixels=max_pixels)


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


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; a damaged EXIF block costs the orientation, not the picture."""
    try:
        # An upright picture, as most are, is not copied, which `exif_transpose` would do.
        if image.getexif().get(_ORIENTATION, 1) not in range(2, 9):
            return image
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DecodeError(f"pixel values {values.min()}..{values.max()} are not 16-bit")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DecodeError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _triple(values: Any) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in values)
    return a, b, c
