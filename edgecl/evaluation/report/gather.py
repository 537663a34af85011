"""What a report says, read from a home's store in one snapshot; pictures are thumbnails already.

No engine runs: probes and kept samples carry their features. A class whose unlearning was asked for
is left out everywhere, as it is in predictions.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageOps

import edgecl
from edgecl.errors import DecodeError, NothingLearnedError
from edgecl.evaluation.continual import summary
from edgecl.evaluation.fresh import freshness, outdated_in_words
from edgecl.evaluation.report.contents import (
    ChangeRow,
    ClassRow,
    Confused,
    Contents,
    Counts,
    Doubt,
    ExportRow,
    History,
    ReceiptRow,
)
from edgecl.evaluation.tested import shown_classes, tested_now
from edgecl.explain import nearest_of
from edgecl.governor.judge import judged
from edgecl.governor.words import said_of_changes
from edgecl.home import Home
from edgecl.mistakes import find_mistakes
from edgecl.runtime.preprocess import decode
from edgecl.session import Session, check_learned
from edgecl.store.changes import changes_of
from edgecl.store.exports import FRESH, STALE, exports_of
from edgecl.store.novel import entries
from edgecl.store.probes import history, latency_histogram, latency_of_classes, stages_of
from edgecl.store.requests import open_requests
from edgecl.store.samples import Rows
from edgecl.store.store import Store, bytes_by_part
from edgecl.store.table import Role
from edgecl.types import Float64
from edgecl.unlearning.account import subject_of
from edgecl.unlearning.chain import Chain
from edgecl.unlearning.receipt import Forgotten, Verified

THUMBNAIL = 64
"""Side of a thumbnail, pixels."""
# A thumbnail is about 2 kB: a report stays below a few megabytes.
_MOST_CLASS_PICTURES = 200
_MOST_CONFUSED = 8
_PICTURES_EACH = 3
_MOST_NOVEL = 12
_MOST_CHANGES = 30
_MOST_DOUBTS = 12
# The means of two or three classes lie on a line or in a plane: their angles say nothing.
_FEWEST_MEANS = 4


def gather(home: Home, store: Store, *, time: float) -> Contents:
    """Read what a report shows; inside a snapshot of the store.

    Args:
        home: The home.
        store: Its store, open to read.
        time: Now, seconds since the epoch.

    Raises:
        NothingLearnedError: The home never knew a class.
        IntegrityError: The chain of receipts is broken.
    """
    chain = Chain(home, store)
    uids = _shown(home, store, chain)
    places = {uid: place for place, uid in enumerate(uids)}
    limit = home.max_pixels
    tested = tested_now(home, store, uids)
    probes, guesses = tested.probes, tested.guesses
    n_held = 0 if tested.is_left_out else len(guesses)
    held = Rows(probes.uids[:n_held], probes.x[:n_held], probes.classes[:n_held])
    confusion = tested.confusion if len(guesses) else None
    no_confusion = "" if len(guesses) else "no picture was held out to test on yet"
    past = _history(store, uids)
    kept_steps, kept_times = _ages(store, places)
    n_novel, novel = _novel(store, limit)
    n_doubts, doubts = _doubts(Session(home, store), limit)
    pairs = zip(tested.right.tolist(), tested.n.tolist(), strict=True)
    right = dict(zip((store.names[uid] for uid in uids), pairs, strict=True))
    live = freshness(store, right, home.config.governor.alpha)
    old = (outdated_in_words(k, v, right[k]) for k, v in live.items() if v["is_outdated"])
    return Contents(
        **_home_fields(home),
        **_store_fields(store),
        time=time,
        classes=_classes(store, uids, held, limit),
        history=past,
        scores=_scores(store),
        confusion=confusion,
        no_confusion=no_confusion,
        is_left_out=tested.is_left_out,
        confused=()
        if confusion is None
        else _confused(store, uids, confusion, guesses, probes, limit),
        similar=_similar(store, places, held),
        doubts=doubts,
        n_doubts=n_doubts,
        latencies=_latencies(store),
        kept_steps=kept_steps,
        kept_times=kept_times,
        receipts=_receipts(chain, past),
        n_novel=n_novel,
        novel=novel,
        changes=_changes(home, store, places),
        warnings=(*said_of_changes(home, store)["warnings"], *old),
        live=live,
    )


def _shown(home: Home, store: Store, chain: Chain) -> list[int]:
    """Return the uids of the classes that a report may name, none if all was unlearned."""
    if not any(chain.of(Forgotten)):
        check_learned(home, store)  # when all was unlearned, the receipts are what is asked for
    uids = shown_classes(store)
    if store.names and not uids:
        raise NothingLearnedError(
            f"every class of {home.path} is being unlearned; run `edgecl forget pending`"
        )
    return uids


def _home_fields(home: Home) -> dict[str, Any]:
    return {
        "home": home.path,
        "backbone": home.manifest.backbone,
        "image_size": home.manifest.preprocessing.image_size,
        "head": home.config.head.name,
        "version": edgecl.__version__,
    }


def _store_fields(store: Store) -> dict[str, Any]:
    return {
        "capacity_samples": store.capacity_samples,
        "capacity_bytes": store.capacity_bytes,
        "picture_bytes": store.stored_bytes,
        "bytes_by_part": bytes_by_part(store),
        "sources": _sources(store),
        "exports": tuple(
            ExportRow(e.uid, e.kind, str(e.path), e.created, len(e.classes), e.status == STALE)
            for e in exports_of(store)
            if e.status in (FRESH, STALE)
        ),
        "n_pending": len(open_requests(store)),
        "is_sealed": store.is_sealed,
    }


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


def _classes(
    store: Store, uids: Sequence[int], probes: Rows, max_pixels: int
) -> tuple[ClassRow, ...]:
    n_seen, n_stored = store.n_seen(), store.n_stored()
    latency = latency_of_classes(store)
    held = np.bincount(probes.classes, minlength=len(uids))
    kept = {class_uid: uid for uid, class_uid in reversed(store.stored_samples())}
    rows = []
    for place, uid in enumerate(uids):
        picture = None
        if place < _MOST_CLASS_PICTURES and (uid in kept or held[place]):
            if uid in kept:
                data = store.picture(kept[uid])
            else:
                data = store.picture(int(probes.uids[probes.classes == place][0]))
            picture = thumbnail(data, max_pixels=max_pixels)
        row = ClassRow(
            store.names[uid], n_seen[uid], n_stored[uid], int(held[place]), picture=picture
        )
        if uid in latency:
            known = latency[uid]
            row = replace(
                row,
                arrival=known.step,
                n_frames=known.n_frames,
                first_right=known.first_right,
                nine_of_ten=known.nine_of_ten,
            )
        rows.append(row)
    return tuple(rows)


def _history(store: Store, uids: Sequence[int]) -> History:
    past = history(store)
    column = {uid: n for n, uid in enumerate(past.classes.tolist())}
    accuracy = np.full((len(past.steps), len(uids)), np.nan)
    n_probes = np.zeros(accuracy.shape, np.int64)
    for place, uid in enumerate(uids):
        if uid in column:
            accuracy[:, place] = past.accuracy[:, column[uid]]
            n_probes[:, place] = past.n_probes[:, column[uid]]
    # Scores of nothing but classes that were unlearned since: no curve passes there any more.
    is_known = np.isfinite(accuracy).any(axis=1)
    return History(*(part[is_known] for part in (past.steps, past.times, accuracy, n_probes)))


def _scores(store: Store) -> dict[str, float]:
    known = summary(store)
    names = ("min_accuracy", "worst_case_accuracy", "forgetting")
    return {name: known[name] for name in names if known[name] is not None}


def _confused(
    store: Store,
    uids: Sequence[int],
    confusion: Counts,
    guesses: Counts,
    probes: Rows,
    max_pixels: int,
) -> tuple[Confused, ...]:
    """Return the pairs with most mistakes, and what they look like."""
    wrong = confusion - np.diag(np.diagonal(confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSED]
    kept = store.rows(Role.REPLAY)
    found = []
    for true, guess in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[true, guess] == 0:
            break
        is_one = (probes.classes == true) & (guesses == guess)
        these = probes.uids[is_one].tolist()
        near = nearest_of(kept, probes.x[is_one][0], uids[int(guess)])
        made = (thumbnail(store.picture(uid), max_pixels=max_pixels) for uid in these)
        pictures = tuple(itertools.islice((t for t in made if t is not None), _PICTURES_EACH))
        found.append(
            Confused(
                int(true),
                int(guess),
                int(wrong[true, guess]),
                int(confusion[true].sum()),
                pictures,
                None if near is None else thumbnail(store.picture(near), max_pixels=max_pixels),
            )
        )
    return tuple(found)


def _similar(
    store: Store, places: dict[int, int], probes: Rows
) -> tuple[tuple[int, int, float], ...]:
    """Return pairs of classes whose mean features point the same way, the nearest first.

    The means are those of kept samples and probes: the statistics would be exact, and are a matrix
    a class.
    """
    x, uids = store.stored_rows()
    y = np.array([places.get(uid, -1) for uid in uids.tolist()], dtype=np.int64)
    rows = np.concatenate([x[y >= 0].astype(np.float64), probes.x])
    y = np.concatenate([y[y >= 0], probes.classes])
    known = np.unique(y)
    if len(known) < _FEWEST_MEANS:
        return ()
    means = np.array([rows[y == place].mean(axis=0) for place in known])
    means -= means.mean(axis=0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    cosine = np.triu(means @ means.T, k=1)
    order = np.argsort(-cosine, axis=None, kind="stable")[:_MOST_CONFUSED]
    pairs = zip(*np.unravel_index(order, cosine.shape), strict=True)
    return tuple((int(known[i]), int(known[j]), float(cosine[i, j])) for i, j in pairs)


def _latencies(store: Store) -> dict[str, tuple[Float64, Counts]]:
    found = {stage: latency_histogram(store, stage) for stage in stages_of(store)}
    return {stage: (1e6 * times.seconds, times.n) for stage, times in found.items()}


def _ages(store: Store, places: dict[int, int]) -> tuple[Counts, Float64]:
    kept = [origin for origin in store.origins(Role.REPLAY) if origin.class_uid in places]
    steps = np.array([origin.step for origin in kept], dtype=np.int64)
    return steps, np.array([origin.time for origin in kept])


def _sources(store: Store) -> tuple[tuple[str, int], ...]:
    by_number = sorted(store.n_by_source().items(), key=lambda item: -item[1])
    return tuple(by_number)


def _receipts(chain: Chain, history: History) -> tuple[ReceiptRow, ...]:
    checks = {check.of: check.status for _, check in chain.of(Verified)}
    rows = []
    for receipt, entry in chain.of(Forgotten):
        step = None
        if len(history.times) and entry.time >= history.times[0]:
            step = float(np.interp(entry.time, history.times, history.steps))
        rows.append(
            ReceiptRow(
                receipt.receipt_id,
                subject_of(entry),
                str(entry.mode),
                entry.time,
                checks.get(receipt.receipt_id, "not asked for").replace("_", " "),
                step,
            )
        )
    return tuple(rows)


def _changes(home: Home, store: Store, places: dict[int, int]) -> tuple[ChangeRow, ...]:
    rows = []
    for change in changes_of(store)[: -_MOST_CHANGES - 1 : -1]:
        shown = tuple(part for part in change.classes if part.uid in places)
        found = judged(shown, home.config.governor)
        learned = sum(part.learned for part in shown)
        rows.append(
            ChangeRow(
                change.name, change.kind, change.state, change.opened, learned,
                found.pairs.n, found.pairs.lost, found.pairs.won, found.verdict,
            )
        )  # fmt: skip
    return tuple(rows)


def _novel(store: Store, max_pixels: int) -> tuple[int, tuple[bytes, ...]]:
    """Return how many frames wait for a name, and thumbnails of the most novel."""
    waiting = entries(store)
    made = (
        thumbnail(store.picture(entry.uid), max_pixels=max_pixels)
        for entry in waiting[:_MOST_NOVEL]
    )
    return len(waiting), tuple(small for small in made if small is not None)


def _doubts(session: Session, max_pixels: int) -> tuple[int, tuple[Doubt, ...]]:
    """Return how many kept samples the others contradict, and those that they do most."""
    if not session.store.names:
        return 0, ()
    found = find_mistakes(session).found

    def small(uid: int | None) -> bytes | None:
        data = None if uid is None else session.store.picture(uid)
        return None if data is None else thumbnail(data, max_pixels=max_pixels)

    return len(found), tuple(
        Doubt(m.uid, m.label, m.guess, small(m.uid), m.twin, small(m.twin))
        for m in found[:_MOST_DOUBTS]
    )
