"""Where the training of an adapter starts."""

from __future__ import annotations

from collections.abc import Callable

from edgecl.adapters.bottleneck import new_adapter
from edgecl.adapters.scene import Scene
from edgecl.runtime.adapters import Adapter

Start = Callable[[Scene], Adapter]


def fresh(scene: Scene) -> Adapter:
    """Start from the plain backbone: the same rows for every session, which change nothing yet."""
    return new_adapter(scene.network.shapes, seed=scene.seed)


def warm(scene: Scene) -> Adapter:
    """Start where the last session ended (MOS, Sun et al. 2025, arXiv:2412.09441)."""
    return scene.earlier[-1] if scene.earlier else fresh(scene)
