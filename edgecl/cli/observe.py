"""What a long run tells machines: JSON lines (`--log-json`), Prometheus (`--metrics`), systemd.

No metric has the name of a class or a source as a label: a database of time series would keep what
was unlearned here. Log lines do name frames, as the text for people does, and a frame's name may
say its class (docs/operations.md).
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecl.cli import output

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from edgecl.evaluation.progress import Progress
    from edgecl.replay.store import Store

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
_LOCALHOST = "127.0.0.1"
_SERVER = re.compile(r"(?:(?P<host>[^:\[\]/]*|\[[0-9a-fA-F:.]+\]):)?(?P<port>\d{1,5})")
_COUNTERS = {
    "seen": ("frames_seen", "Frames taken from the source."),
    "learned": ("samples_learned", "Samples learned."),
    "held_out": ("samples_held_out", "Samples kept to score with, and not learned."),
    "undone": ("samples_undone", "Samples that were taken back."),
    "skipped": ("frames_skipped", "Frames that could not be used."),
    "dropped": ("frames_dropped", "Frames of a live source that a newer one replaced."),
    "duplicates": ("frames_duplicate", "Frames left out as near-duplicates."),
    "stale": ("frames_stale", "Frames left out as too old."),
    "unlabelled": ("frames_unlabelled", "Frames without a label, predicted only."),
    "unknown": ("frames_unknown", "Frames that look like nothing that was learned."),
    "reconnects": ("source_reconnects", "Connections of the source that were made anew."),
    "stalls": ("source_stalls", "Times that nothing came from the source for too long."),
}
# Upper edges of the latency buckets in microseconds' powers of two: 128 us to 16.8 s.
_LATENCY_OCTAVES = range(7, 25)


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
        self._n_commits = 0
        self._n_lines = self._n_hidden = 0
        self._store: Store | None = None
        self._last: Progress | None = None

    @contextmanager
    def watching(self, store: Store) -> Iterator[None]:
        """Measure also an open store, in the thread that opened it."""
        self._store = store
        self._measure()
        try:
            yield
            self._measure()
        finally:
            self._store = None

    def update(self, progress: Progress) -> None:
        """Tell where the run stands; called after every commit."""
        before, self._last = self._last, progress
        self._n_commits += before is None or progress.learned > before.learned
        for text in progress.news:
            self.say(text)
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
        level, event, fields = _event(text)
        self._line(level, event, **fields)

    def end(self, error: BaseException | None = None) -> None:
        """Tell how the run ended, and publish the last metrics."""
        self._n_lines = 0
        self._progress("end")
        if error is not None:
            self._line("error", "error", kind=type(error).__name__, text=str(error))
        self._measure()

    def _progress(self, event: str) -> None:
        fields = {} if self._last is None else asdict(self._last)
        fields = {k: v for k, v in fields.items() if k not in ("news", "status") and v is not None}
        if self._last is not None:
            fields["prequential_accuracy"] = self._last.prequential_accuracy
            fields["commits"] = self._n_commits
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
        if self._store is not None and not self._store.connection.in_transaction:
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
        publish = None if metrics is None else stack.enter_context(_publishing(metrics))
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
            error = sys.exception()
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
        raise RequestError(
            f"the log {place} cannot be written ({error.strerror}); name another file"
        ) from error

    def write(level: str, event: str, **fields: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        values = {"time": now, "level": level, "event": event}
        values |= {k: redacted(v) if isinstance(v, str) else v for k, v in fields.items()}
        text = output.printable(json.dumps(values, ensure_ascii=False))
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
                reason = f"{self._path} cannot be written ({error.strerror})"
                print(f"the log {reason}; going on without", file=sys.stderr, flush=True)

    def close(self) -> None:
        os.close(self._file)

    def _opened(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file))
        except FileNotFoundError:
            return False


def _event(text: str) -> tuple[str, str, dict[str, Any]]:
    """Return level, event and fields of what the run tells a person."""
    if text.startswith("skipped "):
        frame, _, reason = text.removeprefix("skipped ").partition(": ")
        return "warning", "skipped", {"frame": frame, "reason": reason}
    if found := re.match(r"unlearned as another process asked \(receipt (r\d+)\)", text):
        return "info", "unlearned", {"receipt": found[1]}
    return "info", "message", {"text": text}


# Metrics


class Metrics:
    """The last values; Prometheus collects them from any thread."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self._gauges: dict[str, tuple[str, float]] = {}
        self._latencies: dict[str, tuple[list[tuple[str, float]], float]] = {}

    def measure(self, store: Store) -> None:
        """Read what the store says."""
        import numpy as np

        from edgecl.replay.probes import latency_histogram, stages_of

        gauges = {
            "samples_kept": ("Samples kept for replay.", float(store.n_stored_samples)),
            "kept_picture_bytes": ("Bytes of their pictures.", float(store.stored_bytes)),
            "store_bytes": ("Bytes of the store's files.", float(_size(store.path))),
        }
        scores = store.connection.execute(
            "SELECT avg(1.0 * n_right / n) FROM class_scores WHERE n > 0 AND evaluation = "
            "(SELECT max(evaluation) FROM class_scores)"
        ).fetchone()
        if scores[0] is not None:
            gauges["probe_accuracy_ratio"] = (
                "Mean over classes of the share of held out samples that are right.",
                float(scores[0]),
            )
        latencies = {}
        for stage in stages_of(store):
            found = latency_histogram(store, stage)
            edges = [(2.0**k) * 1e-6 for k in _LATENCY_OCTAVES]
            # A bucket reaches a quarter of an octave up; octaves are edges of both.
            below = [(f"{e:.6g}", float(found.n[found.seconds < e * 0.999].sum())) for e in edges]
            total = float(found.n.sum())
            sum_s = float(np.sum(found.seconds * found.n) * 2 ** (1 / 8))
            latencies[stage] = ([*below, ("+Inf", total)], sum_s)
        self._gauges, self._latencies = gauges, latencies

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        progress = self.progress
        if progress is not None:
            for field, (name, text) in _COUNTERS.items():
                yield CounterMetricFamily(f"edgecl_{name}", text, value=getattr(progress, field))
            yield GaugeMetricFamily("edgecl_classes", "Classes.", value=progress.n_classes)
            yield GaugeMetricFamily(
                "edgecl_prequential_accuracy_ratio",
                "Share of the samples of this run that were predicted rightly before.",
                value=progress.prequential_accuracy,
            )
            yield GaugeMetricFamily(
                "edgecl_run_seconds", "Time since the run began.", value=progress.seconds
            )
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(f"edgecl_{name}", text, value=value)
        if self._latencies:
            family = HistogramMetricFamily(
                "edgecl_step_seconds",
                "Time a sample by stage, since the home was made; the sum is from the buckets.",
                labels=["stage"],
            )
            for stage, (buckets, sum_s) in self._latencies.items():
                family.add_metric([stage], buckets, sum_s)
            yield family


@contextmanager
def _publishing(place: str) -> Iterator[Callable[[Metrics], None]]:
    from edgecl.errors import MissingPackageError, UsageError

    server = _SERVER.fullmatch(place)
    if server is None and not place.endswith(".prom"):
        raise UsageError(
            f"--metrics {place} is neither a .prom file nor a port; expected PATH.prom, :PORT or "
            "HOST:PORT"
        )
    try:
        from prometheus_client import CollectorRegistry
    except ImportError as error:
        raise MissingPackageError(
            "prometheus-client is not installed; run `pip install 'edgecl[metrics]'`"
        ) from error
    registry = CollectorRegistry(auto_describe=False)
    shown: list[Metrics] = []

    def register(metrics: Metrics) -> None:
        if not shown:
            shown.append(metrics)
            registry.register(metrics)

    if server is None:
        path = Path(place)

        def write(metrics: Metrics) -> None:
            register(metrics)
            _write_text(path, registry)

        yield write
        return
    with _serving(server["host"] or _LOCALHOST, int(server["port"]), registry):
        yield register


def _write_text(path: Path, registry: CollectorRegistry) -> None:
    from prometheus_client import write_to_textfile

    from edgecl.errors import RequestError

    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise RequestError(
            f"metrics cannot be written to {path} ({error.strerror}); name another file"
        ) from error


@contextmanager
def _serving(host: str, port: int, registry: CollectorRegistry) -> Iterator[None]:
    from prometheus_client import start_http_server

    from edgecl.errors import RequestError

    try:
        server, thread = start_http_server(port, host.strip("[]"), registry)
    except (OSError, OverflowError) as error:
        raise RequestError(
            f"metrics cannot be served on {host}:{port} ({error}); name another port"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _size(path: Path) -> int:
    """Return the bytes of a store's file and its log."""
    sizes = 0
    for name in (path.name, f"{path.name}-wal"):
        try:
            sizes += path.with_name(name).stat().st_size
        except OSError:
            continue
    return sizes


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
