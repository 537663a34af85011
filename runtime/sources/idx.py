"""An IDX pair as MNIST and Fashion-MNIST are published: `images.gz,labels.gz`, packed or plain.

Format: two zero bytes, a type byte (8 = unsigned byte), the number of dimensions, each dimension
as a big-endian 32-bit integer, then the values.
"""

from __future__ import annotations

import gzip
import math
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from edgecl.errors import SourceError
from edgecl.types import Frame, Pixels, Skipped

from ..faults import in_words
from .base import ListSource

# 2 GB of pixels; the largest published pair (EMNIST by class) unpacks to 0.55 GB.
_MAX_VALUES = 2_000_000_000


class IdxSource(ListSource):
    """Pictures (N, H, W) or (N, H, W, 3) and labels (N,), both unsigned bytes.

    Raises:
        SourceError: A file is missing, not IDX, or the two do not fit.
    """

    def __init__(
        self,
        images: Path,
        labels: Path,
        *,
        label: str | None = None,
        shuffle_seed: int | None = None,
    ) -> None:
        x, y = read_idx(images), read_idx(labels)
        is_rgb = x.ndim == 4 and x.shape[3] == 3
        if (x.ndim != 3 and not is_rgb) or y.ndim != 1 or len(x) != len(y) or 0 in x.shape:
            raise SourceError(
                f"IDX pair {images},{labels} has shapes {x.shape} and {y.shape}; expected "
                "(N, H, W) or (N, H, W, 3) and (N,)"
            )
        name = f"{images},{labels}"

        def read(i: int) -> Frame | Skipped:
            picture = x[i] if is_rgb else np.repeat(x[i][:, :, None], 3, axis=2)
            own = str(y[i]) if label is None else label
            return Frame(id=str(i), pixels=picture, label=own, source=name)

        items = [(str(i), partial(read, i)) for i in range(len(x))]
        names = [str(n) for n in np.unique(y)] if label is None else [label]
        super().__init__(name, items, shuffle_seed=shuffle_seed, labels=names)


def read_idx(path: Path) -> Pixels:
    """Read one IDX file of unsigned bytes, packed with gzip or plain.

    Raises:
        SourceError: Missing, damaged, another type, or larger than its header allows.
    """
    try:
        with path.open("rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] != 8 or head[3] not in (1, 2, 3, 4):
                raise SourceError(f"{path} is not an IDX file of unsigned bytes")
            dims = file.read(4 * head[3])
            if len(dims) != 4 * head[3]:
                raise SourceError(f"{path} is damaged: its header ends before its dimensions do")
            shape = tuple(int(n) for n in np.frombuffer(dims, ">u4"))
            size = math.prod(shape)
            if size > _MAX_VALUES:
                raise SourceError(f"{path} has the dimensions {shape}; more than can be read")
            data = file.read(size + 1)
    except OSError as error:
        if error.errno is None:  # gzip's own
            raise SourceError(f"{path} cannot be read ({error})") from error
        raise SourceError(f"{path} cannot be read {in_words(error)}") from error
    except (EOFError, zlib.error) as error:
        raise SourceError(f"{path} cannot be read ({error})") from error
    if len(data) != size:
        raise SourceError(f"{path} is damaged: its header announces {size} bytes, found another")
    return np.frombuffer(data, np.uint8).reshape(shape)
