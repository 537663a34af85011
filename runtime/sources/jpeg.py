"""What the first bytes of a picture say, and where a JPEG ends, also one that lacks its end.

No input or output in here. Many small cameras leave out the last two bytes of a JPEG (FF D9), which
browsers and ffmpeg do not mind; but then nothing else tells it from one that was cut.
"""

from __future__ import annotations

import io
import re

from PIL import JpegImagePlugin

JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
# In coded data FF is followed by 00 (a byte FF), by a restart marker, or by another FF (filling).
# Without a `+` behind the first FF: of a long run of them only the last one is looked at.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
# Markers that stand alone; all others begin a segment whose length follows.
_END, _START, _ALONE = 0xD9, 0xD8, frozenset({0x01, 0xD8})
_SCAN, _FRAMES, _BASELINE = 0xDA, frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}), {0xC0, 0xC1}
# Of what lacks its end; it is decoded to see whether it is whole.
_MAX_PIXELS = 50_000_000
# Above this only the mean of every 8 x 8 pixels is compared, at a third of the time.
_FULL_PIXELS = 500_000
_NOISE = bytes(i * i * 37 % 251 for i in range(3, 67))
# Of JPEG, PNG, GIF, BMP, TIFF, PPM and its kin, WebP, and the ISO boxes of HEIF and AVIF.
_PICTURE = re.compile(
    rb"\xff\xd8|\x89PNG\r\n\x1a\n|GIF8|BM|II\*\0|MM\0\*|P[1-6]\s|RIFF.{4}WEBP|.{4}ftyp", re.DOTALL
)


def is_picture(data: bytes | bytearray) -> bool:
    """Whether the first bytes are those of a kind of picture."""
    return _PICTURE.match(data) is not None


def jpeg_end(data: bytes | bytearray, start: int = 0) -> int:
    """Return where the JPEG at the start of `data` ends, or -1 when it is not whole.

    Segments are stepped over by their lengths, so that a thumbnail inside one ends nothing.

    Args:
        data: Bytes that begin with a JPEG.
        start: 0, or what `jpeg_scan` said to go on from.
    """
    return jpeg_scan(data, start)[0]


def jpeg_scan(data: bytes | bytearray, at: int, *, ends_at_next: bool = False) -> tuple[int, int]:
    """Return (end or -1, where to go on when more bytes have come).

    Args:
        data: Bytes that begin with a JPEG.
        at: 0, or where to go on.
        ends_at_next: Whether it ends before the next JPEG, if that comes before its own end.
    """
    if at == 0:
        if not data.startswith(JPEG_START):
            return -1, 0
        at = 2
    while (found := _MARKER.search(data, at)) is not None:
        marker, after = found[1][0], found.end()
        if marker == _END:
            return after, after
        if marker == _START and ends_at_next and found.start() > 2:
            return found.start(), found.start()
        if marker in _ALONE:
            at = after
            continue
        end = after + int.from_bytes(data[after : after + 2], "big")
        if after + 2 > len(data) or end > len(data):
            return -1, found.start()
        at = max(end, after + 2)
    # The last byte may be the first half of a marker.
    return -1, max(at, len(data) - 1)


def closed_jpeg(data: bytes) -> bytes | None:
    """Return a JPEG that lacks its end with that end; None if data of the picture are missing too.

    What is missing is decoded from whatever stands in its place. So it is decoded twice, with
    nothing and with noise there: the pictures are equal if nothing is missing. (Of a large one the
    last block may be wrong.)

    Args:
        data: A JPEG for which `jpeg_end` is -1.
    """
    data = data.rstrip(b"\xff")  # half of the end
    markers = _markers(data)
    frames = [(m, at) for m, at in markers if m in _FRAMES]
    # Of several scans the last ones may be missing, which no decoder notices.
    if [m for m, _ in markers].count(_SCAN) != 1 or len(frames) != 1:
        return None
    marker, at = frames[0]
    height, width = (int.from_bytes(data[at + k : at + k + 2], "big") for k in (3, 5))
    if marker not in _BASELINE or not 0 < height * width <= _MAX_PIXELS:
        return None
    try:
        bare, noisy = (
            _pixels(data + fill + _JPEG_END, is_large=height * width > _FULL_PIXELS)
            for fill in (b"", _NOISE)
        )
    except Exception:  # decoders raise many kinds on broken files
        return None
    return data + _JPEG_END if bare == noisy else None


def _markers(data: bytes) -> list[tuple[int, int]]:
    """Return all markers outside of segments, each with where its segment begins."""
    markers, at = [], 2
    while (found := _MARKER.search(data, at)) is not None:
        marker, at = found[1][0], found.end()
        markers.append((marker, at))
        if marker not in _ALONE:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return markers


def _pixels(data: bytes, *, is_large: bool) -> bytes:
    picture = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    if is_large:
        picture.draft(None, (1, 1))
    return picture.tobytes()
