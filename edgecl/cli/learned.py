"""How a run of learning ends, for a person: what was learned, what was not, what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgecl.cli.outcome import print_outcome, time_text
from edgecl.cli.output import is_quiet
from edgecl.figures import counted, percent

if TYPE_CHECKING:
    from edgecl.store.store import Store

FEW = 10
"""With fewer samples a class is told as one of few; the report warns below the same number."""
_MOST_NAMED = 5
# What else may have happened to a frame; zeros are not told.
_ELSE = {
    "skipped": "could not be used",
    "unlabelled": "without a label, predicted only",
    "unknown": "of them like nothing known",
    "duplicates": "left out as near-duplicates",
    "stale": "left out as too old",
    "undone": "undone",
    "dropped": "dropped for newer ones",
    "still": "in which nothing had moved",
    "repeated": "sent twice",
    "broken": "cut or damaged",
    "oversize": "too large",
    "not_pictures": "parts that are no pictures",
    "reconnects": "times connected again",
    "stalls": "times nothing came for too long",
}


def taught_since(store: Store, before: Mapping[int, int]) -> dict[str, int]:
    """Return the samples of every class that a run learned something of.

    Args:
        store: The open store.
        before: `store.n_seen()` when the run began.
    """
    now = store.n_seen()
    return {name: now[uid] for uid, name in store.names.items() if now[uid] != before.get(uid, 0)}


def print_learned(
    result: dict[str, Any], taught: Mapping[str, int], notes: Sequence[str] = ()
) -> None:
    """Print how a run ended.

    Args:
        result: What `--json` prints.
        taught: Classes that were taught, with all samples that each has now.
        notes: What was told of the source at the beginning.
    """
    if not is_quiet() and any(note.startswith("passed over: ") for note in notes):
        result = result | {"passed_over": {}}
    then = "edgecl predict PICTURE, edgecl report" if result["classes"] else ""
    if result["unknown"]:
        then = "edgecl review list, " + then
    print_outcome(learned_text(result, taught), result, then=then)


def learned_text(result: Mapping[str, Any], taught: Mapping[str, int]) -> str:
    """Return the sentences about a run; see `print_learned`."""
    held_out, n = result["held_out"], result["learned"]
    if n or held_out:
        text = (
            f"learned {counted(n, 'picture')} of {counted(len(taught), 'class')} in "
            f"{time_text(result['seconds'])}"
        )
        if held_out:
            text += f", {held_out:,} kept to test on"
        if n:
            text += f"; right at first sight {percent(result['prequential_accuracy'])}"
    else:
        text = f"learned nothing: {counted(result['seen'], 'picture')} came"
    sentences = [text]
    few = [f"{name} ({n})" for name, n in sorted(taught.items(), key=lambda i: i[1]) if n < FEW]
    if few:
        sentences.append(f"Few: {_named(few)}")
    left = [f"{result[name]:,} {what}" for name, what in _ELSE.items() if result[name]]
    if left:
        sentences.append(f"Also: {', '.join(left)}")
    if by_source := result.get("sources"):
        each = (
            f"{name} {counts['learned']:,} of {counts['seen']:,}"
            for name, counts in by_source.items()
        )
        sentences.append(f"By source: {', '.join(each)}")
    if result["passed_over"]:
        files = ", ".join(f"{n} {kind}" for kind, n in result["passed_over"].items())
        sentences.append(f"Passed over: {files}")
    return ". ".join(sentences)


def _named(names: list[str]) -> str:
    left = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {left} more" if left > 0 else "")
