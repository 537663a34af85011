"""Changes that need no test of their own: settings, exports, and what was unlearned.

An unlearning is a right: it is recorded, never held up and never taken back. What other classes
lost by it is told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from edgecl.config import Config, GovernorConfig
from edgecl.governor.verdicts import paired
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.store.adapters import Shadowed
from edgecl.store.changes import (
    CANDIDATE,
    REFUSED,
    SERVING,
    OfClass,
    Verdicts,
    add_change,
    change_of_adapter,
    close_change,
    note_settings,
    settings_known,
    thin_changes,
)
from edgecl.store.exports import FRESH, PUBLISHED, exports_of
from edgecl.store.store import Store
from edgecl.store.text import dump_json


def policy_hash(policy: GovernorConfig) -> str:
    """Return a hash of the rules by which changes are judged."""
    return hashlib.sha256(dump_json(asdict(policy)).encode()).hexdigest()


def is_recorded(home: Home) -> bool:
    """Whether the home keeps a record of its changes."""
    return home.config.governor.mode != "off"


@contextmanager
def noting(home: Home, store: Store) -> Iterator[None]:
    """Note settings that were changed since the last time, and what is exported inside."""
    if not is_recorded(home):
        yield
        return
    note_changed_settings(home, store)
    before = {export.uid for export in exports_of(store)}
    yield
    new = [
        e
        for e in exports_of(store)
        if e.uid not in before and e.status == FRESH and e.kind != PUBLISHED
    ]
    if new:
        with store.transaction(changes_head=False):
            for export in new:
                body = {"export": export.uid, "of": export.kind}
                add_change(store, "export", body=body, opened=export.created)
            thin_changes(store, home.config.governor.keep_changes)


def note_changed_settings(home: Home, store: Store) -> None:
    """Write a change if the settings are others than those that were noted last."""
    now, known = settings_of(home.config), settings_known(store)
    if now == known:
        return
    with store.transaction(changes_head=False):
        note_settings(store, now)
        if known is not None:
            # A key of a section that this edgecl added is no change that somebody made.
            changed = [key for key in now if key in known and now[key] != known[key]]
            changed += [key for key in known if key not in now]
            body = {
                "was": {key: known.get(key) for key in changed},
                "now": {key: now.get(key) for key in changed},
            }
            if changed:
                add_change(store, "settings", body=body)


def settings_of(config: Config) -> dict[str, Any]:
    """Return all settings flat: numbers and words of edgecl's own by `section.key`."""
    found: dict[str, Any] = {}
    sections = asdict(config)
    del sections["source"]  # names and addresses are somebody else's
    for section, values in sections.items():
        values |= values.pop("options", {})
        found |= {f"{section}.{key}": value for key, value in values.items()}
    return found


def note_forgotten(
    learner: Learner, receipt: str, before: Verdicts, after: Verdicts, opened: float
) -> None:
    """Write that something was unlearned, and what that did to the classes that stay.

    Inside the transaction of the unlearning.

    Args:
        learner: The learner, whose head unlearned it.
        receipt: Receipt of the unlearning.
        before: Answers of the witnesses before it.
        after: And after.
        opened: When it began, seconds since the epoch.
    """
    seen = learner.store.n_seen()
    classes = paired(before, after, seen, seen)
    add_change(learner.store, "forget", receipt=receipt, opened=opened, classes=classes)


def note_consolidated(
    home: Home, store: Store, adapter: int | None, classes: Sequence[OfClass], opened: float
) -> None:
    """Write a consolidation, which is judged by itself; to drop its adapter is its way back.

    Inside a transaction.

    Args:
        home: The home.
        store: Its store.
        adapter: The adapter that was taken, None if it was refused.
        classes: How the pictures that judged it were answered before and after.
        opened: When it began, seconds since the epoch.
    """
    if not is_recorded(home):
        return
    taken = CANDIDATE if home.config.governor.shadow_frames else SERVING
    state = REFUSED if adapter is None else taken
    body = {} if adapter is None else {"adapter": adapter}
    add_change(store, "consolidate", state=state, body=body, opened=opened, classes=classes)
    thin_changes(store, home.config.governor.keep_changes)


def note_shadowed(store: Store, adapter: int, seen: Shadowed, *, is_taken: bool) -> None:
    """Write what live frames said of a candidate; inside a transaction."""
    change = change_of_adapter(store, adapter)
    if change is not None:
        state = SERVING if is_taken else REFUSED
        body = change.body | {"shadow": asdict(seen)}
        close_change(store, replace(change, state=state, body=body), change.classes)
