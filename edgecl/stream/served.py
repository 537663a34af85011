"""What a stream predicts with, if anybody looks: the exact head, and the adapters of the home."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgecl.calibration import kept_calibration
from edgecl.learner import Learner
from edgecl.runtime.calibration import Calibration
from edgecl.runtime.engines.base import Engine
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.predictor import predictions
from edgecl.runtime.scoring import Scorer
from edgecl.store.adapters import TaskAdapter, mixed_with, served_adapters, task_adapters
from edgecl.types import Float32, Prediction


class StreamEngine:
    """An engine whose adapters can be exchanged while a pipeline runs it.

    What is learned are the plain features, the first D of what `run` gives, whatever the adapters.

    Args:
        plain: The home's engine.
        open_adapted: Opens the one that takes adapters; called once, when there are some.
    """

    def __init__(self, plain: Engine, open_adapted: Callable[[], OnnxEngine]) -> None:
        self.plain = plain
        self.provider = plain.provider
        self._open_adapted = open_adapted
        self._adapted: OnnxEngine | None = None
        self._now = plain

    @property
    def num_features(self) -> int:
        """Width of what `run` gives now."""
        return self._now.num_features

    def run(self, pixels: Float32) -> Float32:
        """Return plain features (N, D), and those of the served adapters beside them."""
        return self._now.run(pixels)

    def serve(self, bank: list[TaskAdapter]) -> None:
        """Give from now on the features that a bank of adapters wants."""
        adapters = served_adapters(bank)
        if not adapters:
            self._now = self.plain
            return
        self._now = self.open_adapted().with_adapters(*adapters)

    def open_adapted(self) -> OnnxEngine:
        """Return the engine that takes adapters."""
        self._adapted = self._adapted or self._open_adapted()
        return self._adapted


class Served:
    """Predicts frames as the home would.

    Args:
        learner: Its exact head.
        engine: What embeds the frames.
        n_ahead: Frames that are embedded before an exchange of adapters and come after it, at most.
        is_wanted: Whether anybody looks; if not, adapters cost nothing.
    """

    def __init__(
        self, learner: Learner, engine: StreamEngine, *, n_ahead: int, is_wanted: bool
    ) -> None:
        self._learner, self._engine = learner, engine
        self._n_ahead = n_ahead
        self._is_wanted = is_wanted
        self.adapters_changed()
        self._n_left = 0  # nothing was embedded yet

    def adapters_changed(self) -> None:
        """Take the adapters from the store anew; what is on its way has the old ones' features."""
        self._bank = task_adapters(self._learner.store) if self._is_wanted else []
        self._calibrations = _kept_calibrations(self._learner) if self._is_wanted else (None, None)
        self._engine.serve(self._bank)
        self._n_left = self._n_ahead
        self.learned()

    def learned(self) -> None:
        """Predict with the head anew: it learned."""
        self._frozen: Scorer | None = None
        self._mixed: Scorer | None = None

    def predict(self, name: str, x: Float32, *, top: int = 1) -> Prediction:
        """Predict a frame with what the engine gave of it (M,).

        Its probability is by the temperature that was known when the run began, or the adapters
        came, which a few frames more hardly change; without one it has none beside its score.
        """
        scorer = self._scorer(x)
        self._n_left = max(0, self._n_left - 1)
        known = self._calibrations[scorer is not self._frozen]
        found = predictions(scorer, [name], self._own(scorer, x), top=top, calibration=known)[0]
        return found if known is not None else replace(found, probabilities=())

    def answer(self, x: Float32) -> str | None:
        """Return the class that is served for what the engine gave of a frame, None before any."""
        if not self._learner.head.classes:
            return None
        scorer = self._scorer(x)
        return scorer.labels[int(scorer.scores(self._own(scorer, x))[0].argmax())]

    def _scorer(self, x: Float32) -> Scorer:
        """Return the mixture, or the head where a frame has not the features of its adapters."""
        if self._frozen is None or self._mixed is None:
            names = self._learner.store.names
            self._frozen = self._learner.head.scorer(names)
            self._mixed, _ = mixed_with(self._frozen, self._bank, names)
        wanted = self._mixed.n_maps * self._learner.head.num_features
        is_fit = not self._n_left and len(x) == wanted
        return self._mixed if is_fit else self._frozen

    def _own(self, scorer: Scorer, x: Float32) -> Float32:
        """Return of what the engine gave of a frame what a scorer wants (1, M)."""
        return x[None, : scorer.n_maps * self._learner.head.num_features]


def _kept_calibrations(learner: Learner) -> tuple[Calibration | None, Calibration | None]:
    """Return how far answers of the head and of the mixture can be believed, as kept."""
    store = learner.store
    kept = store.load_head("scorer", learner.head.name)
    exact, mixed = (kept_calibration(store, kept, is_mixed=m)[0] for m in (False, True))
    return exact, mixed
