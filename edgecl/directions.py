"""A small feature: the wide one on a few fixed directions, the last stage of a feature network.

Every block of the wide feature (a pooled tap, the last features) is taken by its signed roots and
to length one, so that none outweighs the others, and the whole is projected. The directions are
made before any class is learned and never change: a fixed map of one picture, under which
statistics stay exactly forgettable (docs/decisions/0015). A head of the closed form costs the
square of the width, so a few hundred directions make it some ten times faster and smaller.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgecl.errors import UsageError
from edgecl.types import Float32

if TYPE_CHECKING:
    import torch
    from torch import nn

# Below it roots are taken as straight lines: their slope stays finite for who trains through them,
# and float16 can hold it.
_TINY = 1e-4


@dataclass(frozen=True)
class Directions:
    """A projection.

    Args:
        matrix: Directions as columns, (D, K).
        offset: What is subtracted after the projection, (K,).
    """

    matrix: Float32
    offset: Float32

    @property
    def sha256(self) -> str:
        """Hash over both, hex; part of the hash of the feature map."""
        digest = hashlib.sha256(str(self.matrix.shape).encode())
        for array in (self.matrix, self.offset):
            digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return digest.hexdigest()


def sign_directions(num_features: int, n: int) -> Directions:
    """Return n directions that no data made: random signs, equal bits on every machine.

    Signs keep distances as normal numbers do (Achlioptas 2003, Database-friendly random
    projections), and blocks of length one give features of the order of one without a scale.
    """
    values = num_features * n
    stream = hashlib.shake_128(b"edgecl directions").digest(-(-values // 8))
    bits = np.unpackbits(np.frombuffer(stream, np.uint8))[:values]
    matrix = (2 * bits.astype(np.float32) - 1).reshape(num_features, n)
    return Directions(matrix, np.zeros(n, np.float32))


def principal_directions(wide: Float32, stages: Sequence[int], n: int) -> Directions:
    """Return the first n principal directions of unlabelled features, each of deviation one.

    The pictures are part of the map for ever: none may have to be forgotten, and no class that is
    learned may be among them.

    Args:
        wide: Features (N, D) of pictures.
        stages: Widths of the blocks of the feature, their sum is D.
        n: Directions, fewer than N and at most D.

    Raises:
        UsageError: There are too few features.
    """
    import torch

    if not 0 < n < min(len(wide), wide.shape[1] + 1):
        raise UsageError(
            f"{len(wide)} pictures with {wide.shape[1]} features give no {n} principal directions; "
            "give more pictures or take fewer"
        )
    x = unit_roots(torch.from_numpy(wide), stages).numpy().astype(np.float64)
    mean = x.mean(axis=0)
    variances, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    largest = np.argsort(-variances)[:n]
    # Directions in which the pictures do not differ are not blown up.
    least = 1e-6 * variances[largest[0]]
    matrix = vectors[:, largest] / np.sqrt(np.maximum(variances[largest], least))
    return Directions(matrix.astype(np.float32), (mean @ matrix).astype(np.float32))


def unit_roots(x: torch.Tensor, stages: Sequence[int]) -> torch.Tensor:
    """Return features (N, D) as signed roots, every block of length one."""
    import torch

    blocks = []
    for block in torch.split(x, list(stages), dim=1):
        roots = block * (block.abs() + _TINY).rsqrt()
        blocks.append(roots * (roots.square().sum(dim=1, keepdim=True) + _TINY).rsqrt())
    return torch.cat(blocks, dim=1)


def tail_of(directions: Directions, stages: Sequence[int]) -> nn.Module:
    """Return the module that maps wide features (N, D) to small ones (N, K)."""
    import torch
    from torch import nn

    class Tail(nn.Module):
        matrix: torch.Tensor
        offset: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("matrix", torch.from_numpy(directions.matrix))
            self.register_buffer("offset", torch.from_numpy(directions.offset))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            small: torch.Tensor = unit_roots(x, stages) @ self.matrix - self.offset
            return small  # (N, K)

    return Tail().eval()
