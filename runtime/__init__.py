"""What a device needs to predict: decode, preprocess, engine, scores; without torch or timm."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .predictor import Predictor

__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:  # Any: the value is whatever the module defines
    if name != "Predictor":
        raise AttributeError(f"module 'edgecl.runtime' has no attribute {name!r}")
    # On first use: commands that do not predict must not load numpy.
    from .predictor import Predictor

    return Predictor
