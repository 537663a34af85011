"""Pictures that a browser sends: learned, answered, or both.

They are embedded here, beside the stream; the thread that writes only learns the feature.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
from starlette.requests import Request

from edgecl.device import Device
from edgecl.errors import DecodeError, NothingLearnedError, UsageError
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.predictor import Predictor
from edgecl.runtime.preprocess import decode
from edgecl.serve.page.context import Context, Endpoint, body_of
from edgecl.serve.page.names import checked_name
from edgecl.session import Session, reading
from edgecl.stream.duplicates import Duplicates
from edgecl.stream.view import Sight
from edgecl.types import Float32, Frame, Prediction
from edgecl.unlearning.request import writing

SOURCE = "browser"
_TOP = 3


class Embedder:
    """Embeds and answers pictures of browsers, with an engine that is loaded once, when it is used.

    Args:
        device: The home.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._engine: OnnxEngine | None = None

    def embed(self, data: bytes) -> Float32:
        """Return the plain feature (1, D) of a picture.

        Raises:
            UsageError: It is none.
        """
        home = self._device.home
        preprocessing = home.manifest.preprocessing
        try:
            picture = decode(data, max_pixels=home.max_pixels, levels=preprocessing.levels)
        except DecodeError as error:
            raise UsageError(f"this is no picture that can be used: {error}") from error
        with self._lock:
            self._engine = self._engine or home.engine(options=self._device.options)
            return self._engine.run(preprocessing.tensor(picture)[None])

    def answer(self, data: bytes, x: Float32) -> Prediction | None:
        """Return what is said of a picture of feature x; None while nothing is known."""
        with reading(self._device.home, self._device.options) as session:
            try:
                scorer, adapters = session.served()
                if adapters:  # another feature, so another engine
                    predictor = session.predictor()
                    picture = decode(data, max_pixels=self._device.home.max_pixels)
                    x = predictor.engine.run(predictor.preprocessing.tensor(picture)[None])
                else:
                    assert self._engine is not None
                    preprocessing = self._device.home.manifest.preprocessing
                    predictor = Predictor.of(self._engine, preprocessing, scorer)
            except NothingLearnedError:
                return None
        return predictor.predict_features([SOURCE], x, top=_TOP)[0]


_numbers = count(1)


async def frames(context: Context, request: Request) -> dict[str, Any]:
    """Learn a picture, answer it, or both."""
    query, home = request.query_params, context.serving.device.home
    data = await body_of(request, home.max_bytes)
    label = query.get("label") or None
    if label is not None:
        label = await checked_name(context, label, is_new=query.get("new") == "1")
    frame = Frame(
        id=f"{SOURCE}-{next(_numbers)}", encoded=data, source=SOURCE, time=time.time(), label=label
    )
    embedder: Embedder = context.embedder
    x = await context.read(lambda device: embedder.embed(data))
    uid = None
    if label is not None:
        uid = await context.write("frame", lambda device: _learn(device, frame, x))
    found = None
    if query.get("answer") == "1":
        found = await context.read(lambda device: embedder.answer(data, x))
    sight = Sight(frame)
    if found is not None:
        sight = replace(
            sight, label=found.label, score=found.score, state="known", top=tuple(found.top)
        )
    return sight.as_json() | {"uid": uid}


def _learn(device: Device, frame: Frame, x: Float32) -> int | None:
    """Learn a picture; None if its class just learned nearly the same."""
    with writing(device.home, device.options) as session:
        if not _is_near(session, frame, x):
            (report,) = session.learner.learn_many([frame], np.asarray(x, np.float32))
            session.learner.settle()
            return report.uid
    return None


def _is_near(session: Session, frame: Frame, x: Float32) -> bool:
    assert frame.label is not None
    cosine, store = session.home.config.live.duplicate_cosine, session.store
    if not store.has_class(frame.label):
        return False
    return Duplicates(cosine, store.newest_rows).is_near(frame.label, x[0])


ENDPOINTS = (Endpoint("POST", "/api/v1/frames", frames, "teach"),)
