"""Small parts of the page of a report: text, numbers, cells and tables as HTML."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterable, Sequence
from html import escape


def name(text: str) -> str:
    """Return a name or text as HTML; one that is written from right to left moves nothing."""
    return f"<bdi>{escape(text)}</bdi>"


def prose(text: str) -> str:
    """Return a sentence as HTML; what stands between backticks is a command."""
    return re.sub(r"`([^`<>]+)`", r"<code>\1</code>", f"<bdi>{escape(text)}</bdi>")


def image(data: bytes, alt: str) -> str:
    """Return a picture as an element that holds its bytes."""
    url = base64.b64encode(data).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{url}" alt="{escape(alt)}">'


def cell(html: str, kind: str, label: str = "") -> str:
    """Return a cell of a table; `label` names its column on a narrow page."""
    shown = f' data-label="{label}"' if label and html else ""
    return f'<td class="{kind}"{shown}>{html}</td>'


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = ()
) -> str:
    """Return a table; cells are HTML already."""
    heads = "".join(f"<th{' class=n' if i in numbers else ''}>{h}</th>" for i, h in enumerate(head))
    body = "".join(
        "<tr>"
        + "".join(
            cell(part, "n" if i in numbers else "all" if i == 0 else "", head[i] if i else "")
            for i, part in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def number(n: float) -> str:
    """Return a count with thin spaces."""
    return f"{n:,.0f}".replace(",", "\u202f")


def pictures(n: float) -> str:
    """Return a number of pictures in words."""
    return f"{number(n)} picture" + ("" if round(n) == 1 else "s")


def points(n: float) -> str:
    """Return points of a hundred in words."""
    return f"{n:.0f} point" + ("" if round(n) == 1 else "s")


def when(seconds: float) -> str:
    """Return a time to the minute, UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def day(seconds: float) -> str:
    """Return a day, UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))
