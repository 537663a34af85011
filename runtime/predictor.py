"""From pictures to predictions: preprocess, engine, scores."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgecl.errors import (
    DecodeError,
    IntegrityError,
    MissingPackageError,
    NothingLearnedError,
    ProviderError,
    RequestError,
    SourceError,
)
from edgecl.types import Float32, Float64, Frame, Labels, Pixels, Prediction

from .bundle import Bundle, open_bundle
from .calibration import Calibration
from .engines.base import Engine
from .engines.onnx import OnnxEngine
from .engines.tensorrt import TensorrtEngine, open_tensorrt
from .faults import in_words
from .novelty import Novelty
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
        RequestError: There is no bundle, or its lease is over.
        IntegrityError: A file of it was changed, it was revoked, or its TensorRT engine was built
            for another model, library or GPU.
        ProviderError: The named provider is not in use.
    """

    engine: Engine
    preprocessing: Preprocessing
    scorer: Scorer
    calibration: Calibration | None
    novelty: Novelty | None
    """What tells the unknown in a bundle; in a home `edgecl.novelty.open_novelty` makes it."""
    serve_until: float
    """When a bundle of a fleet ends to predict, seconds since the epoch; 0 for never."""
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
        self.serve_until = found.serve_until
        self.check_lease()
        engine = _engine(found, provider, threads, allow_fallback)
        self.engine = engine.with_adapters(*found.adapters) if found.adapters else engine
        self.preprocessing = found.manifest.preprocessing
        self.scorer = found.scorer
        self.calibration, self.novelty = found.calibration, found.novelty
        self.max_pixels = max_pixels

    @classmethod
    def of(
        cls,
        engine: Engine,
        preprocessing: Preprocessing,
        scorer: Scorer,
        calibration: Calibration | None = None,
        *,
        max_pixels: int = 50_000_000,
    ) -> Predictor:
        """Make a predictor of parts that are at hand.

        Args:
            engine: Frozen backbone, with the adapters that the scorer wants.
            preprocessing: How a picture becomes the engine's input.
            scorer: What was learned.
            calibration: How far its scores can be believed, of the same classes, if that is known.
            max_pixels: Pictures with more pixels are refused before they are decoded.
        """
        made = cls.__new__(cls)
        made.engine, made.preprocessing, made.scorer = engine, preprocessing, scorer
        made.calibration, made.novelty, made.max_pixels = calibration, None, max_pixels
        made.serve_until = 0.0
        return made

    def predict(
        self, picture: str | Path | Pixels, *, top: int = 5, level: float | None = None
    ) -> Prediction:
        """Predict one picture.

        Args:
            picture: Path of a picture file, or RGB pixels (H, W, 3) uint8.
            top: How many classes to name.
            level: How often the set of labels shall hold the truth; None gives no set.

        Raises:
            DecodeError: The file is not a picture.
            SourceError: The file cannot be read.
            ShapeError: The array is not (H, W, 3) uint8.
            NothingLearnedError: There is no class yet.
        """
        name, x = self.embed(picture)
        return self.predict_features([name], x, top=top, level=level)[0]

    def embed(self, picture: str | Path | Pixels) -> tuple[str, Float32]:
        """Return what a picture is called, and its features (1, M), of the engine.

        Raises:
            DecodeError: The file is not a picture.
            SourceError: The file cannot be read.
            ShapeError: The array is not (H, W, 3) uint8.
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
                how = self.preprocessing
                image = decode(
                    data, max_pixels=self.max_pixels, levels=how.levels, least_side=how.least_side
                )
            except DecodeError as error:
                raise DecodeError(f"{name}: {error}") from error
        return name, self.engine.run(self.preprocessing.tensor(image)[None])

    def predict_features(
        self, names: Sequence[str], features: Float32, *, top: int = 5, level: float | None = None
    ) -> list[Prediction]:
        """Predict features (N, D) whose pictures are called `names`.

        Args:
            names: What the pictures are called (N,).
            features: Their features, of the engine.
            top: How many classes to name.
            level: How often the set of labels of each shall hold the truth; None gives no sets.

        Raises:
            RequestError: Sets are asked for and nothing says how large they must be.
        """
        self.check_lease()
        return predictions(
            self.scorer, names, features, top=top, calibration=self.calibration, level=level
        )

    def check_lease(self) -> None:
        """Check that a bundle of a fleet may still predict.

        Raises:
            RequestError: Its lease is over.
        """
        if self.serve_until and time.time() > self.serve_until:
            ended = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.serve_until))
            raise RequestError(
                f"this bundle's lease ended {ended}; what it knows may have been unlearned since: "
                "bring a newer one with `edgecl fleet sync`"
            )


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
    scorer: Scorer,
    names: Iterable[str],
    features: Float32,
    *,
    top: int = 5,
    calibration: Calibration | None = None,
    level: float | None = None,
) -> list[Prediction]:
    """Score features (N, D) and name the `top` best classes of each; see `predict_features`."""
    if not scorer.labels:
        raise NothingLearnedError("nothing was learned yet; run `edgecl train-stream SOURCE` first")
    scores = scorer.scores(features)
    shares = scorer.probabilities(scores)
    if not np.isfinite(shares).all():
        raise IntegrityError(
            "the engine or the head gives what is no number; check them with `edgecl doctor`, or "
            "write the bundle anew with `edgecl export`"
        )
    likely = shares if calibration is None else calibration.probabilities(scores)
    n_named = max(1, top) if level is None else scores.shape[1]
    order = [best(row, n_named) for row in scores]
    found = [
        Prediction(
            path=name,
            label=scorer.labels[row[0]],
            score=float(share[row[0]]),
            top=tuple((scorer.labels[i], float(share[i])) for i in row[: max(1, top)]),
            probabilities=tuple(chance[row[: max(1, top)]].tolist()),
        )
        for name, row, share, chance in zip(names, order, shares, likely, strict=True)
    ]
    if level is None:
        return found
    if calibration is None:
        raise RequestError(
            "nothing says how large a set must be: that needs 10 samples of 2 classes that are "
            "kept (heads by gradient: held out), and no adapter; leave out --set, or learn more"
        )
    sets = calibration.sets(likely, level)
    return [
        replace(one, labels=tuple(scorer.labels[i] for i in row if is_in[i]))
        for one, row, is_in in zip(found, order, sets, strict=True)
    ]


def best(scores: Float64, n: int) -> Labels:
    """Return the columns of the n largest scores (K,), largest first, of equal ones the first."""
    found = np.arange(len(scores))
    if n < len(scores):
        found = np.flatnonzero(scores >= np.partition(scores, -n)[-n])
    order: Labels = found[np.argsort(-scores[found], kind="stable")][:n]
    return order
