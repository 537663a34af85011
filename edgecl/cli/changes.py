"""`edgecl changes`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli.options import DEFAULT, HomeOption, JsonOption
from edgecl.cli.output import print_json, print_table, show

if TYPE_CHECKING:
    from edgecl.store.changes import Change


# In the table, which fits 80 columns; `edgecl changes c12` has them whole.
_SHORT = {
    "proved worse": "worse",
    "not proved harmless": "unproved",
    "nothing to compare": "",
    "not judged": "",
}


def changes(
    change: Annotated[
        str | None, typer.Argument(help="One of them in words, for example c12.")
    ] = None,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Say what was done to the home, and what each change did to the answers."""
    from edgecl.errors import RequestError
    from edgecl.governed import way_back
    from edgecl.governor.judge import judged
    from edgecl.governor.words import as_json, in_words
    from edgecl.home import Home
    from edgecl.session import reading
    from edgecl.store.changes import changes_of

    device = Home(home)
    wanted = None if change is None else number_of(change)
    with reading(device) as session:
        store = session.store
        known = changes_of(store)
        blocked = store.blocked_classes()
        names = {uid: name for uid, name in store.names.items() if uid not in blocked}
        found = [
            (c, judged(c.classes, device.config.governor), way_back(session, c))
            for c in known
            if wanted is None or c.uid == wanted
        ]
    if wanted is not None and not found:
        newest = ", ".join(c.name for c in known[-5:]) or "there is none yet"
        raise RequestError(
            f"change c{wanted} is unknown, or went with a class that was unlearned; "
            f"newest: {newest}"
        )
    if json:
        said = [as_json(c, judgement, names, way) for c, judgement, way in found]
        print_json({"changes": said} if wanted is None else said[0])
    elif wanted is not None:
        for line in in_words(found[0][0], found[0][1], names, found[0][2]):
            show(line)
    else:
        _print_changes([(c, as_json(c, judgement, names, way)) for c, judgement, way in found])


def _print_changes(found: list[tuple[Change, dict[str, Any]]]) -> None:
    rows = [
        (
            c.name, c.kind, c.state.replace("_", " "), _clock(c.opened),
            sum(part.learned for part in c.classes),
            f"-{said['lost']} +{said['won']}" if said["n"] else "",
            _SHORT.get(said["verdict"], said["verdict"]),
        )
        for c, said in found
    ]  # fmt: skip
    columns = ("id", "kind", "state", "when", "learned", "answers", "verdict")
    print_table("changes", columns, rows)


def number_of(name: str) -> int:
    """Return the number of a change that is named, as in `c12`.

    Raises:
        UsageError: It is no such name.
    """
    from edgecl.errors import UsageError

    number = name.removeprefix("c")
    if not (number.isascii() and number.isdigit() and len(number) < 16):
        raise UsageError(f"change {name!r} is no name of one; expected one like c12")
    return int(number)


def _clock(seconds: float) -> str:
    return time.strftime("%y-%m-%d %H:%M", time.gmtime(seconds))
