"""A folder of pictures, and a single picture."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgecl.errors import SourceError

from .base import Item, ListSource, read_frame
from .layouts import classes_of, no_classes, unnamed_tries, warnings_of
from .look import look, no_label, other_files, told


class FolderSource(ListSource):
    """A folder with a sub-folder a class, or pictures that lie in it directly.

    Sorted by class, then by file, so it is class-incremental by nature. Pictures in deeper folders
    belong to the first sub-folder. Links are followed. Files that are no pictures by their content
    are counted in `passed_over`, and folders that cannot be read are named in `notes`; pictures
    directly in the folder have no label unless `label` gives one.

    Args:
        folder: The folder.
        label: Class of all pictures, instead of their sub-folder.
        shuffle_seed: Seed of the order, None keeps it.
        max_bytes: Larger files are skipped unread.
        wants_classes: Whether the names of sub-folders matter; then they are looked at.

    Raises:
        SourceError: The folder cannot be read, holds no picture, or its sub-folders are no classes
            (layouts.py).
    """

    def __init__(
        self,
        folder: Path,
        *,
        label: str | None = None,
        shuffle_seed: int | None = None,
        max_bytes: int = 64_000_000,
        wants_classes: bool = True,
    ) -> None:
        found = look(folder)
        is_sorted = wants_classes and label is None
        tries = unnamed_tries(found.pictures) if is_sorted else []
        found.leave_out(tries, "train/")
        if not found.pictures:
            help_ = other_files(folder, found.passed_over)
            what = "; ".join(
                ["", *told(found.passed_over, found.unreadable), *([help_] if help_ else [])]
            )
            raise SourceError(
                f"folder {folder} holds no picture that can be read; expected JPEG, PNG, WebP, "
                f"TIFF, BMP, GIF or PPM files in one sub-folder a class{what}"
            )
        if is_sorted and (
            why := no_classes(str(folder), found.pictures, found.passed_over, found.beside)
        ):
            raise SourceError(f"folder {why}")
        items: list[Item] = []
        for parts in found.pictures:
            own = parts[0] if len(parts) > 1 else None
            read = partial(
                read_frame,
                folder.joinpath(*parts),
                id="/".join(parts),
                label=label if label is not None else own,
                source=str(folder),
                max_bytes=max_bytes,
            )
            items.append(("/".join(parts), read))
        labels = classes_of(found.pictures) if label is None else [label]
        super().__init__(str(folder), items, shuffle_seed=shuffle_seed, labels=labels)
        self.no_label = no_label(str(folder), found)
        self.passed_over = found.passed_over
        self.notes += told(found.passed_over, found.unreadable)
        if tries:
            self.notes.append("train/ holds what Frigate saw and nobody named; it is left out")
        if is_sorted:
            self.notes += warnings_of(str(folder), found.pictures) + found.empty()


class PictureSource(ListSource):
    """One picture file."""

    def __init__(
        self, path: Path, *, label: str | None = None, max_bytes: int = 64_000_000
    ) -> None:
        read = partial(
            read_frame, path, id=str(path), label=label, source=str(path), max_bytes=max_bytes
        )
        super().__init__(str(path), [(str(path), read)], labels=[label])
