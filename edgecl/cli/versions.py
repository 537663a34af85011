"""`edgecl rename`, `edgecl snapshot`, `edgecl snapshots` and `edgecl rollback`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgecl.cli import complete
from edgecl.cli.options import DEFAULT, ClassArgument, HomeOption, JsonOption
from edgecl.cli.outcome import counted, print_outcome, size_text, utc_text
from edgecl.cli.output import print_json, print_table, working


def rename(
    old: ClassArgument,
    new: Annotated[str, typer.Argument(help="Its new name.")],
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Give a class another name; the old one stays as an alias, for streams that still use it."""
    from edgecl.home import Home
    from edgecl.types import clean_label
    from edgecl.unlearning.request import writing

    with writing(Home(home)) as session:
        store = session.store
        with store.transaction():
            uid = store.rename_class(clean_label(old), clean_label(new))
        names = store.names_of(uid)
    result = {"class_uid": uid, "name": names[0], "aliases": list(names[1:])}
    if json:
        print_json(result)
    else:
        kept = ", ".join(names[1:])
        print_outcome(f"{names[0]}: the class was renamed; also known as {kept}", result)


def snapshot(
    home: HomeOption = DEFAULT,
    show: Annotated[bool, typer.Option("--list", hidden=True, help="See `snapshots`.")] = False,
    json: JsonOption = False,
) -> None:
    """Keep what is learned now, for `edgecl rollback`."""
    from edgecl.home import Home
    from edgecl.snapshots import take
    from edgecl.unlearning.request import writing

    if show:
        snapshots(home, json)
        return
    device = Home(home)
    with writing(device) as session, working("copying"):
        taken = take(device, session.store)
    result = {
        "snapshot_id": f"s{taken.uid}",
        "classes": len(taken.classes),
        "samples": taken.samples,
        "adapters": list(taken.adapters),
        "bytes": taken.size_bytes,
    }
    if json:
        print_json(result)
        return
    print_outcome(
        f"kept {counted(taken.samples, 'sample')} of {counted(len(taken.classes), 'class')} as "
        f"s{taken.uid} ({size_text(taken.size_bytes)})",
        result,
        then=f"edgecl rollback s{taken.uid}",
    )


def snapshots(home: HomeOption = DEFAULT, json: JsonOption = False) -> None:
    """List the snapshots, for `edgecl rollback`."""
    from dataclasses import asdict

    from edgecl.home import Home
    from edgecl.session import open_store
    from edgecl.store.snapshots import snapshots_of

    with open_store(Home(home), read_only=True) as store:
        known = snapshots_of(store)
    if json:
        print_json({"snapshots": [asdict(s) | {"snapshot_id": f"s{s.uid}"} for s in known]})
    elif not known:
        print("no snapshots; `edgecl snapshot` takes one")
    else:
        rows = [
            (f"s{s.uid}", utc_text(s.created), len(s.classes), s.samples, size_text(s.size_bytes))
            for s in known
        ]
        print_table("snapshots", ("id", "taken", "classes", "samples", "size"), rows)


def rollback(
    snapshot_id: Annotated[
        str,
        typer.Argument(
            help="As `snapshots` names it, for example s1.", autocompletion=complete.snapshots
        ),
    ],
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Bring back what was learned at a snapshot; what was learned since is deleted."""
    from edgecl import snapshots
    from edgecl.errors import UsageError
    from edgecl.home import Home
    from edgecl.unlearning.request import writing

    number = snapshot_id.removeprefix("s")
    if not (number.isascii() and number.isdigit()):
        raise UsageError(f"snapshot {snapshot_id!r} is no name of one; expected one like s1")
    device = Home(home)
    with writing(device) as session, working("rolling back"):
        done = snapshots.rollback(device, session.learner, int(number))
    result = {
        "snapshot_id": f"s{done.uid}",
        "classes": len(done.classes),
        "samples": done.samples,
        "adapters": list(done.adapters),
    }
    if json:
        print_json(result)
    else:
        print_outcome(
            f"back at s{done.uid}: {counted(done.samples, 'sample')} of "
            f"{counted(len(done.classes), 'class')}",
            result,
            then="edgecl status",
        )
