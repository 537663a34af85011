"""Keys and a whitening map, made of unlabelled features before any class is learned.

The map takes signed roots with unit norm a stage to their principal directions, each divided by
the deviation along it (runtime/whitening.py); with keys made behind it a key-value head sees what
tells pictures apart instead of what is large (docs/decisions/0006).

Keys are exponential moving averages of the features that fall to a key, smoothed counts, and a new
place for keys that get nothing (van den Oord et al. 2017, arXiv:1711.00937, as the Discrete
Key-Value Bottleneck uses it, Traeuble et al. 2023, arXiv:2207.11240). Two faults of the released
code are mended: sums start as count times key, so that the first step does not shrink the keys, and
a key that is moved takes its sum and count along, so that the next step does not undo it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgecl.heads.linear import scale_of
from edgecl.runtime.codebook import PROJECTED_GRID, PROJECTION_BITS, Codebook
from edgecl.runtime.grid import GRID, quantise
from edgecl.runtime.whitening import DIRECTION_BITS, ROOT_GRID, WHITENED_GRID, Whitening, roots
from edgecl.types import Float16, Float32, Float64

N_CODEBOOKS, N_KEYS, WIDTH = 64, 512, 8
# Directions of a map: for keys, and for class means (docs/decisions/0006, 0007).
N_FOR_KEYS, N_FOR_MEANS = 64, 256
_DECAY = 0.95
_SMOOTHING = 1e-5
_BATCH = 256
_EPOCHS = 10
# A key that gets less than this share of its fair part of a batch is moved.
_DEAD_SHARE = 0.1
_DATA_FREE_ROWS = 2048
# A direction needs so many pictures, and this share of the largest variance: the rest is noise.
_ROWS_A_DIRECTION = 4
_LEAST_VARIANCE = 1e-6
_TINY = 1e-12


def make_whitening(
    features: Float16 | Float32, stages: Sequence[int], n_directions: int
) -> Whitening:
    """Make a whitening map of unlabelled features (N, D); no class may depend on it.

    Args:
        features: Features of pictures that will not have to be forgotten.
        stages: Widths of the stages that follow each other in a feature; their sum is D.
        n_directions: Most directions; fewer pictures give fewer, one for `_ROWS_A_DIRECTION`.
    """
    widths = np.array(stages, np.int64)
    whole = roots(quantise(features), widths)
    mean = whole.mean(axis=0)
    centred = (whole - mean) * ROOT_GRID
    variance, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    n = max(1, min(n_directions, len(whole) // _ROWS_A_DIRECTION))
    n = min(n, int((variance > _LEAST_VARIANCE * variance[-1]).sum()))
    exact = (vectors / np.sqrt(np.maximum(variance, _TINY)))[:, ::-1][:, :n]
    directions, unit = whole_numbers(exact, DIRECTION_BITS, axis=0)
    step = unit * ROOT_GRID
    offset = np.rint(mean @ directions.astype(np.float64)) * step
    return Whitening(widths, directions, unit, offset)


def whole_numbers(
    exact: Float64, bits: int, *, axis: int | None = None
) -> tuple[npt.NDArray[np.int16], Float64]:
    """Return the nearest int16 numbers of so many bits, and the power of two that they count."""
    unit = 2.0 ** np.ceil(np.log2(np.abs(exact).max(axis=axis) / 2**bits))
    limit = 2**bits - 1
    return np.clip(np.rint(exact / unit), -limit, limit).astype(np.int16), np.asarray(unit)


def make_codebook(
    features: Float16 | Float32,
    *,
    whitening: Whitening | None = None,
    seed: int = 0,
    n_codebooks: int = N_CODEBOOKS,
    n_keys: int = N_KEYS,
    width: int = WIDTH,
    epochs: int = _EPOCHS,
) -> Codebook:
    """Learn keys on unlabelled features (N, D); no class may depend on them.

    Args:
        features: Features of pictures that will not have to be forgotten.
        whitening: Map that goes before the projections, if any.
        seed: Seed of projections and keys.
        n_codebooks: Codebooks, C.
        n_keys: Keys of each, J.
        width: Values k of a projected feature.
        epochs: Passes over the features.
    """
    quantised = quantise(features)
    rows, grid = quantised.astype(np.float64), GRID
    if whitening is not None:
        rows, grid = whitening.map(quantised) * WHITENED_GRID, WHITENED_GRID
    rng = np.random.default_rng([seed, 10])
    mean = rows.mean(axis=0)
    scale = scale_of(rows.var(axis=0))
    directions = rng.standard_normal((rows.shape[1], n_codebooks * width))
    directions /= np.linalg.norm(directions, axis=0)
    projection, unit = whole_numbers(directions / scale[:, None], PROJECTION_BITS)
    step = unit * grid
    offset = np.rint((mean @ (projection * unit)) / step) * step
    blank = np.zeros((n_codebooks, n_keys, width), np.int16)
    book = Codebook(projection, float(unit), offset, blank, whitening)
    h = np.concatenate(
        [book.project(quantised[start : start + _BATCH]) for start in range(0, len(rows), _BATCH)]
    )
    keys = np.empty((n_codebooks, n_keys, width))
    for c in range(n_codebooks):
        keys[c] = learned_keys(h[:, c] * PROJECTED_GRID, n_keys, rng, epochs=epochs)
    most = np.iinfo(np.int16).max
    whole = np.clip(np.rint(keys / PROJECTED_GRID), -most, most).astype(np.int16)
    return replace(book, keys=whole)


def default_codebook(num_features: int, *, seed: int = 0) -> Codebook:
    """Return keys that no data made.

    They are learned on normal features around one with deviation one, which is where the pooled
    features of a network with rectified units lie roughly (docs/decisions/0006).
    """
    rng = np.random.default_rng([seed, 11])
    rows = rng.normal(1.0, 1.0, (_DATA_FREE_ROWS, num_features)).astype(np.float32)
    return make_codebook(rows, seed=seed, epochs=1)


def learned_keys(
    h: Float64, n_keys: int, rng: np.random.Generator, *, epochs: int = _EPOCHS
) -> Float64:
    """Return keys (J, k) of projected features (N, k)."""
    start = rng.permutation(len(h))[:n_keys]
    start = np.concatenate([start, rng.integers(len(h), size=n_keys - len(start))])
    keys, counts = h[start].copy(), np.ones(n_keys)
    sums = counts[:, None] * keys
    for _ in range(epochs):
        order = rng.permutation(len(h))
        for begin in range(0, len(order), _BATCH):
            batch = h[order[begin : begin + _BATCH]]
            keys, counts, sums = moved(keys, counts, sums, batch, rng)
    return keys


def moved(
    keys: Float64, counts: Float64, sums: Float64, batch: Float64, rng: np.random.Generator
) -> tuple[Float64, Float64, Float64]:
    """Return keys (J, k), counts (J,) and sums (J, k) after one batch (B, k)."""
    nearest = (np.square(keys).sum(axis=1) - 2 * batch @ keys.T).argmin(axis=1)
    hits = np.bincount(nearest, minlength=len(keys))
    added = np.zeros_like(keys)
    np.add.at(added, nearest, batch)
    counts = _DECAY * counts + (1 - _DECAY) * hits
    sums = _DECAY * sums + (1 - _DECAY) * added
    total = counts.sum()
    smooth = (counts + _SMOOTHING) / (total + len(keys) * _SMOOTHING) * total
    keys = sums / smooth[:, None]
    least = _DEAD_SHARE * len(batch) / len(keys)
    dead = counts < least
    chosen = batch[rng.integers(len(batch), size=int(dead.sum()))]
    keys[dead], counts[dead], sums[dead] = chosen, least, least * chosen
    return keys, counts, sums
