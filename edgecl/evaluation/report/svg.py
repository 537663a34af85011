"""matplotlib's figures as SVG elements of an HTML page, in colours that the page decides on.

The colours of classes stand out from the page by 3:1 and differ from each other by 20 (CIE 1976)
and more for every kind of colour vision, as simulated by Machado, Oliveira and Fernandes, "A
Physiologically-based Model for Simulation of Color Vision Deficiency", 2009; the first two are of
Okabe and Ito, "Color Universal Design", 2008.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgecl.errors import MissingPackageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE, NARROW = 900, 360
"""Widths of the two renderings, CSS pixels."""
# Role: colour on a light and on a dark page. All differ, since a role is found by its colour.
COLOURS = {
    "ink": ("#1b1f24", "#e6e9ec"),
    "muted": ("#57606a", "#a3adb7"),
    "grid": ("#d8dee4", "#333a41"),
    "right": ("#0072b2", "#4ba3dd"),
    "wrong": ("#d55e00", "#ff8f47"),
    "c3": ("#9314fe", "#7c5cff"),
    "c4": ("#b0714f", "#ffd9b0"),
    "c5": ("#004d40", "#c32d3b"),
    "c6": ("#672b03", "#934c7d"),
}
_INK, _MUTED, _GRID = (COLOURS[role][0] for role in ("ink", "muted", "grid"))


@contextmanager
def drawing(folder: Path) -> Iterator[None]:
    """Let matplotlib draw with its default settings and ours, and write nowhere else.

    Args:
        folder: Where it may keep its list of fonts meanwhile; `MPLCONFIGDIR` goes before.

    Raises:
        MissingPackageError: It is not installed.
    """
    before = os.environ.get("MPLCONFIGDIR")
    if before is None:
        os.environ["MPLCONFIGDIR"] = str(folder)
    try:
        try:
            import matplotlib
            from matplotlib import font_manager  # noqa: F401  (it looks for the fonts now)
        except ImportError as error:
            raise MissingPackageError(
                f"a report needs matplotlib ({error}); run `pip install 'edgecl[report]'`"
            ) from error
    finally:
        if before is None:
            del os.environ["MPLCONFIGDIR"]
    settings = {
        # A matplotlibrc of the user's must not change the report; backends are not settings here.
        key: value
        for key, value in matplotlib.rcParamsDefault.items()
        if not key.startswith(("backend", "interactive", "toolbar"))
    } | {
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.size": 12,
        "axes.edgecolor": _MUTED,
        "axes.labelcolor": _MUTED,
        "text.color": _INK,
        "xtick.color": _MUTED,
        "ytick.color": _MUTED,
        "xtick.labelcolor": _MUTED,
        "ytick.labelcolor": _MUTED,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": _GRID,
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # Names in a script that the fonts lack, and settings that a version gives up.
        warnings.simplefilter("ignore")
        yield


def svg_of(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element for an HTML page: no namespace, no style, own ids."""
    import matplotlib

    out = io.StringIO()
    keys = ("Date", "Creator", "Format", "Type")
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(keys))
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    # Inside of tags only: what stands between them may be a name that looks like one of these.
    text = re.sub(r"<[^>]+>", lambda tag: _of_page(tag[0], name), text)
    width, height = (figure.get_size_inches() * 72).round().astype(int)
    head = f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
    return head + 'aria-hidden="true" focusable="false">' + text[text.index(">") + 1 :].strip()


def _of_page(tag: str, name: str) -> str:
    """Return a tag of an SVG file as one of an HTML page."""
    tag = re.sub(r' xmlns(:\w+)?="[^"]*"', "", tag).replace("xlink:href=", "href=")
    # Two pictures on a page must not share an id; what refers to one is renamed with it.
    tag = tag.replace(' id="', f' id="{name}-').replace('href="#', f'href="#{name}-')
    tag = tag.replace("url(#", f"url(#{name}-")
    # The family is the page's; matplotlib writes it alone, or (before 3.11) with the size.
    tag = re.sub(r" ?font-family: [^;\"]*;?", "", tag)
    tag = re.sub(r"font: ([\w. ]*?px) [^;\"]*", r"font-size: \1", tag)
    tag = re.sub(r"(\d\.\d\d)\d+", r"\1", tag)  # a hundredth of a pixel will do
    for role, (light, _) in COLOURS.items():
        tag = tag.replace(light, f"var(--{role})")
    return tag
