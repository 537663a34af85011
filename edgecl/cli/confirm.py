"""Asking before what cannot be undone, on a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecl.cli.output import printable, say
from edgecl.figures import counted

if TYPE_CHECKING:
    from edgecl.session import Session
    from edgecl.store.store import Store
    from edgecl.types import ForgetRequest

YesOption = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask; without a terminal nobody is asked.")
]


_ask: list[Callable[[list[str]], None]] = []


@contextmanager
def asking(ask: Callable[[list[str]], None]) -> Iterator[None]:
    """Ask by a function instead of on the terminal; it raises where the answer is not yes."""
    _ask.append(ask)
    try:
        yield
    finally:
        _ask.pop()


def confirm(plan: Callable[[], list[str]], *, yes: bool) -> None:
    """Say what will happen and ask whether to; without a terminal, or with `--yes`, go on.

    Args:
        plan: Gives the dry run in words, a sentence a line; with nothing to say nobody is asked.
        yes: Whether nobody is to be asked.

    Raises:
        RequestError: The answer was not yes; nothing was changed.
    """
    from edgecl.errors import RequestError

    if yes or not (_ask or is_terminal()):
        return
    lines = plan()
    if not lines:
        return
    if _ask:
        _ask[-1](lines)
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
    from edgecl.unlearning.plan_words import plan_in_words

    try:
        plan = plan_of(Home(home), asked)
    except EdgeclError:  # told, and recorded, where it is asked for
        return []
    if isinstance(plan, Receipt):
        return []
    said = plan_in_words(plan, asked)
    return [*said, "Nobody can bring it back; backups and copies elsewhere are not reached."]


def rolling_back(store: Store, uid: int) -> list[str]:
    """Return what a rollback would do; nothing where there is no such snapshot."""
    from edgecl.store.snapshots import snapshots_of

    found = next((s for s in snapshots_of(store) if s.uid == uid), None)
    if found is None:
        return []
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(found.created))
    now = sum(store.n_seen().values())
    return [
        f"What was learned goes back to s{uid} of {when}: {counted(found.samples, 'sample')} of "
        f"{counted(len(found.classes), 'class')}; now there are {now} of {len(store.names)}.",
        "What was learned since is deleted; `edgecl snapshot` keeps it first.",
    ]


def taking_back(session: Session, uid: int) -> list[str]:
    """Return what taking one change back would do; nothing where that is refused."""
    from edgecl.governed import way_back
    from edgecl.store.changes import changes_of

    found = next((c for c in changes_of(session.store) if c.uid == uid), None)
    way = "" if found is None else way_back(session, found)
    if found is None or not way:
        return []
    learned = sum(part.learned for part in found.classes)
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(found.opened))
    lines = [f"Taken back is {found.name}, {found.kind} of {when}"]
    lines[0] += f", with the {counted(learned, 'sample')} that it learned." if learned else "."
    if way == "snapshot":
        lines.append(
            "The way there is the snapshot before it: what was learned since is deleted, too."
        )
    return [*lines, "There is no redo; `edgecl snapshot` keeps what is learned now first."]


def replacing(home: Path) -> list[str]:
    """Return what `init --force` would do; nothing where there is no home."""
    from edgecl.errors import EdgeclError
    from edgecl.home import Home
    from edgecl.session import open_store

    if not (home / "device.db").exists():
        return []
    try:
        with open_store(Home(home), read_only=True) as store:
            held = (
                f"{counted(sum(store.n_seen().values()), 'sample')} of "
                f"{counted(len(store.names), 'class')}"
            )
    except EdgeclError:
        held = "what it learned cannot be read"
    return [
        f"The home {home} is replaced by an empty one ({held}).",
        "All that it learned, its receipts, its snapshots and its keys are overwritten for good.",
    ]
