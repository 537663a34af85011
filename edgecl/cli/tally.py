"""What became of the pictures that `edgecl predict` was given."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgecl.cli.observe import Observer
from edgecl.cli.output import say

if TYPE_CHECKING:
    from edgecl.runtime.pipeline import Embedded
    from edgecl.runtime.sources import Source
    from edgecl.types import Skipped


class Tally:
    """Counts what became of pictures, and tells people and machines."""

    def __init__(self, observer: Observer, sources: Sequence[Source], n_classes: int) -> None:
        self.n_usable = self.n_skipped = 0
        self._unsaid: list[Skipped] = []
        self._observer, self._sources, self._n_classes = observer, sources, n_classes
        self._begin = time.monotonic()

    def take(self, group: Sequence[Embedded | Skipped]) -> list[Embedded]:
        """Return what of a group can be predicted."""
        from edgecl.stream.events import FrameSkipped
        from edgecl.stream.progress import Progress
        from edgecl.types import Skipped

        skipped = [item for item in group if isinstance(item, Skipped)]
        usable = [item for item in group if not isinstance(item, Skipped)]
        self.n_skipped += len(skipped)
        self.n_usable += len(usable)
        events = tuple(FrameSkipped(item.id, item.reason) for item in skipped)
        self._unsaid += skipped
        # The only one, which is the end, is told by the error that ends it.
        if self.n_usable or self.n_skipped > 1:
            for item in self._unsaid if self._observer.is_for_people else ():
                say(FrameSkipped(item.id, item.reason).text())
            self._unsaid.clear()
        self._observer.update(
            Progress(
                seen=self.n_usable + self.n_skipped,
                skipped=self.n_skipped,
                unlabelled=self.n_usable,
                n_classes=self._n_classes,
                seconds=time.monotonic() - self._begin,
                events=events,
                **_live_counts(self._sources),
            )
        )
        return usable

    def nothing(self) -> str:
        """Return why nothing was predicted."""
        if self._unsaid:
            (only,) = self._unsaid
            return f"{only.id} cannot be predicted: {only.reason}"
        return f"no picture could be predicted, skipped: {self.n_skipped}" + (
            "; see above" if self.n_skipped else ""
        )


def _live_counts(sources: Sequence[Source]) -> dict[str, Any]:
    """Return what became of the frames of live sources, all together."""
    names = "dropped still repeated broken oversize not_pictures reconnects stalls".split()
    return {name: sum(getattr(source.counts, name) for source in sources) for name in names}
