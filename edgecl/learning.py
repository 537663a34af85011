"""A source that is learned as one change of its home, while others ask for things in between."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from edgecl.config import PictureConfig
from edgecl.errors import UsageError
from edgecl.governed import Governed, governed
from edgecl.home import Home
from edgecl.runtime.sources import Source, open_source
from edgecl.session import Session
from edgecl.sources import open_sources
from edgecl.store.progress import Position
from edgecl.stream.commands import Asked
from edgecl.stream.position import source_key
from edgecl.stream.progress import Progress
from edgecl.stream.queue import CommandQueue, Work
from edgecl.stream.run import StreamOptions, learn_stream


@dataclass(frozen=True, slots=True)
class Given:
    """A source as somebody named it.

    Args:
        spec: Folder, table, camera, stream: as `edgecl train-stream` takes it; None means those
            that the home's settings name.
        label: Class of all frames, instead of what the source says.
        shuffle_seed: Visit them in the random order of this seed; None keeps the order.
        every_s: Of a film or camera, take a frame only every so many seconds.
        headers: Sent with every request of an HTTP source.
    """

    spec: str | None
    label: str | None = None
    shuffle_seed: int | None = None
    every_s: float | None = None
    headers: Mapping[str, str] | None = None

    def open(self, home: Home | None = None) -> Source:
        """Open it; see `open_source` and `open_sources`.

        Args:
            home: The home, which limits the size of pictures; None before there is one.
        """
        if self.spec is None:
            source = self._open_named(home)
        else:
            source = open_source(
                self.spec,
                label=self.label,
                shuffle_seed=self.shuffle_seed,
                max_bytes=PictureConfig().max_bytes if home is None else home.max_bytes,
                headers=self.headers,
            )
        if self.every_s is not None:
            source.take_every(self.every_s)
        return source

    def _open_named(self, home: Home | None) -> Source:
        if home is None:
            raise UsageError("no source is named; name one, as camera:0, parts/ or synthetic:")
        if self.shuffle_seed is not None or self.headers:
            raise UsageError("--shuffle and --header-file are for one source; name it")
        return open_sources(home, label=self.label)

    def key(self, home: Home) -> str:
        """Return the key of its position in a home."""
        return source_key(home, self.spec or "", self.label, self.shuffle_seed, self.every_s)


@contextmanager
def learning(
    session: Session,
    source: Source,
    *,
    key: str,
    start: Position,
    kind: str = "learn",
    limit: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    options: StreamOptions | None = None,
    queue: CommandQueue | None = None,
    after: Callable[[Work, bool], None] = lambda work, has_changed: None,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[Generator[Progress], Governed]]:
    """Learn a source with the session's learner; see `learn_stream` and `governed`.

    Args:
        session: The home, whose lock the caller holds.
        source: Frames.
        key: Key of the source's position.
        start: Where to begin.
        kind: `learn` or `import`.
        limit: Most frames to take.
        should_stop: Asked after every group of frames.
        options: What the run does beside learning.
        queue: What other threads ask for, done between two commits; None takes nothing.
        after: Told behind each of these, and whether it changed what is learned.
        tell: Told if the change was proved worse.

    Yields:
        The run, which the caller goes through, and the change that it is.
    """
    with governed(session, kind, tell=tell) as change:

        def done(work: Work, has_changed: bool) -> None:
            change.again()
            after(work, has_changed)

        def asked() -> Asked | None:
            work = None if queue is None else queue.take()
            return None if work is None else Asked(work, session, done)

        run = learn_stream(
            session.home,
            session.learner,
            session.engine,
            source,
            key=key,
            start=start,
            limit=limit,
            should_stop=should_stop,
            open_adapted=lambda: session.adapted_engine,
            options=replace(options or StreamOptions(), asked=asked),
        )
        with closing(run):
            yield run, change
