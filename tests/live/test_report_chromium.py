"""The report as a browser draws it: wide, narrow, dark and printed.

Needs the Debian package chromium, and poppler-utils for what is printed.

What is measured comes from a copy of the page in which a script is allowed that writes down where
things are; what is drawn is the page itself.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import needs
import numpy as np
import pytest
from PIL import Image
from reported import SAMPLES, START, add_novel, reported_home

from edgecl.evaluation.report import Report, write_report
from edgecl.evaluation.report.svg import COLOURS
from edgecl.session import open_learner, open_store
from edgecl.types import ForgetRequest
from edgecl.unlearning.request import forget

pytestmark = pytest.mark.live

NAMES = {"<b>W</b>" + "W" * 180: 30, "مفتاح ربط طويل": 30} | {f"part {i:02}": 20 for i in range(24)}
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # nothing gets out
)  # fmt: skip
# Into a frame, since a window of this browser is at least 500 pixels wide.
MEASURE = """
<script>
addEventListener("load", () => {
const said = [];
for (const svg of document.querySelectorAll("svg")) {
  const box = svg.getBoundingClientRect();
  if (!box.width) continue;
  const texts = [];
  for (const text of svg.querySelectorAll("text")) {
    const b = text.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    texts.push([text.textContent, b.left, b.top, b.right, b.bottom,
                parseFloat(getComputedStyle(text).fontSize) * scale]);
  }
  said.push({box: [box.left, box.top, box.right, box.bottom], texts: texts});
}
const page = document.documentElement;
const images = [...document.images].map(i => i.complete && i.naturalWidth > 0);
parent.document.body.textContent = JSON.stringify(
  {width: page.scrollWidth, height: page.scrollHeight, svgs: said, images: images});
});
</script>
"""


def chromium(page: Path, folder: Path, *options: str) -> str:
    """Open a page; returns what is printed."""
    profile = folder / "profile"
    try:
        done = subprocess.run(
            [needs.chromium(), *FLAGS, f"--user-data-dir={profile}", *options, page.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        shutil.rmtree(profile, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def measured(page: Path, folder: Path, width: int) -> dict[str, Any]:
    """Return where a page of this width puts things, CSS pixels."""
    html, n = re.subn(r"<meta http-equiv[^>]*>", "", page.read_text(encoding="utf-8"))
    assert n == 1
    copy = folder / "measured.html"
    html = escape(html.replace("</body>", MEASURE + "</body>"))
    frame = f'<iframe style="border: 0; width: {width}px; height: 900px" srcdoc="{html}"></iframe>'
    copy.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{frame}</body>", encoding="utf-8")
    dom = chromium(copy, folder, "--window-size=1300,1000", "--dump-dom")
    said = re.search(r"<body>(\{.*\})\s*</body>", dom, re.DOTALL)
    assert said, dom[-2000:]
    values: dict[str, Any] = json.loads(unescape(said[1]))
    return values


def drawn(page: Path, folder: Path, width: int, height: int, *options: str) -> np.ndarray:
    """Return a page as pixels (H, W, 3)."""
    picture = folder / "drawn.png"
    size = f"--window-size={width},{height}"
    chromium(page, folder, size, f"--screenshot={picture}", *options)
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB"))


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def has(pixels: np.ndarray, colour: str) -> bool:
    """Whether some pixels have a colour, but for the smoothing of edges."""
    near = np.abs(pixels.astype(int) - rgb(colour)).max(axis=2) <= 6
    return int(near.sum()) >= 20


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of a few classes, one of which was unlearned."""
    home = reported_home(tmp_path_factory.mktemp("few") / "home", SAMPLES | {"gone": 20})
    with open_store(home) as store:
        add_novel(store, 3)
        forget(home, open_learner(home, store), ForgetRequest("gone"))
    return write_report(home, tmp_path_factory.mktemp("few-out") / "r.html", time=START + 86400)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of many classes, two with names that take much room."""
    home = reported_home(tmp_path_factory.mktemp("many") / "home", NAMES)
    return write_report(home, tmp_path_factory.mktemp("many-out") / "m.html", time=START + 86400)


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("which", ["report", "many"])
def test_nothing_is_wider_than_the_page_cut_off_or_too_small_to_read(
    which: str, width: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    page: Report = request.getfixturevalue(which)
    found = measured(page.path, tmp_path, width)
    assert found["width"] == width
    assert found["images"]
    assert all(found["images"])
    assert len(found["svgs"]) == len(page.pictures) - 1  # wide or narrow, never both
    for svg in found["svgs"]:
        left, top, right, bottom = svg["box"]
        assert left >= 0
        assert right <= width
        for text, x0, y0, x1, y1, size in svg["texts"]:
            inside = x0 >= left - 1 and x1 <= right + 1 and y0 >= top - 1 and y1 <= bottom + 1
            assert inside, f"{text!r} is cut off"
            assert size >= 6.5, f"{text!r} has {size:.1f} px"


@pytest.mark.parametrize(("width", "is_dark"), [(1200, False), (1200, True), (400, False)])
def test_every_chart_is_drawn_in_the_colours_of_the_page(
    report: Report, tmp_path: Path, width: int, is_dark: bool
) -> None:
    found = measured(report.path, tmp_path, width)
    options = ("--blink-settings=preferredColorScheme=0",) if is_dark else ()
    pixels = drawn(report.path, tmp_path, width, found["height"], *options)
    assert pixels.shape[1] == width
    paper = rgb("#14171a" if is_dark else "#ffffff")
    assert (pixels[2, 2] == paper).all()
    for svg in found["svgs"]:
        left, top, right, bottom = (round(side) for side in svg["box"])
        chart = pixels[top:bottom, left:right]
        is_paper = (chart == paper).all(axis=2)
        assert 0.3 < is_paper.mean() < 0.995
        used = [role for role, colours in COLOURS.items() if has(chart, colours[is_dark])]
        assert "muted" in used or "ink" in used
        # The matrix is drawn in tints; what else has no colour of a class has the mean's.
        assert len(used) >= 2 or len(np.unique(chart.reshape(-1, 3), axis=0)) > 30
    footer = pixels[-120:].reshape(-1, 3)
    assert len(np.unique(footer, axis=0)) > 3


def test_printed_it_fills_pages_of_a4_and_cuts_no_chart(report: Report, tmp_path: Path) -> None:
    chromium(report.path, tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path}/r.pdf")
    data = (tmp_path / "r.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    needs.require(shutil.which("pdftotext"), "apt install poppler-utils")
    words = subprocess.run(
        ["pdftotext", "-bbox", tmp_path / "r.pdf", "-"], capture_output=True, text=True, check=True
    ).stdout
    sizes = re.findall(r'<page width="([\d.]+)" height="([\d.]+)"', words)
    assert 2 <= len(sizes) <= 8
    for wide, high in sizes:
        assert (float(wide), float(high)) == pytest.approx((595, 842), abs=2)
    pages = words.split("<page ")[1:]
    # Of each chart the first and the last word stand on one page.
    for first, last in (("100", "pictures"), ("engine:", "ms"), ("pictures,", "learned")):
        assert any(f">{first}</word>" in page and f">{last}</word>" in page for page in pages)


def asked(page: Path, folder: Path) -> set[str]:
    """Return what a browser asks for when it opens a page, but for the page and data in it.

    On its own account it asks its makers for updates, flags or not; none of that gets out.
    """
    log = folder / "net.json"
    chromium(page, folder, f"--log-net-log={log}", f"--screenshot={folder}/p.png")
    urls = set(re.findall(r'"url":"([^"]*)"', log.read_text(encoding="utf-8")))
    own = r"(data|file|chrome[\w-]*):|https?://[\w.-]+\.(google|googleapis|gvt1)\.com/"
    return {url for url in urls if not re.match(own, url)}


def test_nothing_is_asked_from_anywhere(report: Report, tmp_path: Path) -> None:
    assert asked(report.path, tmp_path) == set()
    # What would be seen, and that the page's policy keeps it from being asked for.
    html = report.path.read_text(encoding="utf-8")
    html = html.replace("</h1>", '</h1><img src="http://127.0.0.1:9/x.png">')
    for policy, expected in (("http-equiv", set()), ("name", {"http://127.0.0.1:9/x.png"})):
        page = tmp_path / f"{policy}.html"
        page.write_text(html.replace("http-equiv", policy), encoding="utf-8")
        assert asked(page, tmp_path) == expected
