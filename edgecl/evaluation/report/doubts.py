"""The section of a report with kept samples that are perhaps taught as the wrong class."""

from __future__ import annotations

from edgecl.evaluation.report.contents import Contents
from edgecl.evaluation.report.html import image, name, number


def doubtful(c: Contents) -> str:
    """Return a list of them with their pictures as HTML, or nothing."""
    if not c.doubts:
        return ""
    items = []
    for doubt in c.doubts:
        pictures = image(doubt.picture, f"a picture of {doubt.label}") if doubt.picture else ""
        why = f"the others say {name(doubt.guess)}"
        if doubt.twin is not None:
            why = f"shows what {doubt.twin} does, taught as {name(doubt.guess)}"
            if doubt.twin_picture:
                pictures += image(doubt.twin_picture, f"a picture of {doubt.guess}")
        items.append(
            f"<li><p>{doubt.uid}, taught as {name(doubt.label)}: {why}</p><p>{pictures}</p></li>"
        )
    return (
        f"<p>{number(c.n_doubts)} kept samples are contradicted by all the others together; those "
        "most of all come first. <code>edgecl review mistakes</code> lists them; relabel, forget "
        f'or confirm them by their number.</p><ul class="pairs">{"".join(items)}</ul>'
    )
