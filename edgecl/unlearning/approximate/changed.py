"""Adapters that are changed in place instead of dropped: the approximate methods, in a home."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgecl.errors import RequestError
from edgecl.home import Home
from edgecl.runtime.preprocess import decode
from edgecl.store.adapters import TaskAdapter, task_adapters
from edgecl.store.store import Store
from edgecl.types import Float32, Say
from edgecl.unlearning.approximate.report import UnlearnedAdapter
from edgecl.unlearning.approximate.weights import unlearn_adapter
from edgecl.unlearning.plan import Plan, Target


def changed_adapters(
    home: Home, store: Store, target: Target, plan: Plan, weights: str | None, say: Say
) -> list[tuple[TaskAdapter, UnlearnedAdapter]]:
    """Return the adapters that saw a class, and those trained on from them, as changed arrays.

    Args:
        home: The home.
        store: Its store.
        target: The class.
        plan: Its plan.
        weights: The file that the backbone was made from, if it was a file.
        say: Told about progress.

    Raises:
        MissingPackageError: torch or timm is not installed.
        RequestError: A method cannot be run; see `unlearn_adapter`, or an adapter has a gate.
        IntegrityError: Other weights than the home's.
    """
    from edgecl.backbones import load_backbone_of
    from edgecl.consolidation.plan import check_backbone

    chosen = [t for t in task_adapters(store) if t.uid in (*plan.adapters, *plan.adapters_later)]
    with_gate = [task.uid for task in chosen if task.has_gate]
    if with_gate:
        raise RequestError(
            f"{plan.adapter_method} knows no adapter whose rows choose themselves (recipe atoms), "
            f"as in adapter {with_gate[0]}; leave --adapter-method out: it is dropped, and those "
            "that never saw the class stay"
        )
    backbone = load_backbone_of(home.manifest, weights=weights)
    check_backbone(home, backbone)
    rows = store.stored_samples()
    y: NDArray[np.int64] = np.array([c for _, c in rows], dtype=np.int64)

    how = home.manifest.preprocessing

    def pixels(i: int) -> Float32:
        data = store.picture(rows[i][0])
        return how.tensor(decode(data, max_pixels=home.max_pixels, least_side=how.least_side))

    return [
        (
            task,
            unlearn_adapter(
                backbone,
                task.adapter,
                pixels,
                y,
                forget=target.uid,
                method=plan.adapter_method,
                seed=home.config.consolidation.seed,
                say=say,
            ),
        )
        for task in chosen
    ]
