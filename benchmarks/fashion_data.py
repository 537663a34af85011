"""Fashion-MNIST from the Debian package, in the selections that the benchmarks share.

Install it with `apt-get install dataset-fashion-mnist` (Xiao et al. 2017, MIT licence).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgecl.runtime.sources.idx import read_idx
from edgecl.types import Frame

FOLDER = Path("/usr/share/datasets/fashion-mnist")
Pictures = npt.NDArray[np.uint8]


def load(part: str) -> tuple[Pictures, Pictures]:
    """Return pictures (N, 28, 28) and labels (N,) of `train` or `t10k`."""
    if not FOLDER.is_dir():
        sys.exit(f"{FOLDER} is missing; run: apt-get install dataset-fashion-mnist")
    return (
        read_idx(FOLDER / f"{part}-images-idx3-ubyte.gz"),
        read_idx(FOLDER / f"{part}-labels-idx1-ubyte.gz"),
    )


def class_by_class(
    labels: Pictures, per_class: int, order: npt.NDArray[np.int64], *, skip: int = 0
) -> npt.NDArray[np.int64]:
    """Return indices of the first `per_class` pictures after `skip` of each class, in order."""
    return np.concatenate(
        [np.flatnonzero(labels == c)[skip : skip + per_class] for c in order.tolist()]
    )


def frames(pictures: Pictures, labels: Pictures, chosen: npt.NDArray[np.int64]) -> list[Frame]:
    """Return labelled frames."""
    return [
        Frame(
            id=str(i),
            pixels=np.repeat(pictures[i][:, :, None], 3, axis=2),
            label=f"class-{labels[i]}",
            source="fashion",
        )
        for i in chosen.tolist()
    ]
