"""A change is opened, judged and, if it is proved worse and the home says so, taken back.

    with governed(session, "learn") as change:
        ...                                    # whatever changes what is served
    change.judgement, change.state

Before it the answers of all witnesses are noted (edgecl/governor/verdicts.py), behind it they are
asked again and compared. What a killed process left open is closed by the next change. The way
back is cheap: samples are subtracted from an exact head, an adapter is dropped, the last run is
undone, and only what none of these can do has a snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from edgecl.consolidation.opinions import ask_opinions
from edgecl.errors import EdgeclError, RequestError
from edgecl.governor.judge import Judgement, judged
from edgecl.governor.record import is_recorded, policy_hash
from edgecl.governor.verdicts import NOBODY, paired, verdicts_of
from edgecl.heads import make_head_of
from edgecl.learner import Learner
from edgecl.lessons import lessons_between
from edgecl.mending import undo
from edgecl.session import Session
from edgecl.snapshots import rollback, take
from edgecl.store.adapters import adapter_rows, descending, drop_adapters
from edgecl.store.changes import (
    CANDIDATE,
    OPEN,
    ROLLED_BACK,
    SERVING,
    Change,
    add_change,
    changes_of,
    close_change,
    drop_changes,
    lessons_of,
    newest_sample,
    note_before,
    noted_before,
    positions,
    put_positions,
    set_state,
    thin_changes,
)
from edgecl.store.runs import last_run
from edgecl.store.snapshots import snapshots_of
from edgecl.store.store import Store
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.receipt import Changed

TAUGHT = ("learn", "import", "label")
"""Kinds that only add samples, which an exact head can subtract."""
RUNS = (*TAUGHT, "relabel", "merge-classes", "hold-out")
"""Kinds that are a run, which can be undone while it is the last one (edgecl/mending.py)."""
_STAYS = ("export", "settings", "forget", "drift")
Tell = Callable[[str], None]


def _silent(text: str) -> None:
    pass


@dataclass
class Governed:
    """A change that is under way; what became of it is there at the end.

    Args:
        uid: Its number; None where nothing is recorded, or nothing changed.
        state: What became of it.
        judgement: What its witnesses said.
    """

    uid: int | None = None
    state: str = SERVING
    judgement: Judgement | None = None
    again: Callable[[], None] = field(default=lambda: None, repr=False)
    """Opens the change anew, if another one that came in between has closed it."""


@contextmanager
def governed(
    session: Session, kind: str, *, learner: Learner | None = None, tell: Tell = _silent
) -> Iterator[Governed]:
    """Record a change, judge it, and take it back in a home whose mode is `gate`.

    Nothing is recorded if nothing is learned inside. What is learned before an error counts.

    Args:
        session: The home, whose lock the caller holds.
        kind: `learn`, `import`, `label`, `relabel`, `merge-classes`, `hold-out`, `merge`, or
            `rollback`.
        learner: Who learns; None is the session's.
        tell: Told if something was proved worse.
    """
    home, store, done = session.home, session.store, Governed()
    if not is_recorded(home):
        yield done
        return
    learner = learner or session.learner

    def again() -> None:
        if not any(c.uid == done.uid for c in changes_of(store) if c.state == OPEN):
            done.uid = _open(session, learner, kind)

    # Of a process that was killed, or of the stream that this one came in between.
    for left in [c for c in changes_of(store) if c.state == OPEN]:
        _close(session, learner, left, tell)
    again()
    done.again = again
    try:
        yield done
    finally:
        opened = [c for c in changes_of(store) if c.state == OPEN]
        change = next((c for c in opened if c.uid == done.uid), None)
        done.uid = None
        if change is not None:
            closed = _close(session, learner, change, tell)
            if closed is not None:
                done.uid, done.state, done.judgement = change.uid, closed[0], closed[1]


def take_back(session: Session, uid: int) -> Change:
    """Take a change back.

    What a change of samples taught is subtracted from an exact head, whatever was learned since. A
    snapshot brings back all as it was before the change, so what came since goes with it.

    Args:
        session: The home, whose lock the caller holds.
        uid: Its number.

    Returns:
        The change as it is now; one that taught only what is gone is not on record any more.

    Raises:
        RequestError: There is no such change, or no way back; nothing was changed.
    """
    store = session.store
    known = changes_of(store)
    change = next((c for c in known if c.uid == uid), None)
    if change is None:
        named = ", ".join(c.name for c in known[-5:]) or "there is none"
        raise RequestError(
            f"change c{uid} is unknown, or went with a class that was unlearned; newest: {named}"
        )
    if change.state not in (SERVING, CANDIDATE):
        raise RequestError(f"change {change.name} is {change.state.replace('_', ' ')} already")
    receipt = _take_back(session, session.learner, change, is_asked=True)
    return replace(change, state=ROLLED_BACK, receipt=receipt)


def way_back(session: Session, change: Change) -> str:
    """Return how a change would be taken back: `subtract`, `adapter`, `undo`, `snapshot` or ''."""
    store, config = session.store, session.home.config.head
    if change.state not in (SERVING, CANDIDATE):
        return ""
    if change.kind == "consolidate":
        is_there = change.body.get("adapter") in [row.uid for row in adapter_rows(store)]
        return "adapter" if is_there else ""
    if change.kind in TAUGHT and _is_whole(store, change):
        # An empty head: to ask is no reason to read what was learned.
        if make_head_of(config, store.num_features, codebook=store.codebook).unlearns_exactly:
            return "subtract"
    run = last_run(store)
    if run is not None and run.uid == change.body.get("run"):
        return "undo"
    kept = any(s.uid == change.snapshot for s in snapshots_of(store))
    return "snapshot" if kept else ""


def _open(session: Session, learner: Learner, kind: str) -> int:
    home, store = session.home, session.store
    snapshot = None
    # A rollback is a person's word, and one more snapshot could push out the one that it wants.
    is_gated = home.config.governor.mode == "gate" and kind not in (*RUNS, "rollback")
    if is_gated and store.names and home.config.store.snapshots:
        snapshot = take(home, store).uid
    before = verdicts_of(learner) if store.names else NOBODY
    with store.transaction(changes_head=False):
        run = last_run(store)
        body = {
            "version": store.version,
            "positions": positions(store),
            "run": 0 if run is None else run.uid,
        }
        uid = add_change(store, kind, state=OPEN, body=body, snapshot=snapshot)
        note_before(store, uid, before)
    return uid


def _close(
    session: Session, learner: Learner, change: Change, tell: Tell
) -> tuple[str, Judgement] | None:
    """Judge an open change; returns what became of it, None where nothing was changed."""
    store, policy = session.store, session.home.config.governor
    if store.version == change.body["version"]:
        with store.transaction(changes_head=False):
            drop_changes(store, [change.uid])
        return None
    had, before = noted_before(store, change.uid)
    has = store.n_seen()
    learner.head.settle(store)
    _ask_adapters(session, learner, tell)
    after = verdicts_of(learner) if store.names else NOBODY
    classes = paired(before, after, had, has)
    judgement = judged(classes, policy)
    was, now = change.body["positions"], positions(store)
    body = {k: v for k, v in change.body.items() if k not in ("version", "positions")}
    body["positions"] = {k: was.get(k) for k in {*was, *now} if was.get(k) != now.get(k)}
    run, run_before = last_run(store), body.pop("run")
    if run is not None and run.uid != run_before and change.kind in RUNS:
        body["run"] = run.uid
    change = replace(
        change,
        state=SERVING,
        closed=time.time(),
        taught=any(c.learned > 0 for c in classes),
        samples=(change.samples[0], newest_sample(store)),
        body=body,
        classes=classes,
    )
    with store.transaction(changes_head=False):
        close_change(store, change, classes)
        thin_changes(store, policy.keep_changes)
    state = SERVING
    if judgement.is_worse:
        state = _answer(session, learner, change, judgement, tell)
    elif policy.mode == "gate":
        _sign(session, change, judgement)
    return state, judgement


def _ask_adapters(session: Session, learner: Learner, tell: Tell) -> None:
    """Let the adapters answer the new witnesses, which then speak for the next change."""
    try:
        if session.store.names:
            ask_opinions(session, learner)
    except EdgeclError as error:
        tell(f"the adapters could not be asked for the new pictures that judge: {error}")


def _answer(
    session: Session, learner: Learner, change: Change, judgement: Judgement, tell: Tell
) -> str:
    """Tell of a change that is proved worse, take it back in a home that says so; its state."""
    name = change.name
    found = judgement.pairs
    said = f"{change.kind} {name} is proved worse: {found.lost} of {found.n} pictures lost"
    said += f", {found.won} won"
    if session.home.config.governor.mode != "gate" or change.kind == "rollback":
        way = way_back(session, change)
        tell(said + (f"; `edgecl rollback {name}` takes it back" if way else ""))
        return SERVING
    try:
        _take_back(session, learner, change, judgement)
    except EdgeclError as error:
        _sign(session, change, judgement)
        tell(f"{said}; it could not be taken back: {error}")
        return SERVING
    tell(f"{said}; it was taken back (governor.mode is gate)")
    return ROLLED_BACK


def _take_back(
    session: Session,
    learner: Learner,
    change: Change,
    judgement: Judgement | None = None,
    *,
    is_asked: bool = False,
) -> str:
    """Take a change back, and write a receipt of it; returns the receipt's id.

    Raises:
        RequestError: There is no way back any more.
    """
    store, chain = session.store, Chain(session.home, session.store)
    judgement = judgement or judged(change.classes, session.home.config.governor)
    receipt = _receipt(session, replace(change, state=ROLLED_BACK), judgement)
    way = way_back(session, change)

    def note() -> None:
        also = []
        if way == "snapshot":  # what was learned since went as well
            also = [
                c.uid
                for c in changes_of(store)
                if c.uid > change.uid and c.state == SERVING and c.kind not in _STAYS
            ]
        set_state(store, [change.uid, *also], ROLLED_BACK, chain.append(receipt))
        if is_asked:
            add_change(store, "rollback", body={"of": change.uid})

    if way == "adapter":
        with store.transaction(changes_head=False):
            drop_adapters(store, descending(adapter_rows(store), [change.body["adapter"]]))
            note()
    elif way == "subtract":
        _subtract(learner, change, note)
    else:
        if way == "undo":
            undo(session.home, learner)
        elif way == "snapshot" and change.snapshot is not None:
            rollback(session.home, learner, change.snapshot)
        else:
            raise RequestError(_no_way_back(change))
        with store.transaction(changes_head=False):
            note()
    chain.settle()
    return chain.receipts[-1].receipt_id


def _no_way_back(change: Change) -> str:
    what = f"change {change.name} ({change.kind})"
    if change.kind in _STAYS:
        return f"{what} is no learning, so there is nothing to take back"
    return (
        f"{what} cannot be taken back any more: it is not the last run, its samples cannot be told "
        "apart from others in the sums, and no snapshot was taken before it; roll back to one "
        "(`edgecl snapshots`), or forget"
    )


def _subtract(learner: Learner, change: Change, note: Callable[[], None]) -> None:
    """Take back the samples of a change; the head has then the bits of never having learned them.

    What else is to be noted commits with it, as does how far sources were learned.
    """
    store = learner.store

    def also() -> None:
        put_positions(store, change.body.get("positions", {}))
        note()

    learner.undo(lessons_between(store, *change.samples), also)
    if store.names:
        learner.settle()


def _is_whole(store: Store, change: Change) -> bool:
    """Whether every sample that a change taught still has a row."""
    found: dict[int, int] = {}
    for _, class_uid, _, _, is_held_out in lessons_of(store, *change.samples):
        found[class_uid] = found.get(class_uid, 0) + (not is_held_out)
    summed = store.classes_with_sums()
    return all(
        found.get(c.uid, 0) >= c.learned or c.uid not in summed for c in change.classes
    ) and any(found.values())


def _sign(session: Session, change: Change, judgement: Judgement) -> None:
    """Write a receipt of what became of a change."""
    store, chain = session.store, Chain(session.home, session.store)
    with store.transaction(changes_head=False):
        receipt = chain.append(_receipt(session, change, judgement))
        set_state(store, [change.uid], change.state, receipt)
    chain.settle()


def _receipt(session: Session, change: Change, judgement: Judgement) -> Changed:
    return Changed(
        change=change.uid,
        what=change.kind,
        state=change.state,
        time=time.time(),
        n=judgement.pairs.n,
        lost=judgement.pairs.lost,
        won=judgement.pairs.won,
        p=judgement.p,
        policy=policy_hash(session.home.config.governor),
        worst=judgement.worst,
        snapshot=change.snapshot,
    )


def note_undone(session: Session, run: int, receipt: str) -> None:
    """Note that `edgecl undo` took back the change that was a run; it has a receipt already."""
    store = session.store
    undone = [c.uid for c in changes_of(store) if c.body.get("run") == run and c.state == SERVING]
    if is_recorded(session.home):
        with store.transaction(changes_head=False):
            set_state(store, undone, ROLLED_BACK, receipt)
            add_change(store, "rollback", body={"of": undone[0]} if undone else {})
