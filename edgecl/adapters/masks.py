"""Which entries of an adapter train."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgecl.adapters.readers import readers
from edgecl.adapters.scene import Scene
from edgecl.errors import RequestError, UsageError
from edgecl.runtime.adapters import GATE
from edgecl.types import Float64

Mask = Callable[[Scene], dict[str, npt.NDArray[np.bool_]]]
"""By array name and in its shape; True trains. What is not named trains."""

SLICES = 3
"""Sessions that the rows of an adapter are dealt out to by `slice_of`."""
_FORGETS = 2.0


def everything(scene: Scene) -> dict[str, npt.NDArray[np.bool_]]:
    """Let every entry train."""
    del scene
    return {}


def half(scene: Scene) -> dict[str, npt.NDArray[np.bool_]]:
    """Let one half of each site train, drawn anew every session: `up` or `down`.

    The first session trains `up`: where it is zero nothing reaches `down`.

    Reference: Hui et al. 2024, "HFT: Half Fine-Tuning for Large Language Models", arXiv:2404.18466;
    departure: halves of an adapter, not of a network's matrices. No gain on lite0.
    """
    session = len(scene.earlier)
    drawn = np.random.default_rng([scene.seed, 11, session]).random(len(scene.network.sites))
    is_up = drawn < 0.5 if session else np.ones(len(drawn), dtype=np.bool_)
    parts = (("down", "down_bias"), ("up", "up_bias"))
    trains = [
        f"{site.name}.{part}"
        for site, up in zip(scene.network.sites, is_up, strict=True)
        for part in parts[int(up)]
    ]
    return only(trains)(scene)


def well_conditioned(scene: Scene) -> dict[str, npt.NDArray[np.bool_]]:
    """Let the half of the sites train whose readers are conditioned best (see `condition`).

    Reference: Ludwig 2025, "The Condition Number as a Scale-Invariant Proxy for Information
    Encoding in Neural Units" (KappaTune), arXiv:2506.16289; departures: quantiles in place of the
    extremes, and what the shape alone does is divided out. No gain on lite0.
    """
    kappas = [condition(weight.flatten(1).double().numpy()) for weight, _ in readers(scene.network)]
    order = np.argsort(kappas, kind="stable")[: -(-len(kappas) // 2)]
    return only([scene.network.sites[i].name for i in sorted(order)])(scene)


def slice_of(scene: Scene) -> dict[str, npt.NDArray[np.bool_]]:
    """Let a third of the rows train, another one in each of three sessions (MoRA, LLaVA-DyMoE).

    What an earlier session trained stays; `up_bias`, which all rows share, trains in the first.

    Raises:
        RequestError: The rows are used up.
    """
    session = len(scene.earlier)
    if session >= SLICES:
        raise RequestError(
            f"all rows of the adapter are taken by {SLICES} sessions; make a home with more of "
            "them (`edgecl init --adapters RANK --from HOME`), or choose another recipe"
        )
    masks = {}
    for name, shape in scene.network.shapes.items():
        mask = np.zeros(shape, dtype=np.bool_)
        rank = scene.network.shapes[f"{name.rpartition('.')[0]}.down"][0]
        rows = slice(rank * session // SLICES, rank * (session + 1) // SLICES)
        if name.endswith(".up_bias"):
            mask[:] = session == 0
        elif name.endswith(".up"):
            mask[:, rows] = True
        else:
            mask[rows] = True
        masks[name] = mask
    return masks


def rows_alone(scene: Scene) -> dict[str, npt.NDArray[np.bool_]]:
    """Let the rows train, and nothing that all of them share: where none fits, nothing is added."""
    return {
        name: np.full(shape, not name.endswith((".up_bias", GATE)))
        for name, shape in scene.network.shapes.items()
    }


def only(names: Sequence[str]) -> Mask:
    """Let some sites train (`blocks.5.0`), or some of their arrays (`blocks.5.0.up`), and no other.

    Masks are found by a search elsewhere (`benchmarks/recipes.py --search`): one that was searched
    on a device would depend on every class there.

    Reference: Dutt et al. 2024, "MemControl", arXiv:2405.19458.
    """

    def mask(scene: Scene) -> dict[str, npt.NDArray[np.bool_]]:
        shapes = scene.network.shapes
        for name in names:
            if not any(_is_of(array, name) for array in shapes):
                known = ", ".join(site.name for site in scene.network.sites)
                raise UsageError(f"the backbone has no site {name!r}; expected some of {known}")
        return {
            array: np.full(shape, any(_is_of(array, name) for name in names))
            for array, shape in shapes.items()
        }

    return mask


def condition(weight: Float64) -> float:
    """Return how badly a matrix (out, in) is conditioned, against a random one of its shape.

    q99 / q01 of its singular values, over (1 + sqrt g) / (1 - sqrt g), g = min / max side, the
    ratio of the extremes of a random matrix (Marchenko and Pastur 1967).

    Raises:
        UsageError: It is square, for which a random one has no such ratio.
    """
    rows, columns = weight.shape
    if rows == columns:
        raise UsageError("a square matrix has no condition to compare; choose another recipe")
    sigma = np.linalg.svd(weight, compute_uv=False)
    root = (min(rows, columns) / max(rows, columns)) ** 0.5
    low, high = np.quantile(sigma, [0.01, 0.99])
    return float(high / max(low, 1e-30) * (1 - root) / (1 + root))


def forgetful(changes: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the tensors that a change of session moves most, against the moves within one.

    Args:
        changes: Mean absolute change of each across a change of session, and within one.

    Reference: Zhao et al. 2023, "Does Continual Learning Equally Forget All Parameters?"
    (FPF), ICML, arXiv:2304.04158; the rule (above twice the median ratio) is ours.
    """
    ratios = {name: across / max(within, 1e-30) for name, (across, within) in changes.items()}
    limit = _FORGETS * float(np.median(list(ratios.values())))
    return [name for name, ratio in ratios.items() if ratio > limit]


def front(scores: Iterable[tuple[float, float]]) -> list[int]:
    """Return the numbers of the pairs that no other beats in both (smaller is better)."""
    pairs = list(scores)
    return [
        i
        for i, mine in enumerate(pairs)
        if not any(other != mine and other[0] <= mine[0] and other[1] <= mine[1] for other in pairs)
    ]


def _is_of(array: str, name: str) -> bool:
    return array == f"adapter.{name}" or array.startswith(f"adapter.{name}.")
