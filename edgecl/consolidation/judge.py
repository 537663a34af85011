"""Whether a new adapter is taken: calibrated shares on pictures that nothing compared has learned.

Judged is the squared error of the shares (Brier 1950), not whether the best class is right, by the
test that judges every change of a home (edgecl/governor): it is refused if it seems worse by more
than a standard error on all pictures together, since an adapter costs time with every answer, or is
proved worse on those of a class (docs/decisions/0020).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from edgecl.config import GovernorConfig
from edgecl.consolidation.plan import Plan
from edgecl.heads import make_head_of
from edgecl.heads.memory import Memory, RowMemory, Without
from edgecl.paired import Pairs, holm, paired_errors
from edgecl.runtime.preprocess import encode_png
from edgecl.runtime.scoring import Scorer, softmax
from edgecl.session import Session
from edgecl.store.adapters import TaskAdapter, mixed_with, served_adapters
from edgecl.store.changes import OfClass
from edgecl.store.table import Role
from edgecl.types import Float64, Labels

SHARES = (0.3, 0.5, 0.7, 0.85)
USUAL_SHARE = 0.7
"""How much an adapter's head is heard where nothing speaks for another share."""
USUAL_TEMPERATURE = 10.0
_TEMPERATURES = np.geomspace(0.2, 100, 55)
_LEAST_SHARE = 1e-12
# Of the accuracy on pictures as they are.
_MIRRORED = 0.9
_POLICY = GovernorConfig()
# One standard error, one-sided.
_DOUBT = 0.16


@dataclass(frozen=True, slots=True)
class Verdict:
    """How what is served and what would be served did on the same pictures.

    Args:
        accepted: Whether the new one is taken.
        n: Pictures that judged.
        accuracy: Share that was right, before and after.
        error: Mean squared error of the shares, before and after.
        standard_error: Of the difference of the errors, paired by picture.
        p: That it would seem so much worse by chance.
        worst_p: The same of the class that speaks most against it, of those that fell by more than
            is tolerated; corrected for many classes.
    """

    accepted: bool
    n: int
    accuracy: tuple[float, float]
    error: tuple[float, float]
    standard_error: float
    p: float = 1.0
    worst_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Witnesses:
    """The exact head without the pictures that judge, and those pictures.

    Args:
        frozen: The head; its classes are called by their uids.
        temperature: That calibrates it.
        uids: Of the pictures; those of held-out samples negative.
        y: Columns of their classes.
        accuracy: Share of them that the head has right.
        picture: Gives a picture.
    """

    frozen: Scorer
    temperature: float
    uids: list[int]
    y: Labels
    accuracy: float
    picture: Callable[[int], bytes]


def judge(
    session: Session,
    plan: Plan,
    of: Witnesses,
    bank: Sequence[TaskAdapter],
    candidate: TaskAdapter,
) -> tuple[TaskAdapter, Verdict, tuple[OfClass, ...]]:
    """Choose how much a new adapter is heard, and compare what is served with and without it.

    An adapter of a session that stands alone is judged on its own classes, beside a head of
    nothing else, and heard the usual share: nothing of it may depend on another class.

    Returns:
        The adapter with its share and temperature, the verdict, and what it does to each class.
    """
    engine = session.adapted_engine
    stands_alone = plan.recipe.sees == "session"
    names = {int(label): label for label in of.frozen.labels}
    before = [] if stands_alone else list(bank)
    body = candidate.body | {"temperature": of.temperature}

    def with_share(share: float) -> list[TaskAdapter]:
        return [*before, replace(candidate, body=body | {"share": share})]

    adapters = served_adapters(with_share(USUAL_SHARE))
    x = session.embed(engine.with_adapters(*adapters), of.uids, of.picture)
    by_share = {
        share: mixed_with(of.frozen, with_share(share), names)[0].scores(x)
        for share in ((USUAL_SHARE,) if stands_alone else SHARES)
    }
    if before:
        scorer, adapters = mixed_with(of.frozen, before, names)
        x = session.embed(engine.with_adapters(*adapters), of.uids, of.picture)
        served = scorer.scores(x)
    else:
        served = mixed_with(of.frozen, with_share(0.0), names)[0].scores(x)
    share = best_share(by_share, of.y)
    policy, shares = session.home.config.governor, by_share[share]
    verdict = judged(served, shares, of.y, policy)
    return with_share(share)[-1], verdict, _by_class(names, served, shares, of.y)


def keeps_its_class_in_a_mirror(session: Session, of: Witnesses) -> bool:
    """Whether mirror images may stand for the pictures: the head names them nearly as well.

    Clothes do, digits do not; what is left-handed in the home's pictures is not known otherwise.
    """

    def mirrored(uid: int) -> bytes:
        image = session.kept_image(uid, of.picture(uid))
        return encode_png(np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))

    x = session.embed(session.engine, of.uids, mirrored)
    right = of.frozen.scores(x).argmax(axis=1) == of.y
    return bool(right.mean() >= _MIRRORED * of.accuracy)


def witnesses_of(session: Session, plan: Plan) -> Witnesses:
    """Return what judges: kept pictures that are left out here, and samples that were held out."""
    store = session.store
    probe = {uid for uid, _ in plan.judging}
    kept, (x, y) = store.stored_samples(), store.stored_rows()
    stays = np.array([uid not in probe for uid, _ in kept])
    stands_alone = plan.recipe.sees == "session"
    memory: Memory = Without(store, stays, store.statistic, tuple(store.names))
    if stands_alone:
        own = stays & np.isin(y, plan.session)
        memory = RowMemory(x[own], y[own], store.statistic)
    head = make_head_of(session.home.config.head, store.num_features, codebook=store.codebook)
    head.rebuild(memory)
    head.settle(memory)
    frozen = head.scorer({c: str(c) for c in head.classes})
    place = {int(label): k for k, label in enumerate(frozen.labels)}
    held = store.rows(Role.HELD_OUT)
    own_rows = [k for k, (uid, c) in enumerate(kept) if uid in probe and c in place]
    held_rows = [k for k, c in enumerate(held.classes.tolist()) if c in place]
    columns = [place[c] for c in (*y[own_rows].tolist(), *held.classes[held_rows].tolist())]
    truth = np.array(columns, dtype=np.int64)
    features = np.concatenate(
        [x[own_rows].astype(np.float32), held.x[held_rows].astype(np.float32)]
    )
    scores = frozen.scores(features)
    temperature = USUAL_TEMPERATURE if stands_alone else temperature_of(scores, truth)
    accuracy = float((scores.argmax(axis=1) == truth).mean())

    uids = [kept[k][0] for k in own_rows] + [int(held.uids[k]) for k in held_rows]
    return Witnesses(frozen, temperature, uids, truth, accuracy, store.picture)


def temperature_of(scores: Float64, y: Labels) -> float:
    """Return what scores (N, K) are multiplied by so that their softmax is likeliest for columns y.

    Reference: Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599; here
    the inverse of their T, the best of a fixed geometric grid, with labels smoothed a little.
    """
    n, k = scores.shape
    if not n:
        return USUAL_TEMPERATURE
    # As if one picture more had come of no class in particular: of few pictures all may be right.
    doubt = 1 / (n + 1)
    wanted = np.full((n, k), doubt / k)
    wanted[np.arange(n), y] += 1 - doubt
    losses = [
        -(wanted * np.log(np.maximum(softmax(t * scores), _LEAST_SHARE))).sum(axis=1).mean()
        for t in _TEMPERATURES
    ]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def squared_errors(shares: Float64, y: Labels) -> Float64:
    """Return the squared error (N,) of shares (N, K) of pictures whose classes are columns y."""
    rest = shares.copy()
    rest[np.arange(len(y)), y] -= 1
    errors: Float64 = np.square(rest).sum(axis=1)
    return errors


def best_share(by_share: dict[float, Float64], y: Labels) -> float:
    """Return the usual share, or another whose error is lower by more than a standard error.

    Args:
        by_share: What would be served with each share (N, K).
        y: Columns of the true classes (N,).
    """
    usual = squared_errors(by_share[USUAL_SHARE], y)
    best, least = USUAL_SHARE, 0.0
    for share, shares in by_share.items():
        gain = usual - squared_errors(shares, y)
        surplus = float(gain.mean()) - _standard_error(gain)
        if surplus > least:
            best, least = share, surplus
    return best


def judged(before: Float64, after: Float64, y: Labels, policy: GovernorConfig = _POLICY) -> Verdict:
    """Compare what is served now and what would be, shares (N, K) of pictures of columns y."""
    errors = squared_errors(before, y), squared_errors(after, y)
    worse = errors[1] - errors[0]
    right = [float((shares.argmax(axis=1) == y).mean()) for shares in (before, after)]
    p = paired_errors(*errors)
    was, now = (shares.argmax(axis=1) == y for shares in (before, after))
    columns, counts = np.unique(y, return_counts=True)
    own = [y == column for column in columns[counts >= policy.min_probes]]
    by_class = holm([paired_errors(errors[0][k], errors[1][k]) for k in own])
    # As elsewhere, a loss that is tolerated refuses nothing.
    fell = [
        q
        for q, k in zip(by_class, own, strict=True)
        if (was[k].sum() - now[k].sum()) / k.sum() > policy.worst_drop
    ]
    worst_p = min(fell, default=1.0)
    return Verdict(
        accepted=p > _DOUBT and worst_p > policy.alpha,
        n=len(y),
        accuracy=(right[0], right[1]),
        error=(float(errors[0].mean()), float(errors[1].mean())),
        standard_error=_standard_error(worse),
        p=p,
        worst_p=worst_p,
    )


def _by_class(
    labels: Mapping[int, str], before: Float64, after: Float64, y: Labels
) -> tuple[OfClass, ...]:
    """Return how the pictures of each class were answered before and after."""
    was, now = (shares.argmax(axis=1) == y for shares in (before, after))
    found = []
    for column, uid in enumerate(labels):
        own = y == column
        pairs = Pairs(int(own.sum()), int((was & ~now & own).sum()), int((~was & now & own).sum()))
        if pairs.n:
            found.append(OfClass(uid, 0, pairs))
    return tuple(found)


def _standard_error(difference: Float64) -> float:
    return float(difference.std() / np.sqrt(max(1, len(difference))))
