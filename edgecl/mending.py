"""Mistakes are mended: samples get another name, two classes become one, a run is taken back.

Or samples that were learned are held out, to test on.

Each is one transaction with an entry in the chain of receipts. A head in closed form is, bit for
bit, the one that learned it right in the first place, or never; one by gradient learns anew from
the kept samples, and goes back to what it was where an undo still has that. It is no unlearning:
nothing is searched or rewritten, and copies that were made before hold what was wrong.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from safetensors.numpy import load as load_arrays

from edgecl.errors import RequestError
from edgecl.heads.memory import Whole
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.store.adapters import adapter_rows, descending, drop_adapters
from edgecl.store.erasure import drop_classes_of_nothing, drop_unused, unknown_sample
from edgecl.store.exports import holding
from edgecl.store.moves import (
    classes_with,
    created_of,
    feature_of,
    keep_names,
    move_all,
    move_samples,
    note_move,
    samples_of,
    set_role,
    sums_of_run,
)
from edgecl.store.novel import entry_of, take
from edgecl.store.runs import (
    HOLD_OUT,
    MERGE,
    RELABEL,
    Content,
    Run,
    Start,
    begin_run,
    content_of,
    former_names,
    last_run,
    note_reviewed,
    take_back,
)
from edgecl.store.snapshots import snapshots_with
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.types import Kind
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.plan import Target, adapters_that_saw
from edgecl.unlearning.receipt import Mended


@dataclass(frozen=True, slots=True)
class Done:
    """What was mended.

    Args:
        receipt_id: Its entry in the chain.
        mode: What an unlearning would be called: `exact_head` or `exact_retrain`.
        samples: Samples that were moved or taken back, by the name of their class.
        gone: Names of the classes of which nothing is left.
        adapters: Uids of the adapters that were dropped, since they saw the samples.
        exports: Uids of the bundles and datasets that hold them as they were.
        snapshots: Uids of the snapshots that do.
    """

    receipt_id: str
    mode: str
    samples: dict[str, int]
    gone: tuple[str, ...] = ()
    adapters: tuple[int, ...] = ()
    exports: tuple[int, ...] = ()
    snapshots: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reversal:
    """What `undo` would take back.

    Args:
        run: The run.
        content: What of it is still there.
        names: Names of the classes in it, by uid; also those that would come back.
    """

    run: Run
    content: Content
    names: dict[int, str] = field(default_factory=dict)


def relabel(home: Home, learner: Learner, uids: Sequence[int], name: str) -> Done:
    """Give samples another class: the head is the one that learned them under it.

    One that was held out is so for its new class; one that waits for review is learned. A class of
    which all learned samples go goes as a whole, with what of it was held out.

    Args:
        home: The home, whose lock the caller holds.
        learner: Its learner.
        uids: Samples of any role; each counts once.
        name: Name or alias of the class; a new name adds one.

    Raises:
        RequestError: One is not there, all are of that class already, or a new class would have
            nothing that is learned; nothing was changed.
    """
    store = learner.store
    uids = list(dict.fromkeys(map(int, uids)))
    there = classes_with(store, uids)
    for uid in uids:
        if uid not in there:
            raise unknown_sample(uid)
    to = store.class_uid(name) if store.has_class(name) else 0
    waiting = [uid for uid in uids if there[uid][1] is Role.REVIEW]
    moved = {u: there[u][0] for u in uids if u not in waiting and there[u][0] != to}
    if not moved and not waiting:
        what = f"sample {uids[0]} is" if len(uids) == 1 else f"all {len(uids)} samples are"
        raise RequestError(f"{what} of the class {name!r} already")
    replayed = Counter(of for uid, of in moved.items() if there[uid][1] is Role.REPLAY)
    if not (to or waiting or replayed):
        raise RequestError(
            f"what would be {name!r} was kept to test on, and a new class needs something that is "
            "learned; name a sample that was learned, or a frame that waits, with it"
        )
    emptied = [of for of, n in replayed.items() if n == store.n_seen()[of]]
    for of in emptied:
        moved |= {uid: of for uid in samples_of(store, of) if uid not in waiting}
    guesses = Counter(there[uid][0] for uid in waiting)

    def work() -> int:
        uid = store.add_class(name)
        for of in sorted({*moved.values()}):
            own = [sample for sample, former in moved.items() if former == of]
            move_samples(store, own, uid)
            note_move(store, of, uid, own)
        for sample in waiting:
            _learn_waiting(home, store, sample, uid)
        for of in emptied:
            keep_names(store, of, uid)
        drop_classes_of_nothing(store)
        return uid

    start = Start(RELABEL, moved=tuple(moved.items()), created=created_of(store, emptied))
    roles = {uid: there[uid][1] if uid in there else Role.HELD_OUT for uid in moved}
    targets = [Target(Kind.SAMPLE, u, (), (c,), u, role=roles[u]) for u, c in moved.items()]
    return _mend(home, learner, start, work, Counter(moved.values()) + guesses, targets)


def merge_classes(home: Home, learner: Learner, of: str, to: str) -> Done:
    """Make one class of two: all of the first is the second's, and its name an alias of that.

    Args:
        home: The home, whose lock the caller holds.
        learner: Its learner.
        of: The class that goes.
        to: The one that stays.

    Raises:
        UnknownClassError: There is no such class.
        RequestError: Both names are of one class.
    """
    store = learner.store
    source, target = store.class_uid(of), store.class_uid(to)
    if source == target:
        raise RequestError(f"{of!r} and {to!r} are names of one class; there is nothing to merge")
    uids = samples_of(store, source)

    def work() -> int:
        note_move(store, source, target, uids)
        move_all(store, source, target)
        return target

    moved = tuple((uid, source) for uid in uids)
    start = Start(MERGE, moved=moved, created=created_of(store, [source]))
    counts = Counter({source: store.n_seen()[source]})
    whole = Target(Kind.CLASS, source, (), (source,), 0)
    return _mend(home, learner, start, work, counts, [whole])


def hold_out(home: Home, learner: Learner, uids: Sequence[int]) -> Done:
    """Let learned samples be held out, to test on: the head is the one that never learned them.

    Args:
        home: The home, whose lock the caller holds.
        learner: Its learner.
        uids: Kept samples; those that are held out already stay so.

    Raises:
        RequestError: One is not there, is not kept or waits for a name, all are held out already,
            or nothing learned would be left of a class; nothing was changed.
    """
    store = learner.store
    uids = list(dict.fromkeys(map(int, uids)))
    there = classes_with(store, uids)
    for uid in uids:
        if uid not in there:
            raise unknown_sample(uid)
        if there[uid][1] is Role.REVIEW:
            raise RequestError(f"sample {uid} waits for a name; it can be held out once it has one")
        if there[uid][1] is Role.REPLAY and not store.is_stored(uid):
            raise RequestError(f"the picture of sample {uid} is not kept any more; hold out others")
    moved = {uid: there[uid][0] for uid in uids if there[uid][1] is Role.REPLAY}
    if not moved:
        what = f"sample {uids[0]} is" if len(uids) == 1 else f"all {len(uids)} samples are"
        raise RequestError(f"{what} held out already")
    counts = Counter(moved.values())
    for class_uid, n in counts.items():
        if n == store.n_seen()[class_uid]:
            raise RequestError(
                f"nothing learned would be left of {store.names[class_uid]!r}; hold out fewer"
            )

    def work() -> None:
        set_role(store, list(moved), Role.HELD_OUT)

    targets = [Target(Kind.SAMPLE, u, (), (c,), u, role=Role.REPLAY) for u, c in moved.items()]
    return _mend(home, learner, Start(HOLD_OUT, moved=tuple(moved.items())), work, counts, targets)


def plan_undo(store: Store) -> Reversal:
    """Return what `undo` would take back; changes nothing.

    Raises:
        RequestError: There is no run that can be taken back, or nothing of it is left.
    """
    run = last_run(store)
    if run is None:
        raise RequestError(
            "there is nothing to undo: no command has learned or mended since the last undo; "
            "`edgecl snapshots` shows versions to roll back to"
        )
    content = content_of(store, run)
    if content.is_empty:
        raise RequestError(
            "there is nothing to undo: what the last run learned was unlearned or taken back since"
        )
    return Reversal(run, content, dict(store.names) | former_names(store))


def _follow(learner: Learner, before: bytes | None, learned: Whole | None) -> None:
    """Let the head follow a run that was taken back.

    Args:
        learner: The learner.
        before: State of a head by gradient before the run; None if it was not kept.
        learned: What the run learned, if it did nothing else.
    """
    store, head = learner.store, learner.head
    if before is not None:
        head.restore(store.all_moments(), dict(load_arrays(before)))
    elif learned is None:
        head.rebuild(store)
    else:
        head.take_off(learned, store, store.n_seen())


def undo(home: Home, learner: Learner) -> tuple[Reversal, Done]:
    """Take back the last run: what it learned, named, relabelled or merged, and its position.

    Kept pictures that it displaced do not come back. What was unlearned since stays so; the rest
    is taken back.

    Raises:
        RequestError: There is nothing to take back.
    """
    store = learner.store
    reversal = plan_undo(store)
    run, content = reversal.run, reversal.content
    counts = Counter(content.learned)
    for (_, to), n in content.moved.items():
        counts[to] += n
    classes = {c for way in content.moved for c in way} | set(content.learned)
    known = dict(store.names)
    chain = Chain(home, store)
    held = _copies(store, classes & set(known))
    try:
        with store.transaction():
            # What only moved is not among it, so then all is added up.
            sums = ((class_uid, part) for class_uid, _, part in sums_of_run(store))
            learned = None if content.moved else store.whole_of_run(run.first, sums)
            before = take_back(store, run)
            gone = set(known) - set(store.names)
            saw = [
                row.uid
                for row in adapter_rows(store)
                if gone & set(row.saw) or (row.uid > run.body["adapter"] and classes & set(row.saw))
            ]
            dropped = _drop(store, saw)
            _follow(learner, before, learned)
            learner.save_state()
            samples = {str(uid): n for uid, n in sorted(counts.items())}
            receipt_id = chain.append(Mended("undo", time.time(), samples, run=run.kind))
    except BaseException:
        learner.reload()
        raise
    chain.settle()
    for uid in gone:
        if not snapshots_with(store, [uid], ()):
            store.destroy_key(uid)
    learner.settle()
    return reversal, Done(
        receipt_id,
        learner.head.forget_mode if before is None else "exact_head",
        {reversal.names[uid]: n for uid, n in counts.items()},
        tuple(known[uid] for uid in sorted(gone)),
        dropped,
        *held,
    )


def _mend(
    home: Home,
    learner: Learner,
    start: Start,
    work: Callable[[], int | None],
    counts: Counter[int],
    targets: Sequence[Target],
) -> Done:
    """Move samples in one transaction, as a run of its own.

    Args:
        home: The home.
        learner: Its learner.
        start: How the run begins.
        work: Moves them; returns the uid of the class that has them then, if it is another.
        counts: How many samples of each class are moved, by its uid.
        targets: What is moved, for the adapters that saw it.
    """
    store, chain = learner.store, Chain(home, learner.store)
    known = dict(store.names)
    held = _copies(store, set(counts))
    saw = (
        {uid for t in targets for uid in adapters_that_saw(store, t)} if adapter_rows(store) else ()
    )
    try:
        with store.transaction():
            begin_run(store, start)
            to = work()
            dropped = _drop(store, saw)
            drop_unused(store, is_unlearned=False, is_moved=start.kind == RELABEL)
            # What goes to another class or becomes one with it: all samples together are the same.
            (learner.head.rebuild if start.kind == HOLD_OUT else learner.head.regroup)(store)
            learner.save_state()
            samples = {str(uid): n for uid, n in sorted(counts.items())}
            receipt_id = chain.append(Mended(start.kind, time.time(), samples, to))
    except BaseException:
        learner.reload()
        raise
    chain.settle()
    learner.settle()
    return Done(
        receipt_id,
        learner.head.forget_mode,
        {known[uid]: n for uid, n in counts.items()},
        tuple(known[uid] for uid in sorted(set(known) - set(store.names))),
        dropped,
        *held,
    )


def _learn_waiting(home: Home, store: Store, uid: int, class_uid: int) -> None:
    """Learn a frame of the review queue as a sample of a class."""
    entry, x, picture = entry_of(store, uid), feature_of(store, uid), store.picture(uid)
    new, _ = store.add_sample(
        class_uid,
        x,
        lambda: picture,
        source=entry.source,
        frame=entry.frame,
        time=entry.time,
        rng=np.random.default_rng([home.config.head.seed, store.step]),
    )
    note_reviewed(store, new, entry)
    take(store, uid, class_uid)


def _drop(store: Store, saw: Iterable[int]) -> tuple[int, ...]:
    """Drop adapters, and those that were trained on from them; inside a transaction."""
    dropped = descending(adapter_rows(store), saw)
    if dropped:
        drop_adapters(store, dropped)
    return tuple(dropped)


def _copies(store: Store, classes: set[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the exports and the snapshots that hold one of some classes, as it is now."""
    exports = tuple(export.uid for export in holding(store, classes, ()))
    return exports, snapshots_with(store, classes, ())
