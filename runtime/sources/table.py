"""A table of pictures: `.csv` with a header, or `.jsonl` with one object a line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from edgecl.errors import SourceError
from edgecl.types import Frame, Skipped

from .base import ListSource, read_frame


class TableSource(ListSource):
    """Rows with `path` and `label`; a relative path starts at the table's folder.

    Raises:
        SourceError: The table cannot be read, has no row or no column `path`.
    """

    def __init__(
        self,
        table: Path,
        *,
        label: str | None = None,
        shuffle_seed: int | None = None,
        max_bytes: int = 64_000_000,
    ) -> None:
        rows = _csv_rows(table) if table.suffix.lower() == ".csv" else _json_rows(table)
        if not rows:
            raise SourceError(f"table {table} has no row; expected path,label in each")
        items: list[tuple[str, Callable[[], Frame | Skipped]]] = []
        for where, path, own in rows:
            if not path:
                items.append((where, partial(Skipped, where, "the row has no path")))
                continue
            read = partial(
                read_frame,
                table.parent / path,
                id=path,
                label=label if label is not None else own,
                source=str(table),
                max_bytes=max_bytes,
            )
            items.append((path, read))
        super().__init__(str(table), items, shuffle_seed=shuffle_seed)


def _text(table: Path) -> str:
    try:
        return table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"table {table} cannot be read as UTF-8 text ({error})") from error


def _csv_rows(table: Path) -> list[tuple[str, str, str | None]]:
    reader = csv.DictReader(io.StringIO(_text(table), newline=""))
    try:
        rows, names = list(reader), reader.fieldnames or []
    except csv.Error as error:
        raise SourceError(f"table {table} cannot be read as CSV ({error})") from error
    if "path" not in names:
        raise SourceError(
            f"table {table} has the columns {', '.join(names) or '(none)'}; expected path,label"
        )
    return [
        (f"row {i}", (row.get("path") or "").strip(), row.get("label") or None)
        for i, row in enumerate(rows, start=2)
    ]


def _json_rows(table: Path) -> list[tuple[str, str, str | None]]:
    rows = []
    for i, line in enumerate(_text(table).split("\n"), start=1):
        if not line.strip():
            continue
        path, label = parse_line(line)
        rows.append((f"line {i}", path, label))
    return rows


def parse_line(line: str) -> tuple[str, str | None]:
    """Read `{"path": ..., "label": ...}`; a line that is none of that has an empty path."""
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        return "", None
    return row_of(value)


def row_of(value: Any) -> tuple[str, str | None]:
    """Return path and label of parsed JSON; the path is empty if it has none."""
    if not isinstance(value, dict) or not isinstance(value.get("path"), str):
        return "", None
    label = value.get("label")
    return value["path"], None if label is None else str(label)
