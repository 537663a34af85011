"""Times and durations as people type them."""

from __future__ import annotations

from datetime import datetime

from edgecl.errors import UsageError
from edgecl.runtime.options import duration

_DAY_S = 86400.0


def seconds_of(text: str) -> float:
    """Return how many seconds a duration has: `0.5s`, `500ms`, `2m`, or a number of seconds.

    Raises:
        UsageError: It is none, or not above 0 and at most a day.
    """
    found = duration(text, default="s")
    if found is None or not 0 < found <= _DAY_S:
        raise UsageError(
            f"--every {text} is no time between frames; write it as 0.5s, 500ms or 2m, at most a "
            "day"
        )
    return found


def moment(text: str, now: float) -> float:
    """Return the time that a person means, seconds since the epoch.

    Args:
        text: A date, a date and a time (local if no zone is given), or how long ago: 90m, 2h, 3d.
        now: The time now.

    Raises:
        UsageError: It is neither.
    """
    ago = duration(text)
    if ago is not None:
        return now - ago
    try:
        return datetime.fromisoformat(text.strip().replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"--since {text} is no time; write 2026-11-28, 2026-11-28T10:30, or 90m, 2h, 3d"
        ) from error
