"""Contributions of other devices, taken into a home: each as a source, `fleet:DEVICE`.

A home that took them in has, bit for bit, the head of one that learned all of it in one place. The
newest generation of a device wins, so a file may come twice, late, or in any order. A device is
withdrawn like any other source, exactly and with a receipt: `edgecl forget source fleet:DEVICE`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgecl.errors import FeatureMapError, RequestError
from edgecl.fleet.collect import device_of, public_key
from edgecl.fleet.contribution import digest, rows, sums
from edgecl.fleet.header import Contribution, Part
from edgecl.fleet.sums import Layout, check_exact
from edgecl.session import Session
from edgecl.store.adapters import adapter_rows, descending, drop_adapters
from edgecl.store.erasure import drop_run, drop_unused, erase
from edgecl.store.foreign import Foreign, foreign, new_source
from edgecl.types import Kind, Say
from edgecl.unlearning.receipt import find_tombstone

SOURCE = "fleet:"


@dataclass
class Report:
    """What was taken in.

    Args:
        taken: Samples of each device, by its name.
        replaced: Devices of which an older generation went.
        known: Devices of which this generation, or a newer one, was there already.
        classes: Samples of each class, by its name here.
        again: Classes that were unlearned here once, and are back.
        is_exact: Whether the head has the bits of one that learned all in one place; not beyond
            what float64 adds exactly.
    """

    taken: dict[str, int] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)
    is_exact: bool = True


def take(
    session: Session,
    contributions: Sequence[Contribution],
    *,
    say: Say = lambda what, done, of: None,
) -> Report:
    """Take contributions in, all in one transaction, or none of them.

    Args:
        session: The home, whose lock the caller holds.
        contributions: What `read` returned; their files are still there.
        say: Told about progress.

    Raises:
        FeatureMapError: One is of another feature map.
        RequestError: One is for another head, of this home itself, in the `total` form, or of a
            device that is known with another key or other numbers; nothing was changed.
        IntegrityError: A file was changed meanwhile; nothing was changed.
    """
    store, learner, report = session.store, session.learner, Report()
    for contribution in contributions:
        check(session, contribution)
    newest = _newest(session, contributions, report)
    names = {part.name for c in newest for part in c.parts if not store.has_class(part.name)}
    report.again = sorted(
        n for n in names if find_tombstone(session.home, store, Kind.CLASS, n) is not None
    )
    if not newest:
        return report
    before = dict(store.names)
    try:
        with store.transaction():
            drop_run(store)
            for i, contribution in enumerate(newest):
                say("taking in", i, len(newest))
                _replace(session, contribution, report)
            gone = set(before) - set(store.names)
            if gone:
                saw = [row.uid for row in adapter_rows(store) if gone & set(row.saw)]
                drop_adapters(store, descending(adapter_rows(store), saw))
            drop_unused(store)
            say("solving", len(newest), len(newest))
            learner.head.rebuild(store)
            learner.save_state()
    except BaseException:
        learner.reload()
        raise
    for uid in set(before) - set(store.names):
        store.destroy_key(uid)
    if store.names:
        learner.settle()
    report.is_exact = bool(learner.head.is_exact)
    return report


def check(session: Session, contribution: Contribution) -> None:
    """Check that a contribution can be taken into a home; changes nothing.

    Raises:
        FeatureMapError: It is of another feature map.
        RequestError: It is for another head, of the home itself, or in the `total` form.
    """
    store, home, c = session.store, session.home, contribution
    who = f"the contribution of {c.device} ({c.path})"
    check_exact(session.learner.head)
    if c.feature_map != store.feature_map:
        raise FeatureMapError(
            f"{who} has features of the map {c.feature_map[:16]}, this home "
            f"{store.feature_map[:16]}; only those of one map add up: make homes of one backbone, "
            "size and weights with `edgecl init`, or learn the pictures of that home anew in one "
            "with `edgecl init --from HOME`"
        )
    layout = Layout.of(store.statistic)
    if c.layout != layout or c.head != session.learner.head.name:
        mine = f"{session.learner.head.name} ({store.statistic.label})"
        other = "" if c.layout.keys == layout.keys else ", with other keys"
        raise RequestError(
            f"{who} is for the head {c.head}{other}; this home has {mine}; only what is kept for "
            "one kind of head, with the same keys, adds up"
        )
    if c.total:
        raise RequestError(
            f"{who} is in the total form, of which nothing could be forgotten here; have it "
            "written without --total"
        )
    if c.key == public_key(home) and c.device == device_of(home):
        raise RequestError(f"{who} is what this home learned itself, which would count twice")
    there = foreign(store, c.device)
    if there is not None and there.key != c.key:
        raise RequestError(
            f"{who} is signed with another key than before ({c.key[:16]}, not {there.key[:16]}); "
            f"if that device was set up anew, `edgecl forget source {SOURCE}{c.device}` first"
        )


def _newest(
    session: Session, contributions: Sequence[Contribution], report: Report
) -> list[Contribution]:
    """Return the newest contribution of each device that is not known yet.

    Raises:
        RequestError: Two of one generation differ.
    """
    found: dict[str, Contribution] = {}
    for c in contributions:
        there: Contribution | Foreign | None = found.get(c.device)
        there = there or foreign(session.store, c.device)
        if there is None or (c.generation > there.generation and c.key == there.key):
            found[c.device] = c
            continue
        known = there.digest if isinstance(there, Foreign) else digest(there)
        if c.key != there.key or (c.generation == there.generation and known != digest(c)):
            raise RequestError(
                f"two contributions of {c.device} differ, and not by generation alone "
                f"({there.generation} and {c.generation}): was its home copied, or restored from a "
                "backup? have it learn something and write anew, or give the copy another device"
            )
    report.known = sorted({c.device for c in contributions} - set(found))
    return list(found.values())


def _replace(session: Session, contribution: Contribution, report: Report) -> None:
    """Take a contribution in and let the one before it go; inside a transaction."""
    store, c = session.store, contribution
    before = foreign(store, c.device)
    text = SOURCE + c.device
    source_uid = new_source(store, c.device, text, c.key, c.generation, digest(c))
    for part in sorted(c.parts, key=lambda part: part.name):
        class_uid = store.add_class(part.name)
        _take_part(session, c, part, class_uid, source_uid)
        name = store.names[class_uid]
        report.classes[name] = report.classes.get(name, 0) + part.count
    report.taken[c.device] = c.count
    if before is not None:
        report.replaced.append(c.device)
        erase(store, Kind.SOURCE, before.source_uid)


def _take_part(
    session: Session, contribution: Contribution, part: Part, class_uid: int, source_uid: int
) -> None:
    store = session.store
    if part.form == "rows":
        x = rows(contribution, part)
        store.add_rows(class_uid, x, source_uid=source_uid, time=time.time())
    else:
        moments = sums(contribution, part).moments(store.statistic)
        store.add_sums(class_uid, moments, source_uid=source_uid)
