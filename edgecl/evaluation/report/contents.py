"""What a report shows, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgecl.evaluation.continual import pooled
from edgecl.store.probes import FEW_PROBES
from edgecl.types import Float64

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class.

    Args:
        name: Its name.
        learned: Samples that were learned.
        kept: Pictures that are kept for replay.
        held_out: Its probes.
        arrival: Samples that were learned when it came, None when that was not noted.
        n_frames: Frames of it since then.
        first_right: How many of them it took until it was right once; None if it never was.
        nine_of_ten: The same until it was right 9 times of 10.
        picture: A thumbnail (JPEG), None when no picture is kept.
    """

    name: str
    learned: int
    kept: int
    held_out: int
    arrival: int | None = None
    n_frames: int = 0
    first_right: int | None = None
    nine_of_ten: int | None = None
    picture: bytes | None = None


@dataclass(frozen=True, slots=True)
class History:
    """Scores on the probes over time; where none is held out, on kept samples left out.

    Args:
        steps: Samples learned by each evaluation, shape (E,), not decreasing.
        times: Wall clock, shape (E,), seconds since the epoch.
        accuracy: Share of each class's probes that was right, shape (E, K); NaN where it had none.
        n_probes: Probes of each class by then, shape (E, K).
    """

    steps: Counts
    times: Float64
    accuracy: Float64
    n_probes: Counts

    @property
    def by_class(self) -> Float64:
        """Return the accuracy of each class, NaN while it has few test pictures, shape (E, K)."""
        return np.where(self.n_probes >= FEW_PROBES, self.accuracy, np.nan)

    @property
    def together(self) -> Float64:
        """Return the accuracy of all classes together at each evaluation, shape (E,)."""
        return pooled(self.accuracy, self.n_probes)


@dataclass(frozen=True, slots=True)
class Confused:
    """Probes of one class that are taken for another.

    Args:
        true: Their class, as a place in `Contents.classes`.
        guess: What they are taken for.
        n: How many.
        of: Probes of their class.
        pictures: Thumbnails (JPEG) of some.
        nearest: A thumbnail of the kept sample of `guess` that is most like the first of them.
    """

    true: int
    guess: int
    n: int
    of: int
    pictures: tuple[bytes, ...]
    nearest: bytes | None = None


@dataclass(frozen=True, slots=True)
class Doubt:
    """A kept sample that the others contradict; see `edgecl.mistakes`.

    Args:
        uid: Its uid.
        label: What it was taught as.
        guess: What the others say.
        picture: A thumbnail (JPEG), None when it cannot be decoded.
        twin: Uid of a sample of the class `guess` that shows nearly the same, or None.
        twin_picture: Its thumbnail.
    """

    uid: int
    label: str
    guess: str
    picture: bytes | None
    twin: int | None = None
    twin_picture: bytes | None = None


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    """One unlearning: what it was, never a name.

    Args:
        receipt_id: Its receipt.
        what: `class`, `sample` or `source`, with its uid.
        mode: Exact or approximate.
        time: Seconds since the epoch.
        check: What the check found; `not asked for` without one.
        step: Samples learned by then, None when that is not known.
    """

    receipt_id: str
    what: str
    mode: str
    time: float
    check: str
    step: float | None


@dataclass(frozen=True, slots=True)
class ExportRow:
    """One bundle that is in use, or was before something was unlearned."""

    uid: int
    kind: str
    path: str
    created: float
    n_classes: int
    is_stale: bool


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One change of the home, without a name.

    Args:
        change: What it is called, for example c12.
        kind: What was done.
        state: What became of it.
        time: When it began, seconds since the epoch.
        learned: Samples that it taught.
        n: Pictures that were answered before and after it.
        lost: Of them, right before and wrong after.
        won: Wrong before and right after.
        verdict: What that proves.
    """

    change: str
    kind: str
    state: str
    time: float
    learned: int
    n: int
    lost: int
    won: int
    verdict: str


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a report shows.

    Args:
        home: Where the home is.
        backbone: Its backbone.
        image_size: Pixels that the backbone sees.
        head: Name of its head.
        version: Version of edgecl.
        time: When it was read, seconds since the epoch.
        classes: K classes, oldest first.
        history: Scores over time.
        scores: `min_accuracy`, `worst_case_accuracy` and `forgetting` of the history, 0 to 1; what
            is not known yet is not there.
        confusion: Probes by class and answer of the head that is served now, shape (K, K); None
            when there is no probe, or `no_confusion` says why.
        no_confusion: Why there is no confusion matrix.
        confused: The pairs that are confused most.
        similar: Pairs of classes with the cosine between their mean features, both without the
            mean of all; the nearest first.
        doubts: Kept samples that the others contradict, those that do most.
        n_doubts: How many there are in all.
        latencies: Histograms of how long a step took, by stage: times in microseconds where a
            bucket begins, and counts.
        kept_steps: When each kept picture was learned, in samples, shape (N,).
        kept_times: The same, seconds since the epoch.
        capacity_samples: Most pictures that are kept.
        capacity_bytes: Most bytes of kept pictures.
        picture_bytes: Bytes of kept pictures.
        bytes_by_part: What the store's file consists of, bytes.
        sources: Where the samples that are still rows came from, with their number.
        receipts: What was unlearned, oldest first.
        exports: Bundles.
        n_novel: Frames that wait for a name.
        novel: Thumbnails of the most novel.
        n_pending: Requests to unlearn that are not done.
        is_sealed: Whether the home is encrypted.
        changes: What was done to the home, the newest first.
        warnings: What of it a person should know.
        is_left_out: Whether the test pictures were learned, and left out one by one.
        live: Answers to the newest live frames of classes, as `freshness` gives them.
    """

    home: Path
    backbone: str
    image_size: int
    head: str
    version: str
    time: float
    classes: tuple[ClassRow, ...]
    history: History
    scores: dict[str, float]
    confusion: Counts | None
    no_confusion: str
    confused: tuple[Confused, ...]
    similar: tuple[tuple[int, int, float], ...]
    doubts: tuple[Doubt, ...]
    n_doubts: int
    latencies: dict[str, tuple[Float64, Counts]]
    kept_steps: Counts
    kept_times: Float64
    capacity_samples: int
    capacity_bytes: int
    picture_bytes: int
    bytes_by_part: dict[str, int]
    sources: tuple[tuple[str, int], ...]
    receipts: tuple[ReceiptRow, ...]
    exports: tuple[ExportRow, ...]
    n_novel: int
    novel: tuple[bytes, ...]
    n_pending: int
    is_sealed: bool
    changes: tuple[ChangeRow, ...] = ()
    warnings: tuple[str, ...] = ()
    is_left_out: bool = False
    live: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def test_pictures(self) -> str:
        """Say which pictures accuracy is of."""
        if self.is_left_out:
            return "kept pictures (each as if not learned)"
        return "test pictures"

    @property
    def samples(self) -> int:
        """Return how many samples were learned."""
        return sum(row.learned for row in self.classes)
