"""`edgecl samples list`, `hold-out`, `edgecl relabel`, `edgecl merge-classes` and `edgecl undo`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli.commands import Command
from edgecl.cli.confirm import YesOption, confirm
from edgecl.cli.options import DEFAULT, HomeOption, JsonOption, NewOption
from edgecl.cli.output import print_json, print_table, say, show, working
from edgecl.figures import counted

if TYPE_CHECKING:
    from edgecl.mending import Done, Reversal
    from edgecl.store.listing import Listed

samples_app = typer.Typer(
    help="Look through what is kept, by uid; hold some of it out.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_ROLES = {"replay": "learned", "held_out": "held out", "review": "waiting"}
_RUNS = {
    "learn": "learned", "review": "named", "relabel": "relabelled", "merge": "merged",
    "hold-out": "held out",
}  # fmt: skip


@samples_app.callback()
def _group() -> None:
    """Look through what is kept, by uid; hold some of it out."""


@samples_app.command("list", cls=Command)
def list_samples(
    label: Annotated[str | None, typer.Option("--class", help="Only of this class.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Only from this source, as `status --json` writes it.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Only taken since then: 2026-11-28, 2026-11-28T10:30, or 90m, 2h, 3d."),
    ] = None,
    role: Annotated[str | None, typer.Option(help="learned, held-out or waiting.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=2**62, help="Most samples to show.")
    ] = 50,
    pictures: Annotated[
        Path | None, typer.Option(help="Write their pictures into this folder, by uid.")
    ] = None,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Show samples, the newest first: what `relabel` and `forget sample` take."""
    from edgecl.cli.times import moment
    from edgecl.home import Home
    from edgecl.review import write_pictures
    from edgecl.session import open_store
    from edgecl.store.listing import list_samples as listed

    wanted = _role(role)
    after = None if since is None else moment(since, time.time())
    with open_store(Home(home), read_only=True) as store, store.snapshot():
        found, total = listed(
            store, label=label, source=source, since=after, role=wanted, limit=limit
        )
        if pictures is not None:
            n = write_pictures(store, [s.uid for s in found if s.has_picture], pictures)
            say(f"pictures in {pictures}: {n}; what is unlearned stays there")
    if json:
        rows = [asdict(s) | {"class": s.label, "role": _word(s)} for s in found]
        for row in rows:
            del row["label"]
        print_json({"samples": rows, "total": total})
        return
    if not found:
        show("no sample is so; without options all are listed")
        return
    _print_samples(found)
    if total > len(found):
        say(f"older ones not shown: {total - len(found)}; --limit {total} shows all")


@samples_app.command("hold-out", cls=Command)
def hold_out(
    uids: Annotated[list[int], typer.Argument(help="Kept samples, as `samples list` has them.")],
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Hold learned samples out to test on, as if they had never been learned."""
    from edgecl.governed import governed
    from edgecl.home import Home
    from edgecl.mending import hold_out as work
    from edgecl.unlearning.request import writing

    device = Home(home)
    with writing(device) as session, governed(session, "hold-out", tell=say):
        done = work(device, session.learner, uids)
    n = sum(done.samples.values())
    text = f"{_counted(done.samples)} {'is' if n == 1 else 'are'} held out to test on now"
    _show(done, text, json=json)


def relabel(
    uids: Annotated[list[int], typer.Argument(help="Samples, as `samples list` numbers them.")],
    name: Annotated[str, typer.Argument(help="Their class; a new name adds one.")],
    new: NewOption = False,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Give samples another class, as if they had been learned under it."""
    from edgecl.cli.check import check_new_name
    from edgecl.governed import governed
    from edgecl.home import Home
    from edgecl.mending import relabel as work
    from edgecl.types import clean_label
    from edgecl.unlearning.request import writing

    device, asked = Home(home), clean_label(name)
    with writing(device) as session, governed(session, "relabel", tell=say):
        store = session.store
        check_new_name(store, asked, is_new=new)
        done = work(device, session.learner, uids, asked)
        known = store.canonical(asked)
    _show(done, _now(done, known), json=json, to=known)


def merge_classes(
    of: Annotated[str, typer.Argument(metavar="A", help="The class that goes.")],
    to: Annotated[str, typer.Argument(metavar="B", help="The class that stays.")],
    yes: YesOption = False,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Make all of class A samples of class B; A stays as another name of B."""
    from edgecl.governed import governed
    from edgecl.home import Home
    from edgecl.mending import merge_classes as work
    from edgecl.types import clean_label
    from edgecl.unlearning.request import writing

    device, of, to = Home(home), clean_label(of), clean_label(to)
    with writing(device) as session:
        store = session.store
        n, known = store.n_seen()[store.class_uid(of)], store.canonical(to)
        store.class_uid(to)
        confirm(
            lambda: [
                f"{counted(n, 'sample')} of {of} will be of {known}, and {of} another name of it.",
                "`edgecl undo` takes it back until something else is learned.",
            ],
            yes=yes,
        )
        with governed(session, "merge-classes", tell=say):
            done = work(device, session.learner, of, to)
    _show(done, _now(done, known), json=json, to=known)


def undo(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be taken back; change nothing.")
    ] = False,
    yes: YesOption = False,
    home: HomeOption = DEFAULT,
    json: JsonOption = False,
) -> None:
    """Take back the last run: what it learned, named, moved or held out."""
    from edgecl.governed import note_undone
    from edgecl.home import Home
    from edgecl.mending import plan_undo
    from edgecl.mending import undo as work
    from edgecl.session import open_store
    from edgecl.unlearning.request import writing

    device = Home(home)
    if dry_run:
        with open_store(device, read_only=True) as store, store.snapshot():
            plan = plan_undo(store)
        if json:
            print_json(_as_json(plan))
        for line in () if json else in_words(plan):
            print(line)
        return
    with writing(device) as session:
        plan = plan_undo(session.store)
        confirm(lambda: [*in_words(plan), "There is no redo; it can be learned again."], yes=yes)
        with working("undoing"):
            plan, done = work(device, session.learner)
            note_undone(session, plan.run.uid, done.receipt_id)
    _show(done, "; ".join(in_words(plan, is_done=True)), json=json, **_as_json(plan))


def in_words(plan: Reversal, *, is_done: bool = False) -> list[str]:
    """Return what an undo takes back, a sentence a line."""
    run, content, names = plan.run, plan.content, plan.names
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(run.time))
    lines = [f"{'took' if is_done else 'takes'} back what was {_RUNS[run.kind]} at {when}"]
    if content.learned:
        learned = _counted({names[uid]: n for uid, n in content.learned.items()})
        where = f" from {', '.join(content.sources[:3])}" if content.sources else ""
        lines.append(f"{learned}{where}")
    lines += [
        f"{n} of {names[to]} {'is' if n == 1 else 'are'} learned again"
        if of == to
        else f"{n} of {names[to]} {'goes' if n == 1 else 'go'} back to {names[of]}"
        for (of, to), n in content.moved.items()
    ]
    beside = {
        "held out to test on": content.held_out,
        "waiting for a name": content.review,
        "back to the review queue": content.named,
    }
    lines += [f"{n} {what}" for what, n in beside.items() if n]
    gone = [names[uid] for uid in content.new if uid in names]
    if gone:
        lines.append(f"nothing is left then of {', '.join(gone)}")
    if content.left:
        lines.append(f"left as they are, since they or their class were unlearned: {content.left}")
    if content.displaced:
        lines.append(f"kept pictures that it displaced do not come back: up to {content.displaced}")
    return lines


def _role(text: str | None) -> Any:
    from edgecl.errors import UsageError
    from edgecl.store.table import Role

    if text is None:
        return None
    words = {word: role for role, word in _ROLES.items()} | {role: role for role in _ROLES}
    found = words.get(text.replace("-", " ")) or words.get(text.replace("-", "_"))
    if found is None:
        raise UsageError(f"--role {text} is unknown; expected learned, held-out or waiting")
    return Role(found)


def _word(sample: Listed) -> str:
    return _ROLES[sample.role.value]


def _print_samples(found: list[Listed]) -> None:
    """Print a table that fits the terminal; of long places the end is shown."""
    width = shutil.get_terminal_size((80, 24)).columns
    labels = [_cut(s.label, 20) for s in found]
    words = [_word(s) if s.has_picture else f"{_word(s)}*" for s in found]
    taken = [time.strftime("%Y-%m-%d %H:%M", time.gmtime(s.time)) if s.time else "" for s in found]
    used = 16 + _widest((str(s.uid) for s in found), 3) + _widest(words, 4) + _widest(labels, 5)
    room = max(12, width - used - 10)
    places = [_cut(f"{s.source}: {s.frame}" if s.source else s.frame, -room) for s in found]
    rows = [
        (s.uid, word, label, when, place)
        for s, word, label, when, place in zip(found, words, labels, taken, places, strict=True)
    ]
    print_table("samples", ("uid", "role", "class", "taken (UTC)", "where"), rows)
    if any(not s.has_picture for s in found):
        say("* its picture is not kept any more")


def _widest(texts: Iterable[str], least: int) -> int:
    return max((len(text) for text in texts), default=0) if texts else least


def _cut(text: str, room: int) -> str:
    """Return at most so many characters of a text: its beginning, or its end if it is negative."""
    if len(text) <= abs(room):
        return text
    return f"{text[: room - 1]}…" if room > 0 else f"…{text[room + 1 :]}"


def _counted(samples: dict[str, int]) -> str:
    n = sum(samples.values())
    parts = ", ".join(f"{name} {k}" for name, k in samples.items())
    return f"{counted(n, 'sample')} ({parts})"


def _now(done: Done, known: str) -> str:
    return (
        f"{_counted(done.samples)} {'is' if sum(done.samples.values()) == 1 else 'are'} {known} now"
    )


def _as_json(plan: Reversal) -> dict[str, Any]:
    content, names = plan.content, plan.names
    return {
        "run": plan.run.kind,
        "run_time": plan.run.time,
        "learned": {names[uid]: n for uid, n in content.learned.items()},
        "held_out": content.held_out,
        "review": content.review,
        "named": content.named,
        "moved": [
            {"from": names[to], "to": names[of], "samples": n}
            for (of, to), n in content.moved.items()
        ],
        "left": content.left,
        "sources": list(content.sources),
        "displaced": content.displaced,
    }


def _show(done: Done, text: str, *, json: bool, **more: Any) -> None:
    """Print what was mended, and what older copies hold."""
    result = asdict(done) | more
    if json:
        print_json(result)
        return
    print(text)
    if done.gone:
        say(f"there is no class {', '.join(done.gone)} any more")
    if done.mode != "exact_head":
        say("the head cannot take samples out: it learned anew from the kept ones")
    if done.adapters:
        say(f"adapters that saw them were dropped: {', '.join(map(str, done.adapters))}")
    if done.exports:
        say(
            f"exports that hold them as they were: {', '.join(map(str, done.exports))}; export anew"
        )
    if done.snapshots:
        names = ", ".join(f"s{uid}" for uid in done.snapshots)
        say(f"snapshots that hold them as they were: {names}")
