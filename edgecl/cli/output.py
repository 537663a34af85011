"""What commands print: text for people on stderr, results on stdout.

rich is imported where a table or a bar is drawn: `predict` starts a tenth faster without it.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import IntEnum
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TextIO

from edgecl.figures import percent

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgecl.stream.progress import Progress
    from edgecl.types import Skipped

_MOST_EVENTS = 20
# Control, format, surrogate, line and paragraph separator.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_PLAIN_EVERY_S = 10.0
_listeners: list[Callable[[str], None]] = []


class Level(IntEnum):
    """How much a person is told."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


class _Shown:
    """What this process shows and has shown."""

    level = Level.NORMAL
    has_result = False


@contextmanager
def afresh() -> Iterator[None]:
    """Show as a process does that has shown nothing yet; behind it all is as before."""
    before = _Shown.level, _Shown.has_result
    _Shown.level, _Shown.has_result = Level.NORMAL, False
    try:
        yield
    finally:
        _Shown.level, _Shown.has_result = before


def set_level(level: Level) -> None:
    """Tell more or less from now on."""
    _Shown.level = level


def is_quiet() -> bool:
    """Whether only results and errors are shown (`-q`)."""
    return _Shown.level == Level.QUIET


def is_verbose() -> bool:
    """Whether all numbers are shown (`-v`)."""
    return _Shown.level == Level.VERBOSE


def has_result() -> bool:
    """Whether a JSON object was printed."""
    return _Shown.has_result


def printable(text: str) -> str:
    """Return text that any stream takes and no terminal obeys.

    Control characters, invisible ones (direction marks) and bytes of file names that are not UTF-8
    become escapes. In JSON they are those of JSON, so they read back as what they were.
    """
    if text.isprintable():
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _UNSEEN:
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def show(text: str, stream: TextIO | None = None) -> None:
    """Print a line for a person, on stdout; on a terminal it is broken between words.

    Elsewhere a line stays one: who searches a file or a journal finds it whole.
    """
    stream = stream or sys.stdout
    line = printable(text)
    if stream.isatty():
        width = max(20, shutil.get_terminal_size((80, 24)).columns)
        line = textwrap.fill(
            line, width, break_long_words=False, break_on_hyphens=False, drop_whitespace=True,
            subsequent_indent=" " * (len(line) - len(line.lstrip())),
        )  # fmt: skip
    print(line, file=stream, flush=True)


def say(text: str) -> None:
    """Tell a person something, on stderr; or a log, inside of `said_to`.

    A stderr that takes nothing, on a full disk or of a terminal that is gone, ends no run.
    """
    if _listeners:
        _listeners[-1](text)
    elif not is_quiet():
        with suppress(OSError):
            show(text, sys.stderr)


@contextmanager
def said_to(listener: Callable[[str], None]) -> Iterator[None]:
    """Give what is said to a listener instead of printing it."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def say_step(text: str) -> None:
    """Say what begins now and takes a while."""
    say(f"{text} ...")


def say_skipped(skipped: Sequence[Skipped]) -> None:
    """Name the pictures that could not be used; of very many the first ones."""
    from edgecl.runtime.redact import redacted_id

    for item in skipped[:_MOST_EVENTS]:  # a list may name its pictures by addresses
        say(f"skipped {redacted_id(item.id)}: {item.reason}")
    if len(skipped) > _MOST_EVENTS:
        say(f"{len(skipped) - _MOST_EVENTS} more skipped")


def is_shown_live() -> bool:
    """Whether what `working` yields is seen: on a terminal that no log listens to."""
    from rich.console import Console

    return not _listeners and not is_quiet() and Console(stderr=True).is_terminal


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """Show that something takes a while; yields a function that tells how far it is."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    if not is_shown_live():
        say(f"{what} ...")
        yield lambda text: None
        return
    with console.status(escape(f"{what} ...")) as status:
        yield lambda text: status.update(escape(f"{what}: {text}"))


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on one line of stdout."""
    _Shown.has_result = True
    print(json_line(value), flush=True)


def json_line(value: dict[str, Any]) -> str:
    """Return a JSON object on one line; what is no finite number, which JSON lacks, is null."""
    try:
        return printable(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except ValueError:
        return printable(json.dumps(_finite(value), ensure_ascii=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout; numbers are set to the right."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = escape(printable(title))
    table = Table(title=shown, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        is_number = all(isinstance(row[i], int | float) for row in rows) and bool(rows)
        justify: Literal["left", "right"] = "right" if is_number else "left"
        table.add_column(escape(printable(column)), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(escape(printable(_cell(value))) for value in row))
    Console(soft_wrap=True).print(table)


def print_values(title: str, values: dict[str, Any]) -> None:
    """Print names and values on stdout, for a person: short numbers, lists and times as text."""
    rows = []
    for name, value in values.items():
        if name in ("time", "requested"):
            text = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value))
        else:
            text = "not asked for" if value is None else _in_words(value)
        rows.append((name, text or "none"))
    print_table(title, ("what", "value"), rows)


def _in_words(value: Any) -> str:
    """Return a value as a person reads it: four digits, entries with commas."""
    if isinstance(value, dict):
        parts = (
            f"{key} ({_in_words(part)})" if isinstance(part, dict) else f"{key} {_in_words(part)}"
            for key, part in value.items()
        )
        return ", ".join(parts)
    if isinstance(value, list | tuple):
        return ", ".join(map(_in_words, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class StreamBar:
    """Progress of a run: a bar in a terminal, a line every ten seconds elsewhere.

    Args:
        total: Frames in all, or 0 when that is not known.
        done: Frames that an earlier run took.
    """

    def __init__(self, total: int, done: int = 0) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        self._console = Console(stderr=True)
        self._total = total
        self._begin = done
        self._n_events = 0
        self._last_line = time.monotonic()
        self._bar = Bar(
            TextColumn("learning"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f}/s"),
            TextColumn("right {task.fields[accuracy]}"),
            TextColumn("{task.fields[classes]} classes"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._status = ""
        self._live = Live(get_renderable=self._drawn, console=self._console, refresh_per_second=8)
        self._task = self._bar.add_task(
            "", total=total or None, completed=done, rate=0.0, accuracy="-", classes=0
        )

    def __enter__(self) -> StreamBar:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._live.stop()
        hidden = self._n_events - _MOST_EVENTS
        if hidden > 0:
            say(f"{hidden} more messages not shown")

    def show(self, progress: Progress) -> None:
        """Show where the run stands, what is new, and what the keys do."""
        from rich.markup import escape

        for event in progress.events:
            self._n_events += 1
            if self._n_events <= _MOST_EVENTS:
                text = escape(printable(event.text()))
                with suppress(OSError):
                    soft = not self._console.is_terminal
                    self._console.print(text, soft_wrap=soft, highlight=False)
        done = self._begin + progress.seen
        rate = progress.samples_per_second
        # Nothing was learned, so nothing was wrong.
        accuracy = f"{percent(progress.prequential_accuracy, 1)}" if progress.learned else "-"
        n_classes = progress.n_classes
        self._bar.update(
            self._task,
            completed=done,
            rate=rate,
            accuracy=accuracy,
            classes=n_classes,
        )
        self._status = progress.status
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line > _PLAIN_EVERY_S:
            self._last_line = now
            left = (self._total - done) / rate if self._total and rate else 0
            of = f" of {self._total}" if self._total else ""
            of += f", {left:.0f} s left" if left else ""
            say(f"{done}{of}, {rate:.0f}/s, right {accuracy}, {n_classes} classes")

    def _drawn(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        bar = self._bar.get_renderable()
        return Group(bar, Text(printable(self._status))) if self._status else bar


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
