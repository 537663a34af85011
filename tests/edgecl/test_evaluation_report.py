"""The report: what it says, that it needs nothing else, and that no name can break it."""

from __future__ import annotations

import base64
import io
import itertools
import os
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from reported import SAMPLES, START, add_novel, reported_home

import build
from edgecl.errors import MissingPackageError, NothingLearnedError, RequestError, UsageError
from edgecl.evaluation.report import CHARTS, Report, write_report
from edgecl.evaluation.report.charts import CLASS_COLOURS, draw, quantile, time_text
from edgecl.evaluation.report.contents import (
    ClassRow,
    Confused,
    Contents,
    ExportRow,
    History,
    ReceiptRow,
)
from edgecl.evaluation.report.findings import short, warnings_of
from edgecl.evaluation.report.gather import gather
from edgecl.evaluation.report.measures import drops_of, gaps_of
from edgecl.evaluation.report.page import render
from edgecl.evaluation.report.svg import COLOURS
from edgecl.evaluation.report.verdict import Verdict, verdict_of
from edgecl.figures import percent
from edgecl.home import Home
from edgecl.session import open_learner, open_store
from edgecl.store.requests import record
from edgecl.types import ForgetRequest, clean_label
from edgecl.unlearning.plan import resolve
from edgecl.unlearning.request import forget

pytest.importorskip("matplotlib", reason="the extra `report`")

NOW = START + 86400 * 3
ODD = (
    "<script>alert(1)</script>",
    "--></style><b>",
    "$\\frac{a}{b}$",
    "مفتاح ربط",
    "_x & \"y\" 'z'",
    "W" * 200,
    '#1b1f24 url(#a) id="z"',
    "`rm` {0} %s",
)


class Page(HTMLParser):
    """A page as a browser sees it: its elements, their attributes, its text."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, name: str) -> list[str]:
        return [attrs[name] for _, attrs in self.elements if name in attrs]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with four classes, one of which was unlearned; never write to it."""
    made = reported_home(tmp_path_factory.mktemp("reported") / "home", SAMPLES | {"secret-nut": 20})
    with open_store(made) as store:
        add_novel(store, 3)
        forget(made, open_learner(made, store), ForgetRequest("secret-nut"), verify=True)
    return made


@pytest.fixture(scope="module")
def written(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_report(home, tmp_path_factory.mktemp("out") / "r.html", time=NOW)


@pytest.fixture(scope="module")
def page(written: Report) -> Page:
    return Page(written.path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def contents(home: Home) -> Contents:
    with open_store(home, read_only=True) as store, store.snapshot():
        return gather(home, store, time=NOW)


def test_the_page_says_what_was_learned_kept_held_out_and_unlearned(page: Page) -> None:
    for name, n in SAMPLES.items():
        held = n // 10
        score = rf"{name} (\d+ %|\d of {held}|not tested)"
        assert re.search(rf"{score}.* {n - held} {n - held} {held} ", page.text)
    for part in ("2023-11-17 22:13 UTC", "head ridge", "camera:0", "r1", "class 5", "verified"):
        assert part in page.text
    assert "3 frames look like no known class" in page.text
    assert "Nothing was exported" in page.text
    assert "delete them and every copy by hand" in page.text
    assert "Classes are unequal" in page.text
    assert re.search(r"engine: half below .* ms, 99 % below .* ms", page.text)


def test_what_was_unlearned_is_named_nowhere(written: Report) -> None:
    for path in (written.path, *written.pictures):
        assert b"secret-nut" not in path.read_bytes()


def test_the_page_needs_nothing_from_outside_and_can_run_nothing(
    written: Report, page: Page
) -> None:
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "base", "a"}
    for url in page.values("src"):
        assert url.startswith("data:image/jpeg;base64,")
    for name in ("href", "xlink:href"):
        assert all(url.startswith("#") for url in page.values(name))
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
    html = written.path.read_text(encoding="utf-8")
    assert not re.findall(r"https?:|@import", html)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "default-src 'none'" in html


def test_every_reference_within_a_chart_is_met_once(page: Page) -> None:
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {url[1:] for url in page.values("href")} <= set(ids)


def test_text_of_charts_is_text_in_colours_of_the_page(written: Report, page: Page) -> None:
    html = written.path.read_text(encoding="utf-8")
    svgs = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(svgs) == 2 * (len(CHARTS) - 1)  # wide and narrow; the classes are a table
    assert "pictures learned" in page.words
    for svg in svgs:
        assert "<text" in svg
        assert not re.findall("font-family|DejaVu", svg)
        used = set(re.findall(r"#[0-9a-f]{6}\b", svg)) - set(re.findall(r'href="(#\w{7})', svg))
        assert not used & {light for light, _ in COLOURS.values()}
        assert "var(--" in svg


def test_pictures_lie_beside_the_page_and_thumbnails_are_small(written: Report, page: Page) -> None:
    assert [path.name for path in written.pictures] == [f"r-{name}.png" for name in CHARTS]
    assert sorted(written.path.parent.iterdir()) == sorted([written.path, *written.pictures])
    for path in written.pictures:
        with Image.open(path) as image:
            assert image.width == 1800
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 20
    for url in page.values("src"):
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
            assert image.size == (64, 64)
    assert written.path.stat().st_size < 400_000


def test_the_same_store_and_time_give_the_same_bytes(
    home: Home, written: Report, tmp_path: Path
) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    again = write_report(home, tmp_path / "r.html", time=NOW)
    assert dict(matplotlib.rcParams) == before
    for a, b in zip((written.path, *written.pictures), (again.path, *again.pictures), strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_odd_names_are_text_and_charts_hold(tmp_path: Path) -> None:
    home = reported_home(tmp_path / "home", dict.fromkeys(ODD, 20))
    done = write_report(home, tmp_path / "r.html", time=NOW)
    found = Page(done.path.read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in found.elements}
    for name in ODD:
        assert name in found.words
    for name in ODD:  # as a label in the charts too, shortened in one of them
        assert any(short(name, length) in found.words for length in range(6, 25))


def test_without_test_pictures_the_page_says_so_and_older_ones_go(tmp_path: Path) -> None:
    home = reported_home(tmp_path / os.fsdecode(b"h\xff"), {"a": 9, "b": 9})
    for name in ("accuracy", "stability"):
        (tmp_path / f"r-{name}.png").write_bytes(b"of an older report")
    done = write_report(home, tmp_path / "r.html", time=NOW)
    found = Page(done.path.read_text(encoding="utf-8"))
    assert "No picture was held out to test on yet" in found.text
    assert "Not known yet." in found.text
    assert "not tested" in found.text
    assert "h\\udcff" in found.text  # a folder's name that is not UTF-8
    names = [path.name for path in done.pictures]
    assert names == ["r-classes.png", "r-latency.png", "r-store.png"]
    assert not list(tmp_path.glob("r-[as]*y.png"))


def page_of(home: Home) -> Page:
    """Return the page of a home, without charts."""
    with open_store(home, read_only=True) as store, store.snapshot():
        return Page(render(gather(home, store, time=NOW), {}))


def test_a_sealed_home_is_read_and_the_page_says_that_it_is_not_encrypted(tmp_path: Path) -> None:
    home = reported_home(tmp_path / "home", {"a": 20, "b": 20}, sealed=True)
    with open_store(home) as store:
        add_novel(store, 1)
    found = page_of(home)
    assert "The home is encrypted; this file is not" in found.text
    assert len(found.values("src")) >= 3


def test_a_class_that_is_being_unlearned_is_not_in_the_report(tmp_path: Path) -> None:
    home = reported_home(tmp_path / "home", {"kept": 20, "asked-for": 20})
    with open_store(home) as store:
        target = resolve(store, ForgetRequest("asked-for"))
        record(store, target, ForgetRequest("asked-for"), verify=False)
    found = page_of(home)
    assert "asked-for" not in found.text
    assert "1 request to unlearn is not finished" in found.text
    with open_store(home) as store:
        record(store, resolve(store, ForgetRequest("kept")), ForgetRequest("kept"), verify=False)
    with pytest.raises(NothingLearnedError, match="every class"):
        page_of(home)


def test_why_there_is_no_confusion_matrix_is_said() -> None:
    found = Page(render(quiet(confusion=None, no_confusion="of two maps"), {}))
    assert "No confusion matrix: of two maps." in found.text


def test_receipts_and_exports_are_listed() -> None:
    receipts = (ReceiptRow("r4", "source 2", "exact_head", NOW, "approximate failed", None),)
    exports = (
        ExportRow(1, "onnx", "/a/<b>", NOW, 2, True),
        ExportRow(2, "tensorrt", "/c", NOW, 3, False),
    )
    found = Page(render(quiet(receipts=receipts, exports=exports), {}))
    assert "r4 source 2 exact head 2023-11-17 22:13 UTC approximate failed" in found.text
    assert "1 onnx /a/<b> 2 2023-11-17 22:13 UTC stale" in found.text
    assert "2 tensorrt /c 3 2023-11-17 22:13 UTC in use" in found.text
    assert "The check after an unlearning failed: r4." in found.text


def test_colours_stand_out_from_the_page() -> None:
    for role, colours in COLOURS.items():
        for colour, paper in zip(colours, ("#ffffff", "#14171a"), strict=True):
            least = {"ink": 7, "muted": 4.5, "grid": 1.2}.get(role, 3)  # WCAG 2.2, 1.4.3 and 1.4.11
            assert contrast(colour, paper) >= least, f"{role} {colour}"


def contrast(a: str, b: str) -> float:
    """Return the contrast of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted(float(linear(colour) @ TO_XYZ[1]) for colour in (a, b))
    return (high + 0.05) / (low + 0.05)


def linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    """Return CIE L*a*b* (D65) of linear RGB."""
    x = TO_XYZ @ np.clip(light, 0, 1) / (0.9505, 1, 1.089)
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
# Machado et al. 2009, severity 1.0.
VISION = {
    "usual": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [
        [0.3673, 0.8606, -0.2280],
        [0.2801, 0.6725, 0.0474],
        [-0.0118, 0.0429, 0.9690],
    ],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("is_dark", [0, 1])
def test_classes_differ_in_colour_for_every_kind_of_vision(vision: str, is_dark: int) -> None:
    seen = [lab(np.asarray(VISION[vision]) @ linear(COLOURS[r][is_dark])) for r in CLASS_COLOURS]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= 20


def test_nothing_learned_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    home = build.tiny_home(tmp_path / "home")
    with pytest.raises(NothingLearnedError, match="learned nothing yet"):
        write_report(home, tmp_path / "r.html")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_when_all_was_unlearned_the_page_shows_the_receipts(tmp_path: Path) -> None:
    home = reported_home(tmp_path / "home", {"bolt-m4": 12, "bracket": 12})
    with open_store(home) as store:
        learner = open_learner(home, store)
        for name in ("bolt-m4", "bracket"):
            forget(home, learner, ForgetRequest(name))
    page = write_report(home, tmp_path / "r.html").path.read_text()
    assert "all that it learned was unlearned" in page
    assert page.count("exact head") == 2
    assert "bolt" not in page.replace(str(home.path), "")


def test_without_matplotlib_the_error_names_the_extra_and_nothing_is_left(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'edgecl\[report\]'"):
        write_report(home, tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_cannot_be_meant_is_refused(home: Home, tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    for name in ("report.txt", "report", "folder.html"):
        with pytest.raises(UsageError, match=r"ends in \.html"):
            write_report(home, tmp_path / name)
    with pytest.raises(RequestError, match="cannot be written"):
        write_report(home, tmp_path / "none" / "r.html")


def test_an_older_report_stays_whole_when_the_new_one_fails(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r.html").write_text("old")

    def fail(*_: object) -> str:
        raise OSError(28, "no space left")

    monkeypatch.setattr("edgecl.evaluation.report.draw", lambda *_: {})
    monkeypatch.setattr("edgecl.evaluation.report.render", fail)
    with pytest.raises(RequestError, match="no space left"):
        write_report(home, tmp_path / "r.html")
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]
    assert (tmp_path / "r.html").read_text() == "old"


def test_the_command_writes_in_the_named_folder_only(home: Home, tmp_path: Path) -> None:
    for name in ("user", "temp", "out"):
        (tmp_path / name).mkdir()
    env = {"HOME": str(tmp_path / "user"), "TMPDIR": str(tmp_path / "temp")}
    env |= {"XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": ""}
    output = tmp_path / "out" / "page.html"
    done = build.run_edgecl("report", "--home", home.path, "--output", output, "--json", env=env)
    values = build.last_json(done)
    assert values["path"] == str(output)
    assert values["pictures"] == [str(tmp_path / "out" / f"page-{name}.png") for name in CHARTS]
    assert len(list((tmp_path / "out").iterdir())) == 1 + len(CHARTS)
    assert not [path for name in ("user", "temp") for path in (tmp_path / name).rglob("*")]
    assert "by hand" in done.stderr
    empty = build.tiny_home(tmp_path / "empty")
    done = build.run_edgecl("report", "--home", empty.path, "--output", output)
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()[-1:]) == 1
    assert "learned nothing yet" in done.stderr


# What is wrong, in words


def quiet(**changes: object) -> Contents:
    """Return a report of two classes of which nothing is to be said."""
    rows = tuple(ClassRow(name, 50, 20, 10, arrival=i * 50) for i, name in enumerate(("a", "b")))
    steps = np.arange(10, 110, 10)
    values: dict[str, object] = {
        "home": Path("home"), "backbone": "none", "image_size": 32, "head": "ridge",
        "version": "0", "time": NOW, "classes": rows,
        "history": History(steps, steps + NOW, np.ones((10, 2)), np.full((10, 2), 10)),
        "scores": {}, "confusion": np.diag([10, 10]), "no_confusion": "", "confused": (),
        "similar": (), "latencies": {}, "kept_steps": np.arange(40),
        "kept_times": np.arange(40) + START, "capacity_samples": 100, "capacity_bytes": 10**6,
        "picture_bytes": 10**4, "bytes_by_part": {}, "sources": (), "receipts": (), "exports": (),
        "n_novel": 0, "novel": (), "n_pending": 0, "is_sealed": False,
        "doubts": (), "n_doubts": 0,
    }  # fmt: skip
    return Contents(**(values | changes))  # type: ignore[arg-type]


def scores(*columns: list[float], n: int = 10) -> History:
    """Return scores of classes, a column each, every ten samples."""
    table = np.array(columns).T
    steps = 10 * np.arange(1, len(table) + 1)
    return History(steps, NOW + steps, table, np.full(table.shape, n))


def test_nothing_to_warn_about() -> None:
    assert warnings_of(quiet()) == []
    assert "Nothing to warn about" in Page(render(quiet(), {})).text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"n_pending": 2}, "2 requests to unlearn are not finished"),
        (
            {"exports": (ExportRow(4, "onnx", "/b", NOW, 2, True),)},
            "hold something that was unlearned since: 4",
        ),
        ({"history": scores([0.9, 0.7], [1.0, 1.0])}, "Known better before than now: a (20 points"),
        (
            {"history": scores([0.0, 0.0], [1.0, 1.0]), "confusion": np.array([[0, 9], [0, 9]])},
            "Never right on the test pictures: a.",
        ),
        (
            {"confused": (Confused(0, 1, 3, 10, ()),)},
            "Classes are mixed up: a taken for b (3 of 10 pictures)",
        ),
        ({"similar": ((0, 1, 0.8),)}, "sees these classes as nearly the same: a and b"),
        (
            {"classes": (ClassRow("a", 50, 20, 10), ClassRow("b", 160, 20, 10))},
            "b was learned from 160 samples, a from 50",
        ),
        (
            {"classes": (ClassRow("a", 9, 9, 10), ClassRow("b", 20, 20, 10))},
            "Fewer than 10 samples learned: a (9)",
        ),
        (
            {"classes": (ClassRow("a", 50, 20, 4), ClassRow("b", 50, 20, 10))},
            "Fewer than 5 test pictures, so their accuracy is a rough guess: a (4)",
        ),
        ({"capacity_samples": 42}, "The store of kept pictures is 95 % full"),
        ({"picture_bytes": 10**6}, "The store of kept pictures is 100 % full"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, object], expected: str) -> None:
    said = [
        text.replace("\u2068", "").replace("\u2069", "") for text in warnings_of(quiet(**changes))
    ]
    assert len(said) == 1
    assert expected in said[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"history": scores([0.9, 0.85], [1.0, 1.0])},
        {"history": scores([1.0, 0.5], [1.0, 1.0], n=4)},  # too few probes to say so
        {"confused": (Confused(0, 1, 2, 10, ()),)},
        {"similar": ((0, 1, 0.6),)},
        {"classes": (ClassRow("a", 50, 20, 10), ClassRow("b", 150, 20, 10))},
        {"exports": (ExportRow(4, "onnx", "/b", NOW, 2, False),)},
    ],
)
def test_what_is_in_order_is_not_warned_of(changes: dict[str, object]) -> None:
    assert warnings_of(quiet(**changes)) == []


def test_of_many_classes_a_few_are_named() -> None:
    rows = tuple(ClassRow(f"c{i:03}", 5, 5, 10) for i in range(100))
    history = scores(*([1.0, 1.0] for _ in rows))
    found = quiet(classes=rows, history=history, confusion=np.eye(100, dtype=int) * 10)
    (said,) = warnings_of(found)
    assert "and 95 more." in said


def test_a_drop_is_from_the_best_to_the_last() -> None:
    assert drops_of(quiet(history=scores([0.2, 0.9, 0.6], [0.5, 0.6, 0.7]))).tolist() == [
        pytest.approx(30),
        0.0,
    ]


def test_every_warning_says_what_to_do() -> None:
    """Each holds, behind what is wrong, an imperative or a command."""
    rows = (ClassRow("a", 50, 20, 4), ClassRow("b", 160, 20, 10), ClassRow("c", 5, 5, 10))
    found = quiet(
        classes=rows,
        n_pending=1,
        receipts=(ReceiptRow("r4", "source 2", "exact_head", NOW, "failed", None),),
        exports=(ExportRow(4, "onnx", "/b", NOW, 2, True),),
        history=scores([0.9, 0.5], [0.0, 0.0], [1.0, 1.0]),
        confusion=np.array([[5, 5, 0], [9, 0, 0], [0, 0, 9]]),
        confused=(Confused(0, 1, 5, 10, ()),),
        similar=((1, 2, 0.8),),
        capacity_samples=42,
    )
    said = warnings_of(found)
    assert len(said) == 11
    for text in said:
        assert re.search(r"`edgecl|\b([Tt]each|learn|raise|show|Look)\b", text), text


# The answer on top


@pytest.mark.parametrize(
    ("history", "confusion", "expected"),
    [
        (scores([1.0, 1.0], [0.9, 0.9]), [[10, 0], [1, 9]], "Yes. All 2 classes are as good as"),
        (
            scores([1.0, 1.0], [0.0, 0.0], n=1),
            [[1, 0], [1, 0]],
            "Yes. 1 of 2 classes are as good as ever; b was never right (1 test picture). These "
            "are few test pictures",
        ),
        (
            scores([0.9, 0.5], [1.0, 1.0]),
            [[5, 5], [0, 10]],
            "No. 1 of 2 classes are as good as ever; lost since their best: a 40 points.",
        ),
        (scores([0.9, 0.75], [1.0, 1.0], n=6), [[4, 2], [0, 6]], "Yes. All 2 classes"),
        (
            scores([1.0, 0.0], [1.0, 1.0], n=1),
            [[0, 1], [0, 1]],
            "Yes. 1 of 2 classes are as good as ever; a is not right now (1 test picture).",
        ),
        (scores([1.0, 0.0], [1.0, 1.0]), [[0, 9], [0, 9]], "No. 1 of 2 classes are"),
        (scores([0.0, 0.0], [0.0, 0.0]), [[0, 9], [9, 0]], "It never knew them. 0 of 2"),
        (scores([1.0, 1.0], [1.0, 1.0]), None, "Not known yet."),
        (scores([1.0, 1.0], [1.0, 1.0]), [[9, 0], [0, 0]], "1 class was not tested yet."),
    ],
)
def test_the_page_begins_with_an_answer(
    history: History, confusion: list[list[int]] | None, expected: str
) -> None:
    table = None if confusion is None else np.array(confusion)
    contents = quiet(history=history, confusion=table)
    assert expected in plain(verdict_of(contents))
    text = Page(render(contents, {})).text
    assert text.index("Does it still know") < text.index(
        "accuracy now" if table is not None else "classes"
    )


def plain(found: Verdict) -> str:
    return f"{found.answer} {found.text}".replace("\u2068", "").replace("\u2069", "")


def test_three_classes_of_four_is_mostly_and_many_names_are_counted() -> None:
    rows = tuple(ClassRow(name, 50, 20, 10) for name in "abcdefgh")
    columns = [[1.0, 0.5]] * 2 + [[1.0, 1.0]] * 6
    found = verdict_of(
        quiet(classes=rows, history=scores(*columns), confusion=np.eye(8, dtype=int) * 10)
    )
    assert (found.state, found.answer) == ("partly", "Mostly.")
    columns = [[1.0, 0.5]] * 8
    found = verdict_of(
        quiet(classes=rows, history=scores(*columns), confusion=np.eye(8, dtype=int) * 10)
    )
    assert found.state == "bad"
    assert "and 5 more" in found.text


def test_one_definition_of_accuracy_in_status_report_and_chart(home: Home) -> None:
    with open_store(home, read_only=True) as store, store.snapshot():
        c = gather(home, store, time=NOW)
    values = build.last_json(build.run_edgecl("status", "--home", home.path, "--json"))
    assert c.confusion is not None
    right, n = int(np.diagonal(c.confusion).sum()), int(c.confusion.sum())
    assert values["accuracy"] == right / n
    assert (values["right"], values["probes"]) == (right, n)
    assert f"{percent(right / n)} {right} of {n} test pictures right" in Page(render(c, {})).text
    asked, known = c.history.n_probes[-1], np.nan_to_num(c.history.accuracy[-1])
    assert c.history.together[-1] == pytest.approx((known * asked).sum() / asked.sum())


def test_few_test_pictures_are_counted_and_many_are_a_bar() -> None:
    rows = (ClassRow("few", 50, 20, 4), ClassRow("many", 50, 20, 10))
    html = render(quiet(classes=rows, confusion=np.array([[3, 1], [0, 10]])), {})
    assert "3 of 4" in Page(html).text
    assert html.count('class="bar"') == 1


def test_days_are_an_axis_from_a_day_on() -> None:
    steps = np.arange(10, 110, 10)
    for hours, expected in ((1, False), (24, True)):
        history = History(
            steps, NOW + 3600.0 * hours * np.arange(10), np.ones((10, 2)), np.full((10, 2), 10)
        )
        assert ("days" in draw(quiet(history=history), Path("/nonexistent"))) == expected


# The stability gap


def test_a_gap_is_what_earlier_classes_lose_after_one_came() -> None:
    steps = np.array([10, 20, 50, 51, 52, 60, 100])
    a = np.array([0.8, 1.0, 1.0, 0.4, 0.6, 0.9, 1.0])
    b = np.array([np.nan, np.nan, np.nan, np.nan, 0.0, 0.5, 1.0])
    history = History(steps, steps + NOW, np.stack([a, b], axis=1), np.full((7, 2), 10))
    (gap,) = gaps_of(quiet(history=history))
    assert gap.place == 1
    assert gap.since.tolist() == [0, 1, 2, 10, 50]
    assert gap.change.tolist() == pytest.approx([0, -60, -40, -10, 0])
    assert (gap.worst, gap.worst_at, gap.back_at) == (pytest.approx(60), 1, 50)
    rows = (*quiet().classes[:1], ClassRow("b", 50, 20, 10, arrival=50))
    text = Page(render(quiet(history=history, classes=rows), {})).text
    assert "b 2023-11-17 22:14 UTC 1 60 points, after 1 picture after 50 pictures" in text


def test_a_gap_ends_where_the_next_class_comes() -> None:
    rows = (*quiet().classes, ClassRow("c", 50, 20, 10, arrival=60))
    history = replace(
        scores(*([1.0] * 10 for _ in rows)),
        steps=np.array([10, 50, 55, 58, 62, 65, 70, 80, 90, 99]),
    )
    gaps = gaps_of(quiet(classes=rows, history=history, confusion=None))
    assert [(gap.place, gap.since[-1]) for gap in gaps] == [(1, 8), (2, 39)]


def test_classes_that_come_at_once_have_no_gap() -> None:
    rows = tuple(ClassRow(name, 50, 20, 10, arrival=0) for name in "ab")
    found = quiet(classes=rows)
    assert gaps_of(found) == []
    assert "Nothing to compare" in Page(render(found, {})).text


# Small things


def test_quantiles_are_the_ends_of_buckets() -> None:
    edges, counts = 2.0 ** (np.arange(8) / 4), np.array([1, 0, 0, 98, 0, 0, 0, 1])
    assert quantile(edges, counts, 0.5) == pytest.approx(2.0)
    assert quantile(edges, counts, 1.0) == pytest.approx(4.0)
    assert [time_text(t) for t in (3.4, 1234.0, 2e6)] == ["3 µs", "1.23 ms", "2 s"]


@given(st.text(max_size=250), st.integers(4, 60))
def test_a_short_name_keeps_its_ends(name: str, length: int) -> None:
    cut = short(name, length)
    assert len(cut) <= length
    assert cut == name if len(name) <= length else cut[0] == name[0] and cut[-1] == name[-1]


def is_label(text: str) -> bool:
    try:
        return clean_label(text) == text
    except UsageError:
        return False


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)
@given(st.text(min_size=1, max_size=60).filter(is_label))
def test_any_name_is_shown_as_it_is(name: str) -> None:
    rows = (ClassRow(name, 50, 20, 10), ClassRow("other", 200, 20, 10))
    confused = (Confused(0, 1, 5, 10, ()),)
    found = Page(render(quiet(classes=rows, confused=confused), {}))
    assert name in found.words
    assert Page(render(quiet(), {})).elements[0] == found.elements[0]
    assert "script" not in {tag for tag, _ in found.elements}
