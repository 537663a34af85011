"""Frames of the review queue get their names, and are learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgecl.learner import Learner
from edgecl.replay.novel import entry_of, feature, picture
from edgecl.types import Float32, Frame, UpdateReport


def label_entries(
    learner: Learner,
    uids: Sequence[int],
    name: str,
    embed: Callable[[Sequence[Frame]], Float32],
) -> list[UpdateReport]:
    """Learn entries of the review queue as samples of a class; they leave the queue with it.

    Args:
        learner: The learner of the home, whose lock the caller holds.
        uids: The entries, in the order in which they are learned.
        name: The class's name or alias; a new name adds a class.
        embed: Gives the features (N, D) of frames; called only for entries from before the home's
            feature map changed.

    Raises:
        RequestError: No entry has one of the uids; nothing was learned.
        DecodeError: A picture that must be embedded again cannot be decoded.
    """
    store = learner.store
    frames, rows = [], []
    for uid in uids:
        entry = entry_of(store, uid)
        frame = Frame(
            id=entry.frame or f"entry {uid}",
            encoded=picture(store, uid),
            label=name,
            source=entry.source,
            time=entry.time,
        )
        kept = feature(store, uid)
        rows.append(embed([frame])[0] if kept is None else kept.astype(np.float32))
        frames.append(frame)
    reports = learner.learn_many(frames, np.stack(rows), reviewed=uids)
    learner.settle()
    return reports
