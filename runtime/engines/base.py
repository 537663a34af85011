"""What every engine does."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from edgecl.types import Float32


@dataclass(slots=True)
class Runs:
    """How an engine used its GPU so far; one on a CPU leaves all of it as it is.

    Args:
        pinned: Whether pictures lie in memory of the host that the GPU copies from by itself.
        recorded: CUDA graphs that were recorded.
        replayed: Runs that replayed one.
        plain: Runs whose kernels were launched one by one, by the reason.
    """

    pinned: bool = False
    recorded: int = 0
    replayed: int = 0
    plain: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self) | {"plain": dict(self.plain)}


class Engine(Protocol):
    """A frozen backbone that is ready to run."""

    provider: str

    @property
    def num_features(self) -> int:
        """Width D of the features."""
        ...

    def run(self, pixels: Float32) -> Float32:
        """Return features.

        Args:
            pixels: Preprocessed pictures, shape (N, 3, S, S), float32.

        Returns:
            Features, shape (N, D), float32. A picture's feature does not depend on its neighbours.

        Raises:
            ShapeError: Another shape or dtype.
        """
        ...


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine is to run; what is None comes from the settings.

    Args:
        provider: `auto`, `cuda`, `tensorrt` or `cpu`; what is named must be in use.
        threads: CPU threads for one picture.
        allow_fallback: Use the CPU when the named provider does not make a session.
    """

    provider: str | None = None
    threads: int | None = None
    allow_fallback: bool = False


AS_SET = EngineOptions()
"""As the settings say."""
