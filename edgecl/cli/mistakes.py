"""`edgecl review mistakes` and `edgecl review confirm`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecl.cli import complete
from edgecl.cli.options import DEFAULT, HomeOption, JsonOption
from edgecl.cli.outcome import print_next
from edgecl.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from edgecl.mistakes import Mistake, Mistakes


def mistakes(
    label: Annotated[
        str | None,
        typer.Option("--class", help="Only of this class.", autocompletion=complete.classes),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most samples to show.")] = 20,
    everything: Annotated[
        bool, typer.Option("--all", help="Also where the others agree, the least sure first.")
    ] = False,
    pictures: Annotated[
        Path | None, typer.Option(help="Write the pictures into this folder, by uid.")
    ] = None,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Show kept samples that the others contradict, perhaps taught as the wrong class."""
    from edgecl.home import Home
    from edgecl.mistakes import find_mistakes
    from edgecl.review import write_pictures
    from edgecl.session import reading
    from edgecl.types import clean_label

    name = None if label is None else clean_label(label)
    with reading(Home(home)) as session:
        result = find_mistakes(session, label=name, is_all=everything)
        shown = result.found[:limit]
        if pictures is not None:
            twins = [m.twin for m in shown if m.twin is not None]
            wanted = list(dict.fromkeys([*(m.uid for m in shown), *twins]))
            n_written = write_pictures(session.store, wanted, pictures)
            say(f"pictures in {pictures}: {n_written}; what is unlearned stays there")
    if json:
        print_json(
            {
                "mistakes": [mistake.as_json() for mistake in shown],
                "found": len(result.found),
                "kept": result.n_kept,
                "confirmed": result.n_confirmed,
                "ranked": result.is_ranked,
            }
        )
        return
    _print_mistakes(result, shown)


def _print_mistakes(result: Mistakes, shown: tuple[Mistake, ...]) -> None:
    if not result.is_ranked:
        say("this head cannot say what it would without a sample; only equal pictures are found")
    if not shown:
        say(f"nothing among {result.n_kept} kept samples is contradicted by the others")
        return
    rows = [
        (
            m.uid,
            m.label,
            m.guess,
            f"shows what {m.twin} does" if m.twin is not None else f"{m.suspicion:+.2f}",
            m.frame,
        )
        for m in shown
    ]
    print_table("perhaps wrong", ("uid", "taught as", "others say", "why", "frame"), rows)
    first = shown[0]
    hidden = f"; shown: {len(shown)}, --limit shows more" if len(shown) < len(result.found) else ""
    say(f"contradicted by the others: {len(result.found)} of {result.n_kept} kept{hidden}")
    print_next(
        f"edgecl relabel {first.uid} NAME",
        f"edgecl forget sample {first.uid}",
        f"edgecl review confirm {first.uid} (if it is right)",
    )


def confirm_labels(
    uids: Annotated[list[int], typer.Argument(help="Samples, as `review mistakes` names them.")],
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Say that samples are taught as what they are; they are not asked about again."""
    from edgecl.home import Home
    from edgecl.store.confirmed import confirm_samples
    from edgecl.unlearning.request import writing

    uids = list(dict.fromkeys(uids))
    with writing(Home(home)) as session, session.store.transaction(changes_head=False):
        confirm_samples(session.store, uids)
    if json:
        print_json({"confirmed": len(uids)})
    else:
        say(f"{len(uids)} confirmed")
