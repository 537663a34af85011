"""What the adapters that are heard say of pictures that they were not trained on.

Of these the mixture that is served is calibrated, and judged by the governor: samples that are held
out, and kept ones that are left out of every training (`probe_of`), a tenth. An adapter is asked
for all of them when it is taken, later only for what came after its training, since what was kept
before may have been in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgecl.calibration import save_scorer
from edgecl.consolidation.plan import probe_of
from edgecl.learner import Learner
from edgecl.session import Session
from edgecl.store.adapters import head_of, heard, maps_of, task_adapters
from edgecl.store.opinions import add_opinions, asked
from edgecl.store.table import Role
from edgecl.types import Float32

Answers = tuple[int, list[int], Float32]
_MOST = 400
"""Pictures that are asked for at once, the newest; some seconds."""


def ask_opinions(session: Session, learner: Learner) -> int:
    """Ask the adapters that are heard for pictures that they were not asked for; returns how many.

    What is kept of the head goes with it in one transaction: it says how far the mixture can be
    believed, which is more than before.

    Args:
        session: The home, whose lock the caller holds.
        learner: Its learner.
    """
    said = _answers(session, None)
    if said:
        learner.head.settle(session.store)
        with session.store.transaction(changes_head=False):
            _keep(learner, said)
    return len({uid for _, uids, _ in said for uid in uids})


def ask_new(session: Session, new: int) -> None:
    """Ask an adapter that was just taken, or is a candidate; inside the transaction that takes it.

    Args:
        session: The home, its head settled.
        new: Uid of the adapter.
    """
    _keep(session.learner, _answers(session, new))


def _keep(learner: Learner, said: Sequence[Answers]) -> None:
    for one in said:
        add_opinions(learner.store, *one)
    save_scorer(learner.store, learner.head)
    learner.save_state(at_end=True)


def _answers(session: Session, new: int | None) -> list[Answers]:
    """Return adapters, the pictures that they are asked for, and what they say."""
    store = session.store
    bank = [task.taken() if task.uid == new else task for task in task_adapters(store)]
    speakers = heard(bank)
    if not speakers:
        return []
    held = store.rows(Role.HELD_OUT).uids.tolist()
    pictures = sorted({*held, *probe_of(store.stored_samples())})
    lacks = {
        task.uid: {
            uid
            for uid in set(pictures) - asked(store, task.uid)
            if task.uid == new or uid > int(task.body.get("newest_sample", 0))
        }
        for task in speakers
    }
    wanted = sorted(set().union(*lacks.values()))[-_MOST:]
    names = {uid: str(uid) for uid in store.names}
    said: list[Answers] = []
    for task in speakers if wanted else ():
        uids = [uid for uid in wanted if uid in lacks[task.uid]]
        maps = maps_of(task.body["bank"], [t.adapter for t in bank if t.uid <= task.uid])
        engine = session.adapted_engine.with_adapters(*maps)
        x = session.embed(engine, uids, store.picture)[:, store.num_features :]
        head = head_of(task, names)
        if uids:
            said.append((task.uid, uids, head.probabilities(head.scores(x)).astype(np.float32)))
    return said
