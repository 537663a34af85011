"""Frames of the review queue get their names, and are learned; or are shown to a person."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edgecl.errors import StoreError
from edgecl.learner import Learner
from edgecl.store.novel import entries, entry_of, feature
from edgecl.store.runs import REVIEW, Start
from edgecl.store.store import Store
from edgecl.types import Frame, UpdateReport


def label_entries(learner: Learner, uids: Sequence[int], name: str) -> list[UpdateReport]:
    """Learn entries of the review queue as samples of a class; they leave it as they are learned.

    Args:
        learner: The learner of a home, whose lock the caller holds.
        uids: The entries, in the order in which they are learned; each counts once.
        name: The class's name or alias; a new name adds a class.

    Raises:
        RequestError: No entry has one of the uids; nothing was learned.
    """
    store = learner.store
    uids = list(dict.fromkeys(uids))
    frames = []
    for uid in uids:
        entry = entry_of(store, uid)
        frames.append(
            Frame(
                id=entry.frame or f"entry {uid}",
                encoded=store.picture(uid),
                label=name,
                source=entry.source,
                time=entry.time,
            )
        )
    x = np.array([feature(store, uid) for uid in uids], np.float32)
    learner.begin(Start(REVIEW))
    reports = learner.learn_many(frames, x, reviewed=uids)
    learner.settle()
    return reports


def write_pictures(store: Store, folder: Path) -> int:
    """Write the pictures of all entries into a folder, named by uid; returns how many.

    Raises:
        StoreError: A file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        waiting = entries(store)
        for entry in waiting:
            data = store.picture(entry.uid)
            with Image.open(io.BytesIO(data)) as image:
                kind = str(image.format).lower()
            (folder / f"{entry.uid}.{kind}").write_bytes(data)
    except OSError as error:
        raise StoreError(
            f"the pictures cannot be written to {folder} ({error.strerror}); name another folder"
        ) from error
    return len(waiting)
