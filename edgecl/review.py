"""Frames of the review queue get their names, and are learned; or are shown to a person."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edgecl.errors import StoreError
from edgecl.learner import Learner
from edgecl.runtime.faults import in_words
from edgecl.runtime.files import write_whole
from edgecl.store.novel import entry_of, feature
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


def write_pictures(store: Store, uids: Sequence[int], folder: Path) -> int:
    """Write the pictures of samples into a folder, named by uid; returns how many.

    A file of such a name is replaced; a link is replaced as well, and never followed.

    Args:
        store: The store.
        uids: Samples whose pictures are kept.
        folder: The folder, which is made if it is not there.

    Raises:
        StoreError: A file cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for uid in uids:
            data = store.picture(uid)
            with Image.open(io.BytesIO(data)) as image:
                kind = str(image.format).lower()
            write_whole(folder / f"{uid}.{kind}", data, mode=0o600)
    except OSError as error:
        raise StoreError(f"the pictures cannot be written to {folder} {in_words(error)}") from error
    return len(uids)
