"""Prometheus metrics of a run: a file for node_exporter, or a port.

No metric has the name of a class or a source as a label: a database of time series would keep what
was unlearned here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgecl.cli.output import say
from edgecl.runtime.faults import in_words

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from edgecl.store.store import Store
    from edgecl.stream.progress import Progress

_LOCALHOST = "127.0.0.1"
_SERVER = re.compile(r"(?:(?P<host>[^:\[\]/]*|\[[0-9a-fA-F:.]+\]):)?(?P<port>\d{1,5})")
_COUNTERS = {
    "seen": ("frames_seen", "Frames taken from the source."),
    "learned": ("samples_learned", "Samples learned."),
    "held_out": ("samples_held_out", "Samples kept to score with, and not learned."),
    "undone": ("samples_undone", "Samples that were taken back."),
    "skipped": ("frames_skipped", "Frames that could not be used."),
    "passed_over": ("files_passed_over", "Files that are no pictures that can be read."),
    "dropped": ("frames_dropped", "Frames of a live source that a newer one replaced."),
    "still": ("frames_still", "Frames of a live source in which nothing had moved."),
    "duplicates": ("frames_duplicate", "Frames left out as near-duplicates."),
    "stale": ("frames_stale", "Frames left out as too old."),
    "unlabelled": ("frames_unlabelled", "Frames without a label, predicted only."),
    "unknown": ("frames_unknown", "Frames that look like nothing that was learned."),
    "reconnects": ("source_reconnects", "Connections of the source that were made anew."),
    "repeated": ("frames_repeated", "Frames that a live source sent once more."),
    "broken": ("frames_broken", "Frames that came cut or damaged."),
    "oversize": ("frames_oversize", "Frames that came larger than the limit."),
    "not_pictures": ("parts_not_pictures", "Parts of a stream that were no pictures."),
    "stalls": ("source_stalls", "Times that nothing came from the source for too long."),
}
_GAUGES = {
    "n_classes": ("classes", "Classes."),
    "prequential_accuracy": (
        "prequential_accuracy_ratio",
        "Share of the samples of this run that were predicted rightly before.",
    ),
    "drift": (
        "drift_ratio",
        "How far live frames have moved from what was learned, over the threshold.",
    ),
    "seconds": ("run_seconds", "Time since the run began."),
}
# Upper edges of the latency buckets in microseconds' powers of two: 128 us to 16.8 s.
_LATENCY_OCTAVES = range(7, 25)


class Metrics:
    """The last values; Prometheus collects them from any thread."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self._gauges: dict[str, tuple[str, float]] = {}
        self._latencies: dict[str, tuple[list[tuple[str, float]], float]] = {}
        self._changes: Counter[str] = Counter()

    def measure(self, store: Store) -> None:
        """Read what the store says."""
        import numpy as np

        from edgecl.store.changes import changes_of
        from edgecl.store.live_answers import live_answers
        from edgecl.store.probes import last_accuracy, latency_histogram, stages_of

        gauges = {
            "samples_kept": ("Samples kept for replay.", float(store.n_stored_samples)),
            "kept_picture_bytes": ("Bytes of their pictures.", float(store.stored_bytes)),
            "store_bytes": ("Bytes of the store's files.", float(_size(store.path))),
        }
        accuracy = last_accuracy(store)
        if accuracy is not None:
            gauges["probe_accuracy_ratio"] = (
                "Share of the held out samples, else of kept ones left out, that are right.",
                accuracy,
            )
        live = live_answers(store).values()
        if n := sum(found.n for found in live):
            text = "Share of the newest named live frames that were answered rightly."
            gauges["live_accuracy_ratio"] = (text, sum(found.right for found in live) / n)
            text = "Share of them that were answered by an old name."
            gauges["live_outdated_ratio"] = (text, sum(found.outdated for found in live) / n)
        latencies = {}
        edges = [(2.0**k) * 1e-6 for k in _LATENCY_OCTAVES]
        for stage in stages_of(store):
            found = latency_histogram(store, stage)
            # A bucket reaches a quarter of an octave up; octaves are edges of both.
            below = [(f"{e:.6g}", float(found.n[found.seconds < e * 0.999].sum())) for e in edges]
            total = float(found.n.sum())
            sum_s = float(np.sum(found.seconds * found.n) * 2 ** (1 / 8))
            latencies[stage] = ([*below, ("+Inf", total)], sum_s)
        self._gauges, self._latencies = gauges, latencies
        self._changes = Counter(change.state for change in changes_of(store))

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
            if progress.by_source:
                of_each = CounterMetricFamily(
                    "edgecl_source_frames", "Frames of each source.", labels=["source", "what"]
                )
                for source, counts in progress.by_source.items():
                    for what, n in counts.items():
                        of_each.add_metric([source, what], n)
                yield of_each
            for field, (name, text) in _GAUGES.items():
                # Of nothing no share is right or wrong: 0 would be an alarm at night.
                if progress.learned or field != "prequential_accuracy":
                    yield GaugeMetricFamily(f"edgecl_{name}", text, value=getattr(progress, field))
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(f"edgecl_{name}", text, value=value)
        # No counter: old ones go, and one that is taken back has another state.
        changes = GaugeMetricFamily(
            "edgecl_changes_total", "Changes that are on record.", labels=["state"]
        )
        for state, n in self._changes.items():
            changes.add_metric([state], n)
        yield changes
        if self._latencies:
            family = HistogramMetricFamily(
                "edgecl_step_seconds",
                "Time a sample by stage, since the home was made; the sum is from the buckets.",
                labels=["stage"],
            )
            for stage, (buckets, sum_s) in self._latencies.items():
                family.add_metric([stage], buckets, sum_s)
            yield family


def _server_of(place: str) -> re.Match[str] | None:
    """Return host and port of a place, or None for a file."""
    from edgecl.errors import UsageError
    from edgecl.runtime.redact import redacted

    server = _SERVER.fullmatch(place)
    if server is None and not place.endswith(".prom"):
        hidden = redacted(f"http://{place}").removeprefix("http://")
        raise UsageError(
            f"--metrics {hidden} is neither a .prom file nor a port; expected PATH.prom, :PORT or "
            "HOST:PORT"
        )
    return server


@contextmanager
def publishing(place: str) -> Iterator[Callable[[Metrics], None]]:
    """Open a place for metrics; yields what publishes them, and closes the place at the end.

    Raises:
        UsageError: Neither a `.prom` file nor a port.
        RequestError: The file or the port cannot be had.
        MissingPackageError: prometheus-client is not installed.
    """
    from edgecl.errors import MissingPackageError, RequestError

    server = _server_of(place)
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
        is_written = is_told = False

        def write(metrics: Metrics) -> None:
            """Write the file; one that cannot be written any more does not end the run."""
            nonlocal is_written, is_told
            register(metrics)
            try:
                _write_text(path, registry)
                is_written = True
            except RequestError as error:
                if not is_written:
                    raise
                if not is_told:
                    is_told = True
                    say(f"{error}. Going on without")

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
        raise RequestError(f"metrics cannot be written to {path} {in_words(error)}") from error


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
