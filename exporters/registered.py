"""The one way in which an export comes to be: registered first, then put whole in its place.

An export that is noted before its first byte is written is found by every later unlearning,
whatever happens to the process that writes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgecl.runtime.faults import telling
from edgecl.runtime.files import put_in_place
from edgecl.store.exports import (
    Export,
    add_export,
    exports_of,
    finish_exports,
    part_of,
    set_digest,
)
from edgecl.store.store import Store


def write_registered(
    store: Store,
    place: Path,
    what: str,
    manifest_of: Callable[[int], str],
    write: Callable[[Path, str], None],
    *,
    mode: int = 0o777,
    **noted: Any,
) -> Export:
    """Register an export, write it beside its place and put it there.

    Args:
        store: Open store of the home whose lock the caller holds.
        place: Folder of the export.
        what: What messages call it.
        manifest_of: Gives the manifest's text for the uid of the export.
        write: Writes all files, with the manifest's text, into a folder.
        mode: Rights of the folder, before the umask.
        noted: What else `add_export` takes.

    Raises:
        RequestError: Something of it cannot be written.
    """
    with telling(f"{place.parent} cannot be made"):
        place.parent.mkdir(parents=True, exist_ok=True)
    with telling(f"{what} {place} cannot be written"), store.transaction(changes_head=False):
        uid = add_export(store, path=place, **noted)
        text = manifest_of(uid)
        set_digest(store, uid, json.loads(text)["digest"])
        part = part_of(_row(store, uid))
        # There, and empty, if an earlier export was killed before it was noted.
        part.mkdir(mode, exist_ok=True)
    try:
        with telling(f"{what} {place} cannot be written"):
            write(part, text)
            put_in_place(part, place)
    finally:
        finish_exports(store)
    return _row(store, uid)


def _row(store: Store, uid: int) -> Export:
    return next(export for export in exports_of(store) if export.uid == uid)
