"""What an unlearning would do, in words."""

from __future__ import annotations

import time

from edgecl.types import ForgetRequest
from edgecl.unlearning.plan import Plan


def plan_in_words(plan: Plan, asked: ForgetRequest) -> list[str]:
    """Return what an unlearning would remove, a sentence a line."""
    rows = plan.rows
    what = ", ".join(
        f"{rows[name]:,} {word}" + "s" * (word in ("sample", "picture") and rows[name] != 1)
        for name, word in (
            ("samples", "sample"), ("pictures", "picture"), ("probes", "held out to test on"),
            ("novel", "waiting for a name"),
        )
        if rows[name]
    )  # fmt: skip
    named = f"The {asked.kind} {asked.name}"
    if asked.kind == "age":
        named = f"All from before {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(plan.uid))}"
    lines = [f"{named} goes for good: {what or 'no row is of it'}."]
    if plan.aliases:
        lines.append(
            "Its other name goes with it."
            if plan.aliases == 1
            else f"Its {plan.aliases} other names go with it."
        )
    copies = [f"snapshot s{uid}" for uid in plan.snapshots]
    copies += [f"adapter {uid}" for uid in (*plan.adapters, *plan.adapters_later)]
    if copies:
        verb = "goes" if len(copies) == 1 else "go"
        lines.append(f"With it {verb} {', '.join(copies)}.")
    if plan.exports:
        uids = ", ".join(map(str, plan.exports))
        lines.append(f"Exports that hold it are revoked where they can be reached: {uids}.")
    if plan.is_last:
        lines.append("Nothing is left in the home then.")
    return lines
