"""Which entries of an adapter train."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgecl.adapters.scene import Scene

Mask = Callable[[Scene], dict[str, npt.NDArray[np.bool_]]]
"""By array name and in its shape; True trains. What is not named trains."""


def everything(scene: Scene) -> dict[str, npt.NDArray[np.bool_]]:
    """Let every entry train."""
    del scene
    return {}
