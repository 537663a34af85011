"""`edgecl review`: frames that look like nothing known get their names."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edgecl.cli.confirm import YesOption, confirm
from edgecl.cli.options import DEFAULT, HomeOption, JsonOption
from edgecl.cli.output import print_json, print_table, print_values, say

review_app = typer.Typer(
    help="Name frames that look like nothing known.", no_args_is_help=True, rich_markup_mode=None
)


@review_app.callback()
def _group() -> None:
    """Name frames that look like nothing known."""


@review_app.command("list")
def list_entries(
    pictures: Annotated[
        Path | None, typer.Option(help="Write the pictures into this folder, by uid.")
    ] = None,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Show what waits, the most novel first."""
    from edgecl.home import Home
    from edgecl.review import write_pictures
    from edgecl.session import open_store
    from edgecl.store.novel import entries

    with open_store(Home(home), read_only=True) as store, store.snapshot():
        waiting = entries(store)
        names = store.names
        if pictures is not None:
            n_written = write_pictures(store, [entry.uid for entry in waiting], pictures)
            say(f"{n_written} pictures are in {pictures}; what is unlearned stays there")
    if json:
        found = [asdict(entry) | {"guess": names[entry.guess]} for entry in waiting]
        print_json({"entries": found})
        return
    rows = [(e.uid, e.score, names[e.guess], e.source, e.frame, _clock(e.time)) for e in waiting]
    print_table("waiting", ("uid", "novelty", "most like", "source", "frame", "taken"), rows)


@review_app.command("label")
def label(
    uids: Annotated[list[int], typer.Argument(help="Entries, as `review list` numbers them.")],
    name: Annotated[str, typer.Argument(help="Their class; a new name adds one.")],
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Learn entries as samples of a class."""
    from edgecl.home import Home
    from edgecl.review import label_entries
    from edgecl.types import clean_label
    from edgecl.unlearning.request import writing

    device = Home(home)
    asked = clean_label(name)
    with writing(device) as session:
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
        print_values("learned", result)


@review_app.command("drop")
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
                lambda: [f"All {len(gone)} frames of the review queue will be deleted for good."],
                yes=yes,
            )
        drop(store, gone)
    if json:
        print_json({"dropped": len(gone)})
    else:
        say(f"{len(gone)} entries deleted")


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
