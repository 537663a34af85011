"""Which frames of a stream can be used, and what a person should know of those that can."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from edgecl.heads.keys import picture_hash
from edgecl.home import Home
from edgecl.runtime.pipeline import Embedded
from edgecl.runtime.sources.base import Source
from edgecl.store.store import Store
from edgecl.store.text import plain_text
from edgecl.stream.events import Event, LooksAlike, MadeKeys, Relearned
from edgecl.types import Frame, Skipped, alike
from edgecl.unlearning.receipt import find_tombstone


class Usable:
    """Says why a frame cannot be used, also since its class or source was just unlearned.

    Args:
        home: The home.
        store: Its open store.
        source: Where the frames come from.
        takes_alike: Whether a new class may look like a known one. What a file names was checked
            before it was read.
        meant: Names that a person gives to new classes: these may look like known ones, and a
            class that was unlearned may be learned again. Those that are unlearned leave it.
    """

    def __init__(
        self, home: Home, store: Store, source: Source, *, takes_alike: bool, meant: set[str]
    ) -> None:
        self._home, self._store, self._source = home, store, source
        self._takes_alike = takes_alike or source.kind == "finite"
        self._meant = meant
        self._new: set[str] = set()
        # Of pictures that made the keys, which outlive an unlearning; and classes told about.
        self._key_pictures = frozenset(home.manifest.keys)
        self._told_of_keys: set[str] = set()
        self._labels: set[str] = set()
        self._sources: set[str] = set()

    def bar(self, labels: Iterable[str], source: str) -> None:
        """Use no more frames of a class by any of its names, or of a source; `""` is none."""
        self._labels.update(labels)
        self._meant.difference_update(labels)
        self._sources.update({source} - {""})

    def reason(self, item: Embedded | Skipped) -> str:
        """Return why a frame cannot be used, or nothing."""
        if isinstance(item, Skipped):
            return item.reason
        if item.frame.label is None and self._source.kind == "finite":
            return self._source.no_label
        if not np.isfinite(item.feature).all():
            return "its feature is not finite"
        if item.frame.label in self._labels and item.frame.label not in self._meant:
            return "its class was unlearned while this source was learned"
        if self._sources and plain_text(item.frame.source) in self._sources:
            return "its source was unlearned while it was learned"
        return self._alike(item.frame.label)

    def _alike(self, label: str | None) -> str:
        """Return why a new class is not learned: its name is easily confused with a known one."""
        if label is None or self._takes_alike or label in self._meant:
            return ""
        if self._store.has_class(label):
            return ""
        if near := alike(label, (*self._store.aliases(), *self._new)):
            return (
                f"class {label!r} is new and looks like {near!r}, which is known; did you mean "
                f"{near}? --new takes it as another class"
            )
        self._new.add(label)
        return ""

    def of_frame(self, frame: Frame) -> Iterator[Event]:
        """Yield what is to be told of a frame that will be learned: that it made keys."""
        label = frame.label or ""
        if not self._key_pictures or label in self._told_of_keys:
            return
        if picture_hash(frame) in self._key_pictures:
            self._told_of_keys.add(label)
            yield MadeKeys(frame.id, label)

    def of_class(self, label: str) -> Iterator[Event]:
        """Yield what is to be told of a class that is about to be learned."""
        if self._store.has_class(label):
            return
        if near := alike(label, self._store.aliases()):
            yield LooksAlike(label, near)
        if found := find_tombstone(self._home, self._store, "class", label):
            yield Relearned(label, found[1])
