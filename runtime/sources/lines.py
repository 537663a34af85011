"""JSON lines on standard input: `{"path": "a.jpg", "label": "cup"}`, one frame a line.

Instead of the path a line may hold the picture itself (`inline.py`).
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from edgecl.errors import SourceError, UsageError
from edgecl.types import Frame, Skipped

from .base import Source, local, read_frame
from .inline import SPARE_BYTES, inline_picture, largest_message, loads
from .table import label_of, path_of


class LinesSource(Source):
    """Frames named by or in lines of standard input; a line is read when its turn comes.

    Raises:
        UsageError: Shuffling was asked for, which needs all lines at once.
        SourceError: Standard input is closed.
    """

    kind = "stream"
    name = "-"

    def __init__(
        self,
        *,
        label: str | None = None,
        shuffle_seed: int | None = None,
        max_bytes: int = 64_000_000,
    ) -> None:
        if shuffle_seed is not None:
            raise UsageError(
                "standard input cannot be shuffled; write its lines to a .jsonl file and name that"
            )
        if sys.stdin is None:  # as a service may be started
            raise SourceError("the source - has no standard input; pipe JSON lines into it")
        sys.stdin.readable()  # raises where it belongs to another process
        self._label = label
        self._max_bytes = max_bytes
        # A longer line is broken input, or a picture above the limit.
        self._max_line = largest_message(max_bytes)
        self._lines = self._read()
        self._n_read = 0

    def __len__(self) -> int:
        return 0

    def ids(self, stop: int) -> Iterator[str]:
        """Read `stop` lines and yield their ids; `frames(stop)` goes on behind them."""
        for number, line in islice(self._lines, stop):
            yield self._item(number, line, is_read=False).id

    def frames(self, start: int = 0) -> Iterator[Frame | Skipped]:
        """Yield one item a line, from line `start` (0 is the first) on."""
        for _ in islice(self._lines, max(0, start - self._n_read)):
            pass
        for number, line in self._lines:
            yield self._item(number, line)

    def _item(self, number: int, line: str | None, *, is_read: bool = True) -> Frame | Skipped:
        """Return what a line holds; if not `is_read`, a file that it names is left alone."""
        where = f"line {number}"
        if line is None:
            return Skipped(where, f"it is longer than {self._max_line} characters")
        value = loads(line)
        path = path_of(value)
        try:
            if len(path) > SPARE_BYTES:
                return Skipped(where, "its path is too long")
            if path and not is_read:
                return Skipped(path, "")
            if path:
                return read_frame(
                    local(Path(), path),
                    id=path,
                    label=self._label if self._label is not None else label_of(value),
                    source=self.name,
                    max_bytes=self._max_bytes,
                )
            picture = inline_picture(value, self._max_bytes)
            if picture is None:
                return Skipped(where, 'expected {"path": ..., "label": ...}, or "image" in base64')
            where = picture.id or where
            return Frame(
                id=where,
                encoded=picture.encoded,
                label=self._label if self._label is not None else picture.label,
                source=self.name,
                time=picture.time or 0.0,
            )
        except UsageError as error:
            return Skipped(path or where, str(error))

    def _read(self) -> Iterator[tuple[int, str | None]]:
        if isinstance(sys.stdin, io.TextIOWrapper):  # a name need not be UTF-8
            sys.stdin.reconfigure(errors="surrogateescape")
        number = 0
        while line := sys.stdin.readline(self._max_line):
            if number == 0:  # some editors begin a file so, and JSON may not
                line = line.removeprefix("\ufeff")
            kept: str | None = line
            if len(line) == self._max_line and not line.endswith("\n"):
                while (rest := sys.stdin.readline(self._max_line)) and not rest.endswith("\n"):
                    pass
                kept = None  # a position without a frame
            elif not line.strip():
                continue
            number += 1
            self._n_read = number
            yield number, kept
