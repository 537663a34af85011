"""What a consolidation would train on, and what judges it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from edgecl.adapters.choices import every
from edgecl.adapters.recipes import Recipe, recipe_of
from edgecl.adapters.starts import warm
from edgecl.backbones import Backbone
from edgecl.errors import IntegrityError, RequestError, UsageError
from edgecl.home import Home
from edgecl.session import Session
from edgecl.store.adapters import adapter_rows, trained_until
from edgecl.store.store import Store

# Of a class's kept pictures this share, at most so many, judges an adapter and trains none.
_PROBE_SHARE = 0.1
_PROBE_MOST = 40
_PROBE_LEAST = 2
_GOLDEN = 2_654_435_761


@dataclass(frozen=True, slots=True)
class Plan:
    """What a consolidation would train on.

    Args:
        recipe: How.
        session: Uids of the classes with kept pictures that no adapter was trained on.
        judging: uid and class uid of the kept pictures that judge.
        trained_on: uid and class uid of those that train.
        parents: Uids of the adapters that the training starts from or looks at.
    """

    recipe: Recipe
    session: tuple[int, ...]
    judging: list[tuple[int, int]]
    trained_on: list[tuple[int, int]]
    parents: tuple[int, ...]


def plan_of(session: Session) -> Plan:
    """Return what a consolidation would train on; needs no backbone, so ask it first.

    Raises:
        RequestError: Nothing new since the last consolidation, or too few kept pictures.
        UsageError: The settings contradict each other.
    """
    store, config = session.store, session.home.config.consolidation
    recipe = recipe_of(config.recipe)
    if recipe.sees == "session" and config.bank != "last":
        raise UsageError(
            f'consolidation.bank = "{config.bank}" reads the pictures of all classes, and the '
            f'recipe {config.recipe} those of its session only; set bank = "last"'
        )
    kept, all_rows = store.stored_samples(), adapter_rows(store)
    if config.bank != "last" and any(row.has_gate for row in all_rows):
        raise UsageError(
            f'consolidation.bank = "{config.bank}" takes adapters together, and there are some '
            'whose rows choose themselves (recipe atoms), which cannot be; set bank = "last"'
        )
    waiting = next((row for row in all_rows if row.shadow is not None), None)
    if waiting is not None:
        raise RequestError(
            f"adapter {waiting.uid} is a candidate that live frames judge first; let a live stream "
            "run (`edgecl train-stream camera:0`), or drop it with `edgecl rollback` and the "
            "change that `edgecl changes` names"
        )
    until = trained_until(all_rows)
    learned = tuple(sorted({c for uid, c in kept if uid > until.get(c, 0)}))
    if not learned:
        raise RequestError(
            "nothing was learned since the last consolidation; learn first with "
            "`edgecl train-stream SOURCE`"
        )
    probe = probe_of(kept)
    sees_all = recipe.sees == "kept" and config.replay
    own = [(uid, c) for uid, c in kept if sees_all or c in learned]
    trained_on = _chosen(session, recipe, [(uid, c) for uid, c in own if uid not in probe])
    judging = [(uid, c) for uid, c in own if uid in probe]
    if recipe.sees == "kept":
        judging = [(uid, c) for uid, c in kept if uid in probe]
    n_classes = len({c for _, c in trained_on})
    if n_classes < 2 or len(judging) < _PROBE_LEAST:
        raise RequestError(
            f"{len(trained_on)} kept pictures to train on (classes: {n_classes}) and "
            f"{len(judging)} to judge by are too few to train an adapter; expected two classes at "
            "least and some ten pictures of each"
        )
    stands_alone = recipe.sees == "session" and recipe.start is not warm
    # What chooses its rows by picture is no start for what does not.
    finished = [row.uid for row in all_rows if row.epoch is None and not row.has_gate]
    parents = [] if stands_alone else finished
    return Plan(recipe, learned, judging, trained_on, tuple(parents))


def _chosen(session: Session, recipe: Recipe, own: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return those of the kept pictures (uid and class uid) that a recipe trains on."""
    if recipe.choose is every or not own:
        return own
    place = {uid: k for k, (uid, _) in enumerate(session.store.stored_samples())}
    x = session.store.stored_rows()[0][[place[uid] for uid, _ in own]].astype(np.float32)
    head = session.learner.head
    scorer = head.scorer({c: str(c) for c in head.classes})
    target = np.array([head.classes.index(c) for _, c in own], dtype=np.int64)
    rows = recipe.choose(x, scorer.probabilities(scorer.scores(x)), target)
    return [own[k] for k in rows.tolist()]


def is_due(store: Store, every: int, name: str | None) -> bool:
    """Whether a consolidation comes before a class of this name is learned.

    Args:
        store: The store.
        every: New classes between two consolidations.
        name: The class about to be learned; None asks at the end of a stream.
    """
    if name is not None and store.has_class(name):
        return False
    return sum(uid > store.attempted_class for uid in store.names) >= every


def check_backbone(home: Home, backbone: Backbone) -> None:
    """Check that a backbone is the one that the home's engine was made from.

    Raises:
        IntegrityError: It is another, or has other weights.
    """
    manifest = home.manifest
    ours = (
        backbone.name,
        backbone.weights_sha256,
        backbone.taps,
        backbone.stages,
        backbone.preprocessing,
    )
    theirs = (
        manifest.backbone,
        manifest.weights_sha256,
        manifest.taps,
        manifest.stages,
        manifest.preprocessing,
    )
    if ours != theirs:
        raise IntegrityError(
            f"the home was made from {manifest.backbone} with weights "
            f"{manifest.weights_sha256[:12]}... ({manifest.weights_source}), given is "
            f"{backbone.name} with {backbone.weights_sha256[:12]}...; name the same weights with "
            "--weights FILE"
        )


def check_gates(home: Home, recipe: Recipe) -> None:
    """Check that the home's engine has gates, if a recipe needs them.

    Raises:
        RequestError: It has none.
    """
    if recipe.active and not home.engine_manifest(has_adapters=True).adapter_active:
        raise RequestError(
            "the rows of this recipe's adapters choose themselves, and the home's engine has no "
            "gates for them; `edgecl consolidate` makes one that has"
        )


def probe_of(kept: list[tuple[int, int]]) -> frozenset[int]:
    """Choose the pictures that judge: about a tenth of each class's, at most 40, never its last.

    By the uid, so that a picture that judges trains in no later task while it is kept; where one of
    many judges was evicted meanwhile, one that trained may take its place.

    Args:
        kept: uid and class uid of all kept samples, oldest first.
    """
    n_of, n_kept = Counter[int](), Counter(c for _, c in kept)
    chosen = set()
    for uid, c in kept:
        # Multiples of the golden ratio: spread evenly over the uids, every tenth or so.
        if (uid * _GOLDEN) % 2**32 < _PROBE_SHARE * 2**32 and n_of[c] < min(
            _PROBE_MOST, n_kept[c] - 1
        ):
            chosen.add(uid)
            n_of[c] += 1
    return frozenset(chosen)
