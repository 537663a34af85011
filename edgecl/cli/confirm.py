"""Asking before what cannot be undone, on a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecl.cli.output import printable, say

if TYPE_CHECKING:
    from edgecl.store.store import Store
    from edgecl.types import ForgetRequest

YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask; without a terminal nobody is asked.")
]


def confirm(plan: Callable[[], list[str]], *, yes: bool) -> None:
    """Say what will happen and ask whether to; without a terminal, or with `--yes`, go on.

    Args:
        plan: Gives the dry run in words, a sentence a line; with nothing to say nobody is asked.
        yes: Whether nobody is to be asked.

    Raises:
        RequestError: The answer was not yes; nothing was changed.
    """
    from edgecl.errors import RequestError

    if yes or not is_terminal():
        return
    lines = plan()
    if not lines:
        return
    for line in lines:
        say(line)
    print(printable("Go on? [y/N] "), end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline().strip().casefold()
    if answer not in ("y", "yes"):
        raise RequestError("nothing was changed; answer y, or add --yes, to go on")


def is_terminal() -> bool:
    """Whether a person reads what is said and can answer."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def forgetting(home: Path, asked: ForgetRequest) -> list[str]:
    """Return what an unlearning would do; nothing where it was done before, or is refused."""
    from edgecl.errors import EdgeclError
    from edgecl.home import Home
    from edgecl.types import Receipt
    from edgecl.unlearning.ask import plan_of

    try:
        plan = plan_of(Home(home), asked)
    except EdgeclError:  # told, and recorded, where it is asked for
        return []
    if isinstance(plan, Receipt):
        return []
    rows = plan.rows
    what = ", ".join(
        f"{rows[name]} {word}"
        for name, word in (
            ("samples", "samples"), ("pictures", "pictures"), ("probes", "held out to test on"),
            ("novel", "waiting for a name"),
        )
        if rows[name]
    )  # fmt: skip
    named = f"The {asked.kind} {asked.name}"
    if asked.kind == "age":
        named = f"All from before {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(plan.uid))}"
    lines = [f"{named} goes for good: {what or 'no row is of it'}."]
    if plan.aliases:
        lines.append(f"Its {plan.aliases} other names go with it.")
    copies = [f"snapshot s{uid}" for uid in plan.snapshots]
    copies += [f"adapter {uid}" for uid in (*plan.adapters, *plan.adapters_later)]
    if copies:
        lines.append(f"With it go {', '.join(copies)}.")
    if plan.exports:
        uids = ", ".join(map(str, plan.exports))
        lines.append(f"Exports that hold it are revoked where they can be reached: {uids}.")
    if plan.is_last:
        lines.append("Nothing is left in the home then.")
    return [*lines, "Nobody can bring it back; backups and copies elsewhere are not reached."]


def rolling_back(store: Store, uid: int) -> list[str]:
    """Return what a rollback would do; nothing where there is no such snapshot."""
    from edgecl.store.snapshots import snapshots_of

    found = next((s for s in snapshots_of(store) if s.uid == uid), None)
    if found is None:
        return []
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(found.created))
    now = sum(store.n_seen().values())
    return [
        f"What was learned goes back to s{uid} of {when}: {found.samples} samples of "
        f"{len(found.classes)} classes; now there are {now} of {len(store.names)}.",
        "What was learned since is deleted; `edgecl snapshot` keeps it first.",
    ]


def replacing(home: Path) -> list[str]:
    """Return what `init --force` would do; nothing where there is no home."""
    from edgecl.errors import EdgeclError
    from edgecl.home import Home
    from edgecl.session import open_store

    if not (home / "device.db").exists():
        return []
    try:
        with open_store(Home(home), read_only=True) as store:
            held = f"{sum(store.n_seen().values())} samples of {len(store.names)} classes"
    except EdgeclError:
        held = "what it learned cannot be read"
    return [
        f"The home {home} is replaced by an empty one ({held}).",
        "All that it learned, its receipts, its snapshots and its keys are overwritten for good.",
    ]
