"""Homes that have something to report, made without an engine."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import Mock, patch

import numpy as np

import build
from edgecl.home import Home
from edgecl.session import open_learner, open_store
from edgecl.store import held_out
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.types import Frame

D = 12
START = 1_700_000_000.0
"""When the first frame was taken."""
SAMPLES = {"bolt-m4": 60, "bracket": 60, "washer": 60, "gasket": 14}


def reported_home(
    path: Path, samples: Mapping[str, int] = SAMPLES, *, sealed: bool = False
) -> Home:
    """Make a home that learned classes one after the other, with pictures and probes.

    It was scored over some days: an hour passes between two scores.

    Args:
        path: Where it will be.
        samples: Frames of each class.
        sealed: Whether its store is encrypted.
    """
    home = build.tiny_home(path, num_features=D, sealed=sealed, probes=20)
    rng = np.random.default_rng(3)
    centres = rng.uniform(0, 3, (len(samples), D))
    clock = itertools.count(START, 3600)
    with open_store(home) as store, patch.object(held_out, "time", Mock(time=clock.__next__)):
        learner = open_learner(home, store)
        n = 0
        for k, (name, count) in enumerate(samples.items()):
            for i in range(count):
                picture = build.encode(build.part_picture(build.PARTS[k % 4], i, 24))
                frame = Frame(f"{k}/{i}", picture, label=name, source="camera:0", time=START + n)
                x = np.maximum(centres[k] + rng.normal(0, 0.9, D), 0).astype(np.float32)
                learner.learn_one(frame, x)
                learner.note_latency("engine", 0.012 * (1 + i % 3))
                n += 1
        learner.settle()
    return home


def add_novel(store: Store, n: int) -> None:
    """Put frames into the review queue, as if they looked like the first class."""
    guess = next(iter(store.names))
    x = np.zeros(store.num_features, np.float16)
    for i in range(n):
        picture = build.encode(build.part_picture("washer", i, 24))
        store.add_aside(
            Role.REVIEW, guess, x, picture, source="", frame="", time=START, score=1.0 + i
        )
