"""What the answers of witnesses prove about a change.

Two thresholds, since a change that may be harmful is not one that is. *Proved worse*: the exact
test says so, and the loss is more than what is tolerated, of all pictures together or of one class
(corrected for there being many). *Not proved harmless*: the loss may be more than is tolerated, by
the upper bound of a loss; twenty pictures a class can hardly prove the contrary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecl.config import GovernorConfig
from edgecl.paired import Pairs, holm, mcnemar, normal_quantile, pooled, upper_drop
from edgecl.store.changes import OfClass


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of the harm that a change did.

    Args:
        pairs: All pictures together.
        p: That so many were lost by chance.
        upper: How far accuracy may have fallen on all of them.
        worst: Uid of the class that speaks most against it, None where no class lost anything.
        worst_pairs: Its pictures.
        worst_p: That so many of them were lost by chance, corrected for many classes.
        is_worse: Proved worse.
        is_harmless: Proved to do no more harm than is tolerated.
    """

    pairs: Pairs
    p: float
    upper: float
    worst: int | None
    worst_pairs: Pairs
    worst_p: float
    is_worse: bool
    is_harmless: bool

    @property
    def verdict(self) -> str:
        """The judgement in a word or two."""
        if not self.pairs.n:
            return "nothing to compare"
        if self.is_worse:
            return "proved worse"
        return "harmless" if self.is_harmless else "not proved harmless"


def judged(classes: Sequence[OfClass], policy: GovernorConfig) -> Judgement:
    """Judge what a change did to classes; those of too few pictures count only in the whole."""
    whole = pooled(c.pairs for c in classes)
    counted = [c for c in classes if c.pairs.n >= policy.min_probes]
    corrected = holm([mcnemar(c.pairs) for c in counted])
    by_class = sorted(zip(corrected, counted, strict=True), key=lambda x: (x[0], -x[1].pairs.drop))
    p, z = mcnemar(whole), normal_quantile(1 - policy.alpha)
    upper = upper_drop(whole, z)
    worst_p, worst = by_class[0] if by_class and by_class[0][1].pairs.lost else (1.0, None)
    is_worse = (p <= policy.alpha and whole.drop > policy.mean_drop) or any(
        q <= policy.alpha and c.pairs.drop > policy.worst_drop for q, c in by_class
    )
    is_harmless = (
        not is_worse
        and upper <= policy.mean_drop
        and all(upper_drop(c.pairs, z) <= policy.worst_drop for c in counted)
    )
    return Judgement(
        whole,
        p,
        upper,
        None if worst is None else worst.uid,
        Pairs(0, 0, 0) if worst is None else worst.pairs,
        worst_p,
        is_worse,
        is_harmless,
    )
