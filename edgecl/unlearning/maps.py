"""The feature map under which a home goes on after adapters were dropped or changed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edgecl.home import Home
from edgecl.learner import Say, embed_probes, embed_stored
from edgecl.replay.adapters import TaskAdapter, chosen_adapter, task_adapters
from edgecl.replay.store import Store
from edgecl.runtime.adapters import digest_of
from edgecl.runtime.preprocess import decode
from edgecl.types import Float16, Float32
from edgecl.unlearning.evidence import Evidence
from edgecl.unlearning.plan import Plan, Target
from edgecl.unlearning.verify import Reference
from edgecl.unlearning.weights import unlearn_adapter


@dataclass(frozen=True)
class Map:
    """The map under which a home goes on: its adapters, kept pictures and probes embedded."""

    bank: list[TaskAdapter]
    adapter: str | None
    features: dict[int, Float16]
    probes: dict[int, Float16]


def without_adapters(home: Home, store: Store, first: int, say: Say) -> Map:
    """Embed the kept pictures under the map of the adapters before one."""
    left = [task for task in task_adapters(store) if task.uid < first]
    return _embedded(home, store, left, say)


def with_changed_adapters(
    home: Home,
    store: Store,
    target: Target,
    plan: Plan,
    weights: str | None,
    evidence: Evidence,
    say: Say,
) -> Map:
    """Change the adapters that saw a class, and all later ones, and embed the kept pictures.

    Args:
        home: The home.
        store: Its store.
        target: The class.
        plan: Its plan.
        weights: The file that the backbone was made from, if it was a file.
        evidence: Gets what was done to each adapter, and what the gates compare with.
        say: Told about progress.

    Raises:
        MissingPackageError: torch or timm is not installed.
        RequestError: A method cannot be run; see `unlearn_adapter`.
        IntegrityError: Other weights than the home's.
    """
    from edgecl.backbones import load_backbone_of
    from edgecl.consolidation import check_backbone

    # A pass over all kept pictures, for the gates: the same pictures under the exact alternative.
    exact = without_adapters(home, store, plan.adapters[0], say)
    backbone = load_backbone_of(home.manifest, weights=weights)
    check_backbone(home, backbone)
    rows = store.stored_samples()
    y: NDArray[np.int64] = np.array([c for _, c in rows], dtype=np.int64)

    def pixels(i: int) -> Float32:
        image = decode(store.picture(rows[i][0]), max_pixels=home.max_pixels)
        return home.manifest.preprocessing.tensor(image)

    bank = []
    for task in task_adapters(store):
        if task.uid >= plan.adapters[0]:
            done = unlearn_adapter(
                backbone,
                task.adapter,
                pixels,
                y,
                forget=target.uid,
                method=plan.adapter_method,
                seed=home.config.consolidation.seed,
                say=say,
            )
            evidence.weights[task.uid] = done.report
            note = {"class": target.uid, "method": plan.adapter_method}
            body = task.body | {"unlearned": [*task.body.get("unlearned", []), note]}
            task = replace(task, adapter=done.adapter, body=body)
        bank.append(task)
    changed = _embedded(home, store, bank, say)
    evidence.reference = Reference(
        forgotten=features_of(store, target, exact),
        kept=np.array([exact.features[uid] for uid, c in rows if c != target.uid]),
    )
    return changed


def _embedded(home: Home, store: Store, bank: list[TaskAdapter], say: Say) -> Map:
    adapter = chosen_adapter(bank, home.config.consolidation.bank)
    engine = home.engine()
    if adapter is not None:
        engine = engine.with_adapters(adapter)
    features = embed_stored(home, store, engine, say=say)
    probes = embed_probes(home, store, engine)
    return Map(bank, None if adapter is None else digest_of(adapter), features, probes)


def features_of(store: Store, target: Target, new_map: Map) -> Float16:
    """Return the features (N, D) of a class's kept pictures under a map."""
    rows = [new_map.features[uid] for uid, c in store.stored_samples() if c == target.uid]
    return np.array(rows, dtype=np.float16).reshape(-1, store.num_features)
