"""`edgecl review`: frames that look like nothing known get their names."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecl.cli import complete
from edgecl.cli.commands import Command
from edgecl.cli.confirm import YesOption, confirm
from edgecl.cli.mistakes import confirm_labels, mistakes
from edgecl.cli.options import DEFAULT, HomeOption, JsonOption, NewOption
from edgecl.cli.outcome import print_outcome
from edgecl.cli.output import print_json, print_table, say
from edgecl.figures import counted, percent

if TYPE_CHECKING:
    from edgecl.runtime.pretrained import Guess, Pretrained
    from edgecl.store.novel import Entry
    from edgecl.store.store import Store

review_app = typer.Typer(
    help="Name frames that look like nothing known.", no_args_is_help=True, rich_markup_mode=None
)


@review_app.callback()
def _group() -> None:
    """Name frames that look like nothing known."""


class Order(str, Enum):
    """What `review list` goes by."""

    NOVELTY = "novelty"
    USEFULNESS = "usefulness"


@review_app.command("list", cls=Command)
def list_entries(
    by: Annotated[
        Order, typer.Option("--by", help="First the most novel, or what tells most when named.")
    ] = Order.NOVELTY,
    pictures: Annotated[
        Path | None, typer.Option(help="Write the pictures into this folder, by uid.")
    ] = None,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Show what waits, the most novel first, or the most useful."""
    from edgecl.home import Home
    from edgecl.review import write_pictures
    from edgecl.runtime.pretrained import hint_json
    from edgecl.session import reading
    from edgecl.store.novel import entries
    from edgecl.usefulness import useful_entries

    device = Home(home)
    with reading(device) as session:
        store = session.store
        waiting = entries(store)
        gains: list[float] | None = None
        if by is Order.USEFULNESS:
            ranked = useful_entries(session, waiting)
            waiting, gains = [entry for entry, _ in ranked], [gain for _, gain in ranked]
        names = store.names
        hints = _hints(store, waiting, device.pretrained() if waiting else None)
        if pictures is not None:
            n_written = write_pictures(store, [entry.uid for entry in waiting], pictures)
            say(f"pictures in {pictures}: {n_written}; what is unlearned stays there")
    if json:
        found = [
            asdict(entry) | {"guess": names[entry.guess]} | hint_json(hint)
            for entry, hint in zip(waiting, hints, strict=True)
        ]
        for k, gain in enumerate(gains or ()):
            found[k]["usefulness"] = gain
        print_json({"entries": found})
    elif waiting:
        _print_waiting(waiting, names, hints, gains)
    else:
        print(
            "nothing waits for a name; `train-stream --unknown` keeps what looks like nothing known"
        )


def _print_waiting(
    waiting: list[Entry],
    names: Mapping[int, str],
    hints: list[tuple[Guess, ...]],
    gains: list[float] | None,
) -> None:
    rows = [
        (
            e.uid,
            e.score if gains is None else percent(gains[k], 1),
            names[e.guess],
            hints[k][0][0] if hints[k] else "",
            e.source,
            e.frame,
            _clock(e.time),
        )
        for k, e in enumerate(waiting)
    ]
    what = "novelty" if gains is None else "tells"
    columns = ("uid", what, "most like", "looks like", "source", "frame", "taken")
    print_table("waiting", columns, rows)


review_app.command("mistakes", cls=Command)(mistakes)
review_app.command("confirm", cls=Command)(confirm_labels)


@review_app.command("label", cls=Command)
def label(
    uids: Annotated[list[int], typer.Argument(help="Entries, as `review list` numbers them.")],
    name: Annotated[
        str,
        typer.Argument(help="Their class; a new name adds one.", autocompletion=complete.classes),
    ],
    new: NewOption = False,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Learn entries as samples of a class."""
    from edgecl.cli.check import check_new_name
    from edgecl.governed import governed
    from edgecl.home import Home
    from edgecl.review import label_entries
    from edgecl.types import clean_label
    from edgecl.unlearning.request import writing

    device = Home(home)
    asked = clean_label(name)
    with writing(device) as session, governed(session, "label", tell=say):
        check_new_name(session.store, asked, is_new=new)
        reports = label_entries(session.learner, uids, asked)
        known = session.store.canonical(asked)
    learned = [report.uid for report in reports if not report.is_held_out]
    result = {
        "learned": len(learned),
        "held_out": len(reports) - len(learned),
        "uid": learned,
        "class": known,
    }
    if json:
        print_json(result)
    else:
        held = f", {result['held_out']} kept to test on" if result["held_out"] else ""
        print_outcome(
            f"learned {counted(len(learned), 'picture')} of {known}{held}",
            result,
            then="edgecl review list",
        )


@review_app.command("drop", cls=Command)
def drop_entries(
    uids: Annotated[list[int] | None, typer.Argument(help="Entries to delete.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete all entries.")] = False,
    yes: YesOption = False,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Delete entries without learning them."""
    from edgecl.errors import UsageError
    from edgecl.home import Home
    from edgecl.store.novel import drop, entries
    from edgecl.unlearning.request import writing

    if everything == bool(uids):
        raise UsageError("say which entries to delete: their uids, or --all")
    with writing(Home(home)) as session, session.store.transaction(changes_head=False):
        store = session.store
        gone = [e.uid for e in entries(store)] if everything else list(dict.fromkeys(uids or ()))
        if everything:
            confirm(
                lambda: [f"All frames of the review queue ({len(gone)}) will be deleted for good."],
                yes=yes,
            )
        drop(store, gone)
    if json:
        print_json({"dropped": len(gone)})
    else:
        say(f"entries deleted: {len(gone)}")


def _hints(
    store: Store, waiting: list[Entry], pretrained: Pretrained | None
) -> list[tuple[Guess, ...]]:
    """Return what the classifier of the backbone's weights says of entries, if there is one."""
    import numpy as np

    from edgecl.store.novel import feature

    if pretrained is None or not waiting:
        return [()] * len(waiting)
    return pretrained.guesses(np.array([feature(store, e.uid) for e in waiting], np.float32))


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
