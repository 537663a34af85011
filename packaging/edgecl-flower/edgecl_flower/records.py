"""Listings and files as records of a message; what comes out of one is checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from edgecl_flower.files import MOST_FILES, File, Refused, read

_STYPE = "edgecl.file"


def texts(content: RecordDict, key: str) -> list[str]:
    """Take a list of texts out of the record `list` of a message.

    Raises:
        Refused: It is none, or too long.
    """
    found = content.config_records.get("list", ConfigRecord()).get(key)
    if not isinstance(found, list) or len(found) > MOST_FILES:
        raise Refused(f"a message has no list {key!r}")
    return [str(text) for text in found]


def put_files(content: RecordDict, folder: Path, files: Iterable[File], limit: int) -> list[str]:
    """Put files into a message; return why some are not, in words."""
    arrays, refused = {}, []
    for file in files:
        try:
            data = read(folder, file.name, limit)
        except (Refused, OSError) as error:
            refused.append(str(error))
        else:
            arrays[file.name] = Array("uint8", (len(data),), _STYPE, data)
    content["files"] = ArrayRecord(arrays)
    return refused


def files_in(content: RecordDict) -> Iterator[tuple[str, bytes]]:
    """Go through the files in a message."""
    for name, array in content.array_records.get("files", ArrayRecord()).items():
        yield name, array.data
