"""Texts of the store: file names as they are kept, names in them, and JSON."""

from __future__ import annotations

import json
import os
import unicodedata
from urllib.parse import unquote

# One or two letters stand in every path.
_MIN_NAME_IN_TEXT = 3


def holds_name(text: str, name: str) -> bool:
    """Whether a text says a class's name, in letters of any case or as an address escapes it.

    Very short names stand in every path and do not count.
    """
    found = folded(name)
    return len(name) >= _MIN_NAME_IN_TEXT and (
        found in folded(text) or ("%" in text and found in folded(unquote(text)))
    )


def folded(text: str) -> str:
    """Return a text as it is compared, in letters of one case and one form."""
    if text.isascii():  # as most of a million names of frames are
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def name_bytes(name: str) -> bytes:
    """Return the bytes of a file name; half a character, which JSON can hold, by its code."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogatepass")


def plain_text(name: str) -> str:
    """Return a file name as the store keeps it; bytes that are not UTF-8 become escapes."""
    return name_bytes(name).decode("utf-8", "backslashreplace")


def dump_json(value: object) -> str:
    """Write JSON as receipts hash it: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
