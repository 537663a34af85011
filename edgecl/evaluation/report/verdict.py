"""The answer on top of a report: does it still know what it knew?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgecl.evaluation.report.contents import Contents
from edgecl.evaluation.report.findings import isolated, short
from edgecl.evaluation.report.measures import drops_of, lost_places, never_right, tests_of
from edgecl.store.probes import FEW_PROBES

# Of the classes that were tested: beyond it "mostly" would be a lie.
_MOST_LOST = 0.25
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is answered.

    Args:
        state: `good`, `partly`, `bad` or `open`: the colour.
        answer: One or two words.
        text: Why, in a sentence or two.
    """

    state: str
    answer: str
    text: str


def verdict_of(c: Contents) -> Verdict:
    """Return the answer: classes that are as good as ever, that lost, that never were right."""
    n, right = tests_of(c)
    tested = np.flatnonzero(n)
    if not len(tested):
        return Verdict(
            "open",
            "Not known yet.",
            "No picture was held out to test on. Teach ten pictures of a class or more: one of ten "
            "is held out.",
        )
    drops = drops_of(c)
    lost = [i for i in lost_places(c) if n[i]]
    wrong = [int(i) for i in tested if right[i] == 0 and i not in lost]
    never = [i for i in never_right(c) if i in wrong]
    now = [i for i in wrong if i not in never]
    n_same = len(tested) - len(lost) - len(wrong)
    parts = [_as_good(n_same, len(tested))]
    if lost:
        points = _named([f"{_name(c, i)} {drops[i]:.0f} points" for i in lost])
        parts.append(f"lost since their best: {points}")
    for places, what in ((never, "never right"), (now, "not right now")):
        if places:
            verb = "was" if len(places) == 1 else "were"
            verb = verb if places is never else "is" if len(places) == 1 else "are"
            names = _named([_name(c, i) for i in places], " and ")
            parts.append(f"{names} {verb} {what} ({_pictures([int(n[i]) for i in places])})")
    text = "; ".join(parts) + "."
    untested = len(c.classes) - len(tested)
    if untested:
        text += f" {untested} {'class was' if untested == 1 else 'classes were'} not tested yet."
    if int(n.sum()) < FEW_PROBES * len(tested):
        text += " These are few test pictures: take it as a first impression."
    n_worse = len(lost) + sum(n[i] >= FEW_PROBES for i in now)  # one picture proves nothing
    return Verdict(*_answer(n_same, n_worse, len(tested)), text)


def _answer(n_same: int, n_worse: int, n_tested: int) -> tuple[str, str]:
    if not n_worse:
        return ("good", "Yes.") if n_same else ("bad", "It never knew them.")
    if n_worse <= _MOST_LOST * n_tested:
        return "partly", "Mostly."
    return "bad", "No."


def _as_good(n_same: int, n_tested: int) -> str:
    if n_same == n_tested:
        return (
            "The class is as good as ever"
            if n_same == 1
            else f"All {n_same} classes are as good as ever"
        )
    return (
        f"{n_same} of {n_tested} {'class is' if n_tested == 1 else 'classes are'} as good as ever"
    )


def _pictures(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    each = " each" if len(numbers) > 1 else ""
    if low != high:
        return f"{low} to {high} test pictures each"
    return f"{low} test picture{'s' if low > 1 else ''}{each}"


def _name(c: Contents, place: int) -> str:
    return isolated(short(c.classes[place].name))


def _named(names: Sequence[str], last: str = ", ") -> str:
    if len(names) > _MOST_NAMED:
        return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} more"
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])}{last}{names[-1]}"
