"""A change in words, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from edgecl.figures import percent
from edgecl.governor.judge import Judgement, judged
from edgecl.home import Home
from edgecl.paired import Pairs
from edgecl.store.adapters import Shadowed
from edgecl.store.changes import SERVING, Change, changes_of
from edgecl.store.store import Store

_JUDGED = ("learn", "import", "label", "relabel", "merge-classes", "hold-out", "merge",
           "rollback", "consolidate", "forget")  # fmt: skip


def as_json(
    change: Change, judgement: Judgement, names: Mapping[int, str], way: str
) -> dict[str, Any]:
    """Return what `edgecl changes --json` prints of a change; classes by their names of now."""
    taught = {names[c.uid]: c.learned for c in change.classes if c.uid in names and c.learned}
    return {
        "change": change.name,
        "kind": change.kind,
        "state": change.state,
        "opened": change.opened,
        "closed": change.closed,
        "learned": taught,
        **asdict(judgement.pairs),
        "p": judgement.p,
        "drop": judgement.pairs.drop,
        "drop_at_most": judgement.upper,
        "verdict": judgement.verdict if change.kind in _JUDGED else "not judged",
        "worst": names.get(judgement.worst or 0),
        "worst_p": judgement.worst_p,
        "classes": {
            names[c.uid]: asdict(c.pairs) for c in change.classes if c.uid in names and c.pairs.n
        },
        "way_back": way,
        "snapshot": None if change.snapshot is None else f"s{change.snapshot}",
        "receipt": change.receipt,
        **{k: v for k, v in change.body.items() if k not in ("positions", "version", "run")},
    }


def in_words(change: Change, judgement: Judgement, names: Mapping[int, str], way: str) -> list[str]:
    """Return lines that say what a change did, what is proved of it, and what can be done."""
    said = f"{change.name}: {change.kind}, {change.state.replace('_', ' ')}"
    lines = [said + (f", receipt {change.receipt}" if change.receipt else "")]
    taught = [
        f"{c.learned} of {names[c.uid]}" for c in change.classes if c.learned and c.uid in names
    ]
    if taught:
        lines.append(f"taught {', '.join(taught)}")
    if "now" in change.body:
        pairs = [
            f"{key} from {change.body['was'].get(key)} to {value}"
            for key, value in change.body["now"].items()
        ]
        lines.append("set " + ", ".join(pairs))
    if change.kind == "drift":
        moved = "again like" if change.body["is_over"] else "moved away from"
        lines.append(
            f"frames {moved} what was learned: {change.body['ratio']:.1f} of the threshold, most "
            f"in block {change.body['block']} of the feature"
        )
    if "export" in change.body:
        lines.append(f"export {change.body['export']} ({change.body['of']})")
    elif "of" in change.body:
        lines.append(f"took back c{change.body['of']}")
    if "shadow" in change.body:
        lines.append(Shadowed(**change.body["shadow"]).in_words())
    if change.kind in _JUDGED:
        lines += _evidence(change, judgement, names)
    if way:
        back = {
            "subtract": "its samples are subtracted, what came later stays",
            "adapter": "its adapter is dropped",
            "undo": "as `edgecl undo` does, while nothing else is learned",
            "snapshot": f"snapshot s{change.snapshot} comes back, what came later goes",
        }[way]
        lines.append(f"`edgecl rollback {change.name}` takes it back: {back}")
    elif change.state == "serving" and change.kind in _JUDGED and change.kind != "forget":
        lines.append("there is no way back to before it, but a snapshot or forgetting")
    return lines


def _evidence(change: Change, judgement: Judgement, names: Mapping[int, str]) -> list[str]:
    pairs = judgement.pairs
    if not pairs.n:
        return ["no picture was answered before and after it: nothing is known of harm"]
    lines = [
        f"of {pairs.n} pictures answered before and after, {pairs.lost} were lost and "
        f"{pairs.won} won: {_share(pairs)} (by chance: p = {judgement.p:.2g}); it may be up to "
        f"{percent(judgement.upper, 1)} worse"
    ]
    if judgement.worst is not None and judgement.worst in names:
        worst = judgement.worst_pairs
        lines.append(
            f"most against it speaks {names[judgement.worst]}: {worst.lost} of {worst.n} lost, "
            f"{worst.won} won (p = {judgement.worst_p:.2g}, corrected for "
            f"{sum(c.pairs.n > 0 for c in change.classes)} classes)"
        )
    return [*lines, f"verdict: {judgement.verdict}"]


def _share(pairs: Pairs) -> str:
    points = 100 * pairs.drop
    if not pairs.lost and not pairs.won:
        return "nothing changed sides"
    return f"{abs(points):.1f} points {'worse' if points > 0 else 'better'}"


def harmful(home: Home, changes: Iterable[Change]) -> list[Change]:
    """Return those of a home's changes that serve and are proved to have done harm."""
    policy = home.config.governor
    return [
        c
        for c in changes
        if c.state == SERVING and c.kind in _JUDGED and judged(c.classes, policy).is_worse
    ]


def said_of_changes(home: Home, store: Store) -> dict[str, Any]:
    """Return what `edgecl status` says of the changes of a home: how many, the newest, warnings."""
    known = changes_of(store)
    warnings = [
        f"{c.kind} {c.name} is proved worse than before it; see `edgecl changes {c.name}`"
        for c in harmful(home, known)[-3:]
    ]
    drifts = [c for c in known if c.kind == "drift"]
    if drifts and not drifts[-1].body["is_over"]:
        ratio = drifts[-1].body["ratio"]
        warnings.append(
            f"frames of the last live stream had moved away from what was learned, {ratio:.1f} "
            f"times the threshold ({drifts[-1].name})"
        )
    newest = known[-1] if known else None
    return {
        "changes": len(known),
        "last_change": None if newest is None else newest.name,
        "warnings": warnings,
    }
