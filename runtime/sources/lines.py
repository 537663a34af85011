"""JSON lines on standard input: `{"path": "a.jpg", "label": "cup"}`, one frame a line."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from edgecl.errors import UsageError
from edgecl.types import Frame, Skipped

from .base import read_frame
from .table import parse_line

# A path has at most 4,096 bytes on Linux; a longer line is broken input, not a long name.
_MAX_LINE = 65_536


class LinesSource:
    """Frames named by lines of standard input; a line is read when its turn comes.

    Raises:
        UsageError: Shuffling was asked for, which needs all lines at once.
    """

    name = "-"
    is_live = False

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
        self._label = label
        self._max_bytes = max_bytes
        self._lines = self._read()
        self._n_read = 0

    def __len__(self) -> int:
        return 0

    def ids(self, stop: int) -> Iterator[str]:
        """Read `stop` lines and yield their ids; `frames(stop)` goes on behind them."""
        for number, line in islice(self._lines, stop):
            yield parse_line(line)[0] or f"line {number}"

    def frames(self, start: int = 0) -> Iterator[Frame | Skipped]:
        """Yield one item a line, from line `start` (0 is the first) on."""
        for _ in islice(self._lines, max(0, start - self._n_read)):
            pass
        for number, line in self._lines:
            where = f"line {number}"
            path, own = parse_line(line)
            if not path:
                yield Skipped(where, 'expected {"path": ..., "label": ...}')
                continue
            try:
                yield read_frame(
                    Path(path),
                    id=path,
                    label=self._label if self._label is not None else own,
                    source=self.name,
                    max_bytes=self._max_bytes,
                )
            except UsageError as error:
                yield Skipped(path, str(error))

    def _read(self) -> Iterator[tuple[int, str]]:
        if isinstance(sys.stdin, io.TextIOWrapper):  # a name need not be UTF-8
            sys.stdin.reconfigure(errors="surrogateescape")
        number = 0
        while line := sys.stdin.readline(_MAX_LINE):
            if len(line) == _MAX_LINE and not line.endswith("\n"):
                while (rest := sys.stdin.readline(_MAX_LINE)) and not rest.endswith("\n"):
                    pass
                line = ""  # too long: a position without a path
            elif not line.strip():
                continue
            number += 1
            self._n_read = number
            yield number, line
