"""Views of a picture: the same part, seen a little or much otherwise.

A view is a pure function of (seed, sample, view), so that it can be drawn again from the stored
picture years later. It works on 8-bit RGB pictures of any size; a grey one stays grey.

Reference: Cubuk et al. 2020, "RandAugment", arXiv:1909.13719. Departures: a small set of
operations that keep what a part is; every view is cropped first, then changed twice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

Operation = Callable[[Image.Image, np.random.Generator], Image.Image]

_N_OPERATIONS = 2
# A crop keeps at least this share of each side.
_SMALLEST_CROP = 0.75
_WEAK_CROP = 0.8
_MOST_DEGREES = 20.0
_MOST_CHANGE = 0.5
_NOISE = 12.0
_CUTOUT = 0.3


def weak_view(
    image: Image.Image, *, seed: int, uid: int, view: int, mirrors: bool = True
) -> Image.Image:
    """Return a picture as it may as well have been taken, of the same size.

    Args:
        image: RGB picture.
        seed: Seed of the home.
        uid: Number of the sample.
        view: View 0 is the picture itself, view 1 its mirror image; later ones are crops of 0.8 to
            1 of each side, every second of them mirrored.
        mirrors: Whether a mirror image is still of the same class; if not, every view from 1 on is
            a crop.
    """
    if view > mirrors:
        image = _crop(image, np.random.default_rng([seed, uid, view, 2]), _WEAK_CROP)
    is_mirrored = mirrors and view % 2
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if is_mirrored else image.copy()


def strong_view(image: Image.Image, *, seed: int, uid: int, view: int) -> Image.Image:
    """Return a changed copy of a picture, of the same size.

    Args:
        image: RGB picture.
        seed: Seed of the home.
        uid: Number of the sample.
        view: Number of the view, 1 on; view 0 is the picture itself.

    Reference: Cubuk et al. 2020, arXiv:1909.13719; see the module.
    """
    if view == 0:
        return image.copy()
    rng = np.random.default_rng([seed, uid, view])
    image = _crop(image, rng)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for i in rng.permutation(len(OPERATIONS))[:_N_OPERATIONS]:
        image = OPERATIONS[i](image, rng)
    return image


def _crop(
    image: Image.Image, rng: np.random.Generator, smallest: float = _SMALLEST_CROP
) -> Image.Image:
    """Cut a part of any place and stretch it to the old size: shift and zoom in one."""
    width, height = image.size
    w, h = width * rng.uniform(smallest, 1), height * rng.uniform(smallest, 1)
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    box = (left, top, left + w, top + h)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _rotate(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    degrees = rng.uniform(-_MOST_DEGREES, _MOST_DEGREES)
    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=_mean(image))


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    def change(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        return kind(image).enhance(rng.uniform(1 - _MOST_CHANGE, 1 + _MOST_CHANGE))

    return change


def _sharpness(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(rng.uniform(0, 3))


def _noise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Add the same noise to all channels, as a sensor in bad light does."""
    width, height = image.size
    pixels = np.asarray(image, np.float32) + rng.normal(0, _NOISE, (height, width, 1))
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _cutout(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cover a box with the mean colour."""
    width, height = image.size
    w, h = max(1, round(width * _CUTOUT)), max(1, round(height * _CUTOUT))
    left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    out = image.copy()
    out.paste(_mean(image), (left, top, left + w, top + h))
    return out


def _mean(image: Image.Image) -> tuple[int, int, int]:
    red, green, blue = np.asarray(image).reshape(-1, 3).mean(axis=0).round().astype(int).tolist()
    return red, green, blue


OPERATIONS: tuple[Operation, ...] = (
    _rotate,
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _sharpness,
    _noise,
    _cutout,
)
