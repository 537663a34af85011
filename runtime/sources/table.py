"""A table of pictures: `.csv` or `.tsv` with a header, or `.jsonl` with one object a line."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from edgecl.errors import SourceError, UsageError
from edgecl.types import Frame, Skipped

from ..faults import in_words
from .base import Item, ListSource, local, read_frame
from .layouts import MOST_NAMED, may_be_picture, plain, some

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")
# A table of two million pictures; a row is a path and a class name, and no more is parsed of one.
_MAX_TABLE_BYTES = 256_000_000
_MAX_ROW_CHARACTERS = 65_536
# What other tools call the two columns; told, not taken, since a table may have several of them.
_PATH_NAMES = (
    "file filename file_name filepath file_path image image_path imagepath image_id img img_path "
    "picture"
).split()
_LABEL_NAMES = (
    "class class_name classname category category_name target tag tags species name labels y "
    "choice choices"
).split()
# What other tools call a column that says which rows are to test on.
_SPLIT_NAMES = frozenset(
    "split splits set subset partition fold usage phase istrain isvalid isval istest".split()
)
# What pandas, JavaScript and spreadsheets write where there is nothing.
_NO_LABELS = frozenset(
    "nan NaN NAN N/A n/a #N/A NA <NA> None null NULL undefined #REF! #NAME? #VALUE! #DIV/0! "
    "#NULL! #NUM!".split()
)

# A list or an object that was written as text.
_AS_TEXT = re.compile(r"""\s*(\[\s*["'].*["']\s*\]|\{\s*["'].*\})\s*""", re.DOTALL)

# Where a row stands, its path, its label, and why it cannot be used, if so.
_Row = tuple[str, str, str | None, str]


class TableSource(ListSource):
    """Rows with `path` and `label`; a relative path starts at the table's folder.

    A row with more cells than columns, or a label that is no text and no number, is skipped and
    named, since it would be learned as another class; so is one that is too long to be a row.

    Raises:
        SourceError: The table cannot be read, is too large, has no row, no column `path` or two
            columns of a name that counts.
    """

    def __init__(
        self,
        table: Path,
        *,
        label: str | None = None,
        shuffle_seed: int | None = None,
        max_bytes: int = 64_000_000,
    ) -> None:
        self.no_label = "it has no label; give its row one, or name its class with --label"
        suffix = table.suffix.lower()
        self._splits: dict[str, set[str]] = {}
        rows = self._json_rows(table) if suffix == ".jsonl" else self._rows(table, suffix)
        if not rows:
            raise SourceError(f"table {table} has no row; expected path,label in each")
        items: list[Item] = []
        unfit = next(((where, reason) for where, _, _, reason in rows if reason), None)
        if unfit is not None:
            self.no_label = ": ".join(unfit)
        for where, path, own, reason in rows:
            if reason or not path:
                id = path or where
                items.append((id, partial(Skipped, id, reason or "the row has no path")))
                continue
            read = partial(
                _read, table, path, label if label is not None else own, max_bytes=max_bytes
            )
            items.append((path, read))
        labels = [row[2] for row in rows] if label is None else [label]
        super().__init__(str(table), items, shuffle_seed=shuffle_seed, labels=labels)
        self.notes += [
            f"its column {name} holds {some(sorted(values))}: all rows are taken; leave out those "
            "to test on"
            for name, values in self._splits.items()
            if len(values - {""}) > 1
        ]
        none = Counter(text for text in labels if text and text in _NO_LABELS)
        if none:
            shown = ", ".join(f"{text} ({n})" for text, n in sorted(none.items()))
            self.notes.append(
                f"its labels {shown} are taken as classes; leave them out where none is meant"
            )

    def _rows(self, table: Path, suffix: str) -> list[_Row]:
        mark = "\t" if suffix == ".tsv" else ","
        rows = cells_of(_text(table), mark)
        _, first = next(rows, (0, []))
        if isinstance(first, str):
            raise SourceError(f"table {table} cannot be read as CSV (row 1 {first})")
        names = [name.strip() for name in first]
        columns = ", ".join(names) or "(none)"
        if twice := next((name for name in ("path", "label") if names.count(name) > 1), None):
            raise SourceError(f"table {table} has several columns called {twice}; keep one")
        if "path" not in names:
            raise SourceError(
                f"table {table} has the columns {columns}; expected path,label{_hint(names, mark)}"
            )
        if "label" not in names:
            self.no_label = (
                f"table {table} has the columns {columns} and none called label"
                f"{_hint(names, mark)}; or name the class with --label"
            )
        found = []
        for number, row in rows:
            if not isinstance(row, str):
                self._note_splits(zip(names, row, strict=False))
            found.append(_row(number, row, names))
        return found

    def _note_splits(self, cells: Iterable[tuple[str, object]]) -> None:
        for name, value in cells:
            if plain(name) in _SPLIT_NAMES and isinstance(value, str | int):
                values = self._splits.setdefault(name, set())
                if len(values) <= MOST_NAMED:
                    values.add(str(value).strip())

    def _json_rows(self, table: Path) -> list[_Row]:
        rows: list[_Row] = []
        for i, line in enumerate(_text(table).split("\n"), start=1):
            if not line.strip():
                continue
            where, path, label, reason = f"line {i}", "", None, ""
            try:
                value = _object(line)
                keys = [key[:40] for key in value]
                self._note_splits(value.items())
                path = path_of(value)
                if not path:
                    reason = (
                        f"the row has no path; it has {some(keys) or 'nothing'}{_hint(keys, '')}"
                    )
                elif "label" not in value and not rows:
                    self.no_label = (
                        f"{where} has {some(keys)} and no label{_hint(keys, '')}; or name the "
                        "class with --label"
                    )
                label = label_of(value)
            except UsageError as error:
                reason = str(error)
            rows.append((where, path, label, reason))
        return rows


def cells_of(text: str, mark: str) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the rows that are not empty, by number, and for one that cannot be read the reason."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    for number in count(1):
        begin = reader.line_num
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, f"cannot be read ({error})"
            continue
        if (size := sum(map(len, row))) > _MAX_ROW_CHARACTERS:
            yield number, f"has {size} characters; at most {_MAX_ROW_CHARACTERS} are read"
        elif (n := reader.line_num - begin) > 1 and "\n" in row[0]:
            yield number, f"goes on for {n} lines; is a quote in it not closed?"
        elif row:
            yield number, row


def _row(number: int, row: list[str] | str, names: list[str]) -> _Row:
    where = f"row {number}"
    if isinstance(row, str):
        return where, "", None, f"{where} {row}"
    while len(row) > len(names) and not row[-1].strip():
        row = row[:-1]
    cells = dict(zip(names, row, strict=False))
    reason = ""
    try:
        label_of(cells)
    except UsageError as error:
        reason = str(error)
    if len(row) > len(names):
        reason = (
            f"{where} has {len(row)} cells, the header {len(names)}; quote what holds a comma, as "
            '"cup, red"'
        )
    return where, cells.get("path", "").strip(), cells.get("label") or None, reason


def _hint(names: list[str], mark: str) -> str:
    """Return which columns to rename, or that the cells are divided by something else."""
    if len(names) == 1 and (found := next((m for m in ",;\t" if m in names[0]), None)):
        should = "commas" if mark == "," else "tabs"
        by = {",": "commas", ";": "semicolons", "\t": "tabs"}[found]
        return f"; its cells are divided by {by}, save it with {should}"
    if "path" not in names and any(map(may_be_picture, names)):
        return "; write path,label above its first row"
    lower = {name.lower(): name for name in names}
    renames = []
    for wanted, known in (("path", _PATH_NAMES), ("label", _LABEL_NAMES)):
        given = next((lower[k] for k in (wanted, *known) if k in lower), None)
        if given is not None and wanted not in names:
            renames.append(f"{given} to {wanted}")
    if not any(name.lower() in _LABEL_NAMES for name in names) and len(names) > 2 and renames:
        return (
            "; a column for every class is not read: write one column label, or, for Roboflow's "
            "_classes.csv, `edgecl import`"
        )
    return f"; rename {' and '.join(renames)}" if renames else ""


def _read(table: Path, path: str, label: str | None, max_bytes: int) -> Frame | Skipped:
    place = local(table.parent, path)
    return read_frame(place, id=path, label=label, source=str(table), max_bytes=max_bytes)


def _text(table: Path) -> str:
    try:
        with table.open("rb") as file:
            data = file.read(_MAX_TABLE_BYTES + 1)
        if len(data) > _MAX_TABLE_BYTES:
            raise SourceError(f"table {table} has more than {_MAX_TABLE_BYTES:,} bytes; split it")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise SourceError(f"table {table} cannot be read {in_words(error)}") from error
    except UnicodeDecodeError as error:
        raise SourceError(
            f"table {table} cannot be read as UTF-8 text ({error}); save it as UTF-8"
        ) from error


def _object(line: str) -> dict[str, Any]:
    """Return the object in a line of JSON.

    Raises:
        UsageError: There is none.
    """
    if len(line) > _MAX_ROW_CHARACTERS:
        raise UsageError(f"it has {len(line)} characters; at most {_MAX_ROW_CHARACTERS} are read")
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    what = "is a list" if isinstance(value, list) else "is no JSON object"
    raise UsageError(f"the row has no path: it {what}; write one object a line")


def path_of(value: Any) -> str:
    """Return the path of parsed JSON, empty if it has none."""
    path = value.get("path") if isinstance(value, dict) else None
    return path if isinstance(path, str) else ""


def label_of(value: Any) -> str | None:
    """Return the label of parsed JSON; None if it has none.

    Raises:
        UsageError: It is no text and no number.
    """
    label = value.get("label") if isinstance(value, dict) else None
    if isinstance(label, str) and _AS_TEXT.fullmatch(label):
        label = [] if label.lstrip().startswith("[") else {}
    if label is None or isinstance(label, str):
        return label
    kind = {list: "a list", dict: "an object", bool: "true or false"}.get(type(label), "no number")
    if isinstance(label, int | float) and type(label) is not bool and math.isfinite(label):
        return str(label)
    raise UsageError(f"its label is {kind}; expected text, as a picture has one class")
