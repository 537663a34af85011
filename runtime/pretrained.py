"""The classifier that the weights of a backbone came with: what it knows of things never taught.

It is a linear map of the last block of the feature, which the engine gives anyway, so a guess costs
no second pass. Nothing is ever learned into it, it counts as nothing that was taught, and it stays
what it was when a class is unlearned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from edgecl.errors import IntegrityError
from edgecl.types import Float16, Float32

from .files import loads, read_own
from .manifest import Manifest

PRETRAINED_NAME = "pretrained.safetensors"
_MOST_BYTES, _MOST_NAMES = 2**28, 100_000

Guess = tuple[str, float]


@dataclass(frozen=True)
class Pretrained:
    """A linear classifier of F features over C classes.

    Args:
        weights: (F, C), float16 as it is kept.
        offset: (C,).
        labels: Names of the classes, all different.
        source: What it was trained on, as timm names it.
    """

    weights: Float16
    offset: Float32
    labels: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        f, c = self.weights.shape
        if not f or self.offset.shape != (c,) or len(set(self.labels)) != c:
            raise ValueError(f"{f} features, {self.offset.shape} offsets, {len(self.labels)} names")

    @cached_property
    def _wide(self) -> Float32:
        # Widening takes several times as long as the product of one frame with it.
        return self.weights.astype(np.float32)

    def guesses(self, x: Float32, *, top: int = 1) -> list[tuple[Guess, ...]]:
        """Return the best classes of plain features (N, D) with their shares, largest first.

        The share is a softmax over its own classes: a guess, not calibrated on anything here.
        """
        z = x[:, x.shape[1] - len(self.weights) :].astype(np.float32)
        logits = z @ self._wide + self.offset
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        best = np.argsort(-shares, axis=1, kind="stable")[:, :top]
        return [
            tuple((self.labels[i], float(row[i])) for i in places)
            for row, places in zip(shares, best, strict=True)
        ]

    def as_bytes(self) -> bytes:
        """Return the content of its file; the same classifier gives the same bytes."""
        about = json.dumps({"source": self.source, "labels": self.labels}).encode()
        return save_arrays(
            {
                "weights": self.weights,
                "offset": self.offset,
                "about": np.frombuffer(about, np.uint8),
            }
        )


def hint_json(guesses: Sequence[Guess]) -> dict[str, Any]:
    """Return the entry `hint` of an answer: what it looks like, though that was never taught."""
    if not guesses:
        return {}
    return {"hint": [{"label": name, "score": round(share, 4)} for name, share in guesses]}


def load_pretrained(folder: Path, manifest: Manifest) -> Pretrained | None:
    """Read the classifier beside an engine, or None if its manifest names none.

    Raises:
        IntegrityError: It is missing, was changed, or does not fit the features.
    """
    if not manifest.pretrained:
        return None
    path = folder / PRETRAINED_NAME
    try:
        found = _read(pretrained_bytes(folder, manifest))
        if len(found.weights) != manifest.stages[-1]:
            raise ValueError(f"it is for {len(found.weights)} features")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise IntegrityError(
            f"{path} cannot be read ({error}); restore it from a backup, or make the home anew "
            "with `edgecl init`"
        ) from error
    return found


def pretrained_bytes(folder: Path, manifest: Manifest) -> bytes:
    """Return the content of the file after its hash was compared with the manifest.

    Raises:
        OSError: There is none.
        ValueError: It was changed.
    """
    data = read_own(folder / PRETRAINED_NAME, _MOST_BYTES)
    if hashlib.sha256(data).hexdigest() != manifest.pretrained:
        raise ValueError("its hash is not the one that the manifest says")
    return data


def _read(data: bytes) -> Pretrained:
    arrays = load_arrays(data)
    about = loads(arrays["about"].tobytes())
    labels = about["labels"]
    if len(labels) > _MOST_NAMES or not all(isinstance(name, str) for name in labels):
        raise ValueError("its names are none")
    return Pretrained(arrays["weights"], arrays["offset"], tuple(labels), str(about["source"]))
