"""What every head does.

A head names classes by uid, an integer that is never used twice; names belong to the store. The
contract tests in tests/contracts run every check on every head of `HEADS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgecl.errors import IntegrityError, NothingLearnedError, ShapeError, UnknownClassError
from edgecl.heads.leave_one_out import LeftOut
from edgecl.heads.memory import Memory, OnlyClasses, Whole
from edgecl.heads.profile import PLAIN, Profile
from edgecl.heads.statistics import Moments, Statistic
from edgecl.runtime.grid import quantise
from edgecl.runtime.scoring import Scorer
from edgecl.types import Float16, Float32, Float64, Labels

State = dict[str, npt.NDArray[Any]]
Replay = tuple[Float32 | Float16, Labels]


class Head(ABC):
    """An online classifier over features of a frozen map.

    A head in closed form says `classes`, `learn_many`, `restore` and `scorer`; what it learned is
    then the statistics. One by gradient also says `state`, `rebuild` and that it does not unlearn
    exactly.

    Args:
        statistic: What the store keeps of every class for it.
    """

    name: ClassVar[str]
    unlearns_exactly: bool = True
    """Whether an unlearning ends where never having learned does, and not where learning the kept
    samples anew does."""
    learned_parts: tuple[str, ...] = ()
    """What depends on every class beside statistics and rows, for people who unlearn one."""
    batch_size: int = 1
    """Samples of one update on a source that can wait."""
    n_replay: int = 0
    """Stored samples that one update wants beside them; a view counts as one."""
    profile: Profile = PLAIN
    """In how many views they are wanted; `PLAIN` for a head that takes no profile."""

    most_left_out: int | None = None
    """Rows that can be left out in about a second; None for those that take one product."""

    def __init__(self, statistic: Statistic) -> None:
        self.statistic = statistic
        self.num_features = statistic.num_features

    @property
    @abstractmethod
    def classes(self) -> tuple[int, ...]:
        """Uids of the classes, in the order in which they came."""

    @abstractmethod
    def learn_many(self, x: Float32 | Float16, y: Labels, replay: Replay | None = None) -> None:
        """Learn features (N, D) of classes (N,), with stored samples beside them; changes the head.

        Stored features are (M, D), or (M, V, D) when the profile asks for V views. float16 features
        are taken to be quantised already.

        Raises:
            ShapeError: Another shape, or not finite.
        """

    @abstractmethod
    def restore(self, moments: Mapping[int, Moments], state: State | None) -> None:
        """Take over what a store kept: statistics by class, and the state of the last commit."""

    @abstractmethod
    def scorer(self, names: Mapping[int, str]) -> Scorer:
        """Return the head as arrays that only predict, its classes called by `names`."""

    def expect(self, x: Float16) -> None:  # noqa: B027
        """Hear which quantised rows (N, D) are predicted and learned next, one after the other.

        It changes nothing that the head says; one that reads much for a row may do so once for all.
        """

    def prepare(self) -> None:  # noqa: B027
        """Do at leisure what the next answer would wait for, and would do itself."""

    @property
    def forget_mode(self) -> str:
        """What an unlearning is called in the receipt."""
        return "exact_head" if self.unlearns_exactly else "exact_retrain"

    @property
    def is_exact(self) -> bool:
        """Whether an unlearning gives the very bits of never having learned."""
        return self.unlearns_exactly

    def learn_one(self, x: Float32, y: int) -> None:
        """Learn one feature (D,) of class y; changes the head.

        Raises:
            ShapeError: x is not (D,) or not finite.
        """
        self.learn_many(x[None], np.array([y]))

    def predict_many(self, x: Float32) -> Float64:
        """Return scores (N, K) of features (N, D), columns as `classes`.

        Raises:
            NothingLearnedError: There is no class.
            ShapeError: x is not (N, D).
        """
        self.check_learned(x)
        return self.scorer({uid: str(uid) for uid in self.classes}).scores(x)

    def settle(self, memory: Memory | None = None) -> None:  # noqa: B027
        """Make the head fit to be deployed; how it goes on learning does not change.

        A closed form is brought to the state that its statistics define; a head by gradient may
        tune the copy that it serves on what `memory` holds.
        """

    def rebuild(self, memory: Memory) -> None:
        """Learn what a store holds, from nothing."""
        self.restore(memory.all_moments(), None)

    def take_off(self, gone: Whole, memory: Memory, counts: Mapping[int, int]) -> None:
        """Unlearn samples that `memory` holds no longer: do what `rebuild` does, maybe sooner.

        Args:
            gone: What they add up to.
            memory: What is left.
            counts: How many samples of each class that is, oldest class first.
        """
        del gone, counts
        self.rebuild(memory)

    def regroup(self, memory: Memory) -> None:
        """Do what `rebuild` does, where all samples are those learned, some under other classes."""
        self.rebuild(memory)

    def forget(self, y: int, memory: Memory) -> None:
        """Unlearn class y, which `memory` still holds: what `rebuild` makes of the other classes.

        Raises:
            UnknownClassError: The head never learned it; nothing was changed.
        """
        self.check_known(y)
        self.rebuild(OnlyClasses(memory, tuple(uid for uid in self.classes if uid != y)))

    def left_out(self, x: Float16, y: Labels, groups: Labels | None = None) -> LeftOut | None:
        """Return what it would say of rows that it learned, had it not learned them.

        Args:
            x: Quantised rows (N, D) that it learned; others that it learned may be missing.
            y: Uids of their classes (N,).
            groups: Numbers (N,) of what is left out together, a source or a day; None leaves out
                one row at a time.

        Returns:
            None where that has no closed form: learned by gradient.
        """
        del x, y, groups
        return None

    def left_out_now(self, x: Float16, y: Labels) -> Float64 | None:
        """Return the scores (N, K) of `left_out`, one row at a time; changes nothing.

        Where `left_out` brings the head to its exact state first, this is of the head as it stands
        between two steps.
        """
        found = self.left_out(x, y)
        return None if found is None else found.scores

    @property
    def left_out_cost(self) -> int | None:
        """How long one row of `left_out_now` takes, in multiply-adds; None where it says None."""
        return None

    def whole(self) -> Whole | None:
        """Return what all classes add up to, for a store that keeps it; None if nobody needs it."""
        return None

    def state(self) -> State | None:
        """Return what must be committed with every step, or None when the statistics suffice."""
        return None

    def check_learned(self, x: Float32 | Float16) -> None:
        """Check that there is a class, and that x is (N, D) and finite.

        Raises:
            NothingLearnedError: There is no class.
            ShapeError: x is something else.
        """
        if not self.classes:
            raise NothingLearnedError("the head knows no class; learn a sample first")
        _check_rows(x, self.num_features)

    def check_known(self, y: int) -> None:
        """Check that the head learned class y.

        Raises:
            UnknownClassError: It did not.
        """
        if y not in self.classes:
            raise UnknownClassError(
                f"class uid {y} was never learned by this head; nothing was changed"
            )

    def check_state(self, n_kept: int, n_classes: int) -> None:
        """Check that a kept state is of as many classes as the store has.

        Raises:
            IntegrityError: It is not.
        """
        if n_kept != n_classes:
            raise IntegrityError(
                f"the store has {n_classes} classes and a head of {n_kept}; restore the home from "
                "a backup"
            )

    def checked(self, x: Float32 | Float16, y: Labels) -> tuple[Float16, Labels]:
        """Return x (N, D), quantised, and y (N,) when they fit each other.

        Raises:
            ShapeError: They do not.
        """
        y = np.asarray(y, dtype=np.int64)
        if y.ndim != 1 or len(y) != len(x):
            raise ShapeError(
                f"{len(x)} features have classes of shape {y.shape}; expected one each"
            )
        _check_rows(x, self.num_features)
        return quantise(x), y


def _check_rows(x: Float32 | Float16, num_features: int) -> None:
    if x.ndim != 2 or x.shape[1] != num_features:
        raise ShapeError(f"features are {x.shape}; this head expects (N, {num_features})")
    if not np.isfinite(x).all():
        raise ShapeError("a feature is not finite; check the engine with `edgecl doctor`")


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
