"""Bundles that an unlearning made stale, written anew in their places."""

from __future__ import annotations

from typing import Any

from edgecl.errors import NothingLearnedError, ParityError, RequestError, SourceError
from edgecl.session import Session
from edgecl.store.exports import (
    DATASET,
    PUBLISHED,
    STALE,
    WHOLE,
    exports_of,
    finish_exports,
    is_reachable,
)

from .bundle import Exported, export_bundle
from .precision import Options
from .tensorrt import build_again, timing_cache_of


def rebuild_stale(session: Session) -> tuple[list[Exported], list[dict[str, Any]]]:
    """Write every stale bundle anew, each as it was made.

    Args:
        session: The home, whose lock the caller holds.

    Returns:
        What was written; and of each that could not be, `export` (its number), `path` and `why`.

    Raises:
        NothingLearnedError: The home knows no class any more, and some are stale.
    """
    home, store = session.home, session.store
    finish_exports(store)
    rebuilt: list[Exported] = []
    unreachable: list[dict[str, Any]] = []
    # A dataset or a broker is stale only while it is out of reach; a contribution is gone.
    kinds = (DATASET, PUBLISHED, *WHOLE)
    stale = [e for e in exports_of(store) if e.status == STALE and e.kind not in kinds]
    if not stale:
        return rebuilt, unreachable
    if not store.names:
        where = ", ".join(str(export.path) for export in stale)
        raise NothingLearnedError(
            f"all that {home.path} had learned was unlearned, so nothing is left to write its "
            f"stale exports anew of; delete them, and every copy: {where}"
        )
    scorer, adapters = session.served()
    for export in stale:
        why = "it is not there any more"
        if is_reachable(export):
            try:
                options = Options.from_json(export.body)
                build = build_again(export, timing_cache_of(home))
                rebuilt.append(
                    export_bundle(home, store, scorer, adapters, export.path, options, build=build)
                )
                continue
            # One folder must not keep the others.
            except (RequestError, ParityError, SourceError, OSError) as error:
                why = str(error)
        unreachable.append({"export": export.uid, "path": str(export.path), "why": why})
    return rebuilt, unreachable
