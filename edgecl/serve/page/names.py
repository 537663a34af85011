"""Names of classes that come from pages."""

from __future__ import annotations

from edgecl.device import Device
from edgecl.serve.page.context import Context, Refusal
from edgecl.session import open_store
from edgecl.types import alike, clean_label


async def checked_name(context: Context, given: str, *, is_new: bool, of: str | None = None) -> str:
    """Return the name of a class as it is learned; of an alias the class's own.

    Args:
        context: The page.
        given: What came.
        is_new: Whether a new name that looks like a known one is meant.
        of: Name of the class that shall have it, whose names it may look like.

    Raises:
        Refusal: It is new and looks like a known one, and is not said to be meant.
        UnknownClassError: There is no class `of`.
        UsageError: It cannot be a name.
    """
    name = clean_label(given)

    def find(device: Device) -> tuple[str, str | None, bool]:
        with open_store(device.home, read_only=True) as store:
            own = () if of is None else store.names_of(store.class_uid(of))
            if store.has_class(name):
                return store.canonical(name) if of is None else name, None, True
            return name, alike(name, store.aliases().keys() - {*own}), False

    found, near, is_known = await context.read(find)
    if near is not None and not is_new:
        sentence = f"class {name!r} is new and looks like {near!r}, which is known; which is meant?"
        raise Refusal(409, sentence, {"alike": near}, code=2)
    if not is_known:
        context.serving.meant.add(found)
    return found
