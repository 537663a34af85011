"""Consolidation: the slow path, which trains an adapter on the kept pictures.

What a session taught is trained into an adapter together with a head of its own
(edgecl/adapters/training.py). Features, statistics and the exact head of the home stay as they are:
what is served is a mixture of that head and the adapter's (runtime/mixture.py), and forgetting a
class drops every adapter that saw it. Pictures that nothing compared has learned choose how much
the adapter is heard, and refuse it if it makes things worse (judge.py).

A training goes on where it was cut off, epoch by epoch; its state is a row beside the adapters.

Methods are recipes (edgecl/adapters/recipes.py); MOS (Sun et al. 2025, arXiv:2412.09441) as
published is the recipe `mos` with `consolidation.bank = "all"`. Measured: docs/decisions/0009.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from edgecl.adapters.training import Progress, Trained, Training
from edgecl.backbones import Backbone
from edgecl.consolidation.judge import Verdict, judge, keeps_its_class_in_a_mirror, witnesses_of
from edgecl.consolidation.opinions import ask_new
from edgecl.consolidation.plan import check_backbone, check_gates, plan_of
from edgecl.consolidation.train import ResumableTraining, head_of_training
from edgecl.errors import RequestError
from edgecl.governor.record import note_consolidated
from edgecl.home import Home
from edgecl.runtime.scoring import Scorer
from edgecl.session import Session
from edgecl.store.adapters import (
    Shadowed,
    TaskAdapter,
    add_adapter,
    end_training,
    task_adapters,
)
from edgecl.store.changes import OfClass
from edgecl.store.store import Store
from edgecl.types import Say


@dataclass(frozen=True, slots=True)
class Consolidated:
    """What a consolidation did.

    Args:
        accepted: Whether the new adapter was taken, or is a candidate.
        is_candidate: Whether live frames judge it before it is heard (`governor.shadow_frames`).
        adapter: Its uid, or None.
        classes: Names of the classes of the session.
        samples: Pictures that it was trained on.
        epochs: Epochs that it was trained.
        resumed: Epochs of them that an earlier command had done.
        share: How much its head is heard.
        verdict: What the judging pictures said.
        seconds: Time of the whole.
        parts: Seconds of its parts.
    """

    accepted: bool
    adapter: int | None
    classes: tuple[str, ...]
    samples: int
    epochs: int
    resumed: int
    share: float
    verdict: Verdict
    seconds: float
    parts: dict[str, float]
    is_candidate: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the object that `edgecl consolidate --json` prints."""
        verdict = self.verdict
        return {
            "adapter": self.adapter,
            "classes": list(self.classes),
            "samples": self.samples,
            "seconds": self.seconds,
            "accuracy_before": verdict.accuracy[0],
            "accuracy_after": verdict.accuracy[1],
            "accepted": self.accepted,
            "candidate": self.is_candidate,
            "probe": verdict.n,
            "error_before": verdict.error[0],
            "error_after": verdict.error[1],
            "standard_error": verdict.standard_error,
            "share": self.share,
            "epochs": self.epochs,
            "resumed": self.resumed,
            "parts": self.parts,
        }


def chosen(home: Home, *, recipe: str | None = None, epochs: int | None = None) -> Home:
    """Return the home with other settings for one consolidation; None leaves its own."""
    part = home.config.consolidation
    part = replace(part, epochs=epochs or part.epochs, recipe=recipe or part.recipe)
    home = copy(home)
    home.config = replace(home.config, consolidation=part)
    return home


def training_of(home: Home, *, minutes: float | None = None) -> Training:
    """Return how a home's settings say to train, in so many minutes at most."""
    part = home.config.consolidation
    return Training(epochs=part.epochs, views=part.views, seconds=60 * minutes if minutes else 0.0)


def consolidate(
    session: Session,
    backbone: Backbone,
    *,
    training: Training | None = None,
    say: Say = lambda what, done, of: None,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Consolidated:
    """Train an adapter on what the last session taught, and take it if it does not harm.

    Args:
        session: The home, whose lock the caller holds.
        backbone: The backbone that the home's engine was made from.
        training: Settings; None takes the home's.
        say: Told about progress.
        tell: Told how far the training is.

    Raises:
        IntegrityError: Another backbone than the engine's, or a kept picture cannot be decoded.
        RequestError: See `plan_of`, or the training came to values that are not finite.
    """
    begin, opened = time.perf_counter(), time.time()
    store = session.store
    check_backbone(session.home, backbone)
    training = training or training_of(session.home)
    plan = plan_of(session)
    check_gates(session.home, plan.recipe)
    bank = task_adapters(store)
    witnesses = witnesses_of(session, plan)
    mirrors = training.views > 1 and keeps_its_class_in_a_mirror(session, witnesses)
    run = ResumableTraining(session, plan, bank, training, mirrors=mirrors)
    trained = run.train(backbone, tell)
    seconds = {**asdict(trained.seconds), "training": time.perf_counter() - begin}
    _check_finite(store, trained)
    say("judging", 0, 1)
    head = head_of_training(session, plan, bank, trained)
    candidate = run.candidate(trained, head)
    chosen, verdict, by_class = judge(session, plan, witnesses, bank, candidate)
    seconds["judging"] = time.perf_counter() - begin - seconds["training"]
    adapter = _end(session, chosen, head[0], verdict, (by_class, opened))
    say("judging", 1, 1)
    return Consolidated(
        accepted=verdict.accepted,
        adapter=adapter,
        classes=tuple(store.names[c] for c in plan.session),
        samples=len(plan.trained_on),
        epochs=len(trained.losses),
        resumed=run.resumed,
        share=float(chosen.body["share"]),
        verdict=verdict,
        seconds=time.perf_counter() - begin,
        parts={name: round(value, 3) for name, value in seconds.items()},
        is_candidate=adapter is not None and session.home.config.governor.shadow_frames > 0,
    )


def _check_finite(store: Store, trained: Trained) -> None:
    arrays = (*trained.adapter.values(), trained.weights, trained.bias)
    if not all(np.isfinite(a).all() for a in arrays):
        with store.transaction(changes_head=False):
            end_training(store)
        raise RequestError(
            "the training came to an adapter whose values are not finite; nothing was taken; try "
            "other [consolidation] settings"
        )


def _end(
    session: Session,
    chosen: TaskAdapter,
    head: Scorer,
    verdict: Verdict,
    on_record: tuple[Sequence[OfClass], float],
) -> int | None:
    """Take the adapter with its head, or not; returns its uid. The training is over either way."""
    store, adapter = session.store, None
    session.learner.head.settle(store)
    with store.transaction(changes_head=False):
        end_training(store)
        body = chosen.body | {"verdict": asdict(verdict)}
        if session.home.config.governor.shadow_frames:
            body["shadow"] = asdict(Shadowed())
        if verdict.accepted:
            adapter = add_adapter(
                store,
                chosen.adapter,
                head,
                chosen.classes,
                saw=chosen.saw,
                task=chosen.task,
                body=body,
                key=chosen.key,
            )
            ask_new(session, adapter)
        store.note_attempt(max(store.names))
        note_consolidated(session.home, store, adapter, *on_record)
    return adapter
