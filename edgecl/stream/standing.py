"""How it stands with a device, for a sink that shows it: classes, teaching, what waits."""

from __future__ import annotations

import time
from collections.abc import Callable

from edgecl.governor.words import harmful
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.runtime.discovery import About, Facts
from edgecl.runtime.sources.base import Source
from edgecl.store.changes import changes_of
from edgecl.store.novel import n_waiting

_EVERY_S = 1.0


def about(home: Home, version: str, *, can_teach: bool = False) -> About:
    """Return what a device is, for who shows it."""
    model = f"{home.manifest.backbone}, {home.config.head.name}"
    return About(model, version, can_teach)


class Standing:
    """Tells a sink how it stands, about once a second and when a class is new.

    Args:
        home: The home.
        learner: Its learner.
        source: Where frames come from.
        teaching: Gives the class that is taught now, or None.
        follow: Told.
    """

    def __init__(
        self,
        home: Home,
        learner: Learner,
        source: Source,
        teaching: Callable[[], str | None],
        follow: Callable[[Facts], None],
    ) -> None:
        self._learner, self._source, self._teaching = learner, source, teaching
        self._follow = follow
        self._classes: tuple[str, ...] | None = None
        self._due = 0.0
        # It is judged when a run ends.
        self._is_worse = bool(harmful(home, changes_of(learner.store)))

    def tell(self) -> None:
        """Tell, if it is time or a class came or went."""
        now, classes = time.monotonic(), self._learner.labels
        if now < self._due and classes == self._classes:
            return
        self._due, self._classes = now + _EVERY_S, classes
        self._follow(
            Facts(
                classes,
                self._teaching(),
                n_waiting(self._learner.store),
                self._is_worse,
                tuple(self._source.parts) or ("",),
                self._source.lost,
            )
        )
