"""How a command ends, for a person: a sentence and what to do next; all numbers with `-v`."""

from __future__ import annotations

import time
from typing import Any

from edgecl.cli.output import is_quiet, is_verbose, print_values, show

_named_home: list[str] = []


def name_home(words: str) -> None:
    """Have commands that come next name a home as this one did; empty: they find it by itself."""
    _named_home[:] = [words] if words else []


def print_outcome(sentence: str, values: dict[str, Any], *, then: str = "") -> None:
    """Print on stdout what was done.

    Args:
        sentence: In words, without a full stop.
        values: What `--json` prints of it; shown with `-v`, without what is None.
        then: Commands that usually come next, with commas between.
    """
    show(sentence)
    if is_verbose():
        print_values("numbers", {name: v for name, v in values.items() if v is not None})
    if then:
        print_next(*then.split(", "))


def print_next(*commands: str) -> None:
    """Print the commands that usually come next; they name the home if this one did."""
    if not is_quiet():
        show(next_text(*commands))


def is_home_named() -> bool:
    """Whether this command line has `--home`."""
    return bool(_named_home)


def next_text(*commands: str) -> str:
    """Return the line of `print_next`."""
    return f"Next: {', '.join(' '.join([command, *_named_home]) for command in commands)}"


def size_text(n_bytes: float) -> str:
    """Return a size as a person reads it."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes:.0f} B"


def time_text(seconds: float) -> str:
    """Return how long something took as a person says it."""
    if seconds < 0.95:
        return f"{max(seconds, 0.01):.1g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def utc_text(seconds: float) -> str:
    """Return a time to the second, UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
