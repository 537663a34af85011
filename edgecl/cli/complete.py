"""What a shell completes: names that a home knows.

A home that cannot be read completes nothing: an error in the middle of a line being typed helps
nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from edgecl.home import Home
    from edgecl.store.store import Store


def _completing(
    names_of: Callable[[Home, Store], Iterable[str]],
) -> Callable[[typer.Context, str], list[str]]:
    """Make a function that completes what begins with what was typed."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        from edgecl.cli.output import printable
        from edgecl.config import DEFAULT_HOME
        from edgecl.home import Home
        from edgecl.session import open_store

        with suppress(Exception):
            home = Home(Path(ctx.params.get("home") or DEFAULT_HOME))
            with open_store(home, read_only=True) as store:
                names = [name for name in names_of(home, store) if name.startswith(incomplete)]
            return [name for name in names if printable(name) == name]
        return []

    return complete


def _classes(home: Home, store: Store) -> Iterable[str]:
    del home
    hidden = store.blocked_classes() | set(store.lost_classes())
    return (name for uid, name in store.names.items() if uid not in hidden)


def _sources(home: Home, store: Store) -> Iterable[str]:
    del home
    return store.n_by_source()


def _receipts(home: Home, store: Store) -> Iterable[str]:
    from edgecl.unlearning.chain import Chain
    from edgecl.unlearning.receipt import Forgotten

    return [receipt.receipt_id for receipt, _ in Chain(home, store).of(Forgotten)][::-1]


def _snapshots(home: Home, store: Store) -> Iterable[str]:
    from edgecl.store.snapshots import snapshots_of

    del home
    return [f"s{s.uid}" for s in reversed(snapshots_of(store))]


classes = _completing(_classes)
sources = _completing(_sources)
receipts = _completing(_receipts)
snapshots = _completing(_snapshots)
