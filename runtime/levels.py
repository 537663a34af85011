"""Which values of 16-bit grey pictures are black and white."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from PIL import Image

from edgecl.errors import DecodeError, UsageError

SIXTEEN_BIT = {"I;16", "I;16B", "I;16L", "I;16N", "I"}
_BITS, _PHOTOMETRIC = 258, 262
_WHITE_IS_ZERO = 0
# 16-bit grey whose values end below this, or span less than this, leaves fewer than 64 or 16 of 256
# shades: the camera gave 10, 12 or 14 bits, or temperatures.
_DIMMEST_WHITE, _NARROWEST_SPAN = 16_384, 4_096
_STRIP_PIXELS = 2_000_000
LEVELS = "auto, full, each, a number of bits from 9 to 16, or LOW..HIGH"


def check_levels(levels: str) -> str:
    """Check the levels of 16-bit grey pictures, as `Preprocessing` describes them.

    Raises:
        UsageError: They are none of these.
    """
    if levels not in ("auto", "full", "each") and _span(levels) is None:
        raise UsageError(f"levels {levels!r} are unknown; expected {LEVELS}")
    return levels


def grey(image: Image.Image, tags: dict[int, Any], levels: str) -> Image.Image:
    """Return the 8-bit grey of a 16-bit picture; strip by strip, since it may be large."""
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    boxes = [(0, y, width, min(height, y + rows)) for y in range(0, height, rows)]
    ends = [(int(s.min()), int(s.max())) for s in (np.asarray(image.crop(b)) for b in boxes)]
    darkest, lightest = min(low for low, _ in ends), max(high for _, high in ends)
    if darkest < 0 or lightest > 65535:
        raise DecodeError(f"pixel values {darkest}..{lightest} are not 16-bit")
    bits = tags.get(_BITS, (16,))[0]
    is_unclear = lightest < _DIMMEST_WHITE or lightest - darkest < _NARROWEST_SPAN
    if levels == "auto" and bits >= 16 and is_unclear and darkest < lightest:
        raise DecodeError(
            f"its {bits}-bit values are {darkest} to {lightest} only, and which is white is not "
            f"known; `edgecl init --levels` sets it for a home: {LEVELS}"
        )
    low, high = _span(levels) or (0, 2**bits - 1 if bits < 16 else 65535)
    if levels == "each":
        low, high = darkest, max(lightest, darkest + 1)
    out = np.empty((height, width), np.uint8)
    for box in boxes:
        values = np.asarray(image.crop(box))
        if (low, high) == (0, 65535):
            strip = (values >> 8).astype(np.uint8)
        else:
            share = (values.astype(np.float32) - low) / (high - low)
            strip = (share.clip(0, 1) * 255 + 0.5).astype(np.uint8)
        out[box[1] : box[3]] = strip
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        np.subtract(255, out, out=out)
    return Image.fromarray(out)


def _span(levels: str) -> tuple[int, int] | None:
    """Return black and white that a text of levels sets, or None."""
    if levels.isascii() and levels.isdigit() and len(levels) <= 2 and 9 <= int(levels) <= 16:
        return 0, 2 ** int(levels) - 1
    found = re.fullmatch(r"(\d{1,5})\.\.(\d{1,5})", levels, re.ASCII)
    low, high = map(int, found.groups()) if found else (0, 0)
    return (low, high) if low < high <= 65535 else None


def check_colours(image: Image.Image) -> None:
    """Refuse 16-bit colours that use the lowest bits only; Pillow keeps the upper eight."""
    ends: Any = image.getextrema()
    lightest = max(high for _, high in ends[:3]) if image.mode != "L" else ends[1]
    if 0 < lightest < _DIMMEST_WHITE >> 8:
        raise DecodeError(
            "its 16-bit colours use the lowest bits only, so it would be nearly black; save it "
            "with 8 bits, or make the home with `edgecl init --levels full` if it is that dark"
        )
