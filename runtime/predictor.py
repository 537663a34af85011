"""From pictures to predictions: preprocess, engine, scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from edgecl.errors import (
    DecodeError,
    IntegrityError,
    MissingPackageError,
    NothingLearnedError,
    ProviderError,
    SourceError,
)
from edgecl.types import Float32, Frame, Pixels, Prediction

from .bundle import Bundle, open_bundle
from .engines.base import Engine
from .engines.onnx import OnnxEngine
from .engines.tensorrt import TensorrtEngine, open_tensorrt
from .faults import in_words
from .preprocess import Preprocessing, decode, picture_of
from .scoring import Scorer


class Predictor:
    """Predicts the class of pictures; nothing is learned.

    Args:
        bundle: Folder that `edgecl export` wrote; no home is needed.
        provider: `auto`, `cuda`, `tensorrt` or `cpu`; what is named must really be in use. In a
            bundle of kind `tensorrt`, `auto` and `tensorrt` are the engine in it.
        threads: CPU threads of the engine.
        allow_fallback: Use the CPU when the named provider fails.
        max_pixels: Pictures with more pixels are refused before they are decoded.

    Raises:
        RequestError: There is no bundle.
        IntegrityError: A file of it was changed, it was revoked, or its TensorRT engine was built
            for another model, library or GPU.
        ProviderError: The named provider is not in use.
    """

    engine: Engine
    preprocessing: Preprocessing
    scorer: Scorer
    max_pixels: int

    def __init__(
        self,
        bundle: str | Path,
        *,
        provider: str = "auto",
        threads: int = 1,
        allow_fallback: bool = False,
        max_pixels: int = 50_000_000,
    ) -> None:
        found = open_bundle(Path(bundle))
        engine = _engine(found, provider, threads, allow_fallback)
        self.engine = engine.with_adapters(*found.adapters) if found.adapters else engine
        self.preprocessing = found.manifest.preprocessing
        self.scorer = found.scorer
        self.max_pixels = max_pixels

    @classmethod
    def of(
        cls,
        engine: Engine,
        preprocessing: Preprocessing,
        scorer: Scorer,
        *,
        max_pixels: int = 50_000_000,
    ) -> Predictor:
        """Make a predictor of parts that are at hand.

        Args:
            engine: Frozen backbone, with the adapters that the scorer wants.
            preprocessing: How a picture becomes the engine's input.
            scorer: What was learned.
            max_pixels: Pictures with more pixels are refused before they are decoded.
        """
        made = cls.__new__(cls)
        made.engine, made.preprocessing, made.scorer = engine, preprocessing, scorer
        made.max_pixels = max_pixels
        return made

    def predict(self, picture: str | Path | Pixels, *, top: int = 5) -> Prediction:
        """Predict one picture.

        Args:
            picture: Path of a picture file, or RGB pixels (H, W, 3) uint8.
            top: How many classes to name.

        Raises:
            DecodeError: The file is not a picture.
            SourceError: The file cannot be read.
            ShapeError: The array is not (H, W, 3) uint8.
            NothingLearnedError: There is no class yet.
        """
        if isinstance(picture, np.ndarray):
            name, image = "array", picture_of(Frame(id="array", pixels=picture))
        else:
            name = str(picture)
            try:
                data = Path(picture).read_bytes()
            except OSError as error:
                raise SourceError(f"{name} cannot be read {in_words(error)}") from error
            try:
                image = decode(data, max_pixels=self.max_pixels, levels=self.preprocessing.levels)
            except DecodeError as error:
                raise DecodeError(f"{name}: {error}") from error
        features = self.engine.run(self.preprocessing.tensor(image)[None])
        return self.predict_features([name], features, top=top)[0]

    def predict_features(
        self, names: Sequence[str], features: Float32, *, top: int = 5
    ) -> list[Prediction]:
        """Predict features (N, D) whose pictures are called `names`."""
        return predictions(self.scorer, names, features, top=top)


def _engine(
    found: Bundle, provider: str, threads: int, allow_fallback: bool
) -> OnnxEngine | TensorrtEngine:
    """Load what a bundle runs on."""
    if found.compiled is not None and provider in ("auto", "tensorrt"):
        try:
            return open_tensorrt(found.compiled, found.manifest.engine_sha256)
        except (IntegrityError, MissingPackageError, ProviderError):
            if not allow_fallback:
                raise
            provider = "cpu"
    return OnnxEngine(
        found.model, provider=provider, threads=threads, allow_fallback=allow_fallback
    )


def predictions(
    scorer: Scorer, names: Iterable[str], features: Float32, *, top: int = 5
) -> list[Prediction]:
    """Score features (N, D) and name the `top` best classes of each."""
    if not scorer.labels:
        raise NothingLearnedError("nothing was learned yet; run `edgecl train-stream SOURCE` first")
    scores = scorer.scores(features)
    shares = scorer.probabilities(scores)
    best = np.argsort(-scores, axis=1, kind="stable")[:, : max(1, top)]
    out = []
    for name, row, share in zip(names, best, shares, strict=True):
        ranked = tuple((scorer.labels[i], float(share[i])) for i in row)
        out.append(Prediction(path=name, label=ranked[0][0], score=ranked[0][1], top=ranked))
    return out
