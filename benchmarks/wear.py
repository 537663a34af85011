"""What a learned sample costs a disk: bytes that stay, and bytes that are written for them.

Features are given, 2224 wide, ten classes, the ridge head, 20 held out samples a class; pictures
are JPEG files of the size that the table says. `written` is what the kernel sent to the block layer
for this process (`write_bytes` of /proc/self/io), log and checkpoints included; what a flash disk
makes of it inside is not seen from here. `kept` is a full store: every new picture displaces one.
`folded` has one class: its rows become statistics once in 3,508 samples, which is on the way.

Run: python benchmarks/wear.py --folder PLACE-ON-A-DISK (a memory disk counts nothing)
"""

from __future__ import annotations

import told  # isort: skip  # noqa: F401

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from edgecl.heads import make_head
from edgecl.learner import Learner
from edgecl.store.progress import Position
from edgecl.store.store import Store, create_store
from edgecl.store.vault import Vault
from edgecl.types import Frame

D = 2224
# Name, commit_every, most pictures, classes, frames before, frames measured, side, sealed.
CASES = (
    ("filling", 1, 10_000, 10, 100, 500, 112, False),
    ("filling", 16, 10_000, 10, 112, 992, 112, False),
    ("filling, encrypted", 16, 10_000, 10, 112, 992, 112, True),
    ("filling", 16, 10_000, 10, 112, 992, 224, False),
    ("kept", 1, 200, 10, 400, 500, 112, False),
    ("kept", 16, 200, 10, 400, 992, 112, False),
    ("folded", 16, 200, 1, 3200, 3520, 112, False),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("."))
    arguments = parser.parse_args()
    print(
        "| store | frames a commit | picture, kB | stays, kB a sample | written, kB a sample | "
        "written, GB a day at 1 a second |"
    )
    print("|---|---|---|---|---|---|")
    for name, n_commit, *rest in CASES:
        picture, stays, written = _measure(arguments.folder, n_commit, *rest)
        print(
            f"| {name} | {n_commit} | {picture / 1e3:.1f} | {stays / 1e3:.1f} "
            f"| {written / 1e3:.1f} | {written * 86400 / 1e9:.2f} |"
        )


def _measure(
    folder: Path,
    n_commit: int,
    capacity: int,
    n_classes: int,
    n_before: int,
    n: int,
    side: int,
    sealed: bool,
) -> tuple[float, float, float]:
    """Return bytes of a picture, and bytes a sample that stay and that were written."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "device.db"
        create_store(
            path, feature_map="f" * 64, num_features=D, second_moment="full", sealed=sealed
        )
        vault = None
        if sealed:
            (Path(place) / "class.keys").touch()
            vault = Vault(Path(place) / "class.keys", bytes(32))
        stream = _stream(n_classes, side)
        with Store(path, capacity_samples=capacity, vault=vault) as store:
            learner = Learner(store, make_head("ridge", D), probes=20)
            _learn(learner, stream, n_commit, n_before)
            before, size = _written(), _size(store)
            picture = _learn(learner, stream, n_commit, n)
            stays = _size(store) - size
        # The log is emptied when the store is closed; it is part of what was written.
        return picture, stays / n, (_written() - before) / n


def _learn(
    learner: Learner, stream: Iterator[tuple[Frame, np.ndarray]], n_commit: int, n: int
) -> float:
    """Learn n frames; returns the mean bytes of their pictures."""
    total = 0
    for start in range(0, n, n_commit):
        frames, x = zip(*(next(stream) for _ in range(n_commit)), strict=True)
        total += sum(len(frame.encoded or b"") for frame in frames)
        position = ("stream", Position(start + n_commit, b"", False))
        learner.learn_many(frames, np.array(x), position=position)
    return total / n


def _stream(n_classes: int, side: int) -> Iterator[tuple[Frame, np.ndarray]]:
    """Yield frames of the classes in turn and features in clusters."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 2, (n_classes, D))
    i = 0
    while True:
        c = i % n_classes
        coarse = Image.fromarray(rng.integers(0, 255, (side // 8, side // 8, 3), np.uint8))
        out = io.BytesIO()
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(out, "JPEG")
        x = np.maximum(centres[c] + rng.normal(0, 0.5, D), 0).astype(np.float32)
        yield Frame(str(i), encoded=out.getvalue(), label=f"class-{c}", time=1e9 + i), x
        i += 1


def _size(store: Store) -> int:
    """Return the bytes of the store's pages that hold something."""
    (n_pages,) = store.connection.execute("PRAGMA page_count").fetchone()
    (n_free,) = store.connection.execute("PRAGMA freelist_count").fetchone()
    (size,) = store.connection.execute("PRAGMA page_size").fetchone()
    return int((n_pages - n_free) * size)


def _written() -> int:
    values = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(values["write_bytes"]) - int(values["cancelled_write_bytes"])


if __name__ == "__main__":
    main()
