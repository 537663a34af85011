"""The pictures that an engine of another precision is calibrated on and judged by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edgecl.consolidation.plan import probe_of
from edgecl.errors import DecodeError, SourceError
from edgecl.home import Home
from edgecl.runtime.augment import strong_view
from edgecl.runtime.preprocess import picture_of
from edgecl.runtime.sources.folder import FolderSource
from edgecl.session import Session
from edgecl.store.store import Store
from edgecl.types import Skipped

from .parity import generated_pictures

N_COMPARED = 256
N_CALIBRATED = 256
Sample = tuple[int, int]
"""Uid and class uid of a kept picture."""


class Pictures:
    """Kept pictures in a seeded order in which the classes take turns."""

    def __init__(self, home: Home, store: Store) -> None:
        self._home, self._store = home, store
        rng = np.random.default_rng([home.config.head.seed, 11])
        of: dict[int, list[int]] = {}
        for uid, c in store.stored_samples():
            of.setdefault(c, []).append(uid)
        shuffled = {c: rng.permutation(uids).tolist() for c, uids in of.items()}
        longest = max(map(len, shuffled.values()), default=0)
        self.order: list[Sample] = [
            (uids[i], c) for i in range(longest) for c, uids in shuffled.items() if i < len(uids)
        ]

    def picture(self, uid: int) -> Image.Image:
        """Return a kept picture.

        Raises:
            IntegrityError: It cannot be decoded.
        """
        return Session(self._home, self._store).kept_image(uid, self._store.picture(uid))

    def held_out(self) -> list[Sample]:
        """Return the samples that judge, 256 or a quarter of all, and never a class's last one."""
        first = probe_of(self._store.stored_samples())
        left = Counter(c for _, c in self.order)
        chosen: list[Sample] = []
        most = min(N_COMPARED, max(1, len(self.order) // 4))
        for sample in sorted(self.order, key=lambda sample: sample[0] not in first):
            if len(chosen) < most and left[sample[1]] > 1:
                left[sample[1]] -= 1
                chosen.append(sample)
        return chosen

    def take(self, samples: Sequence[Sample]) -> Iterator[Image.Image]:
        """Yield 256 pictures to compare on: these, changed copies of them, or made ones."""
        if not samples:
            yield from generated_pictures(N_COMPARED, self._home.manifest.preprocessing.image_size)
            return
        samples = samples[:N_COMPARED]
        for i in range(N_COMPARED):
            view, place = divmod(i, len(samples))
            uid, _ = samples[place]
            seed = self._home.config.head.seed
            yield strong_view(self.picture(uid), seed=seed, uid=uid, view=view)


def from_folder(home: Home, folder: Path) -> Iterator[Image.Image]:
    """Yield pictures of a folder, drawn by seed.

    Raises:
        SourceError: It cannot be read, or holds no picture that can be decoded.
    """
    n = 0
    source = FolderSource(folder, shuffle_seed=home.config.head.seed, wants_classes=False)
    how = home.manifest.preprocessing
    for frame in source.frames():
        if not isinstance(frame, Skipped):
            try:
                image = picture_of(
                    frame,
                    max_pixels=home.max_pixels,
                    levels=how.levels,
                    least_side=how.least_side,
                )
            except DecodeError:
                continue
            n += 1
            yield image
        if n == N_CALIBRATED:
            return
    if not n:
        raise SourceError(f"no picture in {folder} can be decoded; name another --calibration")
