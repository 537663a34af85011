"""A moving test pattern with known labels, so that everything runs without a camera.

Class after class is shown for `hold` frames, then round again. A class is one of eight colours and
six shapes; its shape moves over stripes whose direction belongs to the class too, under slight
noise, so that no two frames are the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from PIL import Image, ImageDraw

from edgecl.errors import UsageError
from edgecl.types import Frame, Pixels, Skipped

from .base import Source
from .live import STALL_S, LiveSource, Shot

PREFIX = "synthetic:"
_COLOURS = {
    "red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 80, 230), "yellow": (235, 215, 50),
    "magenta": (215, 60, 215), "cyan": (60, 205, 215), "white": (240, 240, 240),
    "orange": (240, 140, 30),
}  # fmt: skip
_SHAPES = ("disc", "square", "ring", "cross", "triangle", "bars")
MAX_CLASSES = len(_COLOURS) * len(_SHAPES)
_LEAST_FPS = 0.01
_NOISE = 24  # grey levels, each way


@dataclass(frozen=True, slots=True)
class Pattern:
    """What is shown; the options of `synthetic:NAME=VALUE,...`.

    Args:
        classes: Number of classes.
        size: Edge of the square picture, pixels.
        fps: Frames a second, at least 0.01; 0 makes them when they are asked for, and the same in
            every run.
        frames: Frames in all; 0 is without end, and not for `fps` 0.
        seed: Seed of motion and noise.
        labels: 1 with labels, 0 without.
        hold: Frames of a class before the next one comes.
    """

    classes: int = 4
    size: int = 96
    fps: float = 30
    frames: int = 0
    seed: int = 0
    labels: int = 1
    hold: int = 40

    def label(self, i: int) -> str:
        """Return the class name of frame i, whether frames are labelled or not."""
        return _class_name(self._class(i))

    def picture(self, i: int) -> Pixels:
        """Draw frame i, shape (size, size, 3), RGB."""
        k, n = self._class(i), self.size
        rng = np.random.default_rng((self.seed, i))
        angle, phase = k * 2.4 + rng.normal(0, 0.05), i * 0.5
        y, x = np.mgrid[:n, :n].astype(np.float32) / n
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (20 + 12 * (k % 3)) + phase)
        image = Image.fromarray((wave * 30 + 70).astype(np.uint8)).convert("RGB")
        # Two slow turns of unequal length, begun elsewhere for every seed.
        t = i * 0.23 + self.seed
        centre = np.array([np.sin(t), np.cos(0.7 * t)]) * 0.15 * n + n / 2
        _draw(ImageDraw.Draw(image), k, centre, n * (0.26 + 0.04 * np.sin(1.3 * t)))
        noise = rng.integers(-_NOISE, _NOISE + 1, (n, n, 3), np.int16)
        pixels: Pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        return pixels

    def _class(self, i: int) -> int:
        return i // self.hold % self.classes


_LIMITS = {
    "classes": (1, MAX_CLASSES), "size": (16, 4096), "fps": (0, 1000), "frames": (0, 10_000_000),
    "seed": (0, 2**31), "labels": (0, 1), "hold": (1, 1_000_000),
}  # fmt: skip


def parse_pattern(spec: str) -> Pattern:
    """Read `synthetic:` and what stands behind it.

    Raises:
        UsageError: An option that is not known, or a value that it cannot have.
    """
    known = ", ".join(f"{f.name}={f.default}" for f in fields(Pattern))
    values: dict[str, float] = {}
    for part in filter(None, spec[len(PREFIX) :].split(",")):
        name, _, text = part.partition("=")
        name = name.strip()
        if name not in _LIMITS or name in values:
            fault = "is given twice" if name in values else "is unknown"
            raise UsageError(
                f"{PREFIX} option {name!r} {fault}; known with their defaults: {known}"
            )
        least, most = _LIMITS[name]
        try:
            value = float(text) if name == "fps" else int(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most or (name == "fps" and 0 < value < _LEAST_FPS):
            raise UsageError(f"{part!r} in {PREFIX} is not from {least} to {most}")
        values[name] = value
    pattern = Pattern(**values)  # type: ignore[arg-type]  # whole where int() read them
    if pattern.fps == 0 and pattern.frames == 0:
        raise UsageError(f"{PREFIX}fps=0 would never end; give the number of frames, as frames=500")
    return pattern


def open_synthetic(
    spec: str, /, *, label: str | None = None, max_bytes: int = 0
) -> LiveSource | PatternSource:
    """Open `synthetic:`; live, or with `fps=0` one that can be read again.

    Args:
        spec: The source as the user named it.
        label: Class of all frames, instead of the pattern's own.
        max_bytes: Not used, it reads no file.

    Raises:
        UsageError: Options that cannot be meant.
    """
    pattern = parse_pattern(spec)
    if pattern.fps == 0:
        return PatternSource(spec, pattern, label=label)
    return LiveSource(
        spec,
        lambda counters: _Paced(pattern),
        label=label,
        stall_s=max(STALL_S, 3 / pattern.fps),
    )


class PatternSource(Source):
    """The pattern frame by frame, the same in every run."""

    def __init__(self, name: str, pattern: Pattern, *, label: str | None = None) -> None:
        self.name = name
        self._pattern = pattern
        self._label = label

    def __len__(self) -> int:
        return self._pattern.frames

    def ids(self, stop: int) -> Iterator[str]:
        """Yield the ids of the first `stop` positions."""
        return (_id(i) for i in range(min(stop, len(self))))

    def frames(self, start: int = 0) -> Iterator[Frame | Skipped]:
        """Yield the frames from position `start` on."""
        for i in range(start, len(self)):
            label = self._pattern.label(i) if self._pattern.labels else None
            yield Frame(
                id=_id(i),
                pixels=self._pattern.picture(i),
                label=label if self._label is None else self._label,
                source=self.name,
            )


class _Paced:
    """The pattern in its own time, from its first frame."""

    def __init__(self, pattern: Pattern) -> None:
        self._pattern = pattern
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Shot]:
        pattern = self._pattern
        due = time.monotonic()
        i = 0
        while not self._closed.is_set() and (pattern.frames == 0 or i < pattern.frames):
            yield Shot(
                pixels=pattern.picture(i), label=pattern.label(i) if pattern.labels else None
            )
            i += 1
            # A machine that is too slow for `fps` does not try to make up for it.
            due = max(due + 1 / pattern.fps, time.monotonic() - 1 / pattern.fps)
            self._closed.wait(max(0.0, due - time.monotonic()))

    def close(self) -> None:
        self._closed.set()


def _id(i: int) -> str:
    return f"{i:06}"


def _class_name(k: int) -> str:
    return f"{list(_COLOURS)[k % len(_COLOURS)]} {_SHAPES[_shape(k)]}"


def _shape(k: int) -> int:
    # 8 and 6 meet again after 24; from there on each colour gets the other half of the shapes.
    return (k + k // 24) % len(_SHAPES)


def _draw(draw: ImageDraw.ImageDraw, k: int, centre: np.ndarray, r: float) -> None:
    colour = list(_COLOURS.values())[k % len(_COLOURS)]
    x, y = (float(c) for c in centre)
    match _SHAPES[_shape(k)]:
        case "disc":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        case "square":
            draw.rectangle((x - r, y - r, x + r, y + r), fill=colour)
        case "ring":
            draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=max(2, int(r / 3)))
        case "cross":
            draw.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=colour)
            draw.rectangle((x - r / 3, y - r, x + r / 3, y + r), fill=colour)
        case "triangle":
            draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=colour)
        case _:
            for at in (-0.8, 0.0, 0.8):
                draw.rectangle((x + at * r - r / 5, y - r, x + at * r + r / 5, y + r), fill=colour)
