"""Running a stream for a person: shown, stopped by a signal, and told of at its end."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from edgecl.cli.options import headers_of
from edgecl.cli.output import StreamBar, is_quiet, say

if TYPE_CHECKING:
    from edgecl.cli.observe import Observer
    from edgecl.governed import Governed
    from edgecl.home import Home
    from edgecl.runtime.sinks import Sink
    from edgecl.runtime.sources import Source
    from edgecl.session import Session
    from edgecl.store.progress import Position
    from edgecl.store.store import Store
    from edgecl.stream.progress import Progress
    from edgecl.stream.queue import CommandQueue


def followed(
    run: Iterator[Progress],
    observer: Observer,
    store: Store,
    stack: ExitStack,
    *,
    total: int,
    done: int,
) -> Progress:
    """Show a run to its end; returns where it ended. The stack closes what shows it.

    Args:
        run: What `learning` gives.
        observer: Log and metrics.
        store: The open store that is measured.
        stack: Closed by the caller.
        total: Frames in all, or 0 when that is not known.
        done: Frames that an earlier run took.
    """
    stack.enter_context(observer.watching(store))
    observers: list[Callable[[Progress], None]] = [observer.update]
    if observer.is_for_people and not is_quiet():
        observers.append(stack.enter_context(StreamBar(total, done)).show)
    for progress in run:
        for observe in observers:
            observe(progress)
    return progress


@contextmanager
def listening(device: Home) -> Iterator[CommandQueue | None]:
    """Take commands that are handed over while a stream runs; one inside another takes none."""
    from edgecl.cli.handover import run_line
    from edgecl.lending import is_lending
    from edgecl.serve.socket import CommandSocket
    from edgecl.stream.queue import CommandQueue

    if is_lending():
        yield None
        return
    queue = CommandQueue()
    socket = CommandSocket(device.path, queue, run_line)
    try:
        yield queue
    finally:
        queue.close()
        socket.close()


@dataclass(frozen=True, slots=True)
class To:
    """Who hears of what is seen, as the options say.

    Args:
        spec: What `--events` names, or None.
        format: `json` or `frigate`.
        header_file: Headers of a webhook.
    """

    spec: str | None
    format: str = "json"
    header_file: Path | None = None


def opened_sink(session: Session, source: Source, to: To, stack: ExitStack) -> Sink | None:
    """Open who hears of what is seen, and sources that are answered; the stack closes them."""
    import edgecl
    from edgecl.runtime.sinks import open_sinks
    from edgecl.store.published import note_published
    from edgecl.stream.standing import about

    what = about(session.home, edgecl.__version__, can_teach=source.kind != "finite")
    headers = headers_of(to.header_file)
    sink = open_sinks(to.spec, [source], what, headers, to.format)
    if sink is not None:
        stack.callback(sink.close)
        if sink.address is not None:
            note_published(session.store, sink.address)
    return sink


def result_of(progress: Progress, source: Source) -> dict[str, Any]:
    """Return what `train-stream` prints at the end; files that were passed over were seen, too."""
    return {
        "seen": progress.seen + progress.passed_over,
        "learned": progress.learned,
        "skipped": progress.skipped,
        "classes": progress.n_classes,
        "prequential_accuracy": progress.prequential_accuracy,
        "samples_per_second": progress.samples_per_second,
        "seconds": progress.seconds,
        "started_at": progress.start,
        "interrupted": progress.is_interrupted,
        "held_out": progress.held_out,
        "passed_over": dict(source.passed_over),
        "unlabelled": progress.unlabelled,
        "unknown": progress.unknown,
        "duplicates": progress.duplicates,
        "stale": progress.stale,
        "undone": progress.undone,
        "same_as": _same_as(progress),
        "dropped": progress.dropped,
        "reconnects": progress.reconnects,
        "stalls": progress.stalls,
        "repeated": progress.repeated,
        "broken": progress.broken,
        "oversize": progress.oversize,
        "not_pictures": progress.not_pictures,
        "still": progress.still,
        "p50_ms": progress.p50_ms,
        "p99_ms": progress.p99_ms,
    } | ({"sources": progress.by_source} if progress.by_source else {})


def change_of(change: Governed) -> dict[str, Any]:
    """Return what a command prints of the change that it made; nothing where none is recorded."""
    if change.uid is None or change.judgement is None:
        return {}
    return {
        "change": f"c{change.uid}",
        "change_state": change.state,
        "verdict": change.judgement.verdict,
    }


def _same_as(progress: Progress) -> dict[str, dict[str, int]]:
    """Return how many pictures of each class another one has, too."""
    found: dict[str, dict[str, int]] = {}
    for label, other, n in progress.same_as:
        found.setdefault(label, {})[other] = n
    return found


def tell_same(progress: Progress) -> None:
    """Say that pictures were taught under another name than before, and how that is mended."""
    for label, other, n in progress.same_as:
        what = f"{n} of the pictures of {label} look" if n > 1 else f"a picture of {label} looks"
        say(
            f"{what} exactly like {other}; if that was a slip, `edgecl undo` takes this run back, "
            f"or `edgecl merge-classes {quote(label)} {quote(other)}` makes one class of both"
        )


def tell_start(kept: Position | None, *, resume: bool) -> None:
    """Say what an earlier run learned of the source."""
    if kept is None:
        return
    if kept.is_finished:
        say(
            f"this source was learned to its end before, {kept.n} frames; "
            + ("only what is new at its end is learned now" if resume else "learning it again")
        )
    elif not resume:
        say(f"an earlier run stopped at frame {kept.n}; --resume would go on from there")
    else:
        say(f"going on at frame {kept.n}")


@contextmanager
def stop_flag() -> Iterator[list[int]]:
    """Collect the first Ctrl-C or SIGTERM instead of ending; the second one ends.

    Only the main thread hears signals; in another the flag stays empty.
    """
    flag: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def note(number: int, _: object) -> None:
        flag.append(number)
        say("stopping after this step; once more to break off")
        for name, handler in before.items():
            signal.signal(name, _leave if handler is signal.SIG_DFL else handler)

    before = {name: signal.signal(name, note) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _leave(number: int, _: object) -> None:
    """End at once, but restore the terminal."""
    sys.exit(128 + number)
