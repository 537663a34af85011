"""Numbers as a person reads them."""

from __future__ import annotations


def percent(share: float, digits: int = 0) -> str:
    """Return a share, 0 to 1, as `91 %`."""
    return f"{100 * share:.{digits}f} %"
