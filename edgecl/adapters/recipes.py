"""Recipes: one choice for each seam of a training.

A seam is a place where papers differ; a strategy is a plain function in the file of its seam, whose
docstring names the paper and the departure. A new one is a function there, and a line here if it
gets a name of its own. `plain` is the default, by measurement (docs/decisions/0009).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from edgecl.adapters import anchors, atoms, choices, keeps, masks, starts, steps, weights
from edgecl.errors import UsageError

if TYPE_CHECKING:
    from edgecl.adapters.anchors import Anchor
    from edgecl.adapters.choices import Choose
    from edgecl.adapters.keeps import Keep
    from edgecl.adapters.masks import Mask
    from edgecl.adapters.starts import Start
    from edgecl.adapters.steps import Step
    from edgecl.adapters.weights import Weigh


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an adapter comes about.

    Args:
        choose: Which of the kept pictures train; another than `every` asks the exact head, which
            knows all classes, so with `sees` = `kept` alone.
        start: Where the training starts.
        mask: Which entries of the adapter train.
        weigh: What a row counts, by the probability that it gives its own class.
        anchors: Terms of the loss beside the cross-entropy.
        step: How one batch changes the tensors.
        keep: What of the trajectory stays.
        blend: Which adapters are heard: `newest`, which knows all that was kept, `every`, or
            `mixed`: every one by how near a picture is to what it was trained on.
        active: Most rows of an adapter that count for one picture (edgecl/adapters/atoms.py); 0
            lets all count alike.
        depth: Share of its residual that an adapter of the first block keeps, all in the last
            (`blends.depth_scaled`).
        sees: What of the store the training may read: all that is `kept`, or the `session` alone.
        mixup: Both numbers of the Beta distribution from which a batch's share is drawn; 0 mixes
            nothing. Mixed is what the last frozen block gives (Verma et al. 2019, "Manifold Mixup",
            arXiv:1806.05236).
        shift: Most cells that this is moved by, on a map with cells.
        has_strong_views: Views are drawn anew and change colours and angles, instead of weak ones.
    """

    choose: Choose = choices.every
    start: Start = starts.warm
    mask: Mask = masks.everything
    weigh: Weigh = weights.alike
    anchors: tuple[Anchor, ...] = ()
    step: Step = steps.plain
    keep: Keep = keeps.slow
    blend: Literal["newest", "every", "mixed"] = "newest"
    active: int = 0
    depth: float = 1.0
    sees: Literal["kept", "session"] = "kept"
    mixup: float = 0.4
    shift: int = 1
    has_strong_views: bool = False


_PUBLISHED = {"keep": keeps.last, "mixup": 0.0, "shift": 0}

# What starts from copied units, or holds few rows, needs something that holds it back.
RECIPES: dict[str, Recipe] = {
    "plain": Recipe(),
    "mos": Recipe(anchors=(anchors.spreading,), step=steps.merged, **_PUBLISHED),  # type: ignore[arg-type]
    "anchored": Recipe(anchors=(anchors.margin,)),
    "isolated": Recipe(
        start=starts.fresh, anchors=(anchors.margin,), blend="every", sees="session"
    ),
    "mixed": Recipe(start=starts.fresh, anchors=(anchors.margin,), blend="mixed", sees="session"),
    "atoms": Recipe(
        start=starts.gated,
        mask=masks.rows_alone,
        anchors=(anchors.margin,),
        blend="every",
        active=atoms.ACTIVE,
        sees="session",
    ),
    "depth-scaled": Recipe(depth=0.5),
    "view-batch": Recipe(anchors=(anchors.agreement,), has_strong_views=True, **_PUBLISHED),  # type: ignore[arg-type]
    "covered": Recipe(choose=choices.covered),
    "half": Recipe(mask=masks.half),
    "well-conditioned": Recipe(mask=masks.well_conditioned),
    "sliced": Recipe(mask=masks.slice_of),
    "guarded": Recipe(mask=masks.slice_of, weigh=weights.new_rows),
    "protected": Recipe(anchors=(anchors.protect,)),
    "teacher": Recipe(anchors=(anchors.teacher,)),
    "pairwise": Recipe(anchors=(anchors.pairwise,)),
    "variance": Recipe(weigh=weights.variance),
    "certain": Recipe(weigh=weights.certain),
    "gradient-similarity": Recipe(weigh=weights.gradient_similarity),
    "cloned": Recipe(start=starts.cloned, anchors=(anchors.margin,)),
    "steepest": Recipe(start=starts.steepest, anchors=(anchors.margin,)),
    "averaged": Recipe(keep=keeps.averaged),
    "retrodicted": Recipe(keep=keeps.retrodicted),
    "refreshed": Recipe(step=steps.refreshed),
    "forgetful": Recipe(step=steps.settling),
    "two-rates": Recipe(step=steps.two_rates),
}
_SITES = "sites:"


def recipe_of(name: str) -> Recipe:
    """Return the recipe of a name; `sites:A,B` is `plain` at these sites alone.

    Raises:
        UsageError: There is none.
    """
    if name.startswith(_SITES):
        return replace(Recipe(), mask=masks.only(name.removeprefix(_SITES).split(",")))
    if name not in RECIPES:
        raise UsageError(
            f"recipe {name!r} is unknown; expected one of {', '.join(RECIPES)}, or "
            f"{_SITES}NAME,NAME"
        )
    return RECIPES[name]
