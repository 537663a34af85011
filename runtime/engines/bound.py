"""Inputs and outputs of an onnxruntime session that stay on the GPU, and its CUDA graphs.

onnxruntime records a graph for each `gpu_graph_id` by itself, at the first run of that id. Shapes
and addresses of an id must then stay as they are, which it does not check; so every batch size with
every adapter has memory and an id of its own.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np

from edgecl.errors import MissingPackageError, ProviderError
from edgecl.types import Float32

from ..adapters import Adapter
from .base import Runs
from .cuda import Memory, device_memory

MOST_GRAPHS = 8
"""onnxruntime frees no graph before its session ends."""
TOO_MANY = f"more than {MOST_GRAPHS} batch sizes and adapters"
_NO_GRAPH = "-1"


class Bound:
    """Runs a session of the CUDA provider.

    Args:
        ort: onnxruntime.
        session: Its session; the first input are the pictures.
        width: Values that the output has for a picture.
        runs: What became of every run is counted here.
        refused: Why no graph is to be recorded; empty if the session may record.
    """

    def __init__(self, ort: Any, session: Any, width: int, runs: Runs, *, refused: str) -> None:
        self._ort, self._session, self._width = ort, session, width
        self._runs, self._refused = runs, refused
        self._places: dict[tuple[int, int], _Place] = {}
        self._lock = Lock()  # a session may be run from many threads, its places may not
        self._memory: Memory | None = None  # the driver then copies pictures twice
        try:
            self._memory = device_memory()
        except (MissingPackageError, ProviderError):
            pass
        runs.pinned = self._memory is not None

    def run(self, pixels: Float32, adapter: Adapter) -> Float32:
        """Return what the session gives for pictures (N, 3, S, S) with an adapter."""
        with self._lock:
            return self._run_alone(pixels, adapter)

    def _run_alone(self, pixels: Float32, adapter: Adapter) -> Float32:
        key = (len(pixels), id(adapter))  # a place keeps its adapter, so no other gets its id
        place = self._places.get(key)
        if place is None:
            place = _Place(self._ort, self._session, pixels.shape, self._width, adapter)
            if self._memory is not None:
                place.host = self._memory.pinned(pixels.shape)
            if len(self._places) < MOST_GRAPHS:
                self._places[key] = place
                place.graph = str(len(self._places))
        place.fill(pixels)
        if not self._refused and place.graph != _NO_GRAPH:
            try:
                self._run(place, place.graph)
                self._runs.recorded += not place.is_recorded
                self._runs.replayed += place.is_recorded
                place.is_recorded = True
                return place.features()
            except Exception as error:  # onnxruntime's have no base of their own
                # Never tried again: it would fail at every run.
                self._refused = (str(error).splitlines() or [type(error).__name__])[0]
        self._run(place, _NO_GRAPH)
        self._runs.plain[self._refused or TOO_MANY] += 1
        return place.features()

    def _run(self, place: _Place, graph: str) -> None:
        options = self._ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", graph)
        self._session.run_with_iobinding(place.binding, options)


class _Place:
    """Memory of the GPU for one batch size with one adapter."""

    def __init__(
        self, ort: Any, session: Any, shape: tuple[int, ...], width: int, adapter: Adapter
    ) -> None:
        new = ort.OrtValue.ortvalue_from_shape_and_type
        self.graph, self.is_recorded, self.host = _NO_GRAPH, False, np.empty(shape, np.float32)
        self._adapter = adapter
        self._pixels = new(shape, np.float32, "cuda", 0)
        self._features = new((shape[0], width), np.float32, "cuda", 0)
        self.binding = session.io_binding()
        self.binding.bind_ortvalue_input(session.get_inputs()[0].name, self._pixels)
        self.binding.bind_ortvalue_output(session.get_outputs()[0].name, self._features)
        for name, array in adapter.items():
            on_device = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", 0)
            self.binding.bind_ortvalue_input(name, on_device)

    def fill(self, pixels: Float32) -> None:
        """Copy pictures to where the last ones were."""
        self.host[:] = pixels
        self._pixels.update_inplace(self.host)

    def features(self) -> Float32:
        """Copy what the last run gave."""
        found: Float32 = self._features.numpy()
        return found
