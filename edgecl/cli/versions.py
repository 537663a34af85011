"""`edgecl rename`, `edgecl snapshot`, `edgecl snapshots` and `edgecl rollback`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecl.cli import complete
from edgecl.cli.confirm import YesOption, confirm, rolling_back, taking_back
from edgecl.cli.options import DEFAULT, ClassArgument, HomeOption, JsonOption, NewOption
from edgecl.cli.outcome import print_outcome, size_text, utc_text
from edgecl.cli.output import print_json, print_table, say, working
from edgecl.figures import counted


def rename(
    old: ClassArgument,
    new: Annotated[str, typer.Argument(help="Its new name.")],
    is_new: NewOption = False,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Give a class another name; the old one stays as an alias, for streams that still use it."""
    from edgecl.cli.check import check_new_name
    from edgecl.home import Home
    from edgecl.types import clean_label
    from edgecl.unlearning.request import writing

    before, after = clean_label(old), clean_label(new)
    with writing(Home(home)) as session:
        store = session.store
        own = store.names_of(store.class_uid(before))
        check_new_name(store, after, is_new=is_new, of=own)
        with store.transaction():
            uid = store.rename_class(before, after)
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
            help="As `snapshots` names it, for example s1, or a change as `changes` does: c12.",
            autocompletion=complete.snapshots,
        ),
    ],
    yes: YesOption = False,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Bring back what was learned at a snapshot, or take back one change.

    With a snapshot, what was learned since is deleted.
    """
    from edgecl import snapshots
    from edgecl.errors import UsageError
    from edgecl.governed import governed
    from edgecl.home import Home
    from edgecl.unlearning.request import writing

    if snapshot_id.startswith("c"):
        _roll_change_back(snapshot_id, home, yes=yes, json=json)
        return
    number = snapshot_id.removeprefix("s")
    if not (number.isascii() and number.isdigit()):
        raise UsageError(
            f"snapshot {snapshot_id!r} is no name of one; expected one like s1, or a "
            "change like c12"
        )
    device = Home(home)
    with writing(device) as session:
        confirm(lambda: rolling_back(session.store, int(number)), yes=yes)
        with working("rolling back"), governed(session, "rollback", tell=say):
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


def _roll_change_back(name: str, home: Path, *, yes: bool, json: bool) -> None:
    from edgecl.cli.changes import number_of
    from edgecl.governed import take_back
    from edgecl.home import Home
    from edgecl.unlearning.request import writing

    number = number_of(name)
    with writing(Home(home)) as session:
        confirm(lambda: taking_back(session, number), yes=yes)
        with working("taking back"):
            done = take_back(session, number)
        samples = sum(session.store.n_seen().values())
        n_classes = len(session.store.names)
    result = {
        "change": done.name,
        "state": done.state,
        "receipt": done.receipt,
        "classes": n_classes,
        "samples": samples,
    }
    if json:
        print_json(result)
    else:
        print_outcome(
            f"took back {done.name} ({done.kind}), receipt {done.receipt}: "
            f"{counted(samples, 'sample')} of {counted(n_classes, 'class')} are left",
            result,
            then="edgecl status",
        )
