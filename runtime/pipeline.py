"""Frames to features with the cores busy: read and decode, engine, and the caller in parallel.

One thread reads, decodes and scales, one or two run the engine, and the caller (the head and the
store) is the last; each waits for the next at bounded queues. numpy, Pillow, onnxruntime and the
heads let go of the interpreter lock in their heavy parts, so two cores are kept busy
(docs/benchmarks.md). The order of the source is kept, and so is every position: a picture that
cannot be used comes out as `Skipped` in its place.

A second thread runs the engine of a processor where there is more than one core and the source can
wait: it takes what the other parts leave of the cores, and the engine's core does not idle while a
thread comes back to the interpreter.

Frames of a live source are taken one by one and just in time (`pace.py`): none waits where it grows
old.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgecl.errors import DecodeError
from edgecl.types import Float32, Frame, Skipped

from .engines.base import Engine
from .pace import Pace
from .preprocess import Preprocessing, picture_and_depth

N_AHEAD = 128
"""Features that may wait for the caller, as a rule."""

_QUEUE_POLL_S = 0.1
# A thread that comes back from the engine waits this long for the interpreter lock; the default of
# 5 ms is two pictures of engine time, and cost 15 % of the rate (docs/benchmarks.md).
_SWITCH_INTERVAL_S = 0.0005


@dataclass(frozen=True, slots=True)
class Embedded:
    """A frame with its feature, shape (D,), float32."""

    frame: Frame
    feature: Float32


@dataclass(frozen=True, slots=True)
class _Ready:
    frame: Frame
    tensor: Float32


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


_END = object()


def embed(
    frames: Iterator[Frame | Skipped],
    preprocessing: Preprocessing,
    engine: Engine,
    *,
    batch_size: int = 8,
    max_pixels: int = 50_000_000,
    n_ahead: int = N_AHEAD,
    is_live: bool = False,
    pixels_above: int | None = None,
    wake: Callable[[], None] = lambda: None,
) -> Generator[list[Embedded | Skipped]]:
    """Yield features in the order of the frames, in lists of what is ready together.

    An empty list means that nothing came for a while: the caller can commit, look at the clock or
    stop. Close the generator when you leave it early (`contextlib.closing`): that ends the threads.

    Args:
        frames: Frames of a source.
        preprocessing: How a picture becomes the engine's input.
        engine: Frozen backbone.
        batch_size: Most pictures in the engine at once; a slow source is not waited for.
        max_pixels: Pictures with more pixels are skipped before they are decoded.
        n_ahead: Features that may wait for the caller; bounds memory.
        is_live: Take frames one by one and just in time; `batch_size` and `n_ahead` do not count.
        pixels_above: Frames whose shorter side is longer than this, pixels, come out decoded, so
            that a caller who scales them down need not decode them again; None changes no frame.
        wake: Called at the end, to wake a source that a thread waits for (`close` of a live one).
    """
    is_shared = not is_live and engine.provider == "cpu" and len(os.sched_getaffinity(0)) > 1
    n_engines = 2 if is_shared else 1
    line = _Line(
        frames,
        preprocessing,
        engine,
        # Two calls of half the size take the memory of one, which is most of what a stream has.
        batch_size=1 if is_live else -(-batch_size // n_engines),
        n_ahead=1 if is_live else n_ahead,
        is_live=is_live,
        max_pixels=max_pixels,
        pixels_above=pixels_above,
    )
    switch_interval = sys.getswitchinterval()
    sys.setswitchinterval(min(switch_interval, _SWITCH_INTERVAL_S))
    threads = line.started(n_engines)
    try:
        yield from line.found()
    finally:
        line.stop.set()
        wake()
        sys.setswitchinterval(switch_interval)
        # A source that blocks (standard input) cannot be woken; its thread is a daemon.
        for thread in threads:
            thread.join(timeout=1)


def most_ahead(batch_size: int, *, is_live: bool) -> int:
    """Return how many frames may be embedded and not yet handed on to the caller, `N_AHEAD` ahead.

    They wait in the queue, in both threads of an engine, and in the list that is gone through.
    """
    size = 1 if is_live else batch_size
    return max(1 if is_live else N_AHEAD, size) + 3 * size


class _Line:
    """What the threads and the caller share: `decode_all` -> ready -> `run_all` -> done."""

    def __init__(
        self,
        frames: Iterator[Frame | Skipped],
        preprocessing: Preprocessing,
        engine: Engine,
        *,
        batch_size: int,
        n_ahead: int,
        is_live: bool,
        max_pixels: int,
        pixels_above: int | None,
    ) -> None:
        self.frames, self.preprocessing, self.engine = frames, preprocessing, engine
        self.batch_size, self.is_live = batch_size, is_live
        self.max_pixels, self.pixels_above = max_pixels, pixels_above
        self.stop = threading.Event()
        self.pace = Pace(self.stop)
        self.ready: queue.Queue[Any] = queue.Queue(maxsize=1 if is_live else 2 * batch_size)
        self.done: queue.Queue[Any] = queue.Queue(maxsize=max(1, n_ahead // batch_size))
        # Groups leave the threads that run the engine as they came to them.
        self.taking, self.turn = threading.Lock(), threading.Condition()
        self.n_begun = self.n_over = 0
        self.is_over = False

    def started(self, n_engines: int) -> list[threading.Thread]:
        """Start all threads."""
        engines = [("engine", self.run_all, self.done)] * n_engines
        threads = [
            threading.Thread(target=_guarded(work, out, self.stop), name=name, daemon=True)
            for name, work, out in (("decode", self.decode_all, self.ready), *engines)
        ]
        for thread in threads:
            thread.start()
        return threads

    def decode_all(self) -> None:
        """Take frames, decode and scale them; the first thread."""
        for frame in self._taken():
            begin = time.monotonic()
            item = frame if isinstance(frame, Skipped) else self._decoded(frame)
            self.pace.decoded(time.monotonic() - begin)
            if not _put(self.ready, item, self.stop):
                return
        _put(self.ready, _END, self.stop)

    def _taken(self) -> Iterator[Frame | Skipped]:
        while True:
            if self.is_live:
                self.pace.wait()
            frame = next(self.frames, None)
            if frame is None or self.stop.is_set():
                return
            self.pace.taken()
            yield frame

    def _decoded(self, frame: Frame) -> _Ready | Skipped:
        try:
            how = self.preprocessing
            image, is_changed = picture_and_depth(
                frame, max_pixels=self.max_pixels, levels=how.levels, least_side=how.least_side
            )
            tensor = how.tensor(image)
            above, side = self.pixels_above, min(image.size)
            # What was seen is what is kept, also where it is decoded again.
            if is_changed or (above is not None and side > above):
                frame = replace(frame, encoded=None, pixels=np.asarray(image), cut=None, side=side)
            else:
                frame = replace(frame, side=side)
        except (DecodeError, MemoryError) as error:
            return Skipped(frame.id, str(error) or "not enough memory")
        return _Ready(frame, tensor)

    def run_all(self) -> None:
        """Run the engine on what is ready together; what each thread of an engine does."""
        while True:
            with self.taking:
                if self.is_over:
                    return
                group, last = self._group()
                self.is_over, number = last is not None, self.n_begun
                self.n_begun += 1
            if self.stop.is_set():
                return
            found: object = None
            if group:
                self.pace.engine_begins(len(group))
                try:
                    found = _run(self.engine, group)
                except BaseException as error:
                    found = _Failed(error)
                self.pace.engine_ends()
            self._hand_on(number, [each for each in (found, last) if each is not None])

    def _hand_on(self, number: int, found: list[object]) -> None:
        """Give to the caller what came of a group, after those that were taken before it."""
        with self.turn:
            while not self.turn.wait_for(lambda: self.n_over == number, _QUEUE_POLL_S):
                if self.stop.is_set():
                    return
        for each in found:
            _put(self.done, each, self.stop)
        with self.turn:
            self.n_over += 1
            self.turn.notify_all()

    def _group(self) -> tuple[list[_Ready | Skipped], object]:
        """Return what is ready, after one that is waited for, and the end if it came."""
        group: list[_Ready | Skipped] = []
        while len(group) < self.batch_size:
            item = _take(self.ready, self.stop, wait=not group)
            if item is None:
                break
            if item is _END or isinstance(item, _Failed):
                return group, item
            group.append(item)
        return group, None

    def found(self) -> Iterator[list[Embedded | Skipped]]:
        """Yield what is done, in the caller's thread; an empty list while nothing comes."""
        while True:
            try:
                item = self.done.get(timeout=_QUEUE_POLL_S)
            except queue.Empty:
                item = []
            if item is _END:
                return
            if isinstance(item, _Failed):
                raise item.error
            if item:
                self.pace.caller_begins(len(item))
            yield item
            self.pace.caller_ends()


def _run(engine: Engine, group: list[_Ready | Skipped]) -> list[Embedded | Skipped]:
    tensors = [item.tensor for item in group if isinstance(item, _Ready)]
    features = iter(engine.run(np.stack(tensors)) if tensors else ())
    return [
        Embedded(item.frame, next(features)) if isinstance(item, _Ready) else item for item in group
    ]


def _guarded(
    work: Callable[[], None], out: queue.Queue[Any], stop: threading.Event
) -> Callable[[], None]:
    def run() -> None:
        try:
            work()
        except BaseException as error:
            _put(out, _Failed(error), stop)

    return run


def _put(q: queue.Queue[Any], item: object, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            q.put(item, timeout=_QUEUE_POLL_S)
        except queue.Full:
            continue
        return True
    return False


def _take(q: queue.Queue[Any], stop: threading.Event, *, wait: bool) -> Any:
    """Take the next item; None when stopped, or when nothing is there and `wait` is off."""
    while not stop.is_set():
        try:
            return q.get(timeout=_QUEUE_POLL_S) if wait else q.get_nowait()
        except queue.Empty:
            if not wait:
                return None
    return None
