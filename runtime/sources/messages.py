"""Labels and commands that come while a stream runs; `labels.py` says from where.

One JSON object a message:

    {"label": "cup", "from": 1764000000.0, "to": 1764000010.5}   what was seen in that time
    {"label": "cup"}                                             from now on, until told otherwise
    {"label": null}                                              from now on nothing is labelled
    {"label": "cup", "source": "gate"}                           of one of several sources only
    {"command": "pause"}, {"command": "resume"}, {"command": "undo", "n": 5}

Times are wall clock: seconds since the epoch, or ISO 8601 text; without a zone it is local time.
"""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from edgecl.errors import UsageError
from edgecl.types import clean_label

COMMANDS = ("pause", "resume", "undo")
MAX_UNDO = 10_000
_LONGEST_NAME = 1_000
_MOST_AHEAD_S, _MOST_PLANNED_S = 86_400.0, 366 * 86_400.0
# The year 2100 in seconds; in milliseconds that number is one of 1970.
_LATEST = 4_102_444_800.0
EXPECTED = (
    'expected {"label": NAME or null, "from": TIME, "to": TIME} or '
    '{"command": "pause", "resume" or "undo", "n": 5}'
)


@dataclass(frozen=True, slots=True)
class LabelWindow:
    """What the frames of some time show.

    Args:
        label: Class name, or None: frames of this time are not labelled.
        begin: First moment, wall clock, seconds since the epoch.
        end: Moment after the last, or None: until further notice.
        source: The one of several sources whose frames are meant, or None: all.
    """

    label: str | None
    begin: float
    end: float | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        if self.label is not None:
            object.__setattr__(self, "label", clean_label(self.label))
        if self.end is not None and self.end <= self.begin:
            raise UsageError("a label's time ends before it begins; `to` must come after `from`")

    def holds(self, moment: float) -> bool:
        """Whether a wall-clock moment lies in it."""
        return self.begin <= moment and (self.end is None or moment < self.end)


@dataclass(frozen=True, slots=True)
class Command:
    """What the stream is told to do.

    Args:
        name: `pause`, `resume` or `undo`.
        n: For `undo`, how many of the newest samples are taken back.
    """

    name: str
    n: int = 1


class LabelFeed(Protocol):
    """Where labels come from while a stream runs."""

    def poll(self) -> list[LabelWindow | Command]:
        """Return what came since the last call, in order; never waits."""
        ...

    def news(self) -> list[str]:
        """Return one line for each message since the last call that could not be used."""
        ...

    def close(self) -> None:
        """End its thread; safe to call twice."""
        ...


def parse_message(text: str | bytes, *, now: float | None = None) -> LabelWindow | Command:
    """Read one message.

    Args:
        text: The JSON text.
        now: Where a window without `from` begins; None takes the clock.

    Raises:
        UsageError: Not one of the forms above.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the message is not JSON; {EXPECTED}") from error
    found = message_of(value, now=now)
    if found is None:
        raise UsageError(f"the message has neither `label` nor `command`; {EXPECTED}")
    return found


def message_of(value: Any, *, now: float | None = None) -> LabelWindow | Command | None:
    """Return what parsed JSON says; None if it is neither a label nor a command.

    Raises:
        UsageError: It is one, with a value that cannot be used.
    """
    if not isinstance(value, dict):
        return None
    if "command" in value:
        return _command(value)
    if "label" not in value:
        return None
    label = value["label"]
    if not isinstance(label, str | int | None) or isinstance(label, bool):
        raise UsageError(f"a label is text or null; {EXPECTED}")
    begin, end = (moment_of(value.get(key), key) for key in ("from", "to"))
    if begin is None:
        begin = time.time() if now is None else now
    source = value.get("source")
    if source is not None and not (isinstance(source, str) and 0 < len(source) <= _LONGEST_NAME):
        raise UsageError("`source` must be the name of a source, or be left out: all are meant")
    return LabelWindow(None if label is None else clean_label(label), begin, end, source)


def _command(value: dict[str, Any]) -> Command:
    name, n = value["command"], value.get("n", 1)
    if name not in COMMANDS:
        raise UsageError(f"the command is unknown; expected one of {', '.join(COMMANDS)}")
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MAX_UNDO:
        raise UsageError(f"`n` must be a whole number from 1 to {MAX_UNDO}")
    return Command(name, n)


def moment_of(value: Any, key: str) -> float | None:
    """Return a time of a message in seconds since the epoch; None if it has none.

    Args:
        value: A number, or ISO 8601 text; without a zone it is local time.
        key: What it is called in the message.

    Raises:
        UsageError: Not a time.
    """
    if value is None:
        return None
    moment = math.nan
    if isinstance(value, str):
        try:
            # Before Python 3.11 it knows neither Z nor fractions of other lengths than 3 and 6.
            text = re.sub(r"Z$", "+00:00", value)
            text = re.sub(r"[.,](\d{1,9})", lambda f: f".{f[1]:0<6.6}", text)
            moment = datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError):
            pass
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            moment = float(value)
        except OverflowError:
            pass
    if not math.isfinite(moment):
        raise UsageError(
            f"`{key}` must be a time: seconds since the epoch, or text like 2026-01-31T12:00:00Z"
        )
    # A window may end later than it is told, nothing begins or was seen so late.
    ahead = moment - time.time()
    if ahead > (_MOST_PLANNED_S if key == "to" else _MOST_AHEAD_S):
        units = {1e3: "milliseconds", 1e6: "microseconds", 1e9: "nanoseconds"}
        unit = next((unit for n, unit in units.items() if moment / n < _LATEST), None)
        what = f"{unit}? Give seconds since the epoch" if unit and moment > _LATEST else "days off"
        raise UsageError(f"`{key}` lies {ahead / 86_400:.0f} days in the future; {what}")
    return moment
