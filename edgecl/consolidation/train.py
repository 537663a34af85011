"""The training of one consolidation: what it is of, where it goes on, what reads its features."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np

from edgecl.adapters.bank import bank_scorer
from edgecl.adapters.blends import depth_scaled
from edgecl.adapters.bottleneck import adapt
from edgecl.adapters.training import Progress, Trained, Training, train_adapter
from edgecl.backbones import Backbone
from edgecl.consolidation.judge import USUAL_SHARE, USUAL_TEMPERATURE
from edgecl.consolidation.plan import Plan
from edgecl.runtime.augment import strong_view, weak_view
from edgecl.runtime.scoring import LinearScorer, Scorer
from edgecl.session import Session
from edgecl.store.adapters import (
    TaskAdapter,
    maps_of,
    save_training,
    training_state,
    training_under_way,
)
from edgecl.store.store import Store
from edgecl.store.table import Role
from edgecl.types import Float32, Float64


class ResumableTraining:
    """A training that can be cut off: what it is of, and what it saw so far."""

    def __init__(
        self,
        session: Session,
        plan: Plan,
        bank: Sequence[TaskAdapter],
        training: Training,
        *,
        mirrors: bool,
    ) -> None:
        self._mirrors = mirrors
        self._session, self._plan = session, plan
        self._home, self._store = session.home, session.store
        self._training = training
        self._earlier = [task.adapter for task in bank if task.uid in plan.parents]
        owned = {c for task in bank for c in task.task}
        self._task = tuple(c for c in plan.session if c not in owned)
        self.resumed = 0
        counts = Counter(c for _, c in plan.trained_on)
        # A class may stand in the judgement or the means alone: the adapter depends on it as well.
        judges = set(self._store.names) if plan.recipe.sees == "kept" else set(plan.session)
        self.saw = {c: counts.get(c, 0) for c in sorted(judges | set(counts))}
        self._body = self._described()
        self._depths: dict[str, float] = {}

    def train(self, backbone: Backbone, tell: Callable[[Progress], None]) -> Trained:
        """Train, from where it was cut off if that was this training; state is kept on the way."""
        home, store, plan = self._home, self._store, self._plan
        config, body = home.config.consolidation, self._body
        found, resume = training_under_way(store), None
        if found is not None and found.body == body:
            resume = training_state(store, found)
        if found is not None and resume is not None:
            self.resumed = found.epoch or 0
        means = [] if plan.recipe.sees == "session" else set(store.names) - set(plan.session)

        def note(progress: Progress) -> None:
            if progress.state is not None and progress.epoch < progress.epochs:
                with store.transaction(changes_head=False):
                    save_training(
                        store, progress.epoch, progress.state,
                        saw=self.saw, task=self._task, body=body,
                    )  # fmt: skip
            tell(progress)

        network = adapt(backbone, rank=home.adapter_rank, active=plan.recipe.active)
        if plan.recipe.depth != 1:
            self._depths = depth_scaled(network, plan.recipe.depth)
        return train_adapter(
            network,
            self._pixels(),
            np.array([c for _, c in plan.trained_on], dtype=np.int64),
            recipe=plan.recipe,
            training=self._training,
            seed=config.seed,
            order_seed=config.seed + min(c for _, c in plan.trained_on) + len(self._earlier),
            earlier=self._earlier,
            class_means=_class_means(store, sorted(means)),
            resume=resume,
            tell=note,
        )

    def candidate(self, trained: Trained, head: tuple[Scorer, tuple[int, ...]]) -> TaskAdapter:
        """Return the row that the training would become, its share not chosen yet."""
        scorer, classes = head
        return TaskAdapter(
            uid=2**62,
            epoch=None,
            saw=self.saw,
            task=self._task,
            body=self._body
            | {"share": USUAL_SHARE, "temperature": USUAL_TEMPERATURE}
            | ({"depths": self._depths} if self._depths else {}),
            adapter=trained.adapter,
            head=scorer.arrays(),
            classes=classes,
            key=self._key() if self._plan.recipe.blend == "mixed" else None,
        )

    def _key(self) -> Float64:
        """Return the mean plain features (D,) of the pictures that train."""
        used = {uid for uid, _ in self._plan.trained_on}
        x, _ = self._store.stored_rows()
        rows = [k for k, (uid, _) in enumerate(self._store.stored_samples()) if uid in used]
        mean: Float64 = x[rows].astype(np.float64).mean(axis=0)
        return mean

    def _described(self) -> dict[str, object]:
        """Return what the row says of the training; two that are equal are the same training."""
        plan, config = self._plan, self._home.config.consolidation
        settings = asdict(self._training)
        del settings["cache_bytes"], settings["seconds"]
        pictures = json.dumps([plan.trained_on, plan.judging]).encode()
        used = [uid for uid, _ in (*plan.trained_on, *plan.judging)]
        gate = {"active": plan.recipe.active} if plan.recipe.active else {}
        return {
            "recipe": config.recipe,
            "bank": config.bank,
            "blend": plan.recipe.blend,
            "replay": config.replay,
            "seed": config.seed,
            "training": settings,
            "mirrors": self._mirrors,
            "feature_map": self._home.manifest.feature_map,
            "parents": list(plan.parents),
            "pictures": hashlib.sha256(pictures).hexdigest(),
            # What only judged is part of it as well.
            "newest_sample": max(used),
            "sources": self._store.sources_of(used, Role.HELD_OUT),
        } | gate

    def _pixels(self) -> Callable[[int, int], Float32]:
        home, plan, seed = self._home, self._plan, self._home.config.consolidation.seed
        pictures = [self._store.picture(uid) for uid, _ in plan.trained_on]
        view_of = partial(weak_view, mirrors=self._mirrors)
        if plan.recipe.has_strong_views:
            view_of = strong_view  # type: ignore[assignment]

        def pixels(i: int, view: int) -> Float32:
            uid = plan.trained_on[i][0]
            image = self._session.kept_image(uid, pictures[i])
            return home.manifest.preprocessing.tensor(view_of(image, seed=seed, uid=uid, view=view))

        return pixels


def head_of_training(
    session: Session,
    plan: Plan,
    bank: Sequence[TaskAdapter],
    trained: Trained,
) -> tuple[Scorer, tuple[int, ...]]:
    """Return what reads the adapted features: the trained head, or MOS's classifier of a bank."""
    store, config = session.store, session.home.config.consolidation
    kind = config.bank
    if kind == "last":
        labels = tuple(str(c) for c in trained.classes)
        weights = trained.weights.astype(np.float64)
        return LinearScorer(weights, trained.bias.astype(np.float64), labels, "logits"), (
            trained.classes
        )
    probe = {uid for uid, _ in plan.judging}
    kept = [(uid, c) for uid, c in store.stored_samples() if uid not in probe]
    uids, y = [uid for uid, _ in kept], np.array([c for _, c in kept], dtype=np.int64)
    maps = maps_of(kind, [*(task.adapter for task in bank), trained.adapter])
    d = store.num_features
    features = [
        session.embed(session.adapted_engine.with_adapters(adapter), uids, store.picture)[:, d:]
        for adapter in maps
    ]
    classes = tuple(sorted(set(y.tolist())))
    task_of = dict.fromkeys(classes, 0)
    tasks = [*(task.task for task in bank), plan.session]
    for number, task in reversed(list(enumerate(tasks))):
        task_of |= {c: min(number, len(maps) - 1) for c in task if c in task_of}
    scorer = bank_scorer(
        {c: features[0][y == c] for c in classes},
        {c: features[task_of[c]][y == c] for c in classes},
        task_of,
        {c: str(c) for c in classes},
        n_maps=len(maps),
        seed=config.seed,
    )
    return scorer, classes


def _class_means(store: Store, classes: Sequence[int]) -> Float32:
    """Return the mean features (M, D) of the kept samples of classes.

    Not of the statistics: those of a head behind a map are not of the store's features.
    """
    x, y = store.stored_rows()
    means = [x[y == c].astype(np.float32).mean(axis=0) for c in classes if (y == c).any()]
    return np.array(means, dtype=np.float32).reshape(-1, store.num_features)
