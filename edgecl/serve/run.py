"""The stream of `edgecl serve`: it learns, shows what it sees, and does what others ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from edgecl.learner import position_key
from edgecl.learning import learning
from edgecl.runtime.redact import redacted
from edgecl.runtime.sources import Source
from edgecl.serve.serving import Serving
from edgecl.session import Session
from edgecl.store.progress import Position
from edgecl.stream.events import Unlearned
from edgecl.stream.progress import Progress
from edgecl.stream.queue import Work
from edgecl.stream.run import StreamOptions

_NOT_TOLD = ("events", "status", "same_as", "start", "is_interrupted")


@contextmanager
def served(
    session: Session,
    serving: Serving,
    source: Source,
    options: StreamOptions,
    *,
    should_stop: Callable[[], bool],
    tell: Callable[[str], None],
) -> Iterator[Iterator[Progress]]:
    """Run the stream of a home that is served, in this thread.

    Args:
        session: The home, whose lock the caller holds.
        serving: What the page and the socket have of it.
        source: Live frames.
        options: Who labels them, and who hears of them.
        should_stop: Asked after every group of frames.
        tell: Told what a person should know.

    Yields:
        The run, which the caller goes through.
    """
    key = position_key(session.home, "position", "serve", source.name)
    begin = Position(0, b"", False)

    def after(work: Work, has_changed: bool) -> None:
        if work.answer.cancelled():  # who asked has gone: nothing was done
            return
        error = work.answer.exception()
        serving.live.tell(
            "command",
            {
                "name": work.name,
                "changed": has_changed,
                "error": None if error is None else redacted(str(error)),
            },
        )

    with learning(
        session,
        source,
        key=key,
        start=begin,
        should_stop=should_stop,
        options=options,
        queue=serving.queue,
        after=after,
        tell=tell,
    ) as (run, _):
        yield _told(session, serving, run)


def _told(session: Session, serving: Serving, run: Iterator[Progress]) -> Iterator[Progress]:
    """Yield where a run stands, and tell the page."""
    live, version = serving.live, -1
    for progress in run:
        for event in progress.events:
            if isinstance(event, Unlearned):  # what was told before may name what is gone
                live.drop()
                live.tell("forgotten", {})
            live.tell("event", {"level": event.level, "name": event.name, "text": event.text()})
        if session.store.version != version:
            version = session.store.version
            live.tell("classes", {"version": version})
        live.tell("progress", _as_json(progress))
        yield progress
    live.tell("stopped", {})


def _as_json(progress: Progress) -> dict[str, Any]:
    values = {k: v for k, v in asdict(progress).items() if k not in _NOT_TOLD}
    return values | {"samples_per_second": round(progress.samples_per_second, 2)}
