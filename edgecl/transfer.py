"""A home for another backbone: what an old home keeps as pictures is learned anew in a new one.

A home has one feature map for ever, so another backbone is another home. Pictures can be learned
anew, statistics cannot: what an old home knew of samples whose pictures it did not keep stays
behind, and is told by class.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecl.errors import RequestError, UsageError
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.runtime.pipeline import Embedded, embed
from edgecl.session import open_learner, open_store
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.types import Frame, Say


@dataclass(frozen=True, slots=True)
class Transferred:
    """What a new home took over.

    Args:
        learned: Pictures that it learned, those that it held out among them.
        classes: Names of its classes.
        behind: Samples of each class that only the old home's statistics know.
        skipped: Pictures that could not be used, with the reason.
    """

    learned: int
    classes: tuple[str, ...]
    behind: dict[str, int]
    skipped: tuple[str, ...]


def check_transfer(old: Home, place: Path, *, encrypt: bool) -> None:
    """Check that a home's pictures can be taken over, before a new home is made.

    Args:
        old: The home whose pictures are wanted.
        place: Where the new one will be.
        encrypt: Whether that will be encrypted.

    Raises:
        UsageError: The new home would replace the old one.
        RequestError: It keeps no picture; or it is encrypted, and the new one would not be.
    """
    if os.path.realpath(old.path) == os.path.realpath(place):
        raise UsageError(
            f"--from names {old.path}, which the new home would replace; name another place with "
            "--home"
        )
    if old.class_keys.exists() and not encrypt:
        raise RequestError(
            f"the home {old.path} is encrypted, and the new one would keep its pictures plain; add "
            "--encrypt"
        )
    with open_store(old, read_only=True) as store:
        if not store.stored_samples():
            raise RequestError(f"the home {old.path} keeps no picture that could be learned anew")


def learn_kept(old: Home, new: Home, say: Say = lambda what, done, of: None) -> Transferred:
    """Learn the pictures that a home keeps in a new one, in the order in which they came.

    Args:
        old: A home; nothing in it is changed.
        new: A home that learned nothing.
        say: Told about progress.

    Raises:
        IntegrityError: The old home is damaged, or a key of it is missing.
        StoreError: The new home cannot be written.
    """
    with (
        open_store(old, read_only=True) as source,
        new.lock(),
        open_store(new) as store,
        source.snapshot(),
    ):
        learner = open_learner(new, store)
        n_learned, skipped = _learn_all(new, learner, list(_frames(source)), say)
        with store.transaction(changes_head=False):
            _take_aliases(source, store)
        learner.settle()
        return Transferred(
            n_learned, tuple(store.names.values()), _left_behind(source), tuple(skipped)
        )


def _learn_all(new: Home, learner: Learner, frames: list[Frame], say: Say) -> tuple[int, list[str]]:
    """Learn frames in their order; returns how many, and what could not be looked at."""
    skipped: list[str] = []
    n_learned = 0
    groups = embed(
        iter(frames),
        new.manifest.preprocessing,
        new.engine(),
        batch_size=new.config.engine.batch_size,
        max_pixels=new.max_pixels,
    )
    waiting: list[Embedded] = []

    def commit() -> None:
        x = np.array([item.feature for item in waiting], dtype=np.float32)
        learner.learn_many([item.frame for item in waiting], x)
        waiting.clear()

    with closing(groups):
        for item in (item for group in groups for item in group):
            if not isinstance(item, Embedded):
                skipped.append(f"{item.id}: {item.reason}")
                continue
            waiting.append(item)
            n_learned += 1
            if len(waiting) >= new.config.store.commit_every:
                commit()
                say("learning", n_learned, len(frames))
    if waiting:
        commit()
    return n_learned, skipped


def _left_behind(store: Store) -> dict[str, int]:
    """Return how many samples of each class only the statistics know."""
    kept, seen = store.n_stored(), store.n_seen()
    behind = {store.names[c]: seen[c] - kept[c] for c in sorted(_open_classes(store))}
    return {name: n for name, n in behind.items() if n > 0}


def _frames(store: Store) -> Iterator[Frame]:
    """Yield what a store keeps as pictures: samples, oldest first, then held-out ones."""
    known = _open_classes(store)
    for role in (Role.REPLAY, Role.HELD_OUT):
        for origin in store.origins(role):
            if origin.class_uid in known:
                yield Frame(
                    id=origin.frame,
                    encoded=store.picture(origin.uid),
                    label=store.names[origin.class_uid],
                    source=origin.source,
                    time=origin.time,
                )


def _open_classes(store: Store) -> set[int]:
    """Return the classes that can be read and that nobody asked to unlearn."""
    return set(store.names) - set(store.lost_classes()) - set(store.blocked_classes())


def _take_aliases(source: Store, store: Store) -> None:
    for alias, name in source.aliases().items():
        if store.has_class(name) and not store.has_class(alias):
            store.add_alias(alias, name)
