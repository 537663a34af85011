"""On-device continual learning for vision.

A frozen backbone turns a picture into a feature, a small head learns classes online, every sample
that counts lives in one SQLite file, and a class can be unlearned for good, with a receipt.

Public names load on first use, so `import edgecl` loads neither torch nor onnxruntime nor numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgecl.device import Device
    from edgecl.errors import EdgeclError
    from edgecl.heads import make_head
    from edgecl.home import Home
    from edgecl.learner import Learner
    from edgecl.runtime.predictor import Predictor
    from edgecl.store.store import Store
    from edgecl.types import Frame, Prediction, Receipt, UpdateReport

__version__ = "0.1.0"

__all__ = [
    "Device",
    "EdgeclError",
    "Frame",
    "Home",
    "Learner",
    "Prediction",
    "Predictor",
    "Receipt",
    "Store",
    "UpdateReport",
    "make_head",
]

_HOMES = {
    "Device": "edgecl.device",
    "EdgeclError": "edgecl.errors",
    "Frame": "edgecl.types",
    "Home": "edgecl.home",
    "Learner": "edgecl.learner",
    "Prediction": "edgecl.types",
    "Predictor": "edgecl.runtime.predictor",
    "Receipt": "edgecl.types",
    "Store": "edgecl.store.store",
    "UpdateReport": "edgecl.types",
    "make_head": "edgecl.heads",
}


def __getattr__(name: str) -> Any:  # Any: the value is whatever the named module defines
    if name not in _HOMES:
        raise AttributeError(f"module 'edgecl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
