"""Headers that a source is asked with, from a file: a token stands in no list of processes.

One `Name: value` a line; empty lines and lines that begin with # are passed over.
"""

from __future__ import annotations

import re
from pathlib import Path

from edgecl.errors import SourceError

from ..faults import in_words

_MAX_BYTES = 65_536
_NAME = re.compile(r"[!#$%&'*+.^_`|~\w-]{1,100}", re.ASCII)
# What belongs to a request itself.
_OURS = frozenset({"host", "connection", "content-length", "transfer-encoding", "accept-encoding"})


def read_headers(path: Path) -> dict[str, str]:
    """Read a file of headers; no message shows a value.

    Raises:
        SourceError: It cannot be read, or a line is no header.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SourceError(f"header file {path} cannot be read {in_words(error)}") from error
    if len(data) > _MAX_BYTES:
        raise SourceError(f"header file {path} has more than {_MAX_BYTES} bytes")
    headers = {}
    for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, value = line.partition(":")
        name, value = name.strip().title(), value.strip()
        is_text = value.isascii() and value.isprintable() and bool(value)
        if not colon or not _NAME.fullmatch(name) or not is_text:
            raise SourceError(
                f"line {number} of header file {path} is no header; expected Name: value, as in "
                "Authorization: Bearer TOKEN"
            )
        if name.lower() in _OURS:
            raise SourceError(f"line {number} of header file {path}: {name} cannot be set")
        headers[name] = value
    if not headers:
        raise SourceError(f"header file {path} is empty; expected lines of the form Name: value")
    return headers
