"""What every head does.

A head names classes by uid, an integer that is never used twice; names belong to the store. The
contract tests in tests/contracts run every check on every head of `HEADS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgecl.errors import ShapeError, UnknownClassError
from edgecl.heads.profile import Profile
from edgecl.heads.statistics import Moments
from edgecl.runtime.scoring import Scorer
from edgecl.types import Float16, Float32, Float64

Labels = npt.NDArray[np.int64]
State = dict[str, npt.NDArray[Any]]


class Memory(Protocol):
    """What a head may ask of the store when it settles or unlearns a class."""

    def moments(self, y: int) -> Moments:
        """Return the statistics of all samples of class y that were learned."""
        ...

    def all_moments(self) -> Mapping[int, Moments]:
        """Return the statistics of every class."""
        ...

    def stored_rows(self) -> tuple[Float16, Labels]:
        """Return the features and classes of the samples kept for replay, oldest first."""
        ...


class Head(Protocol):
    """An online classifier over features of a frozen map."""

    name: str
    num_features: int
    forget_mode: str
    """What an unlearning is called in the receipt: `exact_head` or `exact_retrain`."""
    batch_size: int
    """Samples of one update on a source that can wait."""
    n_replay: int
    """Stored samples that one update wants beside them; a view counts as one."""
    profile: Profile
    """In how many views they are wanted; `PLAIN` for a head that takes no profile."""

    @property
    def classes(self) -> tuple[int, ...]:
        """Uids of the classes, in the order in which they came."""
        ...

    def learn_one(self, x: Float32, y: int) -> None:
        """Learn one feature (D,) of class y; changes the head.

        Raises:
            ShapeError: x is not (D,) or not finite.
        """
        ...

    def learn_many(
        self,
        x: Float32 | Float16,
        y: Labels,
        replay: tuple[Float32 | Float16, Labels] | None = None,
    ) -> None:
        """Learn features (N, D) of classes (N,), with stored samples beside them; changes the head.

        Stored features are (M, D), or (M, V, D) when the profile asks for V views. float16 features
        are taken to be quantised already.

        Raises:
            ShapeError: Another shape, or not finite.
        """
        ...

    def predict_many(self, x: Float32) -> Float64:
        """Return scores (N, K) of features (N, D), columns as `classes`.

        Raises:
            NothingLearnedError: There is no class.
            ShapeError: x is not (N, D).
        """
        ...

    def settle(self, memory: Memory | None = None) -> None:
        """Make the head fit to be deployed; how it goes on learning does not change.

        A closed form is brought to the state that its statistics define; a head by gradient may
        tune the copy that it serves on what `memory` holds.
        """
        ...

    @property
    def is_exact(self) -> bool:
        """Whether an unlearning gives the very bits of never having learned."""
        ...

    def rebuild(self, memory: Memory) -> None:
        """Learn what a store holds, from nothing; `forget` ends in the same head."""
        ...

    def forget(self, y: int, memory: Memory) -> None:
        """Unlearn class y, which `memory` still holds.

        Raises:
            UnknownClassError: The head never learned it; nothing was changed.
        """
        ...

    def state(self) -> State:
        """Return all that the head learned, as arrays; `load_state` brings it back bit by bit."""
        ...

    def load_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over what `state` returned."""
        ...

    def restore(self, moments: Mapping[int, Moments], state: State | None) -> None:
        """Take over what a store kept: statistics by class, and the state of the last commit."""
        ...

    def saved_state(self) -> State | None:
        """Return what must be committed with every step, or None when the statistics suffice."""
        ...

    def scorer(self, names: Mapping[int, str]) -> Scorer:
        """Return the head as arrays that only predict, its classes called by `names`."""
        ...


def checked_rows(x: Float32 | Float16, num_features: int) -> Float32 | Float16:
    """Return x when it is (N, D) and finite.

    Raises:
        ShapeError: It is not.
    """
    if x.ndim != 2 or x.shape[1] != num_features:
        raise ShapeError(f"features are {x.shape}; this head expects (N, {num_features})")
    if not np.isfinite(x).all():
        raise ShapeError("a feature is not finite; check the engine with `edgecl doctor`")
    return x


def checked_pair(
    x: Float32 | Float16, y: Labels, num_features: int
) -> tuple[Float32 | Float16, Labels]:
    """Return x (N, D) and y (N,) when they fit.

    Raises:
        ShapeError: They do not.
    """
    y = np.asarray(y, dtype=np.int64)
    if y.ndim != 1 or len(y) != len(x):
        raise ShapeError(f"{len(x)} features have classes of shape {y.shape}; expected one each")
    return checked_rows(x, num_features), y


def unknown_class(y: int) -> UnknownClassError:
    """Return the error for a class uid that a head does not hold."""
    return UnknownClassError(f"class uid {y} was never learned by this head; nothing was changed")


# When a class was forgotten the rest is learned anew from the stored samples: five passes, fewer
# when many are stored, so that the time is bounded.
_RELEARN_PASSES = 5
_RELEARN_SAMPLES = 10_000


def relearn_batches(
    n: int, *, batch_size: int, n_replay: int, rng: np.random.Generator
) -> Iterator[tuple[Labels, Labels]]:
    """Yield places of n stored samples to learn anew: a batch, and those to replay beside it."""
    for _ in range(max(1, min(_RELEARN_PASSES, _RELEARN_SAMPLES // max(1, n)))):
        order = rng.permutation(n)
        for start in range(0, n, batch_size):
            yield order[start : start + batch_size], rng.permutation(n)[:n_replay]
