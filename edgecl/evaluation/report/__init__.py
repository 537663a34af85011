"""The report of a home: one HTML file that needs nothing else, and its charts as PNG files.

`gather` reads the store into `contents`, `measures` are what follows from them, `findings` say what
is wrong, `charts` draws (`svg` for the page), `page` writes the HTML with its `style`.
"""

from __future__ import annotations

import shutil
import tempfile
import time as clock
from dataclasses import dataclass
from pathlib import Path

from edgecl.errors import RequestError, UsageError
from edgecl.evaluation.report.charts import draw
from edgecl.evaluation.report.gather import gather
from edgecl.evaluation.report.page import render
from edgecl.home import Home
from edgecl.runtime.faults import in_words
from edgecl.session import open_store

CHARTS = ("accuracy", "days", "classes", "confusion", "latency", "store")
"""Names of the charts; a PNG file's name ends with one of them. `days` needs more than a day."""
_FORMER = ("stability",)


@dataclass(frozen=True, slots=True)
class Report:
    """What was written.

    Args:
        path: The HTML file.
        pictures: PNG files beside it.
    """

    path: Path
    pictures: tuple[Path, ...]


def report_page(home: Home) -> str:
    """Return the report of a home as HTML; nothing of it is written to the disk.

    Raises:
        NothingLearnedError: The home knows no class.
        MissingPackageError: matplotlib is not installed.
    """
    with open_store(home, read_only=True) as store, store.snapshot():
        contents = gather(home, store, time=clock.time())
    with tempfile.TemporaryDirectory() as folder:  # for matplotlib's list of fonts
        return render(contents, draw(contents, Path(folder)))


def write_report(home: Home, output: Path, *, time: float | None = None) -> Report:
    """Write the report of a home; an older one of the same name is replaced.

    Files appear whole, the page last. Nothing else is written but a folder beside them, which is
    gone afterwards. PNG files of an older report of this name that have no successor are deleted,
    since they may show what was unlearned.

    Args:
        home: The home; nothing in it is changed.
        output: The HTML file.
        time: When it is, seconds since the epoch; None takes the clock. The files depend on it and
            on the store alone.

    Raises:
        UsageError: The name does not end in .html, or is that of a folder.
        NothingLearnedError: The home knows no class.
        MissingPackageError: matplotlib is not installed.
        RequestError: The files cannot be written.
    """
    if output.suffix.lower() not in (".html", ".htm") or output.is_dir():
        raise UsageError(f"{output} is no name for a report; give a file that ends in .html")
    with open_store(home, read_only=True) as store, store.snapshot():
        contents = gather(home, store, time=clock.time() if time is None else time)
    part = output.with_name(f".{output.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a report that was cut off
        part.mkdir()
        try:
            charts = draw(contents, part)
            names = {name: f"{output.stem}-{name}.png" for name in CHARTS}
            for name, chart in charts.items():
                (part / names[name]).write_bytes(chart.png)
            # A path that is not UTF-8 is written with escapes.
            page = render(contents, charts).encode("utf-8", "backslashreplace")
            (part / output.name).write_bytes(page)
            for name in (*CHARTS, *_FORMER):
                if name in charts:
                    (part / names[name]).replace(output.with_name(names[name]))
                else:
                    output.with_name(f"{output.stem}-{name}.png").unlink(missing_ok=True)
            (part / output.name).replace(output)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise RequestError(f"the report {output} cannot be written {in_words(error)}") from error
    return Report(output, tuple(output.with_name(names[name]) for name in charts))
