"""Whether anything has moved in a live picture since the last one that was taken.

A small grey picture is compared, so that a still scene costs hardly more than what sends it: JPEG
is decoded at an eighth of its size, and of pixels one in so many is read.
"""

from __future__ import annotations

import io
import time

import numpy as np
from PIL import Image, JpegImagePlugin

from edgecl.types import Float32, Frame

from ..options import Options
from ..preprocess import picture_of
from .jpeg import JPEG_START

_SIZE = (64, 36)
# Pixels of the picture that stand for one of the small one, each way: enough to even out noise.
_FINE = 2
# Least size to which a JPEG is decoded, which evens out by itself: mostly an eighth of its own.
_DRAFT = (40, 22)
# Grey levels; cameras in the dark differ by less from one frame to the next once it is evened out.
_LEAST_CHANGE = 20
_ORIENTATION = 0x0112


class Motion:
    """The last frame of one source that was taken, small and grey.

    Args:
        options: From how many changed pixels on a frame is no still one, and after how long any is
            taken; only what counts of the picture is compared.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._last: Float32 | None = None
        self._taken_at = 0.0

    def is_still(self, frame: Frame) -> bool:
        """Whether a frame shows what the last one did; one that is not is remembered as taken.

        What cannot be decoded is not still: where it is decoded whole, it is said why.
        """
        try:
            grey = self._grey(frame)
        except Exception:  # as decoders of broken files raise
            return False
        now = frame.monotonic or time.monotonic()
        longest = self._options.interval_s
        if self._last is not None and not (longest and now - self._taken_at >= longest):
            n_changed = np.count_nonzero(np.abs(grey - self._last) > _LEAST_CHANGE)
            if n_changed < self._options.motion * grey.size:
                return True
        self._last, self._taken_at = grey, now
        return False

    def _grey(self, frame: Frame) -> Float32:
        image, size = _fewer(frame)
        region = self._options.region
        if region:
            image = Image.fromarray(region(np.asarray(image), size))
        return np.asarray(image.convert("L").resize(_SIZE, Image.Resampling.BOX), np.float32)


def _fewer(frame: Frame) -> tuple[Image.Image, tuple[int, int]]:
    """Return a picture with hardly more pixels than are needed, and its true width and height."""
    pixels = frame.pixels
    if pixels is None:
        data = frame.encoded or b""
        if data.startswith(JPEG_START):
            # Named, since asking every decoder and the metadata took a fifth of a look.
            image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
            size = image.size
            if "exif" not in image.info or image.getexif().get(_ORIENTATION, 1) == 1:
                image.draft("L", _DRAFT)
                return image, size  # of which each pixel is the mean of some
        pixels = np.asarray(picture_of(frame))
    x, y = (
        max(1, n // (small * _FINE)) for n, small in zip(pixels.shape[1::-1], _SIZE, strict=True)
    )
    return Image.fromarray(pixels[::y, ::x]), (pixels.shape[1], pixels.shape[0])
