"""Adapters as arrays: what the engine takes beside the pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from edgecl.errors import FeatureMapError
from edgecl.types import Float32

Adapter = dict[str, Float32]
"""Arrays by the name of the engine's input; zeros are the plain backbone."""
GATE = "adapter.gate"
"""Input (1,) of an engine with gates; above 0, each picture chooses among the adapter's rows."""


def zeros(shapes: Mapping[str, tuple[int, ...]]) -> Adapter:
    """Return the adapter that changes nothing."""
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def mean_of(adapters: Sequence[Adapter]) -> Adapter:
    """Return the mean of adapters of one shape, summed in float64 in their order."""
    mean: Adapter = {}
    for name in adapters[0]:
        total = np.zeros(adapters[0][name].shape, np.float64)
        for adapter in adapters:
            total += adapter[name]
        mean[name] = (total / len(adapters)).astype(np.float32)
    return mean


def scaled(adapter: Adapter, factors: Mapping[str, float]) -> Adapter:
    """Return an adapter whose residual at each named site is so many times as long."""
    out = dict(adapter)
    for site, factor in factors.items():
        for part in ("up", "up_bias"):  # the residual is linear in these
            name = f"adapter.{site}.{part}"
            out[name] = (adapter[name] * np.float32(factor)).astype(np.float32)
    return out


def padded(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> Adapter:
    """Return an adapter of smaller rank as one of the engine's rank, the rest zeros.

    One that says nothing of a gate has none.

    Raises:
        FeatureMapError: It belongs to another backbone, or its rank is larger.
    """
    if set(adapter) not in (set(shapes), set(shapes) - {GATE}):
        raise FeatureMapError(
            f"the adapter has {len(adapter)} arrays, the engine takes {len(shapes)} of other "
            "names; use the engine that it was trained for"
        )
    out: Adapter = {}
    for name, shape in shapes.items():
        found = adapter.get(name, np.zeros(shape, np.float32))
        if found.ndim != len(shape) or any(a > b for a, b in zip(found.shape, shape, strict=True)):
            raise FeatureMapError(
                f"adapter array {name} is {found.shape}, the engine takes {shape}; use the engine "
                "that it was trained for"
            )
        out[name] = np.zeros(shape, np.float32)
        out[name][tuple(slice(n) for n in found.shape)] = found
    return out


def fitted(
    adapters: Sequence[Adapter], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Adapter, ...]:
    """Return adapters as an engine takes them.

    Args:
        adapters: Adapters of any rank up to the engine's.
        shapes: The engine's inputs; empty if it takes no adapters.

    Raises:
        FeatureMapError: The engine takes no adapters, or others.
    """
    if adapters and not shapes:
        raise FeatureMapError(
            "this engine takes no adapters; run `edgecl consolidate`, which makes one that does"
        )
    return tuple(padded(adapter, shapes) for adapter in adapters)


def beside(runs: Sequence[Float32], width: int, *, n_adapters: int) -> Float32:
    """Return plain features (N, D) and those of every adapter side by side, (N, (1 + n) D).

    Args:
        runs: What the engine gave for each adapter, (N, 2 D), or for none, (N, D) or (N, 2 D).
        width: Features of one map, D.
        n_adapters: Adapters, n.
    """
    first = runs[0][:, : width * min(2, 1 + n_adapters)]
    others = [run[:, width : 2 * width] for run in runs[1:]]
    return np.concatenate([first, *others], axis=1) if others else first


def digest_of(adapter: Adapter) -> str:
    """Return a SHA-256 over names, shapes and values, hex."""
    digest = hashlib.sha256()
    for name in sorted(adapter):
        array = np.ascontiguousarray(adapter[name], dtype="<f4")
        digest.update(f"{name} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
