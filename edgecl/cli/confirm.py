"""Asking before what cannot be undone, on a terminal only."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from edgecl.cli.output import printable, say

YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask; without a terminal nobody is asked.")
]


def confirm(plan: list[str], *, yes: bool) -> None:
    """Say what will happen and ask whether to; without a terminal, or with `--yes`, go on.

    Args:
        plan: The dry run in words, a sentence a line.
        yes: Whether nobody is to be asked.

    Raises:
        UsageError: The answer was not yes; nothing was changed.
    """
    from edgecl.errors import RequestError

    if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    for line in plan:
        say(line)
    print(printable("Go on? [y/N] "), end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline().strip().casefold()
    if answer not in ("y", "yes"):
        raise RequestError("nothing was changed; answer y, or add --yes, to go on")
