"""What a long run tells machines: JSON lines (`--log-json`), Prometheus (`--metrics`), systemd.

Log lines name frames, as the text for people does, and a frame's name may say its class; metrics
name nothing (docs/operations.md).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli import output
from edgecl.cli.metrics import Metrics, publishing
from edgecl.runtime.faults import in_words

if TYPE_CHECKING:
    from edgecl.store.store import Store
    from edgecl.stream.progress import Progress

LogOption = Annotated[
    str | None,
    typer.Option(
        "--log-json",
        metavar="FILE",
        help="Write one JSON object a line into a file; - for stderr, instead of text for people.",
    ),
]
MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="PLACE",
        help="Prometheus metrics: a .prom file, :PORT (this machine only) or HOST:PORT.",
    ),
]

_STDERR = "-"
_EVERY_S = 10.0
_MEASURE_EVERY_S = 5.0
# A camera that is gone for a night must not fill the disk: of more lines only the number is told.
_MOST_LINES = 100


class Observer:
    """Tells machines where a run stands; made by `observing`.

    Args:
        log: Writes one line; None without `--log-json`.
        publish: Publishes the metrics; None without `--metrics`.
        is_for_people: Whether stderr is left to people.
    """

    def __init__(
        self,
        log: Callable[..., None] | None,
        publish: Callable[[Metrics], None] | None,
        *,
        is_for_people: bool,
    ) -> None:
        self.is_for_people = is_for_people
        self._log = log
        self._publish = publish
        self._metrics = Metrics()
        self._told_at = self._measured_at = -1e9
        self._n_lines = self._n_hidden = 0
        self._store: Store | None = None
        self._last: Progress | None = None

    @contextmanager
    def watching(self, store: Store) -> Iterator[None]:
        """Measure also an open store, in the thread that opened it."""
        self._store = store
        try:
            self._measure()
            yield
            self._measure()
        finally:
            self._store = None

    def update(self, progress: Progress) -> None:
        """Tell where the run stands; called after every commit."""
        before, self._last = self._last, progress
        for event in progress.events:
            self._line(event.level, event.name, **event.fields())
        for name in ("reconnects", "stalls"):
            n = getattr(progress, name)
            if n > (getattr(before, name) if before else 0):
                self._line("warning", name, n=n)
        now = time.monotonic()
        if now - self._told_at > _EVERY_S:
            self._told_at = now
            self._progress("progress")
        self._metrics.progress = progress
        if now - self._measured_at > _MEASURE_EVERY_S:
            self._measure()
        _notify("WATCHDOG=1")

    def say(self, text: str) -> None:
        """Log what would be told to a person."""
        self._line("info", "message", text=text)

    def end(self, error: BaseException | None = None) -> None:
        """Tell how the run ended, and publish the last metrics."""
        self._n_lines = 0
        self._progress("end")
        if error is not None:
            self._line("error", "error", kind=type(error).__name__, text=str(error))
        self._measure()

    def _progress(self, event: str) -> None:
        fields = {} if self._last is None else asdict(replace(self._last, events=()))
        fields = {
            k: v for k, v in fields.items() if k not in ("events", "status") and v is not None
        }
        if self._last is not None:
            fields["prequential_accuracy"] = self._last.prequential_accuracy
        if self._n_hidden:
            fields["lines_hidden"] = self._n_hidden
        self._n_lines = self._n_hidden = 0
        self._line("info", event, **fields)
        self._n_lines = 0

    def _line(self, level: str, event: str, **fields: Any) -> None:
        if self._log is None:
            return
        self._n_lines += 1
        if self._n_lines > _MOST_LINES:
            self._n_hidden += 1
            return
        self._log(level, event, **fields)

    def _measure(self) -> None:
        self._measured_at = time.monotonic()
        if self._publish is None:
            return
        if self._store is not None and not self._store.is_writing:
            self._metrics.measure(self._store)
        self._publish(self._metrics)


@contextmanager
def observing(log_json: str | None, metrics: str | None, *, command: str) -> Iterator[Observer]:
    """Open what `--log-json` and `--metrics` name; all is closed at the end.

    With `-` all that the command says becomes a line of JSON on stderr meanwhile.

    Args:
        log_json: A file, `-`, or None.
        metrics: A `.prom` file, `:PORT`, `HOST:PORT`, or None.
        command: Name of the command, for the log.

    Raises:
        UsageError: Metrics for a place that is neither.
        RequestError: The file or the port cannot be had.
        MissingPackageError: prometheus-client is not installed.
    """
    import edgecl
    from edgecl.errors import RequestError

    with ExitStack() as stack:
        log = None if log_json is None else stack.enter_context(_json_log(log_json))
        publish = None if metrics is None else stack.enter_context(publishing(metrics))
        is_for_people = log_json != _STDERR
        observer = Observer(log, publish, is_for_people=is_for_people)
        if not is_for_people:
            stack.enter_context(output.said_to(observer.say))
        if log is not None:
            log("info", "start", command=command, edgecl=edgecl.__version__, pid=os.getpid())
        _notify("READY=1")
        try:
            yield observer
        finally:
            # What typer closes is not told of the error, so it is asked for.
            error = sys.exc_info()[1]
            # Metrics that cannot be written must not hide why the run ended.
            with suppress(RequestError) if error is not None else nullcontext():
                observer.end(error if isinstance(error, Exception) else None)
            _notify("STOPPING=1")


@contextmanager
def _json_log(place: str) -> Iterator[Callable[..., None]]:
    from edgecl.errors import RequestError
    from edgecl.runtime.redact import redacted

    try:
        log = None if place == _STDERR else _LogFile(Path(place))
    except OSError as error:
        raise RequestError(f"the log {place} cannot be written {in_words(error)}") from error

    def write(level: str, event: str, **fields: Any) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        values = {"time": now, "level": level, "event": event}
        values |= {k: redacted(v) if isinstance(v, str) else v for k, v in fields.items()}
        text = output.json_line(values)
        if log is None:
            print(text, file=sys.stderr, flush=True)
        else:
            log.write(text)

    try:
        yield write
    finally:
        if log is not None:
            log.close()


class _LogFile:
    """A file that lines are added to; one that was moved away is begun anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_full = False
        self._file = self._opened()

    def write(self, text: str) -> None:
        """Add a line; a disk that is full does not end the run, and is told once."""
        try:
            if not self._is_in_place():
                os.close(self._file)
                self._file = self._opened()
            # In one call: a signal may come in between, and its handler writes too.
            os.write(self._file, text.encode() + b"\n")
        except OSError as error:
            if not self._is_full:
                self._is_full = True
                reason = f"{self._path} cannot be written {in_words(error)}"
                print(f"the log {reason}. Going on without", file=sys.stderr, flush=True)

    def close(self) -> None:
        os.close(self._file)

    def _opened(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return False


def _notify(state: str) -> None:
    """Tell systemd that the run is alive, if it asked for that (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
        try:
            client.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError:
            return  # systemd notices by itself what it did not hear
