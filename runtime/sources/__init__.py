"""Sources of frames, one syntax everywhere: files, standard input, cameras and what the net sends.

`open_source` decides by the text alone and by what lies on disk; `OPENERS` and the lines below it
are the whole list.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from shlex import quote
from typing import Protocol

from edgecl.errors import SourceError, UsageError

from ..formats import kind_of_file
from ..options import Options, Part, split_options
from ..redact import redacted
from .base import PICTURE_SUFFIXES, Source
from .folder import FolderSource, PictureSource
from .frigate import open_frigate
from .gst import open_gst
from .http import open_http
from .idx import IdxSource
from .lines import LinesSource
from .mqtt import open_mqtt
from .opencv import VIDEO_SUFFIXES, VideoSource, open_camera, open_rtsp
from .several import Several
from .synthetic import open_synthetic
from .table import TABLE_SUFFIXES, TableSource
from .viewed import ViewedSource
from .watch import open_watch

__all__ = [
    "PICTURE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Source",
    "is_address",
    "open_several",
    "open_source",
]


class Opener(Protocol):
    """Opens the sources that begin with one prefix."""

    def __call__(self, spec: str, /, *, label: str | None, max_bytes: int) -> Source:
        """Open a source; `SourceError` when it can never be read."""
        ...


OPENERS: dict[str, Opener] = {
    "camera:": open_camera,
    "frigate://": open_frigate,
    "frigates://": open_frigate,
    "gst:": open_gst,
    "http://": open_http,
    "https://": open_http,
    "mqtt://": open_mqtt,
    "mqtts://": open_mqtt,
    "rtmp://": open_rtsp,
    "rtmps://": open_rtsp,
    "rtsp://": open_rtsp,
    "rtsps://": open_rtsp,
    "synthetic:": open_synthetic,
    "watch:": open_watch,
}

SYNTAX = (
    "a folder with a sub-folder a class, a .csv, .tsv or .jsonl table with path,label, an IDX pair "
    "(images.gz,labels.gz), a picture, a video file, camera:N or camera:/dev/videoN, "
    "rtsp://HOST/PATH (also rtsps, rtmp, rtmps), http://HOST/PATH (MJPEG or one picture), "
    "gst:PIPELINE, watch:DIR, mqtt://HOST/TOPIC, frigate://HOST, synthetic:, or - for JSON lines "
    "on stdin"
)


_DATASETS = (".zip", ".tm", ".json")


def is_address(spec: str) -> bool:
    """Whether a source is named by a prefix of `OPENERS`, so that it is no path and not `-`."""
    return _opener(spec) is not None


def _opener(spec: str) -> Opener | None:
    found = (opener for prefix, opener in OPENERS.items() if spec.lower().startswith(prefix))
    return next(found, None)


def open_source(
    spec: str,
    *,
    label: str | None = None,
    shuffle_seed: int | None = None,
    max_bytes: int = 64_000_000,
    wants_classes: bool = True,
    headers: Mapping[str, str] | None = None,
) -> Source:
    """Open a source of frames; a live one connects when its first frame is asked for.

    Args:
        spec: The source as the user names it, with options of ours (options.py) behind a `?`.
        label: Class of all its frames, instead of what the source says.
        shuffle_seed: Visit the frames in the random order of this seed; None keeps the order.
        max_bytes: Larger files and pictures are skipped unread.
        wants_classes: Whether the names of a folder's sub-folders matter, so that splits and parts
            of a dataset are refused; not for who only predicts.
        headers: Sent with every request of an HTTP source; an error with another one.

    Raises:
        SourceError: Nothing there, or nothing that edgecl can read.
        UsageError: A source that cannot be shuffled, headers for one that takes none, or an option
            that cannot be meant.
        MissingPackageError: A package that this kind of source needs is not installed.
    """
    base, options = (spec, Options()) if os.path.lexists(spec) else split_options(spec)
    source = _open(base, label, shuffle_seed, max_bytes, wants_classes, headers)
    return ViewedSource(source, options) if options else source


def open_several(
    parts: Sequence[Part],
    *,
    label: str | None = None,
    max_bytes: int = 64_000_000,
    notes: Sequence[str] = (),
) -> Source:
    """Open several live sources as one; parts of one camera share its connection.

    Args:
        parts: The sources.
        label: Class of all frames, instead of what the parts say.
        max_bytes: Larger pictures are skipped.
        notes: What a person should know beside what the sources say.

    Raises:
        UsageError: An address that cannot be meant, or one of a source that is not live.
        SourceError: None of them can be opened.
    """
    return Several(
        [part if label is None else replace(part, label=label) for part in parts],
        lambda url: open_source(url, max_bytes=max_bytes),
        notes,
    )


def _open(
    spec: str,
    label: str | None,
    shuffle_seed: int | None,
    max_bytes: int,
    wants_classes: bool,
    headers: Mapping[str, str] | None,
) -> Source:
    opener = _opener(spec)
    is_frigate = opener is open_frigate
    if headers and opener is not open_http and not is_frigate:
        raise UsageError(
            f"a header file is for http:// and https:// sources, and Frigate; {redacted(spec)} is "
            "none"
        )
    if spec == "-":
        return LinesSource(label=label, shuffle_seed=shuffle_seed, max_bytes=max_bytes)
    if opener is not None:
        if shuffle_seed is not None:
            raise UsageError(f"source {redacted(spec)} is live and cannot be shuffled")
        if headers:
            open_with = open_frigate if is_frigate else open_http
            return open_with(spec, label=label, max_bytes=max_bytes, headers=headers)
        return opener(spec, label=label, max_bytes=max_bytes)
    return _open_local(spec, label, shuffle_seed, max_bytes, wants_classes)


def _open_local(
    spec: str, label: str | None, shuffle_seed: int | None, max_bytes: int, wants_classes: bool
) -> Source:
    """Open what lies on disk."""
    if not spec.strip():
        raise SourceError(
            f"the source is empty; name one (. is this folder), or look at the variable: {SYNTAX}"
        )
    path = Path(spec) if os.path.lexists(spec) else Path(os.path.expanduser(spec))
    if path.is_dir():
        return FolderSource(
            path,
            label=label,
            shuffle_seed=shuffle_seed,
            max_bytes=max_bytes,
            wants_classes=wants_classes,
        )
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix in TABLE_SUFFIXES:
            return TableSource(path, label=label, shuffle_seed=shuffle_seed, max_bytes=max_bytes)
        if suffix in PICTURE_SUFFIXES or kind_of_file(path):
            return PictureSource(path, label=label, max_bytes=max_bytes)
        if suffix in VIDEO_SUFFIXES:
            if shuffle_seed is not None:
                raise UsageError(f"video {spec} cannot be shuffled; its frames come in order")
            return VideoSource(path, label=label)
        hint = f"`edgecl import {quote(spec)}` may know it; " if suffix in _DATASETS else ""
        raise SourceError(
            f"source {spec} is a {path.suffix or 'nameless'} file; {hint}expected {SYNTAX}"
        )
    if "," in spec and "://" not in spec:
        images, _, labels = spec.partition(",")
        return IdxSource(Path(images), Path(labels), label=label, shuffle_seed=shuffle_seed)
    raise SourceError(f"source {redacted(spec)} {_missing(spec)}")


def _missing(spec: str) -> str:
    """Return what helps where nothing is at a path."""
    plain = spec.strip(" '\"\n")
    others = [plain, plain.replace("\\", "/"), plain.lstrip("/"), plain.removeprefix("file://")]
    near = next((p for p in dict.fromkeys(others) if p != spec and os.path.lexists(p)), None)
    if re.fullmatch(r"(?:/dev/video)?\d+", plain):
        near = f"camera:{plain}"
    elif near is None and os.path.lexists(spec):
        return "is no file and no folder"
    elif near is None and re.search(r"[*?\[]", spec):
        return "does not exist, and patterns are not read; name the folder"
    elif near is None and (folder := Path(spec).parent).is_dir() and os.access(folder, os.R_OK):
        names = get_close_matches(Path(spec).name, os.listdir(folder), n=1)
        near = str(folder / names[0]) if names else None
    found = f"did you mean {quote(near)}?" if near else f"expected {SYNTAX}"
    return f"does not exist; {found}"
