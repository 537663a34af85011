"""A source of which a part of the picture counts, or only the frames in which something moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from edgecl.errors import UsageError
from edgecl.types import Frame, Skipped

from ..options import Options
from .base import Source
from .connection import Counters, Counts
from .live import LiveBase
from .motion import Motion


class View:
    """What is made of the frames of one source; two of them may look at one camera.

    Args:
        name: What its frames call their source.
        options: What of them counts.
    """

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self._cut = options.region or None
        self._motion = Motion(options) if options.motion else None

    def of(self, frame: Frame | Skipped, counters: Counters | None) -> Frame | Skipped | None:
        """Return a frame as it counts; None of a still one, which is counted."""
        if isinstance(frame, Skipped):
            return frame
        if self._motion is not None and self._motion.is_still(frame):
            assert counters is not None  # only live sources have motion
            counters.add("still")
            return None
        return replace(frame, source=self.name, cut=self._cut)


class ViewedSource(Source):
    """Another source, seen through options; else it is what that one is.

    Args:
        source: The other one.
        options: What of its frames counts. The region is part of the name, so that two parts of one
            camera are told apart, and either can be forgotten.

    Raises:
        UsageError: Motion of a source whose frames do not come by themselves.
    """

    def __init__(self, source: Source, options: Options) -> None:
        if options.motion and not isinstance(source, LiveBase):
            raise UsageError(f"motion= and interval= are for live sources; {source.name} is none")
        self._source, self._options = source, options
        region = str(options.region)
        joint = "&" if "?" in source.name else "?"
        self.name = f"{source.name}{joint}{region}" if region else source.name
        self.kind, self.is_film, self.feed = source.kind, source.is_film, source.feed
        self.answers = source.answers
        self.class_names, self.no_label = source.class_names, source.no_label
        self.passed_over, self.notes = source.passed_over, source.notes

    @property
    def counts(self) -> Counts:  # type: ignore[override]
        """What became of the frames so far."""
        return self._source.counts

    @property
    def lost(self) -> frozenset[str]:  # type: ignore[override]
        """Whether its peer is away; see `Source.lost`."""
        return self._source.lost

    @property
    def on_news(self) -> Callable[[str], None] | None:
        """Told one line when its peer comes or goes."""
        return self._source.on_news

    @on_news.setter
    def on_news(self, tell: Callable[[str], None] | None) -> None:
        self._source.on_news = tell

    def take_every(self, seconds: float) -> None:
        """Give a frame only every so many seconds."""
        self._source.take_every(seconds)

    def __len__(self) -> int:
        return len(self._source)

    def ids(self, stop: int) -> Iterator[str]:
        """Yield the ids of the first `stop` positions."""
        return self._source.ids(stop)

    def frames(self, start: int = 0) -> Iterator[Frame | Skipped]:
        """Yield the frames from position `start` on, as they count."""
        view = View(self.name, self._options)
        source = self._source
        counters = source.counters if isinstance(source, LiveBase) else None
        for frame in source.frames(start):
            seen = view.of(frame, counters)
            if seen is not None:
                yield seen

    def close(self) -> None:
        """End its threads; `frames` ends."""
        self._source.close()
