"""Taking pictures out of a byte stream: multipart bodies (RFC 2046, 5.1) and JPEG after JPEG.

No input or output in here: bytes go in as they come, in pieces of any size, and whole pictures come
out. Servers of MJPEG differ in all that they may: with or without Content-Length, a boundary with
or without its dashes, LF for CRLF, a last line break or none, any type, no boundary at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from .jpeg import JPEG_START, closed_jpeg, is_picture, jpeg_end, jpeg_scan

_MAX_HEADER = 16_384
# A delimiter line: RFC 2046 allows 70 characters, dashes around them and white space behind.
_MAX_LINE = 256
_LENGTH = re.compile(rb"^content-length[ \t]*:[ \t]*(\d{1,15})[ \t]*\r?$", re.I | re.M)
_TYPE = re.compile(rb"^content-type[ \t]*:[ \t]*([\w.+-]{1,40}/[\w.+-]{1,40}|jpe?g)", re.I | re.M)
_BLANK = re.compile(rb"\n\r?\n")
_BREAKS = b"\r\n"


class Parts:
    """Pictures of a multipart stream, or of one that is nothing but JPEGs.

    Args:
        boundary: The boundary of the Content-Type, or "" to take the first line that begins with
            two dashes; None for JPEG after JPEG.
        max_bytes: Larger parts are left out; never more than this and one piece is held in memory.
        count: Called with the field of `Counts` in which a part that is left out is counted; `why`
            then says what is wrong with it.
    """

    def __init__(
        self, boundary: str | None, *, max_bytes: int, count: Callable[[str], None]
    ) -> None:
        self._delimiter: re.Pattern[bytes] | None = None
        if boundary is not None:
            core = boundary.strip("-").encode("latin-1", "replace")[:200]
            # Servers name the boundary with its dashes or without, and write more or fewer of them.
            self._delimiter = _delimiter(
                rb"-*" + re.escape(core) if core else rb"--[^\r\n]{1,200}?"
            )
        self.why = ""
        self._is_learned = False
        self._max_bytes = max_bytes
        self._count = count
        self._data = bytearray()
        self._is_body = False
        self._type = ""
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
            picture = self._judged(body)
            if picture is not None:
                yield picture

    def end(self) -> bytes | None:
        """Say that the stream has ended; what is left is a broken picture, or one without an end.

        Returns:
            That picture if only its end is missing.
        """
        body, self._data = bytes(self._data), bytearray()
        is_body, self._is_body = self._is_body, False
        if not is_body or not body:
            return None
        if self._length is not None:
            return self._left_out("broken", "the connection ended in it")
        return self._judged(body)

    def _judged(self, body: bytes) -> bytes | None:
        """Return the picture of a part, known by its first bytes; what is none is counted."""
        if len(body) > self._max_bytes:
            return self._too_large()
        if body.startswith(JPEG_START):
            picture = body if jpeg_end(body) >= 0 else closed_jpeg(body)
            return picture or self._left_out("broken", "end missing")
        if is_picture(body):
            return body
        if body and "jp" in self._type:
            return self._left_out("broken", f"it is called {self._type} and does not begin as one")
        if body and self._type.startswith("image/"):
            return body  # of a kind that the decoder may know, or name
        return self._left_out("not_pictures", self._type or ("no type" if body else "empty"))

    def _left_out(self, name: str, why: str) -> bytes | None:
        self.why = why
        self._count(name)
        return None

    def _too_large(self) -> bytes | None:
        return self._left_out("oversize", f"more than {self._max_bytes / 1e6:g} MB")

    def _find_part(self) -> bool:
        """Step over the next delimiter and its header; False when they have not come yet."""
        self._n_searched = self._n_scanned = 0
        if self._delimiter is None:
            at = self._data.find(JPEG_START)
            del self._data[: at if at >= 0 else max(0, len(self._data) - 1)]
            self._is_body = at >= 0
            return self._is_body
        while (found := self._delimiter.search(self._data)) is not None:
            if not self._is_learned:
                self._delimiter = _delimiter(re.escape(found[1]))
                self._is_learned = True
            end = found.end()
            # Some leave out the header and the empty line behind it.
            is_bare = self._data.startswith(JPEG_START, end)
            blank = _BLANK.search(self._data, end - 1)
            if blank is None and not is_bare:
                if len(self._data) - end < _MAX_HEADER:
                    del self._data[: found.start()]
                    return False
                del self._data[:end]  # no header; look for another delimiter
                continue
            begin = end if is_bare or blank is None else blank.end()
            header = b"" if is_bare or blank is None else bytes(self._data[end : blank.start()])
            del self._data[:begin]
            length, kind = _LENGTH.search(header), _TYPE.search(header)
            self._length = int(length[1]) if length else None
            self._type = kind[1].decode().lower() if kind else ""
            if self._length is not None and self._length > self._max_bytes:
                self._too_large()
                continue
            self._is_body = True
            return True
        self._keep_line()
        return False

    def _find_end(self) -> int:
        """Return where the body ends, or -1 when that has not come yet.

        That is after its length, or else after its JPEG; in any case before the next delimiter,
        whatever length was said.
        """
        if self._n_searched == 0:
            self._skip_breaks()
        cut = -1
        if self._delimiter is not None:
            found = self._delimiter.search(self._data, self._n_searched)
            cut = found.start() if found is not None else -1
        self._n_searched = max(0, len(self._data) - _MAX_LINE)
        if cut > 0 and self._data[cut - 1 : cut] == b"\r":
            cut -= 1
        if self._length is not None:
            end = self._length if len(self._data) >= self._length else -1
        else:
            end, self._n_scanned = jpeg_scan(
                self._data, self._n_scanned, ends_at_next=self._delimiter is None
            )
        if cut >= 0 and (end < 0 or cut < end):
            return cut
        if end < 0 and len(self._data) > self._max_bytes + _MAX_LINE:
            self._too_large()
            self._is_body = False
            self._keep_line()
        return end

    def _skip_breaks(self) -> None:
        """Take line breaks off the front of a picture, where some servers have one too many."""
        n = len(self._data) - len(self._data.lstrip(_BREAKS))
        if n and self._data.startswith(JPEG_START, n):
            del self._data[:n]
            if self._length is not None:
                self._length = max(0, self._length - n)

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
