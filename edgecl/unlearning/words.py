"""What a receipt says, in words for somebody who never saw the device: a privacy officer.

Every sentence follows from what is signed; nothing is looked up in the home. Names are in no
receipt, so none is here either.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecl.figures import percent
from edgecl.types import Kind, Mode
from edgecl.unlearning.account import Account, moment, subject_of

WIDTH = 78
GOOD, OPEN, BAD = "good", "open", "bad"
_HOW = ("unreachable", "republished", "unreached")

# Rows that an unlearning deletes, in the order of what a person asks first.
ROWS = {
    "pictures": "pictures that were kept",
    "samples": "entries of learned pictures",
    "features": "features (numbers computed from a picture)",
    "views": "features of altered copies of pictures",
    "probes": "test pictures",
    "novel": "pictures that waited for a name",
    "classes": "names of classes",
    "aliases": "further names",
    "class_stats": "sums over all pictures learned, also of those not kept",
    "class_scores": "test results over time",
    "class_latency": "notes on how fast it was learned",
    "change_classes": "notes on what changes did to its answers",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a receipt in words.

    Args:
        title: Its heading.
        text: Paragraphs.
        rows: Names and values, a table.
        points: A list.
    """

    title: str
    text: tuple[str, ...] = ()
    rows: tuple[tuple[str, str], ...] = ()
    points: tuple[str, ...] = ()


def title_of(account: Account) -> str:
    """Return what a receipt is called."""
    entry = account.entry
    what = subject_of(entry) if entry.what is Kind.AGE else f"a {entry.what}"
    return f"Receipt {account.receipt_id}: {what} was unlearned"


def verdict_of(account: Account) -> tuple[str, str]:
    """Return whether it is gone, in a sentence or two, and how good that is."""
    entry = account.entry
    if account.has_failed:
        return (
            "It was unlearned, but a check failed. Run it again, and see what the device says.",
            BAD,
        )
    if not account.is_erased:
        return (
            "It was unlearned, but old bytes may still be in the files of the device, since "
            "another program was reading. The next command that writes finishes this.",
            OPEN,
        )
    if not entry.mode.is_exact:
        return (
            "Less of it is left, but not nothing: an adapter was changed in place, which is "
            "approximate.",
            OPEN,
        )
    checked = "and that was checked" if account.check else "but nobody asked for a check"
    if account.check and account.check.status == "incomplete":
        checked = "but the check was cut off, and what it searched for is gone by now"
    return f"What was named is gone from the device, {checked}.", GOOD if account.check else OPEN


def parts_of(account: Account, public_key: str) -> list[Part]:
    """Return a receipt in words, part by part.

    Args:
        account: The request.
        public_key: The device's, hex.
    """
    return [
        _asked(account),
        _removed(account),
        _checked(account),
        Part("What is not covered", points=tuple(_not_covered(account))),
        _signature(account, public_key),
    ]


def as_text(account: Account, public_key: str) -> str:
    """Return a receipt as plain text, lines of at most 78 characters where words allow it."""
    title = title_of(account)
    lines = [title, "=" * len(title), "", *_wrapped(verdict_of(account)[0])]
    for part in parts_of(account, public_key):
        lines += ["", part.title, "-" * len(part.title)]
        for text in part.text:
            lines += _wrapped(text)
        width = max((len(name) for name, _ in part.rows), default=0)
        for name, value in part.rows:
            if width + 2 + len(value) > WIDTH:
                lines += [f"{name}:", f"  {value}"]
            else:
                lines.append(f"{name:<{width}}  {value}")
        for point in part.points:
            lines += _wrapped(point, "- ", "  ")
    return "\n".join(lines) + "\n"


def _wrapped(text: str, first: str = "", then: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=then, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _asked(account: Account) -> Part:
    entry = account.entry
    numbers = ", ".join(r.receipt_id for r in account.entries)
    rows = [
        ("what", f"to unlearn {subject_of(entry)}"),
        ("asked for", moment(entry.requested)),
        ("done", moment(entry.time)),
        ("reason given", entry.reason or "none"),
    ]
    if account.erasures:
        rows.append(("files erased", moment(account.erasures[-1].time)))
    if account.check:
        rows.append(("checked", moment(account.check.time)))
    rows.append(("entries of the chain", numbers))
    text = [
        "Receipts hold no names, so that they can be kept when the name may not be. Whoever knows "
        "the name finds the receipt on the device: edgecl receipts --of NAME."
    ]
    if entry.again:
        text.append(
            f"It had been unlearned before (receipt {entry.again}); an older copy of the store "
            "brought it back, so it was unlearned again."
        )
    return Part("What was asked", tuple(text), tuple(rows))


def _removed(account: Account) -> Part:
    entry = account.entry
    rows = [(ROWS.get(name, name.replace("_", " ")), n) for name, n in _sorted(entry.rows_erased)]
    rows = [(name, n) for name, n in rows if n]
    if entry.snapshots_purged:
        rows.append(("snapshots that held it, deleted", len(entry.snapshots_purged)))
    erased = sum(how == "erased" for how in account.exports.values())
    if erased:
        rows.append(("exports that held it, made useless or cleared of it", erased))
    if entry.adapters and entry.mode.is_exact:
        rows.append(("adapters trained on it, deleted", len(entry.adapters)))
    if any(e.keys_destroyed for e in account.erasures) and entry.classes_gone:
        rows.append(("encryption keys, destroyed", len(entry.classes_gone)))
    text = [_how(account)]
    if entry.what is not Kind.CLASS and entry.classes_gone:
        n = len(entry.classes_gone)
        text.append(
            f"It was all that {n} class{'es' if n > 1 else ''} had, so "
            f"{'they' if n > 1 else 'it'} went too."
        )
    if entry.what is Kind.AGE:
        text.append(
            "Of pictures that were not kept no time is known: where a class had older ones, what "
            "these had added to its sums went, too."
        )
    if not rows:
        text.append("There was no entry of it any more.")
    return Part("What was removed", tuple(text), tuple((name, f"{n:,}") for name, n in rows))


def _how(account: Account) -> str:
    entry = account.entry
    if entry.mode is Mode.STORE_ONLY:
        return (
            "It was kept but never learned: its entries were deleted, and nothing that the device "
            "answers with had to change."
        )
    if entry.mode is Mode.EXACT_RETRAIN:
        return (
            "What the device answers with was learned anew from what is kept of the rest. Which "
            "pictures are kept may have depended on what is gone."
        )
    if not entry.mode.is_exact:
        return (
            f"An adapter that had learned from it was changed in place (method "
            f"{entry.adapter_method}). The name and the pictures are gone, and no answer names it; "
            "unlearning it again with --adapter-method drop makes it exact."
        )
    same = "bit for bit" if entry.bit_exact else "to rounding"
    return (
        f"The numbers that the device answers with (the head, {entry.head}) are, {same}, those of "
        "a device that never saw it. All of it that was stored is deleted, and the store's file "
        "was rewritten without it."
    )


def _sorted(rows: dict[str, int]) -> Iterator[tuple[str, int]]:
    known = list(ROWS)
    order = {name: known.index(name) if name in known else len(known) for name in rows}
    yield from sorted(rows.items(), key=lambda row: order[row[0]])


def _checked(account: Account) -> Part:
    check, title = account.check, "How it was checked"
    if check is None:
        return Part(
            title,
            (
                "Not at all: nobody asked for it, and afterwards it cannot be done any more. With "
                "edgecl forget ... --verify the device compares what it answers with to a head "
                "built anew without it, attacks it, and searches every file for it.",
            ),
        )
    found = check.metrics
    text = []
    if check.faults:
        text.append(f"{check.faults} checks failed. The device named them when it was run.")
    if check.status == "incomplete":
        text.append(
            "The command was cut off and finished later: what was to be searched for was gone "
            "with it, so the files were not searched."
        )
    return Part(title, tuple(text), tuple(_measured(found)))


def _measured(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what an audit measured and a person can judge; the rest stands in the signed entry."""
    if "searched_for" in found and not found.get("resumed"):
        yield "names and pieces of pictures searched for in every file", str(found["searched_for"])
        yield "of these found", str(found["found"])
    if "weights_gap" in found:
        yield "largest difference to a head built anew without it", f"{found['weights_gap']:.3g}"
    if "accuracy_kept" in found:
        yield "right on the rest, now", percent(found["accuracy_kept"], 1)
        yield "right on the rest, built anew", percent(found["accuracy_kept_retrained"], 1)
    if others := found.get("collateral"):
        lost = largest_loss(others)
        yield "largest loss of another class, on pictures held out", percent(lost, 1)
    attack = found.get("membership") or {}
    if "forget" in attack:
        yield (
            "attack: tells it from what was never learned (50 % is a guess)",
            _percent(attack["forget"]),
        )
        if "row_drop" in attack:
            yield (
                "the same attack on a device that only dropped the name",
                _percent(attack["row_drop"]),
            )


def largest_loss(others: Mapping[str, Sequence[float]]) -> float:
    """Return what the class lost that lost most; `others` as `collateral` gives them, not empty."""
    return max(0.0, *(was - now for was, now, _ in others.values()))


def _percent(attack: dict[str, float]) -> str:
    return percent(attack["auc"])


def _not_covered(account: Account) -> Iterator[str]:
    entry = account.entry
    has_keys = any(e.keys_destroyed for e in account.erasures)
    yield from _not_covered_of_exports(account)
    if has_keys and entry.classes_gone:
        yield (
            "Backups and copies of the device's folder: what they hold of it is encrypted with a "
            "key that was destroyed, and can be read only with an older copy of class.keys."
        )
    else:
        yield "Backups and copies of the device's folder, which may hold all of it."
    yield "The pictures, films and cameras that it was learned from."
    yield "Reports, exported pictures and bundles that were copied elsewhere."
    if not has_keys:
        yield (
            "Old blocks that flash memory or a copy-on-write file system keeps below what a file "
            "shows."
        )
    yield (
        "The frozen backbone: it was trained by others on other pictures and never learned on "
        "this device. It computes the same features from the same picture as before."
    )
    yield (
        "What was kept, or tested, of the rest: another choice might have been made without what "
        "is gone, which took room."
    )
    yield ("Who asked, and whether what was named is what was meant: the device knows neither.")


def _not_covered_of_exports(account: Account) -> Iterator[str]:
    by_how = {how: sorted(u for u, h in account.exports.items() if h == how) for how in _HOW}
    if by_how["republished"]:
        yield (
            f"MQTT discovery (export {', '.join(by_how['republished'])}): republished, and what "
            "the broker kept is emptied; the history of receivers is out of reach."
        )
    if by_how["unreached"]:
        yield (
            f"MQTT discovery (export {', '.join(by_how['unreached'])}): the broker was not "
            "reached. It is out of reach, and what it keeps is taken back when edgecl publishes "
            "there again; the history of receivers is not."
        )
    if lost := by_how["unreachable"]:
        yield (
            f"Export{'s' if len(lost) > 1 else ''} {', '.join(lost)}: not where written, or not "
            "writable. Whoever has a copy can go on using it."
        )


def _signature(account: Account, public_key: str) -> Part:
    name = account.receipt_id
    text = (
        "Every entry is signed (Ed25519) by the device over a digest (SHA-256) that covers the "
        "entry before it, so none can be changed, taken out or put in between. To check without "
        f"the device: edgecl receipt --check {name}.jsonl --key KEY, where {name}.jsonl was "
        f"written by edgecl receipt {name} --output {name}.jsonl; or with thirty lines of your "
        "own, as docs/unlearning.md says to the byte. Take the key from the device (edgecl "
        "receipts), not from here.",
        "Whoever can read the file device.key on the device can sign like it.",
    )
    rows = [("public key", public_key)]
    for receipt in account.entries:
        rows.append((f"digest of {receipt.receipt_id}", receipt.digest))
        rows.append((f"signature of {receipt.receipt_id}", receipt.signature))
    return Part("Signature", text, tuple(rows))
