"""Accuracy, by class and as a confusion matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from edgecl.types import Skipped


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores on labelled pictures.

    Args:
        n: Pictures scored.
        accuracy: Share that was right; 0 when there was none.
        per_class: Share right for each label that the data holds.
        confusion: For each label, how often each class was predicted.
        skipped: Pictures that could not be used, and why.
    """

    n: int
    accuracy: float
    per_class: dict[str, float]
    confusion: dict[str, dict[str, int]]
    skipped: tuple[Skipped, ...] = ()


def evaluate(pairs: Iterable[tuple[str, str]], *, skipped: Iterable[Skipped] = ()) -> Evaluation:
    """Score (label, predicted) pairs; a label that was never learned counts as wrong.

    Example:
        >>> evaluate([("a", "a"), ("a", "b"), ("b", "b")]).per_class
        {'a': 0.5, 'b': 1.0}
    """
    rows: dict[str, Counter[str]] = {}
    for label, predicted in pairs:
        rows.setdefault(label, Counter())[predicted] += 1
    n = sum(row.total() for row in rows.values())
    n_right = sum(row[label] for label, row in rows.items())
    return Evaluation(
        n=n,
        accuracy=n_right / n if n else 0.0,
        per_class={label: row[label] / row.total() for label, row in sorted(rows.items())},
        confusion={label: dict(row.most_common()) for label, row in sorted(rows.items())},
        skipped=tuple(skipped),
    )
