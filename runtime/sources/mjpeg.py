"""Taking pictures out of a byte stream: multipart bodies (RFC 2046, 5.1) and whole JPEGs.

No input or output in here: bytes go in as they come, in pieces of any size, and whole pictures come
out. Servers of MJPEG differ in all that they may: with or without Content-Length, a boundary with
or without its dashes, LF for CRLF, a last line break or none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

JPEG_START = b"\xff\xd8"
# In coded data FF is followed by 00 (a byte FF), by a restart marker, or by another FF (filling).
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
# Markers that stand alone; all others begin a segment whose length follows.
_END, _ALONE = 0xD9, frozenset({0x01, 0xD8})
_MAX_HEADER = 16_384
# A delimiter line: RFC 2046 allows 70 characters, dashes around them and white space behind.
_MAX_LINE = 256
_LENGTH = re.compile(rb"^content-length[ \t]*:[ \t]*(\d{1,15})[ \t]*\r?$", re.I | re.M)
_TYPE = re.compile(rb"^content-type[ \t]*:[ \t]*([^\r\n]*)", re.I | re.M)
_BLANK = re.compile(rb"\n\r?\n")


def jpeg_end(data: bytes | bytearray, start: int = 0) -> int:
    """Return where the JPEG at the start of `data` ends, or -1 when it is not whole.

    Segments are stepped over by their lengths, so that a thumbnail inside one ends nothing.

    Args:
        data: Bytes that begin with a JPEG.
        start: 0, or what `_jpeg_scan` said to go on from.
    """
    return _jpeg_scan(data, start)[0]


def _jpeg_scan(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """Return (end or -1, where to go on when more bytes have come)."""
    if at == 0:
        if not data.startswith(JPEG_START):
            return -1, 0
        at = 2
    while (found := _MARKER.search(data, at)) is not None:
        marker, after = found[1][0], found.end()
        if marker == _END:
            return after, after
        if marker in _ALONE:
            at = after
            continue
        end = after + int.from_bytes(data[after : after + 2], "big")
        if after + 2 > len(data) or end > len(data):
            return -1, found.start()
        at = max(end, after + 2)
    # The last bytes may be the first half of a marker.
    return -1, max(at, len(data.rstrip(b"\xff")))


class Parts:
    """Pictures of a multipart stream.

    Args:
        boundary: The boundary of the Content-Type, or "" to take the first line that begins with
            two dashes.
        max_bytes: Larger parts are left out; never more than this and one piece is held in memory.
        count: Called with `broken` for a picture that is cut, with `oversize` for one too large.
    """

    def __init__(self, boundary: str, *, max_bytes: int, count: Callable[[str], None]) -> None:
        core = boundary.strip("-").encode("latin-1", "replace")[:200]
        # Servers name the boundary with its dashes or without, and write more or fewer of them.
        self._delimiter = _delimiter(rb"-*" + re.escape(core) if core else rb"--[^\r\n]{1,200}?")
        self._is_learned = False
        self._max_bytes = max_bytes
        self._count = count
        self._data = bytearray()
        self._is_body = False
        self._is_picture = True
        self._is_jpeg = False
        self._length: int | None = None
        self._n_searched = 0
        self._n_scanned = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next piece of the stream and yield the pictures that it completes."""
        self._data += data
        while True:
            if not self._is_body and not self._find_part():
                return
            end = self._find_end()
            if end < 0:
                return
            body = bytes(self._data[:end])
            del self._data[:end]
            self._is_body = False
            if not body or not self._is_picture:
                continue
            if len(body) > self._max_bytes:
                self._count("oversize")
            elif (self._is_jpeg or body.startswith(JPEG_START)) and jpeg_end(body) < 0:
                self._count("broken")
            else:
                yield body

    def end(self) -> None:
        """Say that the stream has ended: what is left of a picture is a broken one."""
        if self._is_body and self._is_picture and self._data:
            self._count("broken")
        self._data.clear()
        self._is_body = False

    def _find_part(self) -> bool:
        """Step over the next delimiter and its header; False when they have not come yet."""
        while (found := self._delimiter.search(self._data)) is not None:
            if not self._is_learned:
                self._delimiter = _delimiter(re.escape(found[1]))
                self._is_learned = True
            blank = _BLANK.search(self._data, found.end() - 1)
            if blank is None:
                if len(self._data) - found.end() < _MAX_HEADER:
                    del self._data[: found.start()]
                    return False
                del self._data[: found.end()]  # no header; look for another delimiter
                continue
            header = bytes(self._data[found.end() : blank.start()])
            del self._data[: blank.end()]
            length, kind = _LENGTH.search(header), _TYPE.search(header)
            self._length = int(length[1]) if length else None
            self._is_picture = kind is None or kind[1].lower().startswith(b"image/")
            self._is_jpeg = kind is not None and b"jp" in kind[1].lower()
            if self._length is not None and self._length > self._max_bytes:
                self._count("oversize")
                continue
            self._n_searched = self._n_scanned = 0
            self._is_body = True
            return True
        self._keep_line()
        return False

    def _find_end(self) -> int:
        """Return where the body ends, or -1 when that has not come yet.

        That is after its length, or else after its JPEG; in any case before the next delimiter,
        whatever length was said.
        """
        found = self._delimiter.search(self._data, self._n_searched)
        self._n_searched = max(0, len(self._data) - _MAX_LINE)
        cut = found.start() if found is not None else -1
        if cut > 0 and self._data[cut - 1 : cut] == b"\r":
            cut -= 1
        if self._length is not None:
            end = self._length if len(self._data) >= self._length else -1
        else:
            end, self._n_scanned = _jpeg_scan(self._data, self._n_scanned)
        if cut >= 0 and (end < 0 or cut < end):
            return cut
        if end < 0 and len(self._data) > self._max_bytes + _MAX_LINE:
            if self._is_picture:
                self._count("oversize")
            self._is_body = False
            self._keep_line()
        return end

    def _keep_line(self) -> None:
        """Forget all but the last line, which may become a delimiter."""
        at = self._data.rfind(b"\n", max(0, len(self._data) - _MAX_LINE))
        if at >= 0:
            del self._data[:at]
        elif len(self._data) > _MAX_LINE:
            self._data[:] = b"."  # the rest of a long line is no line of its own


def _delimiter(line: bytes) -> re.Pattern[bytes]:
    """Match a line of its own, with the line break before it (`^` is the begin of the data)."""
    return re.compile(rb"(?:^|\n)(" + line + rb")(?:--)?[ \t]*\r?\n")
