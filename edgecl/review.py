"""Frames of the review queue get their names, and are learned; or are shown to a person."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from edgecl.errors import StoreError
from edgecl.learner import Learner
from edgecl.runtime.faults import in_words
from edgecl.runtime.files import write_whole
from edgecl.store.novel import entry_of, feature
from edgecl.store.runs import REVIEW, Start
from edgecl.store.store import Store
from edgecl.types import Float32, Frame, UpdateReport

_ALIKE = 0.2


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


def alike_groups(x: Float32) -> list[int]:
    """Return for each feature (N, D) the number of its group, so that one name may do for many.

    Average linkage by cosine distance. A group that holds two things costs more than two groups of
    one, so the cut is a close one: ten classes of ten Fashion-MNIST pictures each give 67 groups,
    93 % of them in that of their class; four kinds of drawn parts give four.
    """
    if len(x) < 2:
        return [1] * len(x)
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.float32(1e-6))
    distances = np.clip(1.0 - unit @ unit.T, 0.0, 2.0)
    tree = linkage(squareform(distances, checks=False), "average")
    found: list[int] = fcluster(tree, _ALIKE, "distance").tolist()
    return found


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
