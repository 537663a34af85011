"""The plan of an unlearning: what holds the class, sample or source, and what will happen to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edgecl.errors import RequestError
from edgecl.heads.base import Head
from edgecl.store.adapters import adapter_rows, descending
from edgecl.store.copies import Aside
from edgecl.store.erasure import (
    classes_lost,
    classes_of_source,
    count,
    newest_sample,
    sample_of,
    statistics_bytes,
)
from edgecl.store.exports import holding, naming
from edgecl.store.listing import no_source
from edgecl.store.moves import merged_into
from edgecl.store.retention import classes_older
from edgecl.store.snapshots import snapshots_with
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.store.text import plain_text
from edgecl.types import APPROXIMATE, ForgetRequest, Kind, Mode


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be unlearned, resolved to uids.

    Args:
        kind: Class, sample or source.
        uid: Its uid.
        names: Its names, of a class with all aliases; they go into no receipt.
        classes: Uids of the classes that it is part of; of a class also those under which
            snapshots and bundles from before a rollback know it, and those that were merged into
            it.
        newest: Uid of its newest sample that is still in the store, 0 if there is none.
        snapshots: Uids of the snapshots that hold or name it, or cannot be read; those that hold
            one of its classes are not counted.
        role: Of a sample, what it is there for; one that was not learned is in no head.
        datasets: Uids of the exported datasets that name a class in a source.
    """

    kind: Kind
    uid: int
    names: tuple[str, ...]
    classes: tuple[int, ...]
    newest: int
    snapshots: tuple[int, ...] = ()
    datasets: tuple[int, ...] = ()
    role: Role = Role.REPLAY

    @property
    def learned(self) -> tuple[int, ...]:
        """Uids of the classes as which it was learned."""
        return self.classes if self.role is Role.REPLAY else ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What holds the target, and what will happen; printed by `edgecl forget ... --dry-run`.

    Args:
        kind: Class, sample or source.
        uid: Its uid.
        mode: What the receipt will say; see docs/unlearning.md.
        aliases: Names under which the class is known, its own not counted.
        rows: Rows of each table that will be deleted.
        statistics_bytes: Bytes of statistics of the classes that it is part of.
        head: Parts of the head that hold it.
        adapters: Uids of the adapters that saw it (T(c)).
        adapters_later: Uids of those that were trained on from them.
        adapter_method: What happens to both.
        exports: Uids of the exports that hold it.
        snapshots: Uids of the snapshots that hold it.
        key: Whether its encryption key will be destroyed.
        is_last: Whether nothing is left afterwards.
    """

    kind: Kind
    uid: int
    mode: Mode
    aliases: int
    rows: dict[str, int]
    statistics_bytes: int
    head: tuple[str, ...]
    adapters: tuple[int, ...]
    adapters_later: tuple[int, ...]
    adapter_method: str
    exports: tuple[int, ...]
    snapshots: tuple[int, ...]
    key: bool
    is_last: bool

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON values; no name is in it."""
        return asdict(self)


def resolve(store: Store, request: ForgetRequest, aside: Aside | None = None) -> Target:
    """Find what a request means.

    Args:
        store: The store.
        request: The request.
        aside: What snapshots and bundles hold, if it was read already.

    Raises:
        UnknownClassError: No such class.
        RequestError: No such sample or source.
    """
    aside = aside or Aside(store)
    if request.kind is Kind.SAMPLE:
        return _sample_target(store, int(request.name))
    if request.kind is Kind.AGE:
        return _age_target(store, int(request.name), aside)
    if request.kind is Kind.CLASS:
        uid = None
        if not store.has_class(request.name):
            uid = next((uid for uid, name in aside.names if name == request.name), None)
        return _class_target(store, store.class_uid(request.name) if uid is None else uid, aside)
    wanted = plain_text(request.name)
    found: list[tuple[int, str | None]] = list(store.sources().items())
    found += [pair for copy in aside.copies for pair in copy.sources]
    for uid, text in found:
        if text == wanted:
            return _source_target(store, uid, aside)
    known = [text for text in store.sources().values() if text]
    raise RequestError(no_source(request.name, known))


def target_of(store: Store, kind: str, uid: int, aside: Aside | None = None) -> Target:
    """Describe what has a uid.

    Raises:
        RequestError: There is no sample of this uid.
    """
    if kind == Kind.SAMPLE:
        return _sample_target(store, uid)
    if kind == Kind.AGE:
        return _age_target(store, uid, aside or Aside(store))
    describe = _class_target if kind == Kind.CLASS else _source_target
    return describe(store, uid, aside or Aside(store))


def _class_target(store: Store, uid: int, aside: Aside) -> Target:
    # A class of which only adapters are left has no name any more.
    names = dict.fromkeys(store.names_of(uid) if uid in store.names else ())
    names |= dict.fromkeys(n for u, n in aside.names if u == uid and not store.has_class(n))
    uids = {uid} | {u for u, name in aside.names if name in names}
    uids |= {u for u, owner in merged_into(store).items() if owner == uid}
    return Target(
        Kind.CLASS,
        uid,
        tuple(names),
        tuple(sorted(uids)),
        newest_sample(store, Kind.CLASS, uid),
        snapshots=tuple(copy.uid for copy in aside.copies if copy.may_name(names)),
        datasets=naming(aside.manifests, names),
    )


def _sample_target(store: Store, uid: int) -> Target:
    class_uid, role = sample_of(store, uid)
    return Target(Kind.SAMPLE, uid, (str(uid),), (class_uid,), uid, role=role)


def _source_target(store: Store, uid: int, aside: Aside) -> Target:
    classes = classes_of_source(store, uid)
    texts = {text for copy in aside.copies for u, text in copy.sources if u == uid and text}
    text = store.sources().get(uid, next(iter(texts), ""))
    held: list[int] = []
    for copy in aside.copies:
        uids = {u for u, t in copy.sources if u == uid or (text and t == text)}
        if uids or not copy.is_readable:
            held.append(copy.uid)
            classes |= {c for source, c in copy.learned if source in uids}
    newest = newest_sample(store, Kind.SOURCE, uid)
    # One whose text was emptied, or that went with its classes, has no name any more.
    names = (text,) if text else ()
    return Target(Kind.SOURCE, uid, names, tuple(sorted(classes)), newest, tuple(held))


def _age_target(store: Store, before: int, aside: Aside) -> Target:
    # Which samples a snapshot holds beside those of the store is not known: all of them go.
    copies = tuple(copy.uid for copy in aside.copies)
    classes = tuple(sorted(classes_older(store, before)))
    newest = newest_sample(store, Kind.AGE, before)
    return Target(Kind.AGE, before, (str(before),), classes, newest, copies)


def make_plan(store: Store, head: Head, target: Target, method: str) -> Plan:
    """Find everything that holds a target; the head is asked for its kind only, so may be empty."""
    seen, lost = store.n_seen(), store.lost_classes()
    is_known = any(seen.get(uid) for uid in target.learned if uid not in lost)
    saw = adapters_that_saw(store, target)
    later = tuple(uid for uid in descending(adapter_rows(store), saw) if uid not in saw)
    is_whole = any(row.uid in saw and row.epoch is None for row in adapter_rows(store))
    if is_whole and method in APPROXIMATE:
        mode = Mode.of_method(method)
    elif saw or is_known:
        mode = Mode(head.forget_mode)
    else:
        mode = Mode.STORE_ONLY
    emptied = classes_lost(store, target.kind, target.uid)
    gone = (*saw, *later)
    exports = {export.uid for export in holding(store, target.learned, gone)} | {*target.datasets}
    return Plan(
        kind=target.kind,
        uid=target.uid,
        mode=mode,
        aliases=max(0, len(target.names) - 1),
        rows=count(store, target.kind, target.uid),
        statistics_bytes=statistics_bytes(store, target.learned),
        head=_head_parts(head) if is_known else (),
        adapters=saw,
        adapters_later=later,
        adapter_method=method if saw else "none",
        exports=tuple(sorted(exports)),
        snapshots=tuple(sorted({*target.snapshots, *snapshots_with(store, target.classes, gone)})),
        key=store.is_sealed and bool(emptied),
        is_last=set(store.names) <= emptied,
    )


def adapters_that_saw(store: Store, target: Target) -> tuple[int, ...]:
    """Return the adapters in whose training a target's pictures may have been, oldest first.

    Of a class that is known exactly. A sample was seen if its class was and it is not newer than
    the training, or may have judged it; a source, if the training took pictures from it. With the
    last class all go, since the home will be as new: also one that was only changed in place, or
    that never saw the class.
    """
    if target.kind is Kind.CLASS and set(store.names) == {target.uid}:
        return tuple(adapter.uid for adapter in adapter_rows(store))
    if target.role is Role.REVIEW:
        return ()
    found = []
    for adapter in adapter_rows(store):
        if not set(adapter.saw) & set(target.classes):
            continue
        body = adapter.body
        newest = body.get("newest_sample", target.uid)
        if target.kind is Kind.SAMPLE and target.role is Role.REPLAY and target.uid > newest:
            continue
        if target.kind is Kind.SOURCE and target.uid not in body.get("sources", [target.uid]):
            continue
        found.append(adapter.uid)
    return tuple(found)


def _head_parts(head: Head) -> tuple[str, ...]:
    """Name the parts of a head that depend on every class that it learned."""
    label = head.statistic.label
    return (f"{label} of the class", "row of the class", "all other rows", *head.learned_parts)
