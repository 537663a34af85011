"""What a report says, read from a home's store in one snapshot; pictures are thumbnails already.

No engine runs: probes and kept samples carry their features. A class whose unlearning was asked for
is left out everywhere, as it is in predictions.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

import edgecl
from edgecl.errors import DecodeError, NothingLearnedError
from edgecl.home import Home
from edgecl.learner import served
from edgecl.replay.exports import FRESH, STALE, exports_of
from edgecl.replay.store import Store
from edgecl.runtime.preprocess import decode
from edgecl.types import Float32, Float64
from edgecl.unlearning.receipt import all_receipts

Counts = npt.NDArray[np.int64]

THUMBNAIL = 64
"""Side of a thumbnail, pixels."""
# A thumbnail is about 2 kB: a report stays below a few megabytes.
_MOST_CLASS_PICTURES = 200
_MOST_CONFUSED = 8
_PICTURES_EACH = 3
_MOST_NOVEL = 12


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class.

    Args:
        name: Its name.
        learned: Samples that were learned.
        kept: Pictures that are kept for replay.
        held_out: Its probes.
        arrival: Step at which it came, None when that was not noted.
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
    """Scores on the probes over time.

    Args:
        steps: Samples learned at each evaluation, shape (E,), rising.
        times: Wall clock, shape (E,), seconds since the epoch.
        accuracy: Share of each class's probes that was right, shape (E, K); NaN where it had none.
    """

    steps: Counts
    times: Float64
    accuracy: Float64

    @property
    def mean(self) -> Float64:
        """Return the mean over the classes of each evaluation, shape (E,)."""
        known = np.isfinite(self.accuracy)
        total = np.where(known, self.accuracy, 0.0).sum(axis=1)
        n = known.sum(axis=1)
        return np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)


@dataclass(frozen=True, slots=True)
class Confused:
    """Probes of one class that are taken for another.

    Args:
        true: Their class, as a place in `Contents.classes`.
        guess: What they are taken for.
        n: How many.
        of: Probes of their class.
        pictures: Thumbnails (JPEG) of some.
    """

    true: int
    guess: int
    n: int
    of: int
    pictures: tuple[bytes, ...]


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
        confusion: Probes by class and answer of the head that is served now, shape (K, K); None
            when there is no probe, or `no_confusion` says why.
        no_confusion: Why there is no confusion matrix.
        confused: The pairs that are confused most.
        similar: Pairs of classes with the cosine between their mean features, both without the
            mean of all; the nearest first.
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
    """

    home: Path
    backbone: str
    image_size: int
    head: str
    version: str
    time: float
    classes: tuple[ClassRow, ...]
    history: History
    confusion: Counts | None
    no_confusion: str
    confused: tuple[Confused, ...]
    similar: tuple[tuple[int, int, float], ...]
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

    @property
    def samples(self) -> int:
        """Return how many samples were learned."""
        return sum(row.learned for row in self.classes)


@dataclass(frozen=True, slots=True)
class _Probe:
    """A probe of a class at a place in the list."""

    place: int
    x: Float32
    picture: bytes


def gather(home: Home, store: Store, *, time: float) -> Contents:
    """Read what a report shows; inside a snapshot of the store.

    Args:
        home: The home.
        store: Its store, open to read.
        time: Now, seconds since the epoch.

    Raises:
        NothingLearnedError: The home knows no class.
        IntegrityError: The chain of receipts is broken.
    """
    scorer, _ = served(home, store)
    hidden = store.blocked_classes() | set(store.lost_classes())
    uids = [uid for uid in store.names if uid not in hidden]
    if not uids:
        raise NothingLearnedError(
            f"every class of {home.path} is being unlearned; run `edgecl forget pending`"
        )
    places = {uid: place for place, uid in enumerate(uids)}
    probes = _probes(store, places)
    kept = [(uid, places[c]) for uid, c in store.stored_samples() if c in places]
    limit = home.max_pixels
    confusion, no_confusion, guesses = None, "", np.zeros(0, np.int64)
    if not probes:
        no_confusion = "no picture was held out as a probe yet"
    elif scorer.n_maps > 1:
        no_confusion = (
            "this home predicts with several adapters at once; probes keep the features of one"
        )
    else:
        by_name = {store.names[uid]: places[uid] for uid in uids}
        answers = np.array([by_name[label] for label in scorer.labels], dtype=np.int64)
        guesses = answers[scorer.scores(np.array([p.x for p in probes])).argmax(axis=1)]
        confusion = np.zeros((len(uids), len(uids)), np.int64)
        np.add.at(confusion, ([p.place for p in probes], guesses), 1)
    history = _history(store, places)
    kept_steps, kept_times = _ages(store, places)
    return Contents(
        home=home.path,
        backbone=home.manifest.backbone,
        image_size=home.manifest.preprocessing.image_size,
        head=home.config.head.name,
        version=edgecl.__version__,
        time=time,
        classes=_classes(store, uids, kept, probes, limit),
        history=history,
        confusion=confusion,
        no_confusion=no_confusion,
        confused=() if confusion is None else _confused(confusion, guesses, probes, limit),
        similar=_similar(store, places, probes),
        latencies=_latencies(store),
        kept_steps=kept_steps,
        kept_times=kept_times,
        capacity_samples=store.capacity_samples,
        capacity_bytes=store.capacity_bytes,
        picture_bytes=store.stored_bytes,
        bytes_by_part=_bytes_by_part(store),
        sources=_sources(store),
        receipts=_receipts(home, store, history),
        exports=tuple(
            ExportRow(e.uid, e.kind, str(e.path), e.created, len(e.classes), e.status == STALE)
            for e in exports_of(store)
            if e.status in (FRESH, STALE)
        ),
        n_novel=_one(store, "SELECT count(*) FROM novel"),
        novel=_novel(store, places, limit),
        n_pending=_one(store, "SELECT count(*) FROM requests"),
        is_sealed=store.is_sealed,
    )


def thumbnail(data: bytes, *, max_pixels: int) -> bytes | None:
    """Return the middle of a picture as a small JPEG, None when it cannot be decoded."""
    try:
        image = decode(data, max_pixels=max_pixels)
    except DecodeError:
        return None
    is_tiny = max(image.size) < THUMBNAIL
    method = Image.Resampling.NEAREST if is_tiny else Image.Resampling.LANCZOS
    out = io.BytesIO()
    ImageOps.fit(image, (THUMBNAIL, THUMBNAIL), method).save(out, "JPEG", quality=80)
    return out.getvalue()


def _one(store: Store, query: str) -> int:
    (value,) = store.connection.execute(query).fetchone()
    return int(value)


def _probes(store: Store, places: dict[int, int]) -> list[_Probe]:
    rows = store.connection.execute("SELECT uid, class_uid, x, picture FROM probes ORDER BY uid")
    return [
        _Probe(places[c], np.frombuffer(x, np.float16).astype(np.float32), picture)
        for _, c, x, picture in rows
        if c in places
    ]


def _classes(
    store: Store,
    uids: Sequence[int],
    kept: Sequence[tuple[int, int]],
    probes: Sequence[_Probe],
    max_pixels: int,
) -> tuple[ClassRow, ...]:
    n_seen, n_stored = store.n_seen(), store.n_stored()
    latency = {
        uid: rest
        for uid, *rest in store.connection.execute(
            "SELECT class_uid, step, n_frames, first_right, nine_of_ten FROM class_latency"
        )
    }
    held_out = np.bincount([p.place for p in probes], minlength=len(uids))
    first_kept = {place: uid for uid, place in reversed(kept)}
    first_probe = {p.place: p.picture for p in reversed(probes)}
    rows = []
    for place, uid in enumerate(uids):
        picture = None
        if place < _MOST_CLASS_PICTURES:
            data = first_probe.get(place, b"")
            if place in first_kept:
                data = store.picture(first_kept[place])
            picture = thumbnail(data, max_pixels=max_pixels)
        step, n_frames, first_right, nine_of_ten = latency.get(uid, (None, 0, None, None))
        rows.append(
            ClassRow(
                store.names[uid], n_seen[uid], n_stored[uid], int(held_out[place]),
                step, n_frames, first_right, nine_of_ten, picture,
            )
        )  # fmt: skip
    return tuple(rows)


def _history(store: Store, places: dict[int, int]) -> History:
    rows = store.connection.execute("SELECT uid, step, time FROM evaluations ORDER BY uid")
    evaluations = {uid: (step, time) for uid, step, time in rows}
    accuracy = np.full((len(evaluations), len(places)), np.nan)
    at = {uid: n for n, uid in enumerate(evaluations)}
    for evaluation, class_uid, n, n_right in store.connection.execute(
        "SELECT evaluation, class_uid, n, n_right FROM class_scores WHERE n > 0"
    ):
        if class_uid in places:
            accuracy[at[evaluation], places[class_uid]] = n_right / n
    steps = np.array([step for step, _ in evaluations.values()], dtype=np.int64)
    times = np.array([time for _, time in evaluations.values()], dtype=np.float64)
    # Evaluations of classes that were unlearned since say nothing any more.
    is_known = np.isfinite(accuracy).any(axis=1)
    return History(steps[is_known], times[is_known], accuracy[is_known])


def _confused(
    confusion: Counts, guesses: Counts, probes: Sequence[_Probe], max_pixels: int
) -> tuple[Confused, ...]:
    """Return the pairs with most mistakes, and what they look like."""
    wrong = confusion - np.diag(np.diagonal(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSED]
    found = []
    for true, guess in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[true, guess] == 0:
            break
        these = [
            p.picture for p, g in zip(probes, guesses, strict=True) if (p.place, g) == (true, guess)
        ]
        made = (thumbnail(data, max_pixels=max_pixels) for data in these)
        pictures = tuple(itertools.islice((t for t in made if t is not None), _PICTURES_EACH))
        found.append(
            Confused(
                int(true), int(guess), int(wrong[true, guess]), int(confusion[true].sum()), pictures
            )
        )
    return tuple(found)


def _similar(
    store: Store, places: dict[int, int], probes: Sequence[_Probe]
) -> tuple[tuple[int, int, float], ...]:
    """Return pairs of classes whose mean features point the same way, the nearest first.

    The means are those of kept samples and probes: the statistics would be exact, and are a matrix
    a class.
    """
    x, y = store.stored_rows()
    rows = [*zip(x.astype(np.float64), y, strict=True)]
    total = np.zeros((len(places), store.num_features))
    n = np.zeros(len(places))
    for row, uid in rows:
        if uid in places:
            total[places[uid]] += row
            n[places[uid]] += 1
    for probe in probes:
        total[probe.place] += probe.x
        n[probe.place] += 1
    known = np.flatnonzero(n)
    if len(known) < 4:
        return ()  # the means of two or three classes lie on a line or a plane: angles say nothing
    means = total[known] / n[known, None]
    means -= means.mean(axis=0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    cosine = np.triu(means @ means.T, k=1)
    order = np.argsort(-cosine, axis=None, kind="stable")[:_MOST_CONFUSED]
    pairs = zip(*np.unravel_index(order, cosine.shape), strict=True)
    return tuple((int(known[i]), int(known[j]), float(cosine[i, j])) for i, j in pairs)


def _latencies(store: Store) -> dict[str, tuple[Float64, Counts]]:
    found: dict[str, list[tuple[int, int]]] = {}
    for stage, bucket, n in store.connection.execute(
        "SELECT stage, bucket, n FROM latencies WHERE n > 0 ORDER BY stage, bucket"
    ):
        found.setdefault(stage, []).append((bucket, n))
    return {
        stage: (
            2.0 ** (np.array([b for b, _ in rows]) / 4),
            np.array([n for _, n in rows], dtype=np.int64),
        )
        for stage, rows in found.items()
    }


def _ages(store: Store, places: dict[int, int]) -> tuple[Counts, Float64]:
    rows = store.connection.execute(
        "SELECT class_uid, step, time FROM samples WHERE is_stored ORDER BY uid"
    ).fetchall()
    steps = [step for c, step, _ in rows if c in places]
    return np.array(steps, dtype=np.int64), np.array([t for c, _, t in rows if c in places])


def _bytes_by_part(store: Store) -> dict[str, int]:
    sums = {
        "kept pictures": "SELECT coalesce(sum(length(data)), 0) FROM pictures",
        "features": "SELECT (SELECT coalesce(sum(length(x)), 0) FROM features) + "
        "(SELECT coalesce(sum(length(x)), 0) FROM views)",
        "statistics": "SELECT coalesce(sum(length(total) + length(second)), 0) FROM class_stats",
        "head": "SELECT coalesce(sum(length(data)), 0) FROM head",
        "adapters": "SELECT coalesce(sum(length(data)), 0) FROM adapters",
        "probes": "SELECT coalesce(sum(length(x) + length(picture)), 0) FROM probes",
        "review queue": "SELECT coalesce(sum(length(x) + length(picture)), 0) FROM novel",
    }
    return {part: _one(store, query) for part, query in sums.items()}


def _sources(store: Store) -> tuple[tuple[str, int], ...]:
    rows = store.connection.execute(
        "SELECT text, count(*) AS n FROM sources JOIN samples ON source_uid = sources.uid "
        "GROUP BY sources.uid ORDER BY n DESC, sources.uid"
    )
    return tuple((str(text), int(n)) for text, n in rows)


def _receipts(home: Home, store: Store, history: History) -> tuple[ReceiptRow, ...]:
    receipts = all_receipts(home, store)
    checks = {r.body["of"]: r.body["status"] for r in receipts if r.body["kind"] == "verification"}
    rows = []
    for receipt in receipts:
        body = receipt.body
        if body["kind"] != "forget":
            continue
        what = body.get("what", "class")
        step = None
        if len(history.times) and body["time"] >= history.times[0]:
            step = float(np.interp(body["time"], history.times, history.steps))
        rows.append(
            ReceiptRow(
                receipt.receipt_id,
                f"{what} {body.get(f'{what}_uid', '')}",
                str(body["mode"]),
                float(body["time"]),
                str(checks.get(receipt.receipt_id, "not asked for")).replace("_", " "),
                step,
            )
        )
    return tuple(rows)


def _novel(store: Store, places: dict[int, int], max_pixels: int) -> tuple[bytes, ...]:
    rows = store.connection.execute("SELECT guess, picture FROM novel ORDER BY score DESC, uid")
    made = (thumbnail(data, max_pixels=max_pixels) for guess, data in rows if guess in places)
    return tuple(itertools.islice((t for t in made if t is not None), _MOST_NOVEL))
