"""What the adapters that are heard say of pictures that they were not trained on.

Of these the mixture that is served is calibrated, and judged by the governor: samples that are held
out, and kept ones that are left out of every training (`probe_of`), a tenth. An adapter is asked
for all of them when it is taken, later only for what came after its training, since what was kept
before may have been in it.
"""

from __future__ import annotations

import numpy as np

from edgecl.consolidation.plan import probe_of
from edgecl.session import Session
from edgecl.store.adapters import head_of, heard, maps_of, task_adapters
from edgecl.store.opinions import add_opinions, asked
from edgecl.store.table import Role

_MOST = 400
"""Pictures that are asked for at once, the newest; some seconds."""


def ask_opinions(session: Session, *, new: int | None = None) -> int:
    """Ask the adapters that are heard for pictures that they were not asked for; returns how many.

    Args:
        session: The home, whose lock the caller holds.
        new: Uid of an adapter that was just taken, or is a candidate.
    """
    store = session.store
    bank = [task.taken() if task.uid == new else task for task in task_adapters(store)]
    speakers = heard(bank)
    if not speakers:
        return 0
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
    if not wanted:
        return 0
    names = {uid: str(uid) for uid in store.names}
    said = []
    for task in speakers:
        uids = [uid for uid in wanted if uid in lacks[task.uid]]
        maps = maps_of(task.body["bank"], [t.adapter for t in bank if t.uid <= task.uid])
        engine = session.adapted_engine.with_adapters(*maps)
        x = session.embed(engine, uids, store.picture)[:, store.num_features :]
        head = head_of(task, names)
        if uids:
            said.append((task.uid, uids, head.probabilities(head.scores(x)).astype(np.float32)))
    with store.transaction(changes_head=False):
        for one in said:
            add_opinions(store, *one)
    return len(wanted)
