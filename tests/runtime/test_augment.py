"""Strong views: functions of their numbers alone, same size, grey stays grey."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import build
from edgecl.runtime.augment import OPERATIONS, strong_view

numbers = st.integers(0, 2**31)


@settings(max_examples=30)
@given(numbers, numbers, st.integers(1, 20))
def test_a_view_is_a_function_of_seed_sample_and_number(seed: int, uid: int, view: int) -> None:
    image = build.part_picture("bracket", 0, 20)
    before = image.tobytes()
    views = [strong_view(image, seed=seed, uid=uid, view=view) for _ in range(2)]
    assert views[0].tobytes() == views[1].tobytes()
    assert image.tobytes() == before
    assert (views[0].size, views[0].mode) == (image.size, "RGB")


def test_views_of_one_sample_and_of_two_differ() -> None:
    image = build.part_picture("bracket", 0)
    drawn = {
        strong_view(image, seed=s, uid=uid, view=v).tobytes()
        for s in range(2)
        for uid in range(3)
        for v in range(1, 4)
    }
    assert len(drawn) == 2 * 3 * 3


def test_view_zero_is_the_picture() -> None:
    image = build.part_picture("washer", 0)
    assert strong_view(image, seed=1, uid=2, view=0).tobytes() == image.tobytes()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("size", [(1, 1), (3, 40), (28, 28)])
def test_a_grey_picture_of_any_size_stays_grey(operation: object, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0]), np.uint8)
    image = Image.fromarray(pixels).convert("RGB")
    assert callable(operation)
    for seed in range(5):
        changed = np.asarray(operation(image, np.random.default_rng(seed)))
        assert changed.shape == (size[1], size[0], 3)
        assert (changed == changed[:, :, :1]).all()


def test_a_view_is_nearer_to_its_own_picture_than_to_another() -> None:
    """Strong, but the part is still there: colour tells these four parts apart."""
    means = {p: np.asarray(build.part_picture(p, 0)).mean(axis=(0, 1)) for p in build.PARTS}
    n_right = 0
    for part in build.PARTS:
        for view in range(1, 11):
            image = strong_view(build.part_picture(part, 1), seed=0, uid=1, view=view)
            mean = np.asarray(image).mean(axis=(0, 1))
            mean -= mean.mean()
            nearest = min(
                means, key=lambda p: float(np.abs(means[p] - means[p].mean() - mean).sum())
            )
            n_right += nearest == part
    assert n_right >= 36
