"""How far a head's scores can be believed: from its kept samples left out, or from held-out ones.

Where adapters are mixed into the head, the mixture says it of the pictures that no adapter was
trained on: the head's left-out or held-out scores, with what the adapters said of the same pictures
(edgecl/consolidation/opinions.py).

Everything is a function of the store and the head, so that after an unlearning it is, bit for bit,
that of a home that never saw what was unlearned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from edgecl.heads.base import Head
from edgecl.heads.leave_one_out import LeaveOneOut
from edgecl.runtime.calibration import Calibration, calibration_from, logarithms
from edgecl.runtime.mixture import mixed
from edgecl.runtime.novelty import directions
from edgecl.runtime.scoring import Arrays, softmax
from edgecl.store.adapters import heard, served_digests, task_adapters
from edgecl.store.opinions import n_opinions, opinions_of
from edgecl.store.samples import Rows
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.types import Float32, Float64, Labels

# Fewer samples say little, and of one class nothing.
FEWEST = 10
# Scores of kept rows that are held at once, 64 MB, but so many rows in any case.
_MOST_SCORES, _MOST_ROWS = 8_000_000, 1000
# Of the median distance between rows of a class.
_NEAR = 0.6
# Between what softmax makes of scores from zero to one: hardly a difference, and a hard choice.
_LEAST, _MOST = 2.0**-6, 2.0**10
_STEPS, _NEAR_ENOUGH = 64, 1e-9  # of the logarithm
# Scores that are turned into shares at once.
_AT_ONCE = 32_768
_MIXTURE = "mixture."


def left_out_of(
    store: Store,
    head: Head,
    blocked: frozenset[int] = frozenset(),
    groups: Mapping[int, int] | None = None,
    *,
    by_burst: bool = False,
    asked: Labels | None = None,
) -> LeaveOneOut | None:
    """Return what a head says of the samples that a store keeps, had it not learned them.

    Args:
        store: Open store.
        head: Its head; one that has something pending solves first.
        blocked: Classes that must not be named.
        groups: What is left out together, by uid of the sample; None leaves out one at a time.
        by_burst: Leave out together what `bursts_of` finds instead; of a head that takes long for
            it, or with very many scores, only some bursts, spread over all.
        asked: Uids of samples that are then meant: their bursts are left out.

    Returns:
        None if the head has no closed form of it, or nothing is kept.
    """
    uids, x, classes = store.rows(Role.REPLAY)
    if not len(uids):
        return None
    numbers = None if groups is None else np.array([groups[u] for u in uids.tolist()], np.int64)
    if by_burst:
        numbers = bursts_of(directions(x), classes)
        most = head.most_left_out or _rows_at_once(head)
        if len(uids) > most:
            if asked is None:
                chosen = numbers % -(-len(uids) // most) == 0
            else:
                chosen = np.isin(numbers, numbers[np.isin(uids, asked)])
            uids, x, classes, numbers = uids[chosen], x[chosen], classes[chosen], numbers[chosen]
    return _left_out(head, Rows(uids, x, classes), numbers, blocked)


def left_out_in_parts(
    store: Store, head: Head, blocked: frozenset[int] = frozenset()
) -> Iterator[LeaveOneOut]:
    """Yield what `left_out_of` says of each sample alone, never all scores of many at once."""
    uids, x, classes = store.rows(Role.REPLAY)
    size = _rows_at_once(head)
    for first in range(0, len(uids), size):
        part = slice(first, first + size)
        found = _left_out(head, Rows(uids[part], x[part], classes[part]), None, blocked)
        if found is not None:
            yield found


def _rows_at_once(head: Head) -> int:
    return max(_MOST_ROWS, _MOST_SCORES // max(1, len(head.classes)))


def _left_out(
    head: Head, rows: Rows, groups: Labels | None, blocked: frozenset[int]
) -> LeaveOneOut | None:
    uids, x, classes = rows
    found = head.left_out(x, classes, groups)
    if found is None:
        return None
    columns: Labels = np.array(head.classes, dtype=np.int64)
    if not blocked:  # of many rows and classes a copy is hundreds of MB
        return LeaveOneOut(uids, classes, columns, found.scores, found.leverage)
    is_open = ~np.isin(columns, list(blocked))
    whole = LeaveOneOut(uids, classes, columns[is_open], found.scores[:, is_open], found.leverage)
    return whole.only(~np.isin(classes, list(blocked)))


def mixture_of(
    store: Store, head: Head, blocked: frozenset[int] = frozenset(), *, by_burst: bool = False
) -> LeaveOneOut | None:
    """Return what the head with the adapters that are heard says of pictures that none has learned.

    Args:
        store: Open store.
        head: Its exact head.
        blocked: Classes that must not be named.
        by_burst: See `left_out_of`.

    Returns:
        Shares as scores, oldest picture first; None without adapters, where these were asked for no
        picture, or know a class that the head does not.
    """
    speakers = heard(task_adapters(store))
    uids, opinions = opinions_of(store, {task.uid: len(task.classes) for task in speakers})
    if not len(uids) or not head.classes:
        return None
    columns: Labels = np.array(head.classes, dtype=np.int64)
    held = store.rows(Role.HELD_OUT)
    left_out = left_out_of(store, head, by_burst=by_burst, asked=uids)
    own = np.isin(held.uids, uids) & np.isin(held.classes, columns)
    parts = [(held.uids[own], held.classes[own], np.zeros((0, len(columns))))]
    if own.any():
        parts[0] = (*parts[0][:2], head.predict_many(held.x[own].astype(np.float32)))
    if left_out is not None:
        some = left_out.only(np.isin(left_out.uids, uids))
        parts.append((some.uids, some.classes, some.scores))
    found, classes, scores = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(found)
    found, classes, scores = found[order], classes[order], scores[order]
    place = {uid: k for k, uid in enumerate(head.classes)}
    if any(uid not in place for task in speakers for uid in task.classes):
        return None
    shares = softmax(speakers[-1].body["temperature"] * scores)
    for task, said in zip(speakers, opinions, strict=True):
        own_columns = [place[uid] for uid in task.classes]
        said = said[np.searchsorted(uids, found)]
        shares = mixed(shares, said, own_columns, float(task.body["share"]))
    is_open = ~np.isin(columns, list(blocked))
    whole = LeaveOneOut(
        found, classes, columns[is_open], shares[:, is_open], np.full(len(found), np.nan)
    )
    return whole.only(~np.isin(classes, list(blocked)))


def mixture_key(store: Store) -> Labels:
    """Return what the mixture's answers depend on beside the head: adapters, and pictures asked."""
    adapters = [int(digest[:15], 16) for digest in served_digests(store)]
    return np.array([*adapters, n_opinions(store)], np.int64)


def calibration_of(store: Store, head: Head, *, is_mixed: bool = False) -> Calibration | None:
    """Return how far a head's scores can be believed; columns are the head's classes.

    Of heads without leave-one-out, the samples that are held out say it.

    Args:
        store: Open store.
        head: Its exact head.
        is_mixed: Ask for what is served with the adapters that are heard, instead of the head.

    Returns:
        None while fewer than `FEWEST` samples of two classes say anything.
    """
    if is_mixed:
        said = mixture_of(store, head, by_burst=True)
        if said is None:
            return None
        labels = tuple(store.names[uid] for uid in said.columns.tolist())
        return _fitted(logarithms(said.scores), said.targets, labels, of_shares=True)
    left_out = left_out_of(store, head, by_burst=True)
    if left_out is not None:
        scores, classes = left_out.scores, left_out.classes
    else:
        _, x, classes = store.rows(Role.HELD_OUT)
        is_known = np.isin(classes, head.classes)
        if not is_known.any():
            return None
        scores, classes = head.predict_many(x[is_known].astype(np.float32)), classes[is_known]
    # The only sample of a class left out is no sample of a class that the head knows.
    is_left_out = left_out is not None
    if is_left_out:
        counts = store.n_stored()
        is_usual = np.isin(classes, [uid for uid, n in counts.items() if n > 1])
        left_out = None  # of many classes two sets of scores are hundreds of MB
        if not is_usual.all():
            scores, classes = scores[is_usual], classes[is_usual]
    place = {uid: k for k, uid in enumerate(head.classes)}
    targets = np.array([place[uid] for uid in classes.tolist()], dtype=np.int64)
    labels = tuple(store.names[uid] for uid in head.classes)
    return _fitted(scores, targets, labels, is_left_out=is_left_out)


def _fitted(
    scores: Float64,
    targets: Labels,
    labels: tuple[str, ...],
    *,
    is_left_out: bool = False,
    of_shares: bool = False,
) -> Calibration | None:
    """Return the calibration of scores (N, K) of columns (N,); None while too few say anything."""
    if len(targets) < FEWEST or len(np.unique(targets)) < 2:
        return None
    temperature = fitted_temperature(scores, targets)
    shares = np.empty(len(targets))
    for part in _parts(scores):
        own = np.arange(part.stop - part.start), targets[part]
        shares[part] = softmax(temperature * scores[part])[own]
    right = scores.argmax(axis=1) == targets
    return Calibration(temperature, targets, shares, right, labels, is_left_out, of_shares)


def save_scorer(store: Store, head: Head) -> None:
    """Keep the head's weights, and how far they can be believed, until something is learned again.

    Inside a transaction.
    """
    known: Arrays = {_MIXTURE + "of": mixture_key(store)}
    for prefix, is_mixed in (("", False), (_MIXTURE, True)):
        found = calibration_of(store, head, is_mixed=is_mixed)
        if found is not None:
            known |= {prefix + key: array for key, array in found.arrays().items()}
    scorer = head.scorer(store.names)
    uids = {name: uid for uid, name in store.names.items()}
    known["classes"] = np.array([uids[label] for label in scorer.labels], dtype=np.int64)
    store.save_head("scorer", head.name, scorer.arrays() | known)


def kept_calibration(
    store: Store, kept: Arrays | None, *, is_mixed: bool
) -> tuple[Calibration | None, bool]:
    """Return what `save_scorer` kept of how far answers can be believed, and whether it is of now.

    Args:
        store: The store.
        kept: The kept arrays, None where none are.
        is_mixed: Of the head with its adapters; other adapters since make it out of date.
    """
    if kept is None:
        return None, False
    labels = tuple(store.names[int(uid)] for uid in kept["classes"])
    if not is_mixed:
        return calibration_from(kept, labels), True
    of = kept.get(_MIXTURE + "of")
    if of is None or not np.array_equal(of, mixture_key(store)):
        return None, False
    part = {k.removeprefix(_MIXTURE): a for k, a in kept.items() if k.startswith(_MIXTURE)}
    return calibration_from(part, labels), True


def bursts_of(rows: Float32, classes: Labels) -> Labels:
    """Return the burst (N,) that each row belongs to: frames of one thing, one after the other.

    Of a thing held before a camera the store has many frames. Each has near copies, so that leaving
    out one of them says how far copies are apart, and not how far things are. Rows of a class that
    follow each other are one burst while they are nearer than `_NEAR` of what rows of the class
    mostly are; 1 in 200 is so near where the order says nothing. At most half of a class is one.

    Args:
        rows: Directions (N, D) of the rows, oldest first; see `edgecl.runtime.novelty`.
        classes: Their class uids (N,).
    """
    out = np.empty(len(rows), np.int64)
    n_bursts = 0
    for uid in np.unique(classes):
        own = np.flatnonzero(classes == uid)
        half = len(own) // 2
        usual = (
            np.median(np.linalg.norm(rows[own[:half]] - rows[own[half : 2 * half]], axis=1))
            if half
            else 0.0
        )
        steps = np.linalg.norm(np.diff(rows[own], axis=0), axis=1)
        burst = np.concatenate([[0], np.cumsum(steps >= _NEAR * usual)])
        if np.bincount(burst).max() > max(1, half):
            burst = 2 * burst + (np.arange(len(own)) >= half)
        out[own] = n_bursts + burst
        n_bursts += int(burst.max()) + 1
    return out


def fitted_temperature(scores: Float64, targets: Labels) -> float:
    """Return what scores (N, K) are multiplied by so that their softmax has the least log loss.

    As in Platt 1999 one more sample, that might have been of any class, keeps a few right answers
    from being taken for sure. The loss is convex, so its slope has one zero, which Newton's steps
    find on a log scale; a step that leaves what is left of the range halves it instead.
    """
    doubt = 1 / (len(targets) + 2)
    own = (1 - doubt) * scores[np.arange(len(targets)), targets] + doubt * scores.mean(axis=1)
    low, high = np.log(_LEAST), np.log(_MOST)
    at = (low + high) / 2
    for _ in range(_STEPS):
        expected, spread = _expected(np.exp(at), scores)
        slope = float((expected - own).mean())
        low, high = (low, at) if slope > 0 else (at, high)
        # By the logarithm of what is multiplied, the expectation grows by so much.
        growth = np.exp(at) * float(spread.mean())
        after = at - slope / growth if growth > 0 else low
        after = after if low < after < high else (low + high) / 2
        step, at = abs(after - at), after
        if step < _NEAR_ENOUGH:
            break
    return float(np.exp(at))


def _expected(temperature: float, scores: Float64) -> tuple[Float64, Float64]:
    """Return the mean and the variance (N,) of scores (N, K) under their own softmax."""
    mean, variance = np.empty(len(scores)), np.empty(len(scores))
    for part in _parts(scores):
        shares = softmax(temperature * scores[part])
        mean[part] = (shares * scores[part]).sum(axis=1)
        variance[part] = (shares * np.square(scores[part] - mean[part, None])).sum(axis=1)
    return mean, variance


def _parts(scores: Float64) -> Iterator[slice]:
    """Yield slices of rows (N, K) that stay in a processor's cache; no row's result changes."""
    n = max(1, _AT_ONCE // max(1, scores.shape[1]))
    for first in range(0, len(scores), n):
        yield slice(first, min(first + n, len(scores)))
