"""`edgecl status`: what a home knows, how well, from where, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from edgecl.cli.options import DEFAULT, HomeOption, JsonOption
from edgecl.cli.outcome import print_next, size_text
from edgecl.cli.output import is_verbose, print_json, print_table, print_values, show
from edgecl.figures import counted, percent

_FEW = 10
_MOST_SOURCES = 10


def status(home: HomeOption = DEFAULT, json: JsonOption = False) -> None:
    """Say what a home has learned, how well, from where, and what to do next."""
    from edgecl.evaluation.status import status_of
    from edgecl.home import Home

    values = status_of(Home(home))
    if json:
        print_json(values)
        return
    for line in _lines(values):
        show(line)
    if values["classes"]:
        _print_classes(values["classes"], values["intervals"])
        _print_sources(values["learned_from"])
    if is_verbose():
        shown = {k: v for k, v in values.items() if k not in ("classes", "learned_from")}
        print_values("numbers", {k: "-" if v is None else v for k, v in shown.items()})
    print()
    print_next(*_next(values))


def _lines(values: dict[str, Any]) -> Iterator[str]:
    """Say in sentences what a person asks first."""
    home, last = values["home"], values["last_learned"]
    if values["classes"]:
        yield (
            f"{home} knows {counted(len(values['classes']), 'class')}, learned from "
            f"{counted(values['samples'], 'picture')}"
            + (f", the last on {_day(last)}" if last else "")
        )
        yield _accuracy(values)
        if (known := values["calibration"]) is not None:
            yield _calibrated(known)
        yield (
            f"{values['stored']:,} of at most {values['capacity_samples']:,} pictures kept; "
            f"{size_text(values['home_bytes'])} on disk" + (", encrypted" * values["encrypted"])
        )
        parts = [f"backbone {values['backbone']} at {values['image_size']} px"]
        parts += [
            counted(values[name], what)
            for name, what in (("adapters", "adapter"), ("exports", "export"))
            if values[name]
        ]
        yield ", ".join(parts)
        yield from (f"warning: {line}" for line in values["warnings"])
    else:
        size = size_text(values["home_bytes"])
        yield f"{home} {_empty(values)} ({size})"
    yield from _waiting(values)


def _empty(values: dict[str, Any]) -> str:
    """Say why there is no class to speak of."""
    from edgecl.store.store import why_empty

    if values["pending"]:
        return "answers with no class: all that it knows is being unlearned"
    return why_empty(values)


def _accuracy(values: dict[str, Any]) -> str:
    if values["accuracy"] is None:
        return "accuracy: not known, since no picture was kept to test on yet"
    n = f"{values['right']:,} of {values['tested']:,}"
    how = (
        f"{n} kept pictures are right, each asked for as if it had not been learned"
        if values["tested_on"] == "left out"
        else f"{n} pictures that were kept to test on are right"
    )
    return f"accuracy {percent(values['accuracy'])}: {how}"


def _waiting(values: dict[str, Any]) -> Iterator[str]:
    """Say what a person has to see to."""
    if values["pending"]:
        yield f"{counted(values['pending'], 'request')} to unlearn not finished"
    if values["candidate"]:
        yield f"an adapter is a candidate: {values['candidate']}"
    if values["exports_stale"]:
        exports = counted(values["exports_stale"], "export")
        rest = "" if values["classes"] else ", to be deleted: nothing is left to make them anew of"
        yield f"{exports} with something that was unlearned{rest}"
    if values["review"]:
        yield f"to review: {counted(values['review'], 'frame')} that wait for a name"


def _calibrated(known: dict[str, Any]) -> str:
    """Say how good the head is on samples of which it is asked without having learned them."""
    sets, n = known["sets"], counted(known["samples"], "kept picture")
    how = {
        "left out": "as if it had not learned it",
        "held out": "never learned",
        "mixed": "on which no adapter was trained",
    }[known["by"]]
    return (
        f"asked for each of {n}, {how}: {percent(known['accuracy'])} right; sets for "
        f"{percent(sets['level'])} (--set) held the truth in {percent(sets['coverage'])} of "
        f"{sets['n']:,}"
    )


def _print_classes(classes: dict[str, dict[str, Any]], intervals: dict[str, list[float]]) -> None:
    rows = []
    for name, c in classes.items():
        right = "not tested"
        if name in intervals:
            low, high = (f"{100 * edge:.0f}" for edge in intervals[name])
            n = c.get("tested", c["held_out"])
            right = f"{c['right']} of {n} ({low} to {high} %)"
        note = f"few: fewer than {_FEW} learned" if c["seen"] < _FEW else ""
        rows.append((name, c["seen"], c["stored"], right, _live(c), note))
    columns = ("class", "learned", "kept", "right", "live, newest", "")
    used = [i for i, column in enumerate(columns) if i < 4 or any(row[i] for row in rows)]
    print()
    print_table("classes", [columns[i] for i in used], [[row[i] for i in used] for row in rows])


def _live(known: dict[str, Any]) -> str:
    """Say how many of the newest live frames that somebody named were answered rightly."""
    if "live" not in known:
        return ""
    low, high = (f"{100 * edge:.0f}" for edge in known["live_interval"])
    old = known["outdated_answers"]
    said = f"{known['live_right']} of {known['live']} ({low} to {high} %)"
    return said + (f", {old} by an old name" if old else "")


def _print_sources(sources: list[dict[str, Any]]) -> None:
    newest = sorted(sources, key=lambda s: str(s["last"]), reverse=True)
    rows = [
        (s["source"] or "(unnamed)", s["samples"], _day(s["first"]), _day(s["last"]))
        for s in newest[:_MOST_SOURCES]
    ]
    print()
    print_table("learned from", ("source", "pictures", "first", "last"), rows)
    if len(sources) > _MOST_SOURCES:
        print(f"and {len(sources) - _MOST_SOURCES} more; --json names all")


def _next(values: dict[str, Any]) -> list[str]:
    """Return the commands that help most now."""
    if values["pending"]:
        return ["edgecl forget pending"]
    if not values["classes"]:
        seen = ["edgecl receipts", "edgecl report"] if values["receipts"] else []
        return [*seen, "edgecl train-stream FOLDER"]
    found = []
    if values["exports_stale"]:
        found.append("edgecl export --rebuild-stale")
    if values["review"]:
        found.append("edgecl review list")
    return [*found, "edgecl predict PICTURE", "edgecl report"][:3]


def _day(iso: str) -> str:
    """Return a time as a person reads it, by the clock of this machine."""
    return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M")
