"""Frames of the review queue get their names, and are learned; or are shown to a person."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edgecl.errors import StoreError
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.runtime.preprocess import picture_of
from edgecl.store.novel import entries, entry_of, feature, picture
from edgecl.store.store import Store
from edgecl.types import Float32, Frame, UpdateReport


def label_entries(
    home: Home, learner: Learner, uids: Sequence[int], name: str
) -> list[UpdateReport]:
    """Learn entries of the review queue as samples of a class; they leave it as they are learned.

    The engine is loaded only for entries from before the home's feature map changed.

    Args:
        home: The home, whose lock the caller holds.
        learner: Its learner.
        uids: The entries, in the order in which they are learned; each counts once.
        name: The class's name or alias; a new name adds a class.

    Raises:
        RequestError: No entry has one of the uids; nothing was learned.
        DecodeError: A picture that must be embedded again cannot be decoded.
    """
    store = learner.store
    uids = list(dict.fromkeys(uids))
    frames = []
    for uid in uids:
        entry = entry_of(store, uid)
        frames.append(
            Frame(
                id=entry.frame or f"entry {uid}",
                encoded=picture(store, uid),
                label=name,
                source=entry.source,
                time=entry.time,
            )
        )
    kept = [feature(store, uid) for uid in uids]
    if any(row is None for row in kept):
        x = _embedded(home, store, frames)
    else:
        x = np.array(kept, np.float32)
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
            data = picture(store, entry.uid)
            with Image.open(io.BytesIO(data)) as image:
                kind = str(image.format).lower()
            (folder / f"{entry.uid}.{kind}").write_bytes(data)
    except OSError as error:
        raise StoreError(
            f"the pictures cannot be written to {folder} ({error.strerror}); name another folder"
        ) from error
    return len(waiting)


def _embedded(home: Home, store: Store, frames: Sequence[Frame]) -> Float32:
    engine = home.engine()
    preprocessing = home.manifest.preprocessing
    size = home.config.engine.batch_size
    parts = []
    for start in range(0, len(frames), size):
        images = [picture_of(f, max_pixels=home.max_pixels) for f in frames[start : start + size]]
        parts.append(engine.run(np.stack([preprocessing.tensor(image) for image in images])))
    return np.concatenate(parts)
