"""What is checked of a source before anything of it is learned."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING

from edgecl.cli.output import say

if TYPE_CHECKING:
    from edgecl.runtime.sources import Source
    from edgecl.store.store import Store


def check_labels(source: Source) -> None:
    """Check that something of a source that can be read beforehand has a label.

    Raises:
        SourceError: Nothing has.
    """
    from edgecl.errors import SourceError

    if source.class_names is not None and not source.class_names:
        raise SourceError(
            f"none of the {len(source)} frames of {source.name} has a label: {source.no_label}"
        )


def tell_notes(source: Source) -> None:
    """Say what a source passes over and what in it may not be meant."""
    for note in source.notes:
        say(note)


def check_names(store: Store, source: Source, label: str | None, *, is_new: bool) -> None:
    """Check that new class names are not easily confused with known ones, or with each other.

    Args:
        store: The open store.
        source: What will be learned.
        label: Class of all its frames, if one is given.
        is_new: Whether new classes with such names are meant.

    Raises:
        UsageError: One looks like a known one, and `is_new` is off.
    """
    from edgecl.errors import UsageError
    from edgecl.types import alike, clean_label

    names: list[str] = []
    for given in (label,) if label is not None else source.class_names or ():
        with suppress(UsageError):  # skipped and named when its turn comes
            names.append(clean_label(given))
    names = [name for name in dict.fromkeys(names) if not store.has_class(name)]
    for i, name in enumerate(names):
        check_new_name(store, name, is_new=is_new)
        if near := alike(name, names[:i]):
            say(f"the classes {near!r} and {name!r} look alike; both are learned")


def check_new_name(
    store: Store, name: str, *, is_new: bool, of: Collection[str] = frozenset()
) -> None:
    """Check that a class name that is not known yet is not easily confused with a known one.

    Args:
        store: The open store.
        name: The name, as `clean_label` returns it.
        is_new: Whether such a name is meant.
        of: Names of the class that shall have it, which it may look like.

    Raises:
        UsageError: It looks like a known one, and `is_new` is off.
    """
    from edgecl.errors import UsageError
    from edgecl.types import alike

    if is_new or store.has_class(name):
        return
    if near := alike(name, store.aliases().keys() - of):
        raise UsageError(
            f"class {name!r} is new and looks like {near!r}, which is known; did you mean {near}? "
            "--new takes it as another class"
        )
