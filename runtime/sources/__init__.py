"""Sources of frames, one syntax everywhere: folder, table, IDX pair, single picture, stdin.

`open_source` decides by the text alone and by what lies on disk; the table below is the whole list.
"""

from __future__ import annotations

from pathlib import Path

from edgecl.errors import SourceError, UsageError

from ..redact import redacted
from .base import PICTURE_SUFFIXES, Source
from .folder import FolderSource, PictureSource
from .idx import IdxSource
from .lines import LinesSource
from .mqtt import open_mqtt
from .synthetic import open_synthetic
from .table import TableSource
from .watch import open_watch

__all__ = ["PICTURE_SUFFIXES", "Source", "open_source"]

OPENERS = {
    "mqtt://": open_mqtt,
    "mqtts://": open_mqtt,
    "synthetic:": open_synthetic,
    "watch:": open_watch,
}

SYNTAX = (
    "a folder with a sub-folder a class, a .csv or .jsonl table with path,label, an IDX pair "
    "(images.gz,labels.gz), a picture, or - for JSON lines on stdin"
)


def open_source(
    spec: str,
    *,
    label: str | None = None,
    shuffle_seed: int | None = None,
    max_bytes: int = 64_000_000,
) -> Source:
    """Open a source of frames.

    Args:
        spec: The source as the user names it.
        label: Class of all its frames, instead of what the source says.
        shuffle_seed: Visit the frames in the random order of this seed; None keeps the order.
        max_bytes: Larger files are skipped unread.

    Raises:
        SourceError: Nothing there, or nothing that edgecl can read.
        UsageError: A source that cannot be shuffled.
    """
    if spec == "-":
        return LinesSource(label=label, shuffle_seed=shuffle_seed, max_bytes=max_bytes)
    for prefix, opener in OPENERS.items():
        if spec.lower().startswith(prefix):
            if shuffle_seed is not None:
                raise UsageError(f"source {redacted(spec)} is live and cannot be shuffled")
            return opener(spec, label=label, max_bytes=max_bytes)
    path = Path(spec)
    if path.is_dir():
        return FolderSource(path, label=label, shuffle_seed=shuffle_seed, max_bytes=max_bytes)
    if path.is_file():
        if path.suffix.lower() in {".csv", ".jsonl"}:
            return TableSource(path, label=label, shuffle_seed=shuffle_seed, max_bytes=max_bytes)
        if path.suffix.lower() in PICTURE_SUFFIXES:
            return PictureSource(path, label=label, max_bytes=max_bytes)
        raise SourceError(f"source {spec} is a {path.suffix or 'nameless'} file; expected {SYNTAX}")
    if "," in spec:
        images, _, labels = spec.partition(",")
        return IdxSource(Path(images), Path(labels), label=label, shuffle_seed=shuffle_seed)
    raise SourceError(f"source {spec} does not exist; expected {SYNTAX}")
