"""A folder of pictures, and a single picture."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edgecl.errors import SourceError
from edgecl.types import Frame, Skipped

from .base import PICTURE_SUFFIXES, ListSource, read_frame


class FolderSource(ListSource):
    """A folder with a sub-folder a class, or pictures that lie in it directly.

    Sorted by class, then by file, so it is class-incremental by nature. Pictures in deeper folders
    belong to the first sub-folder. Links are followed. Hidden files and files of other kinds are
    passed over; pictures directly in the folder have no label unless `label` gives one.

    Raises:
        SourceError: The folder cannot be read or holds no picture.
    """

    def __init__(
        self,
        folder: Path,
        *,
        label: str | None = None,
        shuffle_seed: int | None = None,
        max_bytes: int = 64_000_000,
    ) -> None:
        found = pictures(folder)
        if not found:
            raise SourceError(
                f"folder {folder} holds no picture; expected {', '.join(sorted(PICTURE_SUFFIXES))} "
                "files in one sub-folder a class"
            )
        items: list[tuple[str, Callable[[], Frame | Skipped]]] = []
        for parts in found:
            own = parts[0] if len(parts) > 1 else None
            name = "/".join(parts)
            read = partial(
                read_frame,
                folder.joinpath(*parts),
                id=name,
                label=label if label is not None else own,
                source=str(folder),
                max_bytes=max_bytes,
            )
            items.append((name, read))
        super().__init__(str(folder), items, shuffle_seed=shuffle_seed)


class PictureSource(ListSource):
    """One picture file."""

    def __init__(
        self, path: Path, *, label: str | None = None, max_bytes: int = 64_000_000
    ) -> None:
        read = partial(
            read_frame, path, id=str(path), label=label, source=str(path), max_bytes=max_bytes
        )
        super().__init__(str(path), [(str(path), read)])


def pictures(folder: Path) -> list[tuple[str, ...]]:
    """Return the pictures of a folder as parts of their paths in it, sorted.

    Raises:
        SourceError: A folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise SourceError(f"folder {error.filename} cannot be read ({error.strerror})") from error

    found = []
    for where, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        here = os.path.realpath(where) + os.sep
        # A link back to a folder on the way would never end.
        folders[:] = sorted(
            f
            for f in folders
            if not f.startswith(".") and not here.startswith(os.path.realpath(here + f) + os.sep)
        )
        base = Path(where).relative_to(folder).parts
        for file in files:
            if not file.startswith(".") and Path(file).suffix.lower() in PICTURE_SUFFIXES:
                found.append((*base, file))
    return sorted(found)
