"""Texts of the store: file names as they are kept, names in them, and JSON."""

from __future__ import annotations

import json
import os
import unicodedata

# One or two letters stand in every path.
_MIN_NAME_IN_TEXT = 3


def holds_name(text: str, name: str) -> bool:
    """Whether a text says a class's name; very short names stand in every path and do not count."""
    return len(name) >= _MIN_NAME_IN_TEXT and name in unicodedata.normalize("NFC", text)


def plain_text(name: str) -> str:
    """Return a file name as the store keeps it; bytes that are not UTF-8 become escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def dump_json(value: object) -> str:
    """Write JSON as receipts hash it: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
