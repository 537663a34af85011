"""Whether what was learned is still true: answers to live frames that somebody named.

Test pictures are as old as what was learned beside them. A class whose live frames are right less
often than its test pictures, by Fisher's exact test (1935, one-sided; both are samples) and
corrected for there being many classes (Holm), is outdated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgecl.paired import fewer_right, holm, wilson
from edgecl.store.live_answers import live_answers
from edgecl.store.store import Store

FEWEST = 10
"""Live answers of a class that say something of it."""


def freshness(
    store: Store, tested: Mapping[str, tuple[int, int]], alpha: float
) -> dict[str, dict[str, Any]]:
    """Return what the newest named live frames of each class say of it, JSON values by name.

    Args:
        store: The store, open to read.
        tested: Right answers and test pictures of the classes that may be named.
        alpha: What the test of being outdated may err.
    """
    live = {store.names[uid]: found for uid, found in live_answers(store).items()}
    asked = {name: live[name] for name in tested if name in live}
    enough = [name for name, found in asked.items() if found.n >= FEWEST and tested[name][1]]
    p = holm([fewer_right(asked[k].right, asked[k].n, *tested[k]) for k in enough])
    outdated = {name for name, q in zip(enough, p, strict=True) if q <= alpha}
    return {
        name: {
            "live": found.n,
            "live_right": found.right,
            "live_interval": list(wilson(found.right, found.n)),
            "outdated_answers": found.outdated,
            "is_outdated": name in outdated,
        }
        for name, found in asked.items()
    }


def outdated_in_words(name: str, known: Mapping[str, Any], tested: tuple[int, int]) -> str:
    """Say that a class is outdated, and what to do."""
    n_right, n = tested
    return (
        f"{name} is outdated: of its last {known['live']} live frames {known['live_right']} were "
        f"right, of its test pictures {n_right} of {n}; teach it as it looks now"
    )
