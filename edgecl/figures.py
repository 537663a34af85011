"""Numbers as a person reads them."""

from __future__ import annotations

_PLURALS = {"class": "classes"}


def percent(share: float, digits: int = 0) -> str:
    """Return a share, 0 to 1, as `91 %`."""
    return f"{100 * share:.{digits}f} %"


def counted(n: int, what: str) -> str:
    """Return a number with its noun: `1 class`, `1,200 pictures`."""
    return f"{n:,} {what if n == 1 else _PLURALS.get(what, what + 's')}"
