"""An exact head is a function of its samples: no order, split or merge changes a bit of it."""

from __future__ import annotations

import numpy as np
import pytest

import build
from edgecl.heads import HEADS, make_head
from edgecl.heads.base import Head
from edgecl.heads.codebook import N_FOR_KEYS, make_whitening
from edgecl.heads.prototype import PrototypeHead
from edgecl.heads.statistics import Moments
from edgecl.runtime.grid import quantise

D, K, N = 45, 37, 400
NAMES = {uid: f"class {uid}" for uid in range(1, K + 1)}
# A map of pictures without labels makes the prototype head another one.
MAP = make_whitening(quantise(build.features(200, D, 5, seed=8)[0]), (D,), N_FOR_KEYS)
EXACT = [*(name for name in HEADS if make_head(name, D).unlearns_exactly), "prototype on a map"]
each = pytest.mark.parametrize("name", EXACT)
shuffles = pytest.mark.parametrize("seed", range(6))


def made(name: str) -> Head:
    return PrototypeHead(D, codebook=MAP) if name not in HEADS else make_head(name, D)


def bits(head: Head) -> dict[str, dict[str, bytes]]:
    """What a head predicts with: of each class its own arrays, and those of all."""
    head.settle()
    scorer = head.scorer(NAMES)
    out: dict[str, dict[str, bytes]] = {label: {} for label in scorer.labels}
    out["all"] = {}
    for key, array in scorer.arrays().items():
        axis = array.shape.index(K) if K in array.shape else None
        for k, label in enumerate(scorer.labels):
            if axis is not None:
                out[label][key] = np.take(array, k, axis).tobytes()
        if axis is None:
            out["all"][key] = array.tobytes()
    return out


def learned(name: str, x: np.ndarray, y: np.ndarray) -> dict[str, dict[str, bytes]]:
    head = made(name)
    for part in np.array_split(np.arange(len(x)), 9):
        head.learn_many(x[part], y[part])
    return bits(head)


@each
@shuffles
def test_any_order_of_samples_and_classes_gives_equal_bits(name: str, seed: int) -> None:
    x, y = build.features(N, D, K)
    order = np.random.default_rng(seed).permutation(N)
    assert learned(name, x[order], y[order]) == learned(name, x, y)


@each
@shuffles
def test_any_split_over_devices_and_any_order_of_merging_gives_equal_bits(
    name: str, seed: int
) -> None:
    x, y = build.features(N, D, K)
    rng = np.random.default_rng(seed)
    owner, head = rng.integers(0, 2 + seed, N), made(name)
    merged: dict[int, Moments] = {}
    for device in rng.permutation(2 + seed):
        for uid in rng.permutation(np.unique(y[owner == device])).tolist():
            part = head.statistic.of(quantise(x[(owner == device) & (y == uid)]))
            merged[uid] = merged[uid].plus(part) if uid in merged else part
    head.restore(merged, None)
    assert bits(head) == learned(name, x, y)
