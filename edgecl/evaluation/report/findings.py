"""What a person should know before reading the charts: one sentence each, the worst first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgecl.evaluation.report.contents import Contents
from edgecl.evaluation.report.measures import drops_of, lost_places, never_right
from edgecl.figures import percent
from edgecl.store.probes import FEW_PROBES

TOO_FEW = 10
IMBALANCE = 3
_CONFUSED_SHARE = 0.2
_FEWEST_CONFUSED = 3
# Of Fashion-MNIST (lite0), coat and shirt are at 0.8; of digits no pair is above 0.6.
ALIKE = 0.7
_NEARLY_FULL = 0.9
_MOST_NAMED = 5
_LONGEST_NAME = 40


def warnings_of(contents: Contents) -> list[str]:
    """Return what is wrong or will be, in plain words; empty when nothing is."""
    return [
        *_emptied(contents),
        *_requests(contents),
        *contents.warnings,
        *_exports(contents),
        *_forgotten(contents),
        *_never_right(contents),
        *_alike(contents),
        *_counts(contents),
        *_probes(contents),
        *_store(contents),
    ]


def _emptied(c: Contents) -> Iterator[str]:
    if not c.classes:
        yield "This home knows no class: all that it learned was unlearned, see the receipts below."


def short(name: str, length: int = _LONGEST_NAME) -> str:
    """Return a name of at most this many characters; the middle of a longer one is left out."""
    if len(name) <= length:
        return name
    head = (length - 1) * 2 // 3
    return f"{name[:head]}…{name[head + 1 - length :]}"


def isolated(text: str) -> str:
    """Return a name that moves nothing around it when it is written from right to left."""
    return f"\u2068{text}\u2069"  # FIRST STRONG ISOLATE, POP DIRECTIONAL ISOLATE


def _name(name: str) -> str:
    return isolated(short(name))


def _named(names: Sequence[str]) -> str:
    """Name some things and count the rest."""
    shown = ", ".join(names[:_MOST_NAMED])
    left = len(names) - _MOST_NAMED
    return f"{shown} and {left} more" if left > 0 else shown


def _requests(c: Contents) -> Iterator[str]:
    if c.n_pending:
        are = "request to unlearn is" if c.n_pending == 1 else "requests to unlearn are"
        yield (
            f"{c.n_pending} {are} not finished; run `edgecl forget pending`. "
            "A class that is being unlearned is not in this report."
        )
    failed = [row.receipt_id for row in c.receipts if "failed" in row.check]
    if failed:
        yield (
            f"The check after an unlearning failed: {_named(failed)}. `edgecl receipts "
            f"{failed[0]}` says what it found; unlearn it again, and keep the receipt."
        )


def _exports(c: Contents) -> Iterator[str]:
    stale = [str(e.uid) for e in c.exports if e.is_stale]
    if stale:
        yield (
            f"Exports hold something that was unlearned since: {_named(stale)}. Run `edgecl export "
            "--rebuild-stale`, and take back the copies that left this machine."
        )


def _forgotten(c: Contents) -> Iterator[str]:
    drops = drops_of(c)
    worst = sorted(lost_places(c), key=lambda i: -drops[i])
    if worst:
        listed = [f"{_name(c.classes[i].name)} ({drops[i]:.0f} points)" for i in worst]
        yield (
            f"Known better before than now: {_named(listed)}. Later classes took over; learn more "
            "samples of them, or keep more pictures."
        )


def _never_right(c: Contents) -> Iterator[str]:
    never = [_name(c.classes[i].name) for i in never_right(c)]
    if never:
        yield (
            f"Never right on the test pictures: {_named(never)}. Look at the pictures: are the "
            "labels right, and does the class differ from the others to the eye? Then teach more."
        )


def _alike(c: Contents) -> Iterator[str]:
    pairs = set()
    told = []
    for pair in c.confused:
        if pair.n >= _FEWEST_CONFUSED and pair.n >= _CONFUSED_SHARE * pair.of:
            pairs.add(frozenset((pair.true, pair.guess)))
            true, guess = c.classes[pair.true].name, c.classes[pair.guess].name
            told.append(f"{_name(true)} taken for {_name(guess)} ({pair.n} of {pair.of} pictures)")
    if told:
        yield (
            f"Classes are mixed up: {_named(told)}. Look at their pictures below: if the labels "
            "are right, teach more of both, from the sides on which they differ."
        )
    near = [
        f"{_name(c.classes[i].name)} and {_name(c.classes[j].name)}"
        for i, j, cosine in c.similar
        if cosine >= ALIKE and frozenset((i, j)) not in pairs
    ]
    if near:
        yield (
            f"The backbone sees these classes as nearly the same: {_named(near)}. They are the "
            "first to be mixed up; show the camera what tells them apart."
        )


def _counts(c: Contents) -> Iterator[str]:
    learned = [row.learned for row in c.classes]
    if not learned:
        return
    most = c.classes[int(np.argmax(learned))]
    least = c.classes[int(np.argmin(learned))]
    if max(learned) > IMBALANCE * min(learned):
        yield (
            f"Classes are unequal: {_name(most.name)} was learned from {most.learned} samples, "
            f"{_name(least.name)} from {least.learned}. Above {IMBALANCE} times, the larger one "
            f"tends to win: teach {-(-most.learned // IMBALANCE) - least.learned} more of the "
            "smaller one."
        )
    few = [f"{_name(row.name)} ({row.learned})" for row in c.classes if row.learned < TOO_FEW]
    if few:
        yield (
            f"Fewer than {TOO_FEW} samples learned: {_named(few)}. Teach more until each has "
            f"{TOO_FEW}; thirty are better."
        )


def _probes(c: Contents) -> Iterator[str]:
    if not any(row.held_out for row in c.classes):
        return  # the page says so where the chart would be
    few = [f"{_name(row.name)} ({row.held_out})" for row in c.classes if row.held_out < FEW_PROBES]
    if few:
        yield (
            f"Fewer than {FEW_PROBES} test pictures, so their accuracy is a rough guess: "
            f"{_named(few)}. Teach more: one picture of ten is held out to test on."
        )


def _store(c: Contents) -> Iterator[str]:
    share = max(
        len(c.kept_steps) / max(c.capacity_samples, 1),
        c.picture_bytes / max(c.capacity_bytes, 1),
    )
    if share >= _NEARLY_FULL:
        yield (
            f"The store of kept pictures is {percent(min(share, 1))} full: a new one takes the "
            "place of an old one. Nothing is lost of the exact head; to keep more, raise "
            "`store.capacity_samples` and `store.capacity_mb` in edgecl.toml."
        )
