"""Brokers that keep what was told them, in the registry of exports; passwords are not in it.

A broker keeps the newest of every retained topic, and with it names of classes. So every unlearning
takes them back: `exports.revoke` has the device described anew and empties the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecl.runtime.homeassistant import withdraw
from edgecl.store.exports import (
    FRESH,
    PUBLISHED,
    STALE,
    Export,
    add_export,
    address_of,
    exports_of,
    revoke,
    set_status,
)
from edgecl.store.store import Store


def note_published(store: Store, address: str) -> None:
    """Note that a broker will keep what the home tells it.

    Where an earlier unlearning could not reach it, what it keeps is taken back now; that may take
    some seconds.

    Args:
        store: Open store.
        address: Where, without user and password.
    """
    known = [e for e in exports_of(store) if e.kind == PUBLISHED and address_of(e) == address]
    if any(e.status == STALE for e in known) and not withdraw(address, names_left(store)):
        return
    with store.transaction(changes_head=False):
        for export in known:
            set_status(store, export, FRESH, {})
        if not known:
            uid = add_export(
                store, kind=PUBLISHED, path=Path(address), feature_map=store.feature_map,
                classes=(), adapters=(), body={},
            )  # fmt: skip
            set_status(store, next(e for e in exports_of(store) if e.uid == uid), FRESH, {})


def revoke_all(
    store: Store, exports: Sequence[Export], receipt_id: str, receipt: Mapping[str, Any]
) -> dict[str, str]:
    """Revoke exports, and take back what brokers keep of names that are gone.

    Returns:
        What became of each, by uid: what `revoke` says; of a broker `republished` or `unreached`.
    """
    found = {}
    for export in exports:
        how: str
        if export.kind == PUBLISHED:
            is_back = withdraw(address_of(export), names_left(store))
            how = "republished" if is_back else "unreached"
        else:
            how = revoke(export, receipt_id, receipt, store.sources())
        found[str(export.uid)] = how
    return found


def names_left(store: Store) -> list[str]:
    """Return the names of all classes that are not being unlearned."""
    hidden = store.blocked_classes()
    return [name for uid, name in store.names.items() if uid not in hidden]
