"""A frame as a small JPEG, for who looks at it elsewhere: a page, Home Assistant."""

from __future__ import annotations

import io

from PIL import Image

from edgecl.errors import DecodeError
from edgecl.types import Frame

from .preprocess import picture_of

_QUALITY = 80


def small_jpeg(frame: Frame, side: int) -> bytes:
    """Return what counts of a frame as a JPEG; nothing of one that cannot be decoded.

    A JPEG that is small enough is given as it came.

    Args:
        frame: The frame.
        side: Most pixels of the longer side.
    """
    try:
        if frame.encoded is not None and frame.cut is None:
            with Image.open(io.BytesIO(frame.encoded), formats=("JPEG",)) as given:
                if max(given.size) <= side:
                    return frame.encoded
    except Exception:  # as decoders raise of what is no JPEG, or a broken one
        pass
    try:
        image = picture_of(frame).convert("RGB")
    except DecodeError:
        return b""
    image.thumbnail((side, side))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()
