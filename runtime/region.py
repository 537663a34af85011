"""The part of a picture that counts: turned upright, cut out, and with boxes blacked out.

All boxes are of the picture as it stands after it was turned, and are written `x,y,w,h`, each in
pixels or in per cent of the picture: `10%,20%,30%,40%`. numpy is not imported here, since settings
that hold such boxes are read by every command.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecl.errors import DecodeError, UsageError

if TYPE_CHECKING:
    from edgecl.types import Pixels

TURNS = (0, 90, 180, 270)
_NUMBER = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?|\.[0-9]{1,6})(%?)", re.ASCII)
_EXPECTED = "expected x,y,w,h in pixels or per cent, as in 10%,20%,30%,40%"
_WHOLE = 100.0
# What shares of thirds are rounded to is no box outside of the picture.
_SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class Box:
    """A box of a picture.

    Args:
        sides: x, y, width and height; each a number and whether it is in per cent.
    """

    sides: tuple[tuple[float, bool], ...]

    def __str__(self) -> str:
        return ",".join(f"{value:g}{'%' if is_share else ''}" for value, is_share in self.sides)

    def within(self, width: int, height: int, what: str) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom in a picture of this size, pixels.

        Raises:
            DecodeError: It does not lie in the picture.
        """
        x, y, w, h = (
            value / _WHOLE * of if is_share else value
            for (value, is_share), of in zip(self.sides, (width, height) * 2, strict=True)
        )
        if x + w > width + _SLACK or y + h > height + _SLACK or x >= width or y >= height:
            raise DecodeError(
                f"{what} {self} does not lie in the picture, which has {width} x {height} pixels"
            )
        left, top = min(round(x), width - 1), min(round(y), height - 1)
        right, bottom = min(round(x + w), width), min(round(y + h), height)
        return left, top, max(right, left + 1), max(bottom, top + 1)


@dataclass(frozen=True, slots=True)
class Region:
    """What of the pictures of a source counts.

    Args:
        crop: What is cut out; None takes all.
        rotate: Degrees by which the picture is turned before, clockwise.
        mask: Boxes that are blacked out, of the whole turned picture as the crop is.
    """

    crop: Box | None = None
    rotate: int = 0
    mask: tuple[Box, ...] = ()

    def __bool__(self) -> bool:
        return self != Region()

    def __str__(self) -> str:
        """Return it as it stands in an address; the same text is the same region."""
        parts = [f"crop={self.crop}"] if self.crop is not None else []
        parts += [f"rotate={self.rotate}"] if self.rotate else []
        return "&".join([*parts, *(f"mask={box}" for box in self.mask)])

    def __call__(self, pixels: Pixels, size: tuple[int, int] | None = None) -> Pixels:
        """Return the pictures that counts, shape (H, W, 3) or (H, W), a copy where it differs.

        Args:
            pixels: The decoded picture, shape (H, W, 3) or (H, W).
            size: Width and height of the picture before it was scaled down to `pixels`; None if it
                was not.

        Raises:
            DecodeError: The crop or a mask does not lie in the picture.
        """
        if self.rotate == 180:
            pixels = pixels[::-1, ::-1]
        elif self.rotate:
            pixels = pixels.swapaxes(0, 1)
            pixels = pixels[:, ::-1] if self.rotate == 90 else pixels[::-1]
        height, width = pixels.shape[:2]
        full = (width, height) if size is None else size
        if size is not None and self.rotate in (90, 270):
            full = size[::-1]
        scale = (width / full[0], height / full[1])

        def place(box: Box, what: str) -> tuple[int, int, int, int]:
            left, top, right, bottom = box.within(*full, what)
            x, y = int(left * scale[0]), int(top * scale[1])
            return x, y, max(x + 1, math.ceil(right * scale[0])), max(
                y + 1, math.ceil(bottom * scale[1])
            )  # fmt: skip

        x, y, right, bottom = (0, 0, width, height)
        if self.crop is not None:
            x, y, right, bottom = place(self.crop, "crop")
        masks = [place(box, "mask") for box in self.mask]
        out = pixels[y:bottom, x:right].copy()
        for left, top, end, low in masks:
            out[max(0, top - y) : max(0, low - y), max(0, left - x) : max(0, end - x)] = 0
        return out


def parse_box(text: str, what: str) -> Box:
    """Read `x,y,w,h`.

    Args:
        text: As a person writes it.
        what: What it is called, for the error.

    Raises:
        UsageError: Not four numbers, no width or height, or per cents that leave the picture.
    """
    found = [_NUMBER.fullmatch(part.strip()) for part in text.split(",")]
    fault = ""
    sides = tuple((float(f[1]), bool(f[2])) for f in found if f)
    if len(found) != 4:
        fault = f"has {len(found)} {'number' if len(found) == 1 else 'numbers'}"
    elif len(sides) != 4:
        fault = "holds what is no number from 0 on"
    elif not all(value for value, _ in sides[2:]):
        fault = "has no width or no height"
    elif any(value >= _WHOLE and is_share for value, is_share in sides[:2]) or any(
        a[0] + b[0] > _WHOLE + _SLACK and a[1] and b[1]
        for a, b in zip(sides[:2], sides[2:], strict=True)
    ):
        fault = "does not lie in the picture"
    if fault:
        raise UsageError(f"{what}={text[:60]} {fault}; {_EXPECTED}")
    return Box(sides)


def parse_region(crop: str = "", rotate: str = "", mask: str = "") -> Region:
    """Read what of a picture counts; an empty text asks for nothing.

    Args:
        crop: A box.
        rotate: Degrees, clockwise.
        mask: Boxes with `;` between them.

    Raises:
        UsageError: One of them cannot be meant.
    """
    if rotate and rotate.strip() not in map(str, TURNS):
        raise UsageError(f"rotate={rotate[:60]} is none of {', '.join(map(str, TURNS))} degrees")
    return Region(
        parse_box(crop, "crop") if crop else None,
        int(rotate or 0),
        tuple(parse_box(part, "mask") for part in mask.split(";") if part.strip()),
    )
